//go:build linux

package tc

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"farlan/overlay/nstest"
	"farlan/reserve"
)

// phase is how long each measurement takes; with FARLAN_LONG=1 it is longer.
func phase() time.Duration {
	if os.Getenv("FARLAN_LONG") == "1" {
		return 10 * time.Second
	}
	return 800 * time.Millisecond
}

// settle is how long flows have before they count.
const settle = 300 * time.Millisecond

const (
	bulk = iota
	reserved
	kinds
)

// A sink receives whatever comes, and counts it by kind, which is each datagram's and each
// connection's first byte.
type sink struct {
	bytes   [kinds]atomic.Int64
	packets [kinds]atomic.Int64
}

func newSink(t *testing.T, ns *nstest.Namespace) *sink {
	t.Helper()
	s := new(sink)
	var l net.Listener
	var u net.PacketConn
	var err error
	ns.Do(func() {
		if l, err = net.Listen("tcp4", ":4747"); err == nil {
			u, err = net.ListenPacket("udp4", ":4747")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	control(t, u.(*net.UDPConn), func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) })
	t.Cleanup(func() { l.Close(); u.Close() })
	go func() {
		buf := make([]byte, 2000)
		for {
			n, _, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			s.bytes[buf[0]].Add(int64(n))
			s.packets[buf[0]].Add(1)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.count(c)
		}
	}()
	return s
}

func (s *sink) count(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 64<<10)
	if _, err := io.ReadFull(c, buf[:1]); err != nil {
		return
	}
	kind := buf[0]
	for {
		n, err := c.Read(buf)
		s.bytes[kind].Add(int64(n))
		if err != nil {
			return
		}
	}
}

func (s *sink) read() (b [kinds]int64) {
	for i := range b {
		b[i] = s.bytes[i].Load()
	}
	return b
}

// share returns which part of what arrives in a phase from now on is reserved; unless that is as
// done wants it, in a later one of eight: flows in a common queue may share unevenly for a while.
func (s *sink) share(done func(share float64) bool) (share float64) {
	time.Sleep(settle)
	for range 8 {
		before := s.read()
		time.Sleep(phase())
		after := s.read()
		mine, other := float64(after[reserved]-before[reserved]), float64(after[bulk]-before[bulk])
		if share = mine / (mine + other); done(share) {
			break
		}
	}
	return share
}

func control(t *testing.T, c syscall.Conn, f func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) { err = f(int(fd)) }), err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// mark prepares a socket: the TOS first, as it changes the priority.
func mark(fd int, m reserve.Mark) error {
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, int(m.TOS)),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, int(m.Priority)),
	)
}

// stream sends by n connections until what it returns is called. They are Reno's, whose shares
// of a common queue get even within seconds; CUBIC takes much longer.
func stream(t *testing.T, ns *nstest.Namespace, n int, kind byte, m reserve.Mark) (stop func()) {
	t.Helper()
	var all []net.Conn
	var wg sync.WaitGroup
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			err = errors.Join(mark(int(fd), m), unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno"))
		}), err)
	}}
	ns.Do(func() {
		for range n {
			c, err := dialer.Dial("tcp4", far.String())
			if err != nil {
				t.Error(err)
				return
			}
			all = append(all, c)
		}
	})
	for _, c := range all {
		wg.Go(func() {
			buf := make([]byte, 64<<10)
			buf[0] = kind
			for {
				if _, err := c.Write(buf); err != nil {
					return
				}
			}
		})
	}
	return func() {
		for _, c := range all {
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
		wg.Wait()
	}
}

// payload is that of all datagrams: IP packets of 1228 bytes.
const payload = 1200

// A pace says how many datagrams of each kind are due.
type pace [kinds]float64 // Mbit/s of IP packets

func (p pace) due(kind int, d time.Duration) int64 {
	return int64(p[kind] * 1e6 / 8 / (payload + 28) * d.Seconds())
}

// stall is for how long a sender that wakes late makes up: more would be a burst that no queue
// here has to take.
const stall = 5 * time.Millisecond

// awhile is how long datagrams are sent.
func awhile(sent time.Duration) bool { return sent < settle+phase() }

// datagrams sends by one socket as long as more wants it, and returns how many of each kind were
// offered. With a priority for each kind what the socket doesn't take at once is waited for, as
// whoever sends from a queue does, and kinds have turns in proportion; without it's lost.
func datagrams(t *testing.T, c *net.UDPConn, p pace, priorities *[kinds]uint32, more func(sent time.Duration) bool) (offered [kinds]int64) {
	buf := make([]byte, payload)
	start := time.Now()
	done := offered // or given up
	for more(time.Since(start)) {
		now := time.Since(start)
		for kind := range kinds {
			done[kind] = max(done[kind], p.due(kind, now-stall))
			for done[kind] < p.due(kind, now) && more(time.Since(start)) {
				buf[0] = byte(kind)
				if !put(t, c, buf, priorities) {
					return offered
				}
				offered[kind]++
				done[kind]++
				if other := 1 - kind; done[other] < p.due(other, now) && p[kind]*float64(done[other]) < p[other]*float64(done[kind]) {
					break // the other one's turn
				}
			}
		}
		time.Sleep(500 * time.Microsecond)
	}
	return offered
}

