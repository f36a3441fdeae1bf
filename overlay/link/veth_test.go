//go:build linux

package link

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
	"farlan/overlay/nstest"
)

// pairs are the addresses of cable's ends.
var pairs = [][2]netip.Addr{
	{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.2")},
	{netip.MustParseAddr("fd77::1"), netip.MustParseAddr("fd77::2")},
}

// cable returns two namespaces and a cable:
//
//	a  10.77.0.1, fd77::1  v0 ────── v0  10.77.0.2, fd77::2  b
func cable(t *testing.T) (a, b *nstest.Namespace) {
	t.Helper()
	a, b = nstest.New(t), nstest.New(t)
	for _, n := range []*nstest.Namespace{a, b} { // else IPv6 answers after two seconds
		n.Run("sysctl -q -w net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0")
	}
	a.Veth("v0", b, "v0")
	address(a, "1")
	address(b, "2")
	b.Run("ethtool -K v0 gro on")
	return a, b
}

// address gives v0 its addresses.
func address(n *nstest.Namespace, host string) {
	n.IP("addr add 10.77.0." + host + "/24 dev v0")
	n.IP("addr add fd77::" + host + "/64 dev v0 nodad")
}

// ends opens a port at each end of the cable.
func ends(t *testing.T, a, b *nstest.Namespace, at [2]netip.Addr) (p, q *Port) {
	t.Helper()
	a.Do(func() { p = open1(t, at[0]) })
	b.Do(func() { q = open1(t, at[1]) })
	return p, q
}

// The offloads of real and of poor devices.
func TestOffloads(t *testing.T) {
	const off = "ethtool -K v0 tso off gso off tx-udp-segmentation off gro off"
	for _, c := range []struct{ name, setup string }{
		{"all", "true"},
		{"no segmentation", off},
		{"no checksums", off + " tx off"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := cable(t)
			a.Run(c.setup)
			for _, at := range pairs {
				p, q := ends(t, a, b, at)
				mixedRuns(t, p, q, 100, 1200, 1452)
				mixedRuns(t, q, p, 100, 1200, 1452)
			}
		})
	}
}

// hold makes a device's GRO wait for neighbours 20 ms, as a busy one does.
const hold = "unshare -m sh -c 'mount -t sysfs none /sys && cd /sys/class/net/v0 && echo 20000000 > gro_flush_timeout && echo 100 > napi_defer_hard_irqs'"

