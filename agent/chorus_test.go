package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/link"
)

// An outlet is a device that a test feeds; it counts what is written by number.
type outlet struct {
	fds [2]int

	mu  sync.Mutex
	got map[uint64]int
}

func newOutlet(t testing.TB) *outlet {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
	return &outlet{fds: fds, got: make(map[uint64]int)}
}

func (d *outlet) Name() string  { return "outlet" }
func (d *outlet) MTU() int      { return 1500 }
func (d *outlet) Offload() bool { return true }
func (d *outlet) Queues() int   { return 1 }
func (d *outlet) FD(int) int    { return d.fds[0] }
func (d *outlet) Close() error  { return nil }

func (d *outlet) Read(_ int, b *overlay.Batch) error {
	b.Reset()
	for {
		slot := b.Slot()
		if slot == nil {
			return nil
		}
		n, err := unix.Read(d.fds[0], slot)
		if err != nil {
			return nil // nothing waits
		}
		b.Commit(n, overlay.Offload{})
	}
}

func (d *outlet) Write(_ int, frames []overlay.Frame) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range frames {
		d.got[binary.BigEndian.Uint64(f.Head[14:])]++
	}
	return len(frames)
}

func (d *outlet) count(number uint64) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.got[number]
}

// A chorus is a choir whose nodes carry frames: each has a port, a lane that runs, and
// sessions with the others, through this host's network.
type chorus struct {
	*choir
	ports []*outlet
	lanes []*lane
	last  uint64 // number of the newest frame
}

func newChorus(t testing.TB, count int) *chorus {
	t.Helper()
	c := &chorus{choir: newChoir(t, count)}
	for _, n := range c.nodes {
		socket, err := link.Open(netip.MustParseAddrPort("127.0.0.1:0"), link.Config{Lanes: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = socket.Close() })
		d := newOutlet(t)
		n.sockets, n.ports, n.sw.LAN = []*link.Port{socket}, []*port{{device: d, name: "outlet", kind: "tap"}}, []bool{false}
		n.ask = n.sender(func(p *link.Port) *link.Writer { return p.Probe.Writer() })
		n.lanes = runtime.GOMAXPROCS(0) // so that none waits by looking again and again
		for _, p := range n.peers {
			p.lanes = newPeer(p.id, p.index, c.now, n.lanes+2).lanes
		}
		c.ports = append(c.ports, d)
		if n.ident.static, err = overlay.NewStaticKey(rand.Reader); err != nil {
			t.Fatal(err)
		}
		n.hs = overlay.NewHandshaker(n.self, n.ident.static, n.network.DoorKey(), n.network.SessionPSK(), overlay.HasAES())
	}
	views := make([]*view, count)
	for i, n := range c.nodes {
		views[i] = &view{byIndex: n.byIndex, linked: n.view.Load().linked, sessions: make(map[uint32]*inboundSession), byLabel: make(map[overlay.Label]*peer)}
		for _, p := range n.peers {
			views[i].byLabel[p.label] = p
		}
	}
	for i := range c.nodes {
		for j := range i {
			c.join(views, i, j)
		}
	}
	for i, n := range c.nodes {
		n.view.Store(views[i])
		l, err := newLane(n, 0)
		if err != nil {
			t.Fatal(err)
		}
		c.lanes = append(c.lanes, l)
	}
	return c
}

