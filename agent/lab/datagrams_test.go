package lab

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

const (
	datagramEvery = 4 * time.Millisecond
	datagramBytes = 1000 // of UDP payload: 2 Mbit/s
	datagramPort  = 9    // any
	// datagramAnswer is of how many one is answered: from whom nothing comes agents don't know
	// where it is, and send what is for it to everybody.
	datagramAnswer = 25
)

// datagrams are a steady flow of UDP from one machine to another, and when what of it came.
type datagrams struct {
	mu   sync.Mutex
	sent []time.Time // by number
	got  []time.Time // in the order in which they came
}

// sends begins a flow from a host to another, whose address it is, that ends with the test.
func (h Host) sends(t *testing.T, far Host, to netip.Addr) *datagrams {
	t.Helper()
	f := &datagrams{}
	at := netip.AddrPortFrom(to, datagramPort)
	in := far.listenPacket(t, "udp4", at.String())
	out := h.listenPacket(t, "udp4", "0.0.0.0:0")
	stop := make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() { f.send(out, at, stop) })
	both.Go(func() { f.receive(in) })
	t.Cleanup(func() { close(stop); in.Close(); both.Wait() })
	return f
}

func (f *datagrams) send(out net.PacketConn, to netip.AddrPort, stop <-chan struct{}) {
	tick := time.NewTicker(datagramEvery)
	defer tick.Stop()
	b, at := make([]byte, datagramBytes), net.UDPAddrFromAddrPort(to)
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		f.mu.Lock()
		binary.BigEndian.PutUint32(b, uint32(len(f.sent)))
		f.sent = append(f.sent, time.Now())
		f.mu.Unlock()
		_, _ = out.WriteTo(b, at)
	}
}

func (f *datagrams) receive(in net.PacketConn) {
	b := make([]byte, 2*datagramBytes)
	for {
		n, from, err := in.ReadFrom(b)
		if err != nil {
			return
		}
		if n != datagramBytes {
			continue
		}
		f.mu.Lock()
		f.got = append(f.got, time.Now())
		answer := len(f.got)%datagramAnswer == 0
		f.mu.Unlock()
		if answer {
			_, _ = in.WriteTo(b[:4], from)
		}
	}
}

// counts returns how many were sent and came so far.
func (f *datagrams) counts() (sent, came int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.sent), len(f.got)
}

// gap returns the longest time since a moment in which none came, until now.
func (f *datagrams) gap(since time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, _ := slices.BinarySearchFunc(f.got, since, time.Time.Compare)
	last, longest := since, time.Duration(0)
	for _, at := range append(slices.Clone(f.got[i:]), time.Now()) {
		longest, last = max(longest, at.Sub(last)), at
	}
	return longest.Round(time.Millisecond)
}
