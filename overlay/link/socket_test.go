//go:build linux

package link

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// mixedRuns sends runs of many shapes from a to lane 1 of b and expects them in
// order.
func mixedRuns(t *testing.T, a, b *Port, segments ...int) {
	t.Helper()
	w, r := a.Bulk[1].Writer(), rand.New(rand.NewPCG(1, 2))
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
				d := numbered(1, 1, i, n)
				run, want = append(run, d...), append(want, d)
			}
			if err := w.Send(b.Probe.LocalAddr(), run, seg); err != nil {
				t.Fatalf("send %d × %d: %v", count, seg, err)
			}
			same(t, receive(t, b.Bulk[1], count), want)
		}
	}
}

func TestRuns(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		mixedRuns(t, open1(t, a), open1(t, a), 16, 100, 1200, 1452, 9000)
	})
}

// One read takes 64 datagrams where none are aggregated, and full aggregates a
// megabyte at a time.
func TestReadSizes(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p, q := open1(t, a), open1(t, a)
		w, b, d, last := q.Bulk[0].Writer(), NewBatch(), numbered(1, 0, 0, 1400), numbered(4, 0, 0, 3)
		for range 200 {
			if err := w.Send(p.Probe.LocalAddr(), d, len(d)); err != nil {
				t.Fatal(err)
			}
		}
		arrived := func() { // all that was sent, if the last has
			if err := w.Send(p.Probe.LocalAddr(), last, 3); err != nil {
				t.Fatal(err)
			}
			receive(t, p.Probe, 1)
		}
		arrived()
		var got []int
		for range 4 {
			read(t, p.Bulk[0], b)
			got = append(got, b.Len())
		}
		if want := []int{16, 64, 64, 56}; !slices.Equal(got, want) {
			t.Errorf("reads of %v datagrams, want %v", got, want)
		}
		run := make([]byte, 60_000)
		for range 20 {
			if err := w.Send(p.Probe.LocalAddr(), append(d, run[len(d):42_000]...), len(d)); err != nil {
				t.Fatal(err)
			}
		}
		arrived()
		got = got[:0]
		for range 2 {
			read(t, p.Bulk[0], b)
			got = append(got, b.Len())
		}
		if want := []int{16, 4}; !slices.Equal(got, want) {
			t.Errorf("reads of %v full aggregates, want %v", got, want)
		}
	})
}

func TestSendErrors(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p := open1(t, a)
		to := p.Probe.LocalAddr()
		for name, s := range sockets(p) {
			w := s.Writer()
			if err := w.Send(to, make([]byte, 70_000), 70_000); !errors.Is(err, syscall.EMSGSIZE) {
				t.Errorf("%s: datagram too long: %v, want EMSGSIZE", name, err)
			}
			if err := w.Send(to, numbered(4, 0, 7, 9), 9); err != nil {
				t.Errorf("%s: send after a failed one: %v", name, err)
			}
			same(t, receive(t, p.Probe, 1), [][]byte{numbered(4, 0, 7, 9)})
			if err := w.Send(to, nil, 0); err != nil {
				t.Errorf("%s: send of nothing: %v", name, err)
			}
			if err := w.Send(netip.AddrPortFrom(a, 0), []byte{1, 2}, 1); !errors.Is(err, syscall.EINVAL) {
				t.Errorf("%s: send to port 0: %v, want EINVAL", name, err)
			}
		}
	})
}

// An ICMP error that a datagram of ours causes is not an error of the next read.
func TestReadSurvivesRefusal(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p, q := open1(t, a), open1(t, a)
		// IP_RECVERR makes the socket report what it would otherwise ignore.
		level, option := unix.IPPROTO_IPV6, unix.IPV6_RECVERR
		if a.Is4() {
			level, option = unix.IPPROTO_IP, unix.IP_RECVERR
		}
		if err := setInt(p.Delay.fd, level, option, 1); err != nil {
			t.Fatal(err)
		}
		d := numbered(1, overlay.LaneDelay, 1, 30)
		_ = p.Delay.Writer().Send(netip.AddrPortFrom(a, 1), []byte{1}, 1) // nobody is at port 1
		if err := q.Delay.Writer().Send(p.Delay.LocalAddr(), d, len(d)); err != nil {
			t.Fatal(err)
		}
		same(t, receive(t, p.Delay, 1), [][]byte{d})
		nothing(t, "delay", p.Delay)
	})
}

func TestStamps(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p, q := open1(t, a), open1(t, a)
		b := NewBatch()
		for name, s := range map[string]*Socket{"probe": p.Probe, "delay": p.Delay, "bulk": p.Bulk[0]} {
			d := map[string][]byte{"probe": {4, 0, 0}, "delay": {1, 0, 0x80}, "bulk": {1, 0, 0}}[name]
			before := overlay.Instant(time.Now().UnixNano())
			if err := q.Delay.Writer().Send(p.Delay.LocalAddr(), d, 3); err != nil {
				t.Fatal(err)
			}
			read(t, s, b)
			if at, now := b.Stamp(0), overlay.Instant(time.Now().UnixNano()); at.Before(before) || now.Before(at) {
				t.Errorf("%s: received at %v, want between %v and %v", name, at.Time(), before.Time(), now.Time())
			}
		}
	})
}

func TestNoAllocations(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p, q := open1(t, a), open1(t, a)
		w, v, b, to := p.Bulk[0].Writer(), p.Probe.Writer(), NewBatch(), q.Probe.LocalAddr()
		run, probe := make([]byte, 40*1200), []byte{4, 0, 0, 1}
		for i := range 40 {
			run[i*1200] = 1
		}
		mixed := append(append([]byte{}, run[:3*1200]...), 0xc0) // a stray at the end
		buf := make([]byte, 2000)
		sum := 0
		take := func(s *Socket, n int) {
			for n > 0 {
				if err := s.Read(b); err != nil {
					t.Fatal(err)
				}
				for i := range b.Len() {
					sum += int(b.Stamp(i))
				}
				for from, d := range b.All {
					sum += len(d) + int(from.Port())
					n--
				}
			}
		}
		round := func() {
			if err := errors.Join(w.Send(to, run, 1200), w.Send(to, mixed, 1200), w.Send(to, run[:9], 9), v.Send(to, probe, 4)); err != nil {
				t.Fatal(err)
			}
			take(q.Bulk[0], 44)
			take(q.Probe, 1)
			if _, _, err := q.Control.ReadFromAddrPort(buf); err != nil {
				t.Fatal(err)
			}
		}
		if n := testing.AllocsPerRun(100, round); n != 0 {
			t.Errorf("%v allocations per round, want 0", n)
		}
	})
}
