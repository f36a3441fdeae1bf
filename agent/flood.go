package agent

import (
	"farlan/overlay"
	"farlan/overlay/route"
)

// The places that stand for all to whom floods go, in the shaper: of this agent's ports, and
// of others, which wait there as datagrams.
const (
	floodPlace overlay.Place = 1 + iota
	passPlace
)

// A spreader packs what is flooded of a class, once for all who get it.
type spreader struct {
	packer *overlay.Packer
	open   bool
}

// flood takes a port's frame for all others.
func (o *outgoing) flood(view *view, f *overlay.Frame) {
	s := o.n.spread.now.Load()
	if s == nil || !s.chosen {
		to := view.floods()
		for _, p := range to {
			o.queue(p, f)
		}
		o.n.edge.chatter.flooded(len(to), f.Len())
		return
	}
	for _, p := range s.idle {
		o.queue(p, f)
	}
	o.n.edge.chatter.flooded(len(s.idle)+len(s.own), f.Len())
	class, flow := overlay.ClassOf(o.n.flowKey, f.Head)
	for _, p := range s.own {
		if out := p.out.Load(); out != nil {
			clamp(f, out.size)
		}
	}
	if o.shaper == nil {
		o.spread(class, f)
	} else if !o.shaper.Enqueue(o.now, floodPlace, class, flow, f) {
		o.n.drops.add(dropUnfit)
	}
}

// spread packs a frame for all to whom this agent's floods go. Its datagrams are as short as
// any path's: they pass many.
func (o *outgoing) spread(class overlay.Class, f *overlay.Frame) {
	s := &o.spreads[class]
	if s.packer == nil {
		s.packer = overlay.NewPacker(func(b []byte, segment int) {
			if is := o.n.spread.now.Load(); is != nil {
				o.n.spread.sent.Add(uint64((len(b) + segment - 1) / segment))
				copies := o.copies(is.own, nil, class, b, segment)
				o.n.spread.copies.Add(uint64(copies))
				o.leaveOwn(is, class, b, segment)
			}
		})
	}
	if !s.open {
		name := uint64(0)
		if is := o.n.spread.now.Load(); is != nil && is.far != nil {
			name = uint64(is.far.name)
		}
		s.packer.BeginFarSpread(o.n.label, name, &o.n.spread.numbers, &o.n.spread.cuts, overlay.DatagramSize)
		s.open = true
	}
	if !s.packer.Add(f) {
		o.n.drops.add(dropUnfit)
	}
}

// flushSpreads sends what is packed.
func (o *outgoing) flushSpreads() {
	for i := range o.spreads {
		if s := &o.spreads[i]; s.open {
			s.packer.Flush()
			s.open = false
		}
	}
}

// copies sends each of some peers, but for one, a copy of a run of datagrams that aren't
// sealed, and returns how many datagrams it sent.
func (o *outgoing) copies(to []*peer, but *peer, class overlay.Class, plain []byte, segment int) (sent int) {
	for _, p := range to {
		if p != but && o.copy(p, class, plain, segment) {
			sent += (len(plain) + segment - 1) / segment
		}
	}
	return sent
}

// copy sends a peer a copy of a run, as it sends frames of the class.
func (o *outgoing) copy(p *peer, class overlay.Class, plain []byte, segment int) bool {
	out, detour := o.aim(p, class)
	if out == nil {
		return false
	}
	space := overlay.SpaceWay
	if detour != nil {
		space = spaceOf(class)
	}
	o.copied = append(o.copied[:0], plain...)
	for at := 0; at < len(plain); at += segment {
		d := o.copied[at:min(at+segment, len(plain))]
		if out.session.SealOf(space, overlay.KindData, o.mark(class), d[:len(d)-overlay.TagLen]) == nil {
			o.n.drops.add(dropNoSession)
			return false
		}
	}
	o.single = run{peer: p, class: class, out: out, detour: detour, frames: true, flood: true}
	send := o.by[class]
	if out.fragment && detour == nil {
		send = o.whole
	}
	o.transmit(&o.single, send, o.copied, segment)
	return true
}

// A spreadRun is a run of datagrams of an origin that a lane passes on: part of what one read
// took.
type spreadRun struct {
	to         []*peer
	origin     *peer
	from       *peer
	class      overlay.Class
	data       []byte
	start, end int
	segment    int
}

