package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// beatEvery is how often a beat asks.
const beatEvery = 10 * time.Millisecond

// A beat asks a machine all the time whether it is there, by ICMP echoes, and notes when what
// answer comes.
type beat struct {
	conn net.PacketConn
	id   uint16 // no other's
	to   netip.Addr
	stop context.CancelFunc
	done sync.WaitGroup

	mu   sync.Mutex
	sent []time.Time // by number
	got  []arrival
}

// An arrival is an answer that came.
type arrival struct {
	number uint16 // of 65,536: beats last less than ten minutes
	at     time.Time
}

// listenPacket opens a socket on a host.
func (h Host) listenPacket(t *testing.T, network, address string) (c net.PacketConn) {
	t.Helper()
	err := inNamespace(h.Namespace, func() (err error) {
		c, err = new(net.ListenConfig).ListenPacket(t.Context(), network, address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// beats begins to ask from a host.
func (h Host) beats(t *testing.T, to netip.Addr) *beat {
	t.Helper()
	b := &beat{conn: h.listenPacket(t, "ip4:icmp", "0.0.0.0"), id: uint16(beatIDs.Add(1)), to: to}
	ctx, stop := context.WithCancel(t.Context())
	b.stop = stop
	b.done.Go(b.read)
	b.done.Go(func() { b.ask(ctx) })
	t.Cleanup(b.end)
	return b
}

// end ends the asking, and waits for what is on its way.
func (b *beat) end() {
	b.stop()
	_ = b.conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	b.done.Wait()
}

const echoRequest, echoReply = 8, 0 // RFC 792

var beatIDs atomic.Uint32

func (b *beat) ask(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		b.mu.Lock()
		number := uint16(len(b.sent))
		b.sent = append(b.sent, time.Now())
		b.mu.Unlock()
		m := make([]byte, 16)
		m[0] = echoRequest
		binary.BigEndian.PutUint16(m[4:], b.id)
		binary.BigEndian.PutUint16(m[6:], number)
		sum := uint32(echoRequest)<<8 + uint32(b.id) + uint32(number)
		binary.BigEndian.PutUint16(m[2:], ^uint16(sum+sum>>16))
		_, _ = b.conn.WriteTo(m, &net.IPAddr{IP: b.to.AsSlice()}) // it may be unreachable
	}
}

func (b *beat) read() {
	m := make([]byte, 1500)
	for {
		n, from, err := b.conn.ReadFrom(m)
		if err != nil {
			return
		}
		if n < 8 || m[0] != echoReply || binary.BigEndian.Uint16(m[4:]) != b.id || from.String() != b.to.String() {
			continue
		}
		b.mu.Lock()
		b.got = append(b.got, arrival{binary.BigEndian.Uint16(m[6:]), time.Now()})
		b.mu.Unlock()
	}
}

// gap returns the longest time without an answer that ended after a moment, beyond what is
// between two answers anyhow, and when it ended; it is false if there was no answer since.
func (b *beat) gap(since time.Time) (longest time.Duration, end time.Time, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.got, func(a arrival) bool { return a.at.After(since) })
	if i < 0 {
		return time.Since(since), time.Time{}, false
	}
	for i = max(i, 1); i < len(b.got); i++ {
		if d := b.got[i].at.Sub(b.got[i-1].at) - beatEvery; d > longest {
			longest, end = d, b.got[i].at
		}
	}
	return longest, end, true
}

// counts returns how many were asked, were answered, and came more often than once.
func (b *beat) counts() (asked, answered, twice int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := make(map[uint16]bool)
	for _, a := range b.got {
		if seen[a.number] {
			twice++
		}
		seen[a.number] = true
	}
	return len(b.sent), len(seen), twice
}

// answered returns when the first answer came to what was asked since a moment; without one
// it returns an error.
func (b *beat) answered(since time.Time) (time.Time, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.got {
		if b.sent[a.number].After(since) {
			return a.at, nil
		}
	}
	return time.Time{}, errors.New("no answer since it moved")
}

// between returns how many were asked between two moments, and how many of those were answered.
func (b *beat) between(from, to time.Time) (asked, answered int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	got := make(map[uint16]bool)
	for _, a := range b.got {
		got[a.number] = true
	}
	for i, at := range b.sent {
		if at.After(from) && at.Before(to) {
			asked++
			if got[uint16(i)] {
				answered++
			}
		}
	}
	return asked, answered
}

// A stream is a TCP transfer to a machine that sends back what it gets.
type stream struct {
	conn net.Conn
	done sync.WaitGroup
	stop context.CancelFunc

	mu         sync.Mutex
	sent, back int
	err        error
}

// streams begins a transfer from a host to an echo server: 1 KB, both ways, every 10 ms.
func (h Host) streams(t *testing.T, to netip.AddrPort) *stream {
	t.Helper()
	s := &stream{}
	err := inNamespace(h.Namespace, func() (err error) {
		s.conn, err = new(net.Dialer).DialContext(within(t, 10*time.Second), "tcp4", to.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	s.stop = func() { stop(); s.conn.Close() }
	s.done.Go(func() { s.write(ctx) })
	s.done.Go(s.read)
	t.Cleanup(func() { s.stop(); s.done.Wait() })
	return s
}

// block returns the bytes of a transfer from offset on, up to the next KB.
func block(offset int) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(offset/1024))
	return bytes.Repeat(b, 256)[offset%1024:]
}

func (s *stream) write(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for offset := 0; ; offset += 1024 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if _, err := s.conn.Write(block(offset)); err != nil {
			s.fail(err)
			return
		}
		s.mu.Lock()
		s.sent = offset + 1024
		s.mu.Unlock()
	}
}

func (s *stream) read() {
	b := make([]byte, 1024)
	for offset := 0; ; offset += 1024 {
		if _, err := io.ReadFull(s.conn, b); err != nil {
			s.fail(err)
			return
		}
		if !bytes.Equal(b, block(offset)) {
			s.fail(fmt.Errorf("other bytes came back at %d", offset))
			return
		}
		s.mu.Lock()
		s.back = offset + 1024
		s.mu.Unlock()
	}
}

func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && !errors.Is(err, net.ErrClosed) {
		s.err = err
	}
}

// goesOn waits until all came back that was sent up to now.
func (s *stream) goesOn(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	want := s.sent
	s.mu.Unlock()
	eventually(t, 20*time.Second, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err == nil && s.back < want {
			return fmt.Errorf("%d bytes of %d came back", s.back, want)
		}
		return nil
	})
	if s.err != nil {
		t.Fatalf("the transfer: %v", s.err)
	}
}
