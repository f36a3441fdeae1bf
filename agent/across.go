package agent

import (
	"slices"
	"sync"
	"sync/atomic"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/route"
)

// What is flooded in a divided network goes by three legs: down the origin's tree in its area;
// from the gateway by which floods leave and enter that area down its tree among gateways; and
// from those by which they enter other areas down their trees there. On each leg an agent takes
// a datagram from its parent in that tree alone, and wherever it is it takes a number of an
// origin once. A leg leads over route.TreeHops links at most and none goes back to an earlier
// one, so nothing goes round.
//
// Nobody in another area knows the origin but by its brief name. It stands for it until the
// record is looked for, which is when something is to be sent there: until then frames for its
// stations wait, as they do for a session.

const (
	// farPlaces is the first index of a place that stands for an origin in another area.
	farPlaces = 1 << 28
	// maxOrigins is of how many agents of other areas floods are taken, those that flooded
	// something in originFor. What others flood is dropped. Each takes 2 kB.
	maxOrigins = 4096
	originFor  = overlay.StationAge
)

// afar are the origins of floods in other areas. Safe for concurrent use; the zero one is ready,
// but for lanes.
type afar struct {
	lanes func() int // that a peer has

	mu    sync.RWMutex
	of    map[discovery.Brief]*origin
	slots []*origin // nil: free
}

// An origin is an agent of another area that floods something.
type origin struct {
	stand   *peer                // has a place, and no session
	is      atomic.Pointer[peer] // who it is, once the record is there
	heard   atomic.Int64
	between peerFloods // what came among gateways
}

// peer returns whose frames come from the origin.
func (o *origin) peer() *peer {
	if p := o.is.Load(); p != nil {
		return p
	}
	return o.stand
}

// origin returns that with a name, a new one if there was none; nil if there are too many.
func (a *afar) origin(now overlay.Instant, name discovery.Brief, label overlay.Label) *origin {
	a.mu.RLock()
	o := a.of[name]
	a.mu.RUnlock()
	if o == nil {
		if o = a.add(now, name, label); o == nil {
			return nil
		}
	}
	if o.stand.label != label {
		return nil
	}
	o.heard.Store(int64(now))
	return o
}

func (a *afar) add(now overlay.Instant, name discovery.Brief, label overlay.Label) *origin {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.of[name]; o != nil {
		return o
	}
	i := 0
	for i < len(a.slots) && a.slots[i] != nil {
		i++
	}
	switch {
	case i >= maxOrigins:
		return nil
	case i == len(a.slots):
		a.slots = append(a.slots, nil)
	}
	if a.of == nil {
		a.of = make(map[discovery.Brief]*origin)
	}
	o := &origin{stand: newPeer(aliasOf(name, label), farPlaces+i, now, a.lanes())}
	o.stand.label = label
	o.stand.onDemand.Store(true)
	o.between.Floods = overlay.NewFloods()
	o.heard.Store(int64(now))
	a.of[name], a.slots[i] = o, o
	return o
}

// at returns the peer at a place, nil if there is none.
func (a *afar) at(i int) *peer {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if i >= len(a.slots) || a.slots[i] == nil {
		return nil
	}
	return a.slots[i].peer()
}

// stand returns who stands for an agent, nil if nobody does.
func (a *afar) stand(name discovery.Brief) *peer {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if o := a.of[name]; o != nil {
		return o.stand
	}
	return nil
}

// holds says whether a peer only stands for another.
func (a *afar) holds(p *peer) bool { return p.index >= farPlaces }

// found says who an agent is of whom only the name was known.
func (a *afar) found(name discovery.Brief, p *peer) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if o := a.of[name]; o != nil && o.stand.label == p.label {
		o.is.Store(p)
	}
}

// forget says that an agent isn't known any more but by its name.
func (a *afar) forget(p *peer) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if o := a.of[discovery.BriefOf(p.id)]; o != nil {
		o.is.CompareAndSwap(p, nil)
	}
}

// expire forgets origins that flooded nothing for long, and their stations.
func (a *afar) expire(now overlay.Instant, stations func(overlay.Place)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, o := range a.of {
		if now.Sub(overlay.Instant(o.heard.Load())) >= originFor {
			delete(a.of, name)
			a.slots[o.stand.index-farPlaces] = nil
			stations(o.stand.place())
		}
	}
}

