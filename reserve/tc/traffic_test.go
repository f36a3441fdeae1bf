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
	return 900 * time.Millisecond
}

// settle is how long flows have before they count.
const settle = 400 * time.Millisecond

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

// datagrams sends by one socket, with a mark for each kind, for a phase and a bit, and returns
// how many of each kind were offered. What the socket doesn't take at once is waited for, as
// whoever sends frames from a queue does; kinds have turns in proportion.
func datagrams(t *testing.T, c *net.UDPConn, p pace, marks *[kinds]reserve.Mark) (offered [kinds]int64) {
	buf := make([]byte, payload)
	start := time.Now()
	end := settle + phase()
	for {
		now := time.Since(start)
		if now >= end {
			return offered
		}
		for kind := range kinds {
			due := p.due(kind, now)
			for offered[kind] < due && time.Since(start) < end {
				buf[0] = byte(kind)
				var oob []byte
				if marks != nil {
					oob = priority(marks[kind].Priority)
				}
				if _, _, err := c.WriteMsgUDP(buf, oob, nil); err != nil {
					t.Error(err)
					return offered
				}
				offered[kind]++
				if other := 1 - kind; offered[other] < p.due(other, now) && p[kind]*float64(offered[other]) < p[other]*float64(offered[kind]) {
					break // the other one's turn
				}
			}
		}
		time.Sleep(500 * time.Microsecond)
	}
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

// constant offers 55 Mbit/s by a socket of its own and returns which part was lost.
func (s *sink) constant(t *testing.T, h *host, m reserve.Mark) (lost float64, offered int64) {
	before := s.packets[reserved].Load()
	sent := datagrams(t, dial(t, h.Namespace, m), pace{reserved: 55}, nil)[reserved]
	time.Sleep(100 * time.Millisecond) // what waits arrives
	return 1 - float64(s.packets[reserved].Load()-before)/float64(sent), sent
}

// enough says that a machine could offer what it should: otherwise nothing is shown.
func enough(t *testing.T, offered int64) {
	t.Helper()
	if want := (pace{reserved: 55}).due(reserved, settle+phase()); offered < want*97/100 {
		t.Errorf("offered %d datagrams of %d: the machine is too busy to show anything", offered, want)
	}
}

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
	lost, offered := s.constant(t, h, m)
	t.Logf("UDP in the class: %.3f %% of %d lost", 100*lost, offered)
	enough(t, offered)
	if lost >= 0.001 {
		t.Errorf("of 55 Mbit/s of UDP with 60 reserved %.2f %% is lost, want less than 0.1", 100*lost)
	}
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
		other := dial(t, h.Namespace, reserve.Mark{})
		wg.Go(func() { datagrams(t, other, pace{bulk: 150}, nil) })
		lost, offered := s.constant(t, h, g.Mark)
		wg.Wait()
		t.Logf("UDP by its own socket: %.3f %% of %d lost", 100*lost, offered)
		enough(t, offered)
		if lost >= 0.001 {
			t.Errorf("beside 150 Mbit/s of UDP %.2f %% is lost, want less than 0.1", 100*lost)
		}
	})
	t.Run("shared socket", func(t *testing.T) {
		c := dial(t, h.Namespace, reserve.Mark{})
		before := s.packets[reserved].Load()
		datagrams(t, c, pace{bulk: 150, reserved: 55}, &[kinds]reserve.Mark{reserved: g.Mark})
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
	lost, _ := s.constant(t, h, reserve.Mark{})
	t.Logf("UDP beside them: %.1f %% lost", 100*lost)
	g := h.active(want(1, class60))
	reservedFlows(t, h, s, g.Mark)
}