// join gives two nodes a session with each other.
func (c *chorus) join(views []*view, i, j int) {
	c.t.Helper()
	a, b := c.nodes[i], c.nodes[j]
	ask, d, err := a.hs.Initiate(a.now(), b.self, b.ident.static.Public, uint32(j+1), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	far, answer, err := b.hs.Respond(b.now(), d, func(overlay.AgentID, [32]byte) bool { return true }, uint32(i+1), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	near, err := ask.Finish(a.now(), answer)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range []struct {
		at, to int
		s      *overlay.Session
	}{{i, j, near}, {j, i, far}} {
		p := c.peer(e.at, e.to)
		p.mtu = measure.NewMTU(c.now, 1500)
		for at := c.now; p.mtu.Size() < 1400; at = at.Add(time.Second) {
			if size, ok := p.mtu.Probe(at, time.Millisecond); ok {
				p.mtu.Acked(at, size)
			}
		}
		to := c.nodes[e.to].sockets[0].Delay.LocalAddr()
		p.out.Store(&outbound{session: e.s, way: overlay.Direct(to), around: packetOverhead(to), size: 1400})
		views[e.at].sessions[e.s.LocalIndex()] = &inboundSession{peer: p, session: e.s, relays: true}
	}
}

// peer returns what one node knows of another.
func (c *chorus) peer(at, of int) *peer { return c.nodes[at].peers[c.nodes[of].self] }

// sing has all lanes run until the test ends.
func (c *chorus) sing() {
	var all sync.WaitGroup
	for _, l := range c.lanes {
		all.Go(func() { _ = l.run(context.Background()) })
	}
	c.t.Cleanup(func() {
		for _, l := range c.lanes {
			l.stop()
		}
		all.Wait()
		for _, l := range c.lanes {
			_ = l.poll.Close()
		}
	})
}

func (c *chorus) mac(i int) overlay.MAC { return overlay.MAC{2, 0, 0, 0, 1, byte(i)} }

// broadcast sends one from a node's port, and returns its number.
func (c *chorus) broadcast(from int) uint64 {
	c.t.Helper()
	c.last++
	f := binary.BigEndian.AppendUint64(ethernet(overlay.Broadcast, c.mac(from), 14), c.last)
	if _, err := unix.Write(c.ports[from].fds[1], append(f, make([]byte, 40)...)); err != nil {
		c.t.Fatal(err)
	}
	return c.last
}

// missing returns which nodes don't get a frame in time.
func (c *chorus) missing(number uint64, from int, within time.Duration) (all []int) {
	for end := time.Now().Add(within); ; time.Sleep(time.Millisecond) {
		all = all[:0]
		for i, p := range c.ports {
			if i != from && p.count(number) == 0 {
				all = append(all, i)
			}
		}
		if len(all) == 0 || time.Now().After(end) {
			return all
		}
	}
}

// reachAll has some nodes send a broadcast each, which all others must get.
func (c *chorus) reachAll(when string, from ...int) {
	c.t.Helper()
	numbers := make([]uint64, len(from))
	for k, i := range from {
		numbers[k] = c.broadcast(i)
	}
	for k, i := range from {
		if m := c.missing(numbers[k], i, 20*time.Second); len(m) > 0 {
			c.t.Errorf("%s: a broadcast of %d doesn't reach %v", when, i, m)
			for _, x := range m {
				c.t.Logf("%d dropped %v", x, c.nodes[x].drops.views())
			}
		}
	}
}

// onlyOnce fails if a port got something twice, or its own.
func (c *chorus) onlyOnce() {
	c.t.Helper()
	time.Sleep(50 * time.Millisecond)
	for i, p := range c.ports {
		p.mu.Lock()
		for number, times := range p.got {
			if times != 1 {
				c.t.Errorf("%d got frame %d %d times", i, number, times)
			}
		}
		p.mu.Unlock()
	}
}

// learn has a node look at its places in the trees.
func (c *chorus) learn(i int) {
	c.nodes[i].spread.stirred = true
	c.nodes[i].mindSpread(c.now)
}

// all returns all nodes.
func (c *chorus) all() (all []int) {
	for i := range c.nodes {
		all = append(all, i)
	}
	return all
}

// settle has links chosen and everybody know them, and former trees forgotten.
func (c *chorus) settle(epochs int) {
	c.run(epochs)
	for range 2 {
		c.now = c.now.Add(formerFor)
		for i := range c.nodes {
			c.learn(i)
		}
	}
}
