package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// A town is a village whose agents have control connections, by which their records spread, and
// areas: they know whom they hear of, and nobody else.
type town struct {
	*village
	conns   map[[2]int]time.Time // both ways; until when those last that were dialled
	post    []letter
	dialled int // when somebody dialled last
}

// A letter is a message between stores.
type letter struct {
	from, to int
	msg      []byte
}

// newTown returns one of agents that remember areas: nil, none.
func newTown(t *testing.T, count int, sizes decide.Sizes, areas func(i int) uint32) *town {
	t.Helper()
	v := &village{t: t, index: make(map[overlay.AgentID]int), homes: make([]*home, count), areas: areas}
	w := &town{village: v, conns: make(map[[2]int]time.Time)}
	for i := range v.homes {
		v.start(i, 3)
		n := v.homes[i].n
		n.area.sizes, n.own.member, n.own.memberVersion = sizes, n.now(), n.store.OwnVersion()
		n.far.dial = func(_ overlay.Instant, id overlay.AgentID) { w.dial(i, v.index[id]) }
	}
	for i := range v.homes {
		v.wire(i)
		w.dial(i, (i+1)%count)
	}
	return w
}

// resize changes when the network divides.
func (w *town) resize(z decide.Sizes) {
	for _, h := range w.homes {
		h.n.area.sizes = z
	}
}

func (w *town) dial(i, j int) {
	w.conns[[2]int{i, j}] = time.Now().Add(20 * time.Second)
	w.dialled = w.ticks
}

// run lets time pass.
func (w *town) run(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(villageTick)
		w.deliver()
		w.ticks++
		if w.ticks%100 == 0 || w.ticks == w.dialled+5 {
			w.connect()
		}
		post := w.post
		w.post = nil
		for _, l := range post {
			if h := w.homes[l.to]; !h.down && !w.homes[l.from].down {
				if err := h.n.store.Receive(h.n.wall(), w.homes[l.from].n.self, l.msg); err != nil {
					w.t.Errorf("%d from %d: %v", l.to, l.from, err)
				}
			}
		}
		for i, h := range w.homes {
			if !h.down && (w.ticks+i)%5 == 0 {
				w.control(i, h.n)
			}
			if !h.down {
				w.step(h, w.ticks%stepTicks == 0)
			}
		}
	}
}

// control is of a node's step what concerns records.
func (w *town) control(i int, n *node) {
	now := n.now()
	n.store.Tick(n.wall())
	changes := n.store.Changes()
	for _, c := range changes {
		n.recordChanged(now, c)
	}
	n.mindArea(now)
	n.mindFar(now)
	for id, p := range n.peers {
		if j := w.index[id]; len(changes) > 0 || n.far.looked == now {
			if err := n.sessions.Know(now, id, p.member.SessionKey, []netip.AddrPort{w.homes[i].to[j].addr}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	if n.own.member == 0 {
		area, _ := n.store.Area()
		n.own.member = now
		n.own.memberVersion, _ = n.sign(discovery.KindMember, must(n.memberRecord(area).Append(nil)))
	}
	if (w.ticks+i)%100 == 0 {
		n.tellArea(now)
		n.reroute(now)
	}
	n.store.Flush(func(to overlay.AgentID, msg []byte) { w.post = append(w.post, letter{i, w.index[to], msg}) })
}

// connect opens the connections that somebody wants, and closes the others.
func (w *town) connect() {
	want := make(map[[2]int]bool)
	for i, h := range w.homes {
		if h.down {
			continue
		}
		live := h.n.liveMembers()
		for _, id := range h.n.withGateways(discovery.Neighbours(h.n.self, live, nil, controlDegree), live) {
			want[[2]int{i, w.index[id]}] = true
		}
	}
	for c, until := range w.conns {
		if time.Now().Before(until) {
			want[c] = true
		}
	}
	for i, h := range w.homes {
		for j, o := range w.homes {
			is := (want[[2]int{i, j}] || want[[2]int{j, i}]) && i != j && !h.down && !o.down
			if was := h.n.control.connected[o.n.self]; is && !was {
				h.n.control.connected[o.n.self] = true
				h.n.store.Connected(h.n.wall(), o.n.self)
				h.n.connectedTo(o.n.self)
			} else if was && !is {
				delete(h.n.control.connected, o.n.self)
				h.n.store.Disconnected(o.n.self)
			}
		}
	}
}

// areas returns in which areas agents are, and who is in them.
func (w *town) areas() map[uint32][]int {
	all := make(map[uint32][]int)
	for i, h := range w.homes {
		if !h.down {
			area, _ := h.n.store.Area()
			all[area] = append(all[area], i)
		}
	}
	return all
}

// gateways returns who they are.
func (w *town) gateways() (all []int) {
	for i, h := range w.homes {
		if !h.down && h.n.area.gate != nil {
			all = append(all, i)
		}
	}
	return all
}

// broadcast has an agent's station speak to all, and returns who didn't hear it, and who more
// than once.
func (w *town) broadcast(from int) (missed, twice []int) {
	before := w.heard()
	w.send(from, overlay.Broadcast)
	w.run(400 * time.Millisecond)
	for i, n := range w.heard() {
		switch n -= before[i]; {
		case i == from || w.homes[i].down:
		case n == 0:
			missed = append(missed, i)
		case n > 1:
			twice = append(twice, i)
		}
	}
	return missed, twice
}

func (w *town) heard() (all []int) {
	for _, h := range w.homes {
		all = append(all, h.port.frames)
	}
	return all
}

// tell sends a frame from one agent's station to another's, and says whether it alone got it,
// within a time.
func (w *town) tell(from, to int, within time.Duration) bool {
	before := w.heard()
	w.send(from, w.station(to))
	for range within / (20 * time.Millisecond) {
		w.run(20 * time.Millisecond)
		if w.homes[to].port.frames > before[to] {
			break
		}
	}
	for i, n := range w.heard() {
		if want := map[bool]int{true: 1}[i == to]; n-before[i] != want && !w.homes[i].down {
			w.t.Logf("%d to %d: %d got %d frames", from, to, i, n-before[i])
			return false
		}
	}
	return true
}

// why describes agents for who looks into a failure.
func (w *town) why(some ...int) {
	for _, i := range some {
		n := w.homes[i].n
		area, moving := n.store.Area()
		is := n.spread.now.Load()
		w.t.Logf("%d: area %x moving %v gateway %v near %d of %d peers; %d links; drops %v", i, area, moving, n.area.gate != nil, n.near(), len(n.peers), len(n.linking.kept), n.drops.views())
		w.t.Logf("   %+v full %v, crowded %v, epoch %d agents %d late %d", n.linking.links.Counters(), !n.linking.chosen, n.linking.crowded, n.linking.epoch, n.linking.agents, len(n.linking.late))
		if is.far != nil {
			w.t.Logf("   entry %v, own %d direct %d idle %d, outward %d, roots between %d", is.far.entry, len(is.own), is.direct, len(is.idle), len(is.far.outward), len(is.far.between))
		}
		if g := n.area.gate; g != nil {
			var up []int
			for _, k := range g.kept {
				if p := n.peers[k.Peer]; p != nil && p.state == measure.Up {
					up = append(up, w.index[k.Peer])
				}
			}
			slices.Sort(up)
			w.t.Logf("   backbone links %v up %v; size %d tree %d told %v; gates %d", len(g.kept), up, g.size, len(g.tree), n.area.told != 0, len(n.beyond().Gates()))
		}
	}
}