// put sends one datagram; it returns false if the test is over.
func put(t *testing.T, c *net.UDPConn, b []byte, priorities *[kinds]uint32) bool {
	var err error
	if priorities != nil {
		_, _, err = c.WriteMsgUDP(b, priority(priorities[b[0]]), nil)
	} else {
		raw, _ := c.SyscallConn()
		if werr := raw.Write(func(fd uintptr) bool { _, err = unix.Write(int(fd), b); return true }); werr != nil {
			err = werr
		}
		if errors.Is(err, unix.EAGAIN) {
			return true
		}
	}
	if err != nil {
		t.Error(err)
	}
	return err == nil
}

// priority is the control message that sets a datagram's priority.
func priority(p uint32) []byte {
	b := make([]byte, unix.CmsgSpace(4))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = unix.SOL_SOCKET, unix.SO_PRIORITY
	h.SetLen(unix.CmsgLen(4))
	binary.NativeEndian.PutUint32(b[unix.CmsgLen(0):], p)
	return b
}

// dial returns a socket in ns, with a mark.
func dial(t *testing.T, ns *nstest.Namespace, m reserve.Mark) *net.UDPConn {
	t.Helper()
	var c net.Conn
	var err error
	ns.Do(func() { c, err = net.Dial("udp4", far.String()) })
	if err != nil {
		t.Fatal(err)
	}
	u := c.(*net.UDPConn)
	t.Cleanup(func() { u.Close() })
	control(t, u, func(fd int) error { return mark(fd, m) })
	return u
}

// constant offers 55 Mbit/s by a socket of its own, with as long a buffer as agents' have, and
// expects that what is lost is as ok wants it. It's tried again where others keep the machine so
// busy that that much isn't offered, or the kernel's timers come late.
func (s *sink) constant(t *testing.T, h *host, what string, m reserve.Mark, ok func(lost float64) bool) {
	t.Helper()
	c := dial(t, h.Namespace, m)
	control(t, c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<20) })
	p := pace{reserved: 55}
	due := p.due(reserved, settle+phase())
	for range 6 {
		before := s.packets[reserved].Load()
		offered := datagrams(t, c, p, nil, awhile)[reserved]
		time.Sleep(100 * time.Millisecond) // what waits arrives
		lost := 1 - float64(s.packets[reserved].Load()-before)/float64(offered)
		t.Logf("UDP %s: offered %d of %d datagrams, lost %.3f %%", what, offered, due, 100*lost)
		if offered >= due*98/100 && ok(lost) {
			return
		}
	}
	t.Errorf("UDP %s: not as it should be", what)
}

// hardly says that less than a thousandth is lost.
func hardly(lost float64) bool { return lost < 0.001 }

const class60 = 60 * reserve.Mbit

// reservedFlows measures one flow beside eight, TCP and UDP, with a mark.
func reservedFlows(t *testing.T, h *host, s *sink, m reserve.Mark) {
	t.Helper()
	stop := stream(t, h.Namespace, 1, reserved, m)
	got := s.share(func(share float64) bool { return share >= 0.55 })
	stop()
	t.Logf("TCP in the class: %.1f %% of all", 100*got)
	if got < 0.55 {
		t.Errorf("one TCP flow of 9 with 60 of 100 Mbit/s reserved: %.1f %%, want 55", 100*got)
	}
	s.constant(t, h, "in the class", m, hardly)
}

// alone measures one TCP flow beside eight that has no reservation.
func alone(t *testing.T, h *host, s *sink) {
	t.Helper()
	stop := stream(t, h.Namespace, 1, reserved, reserve.Mark{})
	got := s.share(func(share float64) bool { return share <= 0.15 })
	stop()
	t.Logf("TCP beside them: %.1f %% of all", 100*got)
	if got > 0.15 {
		t.Errorf("one TCP flow of 9 without a reservation: %.1f %%, want 15 at most", 100*got)
	}
}

