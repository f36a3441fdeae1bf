package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// However many lanes carry what the queues of the TAPs hold, and whether the
// other end has as many or not, each flow stays in order beside others.
func TestQueues(t *testing.T) {
	takeTurn(t)
	s := newSites(t)
	s.join(t, ",queues=4")
	s.background(s.b, "iperf3 -s -p 5300")
	for i, tap := range []string{",queues=4", ",queues=1", ",queues=4,offload=off"} {
		if i > 0 {
			s.retap(t, 1, tap)
		}
		// Other tests want the processors, too: what waits for one meanwhile must
		// find room.
		s.in(s.a, "ip link set dev t txqueuelen 10000")
		s.in(s.b, "ip link set dev t txqueuelen 10000")
		eventually(t, 5*time.Second, func() error { return s.try(s.a, "timeout 3 iperf3 -p 5300 -n 1K -c 10.78.0.2") })
		s.flows(t, tap)
	}
	if n := strings.Count(s.in(s.a, "ls /sys/class/net/t/queues"), "tx-"); n != 4 {
		t.Errorf("the TAP at a has %d queues", n)
	}
}

// flows runs flows of every kind beside each other; what says between what.
func (s *sites) flows(t *testing.T, what string) {
	t.Helper()
	const mbit, seconds, segment = 6 * 40, 2, 1361
	type upload struct {
		mbit        float64
		retransmits int
		err         error
	}
	uploads, silent, talking := make(chan upload, 1), make(chan numbered, 1), make(chan numbered, 1)
	go func() {
		var u upload
		u.mbit, u.retransmits, u.err = s.iperf(fmt.Sprintf("-t %d -P 6 -b %dM -C cubic -c 10.78.0.2", seconds, mbit/6))
		uploads <- u
	}()
	a, b := s.pair(t), s.pair(t)
	go func() { silent <- a.number(nil, 30_000, 20_000, 0) }()
	go func() { talking <- b.number(nil, 7500, 5000, 16) }()
	rtts, lost := s.pings(t, 75)
	u, one, two := <-uploads, <-silent, <-talking
	t.Logf("%s: UDP: %v; both ways: %v; TCP: %.0f Mbit/s, %d segments sent again; pings: p50 %v, p99 %v, %d lost",
		what, one, two, u.mbit, u.retransmits, percentile(rtts, 50), percentile(rtts, 99), lost)
	for _, n := range []numbered{one, two} {
		if n.err != nil || n.late != 0 || n.came < n.sent-n.sent/100 {
			t.Errorf("%s: UDP: %v, %v", what, n, n.err)
		}
	}
	if most := mbit * 1_000_000 / 8 * seconds / segment / 50; u.err != nil || u.retransmits > most {
		t.Errorf("%s: TCP: %.0f Mbit/s, %d segments sent again of which %d may be; %v", what, u.mbit, u.retransmits, most, u.err)
	}
	if lost > 2 {
		t.Errorf("%s: %d pings lost", what, lost)
	}
}

// A numbered is what became of a flow of numbered datagrams.
type numbered struct {
	sent, came int
	late       int // came after one with a higher number
	err        error
}

func (n numbered) String() string {
	return fmt.Sprintf("%d of %d came, %d late", n.came, n.sent, n.late)
}

// A pair is two sockets, one at a and the other at b.
type pair struct{ from, to *net.UDPConn }

func (s *sites) pair(t *testing.T) (p pair) {
	t.Helper()
	s.within(s.b, func() (err error) {
		p.to, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.78.0.2:0")))
		return err
	})
	t.Cleanup(func() { _ = p.to.Close() })
	if err := deepen(p.to); err != nil {
		t.Fatal(err)
	}
	s.within(s.a, func() (err error) {
		p.from, err = net.DialUDP("udp4", nil, p.to.LocalAddr().(*net.UDPAddr))
		return err
	})
	t.Cleanup(func() { _ = p.from.Close() })
	return p
}

// number sends datagrams with numbers from a to b, so many a second, until there are
// count or it is closed, and counts how they come. If answered isn't 0, each so many of them are answered, the first
// before the others are sent: the kernel moves a flow to the queue of its TAP by
// which the answers come.
func (p pair) number(until <-chan struct{}, count, perSecond, answered int) (n numbered) {
	type end struct {
		sent int
		err  error
	}
	ends := make(chan end, 1)
	go func() {
		sent, err := sendNumbers(until, p.from, count, perSecond, answered > 0)
		ends <- end{sent, err}
	}()
	b := make([]byte, 300)
	for next := 0; next < count; {
		_ = p.to.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, peer, err := p.to.ReadFromUDPAddrPort(b)
		if err != nil {
			break // the last ones are lost
		}
		i := int(binary.BigEndian.Uint32(b))
		n.came++
		if i < next {
			n.late++
		}
		next = max(next, i+1)
		if answered > 0 && i%answered == 0 {
			_, _ = p.to.WriteToUDPAddrPort(b[:4], peer)
		}
	}
	e := <-ends
	n.sent, n.err = e.sent, e.err
	return n
}

// sendNumbers sends up to count numbered datagrams of 200 bytes.
func sendNumbers(until <-chan struct{}, c *net.UDPConn, count, perSecond int, await bool) (sent int, err error) {
	b := make([]byte, 200)
	start := time.Now()
	for i := range count {
		select {
		case <-until:
			return i, nil
		default:
		}
		for time.Until(start.Add(time.Duration(i)*time.Second/time.Duration(perSecond))) > time.Millisecond {
			time.Sleep(time.Millisecond) // it is the pace
		}
		binary.BigEndian.PutUint32(b, uint32(i))
		if _, err := c.Write(b); err != nil {
			return i, err
		}
		if i == 0 && await {
			_ = c.SetReadDeadline(start.Add(3 * time.Second))
			if _, err := c.Read(make([]byte, 4)); err != nil {
				return i, err
			}
			start = time.Now()
		}
	}
	return count, nil
}

// deepen gives a socket room for all that a test sends.
func deepen(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var e error
	err = raw.Control(func(fd uintptr) { e = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) })
	return errors.Join(err, e)
}
