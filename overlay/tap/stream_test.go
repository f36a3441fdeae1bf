//go:build linux

package tap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"farlan/overlay"
	"farlan/overlay/nstest"
	"farlan/overlay/poll"
)

// A cable is two machines, each with a TAP, and a lane a queue and direction
// that carries frames between the TAPs, as agents do.
//
//	a 10.77.0.1, fd77::1 ── tap0 ═══ lanes ═══ tap0 ── b 10.77.0.2, fd77::2
type cable struct {
	t       testing.TB
	a, b    *nstest.Namespace
	pa, pb  *Port
	stop    atomic.Bool
	refused atomic.Int64 // frames that a TAP didn't take
	longest [2]atomic.Int64
	watch   func(from *Port, queue int, f *overlay.Frame) // nil: nobody
	scatter bool
}

func newCable(t testing.TB, a, b Config, prepare func(c *cable)) *cable {
	t.Helper()
	c := &cable{t: t, a: nstest.New(t), b: nstest.New(t)}
	a.Name, b.Name = "tap0", "tap0"
	c.pa, c.pb = open(t, c.a, a), open(t, c.b, b)
	for i, n := range []*nstest.Namespace{c.a, c.b} {
		n.IP(fmt.Sprintf("addr add 10.77.0.%d/24 dev tap0", i+1))
		n.IP(fmt.Sprintf("addr add fd77::%d/64 dev tap0 nodad", i+1))
	}
	if prepare != nil {
		prepare(c)
	}
	var lanes sync.WaitGroup
	for q := range c.pa.Queues() {
		lanes.Go(func() { c.lane(0, c.pa, c.pb, q) })
		lanes.Go(func() { c.lane(1, c.pb, c.pa, q) })
	}
	t.Cleanup(func() {
		c.stop.Store(true)
		lanes.Wait()
	})
	return c
}

// lane carries frames of a queue until the cable stops.
func (c *cable) lane(direction int, from, to *Port, queue int) {
	p, err := poll.New()
	if err != nil {
		c.t.Error(err)
		return
	}
	defer func() { _ = p.Close() }()
	if _, err := p.Add(from.FD(queue)); err != nil {
		c.t.Error(err)
		return
	}
	b := overlay.NewBatch()
	pieces := make([][]byte, 0, 1000)
	for !c.stop.Load() {
		if err := p.Wait(50*time.Millisecond, false); err != nil {
			c.t.Error(err)
			return
		}
		if err := from.Read(queue, b); err != nil {
			c.t.Error(err)
			return
		}
		frames := b.Frames()
		for i := range frames {
			f := &frames[i]
			if c.watch != nil {
				c.watch(from, queue, f)
			}
			if n := int64(f.Len()); n > c.longest[direction].Load() {
				c.longest[direction].Store(n)
			}
			if c.scatter && f.Super != 0 {
				h, _ := f.Parse(f.Head)
				f.Body = pieces
				scatter(f, f.Head, h.Len)
				n := to.Write(queue, frames[i:i+1])
				c.refused.Add(int64(1 - n))
			}
		}
		if c.scatter {
			frames = ordinary(frames)
		}
		c.refused.Add(int64(len(frames) - to.Write(queue, frames)))
	}
}

// ordinary returns the frames that are no super-frames.
func ordinary(frames []overlay.Frame) []overlay.Frame {
	n := 0
	for _, f := range frames {
		if f.Super == 0 {
			frames[n] = f
			n++
		}
	}
	return frames[:n]
}

// address returns that of a (1) or b (2) in the family.
func address(family string, i int) netip.Addr {
	if family == "v4" {
		return netip.AddrFrom4([4]byte{10, 77, 0, byte(i)})
	}
	return netip.MustParseAddr(fmt.Sprintf("fd77::%d", i))
}

