//go:build linux

package link

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

var loopbacks = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}

// lanes is how many open1 opens.
const lanes = 3

// open1 returns a port on any number of a. It is closed when the test ends; its
// Control after ten seconds, so that a read of what never comes fails.
func open1(t testing.TB, a netip.Addr) *Port {
	t.Helper()
	p, err := Open(netip.AddrPortFrom(a, 0), Config{Lanes: lanes})
	if err != nil {
		t.Fatal(err)
	}
	hurry := time.AfterFunc(10*time.Second, func() { _ = p.Control.Close() })
	t.Cleanup(func() {
		hurry.Stop()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func eachLoopback(t *testing.T, f func(t *testing.T, a netip.Addr)) {
	for _, a := range loopbacks {
		t.Run(a.String(), func(t *testing.T) { f(t, a) })
	}
}

// sockets returns p's sockets of ours by name.
func sockets(p *Port) map[string]*Socket {
	all := map[string]*Socket{"probe": p.Probe, "delay": p.Delay, "handshake": p.Handshake}
	for i, s := range p.Bulk {
		all[fmt.Sprintf("bulk %d", i)] = s
	}
	return all
}

// read waits up to ten seconds for s to become readable, and reads.
func read(t testing.TB, s *Socket, b *Batch) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if err := s.Read(b); err != nil {
			t.Fatal(err)
		}
		if b.Len() > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing comes")
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(s.FD()), Events: unix.POLLIN}}, 100)
	}
}

// receive returns the next n datagrams at s.
func receive(t testing.TB, s *Socket, n int) [][]byte {
	t.Helper()
	var got [][]byte
	b := NewBatch()
	for len(got) < n {
		read(t, s, b)
		for _, d := range b.All {
			got = append(got, bytes.Clone(d))
		}
	}
	return got
}

// receiveControl is receive for Control.
func receiveControl(t testing.TB, c *Control, n int) [][]byte {
	t.Helper()
	var got [][]byte
	p := make([]byte, 2000)
	for len(got) < n {
		m, _, err := c.ReadFrom(p)
		if err != nil {
			t.Errorf("after %d of %d datagrams: %v", len(got), n, err)
			break
		}
		got = append(got, bytes.Clone(p[:m]))
	}
	return got
}

// nothing says that s holds no datagram.
func nothing(t testing.TB, name string, s *Socket) {
	t.Helper()
	b := NewBatch()
	if err := s.Read(b); err != nil || b.Len() != 0 {
		t.Errorf("%s: got %d aggregates and %v, want none", name, b.Len(), err)
	}
}

// numbered returns a datagram of n bytes with first byte kind and lane byte lane
// that carries i.
func numbered(kind, lane byte, i, n int) []byte {
	d := make([]byte, n)
	copy(d[min(3, n):], fmt.Sprintf("%05d", i))
	copy(d, []byte{kind, 0, lane})
	return d
}

func same(t testing.TB, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d datagrams, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("datagram %d: got %d bytes %.8q, want %d bytes %.8q", i, len(got[i]), got[i], len(want[i]), want[i])
		}
	}
}

// Every first byte and every lane byte goes where the header says, from any
// source port: the kernel must not choose by a hash.
func TestSteering(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		for _, n := range []int{1, 2, MaxLanes} {
			p, err := Open(netip.AddrPortFrom(a, 0), Config{Lanes: n})
			if err != nil {
				t.Fatal(err)
			}
			for range 10 {
				steering(t, p)
			}
			nothing(t, "handshake", p.Handshake)
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func steering(t *testing.T, p *Port) {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(p.Probe.LocalAddr()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	want := make(map[*Socket][][]byte)
	var quic [][]byte
	send := func(d []byte, to *Socket) {
		if _, err := c.Write(d); err != nil {
			t.Fatal(err)
		}
		if to == nil {
			quic = append(quic, d)
		} else {
			want[to] = append(want[to], d)
		}
	}
	for first := range 256 {
		switch d := numbered(byte(first), 0x81, first, 8+first); {
		case first >= 0x40:
			send(d, nil)
		case overlay.Kind(first&0x0f) == overlay.KindData || overlay.Kind(first&0x0f) == overlay.KindRelay:
			send(d, p.Delay)
		case overlay.Kind(first&0x0f) == overlay.KindTrain:
			send(d, p.Train)
		default:
			send(d, p.Probe)
		}
	}
	for lane := range 256 {
		s := p.Bulk[lane%len(p.Bulk)]
		if lane >= overlay.LaneDelay {
			s = p.Delay
		}
		kind := []overlay.Kind{overlay.KindData, overlay.KindRelay}[lane%7%2]
		send(numbered(byte(kind)|overlay.Version<<4, byte(lane), lane, 8+lane), s)
	}
	for s, w := range want {
		same(t, receive(t, s, len(w)), w)
	}
	same(t, receiveControl(t, p.Control, len(quic)), quic)
}

// What is too short to be steered, and an aggregate of QUIC's with one of ours
// in it, come to Control, which drops ours.
func TestControlDropsStrays(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p, q := open1(t, a), open1(t, a)
		w, to := q.Bulk[0].Writer(), p.Probe.LocalAddr()
		quic, data := numbered(0x40, 0, 1, 50), numbered(1, 0, 2, 50)
		run := bytes.Join([][]byte{quic, data, quic, data}, nil)
		if err := errors.Join(w.Send(to, []byte{1, 0}, 2), w.Send(to, run, 50), w.Send(to, quic, 50)); err != nil {
			t.Fatal(err)
		}
		same(t, receiveControl(t, p.Control, 3), [][]byte{quic, quic, quic})
		if n := p.Control.Strays(); n != 3 {
			t.Errorf("%d strays, want 3", n)
		}
	})
}

// QUIC's datagrams in an aggregate of ours, as the kernel may build one, come
// out at Control.
func TestStraysAreHandedOver(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p, q := open1(t, a), open1(t, a)
		for _, kinds := range []string{"\x01\x40", "\x01\x01\x40\x01", "\x02\xc0\xc1\x02"} {
			var run []byte
			var own, quic [][]byte
			for i := range 30 {
				d := numbered(kinds[i%len(kinds)], 0, i, 100)
				run = append(run, d...)
				if ours(d) {
					own = append(own, d)
				} else {
					quic = append(quic, d)
				}
			}
			s := p.Bulk[0]
			if kinds[0] != 1 {
				s = p.Probe
			}
			// Some of them wake a reader that waits already.
			gotQUIC := make(chan [][]byte)
			go func() { gotQUIC <- receiveControl(t, p.Control, len(quic)) }()
			if err := q.Bulk[0].Writer().Send(p.Probe.LocalAddr(), run, 100); err != nil {
				t.Fatal(err)
			}
			same(t, receive(t, s, len(own)), own)
			same(t, <-gotQUIC, quic)
		}
	})
}

