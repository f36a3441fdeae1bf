package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// However many lanes carry what the queues of the TAPs hold, and whether the
// other end has as many or not, a flow stays in order while others run beside it.
func TestQueues(t *testing.T) {
	s := newSites(t)
	s.join(t, ",queues=4")
	s.background(s.b, "iperf3 -s -p 5300")
	for _, tap := range []string{",queues=4", ",queues=1", ",queues=4,offload=off"} {
		if tap != ",queues=4" {
			s.retap(t, 1, tap)
		}
		eventually(t, 5*time.Second, func() error { return s.try(s.a, "iperf3 -p 5300 -n 1K -c 10.78.0.2") })
		type upload struct {
			mbit        float64
			retransmits int
			err         error
		}
		uploaded := make(chan upload, 1)
		go func() {
			var u upload
			u.mbit, u.retransmits, u.err = s.iperf(os.Getenv("IPERF"))
			uploaded <- u
		}()
		numbered := make(chan numbered, 1)
		go func() { numbered <- s.number(t, 30_000, 20_000) }()
		rtts, lost := s.pings(t, 75)
		n, u := <-numbered, <-uploaded
		t.Logf("%s: UDP: %v; TCP: %.0f Mbit/s, %d segments sent again; pings: p50 %v, p99 %v, %d lost",
			tap, n, u.mbit, u.retransmits, percentile(rtts, 50), percentile(rtts, 99), lost)
		if err := errors.Join(n.err, u.err); err != nil {
			t.Error(err)
		}
	}
}

// What became of a flow of numbered datagrams.
type numbered struct {
	sent, came, late int // late came after one with a higher number
	moved            int // datagrams of those
	err              error
}

func (n numbered) String() string {
	return fmt.Sprintf("%d of %d came, %d of them late", n.came, n.sent, n.late)
}

// number sends datagrams with numbers from a to b, so many a second, and counts
// how they come.
func (s *sites) number(t *testing.T, count, perSecond int) (n numbered) {
	t.Helper()
	n.sent = count
	var to, from *net.UDPConn
	s.within(s.b, func() (err error) {
		if to, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.78.0.2:0"))); err != nil {
			return err
		}
		raw, err := to.SyscallConn()
		if err != nil {
			return err
		}
		return errors.Join(raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		}), err)
	})
	defer to.Close()
	s.within(s.a, func() (err error) {
		from, err = net.DialUDP("udp4", nil, to.LocalAddr().(*net.UDPAddr))
		return err
	})
	defer from.Close()
	sent := make(chan error, 1)
	go func() {
		b := make([]byte, 200)
		start := time.Now()
		for i := range count {
			for due := start.Add(time.Duration(i) * time.Second / time.Duration(perSecond)); time.Until(due) > time.Millisecond; {
				time.Sleep(time.Millisecond)
			}
			binary.BigEndian.PutUint32(b, uint32(i))
			if _, err := from.Write(b); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	b := make([]byte, 300)
	next, echo := uint32(0), os.Getenv("ECHO") != ""
	for next < uint32(count) {
		_ = to.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, peer, err := to.ReadFromUDPAddrPort(b)
		if err != nil {
			break
		}
		i := binary.BigEndian.Uint32(b)
		n.came++
		if i < next {
			n.late++
			continue
		}
		next = i + 1
		if echo && i%16 == 0 {
			_, _ = to.WriteToUDPAddrPort(b[:4], peer)
		}
	}
	n.err = <-sent
	return n
}