// connect returns the ends of a TCP connection from a to b.
func (c *cable) connect(family string) (a, b net.Conn) {
	c.t.Helper()
	var l net.Listener
	var err error
	c.b.Do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(address(family, 2), 0).String()) })
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	// A dialler's goroutines for several addresses would not be in a.
	c.a.Do(func() { a, err = new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String()) })
	if err == nil {
		b, err = l.Accept()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
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

// ends are the pairs of ports that streams and datagrams must pass.
var ends = []struct {
	name    string
	a, b    Config
	scatter bool
}{
	{"offload", Config{}, Config{}, false},
	{"offload, scattered", Config{}, Config{}, true},
	{"plain receiver", Config{}, Config{Plain: true}, true},
	{"plain sender", Config{Plain: true}, Config{}, false},
	{"plain", Config{Plain: true}, Config{Plain: true}, false},
	{"jumbo", Config{MTU: 9000}, Config{MTU: 9000}, true},
}

func TestStreams(t *testing.T) {
	for _, e := range ends {
		for _, family := range []string{"v4", "v6"} {
			t.Run(e.name+" "+family, func(t *testing.T) {
				c := newCable(t, e.a, e.b, func(c *cable) { c.scatter = e.scatter })
				a, b := c.connect(family)
				var both sync.WaitGroup
				both.Go(func() { transfer(t, a, b, 4_000_001) })
				both.Go(func() { transfer(t, b, a, 4_000_003) })
				both.Wait()
				for i, p := range []*Port{c.pa, c.pb} {
					longest, whole := c.longest[i].Load(), int64(p.MTU()+overlay.MinFrame)
					if p.Offload() && longest <= whole {
						t.Errorf("from %d: no super-frames, %d bytes was the longest", i, longest)
					}
					if !p.Offload() && longest > whole {
						t.Errorf("from %d: a frame of %d bytes from a plain port", i, longest)
					}
					if p.Dropped() != 0 {
						t.Errorf("from %d: %d frames dropped", i, p.Dropped())
					}
				}
				if n := c.refused.Load(); n != 0 {
					t.Errorf("%d frames were not taken", n)
				}
			})
		}
	}
}

func TestDatagrams(t *testing.T) {
	const segment, count = 1200, 20
	for _, e := range ends {
		for _, family := range []string{"v4", "v6"} {
			t.Run(e.name+" "+family, func(t *testing.T) {
				c := newCable(t, e.a, e.b, func(c *cable) { c.scatter = e.scatter })
				from, to := c.sockets(family)
				all := make([]byte, segment*count-5)
				for i := range all {
					all[i] = byte(i * 7 >> 3)
				}
				control := make([]byte, unix.CmsgSpace(2))
				h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
				h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
				h.SetLen(unix.CmsgLen(2))
				binary.NativeEndian.PutUint16(control[unix.CmsgLen(0):], segment)
				if _, _, err := from.WriteMsgUDPAddrPort(all, control, to.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
					t.Fatal(err)
				}
				_ = to.SetReadDeadline(time.Now().Add(5 * time.Second))
				got := make([]byte, 2000)
				for i := range count {
					want := all[i*segment : min(len(all), (i+1)*segment)]
					n, err := to.Read(got)
					if err != nil || !bytes.Equal(got[:n], want) {
						t.Fatalf("datagram %d: %d bytes, %v", i, n, err)
					}
				}
				if longest := c.longest[0].Load(); c.pa.Offload() && longest < segment*count {
					t.Errorf("no super-frame, %d bytes was the longest", longest)
				}
			})
		}
	}
}

// sockets returns a socket in each namespace.
func (c *cable) sockets(family string) (a, b *net.UDPConn) {
	c.t.Helper()
	for i, n := range []*nstest.Namespace{c.a, c.b} {
		var s *net.UDPConn
		var err error
		n.Do(func() {
			s, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address(family, i+1), 0)))
		})
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { _ = s.Close() })
		a, b = b, s
	}
	return a, b
}

// Segments of TCP become as short as the TAP that they are written to demands;
// datagrams are not taken.
func TestNarrow(t *testing.T) {
	n := nstest.New(t)
	p := open(t, n, Config{Name: "tap0", MTU: 1280})
	for kind, want := range map[overlay.Super]int{overlay.SuperTCP4: 1, overlay.SuperTCP6: 1, overlay.SuperUDP: 0} {
		f := superFrame(t, kind, 0, 20000, 1400)
		if w := p.Write(0, []overlay.Frame{*f}); w != want {
			t.Errorf("kind %d: wrote %d frames, want %d", kind, w, want)
		}
	}
	crumbs := superFrame(t, overlay.SuperTCP4, 0, 20000, 1000)
	payload := bytes.Join(crumbs.Body, nil)
	crumbs.Body = nil
	for len(crumbs.Body) <= maxPieces {
		crumbs.Body = append(crumbs.Body, payload[:1])
	}
	if w := p.Write(0, []overlay.Frame{*crumbs}); w != 0 {
		t.Errorf("took a frame of %d pieces", len(crumbs.Body))
	}
}

