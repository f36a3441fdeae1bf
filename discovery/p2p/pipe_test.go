package p2p

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"farlan/overlay"
)

// A piper is an agent with pipes, and what came out of them.
type piper struct {
	*agent

	mu    sync.Mutex
	pipes []*Pipe // that are there
	came  []string
	block chan struct{} // until it is closed nothing is taken; nil: at once
}

// startPiper starts one behind a switch for its UDP.
func startPiper(t *testing.T, i int, udp *atomic.Bool, seeds ...Seed) *piper {
	t.Helper()
	p := &piper{}
	u, l := port(t)
	p.agent = startWith(t, testNetwork(1), i, []net.PacketConn{cutConn{u, udp}}, func(c *Config) {
		c.Listeners, c.Bootstrap = []net.Listener{l}, seeds
		c.PipeUp = func(x *Pipe) { p.mu.Lock(); p.pipes = append(p.pipes, x); p.mu.Unlock() }
		c.PipeDown = func(x *Pipe) {
			p.mu.Lock()
			p.pipes = slices.DeleteFunc(p.pipes, func(y *Pipe) bool { return x == y })
			p.mu.Unlock()
		}
		c.Piped = func(_ *Pipe, ds [][]byte) {
			p.mu.Lock()
			block := p.block
			for _, d := range ds {
				p.came = append(p.came, string(d))
			}
			p.mu.Unlock()
			if block != nil {
				<-block
			}
		}
	})
	return p
}

// A cutConn is a UDP socket that loses everything while cut is set.
type cutConn struct {
	net.PacketConn
	cut *atomic.Bool
}

func (c cutConn) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		if n, from, err := c.PacketConn.ReadFrom(p); err != nil || !c.cut.Load() {
			return n, from, err
		}
	}
}

func (c cutConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.cut.Load() {
		return len(b), nil
	}
	return c.PacketConn.WriteTo(b, to)
}

func (p *piper) pipe() *Pipe {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pipes) != 1 {
		return nil
	}
	return p.pipes[0]
}

func (p *piper) heard(what string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.came, what)
}

// When UDP is cut, a pipe is there at once although libp2p holds QUIC for alive, it
// carries datagrams both ways in order, and it ends for both.
func TestPipe(t *testing.T) {
	var cut atomic.Bool
	a := startPiper(t, 0, &cut)
	b := startPiper(t, 1, &cut, a.seed)
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	if b.Transport(a.self) != QUIC {
		t.Fatalf("connected by %s", b.Transport(a.self))
	}
	cut.Store(true)
	began := time.Now()
	if err := b.OpenPipe(t.Context(), a.self, []netip.AddrPort{a.seed.Addr}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "both have the pipe", func() bool { return a.pipe() != nil && b.pipe() != nil })
	took := time.Since(began)
	if t.Logf("a pipe after %v", took.Round(time.Millisecond)); took > 500*time.Millisecond {
		t.Errorf("a pipe took %v: QUIC was tried", took)
	}
	if p := b.pipe(); !p.Opened || p.Remote != a.seed.Addr || a.pipe().Opened {
		t.Errorf("opened %v to %v, %v", p.Opened, p.Remote, a.pipe().Opened)
	}
	long := strings.Repeat("y", overlay.MaxDatagram)
	if err := errors.Join(b.pipe().Send([]byte("onetwoend"), 3), b.pipe().Send([]byte(long), 0), a.pipe().Send([]byte("back"), 4)); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "datagrams pass", func() bool { return a.heard(long) && b.heard("back") })
	a.mu.Lock()
	if !slices.Equal(a.came, []string{"one", "two", "end", long}) {
		t.Errorf("%d came: %.40q", len(a.came), a.came)
	}
	a.mu.Unlock()
	if err := b.pipe().Send(make([]byte, overlay.MaxDatagram+1), 0); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("too long: %v", err)
	}
	b.pipe().Close()
	eventually(t, 5*time.Second, "the end is told", func() bool { return a.pipe() == nil && b.pipe() == nil })
}

