//go:build linux

package lan

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/overlay/poll"
)

// join joins two homes by their proxies' ports, as agents do: what one captures
// the other writes. It returns where the longest frame of each direction is
// noted, and the number of frames that a port didn't take.
func join(t testing.TB, x, y *home) (longest *[2]atomic.Int64, refused *atomic.Int64) {
	longest, refused = new([2]atomic.Int64), new(atomic.Int64)
	var stop atomic.Bool
	var lanes sync.WaitGroup
	lane := func(from, to *Port, longest *atomic.Int64) {
		p, err := poll.New()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = p.Close() }()
		for q := range from.Queues() {
			if _, err := p.Add(from.FD(q)); err != nil {
				t.Error(err)
				return
			}
		}
		b := overlay.NewBatch()
		queue := 0
		for !stop.Load() {
			if err := p.Wait(50*time.Millisecond, false); err != nil {
				t.Error(err)
				return
			}
			queue = (queue + 1) % from.Queues()
			if err := from.Read(queue, b); err != nil {
				t.Error(err)
				return
			}
			for i := range b.Frames() {
				f := &b.Frames()[i]
				longest.Store(max(longest.Load(), int64(f.Len())))
				if h, ok := f.Parse(f.Head); ok { // scattered, as if it came from far
					f.Body = [][]byte{f.Head[h.Len : h.Len+(f.Len()-h.Len)/3], f.Head[h.Len+(f.Len()-h.Len)/3:]}
					f.Head = f.Head[:h.Len]
				}
			}
			refused.Add(int64(len(b.Frames()) - to.Write(0, b.Frames())))
		}
	}
	lanes.Go(func() { lane(x.port, y.port, &longest[0]) })
	lanes.Go(func() { lane(y.port, x.port, &longest[1]) })
	t.Cleanup(func() {
		stop.Store(true)
		lanes.Wait()
	})
	return longest, refused
}

// transfer sends n bytes from one end to the other, and expects them there.
func transfer(t testing.TB, from, to net.Conn, n int64) {
	_ = from.SetDeadline(time.Now().Add(20 * time.Second))
	_ = to.SetDeadline(time.Now().Add(20 * time.Second))
	sent, got := sha256.New(), sha256.New()
	var all sync.WaitGroup
	all.Go(func() {
		r := rand.NewChaCha8([32]byte{byte(n)})
		if _, err := io.CopyBuffer(io.MultiWriter(from, sent), io.LimitReader(r, n), make([]byte, 1<<16)); err != nil {
			t.Error(err)
		}
		_ = from.(*net.TCPConn).CloseWrite()
	})
	if m, err := io.Copy(got, to); m != n || err != nil {
		t.Errorf("%d of %d bytes came: %v", m, n, err)
	}
	all.Wait()
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Error("other bytes came than were sent")
	}
}

// connect returns the ends of a TCP connection from a machine of x to one of y,
// whose address is given.
func connect(t testing.TB, x, y *home, address string) (a, b net.Conn) {
	t.Helper()
	var l net.Listener
	var err error
	y.a.Do(func() { l, err = net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	x.a.Do(func() { a, err = (&net.Dialer{Timeout: 10 * time.Second}).Dial("tcp", l.Addr().String()) })
	if err == nil {
		b, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// Streams between machines of two LANs pass both proxies, in super-frames where
// the machines make such.
func TestStreams(t *testing.T) {
	for _, sender := range []string{"true", "ethtool -K v0 tso off gso off"} {
		for _, address := range []string{"10.55.0.17:0", "[fd55::17]:0"} {
			t.Run(fmt.Sprint(address, " ", sender), func(t *testing.T) {
				x, y := newHomeAt(t, 1), newHomeAt(t, 17)
				x.a.Run(sender)
				longest, refused := join(t, x, y)
				a, b := connect(t, x, y, address)
				var both sync.WaitGroup
				both.Go(func() { transfer(t, a, b, 3_000_001) })
				both.Go(func() { transfer(t, b, a, 3_000_003) })
				both.Wait()
				if longest[1].Load() <= 1514 || (longest[0].Load() > 1514) != (sender == "true") {
					t.Errorf("the longest frames were %d and %d bytes", longest[0].Load(), longest[1].Load())
				}
				if n := refused.Load(); n != 0 {
					t.Errorf("%d frames were not taken", n)
				}
			})
		}
	}
}

// BenchmarkStream is TCP between machines of two LANs through lanes that do
// nothing else.
func BenchmarkStream(b *testing.B) {
	x, y := newHomeAt(b, 1), newHomeAt(b, 17)
	join(b, x, y)
	from, to := connect(b, x, y, "10.55.0.17:0")
	const chunk = 128 << 10
	buf := make([]byte, chunk)
	b.SetBytes(chunk)
	var done sync.WaitGroup
	done.Go(func() { _, _ = io.CopyN(io.Discard, to, int64(b.N)*chunk) })
	b.ResetTimer()
	for range b.N {
		if _, err := from.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	done.Wait()
}