// passing expects that what is urgent, as agents mark it, doesn't wait behind the rest.
func passing(t *testing.T, h *host) {
	t.Helper()
	var c net.PacketConn
	var err error
	h.far.Do(func() { c, err = net.ListenPacket("udp4", ":4748") })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	to := &net.UDPAddr{IP: far.Addr().AsSlice(), Port: 4748}
	var waits [2][]time.Duration
	b := make([]byte, 100)
	for i := range 60 {
		var s net.PacketConn
		h.Do(func() { s, err = net.ListenPacket("udp4", ":0") })
		if err != nil {
			t.Fatal(err)
		}
		m := [2]reserve.Mark{{}, {TOS: urgentTOS, Priority: 6}}[i%2]
		control(t, s.(*net.UDPConn), func(fd int) error { return mark(fd, m) })
		start := time.Now()
		_, err = s.WriteTo(b[:1], to)
		_ = c.SetReadDeadline(start.Add(time.Second))
		if _, _, rerr := c.ReadFrom(b); err == nil && rerr == nil { // the rest's may be dropped
			waits[i%2] = append(waits[i%2], time.Since(start))
		}
		s.Close()
	}
	for i := range waits {
		slices.Sort(waits[i])
	}
	if len(waits[0]) == 0 || len(waits[1]) < 30 {
		t.Fatalf("%d of the rest and %d urgent datagrams of 30 arrive", len(waits[0]), len(waits[1]))
	}
	plain, urgent := waits[0][len(waits[0])/2], waits[1][len(waits[1])/2]
	t.Logf("urgent datagrams wait for %v, others for %v", urgent, plain)
	if urgent > plain/2 {
		t.Errorf("urgent datagrams wait for %v, others for %v", urgent, plain)
	}
}

// A class of 60 Mbit/s of a way out of 100, whose queue is this driver's: one flow by it beside
// eight TCP flows, and beside 150 Mbit/s of UDP. The same mark at packets of a socket that bulk
// ones leave by, too, doesn't help them.
func TestGuaranteeAtTheWayOut(t *testing.T) {
	t.Parallel()
	h := newPlace(t).open(100 * reserve.Mbit)
	s := newSink(t, h.far)
	g := h.active(want(1, class60))
	stop := stream(t, h.Namespace, 8, bulk, reserve.Mark{})
	alone(t, h, s)
	reservedFlows(t, h, s, g.Mark)
	passing(t, h)
	stop()

	t.Run("own socket", func(t *testing.T) {
		var wg sync.WaitGroup
		var over atomic.Bool
		other := dial(t, h.Namespace, reserve.Mark{})
		wg.Go(func() { datagrams(t, other, pace{bulk: 150}, nil, func(time.Duration) bool { return !over.Load() }) })
		s.constant(t, h, "by its own socket", g.Mark, hardly)
		over.Store(true)
		wg.Wait()
	})
	t.Run("shared socket", func(t *testing.T) { // with the system's ordinary buffer
		c := dial(t, h.Namespace, reserve.Mark{})
		before := s.packets[reserved].Load()
		datagrams(t, c, pace{bulk: 150, reserved: 55}, &[kinds]uint32{reserved: g.Mark.Priority}, awhile)
		time.Sleep(100 * time.Millisecond)
		got := 55 * float64(s.packets[reserved].Load()-before) / float64(pace{reserved: 55}.due(reserved, settle+phase()))
		t.Logf("UDP by a shared socket: %.1f Mbit/s of 55", got)
		if got >= 35 {
			t.Errorf("of 55 Mbit/s by a socket shared with 150 of bulk %.1f arrive: is there a bottleneck at all?", got)
		}
	})
	var u reserve.Usage
	h.must(func(ctx context.Context) (err error) { u, err = h.d.Usage(ctx, g); return err })
	if n := uint64(s.bytes[reserved].Load()); u.Bytes < n/2 || u.Bytes > 2*n || u.Packets < u.Bytes/1500 || u.Packets > u.Bytes/500 {
		t.Errorf("usage %+v, received %d bytes", u, n)
	}
}

// The same where the bottleneck is behind the way out: its queue stays empty, since no more
// leaves here than it carries.
func TestGuaranteeBeforeABottleneck(t *testing.T) {
	t.Parallel()
	p := &place{Namespace: nstest.New(t), t: t, far: nstest.New(t), name: "eth0"}
	router := nstest.New(t)
	p.Veth("eth0", router, "eth0")
	router.Veth("eth1", p.far, "eth0")
	p.IP("addr add 198.51.100.1/24 dev eth0")
	p.IP("route add default via 198.51.100.2")
	router.IP("addr add 198.51.100.2/24 dev eth0")
	router.IP("addr add 192.0.2.1/24 dev eth1")
	router.Run("echo 1 > /proc/sys/net/ipv4/ip_forward")
	p.far.IP("addr add 192.0.2.2/24 dev eth0")
	p.far.IP("route add default via 192.0.2.1")
	// As much as a class for 100 Mbit/s of full IP packets has.
	kbit := line{mtu: 1500, header: etherHeader}.wire(100*reserve.Mbit) * 8 / 1000
	router.Run("tc qdisc add dev eth1 root tbf rate " + strconv.FormatUint(kbit, 10) + "kbit burst 32k latency 25ms")
	h := p.open(100 * reserve.Mbit)
	s := newSink(t, p.far)
	defer stream(t, h.Namespace, 8, bulk, reserve.Mark{})()
	alone(t, h, s)
	s.constant(t, h, "beside them", reserve.Mark{}, func(lost float64) bool { return lost > 0.01 })
	g := h.active(want(1, class60))
	reservedFlows(t, h, s, g.Mark)
}
