//go:build linux

package link

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var loopbacks = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}

// open1 returns a pair on any port of a. It is closed when the test ends, or
// after ten seconds, so that a read of what never comes fails.
func open1(t testing.TB, a netip.Addr) *Pair {
	t.Helper()
	p, err := Open(netip.AddrPortFrom(a, 0))
	if err != nil {
		t.Fatal(err)
	}
	hurry := time.AfterFunc(10*time.Second, func() { _ = p.Close() })
	t.Cleanup(func() {
		hurry.Stop()
		if err := p.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
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

// receive returns the next n datagrams at s.
func receive(t testing.TB, s *Socket, n int) [][]byte {
	t.Helper()
	var got [][]byte
	b := NewBatch()
	for len(got) < n {
		if err := s.Read(b); err != nil {
			t.Fatalf("after %d of %d datagrams: %v", len(got), n, err)
		}
		for _, d := range b.All {
			got = append(got, bytes.Clone(d))
		}
	}
	return got
}

// receiveControl is receive for the other socket.
func receiveControl(t testing.TB, c *Control, n int) [][]byte {
	t.Helper()
	var got [][]byte
	p := make([]byte, 2000)
	for len(got) < n {
		m, _, err := c.ReadFrom(p)
		if err != nil {
			t.Fatalf("after %d of %d datagrams: %v", len(got), n, err)
		}
		got = append(got, bytes.Clone(p[:m]))
	}
	return got
}

// numbered returns a datagram of n bytes with first byte kind that carries i.
func numbered(kind byte, i, n int) []byte {
	d := make([]byte, n)
	copy(d, fmt.Sprintf("%c%06d", kind, i))
	d[0] = kind
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

func TestSteering(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p := open1(t, a)
		to := net.UDPAddrFromAddrPort(p.Data.LocalAddr())
		for range 20 { // source ports: the kernel must not choose by their hash
			c, err := net.DialUDP("udp", nil, to)
			if err != nil {
				t.Fatal(err)
			}
			var data, quic [][]byte
			for first := range 256 {
				d := numbered(byte(first), first, 8+first)
				if ours(d) {
					data = append(data, d)
				} else {
					quic = append(quic, d)
				}
				if _, err := c.Write(d); err != nil {
					t.Fatal(err)
				}
			}
			same(t, receive(t, p.Data, len(data)), data)
			same(t, receiveControl(t, p.Control, len(quic)), quic)
			_ = c.Close()
		}
	})
}

// An aggregate of both kinds, as the kernel may build one, is taken apart.
func TestStraysAreHandedOver(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p, q := open1(t, a), open1(t, a)
		for _, kinds := range []string{"\x01\x40", "\x40\x01", "\x01\x01\x40\x01", "\xc0\xc1\x01"} {
			var run []byte
			var data, quic [][]byte
			for i := range 30 {
				d := numbered(kinds[i%len(kinds)], i, 100)
				run = append(run, d...)
				if ours(d) {
					data = append(data, d)
				} else {
					quic = append(quic, d)
				}
			}
			// Half of them wake a reader that waits already.
			gotQUIC := make(chan [][]byte)
			go func() { gotQUIC <- receiveControl(t, p.Control, len(quic)) }()
			if err := q.Data.Writer().Send(p.Data.LocalAddr(), run, 100); err != nil {
				t.Fatal(err)
			}
			same(t, receive(t, p.Data, len(data)), data)
			same(t, <-gotQUIC, quic)
		}
	})
}

func TestPortInUse(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p := open1(t, a)
		at := p.Data.LocalAddr()
		if _, err := Open(at); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second pair: %v, want EADDRINUSE", err)
		}
		if _, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("plain socket after the pair: %v, want EADDRINUSE", err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			t.Fatal("the port is not free after Close:", err)
		}
		defer func() { _ = c.Close() }()
		if _, err := Open(at); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("pair after a plain socket: %v, want EADDRINUSE", err)
		}
	})
}

func TestOpenErrors(t *testing.T) {
	if _, err := Open(netip.MustParseAddrPort("192.0.2.77:4000")); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("foreign address: %v, want EADDRNOTAVAIL", err)
	}
}