// spread takes datagram d of frames that others flooded, which was opened and lies at a place
// in what was read.
func (in *inbound) spread(d []byte, at int) {
	s, frames, count, ok := overlay.ParseSpread(overlay.OpenedSpread(d))
	if !ok {
		in.n.drops.add(dropMalformed)
		return
	}
	if s.Leg != overlay.LegInside {
		in.cross(d, at, s, frames, count)
		return
	}
	from := in.at.peer
	origin, to := in.n.spread.now.Load().source(s.Origin, from)
	switch {
	case origin == nil || in.view.peer(origin.place()) != origin:
		in.n.drops.add(dropSpread)
		return
	case s.Links > route.TreeHops:
		in.n.drops.add(dropFar)
		return
	}
	if v := in.admitFlood(origin, from, s.Number, count); v != overlay.Flood {
		in.n.drops.verdict(v)
		return
	}
	in.leave(d, s)
	if len(to) > 0 {
		in.passSpread(d, at, origin, to)
	}
	x := &origin.lanes[in.lane]
	if x.spread == nil {
		x.spread = new(overlay.Unpacker)
	}
	in.unpack(origin, x.spread, frames)
}

// admitFlood says whether so many frames of an origin's, which a peer passed on, are taken.
func (in *inbound) admitFlood(origin, from *peer, number uint64, count int) overlay.Verdict {
	if from != origin {
		from.floods.Lock()
		ok := from.floods.Passes(in.now, count)
		from.floods.Unlock()
		if !ok {
			return overlay.DropStorm
		}
	}
	origin.floods.Lock()
	defer origin.floods.Unlock()
	return origin.floods.Take(in.now, number, count)
}

// passSpread passes datagram d on to others, with those that follow it.
func (in *inbound) passSpread(d []byte, at int, origin *peer, to []*peer) {
	if in.out == nil {
		in.n.drops.add(dropNoRelay)
		return
	}
	overlay.AgeSpread(d)
	class := laneClass(d)
	if o := in.out; o.shaper != nil {
		in.one[0] = overlay.Frame{Head: d}
		if !o.shaper.Enqueue(in.now, passPlace, class, uint32(origin.label), &in.one[0]) {
			in.n.drops.add(dropUnfit)
		}
		return
	}
	data := in.data
	if in.hop != nil {
		data, at = d, 0 // it lay in another one
	}
	r := &in.spreading
	if r.origin != origin || r.from != in.at.peer || r.class != class || r.end != at || &r.data[0] != &data[0] || r.end-r.start >= maxRunBytes-r.segment {
		in.passSpreads()
		*r = spreadRun{to, origin, in.at.peer, class, data, at, at, len(d)}
	}
	r.end = at + len(d)
	if in.hop != nil {
		in.passSpreads()
	}
}

// passSpreads sends what is to be passed on.
func (in *inbound) passSpreads() {
	r := &in.spreading
	if r.origin != nil {
		in.out.now = in.now
		in.out.pass(in.limit, r)
	}
	*r = spreadRun{}
}

// pass sends a run on, as far as what this agent relays isn't limited.
func (o *outgoing) pass(limit *overlay.Bucket, r *spreadRun) {
	plain := r.data[r.start:r.end]
	if limit != nil {
		bytes := int64(len(r.to) * len(plain))
		if limit.Wait(o.now, bytes) > 0 {
			o.n.drops.add(dropTransit)
			return
		}
		limit.Take(o.now, bytes)
	}
	before := o.sent
	o.n.spread.passed.Add(uint64(o.copies(r.to, r.from, r.class, plain, r.segment)))
	o.n.routing.passed.add(o.sent - before)
}

// passLater sends a datagram on that waited for the uplink.
func (o *outgoing) passLater(class overlay.Class, d []byte) {
	s, _, _, ok := overlay.ParseSpread(overlay.OpenedSpread(d))
	is := o.n.spread.now.Load()
	if ok && is != nil && (s.Leg != overlay.LegInside || s.Root == o.n.label) {
		o.pass(o.limit, &spreadRun{to: is.passAcross(o.n.label, s), class: class, data: d, end: len(d), segment: len(d)})
		return
	}
	if !ok || is == nil || is.of[s.Origin] == nil {
		o.n.drops.add(dropSpread)
		return
	}
	b := is.of[s.Origin]
	o.pass(o.limit, &spreadRun{to: b.children, origin: b.origin, from: b.origin, class: class, data: d, end: len(d), segment: len(d)})
}