// A device aggregates across sockets what it may. Datagrams of one size from
// one lane become few aggregates, which shows that it does; but none holds two
// sockets' datagrams, or two probes, and each probe has a time of its own.
//
//	a  10.77.0.1, fd77::1  v0 ── v0  switch  v1 ── v0  10.77.0.2, fd77::2  b
//
// The switch is a program, so that packets forget from which socket they come;
// the kernel remembers it even across namespaces and does not aggregate those
// that differ, as it would if they came over a wire.
func TestAggregation(t *testing.T) {
	const count = 60
	a, b, m := nstest.New(t), nstest.New(t), nstest.New(t)
	m.Veth("v0", a, "v0")
	m.Veth("v1", b, "v0")
	address(a, "1")
	address(b, "2")
	a.Run("ethtool -K v0 tx off")
	b.Run("ethtool -K v0 tx off gro on")
	m.Run("ethtool -K v1 tso off") // else veth passes by the peer's GRO
	b.Run(hold)
	packetSwitch(t, m)
	for _, at := range pairs {
		p, q := ends(t, a, b, at)
		to := q.Probe.LocalAddr()
		first := p.Bulk[0].Writer()
		if n, _ := aggregated(t, first, q, count); n > count/4 {
			t.Errorf("%v: one lane's %d datagrams came as %d aggregates: is GRO on?", at[0], count, n)
		}
		probe := p.Probe.Writer()
		if n, stamps := aggregated(t, probe, q, count); n != count || stamps != count {
			t.Errorf("%v: %d probes came as %d aggregates with %d times", at[0], count, n, stamps)
		}
		// By turns, for one socket at the other end, so that it sees what was merged.
		turns := []*Writer{probe, first, p.Bulk[1].Writer(), p.Delay.Writer(), p.Handshake.Writer()}
		for i := range count {
			if err := turns[i%len(turns)].Send(to, numbered(1, 2, i, 100), 100); err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				if _, err := p.Control.WriteToAddrPort(numbered(0x40, 0, i, 100), to); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n, _ := aggregates(t, q.Bulk[2], count); n != count {
			t.Errorf("%v: %d datagrams of different sockets came as %d aggregates", at[0], count, n)
		}
		receiveControl(t, q.Control, count/3)
		if n := q.Control.Strays(); n != 0 {
			t.Errorf("%v: %d datagrams of ours in QUIC's aggregates", at[0], n)
		}
	}
}

// aggregated sends n datagrams with w, one after the other, to lane 1 of q, and
// returns in how many aggregates they came, with how many different times.
func aggregated(t *testing.T, w *Writer, q *Port, n int) (count, stamps int) {
	t.Helper()
	for i := range n {
		if err := w.Send(q.Probe.LocalAddr(), numbered(1, 1, i, 100), 100); err != nil {
			t.Fatal(err)
		}
	}
	return aggregates(t, q.Bulk[1], n)
}

// packetSwitch forwards frames between n's interfaces v0 and v1.
func packetSwitch(t *testing.T, n *nstest.Namespace) {
	t.Helper()
	var fds [2]int
	n.Do(func() {
		for i := range fds {
			device, err := net.InterfaceByName([]string{"v0", "v1"}[i])
			if err != nil {
				t.Fatal(err)
			}
			if fds[i], err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
				t.Fatal(err)
			}
			all := uint16(unix.ETH_P_ALL)
			if err := unix.Bind(fds[i], &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: device.Index}); err != nil {
				t.Fatal(err)
			}
		}
	})
	stop, done := make(chan bool), make(chan bool)
	go func() {
		defer close(done)
		frame := make([]byte, maxAggregate)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}, {Fd: int32(fds[1]), Events: unix.POLLIN}}, 50)
			for i := range fds {
				for {
					length, _, err := unix.Recvfrom(fds[i], frame, 0)
					if err != nil {
						break
					}
					_, _ = unix.Write(fds[1-i], frame[:length])
				}
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	})
}

// aggregates receives n datagrams at s and returns in how many aggregates they
// came, and with how many different times.
func aggregates(t *testing.T, s *Socket, n int) (count, stamps int) {
	t.Helper()
	b := NewBatch()
	times := make(map[overlay.Instant]bool)
	for n > 0 {
		read(t, s, b)
		for i := range b.Len() {
			count++
			times[b.Stamp(i)] = true
			n -= (len(b.Data(i)) + b.Segment(i) - 1) / b.Segment(i)
		}
	}
	return count, len(times)
}

// Over an interface with a smaller MTU, what is too long is refused, be it in a
// run or alone, the rest of the run arrives, and handshakes arrive whole.
func TestInterfaceMTU(t *testing.T) {
	a, b := cable(t)
	a.IP("link set v0 mtu 1280")
	b.IP("link set v0 mtu 1280")
	for _, at := range pairs {
		p, q := ends(t, a, b, at)
		to := q.Probe.LocalAddr()
		mixedRuns(t, p, q, 1200)
		for name, s := range map[string]*Socket{"bulk": p.Bulk[0], "delay": p.Delay, "probe": p.Probe} {
			run := bytes.Repeat(numbered(1, 0, 7, 1300), 5)
			run = append(run, numbered(1, 0, 8, 100)...)
			if err := s.Writer().Send(to, run, 1300); !errors.Is(err, syscall.EMSGSIZE) {
				t.Errorf("%s: run of long datagrams: %v, want EMSGSIZE", name, err)
			}
			same(t, receive(t, q.Bulk[0], 1), [][]byte{numbered(1, 0, 8, 100)})
			nothing(t, name, q.Bulk[0])
		}
		d := numbered(2, 0, 9, 1345)
		if err := p.Handshake.Writer().Send(to, bytes.Repeat(d, 3), len(d)); err != nil {
			t.Fatal(err)
		}
		same(t, receive(t, q.Probe, 3), [][]byte{d, d, d})
	}
}

