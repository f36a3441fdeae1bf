package p2p

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/sys/unix"

	"farlan/discovery"
	"farlan/overlay"
)

// A deadConn is a UDP socket in a network that lets no UDP pass.
type deadConn struct{ net.PacketConn }

func (c deadConn) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		if n, from, err := c.PacketConn.ReadFrom(p); err != nil {
			return n, from, err
		}
	}
}

func (c deadConn) WriteTo(b []byte, _ net.Addr) (int, error) { return len(b), nil }

// port returns a UDP socket and a TCP listener on one port.
func port(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 100 {
		u := udp(t)
		l, err := net.Listen("tcp4", u.LocalAddr().String())
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
			return u, l
		}
		_ = u.Close()
	}
	t.Fatal("no free port")
	return nil, nil
}

// startTCP starts an agent with a TCP listener; dead makes its UDP dead.
func startTCP(t *testing.T, network discovery.NetworkKey, i int, dead bool, seeds ...Seed) *agent {
	t.Helper()
	u, l := port(t)
	if dead {
		u = deadConn{u}
	}
	return startWith(t, network, i, []net.PacketConn{u}, func(c *Config) {
		c.Listeners, c.Bootstrap = []net.Listener{l}, seeds
	})
}

// Agents whose UDP doesn't pass meet by TCP, find the others through the first,
// and exchange messages.
func TestMeetByTCP(t *testing.T) {
	a := startTCP(t, testNetwork(1), 0, true)
	a.SetServer(true)
	began := time.Now()
	b := startTCP(t, testNetwork(1), 1, true, a.seed)
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	t.Logf("joined after %v", time.Since(began).Round(time.Millisecond))
	big := strings.Repeat("x", discovery.MaxMessage)
	b.Send(a.self, []byte("hello"))
	a.Send(b.self, []byte(big))
	eventually(t, 5*time.Second, "messages pass", func() bool {
		return a.got(b.self.Short()+": hello") && b.got(a.self.Short()+": "+big)
	})
	if from, ok := b.RemoteAddr(a.self); !ok || from != a.seed.Addr {
		t.Errorf("connected to %v, want %v", from, a.seed.Addr)
	}
	if a.Transport(b.self) != TCP || b.Transport(a.self) != TCP || a.Transport(overlay.AgentID{1}) != "" {
		t.Errorf("by %q and %q", a.Transport(b.self), b.Transport(a.self))
	}
	c := startTCP(t, testNetwork(1), 2, true, a.seed)
	eventually(t, 20*time.Second, "all have found each other", everybodyKnows([]*agent{a, b, c}))
	b.Disconnect(c.self)
	eventually(t, 5*time.Second, "the end is told", func() bool { return c.was("-" + b.self.Short()) })
	if s := a.Counters(); s.Strangers+s.Replays+s.Untimely != 0 {
		t.Errorf("members are dropped: %+v", s)
	}
}

// Who has moved ends its connections by TCP, whoever opened them: they can't follow. The
// other side doesn't hear of it, perhaps, and gives up by itself.
func TestTCPCannotMove(t *testing.T) {
	for name, dials := range map[string]bool{"who dialled": true, "who was dialled": false} {
		a := startTCP(t, testNetwork(1), 0, true)
		b := startTCP(t, testNetwork(1), 1, true, a.seed)
		eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
		mover, other := a, b
		if dials {
			mover, other = b, a
		}
		mover.Moved()
		eventually(t, 2*time.Second, name+" has ended it", func() bool { return mover.was("-" + other.self.Short()) })
	}
	c, err := net.DialTCP("tcp4", nil, func() *net.TCPAddr { _, l := port(t); return l.Addr().(*net.TCPAddr) }())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hurry(c)
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		if ms, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err != nil || time.Duration(ms)*time.Millisecond != deafAfter {
			t.Errorf("given up after %d ms, %v", ms, err)
		}
	})
}

