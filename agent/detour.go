package agent

import (
	"sync/atomic"
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// Frames take the session's way (see relay.go) unless the routes know a better one for
// their class: then this agent puts a path in front of them, and they count in a space of
// their own, as they are lost and late by themselves.

// A detour is where frames of a class go instead of the session's way. Lanes share it; it is
// replaced as a whole.
type detour struct {
	ids    []overlay.AgentID // on it, both ends included; two are the session's way
	hop    *peer             // the first member on it, nil if it is the session's way
	path   []overlay.Label
	around int     // bytes around each datagram
	size   int     // of datagrams
	other  *detour // to take while this one doesn't work, nil: none

	asks   int          // nudges that weren't acknowledged; the loop's own
	sentAt atomic.Int64 // when frames were sent last
	failed atomic.Bool  // what was sent isn't acknowledged
}

// works says whether frames can go that way now, as far as this agent knows.
func (r *detour) works(p *peer) bool {
	if r.hop == nil {
		return p.direct() && !p.silenced.Load()
	}
	return !r.failed.Load() && !r.hop.silenced.Load() && r.hop.direct()
}

// detour returns the detour that frames of a class to the peer take, nil if that is the
// session's way.
func (p *peer) detour(class overlay.Class) *detour {
	for r := p.detours[class].Load(); r != nil; r = r.other {
		if r.works(p) {
			if r.hop == nil {
				return nil
			}
			return r
		}
	}
	return nil
}

// spaceOf returns the space in which frames of a class count that take a route.
func spaceOf(class overlay.Class) overlay.Space {
	if class == overlay.ClassDelay {
		return overlay.SpaceDelay
	}
	return overlay.SpaceBulk
}

// reservedRoute is where a peer keeps what is known of its reserved ways, behind its routes.
const reservedRoute = int(overlay.Classes)

// routeOf returns where a peer keeps what is known of frames of a space that isn't the way's.
func routeOf(space overlay.Space) int {
	switch space {
	case overlay.SpaceDelay:
		return int(overlay.ClassDelay)
	case overlay.SpaceReserved:
		return reservedRoute
	}
	return int(overlay.ClassBulk)
}

// A routed path is what is known of the one that frames of a class take by a route. peer.mu
// guards it.
type routed struct {
	path    *measure.Path // nil: none took one yet
	session *overlay.Session
}

// use makes r ready for frames of a session.
func (r *routed) use(now overlay.Instant, s *overlay.Session) {
	if r.path == nil {
		r.path = measure.NewPath(now)
	}
	if r.session != s {
		r.session = s
		r.path.Restart()
	}
}

// noteRouted notes that frames were sent by a route.
func (p *peer) noteRouted(now overlay.Instant, r *run) {
	if r.frames { // else an acknowledgement, which nobody acknowledges
		r.detour.sentAt.Store(int64(now))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	x := &p.routed[r.class]
	x.use(now, r.out.session)
	x.path.Sent(now, r.out.session.SentOf(spaceOf(r.class)))
}

// ackedRoute takes an acknowledgement of frames that went by a route, of which so many
// were received. p.mu is held. It is false if it can't be.
func (p *peer) ackedRoute(at overlay.Instant, s *overlay.Session, space overlay.Space, a overlay.Ack) bool {
	x := &p.routed[routeOf(space)]
	x.use(at, s)
	if !x.path.Told(at, a.Highest, a.Count, s.SentOf(space)) || x.path.Acked(at, a) == measure.Odd {
		return false
	}
	x.path.Heard(at)
	return true
}

// watchDetours notices that frames which went by a detour aren't acknowledged: before it is
// given up it is asked whether it works.
func (n *node) watchDetours(now overlay.Instant, p *peer) {
	for c := range p.detours {
		r := p.detours[c].Load()
		if r == nil || r.hop == nil || r.failed.Load() || r.sentAt.Load() == 0 {
			continue
		}
		p.mu.Lock()
		path, silence := p.routed[c].path, measure.Answering
		if path != nil {
			silence = path.Silent(now, overlay.Instant(r.sentAt.Load()))
		}
		p.mu.Unlock()
		switch {
		case silence == measure.Answering:
			r.asks = 0
		case silence == measure.Cut && r.asks >= measure.Misses:
			r.failed.Store(true)
			n.detourFailed(now, p, r)
		default:
			r.asks++
			n.nudge(p, r, spaceOf(overlay.Class(c)))
		}
	}
}

// nudge sends something by a detour that will be acknowledged.
func (n *node) nudge(p *peer, r *detour, space overlay.Space) {
	if out := p.out.Load(); out != nil {
		n.postDetour(r, out.session.SealNudge(space))
	}
}

// postDetour sends a datagram by a detour, nil is none. It is for the node's loop.
func (n *node) postDetour(r *detour, d []byte) {
	if hop := r.hop.out.Load(); d != nil && hop != nil && hop.relay == nil {
		n.relayed, _ = n.relay(n.ask, hop, r.path, n.relayed, d, len(d))
	}
}

// askDetour sends a probe the way that urgent frames to the peer take, a detour. Its round
// trip goes to waiter.
func (n *node) askDetour(p *peer, r *detour, waiter chan<- time.Duration) (key probeKey, ok bool) {
	out, now := p.out.Load(), n.now()
	p.mu.Lock()
	x := &p.routed[overlay.ClassDelay]
	x.use(now, out.session)
	q := x.path.Probe(now)
	key = probeKey{overlay.SpaceDelay, q.Number}
	p.await(key, waiter)
	p.mu.Unlock()
	b := overlay.AppendProbe(make([]byte, overlay.HeaderLen, probeSpace), q, false)
	n.postDetour(r, out.session.SealOf(overlay.SpaceDelay, overlay.KindProbe, overlay.LaneDelay, b))
	return key, true
}

// detourProbe takes a probe or a reply that came by a detour: it tells of that alone. A
// probe is answered at once, the way that it came.
func (in *inbound) detourProbe(q overlay.Probe, isReply bool) {
	at, s, p := in.arrived(), in.at.session, in.at.peer
	p.mu.Lock()
	x := &p.routed[routeOf(in.space)]
	if x.path == nil {
		x.use(at, s)
	}
	rtt, receipt := x.path.Receive(at, q, isReply)
	p.answered(probeKey{in.space, q.Echo}, rtt, receipt)
	var r overlay.Probe
	if !isReply {
		r = x.path.Answer(in.n.now(), q.Number, at)
	}
	p.mu.Unlock()
	if receipt == measure.Odd {
		in.n.drops.add(dropProbe)
	}
	if !isReply {
		b := overlay.AppendProbe(in.reply[:overlay.HeaderLen], r, true)
		in.answerBack(s.SealOf(in.space, overlay.KindProbe, overlay.LaneDelay, b))
	}
}

// sendRouted sends a run that the packer has filled by its route.
func (o *outgoing) sendRouted(r *run, send sendFunc, b []byte, segment int) (err error) {
	hop := r.detour.hop.out.Load()
	if hop == nil || hop.relay != nil {
		return errNoRelay
	}
	r.detour.hop.sentAt.Store(int64(o.now))
	number := byte(0)
	if r.reserved != nil {
		number = r.reserved.flow.Number
	}
	o.fronts, err = o.n.relayBy(send, hop, number, r.detour.path, o.fronts, b, segment)
	return err
}
