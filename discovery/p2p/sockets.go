package p2p

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
)

// sealBuffer is as long as any datagram that quic-go may take, 1,452 bytes,
// sealed; longer ones are cut, don't open, and are dropped.
const sealBuffer = 2048

// A doorConn is a UDP socket behind the door. It hides the socket's other
// methods from quic-go on purpose: with them it would read and write past the
// door.
type doorConn struct {
	net.PacketConn
	plain plainReader // of PacketConn; nil: it has none
	door  *door
	in    [sealBuffer]byte // quic-go reads in one goroutine
	head  [sealHead]byte   // for door.open
	out   sync.Pool        // of *[]byte, for writers
}

// A plainReader reads as net.PacketConn does, without making garbage: who floods a
// socket with what doesn't open shall not keep the collector busy.
type plainReader interface {
	ReadFromAddrPort(p []byte) (int, netip.AddrPort, error)
}

func newDoorConn(c net.PacketConn, d *door) *doorConn {
	plain, _ := c.(plainReader)
	return &doorConn{
		plain:      plain,
		PacketConn: c,
		door:       d,
		out:        sync.Pool{New: func() any { b := make([]byte, 0, sealBuffer); return &b }},
	}
}

// ReadFrom reads the next datagram of a member into p. It is for one goroutine.
func (c *doorConn) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.read()
		if err != nil {
			return 0, nil, err
		}
		if n > 0 && c.in[0] == doorKnock {
			c.knocked(c.in[:n], from)
			continue
		}
		if n-sealOverhead > len(p) {
			c.door.strangers.Add(1)
			continue
		}
		if b, by := c.door.unseal(p[:0], doorUDP, c.in[:n], &c.head); by != nil {
			c.door.note(from, by)
			return len(b), net.UDPAddrFromAddrPort(from), nil
		}
	}
}

// read reads the next datagram into in.
func (c *doorConn) read() (int, netip.AddrPort, error) {
	if c.plain != nil {
		return c.plain.ReadFromAddrPort(c.in[:])
	}
	n, from, err := c.PacketConn.ReadFrom(c.in[:])
	if a, ok := from.(*net.UDPAddr); ok {
		return n, endpoint(a), err
	}
	return n, netip.AddrPort{}, err
}

// WriteTo seals and sends b, several times while it isn't known which key opens it
// there: QUIC takes it once. The current key comes last, so that it is the one that
// who knows several heard last.
func (c *doorConn) WriteTo(b []byte, to net.Addr) (int, error) {
	buf := c.out.Get().(*[]byte)
	defer c.out.Put(buf)
	for _, k := range slices.Backward(c.door.keysTo(to)) {
		*buf = c.door.sealBy(k.doorKey, (*buf)[:0], doorUDP, b)
		if _, err := c.PacketConn.WriteTo(*buf, to); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// SetReadBuffer leaves the buffer as the socket's owner made it. quic-go wants
// the method and prints a warning without it.
func (c *doorConn) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does as SetReadBuffer.
func (c *doorConn) SetWriteBuffer(int) error { return nil }

// family returns "udp4" or "udp6".
func (c *doorConn) family() string {
	if c.LocalAddr().(*net.UDPAddr).IP.To4() != nil {
		return "udp4"
	}
	return "udp6"
}

// doors are the sockets behind the door: UDP sockets, at most one of each
// family, and TCP listeners.
type doors struct {
	door       *door
	udp4, udp6 *doorConn
	lobbies    []*lobby
}

// openDoors puts a node's sockets and listeners behind its door.
func openDoors(cfg Config, spawn func(func()) bool) (doors, error) {
	d, err := newDoor(cfg.Network.ControlKey(), cfg.Clock)
	if err != nil {
		return doors{}, err
	}
	d.knock = cfg.Knocked
	ds, err := newDoors(cfg.Sockets, d)
	if err != nil {
		return doors{}, err
	}
	for _, l := range cfg.Listeners {
		if _, ok := l.Addr().(*net.TCPAddr); !ok {
			return doors{}, fmt.Errorf("listener %v is not a TCP listener", l.Addr())
		}
		lobby, err := newLobby(l, d, spawn)
		if err != nil {
			return doors{}, fmt.Errorf("listener %v: %w", l.Addr(), err)
		}
		ds.lobbies = append(ds.lobbies, lobby)
	}
	return ds, nil
}

// newDoors puts sockets behind a door.
func newDoors(sockets []net.PacketConn, d *door) (doors, error) {
	ds := doors{door: d}
	for _, s := range sockets {
		addr, ok := s.LocalAddr().(*net.UDPAddr)
		if !ok {
			return doors{}, fmt.Errorf("socket %v is not a UDP socket", s.LocalAddr())
		}
		slot := &ds.udp6
		if addr.IP.To4() != nil {
			slot = &ds.udp4
		}
		if *slot != nil {
			return doors{}, fmt.Errorf("two sockets of one address family: %v and %v", (*slot).LocalAddr(), addr)
		}
		*slot = newDoorConn(s, d)
	}
	if len(ds.all()) == 0 {
		return doors{}, errors.New("no socket")
	}
	return ds, nil
}

func (ds doors) all() []*doorConn {
	var out []*doorConn
	for _, c := range []*doorConn{ds.udp4, ds.udp6} {
		if c != nil {
			out = append(out, c)
		}
	}
	return out
}

// of returns the socket of a family, "udp4" or "udp6".
func (ds doors) of(network string) (*doorConn, error) {
	switch {
	case network == "udp4" && ds.udp4 != nil:
		return ds.udp4, nil
	case network == "udp6" && ds.udp6 != nil:
		return ds.udp6, nil
	}
	return nil, noSocket(network)
}

func noSocket(network string) error { return fmt.Errorf("no %s socket", network) }

func (ds doors) close() error {
	var errs []error
	for _, l := range ds.lobbies {
		errs = append(errs, l.Close())
	}
	for _, c := range ds.all() {
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