// Where UDP passes, TCP isn't used.
func TestPreferQUIC(t *testing.T) {
	a := startTCP(t, testNetwork(1), 0, false)
	b := startTCP(t, testNetwork(1), 1, false, a.seed)
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	if a.Transport(b.self) != QUIC || b.Transport(a.self) != QUIC || len(a.host.Network().Conns()) != 1 {
		t.Errorf("by %q and %q, %d connections", a.Transport(b.self), b.Transport(a.self), len(a.host.Network().Conns()))
	}
}

func TestRank(t *testing.T) {
	at := func(s string) ma.Multiaddr {
		m, err := ma.NewMultiaddr(s)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	var addrs []ma.Multiaddr
	for i := range 6 {
		addrs = append(addrs, at(fmt.Sprintf("/ip4/11.0.0.%d/tcp/1", i)), at(fmt.Sprintf("/ip4/11.0.0.%d/udp/1/quic-v1", i)))
	}
	early := 0
	for _, d := range rank(addrs, headStart) {
		_, by, _ := addrPort(d.Addr)
		if by == TCP && d.Delay < headStart {
			t.Errorf("%v is dialled after %v", d.Addr, d.Delay)
		}
		if by == QUIC && d.Delay <= headStart {
			early++
		}
	}
	if early != quicFirst {
		t.Errorf("%d are dialled by QUIC first, want %d", early, quicFirst)
	}
	if only := rank([]ma.Multiaddr{at("/ip4/11.0.0.1/tcp/1")}, headStart); len(only) != 1 || only[0].Delay != 0 {
		t.Errorf("TCP alone waits: %v", only)
	}
}

// The errors of dials by TCP tell as much as those by QUIC.
func TestWrongSeedByTCP(t *testing.T) {
	a := startTCP(t, testNetwork(1), 0, true)
	other := overlay.AgentID(testKey(7).Public().(ed25519.PublicKey))
	x := startTCP(t, testNetwork(1), 1, true)
	err := x.Dial(context.Background(), other, []netip.AddrPort{a.seed.Addr})
	if want := "there is another agent, " + a.self.String(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("dial: %v, want %q", err, want)
	}
	y := startTCP(t, testNetwork(2), 2, true)
	err = y.Dial(context.Background(), a.self, []netip.AddrPort{a.seed.Addr})
	if err == nil || !strings.Contains(err.Error(), "same network key") {
		t.Errorf("dial: %v", err)
	}
	if a.Joined() || a.Counters().Strangers == 0 {
		t.Errorf("joined %v, %d strangers", a.Joined(), a.Counters().Strangers)
	}
}

// A wire passes TCP connections on and keeps what their callers say.
type wire struct {
	net.Listener
	mu    sync.Mutex
	said  bytes.Buffer
	local net.Addr // the address that the last call was passed on from
}

func (w *wire) run(to string) {
	for {
		c, err := w.Accept()
		if err != nil {
			return
		}
		d, err := net.Dial("tcp4", to)
		if err != nil {
			_ = c.Close()
			continue
		}
		w.mu.Lock()
		w.said.Reset()
		w.local = d.LocalAddr()
		w.mu.Unlock()
		go func() { _, _ = io.Copy(c, d); _ = c.Close() }()
		go func() { _, _ = io.Copy(io.MultiWriter(d, w), c); reset(d) }()
	}
}

func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said.Write(b)
}

// call connects, from a certain address if there is one, says something, and
// returns what it is answered until the end.
func call(from net.Addr, to netip.AddrPort, say []byte) (answer []byte, err error) {
	c, err := (&net.Dialer{LocalAddr: from, Timeout: 5 * time.Second}).Dial("tcp4", to.String())
	if err != nil {
		return nil, err
	}
	defer reset(c)
	_ = c.SetDeadline(time.Now().Add(2 * proofTimeout))
	if _, err = c.Write(say); err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		return nil, err
	}
	answer, err = io.ReadAll(c)
	if errors.Is(err, syscall.ECONNRESET) {
		err = nil
	}
	return answer, err
}