// What a member doesn't take is dropped, the oldest first, and what waits stays
// bounded; its records still come.
func TestPipeIsBounded(t *testing.T) {
	var cut atomic.Bool
	cut.Store(true)
	a := startPiper(t, 0, &cut)
	b := startPiper(t, 1, &cut, a.seed)
	a.block = make(chan struct{})
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	if err := b.OpenPipe(t.Context(), a.self, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "a pipe", func() bool { return b.pipe() != nil })
	const each, count = 1000, 40_000
	for i := range count {
		d := append([]byte(fmt.Sprintf("%06d", i)), make([]byte, each-6)...)
		if err := b.pipe().Send(d, each); err != nil {
			t.Fatal(err)
		}
	}
	box := b.pipe().box
	box.mu.Lock()
	waits, bytes := len(box.msgs), box.bytes
	box.mu.Unlock()
	if waits > pipeDatagrams || bytes > pipeBytes {
		t.Errorf("%d datagrams of %d bytes wait", waits, bytes)
	}
	lost := b.Counters().Unpiped
	b.Send(a.self, []byte("record"))
	eventually(t, 5*time.Second, "records come beside the pipe", func() bool { return a.got(b.self.Short() + ": record") })
	close(a.block)
	eventually(t, 10*time.Second, "the newest came", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.came) > 0 && strings.HasPrefix(a.came[len(a.came)-1], fmt.Sprintf("%06d", count-1))
	})
	a.mu.Lock()
	came := len(a.came)
	a.mu.Unlock()
	t.Logf("of %d datagrams %d were dropped, %d came", count, lost, came)
	if lost == 0 || int(lost)+came != count {
		t.Errorf("%d dropped and %d came of %d", lost, came, count)
	}
}

// A member that opens pipe after pipe has one.
func TestPipeReplaced(t *testing.T) {
	var cut atomic.Bool
	cut.Store(true)
	a := startPiper(t, 0, &cut)
	b := startPiper(t, 1, &cut, a.seed)
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	for range 5 {
		_ = b.OpenPipe(t.Context(), a.self, nil)
	}
	// The two may have seen them in another order, and keep none: whoever needs one opens
	// it again.
	open := func() bool { return a.pipe() != nil && b.pipe() != nil }
	eventually(t, 10*time.Second, "one pipe", func() bool {
		if !open() && b.pipe() == nil {
			_ = b.OpenPipe(t.Context(), a.self, nil)
		}
		p := b.pipe()
		return open() && p != nil && p.Send([]byte("hello"), 0) == nil && a.heard("hello")
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.OpenPipe(ctx, a.self, nil); err == nil {
		t.Error("a pipe was opened after the end")
	}
}

// An agent holds as many pipes as it may; one that replaces another is no more.
func TestPipesAreBounded(t *testing.T) {
	n := &Node{pipes: make(map[overlay.AgentID]*Pipe)}
	n.cfg.PipeUp = func(*Pipe) {}
	for i := range 2 * maxPipes {
		_, ok := n.addPipe(&Pipe{Peer: overlay.AgentID{byte(i), byte(i >> 8)}})
		if ok != (i < maxPipes) {
			t.Fatalf("pipe %d is taken: %v", i, ok)
		}
	}
	if old, ok := n.addPipe(&Pipe{Peer: overlay.AgentID{1}}); !ok || old == nil || len(n.pipes) != maxPipes {
		t.Errorf("a new one of the same member is taken: %v; %d pipes", ok, len(n.pipes))
	}
}

func FuzzReadPipe(f *testing.F) {
	f.Add([]byte("\x00\x03one\x00\x03two\xff\xff"))
	f.Add([]byte("\x00\x00"))
	f.Add([]byte("\x00\x05cut"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		err := readPipe(bytes.NewReader(b), func(ds [][]byte) {
			for _, d := range ds {
				if len(d) == 0 || len(d) > overlay.MaxDatagram {
					t.Fatalf("a datagram of %d bytes", len(d))
				}
				again = append(binary.BigEndian.AppendUint16(again, uint16(len(d))), d...)
			}
		})
		if err == nil || !bytes.HasPrefix(b, again) {
			t.Fatalf("read %d of %d bytes: %v", len(again), len(b), err)
		}
	})
}
