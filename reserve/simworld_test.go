package reserve

import (
	"slices"
	"time"

	"farlan/overlay"
)

// plan draws who asks for what and when, and what goes wrong beside calls and messages.
func (w *simWorld) plan() {
	for _, n := range w.nodes {
		if w.alone {
			break
		}
		w.after(w.between(5*time.Second, 6*time.Second), n.request) // all at once
		w.after(w.between(5*time.Second, 6*time.Second), n.request)
		for at := w.between(0, time.Minute); at < w.trouble; at += w.between(10*time.Second, 2*time.Minute) {
			w.after(at, n.request)
		}
		if w.one(3) {
			n.flows = append(n.flows, w.newFlow(n))
		}
		for at := w.between(0, 5*time.Minute); !w.calm && at < w.trouble; at += w.between(time.Minute, 10*time.Minute) {
			w.after(at, func() {
				if n.b != nil {
					n.crash("any time", nil)
				}
			})
		}
		if w.wavers {
			for at := w.between(0, time.Minute); at < w.trouble; at += w.between(20*time.Second, time.Minute) {
				w.after(at, n.waver)
			}
		}
	}
	if w.calm || w.alone {
		return
	}
	for at := w.between(0, time.Minute); at < w.trouble; at += w.between(time.Minute, 2*time.Minute) {
		w.after(at, func() { w.halves = true })
		w.after(min(at+w.between(time.Second, 40*time.Second), w.trouble), func() { w.halves = false })
	}
	for at := w.between(0, time.Minute); at < w.trouble; at += w.between(time.Second, 20*time.Second) {
		w.after(at, func() { w.nodes[w.draw(len(w.nodes))].breakdown() })
	}
}

// newFlow draws what a station sends, some of it for long and much.
func (w *simWorld) newFlow(n *simNode) *simFlow {
	to, relays := w.path(n)
	f := &simFlow{Flow: Flow{n.id, to, overlay.MAC{2, 0, 0, byte(n.i), 1, 1}, overlay.MAC{2, 0, 0, 0, to[1], 2}}, relays: relays}
	f.begin = w.now.Add(w.between(0, 2*time.Minute))
	f.end = f.begin.Add(w.between(10*time.Second, 4*time.Minute))
	f.rate = Rate(1+w.draw(30)) * Mbit
	return f
}

// path draws another agent and two relays to it at most.
func (w *simWorld) path(n *simNode) (to overlay.AgentID, relays []overlay.AgentID) {
	others := w.rand.Perm(len(w.nodes))
	others = slices.DeleteFunc(others, func(i int) bool { return i == n.i })
	for _, i := range others[1 : 1+w.draw(3)] {
		relays = append(relays, w.nodes[i].id)
	}
	return w.nodes[others[0]].id, relays
}

// request has an owner ask for something.
func (n *simNode) request() {
	if n.b == nil {
		return
	}
	w := n.w
	to, relays := w.path(n)
	q := Request{
		Flow: Flow{From: n.id, To: to}, Path: relays, Rate: Rate(2+w.draw(28)) * Mbit, For: w.between(20*time.Second, 3*time.Minute), Owner: "owner",
	}
	if w.one(2) {
		q.Flow.Source, q.Flow.Dest = overlay.MAC{2, 0, 0, byte(n.i), 0, byte(w.draw(4))}, overlay.MAC{2, 0, 0, to[1], 0, byte(w.draw(4))}
	}
	switch w.draw(6) {
	case 0:
		q.BackRate, q.Back = Rate(2+w.draw(20))*Mbit, slices.Clone(relays)
		slices.Reverse(q.Back)
	case 1:
		q.Path, q.Circuit = nil, true
	}
	if id, err := n.b.Request(w.now, q); err == nil {
		w.asked++
		if w.one(6) { // its owner changes his mind
			life := n.life
			w.after(w.between(0, 30*time.Second), func() {
				if n.life == life && n.b != nil {
					n.b.Release(w.now, id)
					n.turn()
				}
			})
		}
	}
	n.turn()
}

// waver changes what an egress carries.
func (n *simNode) waver() {
	e := []string{"east", "west"}[n.w.draw(2)]
	n.before[e], n.changed[e] = max(n.capacity[e], n.before[e]*Rate(flag(n.w.now.Sub(n.changed[e]) < 2*time.Minute, 1))), n.w.now
	n.capacity[e] = n.capacity[e] * Rate(80+n.w.draw(50)) / 100
	if n.b != nil {
		n.b.SetCapacity(e, n.capacity[e])
		n.turn()
	}
}