// hello returns the first bytes of a TLS connection.
func hello(t *testing.T) []byte {
	t.Helper()
	a, b := net.Pipe()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: "example.com", NextProtos: []string{"libp2p"}}).Handshake()
	}()
	defer a.Close()
	defer b.Close()
	buf := make([]byte, 4096)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// What a member said gets nothing when anybody says it again.
func TestReplayByTCP(t *testing.T) {
	a := startTCP(t, testNetwork(1), 0, true)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l}
	done := make(chan struct{})
	go func() { defer close(done); w.run(a.seed.Addr.String()) }()
	defer func() { _ = l.Close(); <-done }()
	b := startTCP(t, testNetwork(1), 1, true, Seed{ID: a.self, Addr: l.Addr().(*net.TCPAddr).AddrPort()})
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	w.mu.Lock()
	said, same := bytes.Clone(w.said.Bytes()), w.local
	w.mu.Unlock()
	if len(said) <= proofLen {
		t.Fatalf("only %d bytes are captured", len(said))
	}
	again := func(who string, from net.Addr) {
		t.Helper()
		before := a.Counters().Replays
		for _, part := range [][]byte{said, said[:proofLen]} {
			if answer, err := call(from, a.seed.Addr, part); len(answer) > 0 || err != nil {
				t.Errorf("%s is answered %q, %v", who, answer, err)
			}
		}
		if got := a.Counters().Replays - before; got != 2 {
			t.Errorf("%s: %d replays are counted", who, got)
		}
	}
	again("another port", nil)
	again("another address", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)})
	b.stop(t)
	eventually(t, 5*time.Second, "the connection is gone", func() bool { return !a.Joined() })
	again("the caller's address", same)
}

// Whatever strangers send, by UDP or TCP, is answered nothing and leaves nothing.
func TestStrangers(t *testing.T) {
	a := startTCP(t, testNetwork(1), 0, false)
	b := startTCP(t, testNetwork(1), 1, false, a.seed)
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	wrong, right := testDoor(2), testDoor(1)
	initial := append([]byte{0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0x9e}, make([]byte, 1262)...)
	good := right.seal(nil, doorUDP, []byte{0}) // QUIC has no use for it
	packets := [][]byte{
		[]byte("hello"), initial, make([]byte, 1500), wrong.seal(nil, doorUDP, initial), right.proof(), good, hello(t),
	}
	captured := right.proof()
	first, err := net.Dial("tcp4", a.seed.Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := first.Write(captured); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(first, make([]byte, 20)); err != nil {
		t.Fatalf("a good proof isn't answered: %v", err)
	}
	calls := [][]byte{
		bytes.Repeat([]byte{0}, 100), bytes.Repeat([]byte{0xff}, 5000), hello(t), initial,
		[]byte("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
		[]byte("\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n"),
		wrong.proof(), captured, append(bytes.Clone(captured), "\x13/multistream/1.0.0\n"...), good,
	}
	stranger, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(a.seed.Addr))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	round := func(n int) {
		for i := range n {
			if _, err := stranger.Write(packets[i%len(packets)]); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatal(err)
			}
			if answer, err := call(nil, a.seed.Addr, calls[i%len(calls)]); len(answer) > 0 || err != nil {
				t.Fatalf("%.20q is answered %q, %v", calls[i%len(calls)], answer, err)
			}
		}
	}
	round(200)
	goroutines, memory := runtime.NumGoroutine(), heap()
	round(10_000)
	silent(t, stranger)
	eventually(t, 5*time.Second, "goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines+5 })
	if now := heap(); now > memory+4<<20 {
		t.Errorf("memory grew from %d to %d kB", memory>>10, now>>10)
	}
	if !a.Joined() || a.was("-"+b.self.Short()) {
		t.Error("the member was lost")
	}
}

// Who says nothing, or not enough, waits for a while, and only some of them.
func TestSilentCalls(t *testing.T) {
	a := startTCP(t, testNetwork(1), 0, true)
	lobby := a.doors.lobbies[0]
	waiting := func() int {
		lobby.mu.Lock()
		defer lobby.mu.Unlock()
		return len(lobby.waiting)
	}
	from := func(i byte) net.Conn {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, i)}}).Dial("tcp4", a.seed.Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := c.Write(make([]byte, i)); err != nil { // less than a proof
			t.Fatal(err)
		}
		return c
	}
	// ended says whether c was closed, without a byte.
	ended := func(c net.Conn, wait time.Duration) bool {
		_ = c.SetReadDeadline(time.Now().Add(wait))
		n, err := c.Read(make([]byte, 1))
		if n > 0 {
			t.Error("a stranger is answered")
		}
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
	began := time.Now()
	var one []net.Conn
	for range maxUnprovedPerAddr + 1 {
		one = append(one, from(1))
	}
	if !ended(one[0], 2*time.Second) {
		t.Error("one address may hold more than its part")
	}
	eventually(t, 2*time.Second, "the others wait", func() bool { return waiting() == maxUnprovedPerAddr })
	for i := range maxUnproved {
		from(byte(2 + i/maxUnprovedPerAddr))
	}
	if !ended(one[1], 2*time.Second) {
		t.Error("the oldest isn't displaced")
	}
	// Members come in meanwhile.
	b := startTCP(t, testNetwork(1), 1, true, a.seed)
	eventually(t, proofTimeout, "a member is let in", func() bool { return a.Joined() && b.Joined() })
	if n := waiting(); n > maxUnproved || time.Since(began) < proofTimeout/2 && n < maxUnproved/2 {
		t.Errorf("%d wait", n)
	}
	eventually(t, 3*proofTimeout, "all have been sent away", func() bool { return waiting() == 0 })
	if took := time.Since(began); took < proofTimeout {
		t.Errorf("sent away after %v", took)
	}
}