func TestFamiliesShareAPort(t *testing.T) {
	four := open1(t, netip.IPv4Unspecified())
	six, err := Open(netip.AddrPortFrom(netip.IPv6Unspecified(), four.Data.LocalAddr().Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = six.Close() }()
	w := open1(t, loopbacks[0]).Data.Writer()
	to := netip.AddrPortFrom(netip.MustParseAddr("::ffff:127.0.0.1"), four.Data.LocalAddr().Port())
	if err := w.Send(to, []byte{1}, 1); err != nil {
		t.Fatal(err)
	}
	b := NewBatch()
	if err := four.Data.Read(b); err != nil {
		t.Fatal(err)
	}
	if from := b.From(0).Addr(); from != loopbacks[0] {
		t.Errorf("from %v, want %v", from, loopbacks[0])
	}
}

// mixedRuns sends runs of many shapes from a to b and expects them in order.
func mixedRuns(t *testing.T, a, b *Socket, segments ...int) {
	t.Helper()
	w, r := a.Writer(), rand.New(rand.NewPCG(1, 2))
	for _, seg := range segments {
		for _, count := range []int{1, 2, 3, 40, 64, 65, 130} {
			last := 8 + r.IntN(seg-7)
			var run []byte
			var want [][]byte
			for i := range count {
				n := seg
				if i == count-1 {
					n = last
				}
				d := numbered(1, i, n)
				run, want = append(run, d...), append(want, d)
			}
			if err := w.Send(b.LocalAddr(), run, seg); err != nil {
				t.Fatalf("send %d × %d: %v", count, seg, err)
			}
			same(t, receive(t, b, count), want)
		}
	}
}

func TestRuns(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		mixedRuns(t, open1(t, a).Data, open1(t, a).Data, 16, 100, 1200, 1452, 9000)
	})
}

func TestSendErrors(t *testing.T) {
	p := open1(t, loopbacks[0])
	w := p.Data.Writer()
	if err := w.Send(p.Data.LocalAddr(), make([]byte, 66_000), 66_000); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("datagram too long: %v, want EMSGSIZE", err)
	}
	if err := w.Send(p.Data.LocalAddr(), []byte{1}, 1); err != nil {
		t.Error("send after a failed one:", err)
	}
	if err := p.Data.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Send(p.Control.LocalAddr().(*net.UDPAddr).AddrPort(), []byte{1, 2}, 1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("send after Close: %v, want net.ErrClosed", err)
	}
}

// An ICMP error that a datagram of ours causes is not an error of the next read.
func TestReadSurvivesRefusal(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p := open1(t, a)
		// IP_RECVERR makes the socket report what it would otherwise ignore.
		level, option := unix.IPPROTO_IPV6, unix.IPV6_RECVERR
		if a.Is4() {
			level, option = unix.IPPROTO_IP, unix.IP_RECVERR
		}
		if err := with(p.Data.conn, func(fd int) error { return setInt(fd, level, option, 1) }); err != nil {
			t.Fatal(err)
		}
		w := p.Data.Writer()
		_ = w.Send(netip.AddrPortFrom(a, 1), []byte{1}, 1) // nobody is at port 1
		q := open1(t, a)
		if err := q.Data.Writer().Send(p.Data.LocalAddr(), []byte{1, 2, 3}, 3); err != nil {
			t.Fatal(err)
		}
		same(t, receive(t, p.Data, 1), [][]byte{{1, 2, 3}})
	})
}

func TestCloseUnblocks(t *testing.T) {
	p := open1(t, loopbacks[0])
	errs := make(chan error)
	go func() { errs <- p.Data.Read(NewBatch()) }()
	go func() { _, _, err := p.Control.ReadFrom(make([]byte, 10)); errs <- err }()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-errs; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want net.ErrClosed", err)
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

func TestNoAllocations(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p, q := open1(t, a), open1(t, a)
		w, b, to := p.Data.Writer(), NewBatch(), q.Data.LocalAddr()
		run := make([]byte, 40*1200)
		mixed := append(make([]byte, 3*1200), 0xc0) // a stray at the end
		buf := make([]byte, 2000)
		sum := 0
		round := func() {
			if err := errors.Join(w.Send(to, run, 1200), w.Send(to, mixed, 1200), w.Send(to, run[:9], 9)); err != nil {
				t.Fatal(err)
			}
			for got := 0; got < 44; {
				if err := q.Data.Read(b); err != nil {
					t.Fatal(err)
				}
				for from, d := range b.All {
					sum += len(d) + int(from.Port())
					got++
				}
			}
			if _, _, err := q.Control.ReadFromAddrPort(buf); err != nil {
				t.Fatal(err)
			}
		}
		if n := testing.AllocsPerRun(100, round); n != 0 {
			t.Errorf("%v allocations per round, want 0", n)
		}
	})
}
