package agent

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// A village is agents with all of the data plane, and what decides with whom they keep in
// session, but no network: what they send to each other takes a while, and what they tell is
// handed on. It runs in a bubble of testing/synctest.
type village struct {
	t      *testing.T
	age    time.Duration // of agents when they start
	homes  []*home
	index  map[overlay.AgentID]int
	air    []parcel
	ticks  int
	areas  func(i int) uint32      // that they remember; nil: none
	frozen bool                    // nobody chooses links or neighbours any more
	mute   bool                    // what is told isn't handed on
	cut    func(from, to int) bool // no datagram passes; nil: all do
	slow   func(from, to int) bool // datagrams take slowDelay; nil: none do
}

type home struct {
	n    *node
	port *memory
	out  *outgoing
	to   []*byway // each other
	down bool     // it doesn't run
}

type parcel struct {
	due      time.Time
	from, to int
	d        []byte
}

// villageTick is how often it is looked whether datagrams arrive, and stepTicks how often
// everybody looks at the clock.
const villageTick, stepTicks = 10 * time.Millisecond, 10

// newVillage has agents know each other that measure so many others beside their links, and
// that have run for a while.
func newVillage(t *testing.T, count, neighbours int, age time.Duration) *village {
	t.Helper()
	v := &village{t: t, index: make(map[overlay.AgentID]int), homes: make([]*home, count), age: age}
	for i := range v.homes {
		v.start(i, neighbours)
	}
	for i := range v.homes {
		v.meet(i)
	}
	v.share()
	return v
}

func (v *village) station(i int) overlay.MAC { return overlay.MAC{2, 0, 0, 0, 1, byte(i)} }

// start begins an agent's life, or another one.
func (v *village) start(i, neighbours int) {
	v.t.Helper()
	seed := bytes.Repeat([]byte{byte(i + 1)}, ed25519.SeedSize)
	static, err := overlay.NewStaticKey(rand.Reader)
	if h := v.homes[i]; h != nil {
		static = h.n.ident.static
	}
	if err != nil {
		v.t.Fatal(err)
	}
	var key discovery.NetworkKey
	copy(key[:], "a network's key of thirty-two byt")
	network := discovery.NewKeyring(discovery.NewNetwork(key, discovery.AdminPublic{}))
	h := &home{port: &memory{}}
	h.n = newNode(&config{Name: fmt.Sprint("home-", i)}, slog.New(slog.DiscardHandler), network, identity{ed25519.NewKeyFromSeed(seed), static}, discovery.Credential{})
	n := h.n
	n.epoch, n.started = n.epoch.Add(-v.age), n.started.Add(-v.age)
	n.ports, n.sw.LAN, n.warm.most = []*port{{device: h.port, name: "memory", kind: "tap"}}, []bool{false}, neighbours
	n.ask = n.byways.send
	n.shake = n.byways.send
	n.openByways()
	h.out = newOutgoing(n, 0)
	v.homes[i], v.index[n.self] = h, i
	area := uint32(0)
	if v.areas != nil {
		area = v.areas(i)
	}
	n.store.Enter(n.wall(), area)
	n.sign(discovery.KindMember, must(discovery.Member{
		Area: area, Name: n.cfg.Name, SessionKey: static.Public, Addrs: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, byte(i)}), 1)},
	}.Append(nil)))
}

// meet has an agent know all others, and where to send to.
func (v *village) meet(i int) {
	v.wire(i)
	h := v.homes[i]
	now := h.n.now()
	for j, o := range v.homes {
		if i == j {
			continue
		}
		p := h.n.meet(now, o.n.self)
		p.member, p.rights = discovery.Member{Name: o.n.cfg.Name, SessionKey: o.n.ident.static.Public}, discovery.RightRelay
		if err := h.n.sessions.Know(now, p.id, p.member.SessionKey, []netip.AddrPort{h.to[j].addr}); err != nil {
			v.t.Fatal(err)
		}
	}
	for _, p := range h.n.byIndex {
		h.n.warmTo(now, p, h.n.warmthOf(now, p))
	}
	h.n.publish(now)
}

// wire has an agent have ways to all others.
func (v *village) wire(i int) {
	h := v.homes[i]
	h.to = make([]*byway, len(v.homes))
	for j, o := range v.homes {
		if i == j {
			continue
		}
		h.to[j] = &byway{peer: o.n.self, send: func(_ netip.AddrPort, b []byte, segment int) error {
			for len(b) > 0 && !h.down {
				d := b[:min(segment, len(b))]
				b = b[len(d):]
				v.air = append(v.air, parcel{time.Now().Add(v.delay(i, j)), i, j, bytes.Clone(d)})
			}
			return nil
		}}
		h.n.byways.add(h.to[j], socketByway)
	}
}

// slowDelay is what a datagram takes where it takes long.
const slowDelay = 100 * time.Millisecond

// delay is what a datagram takes: they are on a line.
func (v *village) delay(i, j int) time.Duration {
	if v.slow != nil && v.slow(i, j) {
		return slowDelay
	}
	return time.Duration(max(i-j, j-i))*time.Millisecond + 5*time.Millisecond
}