// Addresses of the overlay get nothing by TCP either, whatever they prove.
func TestUsableByTCP(t *testing.T) {
	u, l := port(t)
	inside := netip.MustParseAddr("127.0.0.9")
	a := startWith(t, testNetwork(1), 0, []net.PacketConn{u}, func(c *Config) {
		c.Listeners = []net.Listener{l}
		c.Usable = func(x netip.Addr) bool { return x != inside }
	})
	d := testDoor(1)
	for _, from := range []net.IP{net.IPv4(127, 0, 0, 8), net.IPv4(127, 0, 0, 9)} {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}).Dial("tcp4", a.seed.Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Write(d.proof()); err != nil {
			t.Fatal(err)
		}
		n, err := io.ReadFull(c, make([]byte, 20))
		if outside := !from.Equal(inside.AsSlice()); (n > 0) != outside {
			t.Errorf("%v is answered %d bytes, %v", from, n, err)
		}
	}
}

// A clock that is wrong is told by TCP too.
func TestClockSkewByTCP(t *testing.T) {
	a := startTCP(t, testNetwork(1), 0, true)
	u, l := port(t)
	x := startWith(t, testNetwork(1), 1, []net.PacketConn{deadConn{u}}, func(c *Config) {
		c.Listeners = []net.Listener{l}
		c.Clock = func() time.Time { return time.Now().Add(-time.Hour) }
	})
	if err := a.Dial(t.Context(), x.self, []netip.AddrPort{x.seed.Addr}); err == nil || a.Joined() {
		t.Error("who has a wrong clock is joined")
	}
	if skew, ok := x.ClockSkew(); !ok || (skew+time.Hour).Abs() > 2*time.Second || x.Counters().Untimely == 0 {
		t.Errorf("the clock is wrong by %v, %v", skew, ok)
	}
}

func TestWrongListener(t *testing.T) {
	u, _ := port(t)
	l, err := net.Listen("unix", t.TempDir()+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	key := testKey(1)
	a := start(t, testNetwork(1), 0)
	cfg := a.cfg
	cfg.Key, cfg.Sockets, cfg.Listeners = key, []net.PacketConn{u}, []net.Listener{l}
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "not a TCP listener") {
		t.Errorf("error %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener isn't closed: %v", err)
	}
}

// proof is what opens a TCP connection behind the door.
func (d *door) proof() []byte { return d.proofBy(d.keyOut()) }