// hand gives what waits for one peer to another.
func (h *held) hand(from, to *peer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.of[from]
	if q == nil {
		return
	}
	delete(h.of, from)
	if old := h.of[to]; old != nil {
		q.frames, q.bytes = append(old.frames, q.frames...), old.bytes+q.bytes
	}
	h.of[to] = q
}

// A crossing is an agent's part in floods that cross areas. It is immutable.
type crossing struct {
	name    discovery.Brief // this agent's
	entry   bool            // floods leave its area, and enter it, by this agent
	own     map[overlay.Label]bool
	between map[overlay.Label]*branch // by root: trees among gateways
	outward []*peer                   // children in its own one
	inward  []*peer                   // to whom what enters by this agent goes
}

// follow returns to whom a datagram that is on its way is passed on; false if it isn't to be
// taken from a peer.
func (s *spreading) follow(x overlay.Spread, from *peer) (to []*peer, ok bool) {
	b := s.of[x.Root]
	if x.Leg == overlay.LegBetween {
		b = s.far.between[x.Root]
	}
	switch {
	case b != nil && (b.origin == from || slices.Contains(b.parents, from)):
		return b.children, true
	case x.Leg == overlay.LegArriving && from.label == x.Root:
		return nil, true // to one that isn't in its tree
	}
	return nil, false
}

// isNear says whether an origin is in this agent's area, or is this agent.
func (s *spreading) isNear(x overlay.Spread) bool {
	b := s.of[x.Origin]
	return discovery.Brief(x.Name) == s.far.name || b != nil && discovery.BriefOf(b.origin.id) == discovery.Brief(x.Name)
}

// cross takes a datagram of frames that were flooded in a divided network, which was opened
// and lies at a place in what was read.
func (in *inbound) cross(d []byte, at int, x overlay.Spread, frames []byte, count int) {
	is, from := in.n.spread.now.Load(), in.at.peer
	if is == nil || is.far == nil {
		in.n.drops.add(dropSpread)
		return
	}
	near := is.isNear(x)
	to, ok := is.follow(x, from)
	o := in.n.afar.origin(in.now, discovery.Brief(x.Name), x.Origin)
	if p := in.view.byLabel[x.Origin]; o != nil && p != nil && o.is.Load() == nil && discovery.BriefOf(p.id) == discovery.Brief(x.Name) {
		o.is.Store(p) // it isn't unknown
	}
	switch {
	case !ok || o == nil || near && x.Leg != overlay.LegBetween: // from gateway to gateway it may go by this area's
		in.n.drops.add(dropSpread)
		return
	case x.Links > route.TreeHops:
		in.n.drops.add(dropFar)
		return
	case x.Leg == overlay.LegBetween:
		if v := in.admitOf(&o.between, from, x.Number, count); v != overlay.Flood {
			in.n.drops.verdict(v)
			return
		}
		if is.far.entry && !is.far.own[x.Root] && !near {
			if v := take(&o.peer().floods, in.now, x.Number, count); v == overlay.Flood {
				// One of them may be who passed it on here: a gateway of this area. It takes nothing
				// of what it passes on among gateways to its ports.
				in.turn(d, overlay.LegArriving, is.far.inward)
				in.deliver(o, frames)
			}
		}
		if len(to) > 0 {
			in.passSpread(d, at, o.stand, to)
		}
		return
	}
	if v := in.admitOf(&o.peer().floods, from, x.Number, count); v != overlay.Flood {
		in.n.drops.verdict(v)
		return
	}
	if len(to) > 0 {
		in.passSpread(d, at, o.stand, to)
	}
	in.deliver(o, frames)
}

// deliver takes an origin's frames to the ports.
func (in *inbound) deliver(o *origin, frames []byte) {
	p := o.peer()
	x := &p.lanes[in.lane]
	if x.spread == nil {
		x.spread = new(overlay.Unpacker)
	}
	in.unpack(p, x.spread, frames)
}

