package agent

import (
	"slices"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// Where links are chosen, an agent keeps in session with those only that it needs now: those
// with whom it keeps links, those whom it measures, those with whom there is traffic, and who
// relays to them. With the others a session is opened when something is to be sent to them
// (see demand), and one that neither of two wants ends with its keys (overlay.Sessions.Rest):
// three to five minutes after the last frame. That they are there others tell, who keep links
// with them.

const (
	// warmNeighbours is how many agents are kept in session with to measure them, however
	// many links there are: from 16 measured neighbours each what isn't measured is
	// predicted (science of the peer map: measure.MinNeighbours is the least of them, and as
	// many again make up for those that are gone).
	warmNeighbours = 2 * measure.MinNeighbours
	// warmEvery is how often it is looked whom sessions are wanted with, and warmFor for how
	// long one is wanted that was asked for.
	warmEvery, warmFor = time.Second, usedFor
	// callEvery is how often a handshake with the same peer is begun anew: those that were
	// begun are repeated.
	callEvery = 2 * time.Second
	// answerTime is for how long a peer stays idle with whom a session is opened: it is taken
	// for there until then, and a busy machine may take so long to answer.
	answerTime = 3 * time.Second
	// Sessions that are begun only to measure with whom a link could be made: one each
	// candidateGap, of which overlay.RejectAfter/candidateGap last at a time and as many that
	// others begin; and as many as are nominated in coldStart, when links are chosen that
	// will last.
	candidateGap = 2 * time.Minute
	coldStart    = 2 * time.Minute
	// candidateFor is for how long they are wanted: an epoch, and what it takes to meet.
	candidateFor = decide.Epoch + 2*time.Second
	// An agent of which nobody tells that he keeps a link with it any more is asked whether it
	// is there, for askedFor, and if it answers not again for askedEvery, as long as nobody
	// does; of many a twentieth in an epoch, and askedLeast at least. Who is new has linkedAfter
	// for links.
	askedFor, askedEvery = measure.GoneAfter + 2*warmEvery, 5 * time.Minute
	askedLeast           = 4
	linkedAfter          = firstChoice + decide.Epoch + 2*time.Second
	// One that is gone may have had no time when it was asked, or the way to it none, and who
	// asked be the only one to notice. It is asked again after returnFirst, and if it is still
	// silent after twice as long, and so on: up to vouchedEvery if others tell that they keep
	// links with it, up to askedEvery if nobody does.
	returnFirst, vouchedEvery = decide.Epoch, time.Minute
)

// warmth is how long a session is wanted.
type warmth uint8

const (
	cold   warmth = iota // not
	brief                // to ask something, and for what follows perhaps
	steady               // as far as can be seen
)

// warming is what the loop keeps of whom sessions are wanted with.
type warming struct {
	sparse bool // they are wanted with few only
	looked overlay.Instant
	stale  bool            // the view doesn't show all members
	alone  overlay.Instant // since when nobody answers, 0: somebody does

	neighbours []overlay.AgentID // whom this agent measures, ascending
	chose      overlay.Instant   // when it chose them, of how many
	among      int
	room       overlay.Bucket // seconds that candidates wait for
	most       int            // neighbours
}

// newWarming returns one of an agent that has just begun.
func newWarming() warming {
	return warming{most: warmNeighbours, room: overlay.NewBucket(1, int64(candidateGap/time.Second))}
}

// isSparse says whether there are so many agents that sessions are wanted with few only:
// links are chosen, or will be.
func (n *node) isSparse() bool {
	l := &n.linking
	return n.divided() || l.chosen || l.agreed == nil && !l.crowded && n.near() >= measure.EverybodyUpTo
}

// mindSparse takes over whether there are so many. It is called for each member that is met:
// who comes late is told of all at once, and is to begin sessions with few of them.
func (n *node) mindSparse() {
	if sparse := n.isSparse(); sparse != n.warm.sparse {
		n.warm.sparse, n.warm.stale = sparse, true
		n.log.Debug("sessions are kept", "with few", sparse)
	}
}

// keepWarm decides each second with whom sessions are wanted.
func (n *node) keepWarm(now overlay.Instant) {
	w := &n.warm
	if now.Sub(w.looked) < warmEvery {
		return
	}
	w.looked = now
	n.mindSparse()
	if w.sparse {
		n.chooseNeighbours(now)
	}
	for _, p := range n.byIndex {
		if p != nil {
			n.warmTo(now, p, n.warmthOf(now, p))
		}
	}
	for _, p := range n.byIndex { // who relays to those with whom one is wanted
		if p == nil || p.warmth == cold {
			continue
		}
		if out := p.out.Load(); out != nil && out.relay != nil && out.relay.warmth < p.warmth && !out.relay.barred {
			n.warmTo(now, out.relay, p.warmth)
		}
	}
	n.held.expire(now, n.dropHeld)
	n.mindAlone(now)
	if w.stale {
		n.publish(now)
	}
}

// warmthOf says for how long a session with a peer is wanted, but for its relaying to others.
func (n *node) warmthOf(now overlay.Instant, p *peer) warmth {
	w, kept := &n.warm, n.keeps(p.id)
	switch {
	case p.barred:
		return cold
	case !w.sparse && !p.far, n.onBackbone(p.id), kept.Holds, kept.Accepts, kept.Leaving, p.pipe.is != nil, p.pipe.opening,
		p.usedSince(now.Add(-usedFor)):
		return steady
	case p.state != measure.Gone && contains(w.neighbours, p.id):
		return steady
	case now.Before(p.wanted):
		return brief
	}
	return cold
}

// mindAlone notices that nobody answers, and that somebody does again: who was found to be
// gone meanwhile, or a moment before, need not be, and is there by what others tell.
func (n *node) mindAlone(now overlay.Instant) {
	w := &n.warm
	answers := n.inState(measure.Up) > 0
	switch {
	case !answers && w.alone == 0:
		w.alone = now
	case answers && w.alone != 0:
		since := w.alone.Add(-measure.GoneAfter)
		w.alone = 0
		for _, p := range n.byIndex {
			if w.sparse && p != nil && p.state == measure.Gone && !p.barred && p.out.Load() == nil && p.since >= since {
				n.become(now, p, measure.Idle)
				w.stale = true
			}
		}
	}
}

func contains(ascending []overlay.AgentID, id overlay.AgentID) bool {
	_, ok := slices.BinarySearchFunc(ascending, id, overlay.AgentID.Compare)
	return ok
}

// warmTo notes for how long a session with a peer is wanted, and has the sessions do it.
func (n *node) warmTo(now overlay.Instant, p *peer, w warmth) {
	if p.warmth == cold {
		p.warmed = now
	}
	p.warmth = w
	n.sessions.Rest(now, p.id, w == cold)
	if onDemand := (n.warm.sparse || p.far) && !p.barred; p.onDemand.Load() != onDemand {
		p.onDemand.Store(onDemand)
	}
}

// chooseNeighbours decides whom to measure, however few sessions are wanted otherwise: anew
// when members came or went, and each epoch of the map.
func (n *node) chooseNeighbours(now overlay.Instant) {
	w := &n.warm
	var live []discovery.Link
	for _, p := range n.byIndex {
		if p == nil || p.barred || p.far || p.state == measure.Gone {
			continue
		}
		l := discovery.Link{Peer: p.id}
		if p.state == measure.Up && p.direct() {
			l.RTT = p.pair(now).RTT
		}
		live = append(live, l)
	}
	if len(live) == w.among && w.chose != 0 && now.Sub(w.chose) < neighboursEvery {
		return
	}
	w.neighbours, w.chose, w.among = n.neighbours(now, live, w.most), now, len(live)
}

// demand opens a session with a peer to which something is to be sent, unless there is one
// or it is being opened.
func (n *node) demand(now overlay.Instant, p *peer) {
	if n.afar.holds(p) {
		n.seek(now, discovery.BriefOf(p.id))
		return
	}
	p.forOthers = false
	n.open(now, p)
}

// open begins a handshake with a peer, and sends it what waits if there is a session.
func (n *node) open(now overlay.Instant, p *peer) {
	p.calling.Store(false)
	if n.peers[p.id] != p || p.barred {
		n.dropHeld(n.held.take(p))
		return
	}
	p.wanted = max(p.wanted, now.Add(warmFor))
	if p.out.Load() != nil {
		n.release(now, p) // it is there since
		return
	}
	n.warmTo(now, p, max(p.warmth, brief))
	if now.Sub(p.called) < callEvery {
		return
	}
	p.called = now
	var relays []overlay.AgentID
	if !p.forOthers {
		relays = n.relaysTo(p, n.relayers(now, metRelays))
	}
	n.sessions.Relays(p.id, relays)
	n.sessions.Renew(now, p.id)
}

// demandToRelay opens a session with a peer to which a member wants something relayed: what
// comes next can be. Other members aren't asked to relay for that, or they would all look
// for one that is gone.
func (n *node) demandToRelay(now overlay.Instant, p *peer) {
	if p.calling.Store(false); p.state == measure.Idle {
		p.forOthers = true
		n.open(now, p)
	}
}

// call has the loop open a session with a peer, by demand. Any goroutine may.
func (n *node) call(p *peer, demand func(overlay.Instant, *peer)) {
	if !p.calling.Swap(true) && !n.mail.offer(func(now overlay.Instant) { demand(now, p) }) {
		p.calling.Store(false)
	}
}

// watchAbsent follows a peer with whom there is no session.
func (n *node) watchAbsent(now overlay.Instant, p *peer) {
	lasted := now.Sub(p.since)
	switch {
	case p.warmth == cold && !p.barred && p.state != measure.Gone:
		if p.state != measure.Idle {
			n.become(now, p, measure.Idle)
			p.fathom = false
		}
	case p.state == measure.Idle:
		if asked := max(p.warmed, p.since); now.Sub(asked) >= answerTime {
			n.become(now, p, measure.Suspect)
			p.since = asked
		}
	case p.state != measure.Gone && lasted >= measure.GoneAfter:
		n.gone(now, p, "no answer")
	case p.state == measure.Up:
		n.become(now, p, measure.Suspect)
	}
}

// lookAround takes over what an epoch's picture and the records say of who is there: of those
// without a session nothing else is known. Who seems to be gone is asked before that is
// believed. Who is gone and spoke since isn't gone any more; others who are gone are asked
// again, but hardly before those: that it is known in time who died is more urgent.
func (n *node) lookAround(now overlay.Instant, picture *decide.Picture) {
	if !n.warm.sparse {
		return
	}
	vouched := vouches(n.toldLinks())
	var idle, gone []*peer // to ask
	for _, p := range n.byIndex {
		if p == nil || p.barred || p.far || p.out.Load() != nil {
			continue
		}
		known := vouched[discovery.BriefOf(p.id)]
		late := keepsAny(n.routing.told[p.id].Rows) || n.wall().Sub(n.toldAt(p.id)) >= linkedAfter
		lost := !picture.Shows(p.id) || !known && late
		switch {
		case p.state == measure.Gone && n.toldAt(p.id) > p.goneAt:
			n.become(now, p, measure.Idle)
			n.warm.stale = true
		case p.state == measure.Gone && p.warmth == cold && now.Sub(max(p.since, p.lost)) >= returnAfter(p.missed, known):
			gone = append(gone, p)
		case p.state == measure.Idle && known && !lost:
			p.lost = 0
		case p.state == measure.Idle && lost && (p.lost == 0 || now.Sub(p.lost) >= askedEvery):
			idle = append(idle, p)
		}
	}
	room := max(len(n.peers)/20, askedLeast)
	idle = idle[:min(len(idle), room)]
	gone = gone[:min(len(gone), max(room-len(idle), 1))]
	for _, p := range append(idle, gone...) {
		if p.state == measure.Gone {
			p.missed++
		}
		n.demand(now, p)
		p.lost, p.wanted = now, now.Add(askedFor)
	}
}

// returnAfter returns how long after it was asked last one is asked that is gone, and was
// silent so many times since.
func returnAfter(missed int, vouched bool) time.Duration {
	most := askedEvery
	if vouched {
		most = vouchedEvery
	}
	return min(returnFirst<<min(missed, 10), most)
}

// vouches returns with whom agents tell that they keep links.
func vouches(told []decide.Told) map[discovery.Brief]bool {
	all := make(map[discovery.Brief]bool, len(told))
	for _, t := range told {
		for _, r := range t.Rows {
			if r.Kept() {
				all[r.Peer] = true
			}
		}
	}
	return all
}

func keepsAny(rows []discovery.Row) bool {
	return slices.ContainsFunc(rows, func(r discovery.Row) bool { return r.Kept() })
}

// toldAt returns when a member told something of itself last, by its clock.
func (n *node) toldAt(id overlay.AgentID) (at overlay.Instant) {
	for _, kind := range []discovery.Kind{discovery.KindMember, discovery.KindLinks} {
		if r, ok := n.store.Record(id, kind); ok {
			at = max(at, overlay.Instant(r.Version))
		}
	}
	return at
}

// meetCandidates opens sessions with those with whom a link could be made in the next epoch,
// as far as there is room: the others are candidates when there is a session anyway.
func (n *node) meetCandidates(now overlay.Instant) {
	gap := int64(candidateGap / time.Second)
	for _, id := range n.linking.named {
		p := n.peers[id]
		if p == nil || !n.warm.sparse || p.out.Load() != nil || p.state != measure.Idle {
			continue
		}
		if now.Sub(n.epoch) >= coldStart {
			if n.warm.room.Wait(now, gap) > 0 {
				return
			}
			n.warm.room.Take(now, gap)
		}
		n.demand(now, p)
		p.wanted = now.Add(candidateFor)
	}
}