// Over a path with a smaller MTU, a handshake arrives at the first try over IPv4
// and at the second over IPv6; data does not, nor does it believe the router:
//
//	a  10.77.0.1, fd77::1  v0 ── v0  router  v1 ── MTU 1280 ── v0  10.78.0.2, fd78::2  c
func TestPathMTU(t *testing.T) {
	a, r := cable(t)
	c := nstest.New(t)
	r.Veth("v1", c, "v0")
	r.Run("sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	r.IP("link set v1 mtu 1280")
	r.IP("addr add 10.78.0.1/24 dev v1")
	r.IP("addr add fd78::1/64 dev v1 nodad")
	c.IP("addr add 10.78.0.2/24 dev v0")
	c.IP("addr add fd78::2/64 dev v0 nodad")
	for _, n := range []struct {
		*nstest.Namespace
		four, six string
	}{{a, "10.77.0.2", "fd77::2"}, {c, "10.78.0.1", "fd78::1"}} {
		n.IP("route add default via " + n.four)
		n.IP("-6 route add default via " + n.six)
	}
	for i, far := range []netip.Addr{netip.MustParseAddr("10.78.0.2"), netip.MustParseAddr("fd78::2")} {
		p, q := ends(t, a, c, [2]netip.Addr{pairs[i][0], far})
		to := q.Probe.LocalAddr()
		d := numbered(2, 0, 9, 1345)
		tries := 0
		w, b := p.Handshake.Writer(), NewBatch()
		for deadline := time.Now().Add(5 * time.Second); b.Len() == 0 && time.Now().Before(deadline); tries++ {
			if err := w.Send(to, d, len(d)); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				if b.Len() == 0 {
					time.Sleep(5 * time.Millisecond)
					_ = q.Probe.Read(b)
				}
			}
		}
		if tries != i+1 {
			t.Errorf("%v: %d tries, want %d", far, tries, i+1)
		}
		long, short := numbered(1, 0, 7, 1345), numbered(1, 0, 8, 100)
		v := p.Bulk[0].Writer()
		for range 3 {
			if err := errors.Join(v.Send(to, long, len(long)), v.Send(to, short, len(short))); err != nil {
				t.Errorf("%v: %v", far, err)
			}
		}
		same(t, receive(t, q.Bulk[0], 3), [][]byte{short, short, short})
	}
}

// A full send buffer: Send waits for room, but not for ever.
func TestFullSendBuffer(t *testing.T) {
	a, b := cable(t)
	for _, at := range pairs {
		p, q := ends(t, a, b, at)
		w, run := p.Bulk[0].Writer(), make([]byte, 50*1200)
		a.Run("tc qdisc replace dev v0 root handle 1: htb default 1 && tc class replace dev v0 parent 1: classid 1:1 htb rate 400mbit && tc qdisc replace dev v0 parent 1:1 pfifo limit 100000")
		start := time.Now()
		for range 200 { // 12 MB, 240 ms
			if err := w.Send(q.Probe.LocalAddr(), run, 1200); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < 100*time.Millisecond {
			t.Errorf("%v: the queue took 12 MB in %v: nothing has waited", at[0], took)
		}
		a.Run("tc class replace dev v0 parent 1: classid 1:1 htb rate 8kbit")
		var err error
		for i := 0; err == nil && i < 300; i++ {
			start = time.Now()
			err = w.Send(q.Probe.LocalAddr(), run, 1200)
		}
		took := time.Since(start)
		if !errors.Is(err, syscall.EAGAIN) || took < sendWait*9/10 || took > 20*sendWait {
			t.Errorf("%v: %v after %v, want EAGAIN after %v", at[0], err, took, sendWait)
		}
		a.Run("tc qdisc del dev v0 root")
	}
}
