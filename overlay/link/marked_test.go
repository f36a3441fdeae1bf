//go:build linux

package link

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay/nstest"
)

// However many marked sockets join and leave a port, in whatever order, what comes is steered
// as ever, and nothing comes to them; what they send comes from the port, in the lane's place.
func TestMarkedSocketsGetNothing(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p, q := open1(t, a), open1(t, a)
		r := rand.New(rand.NewPCG(3, 4))
		var marked []*Marked
		for round := range 40 {
			if len(marked) > 0 && r.IntN(2) == 0 {
				i := r.IntN(len(marked))
				if err := marked[i].Close(); err != nil {
					t.Fatal(err)
				}
				marked = append(marked[:i], marked[i+1:]...)
			} else {
				m, err := p.Join(round%lanes, Mark{Priority: uint32(round % 7), TOS: uint8(round) << 2})
				if err != nil {
					t.Fatal(err)
				}
				marked = append(marked, m)
			}
			steering(t, p)
		}
		for i, m := range marked {
			nothing(t, "marked "+strconv.Itoa(i), m.socket)
			lane := byte(m.socket.role.below - 1)
			d := numbered(1, lane, i, 100)
			if rest, err := m.Writer().Send(q.Probe.LocalAddr(), d, len(d)); err != nil || len(rest) != 0 {
				t.Fatal(err)
			}
			b := NewBatch()
			read(t, q.Bulk[lane], b)
			if b.From(0) != p.Probe.LocalAddr() {
				t.Errorf("from %v, want %v", b.From(0), p.Probe.LocalAddr())
			}
		}
	})
}

