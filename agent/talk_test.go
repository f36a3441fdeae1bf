package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// A talk is what a program sees of the overlay: b asks a something each talkEvery over
// their TAPs, and a answers, whatever happens below.
type talk struct {
	mu   sync.Mutex
	back []answer // in the order in which they came
}

// An answer is when a question left that was answered, and when that came back.
type answer struct{ sent, came time.Time }

const (
	talkEvery = 20 * time.Millisecond
	talkPort  = 7777
)

// talk runs one until the test ends.
func (s *sites) talk(t *testing.T) *talk {
	t.Helper()
	f := new(talk)
	var asks, answers *net.UDPConn
	s.within(s.a, func() (err error) {
		answers, err = net.ListenUDP("udp4", &net.UDPAddr{Port: talkPort})
		return err
	})
	s.within(s.b, func() (err error) {
		asks, err = net.ListenUDP("udp4", nil)
		return err
	})
	var tasks sync.WaitGroup
	over := make(chan struct{})
	start := time.Now()
	tasks.Go(func() {
		for b := make([]byte, 64); ; {
			n, from, err := answers.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = answers.WriteToUDPAddrPort(b[:n], from)
			}
		}
	})
	tasks.Go(func() {
		every := time.NewTicker(talkEvery)
		defer every.Stop()
		for {
			select {
			case <-over:
				return
			case now := <-every.C:
				b := binary.BigEndian.AppendUint64(nil, uint64(now.Sub(start)))
				_, _ = asks.WriteToUDP(b, &net.UDPAddr{IP: net.IPv4(10, 78, 0, 1), Port: talkPort})
			}
		}
	})
	tasks.Go(func() {
		for b := make([]byte, 64); ; {
			n, _, err := asks.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil && n == 8 {
				f.mu.Lock()
				f.back = append(f.back, answer{start.Add(time.Duration(binary.BigEndian.Uint64(b))), time.Now()})
				f.mu.Unlock()
			}
		}
	})
	t.Cleanup(func() {
		close(over)
		_, _ = asks.Close(), answers.Close()
		tasks.Wait()
	})
	return f
}

// after returns how long after an instant a question was answered that left since.
func (f *talk) after(since time.Time) (time.Duration, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.back, func(a answer) bool { return a.sent.After(since) })
	if i < 0 {
		return 0, fmt.Errorf("none of the questions of %v is answered", time.Since(since).Round(time.Millisecond))
	}
	return f.back[i].came.Sub(since), nil
}

// talksAgain waits until the talk goes on after an event, which is over now.
func (s *sites) talksAgain(t *testing.T, f *talk, what string, goal time.Duration) {
	t.Helper()
	event := time.Now()
	var took time.Duration
	eventually(t, busySlack*goal, func() (err error) {
		took, err = f.after(event)
		return err
	})
	t.Logf("%s: frames pass again after %v, the goal is %v", what, took.Round(time.Millisecond), goal)
	// A first answer could be chance; from now on all come.
	settled := time.Now()
	eventually(t, busySlack*goal, func() error { _, err := f.after(settled); return err })
}