// A flood that fills one socket costs the others nothing.
func TestFloodStaysApart(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p, q := open1(t, a), open1(t, a)
		to := p.Probe.LocalAddr()
		w := q.Bulk[0].Writer()
		flood := bytes.Repeat(numbered(0x40, 0, 0, 1000), 50)
		for range 300 { // 15 MB
			_ = w.Send(to, flood, 1000)
		}
		for i := range flood {
			if i%1000 == 0 {
				flood[i] = 1
			}
		}
		for range 300 { // lane 0 too
			_ = w.Send(to, flood, 1000)
		}
		for lane, s := range map[byte]*Socket{overlay.LaneDelay: p.Delay, 1: p.Bulk[1], 2: p.Bulk[2]} {
			var want [][]byte
			for i := range 100 {
				want = append(want, numbered(1, lane, i, 1000))
				if err := w.Send(to, want[i], 1000); err != nil {
					t.Fatal(err)
				}
			}
			same(t, receive(t, s, 100), want)
		}
	})
}

func TestPortInUse(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p := open1(t, a)
		at := p.Probe.LocalAddr()
		if _, err := Open(at, Config{Lanes: 1}); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second port: %v, want EADDRINUSE", err)
		}
		if _, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("plain socket after the port: %v, want EADDRINUSE", err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			t.Fatal("the port is not free after Close:", err)
		}
		defer func() { _ = c.Close() }()
		if _, err := Open(at, Config{Lanes: 1}); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("port after a plain socket: %v, want EADDRINUSE", err)
		}
	})
}

func TestOpenErrors(t *testing.T) {
	if _, err := Open(netip.MustParseAddrPort("192.0.2.77:4000"), Config{Lanes: 1}); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("foreign address: %v, want EADDRNOTAVAIL", err)
	}
	for _, n := range []int{-1, 0, MaxLanes + 1} {
		if _, err := Open(netip.AddrPortFrom(loopbacks[0], 0), Config{Lanes: n}); err == nil {
			t.Errorf("%d lanes: no error", n)
		}
	}
}

func TestFamiliesShareAPort(t *testing.T) {
	four := open1(t, netip.IPv4Unspecified())
	port := four.Probe.LocalAddr().Port()
	six, err := Open(netip.AddrPortFrom(netip.IPv6Unspecified(), port), Config{Lanes: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = six.Close() }()
	q := open1(t, loopbacks[0])
	d := numbered(1, 0, 0, 20)
	if err := q.Bulk[1].Writer().Send(netip.AddrPortFrom(netip.MustParseAddr("::ffff:127.0.0.1"), port), d, 20); err != nil {
		t.Fatal(err)
	}
	b := NewBatch()
	read(t, four.Bulk[0], b)
	if from := b.From(0); from != q.Probe.LocalAddr() {
		t.Errorf("from %v, want %v", from, q.Probe.LocalAddr())
	}
	if err := open1(t, loopbacks[1]).Probe.Writer().Send(netip.AddrPortFrom(loopbacks[1], port), d, 20); err != nil {
		t.Fatal(err)
	}
	same(t, receive(t, six.Bulk[0], 1), [][]byte{d})
}

func TestClose(t *testing.T) {
	p := open1(t, loopbacks[0])
	errs := make(chan error)
	go func() { _, _, err := p.Control.ReadFrom(make([]byte, 10)); errs <- err }()
	if err := p.Control.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-errs; !errors.Is(err, net.ErrClosed) {
		t.Errorf("blocked read: %v, want net.ErrClosed", err)
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Errorf("Close of a port whose Control is closed: %v", err)
		}
	}
	for name, s := range sockets(p) {
		if err := s.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: second Close: %v, want net.ErrClosed", name, err)
		}
		if err := s.Read(NewBatch()); !errors.Is(err, syscall.EBADF) {
			t.Errorf("%s: read after Close: %v, want EBADF", name, err)
		}
	}
}

func TestControlDeadline(t *testing.T) {
	p := open1(t, loopbacks[0])
	if err := p.Control.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Control.ReadFrom(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want os.ErrDeadlineExceeded", err)
	}
	if err := p.Control.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Control.WriteTo([]byte{0x80}, p.Control.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	same(t, receiveControl(t, p.Control, 1), [][]byte{{0x80}})
}