// What the kernel is told of a mark; one for which there are no rights, or no device, is
// refused, and so is one too many. Nothing is left of those.
func TestMarkOptions(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p := open1(t, a)
		m, err := p.Join(1, Mark{TOS: 0xb8, Priority: 5, Queue: 300 << 10})
		if err != nil {
			t.Fatal(err)
		}
		level, tos := unix.IPPROTO_IPV6, unix.IPV6_TCLASS
		if a.Is4() {
			level, tos = unix.IPPROTO_IP, unix.IP_TOS
		}
		option := func(level, option, want int) {
			t.Helper()
			if got, err := unix.GetsockoptInt(m.socket.fd, level, option); err != nil || got != want {
				t.Errorf("option %d is %#x (%v), want %#x", option, got, err, want)
			}
		}
		option(level, tos, 0xb8)
		option(unix.SOL_SOCKET, unix.SO_PRIORITY, 5)
		option(unix.SOL_SOCKET, unix.SO_SNDBUF, 2*300<<10)
		if err := m.SetQueue(1); err != nil {
			t.Error(err)
		}
		option(unix.SOL_SOCKET, unix.SO_SNDBUF, 2*minMarkedSend)
		if m.Waiting() != 0 {
			t.Errorf("%d bytes wait", m.Waiting())
		}
		if _, err := p.Join(0, Mark{Device: "farlan-nowhere"}); !errors.Is(err, syscall.ENODEV) {
			t.Errorf("no such device: %v", err)
		}
		if _, err := p.Join(lanes, Mark{}); err == nil {
			t.Error("a lane that there isn't")
		}
		other := loopbacks[0]
		if a.Is4() {
			other = loopbacks[1]
		}
		if _, err := p.Join(0, Mark{Source: other}); !errors.Is(err, syscall.EAFNOSUPPORT) {
			t.Errorf("a source of the other family: %v", err)
		}
		for len(p.marked) < MaxMarked {
			if _, err := p.Join(0, Mark{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := p.Join(0, Mark{}); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("one too many: %v", err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := m.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed twice: %v", err)
		}
		if _, err := m.Writer().Send(p.Probe.LocalAddr(), []byte{1}, 1); !errors.Is(err, net.ErrClosed) {
			t.Errorf("sent by a closed one: %v", err)
		}
		if m, err = p.Join(0, Mark{}); err != nil {
			t.Errorf("room again: %v", err)
		}
	})
}

// A socket is closed under those who send by it, and its number may be another file's at once:
// nothing of theirs goes there.
func TestMarkedClosedInUse(t *testing.T) {
	p, q := open1(t, loopbacks[0]), open1(t, loopbacks[0])
	for range 20 {
		m, err := p.Join(0, Mark{})
		if err != nil {
			t.Fatal(err)
		}
		var senders sync.WaitGroup
		for range 2 {
			w := m.Writer()
			senders.Go(func() {
				for {
					_, err := w.Send(q.Probe.LocalAddr(), numbered(4, 0, 0, 9), 9)
					if errors.Is(err, net.ErrClosed) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		time.Sleep(time.Millisecond)
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		senders.Wait()
		if n, _ := unix.Read(pipe[0], make([]byte, 10)); n > 0 {
			t.Error("something was sent into another file")
		}
		_ = unix.Close(pipe[0])
		_ = unix.Close(pipe[1])
	}
}

// A marked socket whose class stands still doesn't keep its sender, nor do others behind it:
// the kernel takes what fits, the rest comes back at once.
func TestMarkedNeverWaits(t *testing.T) {
	a, b := cable(t)
	a.Run(`tc qdisc add dev v0 root handle 1: htb default 1
		tc class add dev v0 parent 1: classid 1:1 htb rate 1gbit
		tc class add dev v0 parent 1: classid 1:2 htb rate 8kbit burst 1500`)
	for _, at := range pairs {
		p, q := ends(t, a, b, at)
		var m *Marked
		var err error
		if a.Do(func() { m, err = p.Join(0, Mark{Priority: 0x10002}) }); err != nil {
			t.Fatal(err)
		}
		w, to, run := m.Writer(), q.Probe.LocalAddr(), make([]byte, 40*1200)
		for i := range 40 {
			copy(run[i*1200:], numbered(1, 0, i, 1200))
		}
		began, full := time.Now(), false
		for range 30 {
			rest, err := w.Send(to, run, 1200)
			if err != nil && (!errors.Is(err, syscall.EAGAIN) || len(rest) != len(run)) {
				t.Fatalf("%v: %d of %d bytes left: %v", at[0], len(rest), len(run), err)
			}
			full = full || err != nil
		}
		if took := time.Since(began); !full || took > sendWait {
			t.Errorf("%v: full %v, after %v", at[0], full, took)
		}
		if m.Waiting() < 40*1200 {
			t.Errorf("%v: %d bytes wait", at[0], m.Waiting())
		}
		d := numbered(1, 1, 7, 100)
		if err := p.Bulk[1].Writer().Send(to, d, len(d)); err != nil {
			t.Fatal(err)
		}
		same(t, receive(t, q.Bulk[1], 1), [][]byte{d})
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Segments still leave in one call, by the device and from the address that the mark says.
func TestMarkedSource(t *testing.T) {
	a, b := nstest.New(t), nstest.New(t)
	for i, d := range []string{"v0", "v1"} {
		a.Veth(d, b, d)
		for j, n := range []*nstest.Namespace{a, b} {
			n.IP("addr add 10.9." + strconv.Itoa(i) + "." + strconv.Itoa(j+1) + "/24 dev " + d)
			n.IP("addr add fd09:" + strconv.Itoa(i) + "::" + strconv.Itoa(j+1) + "/64 dev " + d + " nodad")
		}
	}
	b.Run("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.v1.rp_filter=0")
	for _, c := range []struct {
		any          netip.Addr
		source, peer string
	}{{netip.IPv4Unspecified(), "10.9.1.1", "10.9.1.2"}, {netip.IPv6Unspecified(), "fd09:1::1", "fd09:1::2"}} {
		var p, q *Port
		var m *Marked
		var err error
		a.Do(func() {
			if p, err = Open(netip.AddrPortFrom(c.any, 0), Config{Lanes: 1}); err == nil {
				m, err = p.Join(0, Mark{Device: "v1", Source: netip.MustParseAddr(c.source)})
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		if b.Do(func() { q, err = Open(netip.AddrPortFrom(c.any, 0), Config{Lanes: 1}) }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = q.Close() })
		to := netip.AddrPortFrom(netip.MustParseAddr(c.peer), q.Probe.LocalAddr().Port())
		run := make([]byte, 20*1000)
		for i := range 20 {
			copy(run[i*1000:], numbered(1, 0, i, 1000))
		}
		before := sent(t, a, "v1")
		w, batch := m.Writer(), NewBatch()
		if rest, err := w.Send(to, run, 1000); err != nil || len(rest) > 0 {
			t.Fatalf("%v: %v", c.source, err)
		}
		read(t, q.Bulk[0], batch)
		if from := batch.From(0); from.Addr() != netip.MustParseAddr(c.source) || from.Port() != p.Probe.LocalAddr().Port() {
			t.Errorf("from %v, want %v", from, c.source)
		}
		if len(batch.Data(0)) != len(run) {
			t.Errorf("%d of %d bytes came at once", len(batch.Data(0)), len(run))
		}
		if n := sent(t, a, "v1") - before; n < len(run) {
			t.Errorf("%d bytes left by the device", n)
		}
		// The device goes: that is an error, not silence.
		a.IP("link set v1 down")
		if _, err := w.Send(to, run, 1000); err == nil {
			t.Error("sent by a device that is down")
		}
		a.IP("link set v1 up")
		a.IP("addr replace fd09:1::1/64 dev v1 nodad")
		if n := testing.AllocsPerRun(50, func() { _, _ = w.Send(to, run, 1000) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

// sent returns how many bytes an interface has sent.
func sent(t *testing.T, n *nstest.Namespace, device string) int {
	t.Helper()
	out := n.Run("cat /proc/net/dev | sed -n 's/^ *" + device + ": *//p'")
	var fields [16]int
	for i, f := range strings.Fields(out) {
		if i < len(fields) {
			fields[i], _ = strconv.Atoi(f)
		}
	}
	return fields[8]
}