// share hands on what all tell.
func (v *village) share() {
	for _, h := range v.homes {
		for _, kind := range []discovery.Kind{discovery.KindMember, discovery.KindLinks} {
			r, ok := h.n.store.Record(h.n.self, kind)
			for _, o := range v.homes {
				if !ok || o == h || h.down || o.down {
					continue
				}
				if has, ok := o.n.store.Record(h.n.self, kind); ok && has.Version == r.Version {
					continue
				}
				o.n.store.Load(o.n.wall(), [][]byte{r.Bytes()})
				if kind == discovery.KindLinks {
					o.n.noteLinks(h.n.self)
				}
			}
		}
	}
}

// run lets time pass.
func (v *village) run(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(villageTick)
		v.ticks++
		due := v.ticks%stepTicks == 0
		if !v.deliver() && !due {
			continue
		}
		for _, h := range v.homes {
			if !h.down {
				v.step(h, due)
			}
		}
		if v.ticks%(40*stepTicks) == 0 && !v.mute {
			v.share()
		}
	}
}

// rest lets time pass in which nothing is decided, and everybody looks at the clock more
// rarely; then it is seen which routes there are.
func (v *village) rest(d time.Duration) {
	defer v.run(51 * stepTicks * villageTick)
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(10 * stepTicks * villageTick)
		v.deliver()
		for _, h := range v.homes {
			if !h.down {
				v.tend(h)
			}
		}
	}
}

// deliver hands over what arrives, and says whether anything does.
func (v *village) deliver() (any bool) {
	air := v.air
	v.air = nil
	for _, p := range air {
		switch to := v.homes[p.to]; {
		case p.due.After(time.Now()):
			v.air = append(v.air, p)
		case !to.down && (v.cut == nil || !v.cut(p.from, p.to)):
			to.n.byways.take(to.to[p.from], [][]byte{p.d})
			any = true
		}
	}
	return any
}

// step is of a node's what concerns sessions and links; due says that it is time for more
// than what has arrived.
func (v *village) step(h *home, due bool) {
	n := h.n
	if !due {
		if events := n.mail.take(); len(events) > 0 {
			v.open(h, events)
		}
		return
	}
	now := n.now()
	v.tend(h)
	if !v.frozen {
		n.mindLinks(now)
	}
	if v.ticks%(10*stepTicks) == 0 {
		n.tellLinks(now)
	}
	n.mindSpread(now)
	n.mindClaims(now)
	n.mindGroups(now)
	if n.state != nil {
		n.remember(now)
	}
	if v.ticks%(50*stepTicks) == 0 {
		n.reroute(now)
	}
}

// open does what arrived and was asked for, and what of handshakes is due.
func (v *village) open(h *home, events []event) {
	n := h.n
	now := n.now()
	for _, e := range events {
		e(now)
	}
	n.sessions.Tick(now)
	if n.sessions.Changed() {
		n.publish(now)
	}
	n.sessions.Flush(n.handshake)
}

// tend keeps an agent's sessions.
func (v *village) tend(h *home) {
	n := h.n
	v.open(h, n.mail.take())
	now := n.now()
	for _, p := range n.byIndex {
		if p != nil {
			n.watch(now, p)
		}
	}
	if v.frozen {
		n.warm.chose = now
	}
	n.keepWarm(now)
}

// send has an agent's station send a frame, to another's or to all.
func (v *village) send(from int, to overlay.MAC) {
	n := v.homes[from].n
	v.homes[from].out.carry(n.now(), n.view.Load(), 0, []overlay.Frame{{Head: ethernet(to, v.station(from), 200)}})
}

// peer returns what one agent knows of another.
func (v *village) peer(i, j int) *peer { return v.homes[i].n.peers[v.homes[j].n.self] }

// sessions returns how many an agent has.
func (v *village) sessions(i int) (count int) {
	for _, p := range v.homes[i].n.peers {
		if p.out.Load() != nil {
			count++
		}
	}
	return count
}

// agree fails unless the two ends of every pair both have a session, or neither has.
func (v *village) agree() {
	v.t.Helper()
	for i := range v.homes {
		for j := range i {
			if a, b := v.peer(i, j), v.peer(j, i); !v.homes[i].down && !v.homes[j].down && (a.out.Load() == nil) != (b.out.Load() == nil) {
				v.t.Errorf("%d and %d don't agree on whether they have a session: %v since %v and %v", i, j, a.state, v.homes[i].n.now().Sub(a.since), b.state)
			}
		}
	}
}

// strangers returns two agents without a session, of whom the first has no neighbour or
// link with the second.
func (v *village) strangers() (i, j int) {
	v.t.Helper()
	for i := range v.homes {
		for j := range v.homes {
			if i != j && v.peer(i, j).out.Load() == nil && v.peer(i, j).state == measure.Idle {
				return i, j
			}
		}
	}
	v.t.Fatal("everybody is in session with everybody")
	return 0, 0
}