// breakdown has an underlay lose or cut something by itself, and tell or not.
func (n *simNode) breakdown() {
	w := n.w
	f := n.drivers[w.draw(len(n.drivers))]
	if len(f.held) == 0 {
		return
	}
	g := f.held[w.draw(len(f.held))]
	n.broken[g.id] = w.now
	switch w.draw(3) {
	case 0:
		f.held = slices.DeleteFunc(f.held, func(x *fakeGrant) bool { return x == g })
		g.State, g.Up = Lost, false
	case 1:
		if g.Up {
			g.Up, g.by = false, w.now
		}
	default:
		for _, x := range f.held {
			if x.by != 0 {
				x.Up, x.by = true, 0
			}
		}
	}
	if n.b != nil && w.one(2) {
		n.b.Notice(w.now, f.caps.Name, Event{f.shown(g).ID, f.shown(g)})
		n.turn()
	}
}

// observe tells what an agent's flows sent in a second.
func (n *simNode) observe() {
	w := n.w
	var all []Sample
	for _, f := range n.flows {
		if w.now >= f.begin && w.now < f.end && w.troubled() {
			s := Sample{Flow: f.Flow, Sent: n.gets(f), Elastic: true, Path: f.relays}
			if s.Sent < f.rate {
				s.Backlog = 50_000
			}
			other := w.nodes[w.index[f.To]]
			for _, g := range other.flows {
				if g.Flow == f.back() && w.now >= g.begin && w.now < g.end {
					s.Received = other.gets(g)
				}
			}
			all = append(all, s)
		}
	}
	n.b.Observe(w.now, all)
	n.turn()
}

// gets returns what a flow gets: of what it wants a tenth by the ordinary way, which others use,
// too, and what is reserved for it.
func (n *simNode) gets(f *simFlow) Rate {
	for _, way := range n.ways {
		if way.Flow == f.Flow {
			return min(f.rate, Inner(way.Rate, len(f.relays)))
		}
	}
	if f.unhindered {
		return f.rate
	}
	return f.rate / 10
}

// deliver carries a message: it may be lost, late, or come twice, in any order.
func (w *simWorld) deliver(from *simNode, m Message) {
	w.messages++
	to, ok := w.index[m.To]
	if !ok || w.cut(from.i, to) || w.fault(30) {
		return
	}
	for range 2 {
		d := w.between(2*time.Millisecond, 80*time.Millisecond)
		if w.fault(20) {
			d = w.between(0, 2*time.Second)
		}
		if w.fault(100) {
			d = w.between(0, 45*time.Second)
		}
		w.after(d, func() { w.nodes[to].receive(from.id, m.Bytes) })
		if !w.fault(25) {
			return
		}
	}
}

func (w *simWorld) cut(a, b int) bool { return w.halves && a%2 != b%2 }

// receive hands a message over, and sees to it that no older epoch is served than one before.
func (n *simNode) receive(from overlay.AgentID, b []byte) {
	if n.b == nil {
		return
	}
	m, _, err := parseMessage(b)
	if err != nil {
		n.w.fail("%v", err)
	}
	if m.kind < ask || m.kind > status {
		n.b.Receive(n.w.now, from, b)
		n.turn()
		return
	}
	l := m.line(from)
	before := n.served(m.id)
	n.b.Receive(n.w.now, from, b)
	after := n.served(m.id)
	if m.epoch < n.epochs[l] && before != after && m.kind != release {
		n.w.fail("agent %d served epoch %d of a line that is in %d: %+v, then %+v", n.i, m.epoch, n.epochs[l], before, after)
	}
	if before != after {
		n.epochs[l] = max(n.epochs[l], m.epoch)
	}
	n.turn()
}

type simServed struct {
	is     bool
	number uint32
	rate   Rate
	end    overlay.Instant
	goal   State
}

func (n *simNode) served(id ID) simServed {
	if s := n.b.segments[id]; s != nil && !s.state.Over() {
		return simServed{true, s.number, s.rate, s.end, s.goal}
	}
	return simServed{}
}

// probe answers a probe: it comes back if all on the way work.
func (n *simNode) probe(p Probe) {
	w := n.w
	life := n.life
	w.after(w.between(10*time.Millisecond, 300*time.Millisecond), func() {
		if n.life != life || n.b == nil {
			return
		}
		at, ok := n.i, true
		for _, a := range append(slices.Clone(p.Path), p.Flow.To) {
			next := w.index[a]
			ok = ok && w.nodes[next].b != nil && !w.cut(at, next)
			at = next
		}
		for _, f := range n.drivers { // a circuit that is down
			for _, g := range f.held {
				ok = ok && (g.id.Reservation != p.Reservation || g.Up)
			}
		}
		n.b.Probed(w.now, p.Reservation, ok && !w.fault(50))
		n.turn()
	})
}
