package p2p

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// TCP stands in where UDP doesn't pass. Who connects proves the network key in
// the first 32 bytes, before the other side writes one:
//
//	0–15   a head, as of a datagram (door.go)
//	16–31  tag of nothing, ChaCha20-Poly1305; byte 0 of the associated data is
//	       doorTCP, which isn't sent
//
// So the proof is fresh as datagrams are, and looks random. libp2p takes over
// behind it, with TLS in both directions. Without a good proof the connection
// is reset: after its 32nd byte, or after proofTimeout.
const (
	doorTCP = 2

	proofLen     = sealOverhead - 1
	proofTimeout = 5 * time.Second

	// maxUnproved is how many connections may wait: for their proof, which
	// members send at once, and until libp2p takes them. Beyond, the one that
	// came first is reset. So is the first one of an address, or of an IPv6 /64,
	// beyond maxUnprovedPerAddr: one stranger doesn't keep members out.
	maxUnproved        = 128
	maxUnprovedPerAddr = 16

	// acceptAgain is the wait after a failure to accept, for lack of file
	// descriptors most likely.
	acceptAgain = 100 * time.Millisecond
)

// proofBy returns what opens a TCP connection.
func (d *door) proofBy(k *doorKey) []byte { return d.sealBy(k, nil, doorTCP, nil)[1:] }

// proves says of which key b is a fresh proof; nil if it is none.
func (d *door) proves(b []byte) *doorKey {
	sealed := append([]byte{doorTCP}, b...)
	_, by := d.unseal(nil, doorTCP, sealed, new([sealHead]byte))
	return by
}

// A lobby is a TCP listener whose connections have proved the network key. It
// implements manet.Listener.
type lobby struct {
	net.Listener
	door   *door
	at     ma.Multiaddr
	spawn  func(func()) bool
	proved chan manet.Conn
	done   chan struct{} // closed by Close

	mu      sync.Mutex
	waiting []net.Conn // for Accept, in the order in which they came
	closed  bool
}

// newLobby makes the lobby of a listener. Its owner runs run; spawn runs what
// waits for proofs, at most maxUnproved functions.
func newLobby(l net.Listener, d *door, spawn func(func()) bool) (*lobby, error) {
	at, err := manet.FromNetAddr(l.Addr())
	return &lobby{
		Listener: l, door: d, at: at, spawn: spawn,
		proved: make(chan manet.Conn), done: make(chan struct{}),
	}, err
}

// run takes in connections until Close.
func (l *lobby) run() {
	for {
		c, err := l.Listener.Accept()
		switch {
		case err == nil:
			if !l.admit(c) || !l.spawn(func() { l.prove(c) }) {
				reset(c)
			}
		case errors.Is(err, net.ErrClosed):
			return
		default:
			select {
			case <-l.done:
				return
			case <-time.After(acceptAgain):
			}
		}
	}
}

// admit lets c wait for its proof, and resets whom it displaces.
func (l *lobby) admit(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	same, first := 0, -1
	for i, w := range l.waiting {
		if site(w) == site(c) {
			if same++; first < 0 {
				first = i
			}
		}
	}
	switch {
	case same >= maxUnprovedPerAddr:
		reset(l.waiting[first])
		l.waiting = slices.Delete(l.waiting, first, first+1)
	case len(l.waiting) >= maxUnproved:
		reset(l.waiting[0])
		l.waiting = slices.Delete(l.waiting, 0, 1)
	}
	l.waiting = append(l.waiting, c)
	return true
}

// site returns the address or network that shares maxUnprovedPerAddr with c.
func site(c net.Conn) netip.Prefix {
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	addr := a.AddrPort().Addr().Unmap().WithZone("")
	p, _ := addr.Prefix(min(addr.BitLen(), 64))
	return p
}

// leave ends c's stay.
func (l *lobby) leave(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiting, c); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
}

// prove reads c's proof, and hands c to Accept if it is good.
func (l *lobby) prove(c net.Conn) {
	defer l.leave(c)
	var b [proofLen]byte
	err := c.SetReadDeadline(time.Now().Add(proofTimeout))
	if err == nil {
		_, err = io.ReadFull(c, b[:])
	}
	if err != nil {
		l.door.strangers.Add(1)
		reset(c)
		return
	}
	if by := l.door.proves(b[:]); by == nil || !l.door.bind(c, by) {
		reset(c)
		return
	}
	l.hand(c)
}

// hand gives a member's connection to Accept. libp2p takes it at once, unless
// it has more to do than it can; then it is reset after a while.
func (l *lobby) hand(c net.Conn) {
	m, err := manet.WrapNetConn(c)
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	if err != nil {
		reset(c)
		return
	}
	timeout := time.NewTimer(proofTimeout)
	defer timeout.Stop()
	select {
	case l.proved <- m:
	case <-l.done:
		reset(c)
	case <-timeout.C:
		reset(c)
	}
}

// Accept returns the next connection of a member, or net.ErrClosed.
func (l *lobby) Accept() (manet.Conn, error) {
	select {
	case c := <-l.proved:
		linger(c)
		hurry(c)
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Multiaddr returns where it listens.
func (l *lobby) Multiaddr() ma.Multiaddr { return l.at }

// Close closes the listener and resets what waits. Called again it does nothing.
func (l *lobby) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	close(l.done)
	for _, c := range l.waiting {
		reset(c)
	}
	l.waiting = nil
	return l.Listener.Close()
}

// reset closes c at once and leaves nothing of it to the kernel, whatever was
// received or read.
func reset(c net.Conn) {
	linger(c)
	_ = c.Close()
}

// linger makes the end of c a reset.
func linger(c net.Conn) {
	if t, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = t.SetLinger(0)
	}
}