// leave begins the leg among gateways for a datagram of this area, if it leaves by this agent.
func (in *inbound) leave(d []byte, x overlay.Spread) {
	is := in.n.spread.now.Load()
	if x.Name != 0 && is != nil && is.far != nil && is.far.entry {
		in.turn(d, overlay.LegBetween, is.far.outward)
	}
}

// turn sends a copy of a datagram on another leg down this agent's own tree.
func (in *inbound) turn(d []byte, leg overlay.Leg, to []*peer) {
	o := in.out
	if o == nil || len(to) == 0 {
		return
	}
	in.turned = append(in.turned[:0], d...)
	if !overlay.TurnSpread(in.turned, leg, in.n.label) {
		return
	}
	if o.shaper != nil {
		in.one[0] = overlay.Frame{Head: in.turned}
		if !o.shaper.Enqueue(in.now, passPlace, laneClass(d), uint32(in.n.label), &in.one[0]) {
			in.n.drops.add(dropUnfit)
		}
		return
	}
	o.now = in.now
	o.pass(in.limit, &spreadRun{to: to, class: laneClass(d), data: in.turned, end: len(d), segment: len(d)})
}

// laneClass returns the class that a datagram came in.
func laneClass(d []byte) overlay.Class {
	if overlay.Lane(d)&overlay.LaneDelay != 0 {
		return overlay.ClassDelay
	}
	return overlay.ClassBulk
}

// leaveOwn begins the leg among gateways for a run of this agent's own floods, if they leave
// by itself.
func (o *outgoing) leaveOwn(is *spreading, class overlay.Class, b []byte, segment int) {
	if is.far == nil || !is.far.entry || len(is.far.outward) == 0 {
		return
	}
	o.turned = append(o.turned[:0], b...)
	for at := 0; at < len(b); at += segment {
		if !overlay.TurnSpread(o.turned[at:min(at+segment, len(b))], overlay.LegBetween, o.n.label) {
			return // it was packed before the network was divided
		}
	}
	o.n.spread.copies.Add(uint64(o.copies(is.far.outward, nil, class, o.turned, segment)))
}

// passAcross returns to whom a datagram goes that waited for the uplink.
func (s *spreading) passAcross(self overlay.Label, x overlay.Spread) []*peer {
	switch {
	case s.far == nil:
		return nil
	case x.Root != self && x.Leg == overlay.LegBetween && s.far.between[x.Root] != nil:
		return s.far.between[x.Root].children
	case x.Root != self && s.of[x.Root] != nil:
		return s.of[x.Root].children
	case x.Root == self && x.Leg == overlay.LegBetween:
		return s.far.outward
	case x.Root == self && x.Leg == overlay.LegArriving:
		return s.far.inward
	}
	return nil
}

// admitOf says whether so many frames of an origin's, which a peer passed on, are taken.
func (in *inbound) admitOf(floods *peerFloods, from *peer, number uint64, count int) overlay.Verdict {
	from.floods.Lock()
	ok := from.floods.Passes(in.now, count)
	from.floods.Unlock()
	if !ok {
		return overlay.DropStorm
	}
	return take(floods, in.now, number, count)
}

func take(f *peerFloods, now overlay.Instant, number uint64, count int) overlay.Verdict {
	f.Lock()
	defer f.Unlock()
	return f.Take(now, number, count)
}

// crossing returns this agent's part in floods that cross areas; nil if there are none.
func (n *node) crossing(s *spreading) *crossing {
	if !n.divided() {
		return nil
	}
	c := &crossing{name: discovery.BriefOf(n.self), own: make(map[overlay.Label]bool), between: make(map[overlay.Label]*branch), inward: s.own}
	area, _ := n.store.Area()
	for _, id := range n.beyond().Of(area) {
		c.own[id.Label()] = true
	}
	for _, places := range n.spread.places { // former ones, too: others learn later that they changed
		c.entry = c.entry || places.entry
		c.outward = n.addPeers(c.outward, places.between[n.self].children)
		for root, x := range places.between {
			p := n.peers[root]
			if p == nil {
				continue
			}
			b := c.between[p.label]
			if b == nil {
				b = &branch{origin: p}
				c.between[p.label] = b
			}
			b.parents, b.children = n.addPeer(b.parents, x.parent), n.addPeers(b.children, x.children)
		}
	}
	return c
}
