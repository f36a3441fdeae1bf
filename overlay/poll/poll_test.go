//go:build linux

package poll

import (
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pipe returns both ends of a pipe.
func pipe(t testing.TB) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(p[0]); _ = unix.Close(p[1]) })
	return p[0], p[1]
}

func newPoller(t testing.TB) *Poller {
	t.Helper()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func add(t testing.TB, p *Poller, fd int) int {
	t.Helper()
	n, err := p.Add(fd)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func wait(t testing.TB, p *Poller, timeout time.Duration, eager bool) time.Duration {
	t.Helper()
	start := time.Now()
	if err := p.Wait(timeout, eager); err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

// What is readable is ready, as long as it is.
func TestReady(t *testing.T) {
	for _, eager := range []bool{false, true} {
		p := newPoller(t)
		r1, w1 := pipe(t)
		r2, w2 := pipe(t)
		a, b := add(t, p, r1), add(t, p, r2)
		steps := []struct {
			do   func()
			a, b bool
		}{
			{func() {}, false, false},
			{func() { _, _ = unix.Write(w2, []byte("x")) }, false, true},
			{func() {}, false, true}, // still
			{func() { _, _ = unix.Write(w1, []byte("x")) }, true, true},
			{func() { _, _ = unix.Read(r2, make([]byte, 9)) }, true, false},
			{func() { p.Remove(a) }, false, false},
			{func() { p.Remove(a) }, false, false},
		}
		for i, s := range steps {
			s.do()
			wait(t, p, 10*time.Millisecond, eager)
			if p.Ready(a) != s.a || p.Ready(b) != s.b {
				t.Fatalf("eager %v, step %d: %v, %v", eager, i, p.Ready(a), p.Ready(b))
			}
		}
	}
}

func TestTimeout(t *testing.T) {
	p := newPoller(t)
	if d := wait(t, p, 30*time.Millisecond, false); d < 25*time.Millisecond {
		t.Errorf("waited %v", d)
	}
	// Eager sleep is short; it may be cut shorter by the runtime.
	if d := wait(t, p, 10*time.Second, true); d > 5*time.Second {
		t.Errorf("waited eagerly for %v", d)
	}
	if d := wait(t, p, 0, true); d > time.Second {
		t.Errorf("waited %v for nothing", d)
	}
}

// No Wake is lost, however they meet Wait; the waiter sees what was done before.
func TestWake(t *testing.T) {
	p := newPoller(t)
	var mu sync.Mutex
	work, done := 0, make(chan struct{})
	const total = 20_000
	go func() {
		defer close(done)
		for range total {
			mu.Lock()
			work++
			mu.Unlock()
			p.Wake()
		}
	}()
	for got := 0; got < total; {
		if d := wait(t, p, 10*time.Second, false); d > 9*time.Second {
			t.Fatalf("slept through a Wake, with %d of %d seen", got, total)
		}
		mu.Lock()
		got = work
		mu.Unlock()
	}
	<-done
}

func TestWaitDoesNotAllocate(t *testing.T) {
	p := newPoller(t)
	r, w := pipe(t)
	add(t, p, r)
	_, _ = unix.Write(w, []byte("x"))
	for _, eager := range []bool{false, true} {
		if n := testing.AllocsPerRun(100, func() { _ = p.Wait(time.Millisecond, eager) }); n != 0 {
			t.Errorf("eager %v: %v allocations", eager, n)
		}
	}
}

func BenchmarkWait(b *testing.B) {
	p := newPoller(b)
	r, w := pipe(b)
	add(b, p, r)
	_, _ = unix.Write(w, []byte("x"))
	for b.Loop() {
		_ = p.Wait(time.Second, true)
	}
}