// Both directions of a flow stay on one queue, so that its frames stay in
// order.
func TestQueues(t *testing.T) {
	type flow struct {
		port  *Port
		ports [2]uint16
	}
	var mu sync.Mutex
	queues := make(map[flow]int)
	used := make(map[int]int)
	c := newCable(t, Config{Queues: 2}, Config{Queues: 2}, func(c *cable) {
		c.watch = func(from *Port, queue int, f *overlay.Frame) {
			h := f.Head
			if len(h) < 54 || h[12] != 8 || h[23] != 6 {
				return
			}
			k := flow{from, [2]uint16{binary.BigEndian.Uint16(h[34:]), binary.BigEndian.Uint16(h[36:])}}
			mu.Lock()
			defer mu.Unlock()
			old, known := queues[k]
			if !known {
				queues[k] = queue
				used[queue]++
			} else if old != queue {
				c.t.Errorf("flow %v went from queue %d to %d", k.ports, old, queue)
				queues[k] = queue
			}
		}
	})
	if c.pa.Queues() != 2 || c.pa.FD(0) == c.pa.FD(1) {
		t.Fatalf("%d queues", c.pa.Queues())
	}
	var all sync.WaitGroup
	for range 8 {
		a, b := c.connect("v4")
		all.Go(func() { transfer(t, a, b, 500_000) })
		all.Go(func() { transfer(t, b, a, 500_000) })
	}
	all.Wait()
	mu.Lock()
	defer mu.Unlock()
	if len(queues) != 16 || len(used) != 2 {
		t.Errorf("%d flows, on queues %v; want 16 on two", len(queues), used)
	}
}

// What strangers make up is refused, or does no harm; the TAP works afterwards.
func TestNonsense(t *testing.T) {
	n := nstest.New(t)
	n.IP("link add br0 type bridge mcast_snooping 0 && ip link set br0 up")
	in := open(t, n, Config{Name: "in", Bridge: "br0"})
	out := open(t, n, Config{Name: "out", Bridge: "br0"})
	plain := open(t, n, Config{Name: "plain", Bridge: "br0", Plain: true})
	r := rand.New(rand.NewPCG(1, 2))
	b := overlay.NewBatch()
	taken := 0
	for i := range 3000 {
		kind := overlay.Super(1 + i%3)
		f := superFrame(t, kind, i%2, 100+r.IntN(60000), 1+r.IntN(3000))
		for range r.IntN(4) {
			f.Head[12+r.IntN(len(f.Head)-12)] = byte(r.Uint32())
		}
		switch r.IntN(6) {
		case 0:
			f.Start = uint16(r.Uint32())
		case 1:
			f.Offset = uint16(r.Uint32())
		case 2:
			f.Super, f.Segment = 0, 0
		case 3:
			f.Super, f.Segment, f.Body = 0, 0, f.Body[:min(1, len(f.Body))]
		case 4:
			f.ECN = true
		}
		taken += in.Write(0, []overlay.Frame{*f})
		plain.Write(0, []overlay.Frame{*f})
		for _, p := range []*Port{in, out, plain} {
			if err := p.Read(0, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d of 3000 frames were taken", taken)
	rest := newReader(out)
	in.Write(0, finished(arpRequest()))
	rest.next(t, func(f *overlay.Frame) bool { return bytes.Equal(f.Head, arpRequest()) })
}

// BenchmarkStream is TCP from one machine to the other through lanes that do
// nothing else.
func BenchmarkStream(b *testing.B) {
	for _, e := range ends {
		b.Run(e.name, func(b *testing.B) {
			c := newCable(b, e.a, e.b, nil)
			from, to := c.connect("v4")
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
		})
	}
}
