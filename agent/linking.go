package agent

import (
	"cmp"
	"context"
	"encoding/hex"
	"slices"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/mesh"
)

const (
	// firstChoice is how long an agent runs until it decides on links: by then it knows
	// who is there, and what it told in an earlier life.
	firstChoice = 8 * time.Second
	// Among more than besideFrom agents an epoch is decided beside the loop, which would
	// wait for it: that takes 30 ms among 490 and 200 ms among 1,000.
	besideFrom = 200
	// maxLate is how many requests wait meanwhile; the others are repeated.
	maxLate = 256
	// candidateEvery is how often an agent is probed with whom a link may be chosen.
	candidateEvery = 4 * time.Second
	// busyRate is what must go to and fro for an agent to be measured as one that a link
	// is made with for its traffic, in bits a second; busiest is how many there are.
	busyRate = 1_000_000
	busiest  = 8
)

// linking is what the loop keeps of the links that it has decided on.
type linking struct {
	links   *decide.Links
	send    func(to overlay.AgentID, msg []byte)
	kept    []decide.Kept     // ascending
	former  []discovery.Row   // kept in an earlier life, until the first decision
	named   []overlay.AgentID // whom to measure for the next epoch
	busy    []overlay.AgentID // with whom there is most traffic, the busiest first
	epoch   int64             // of the last decision, 0 there is none
	agents  int               // that were there
	chosen  bool              // they were too many for a link with each
	crowded bool              // they were too many, and this agent is none of those that choose
	working bool              // beside the loop, which doesn't touch links then
	late    []lateRequest
	repeat  overlay.Instant // an ask that isn't answered, 0: there is none
	agreed  *agreementView
}

type lateRequest struct {
	from *peer
	msg  []byte
}

// A decision is what came of an epoch.
type decision struct {
	picture *decide.Picture
	routes  []byte // hash of those that follow from what is told
	named   []overlay.AgentID
	duty    *duty // nil outside of areas
	err     error
}

// shows says whether it is one on the links of an agent: where they are too many it may be none
// of those that choose.
func (d *decision) shows(id overlay.AgentID) bool {
	return d.err == nil && d.picture.View.Index(id) >= 0
}

// mindLinks decides once in an epoch which links this agent wants, and repeats what it
// asked for.
func (n *node) mindLinks(now overlay.Instant) {
	l := &n.linking
	epoch := decide.EpochOf(n.wall())
	switch {
	case l.working:
	case epoch != l.epoch && now.Sub(n.epoch) >= firstChoice:
		n.chooseLinks(now, epoch)
	case l.repeat != 0 && !now.Before(l.repeat):
		n.agreeOnLinks(now)
	case n.area.gate != nil && n.area.gate.repeat != 0 && !now.Before(n.area.gate.repeat):
		n.agreeOnBackbone(now)
	}
}

// chooseLinks begins an epoch.
func (n *node) chooseLinks(now overlay.Instant, epoch int64) {
	l := &n.linking
	told, rates := n.replicated(), n.rates()
	l.busy = l.busy[:0]
	for _, r := range rates[:min(len(rates), busiest)] {
		if r.Kbit >= busyRate/1000 {
			l.busy = append(l.busy, r.Peer)
		}
	}
	told = n.inArea(told)
	duty := n.duty(now)
	network, measured, predicted, busy := n.networkNumber(), n.measured(now), n.predicted(), slices.Clone(l.busy)
	records := n.store.Hash()
	work := func() (d decision) {
		if d.picture, d.err = decide.NewPictureOfArea(network, epoch, n.self, told); d.shows(n.self) {
			l.links.Step(now, epoch, d.picture, measured, rates)
			d.named = l.links.Nominees(func(id overlay.AgentID) int32 { return predicted[id] }, busy)
			d.routes = decide.RoutesHash(network, told)
			duty.decide(now, epoch, n.self, d.picture, told)
			d.duty = duty
		}
		return d
	}
	if l.epoch = epoch; len(told) <= besideFrom {
		n.decided(now, records, work())
		return
	}
	l.working = true
	n.spawn("links", func(ctx context.Context) error {
		d := work()
		for !n.mail.put(func(now overlay.Instant) { l.working = false; n.decided(now, records, d) }) {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(tick):
			}
		}
		return nil
	})
}

// decided takes over what was decided, and what came meanwhile.
func (n *node) decided(now overlay.Instant, records [32]byte, d decision) {
	l := &n.linking
	l.former = nil
	if !d.shows(n.self) {
		if !l.crowded {
			n.log.Warn("this agent's links aren't chosen", "agents", n.near()+1, "error", d.err)
		}
		l.kept, l.named, l.late, l.chosen, l.crowded, l.agreed = nil, nil, nil, false, true, nil
		n.chooseWatched(n.view.Load().linked)
		if d.err == nil {
			n.dwell(now, d.picture)
		}
		return
	}
	l.crowded = false
	l.named, l.agents, l.chosen = d.named, d.picture.View.Agents(), !d.picture.View.Full()
	l.agreed = &agreementView{
		Epoch: l.epoch, Agents: l.agents,
		Records: hex.EncodeToString(records[:8]), Links: hex.EncodeToString(d.picture.Hash()),
		Routes: hex.EncodeToString(d.routes),
	}
	for _, r := range l.late {
		n.takeRequest(now, r.from, r.msg)
	}
	l.late = nil
	n.agreeOnLinks(now)
	n.chooseWatched(n.view.Load().linked)
	n.lookAround(now, d.picture)
	n.meetCandidates(now)
	n.served(now, d.duty)
	if len(n.peers) > 0 && l.links.Alone(now, n.own.rows.At) {
		n.own.rows.Again()
	}
	n.dwell(now, d.picture)
	n.log.Debug("links decided", "epoch", l.epoch, "agents", l.agents, "kept", len(l.kept), "records", l.agreed.Records, "links", l.agreed.Links, "routes", l.agreed.Routes)
}

// agreeOnLinks sends what is to be said to peers of links, and takes over which are kept.
func (n *node) agreeOnLinks(now overlay.Instant) {
	l := &n.linking
	l.repeat = l.links.Tick(now)
	l.links.Flush(l.send)
	before := l.kept
	l.kept = l.links.Kept()
	if !slices.EqualFunc(before, l.kept, func(a, b decide.Kept) bool { return a.Peer == b.Peer }) {
		n.chooseWatched(n.view.Load().linked)
	}
}

// requested takes a request of a peer for a link, or an answer to one.
func (n *node) requested(now overlay.Instant, from *peer, msg []byte) {
	l := &n.linking
	switch {
	case n.peers[from.id] != from:
	case !l.working:
		n.takeRequest(now, from, msg)
		n.agreeOnLinks(now)
		n.agreeOnBackbone(now)
	case len(l.late) < maxLate:
		l.late = append(l.late, lateRequest{from, msg})
	}
}

func (n *node) takeRequest(now overlay.Instant, from *peer, msg []byte) {
	links := n.linking.links
	if g := n.area.gate; decide.OfBackbone(msg) && g != nil {
		links = g.links
	} else if decide.OfBackbone(msg) {
		return // it is a gateway no longer
	}
	if err := links.Receive(now, from.id, msg); err != nil {
		n.drops.add(dropRequest)
		n.log.Debug("request refused", "error", err)
	}
}

// sendRequest says something to a peer. It gets lost if there is no session, which is opened
// then where that is done on demand: what is said is repeated.
func (n *node) sendRequest(to overlay.AgentID, msg []byte) {
	p := n.peers[to]
	if p == nil {
		return
	}
	out := p.out.Load()
	if out == nil {
		if p.onDemand.Load() && p.state != measure.Gone {
			n.demand(n.now(), p)
		}
		return
	}
	b := overlay.AppendRequest(make([]byte, overlay.HeaderLen, 64), msg)
	if d := out.session.Seal(overlay.KindProbe, 0, b); d != nil {
		_ = n.post(n.ask, out, d, len(d))
	}
}

// networkNumber tells networks apart by which agents are the same.
func (n *node) networkNumber() (number uint64) {
	for _, b := range []byte(n.network.ID()) {
		number = number*31 + uint64(b)
	}
	return number
}

// replicated returns what all members tell that haven't left, this one included, ascending: the
// same at all agents.
func (n *node) replicated() []decide.Told {
	all := make([]decide.Told, 0, len(n.peers)+1)
	add := func(t decide.Told) {
		if r, ok := n.store.Record(t.ID, discovery.KindMember); ok {
			t.At = max(t.At, overlay.Instant(r.Version))
			all = append(all, t)
		}
	}
	own := decide.Told{ID: n.self}
	if links, at, ok := n.store.Told(n.self); ok {
		own.Links, own.At = links, at
	}
	add(own)
	for id, p := range n.peers {
		if p.barred || p.member.Left || p.far {
			continue
		}
		t, ok := n.routing.told[id]
		if !ok {
			t.ID = id
		}
		t.NoTransit = t.NoTransit || !p.rights.Has(discovery.RightRelay)
		add(t)
	}
	slices.SortFunc(all, func(a, b decide.Told) int { return a.ID.Compare(b.ID) })
	return all
}

// measured returns what links with those would cost that were to be measured.
func (n *node) measured(now overlay.Instant) []decide.Measured {
	return n.measuredOf(now, n.linking.named)
}

// measuredOf returns what links with some would cost.
func (n *node) measuredOf(now overlay.Instant, named []overlay.AgentID) (all []decide.Measured) {
	for _, id := range named {
		p := n.peers[id]
		if p == nil || p.state != measure.Up || p.cut || !p.direct() {
			continue
		}
		if v := p.pair(now); v.RTTSource == measure.Measured {
			all = append(all, decide.Measured{Peer: id, Cost: decide.CandidateCost(v.RTT)})
		}
	}
	return all
}

// predicted returns what links would probably cost.
func (n *node) predicted() map[overlay.AgentID]int32 {
	all := make(map[overlay.AgentID]int32, len(n.peers))
	if n.predict == nil {
		return all
	}
	for id := range n.peers {
		if rtt, _, ok := n.predict.RTT(n.self, id); ok {
			all[id] = decide.CandidateCost(rtt)
		}
	}
	return all
}

// rates returns what goes to and fro between this agent and others, the most first, by its
// own meters: what others tell of it is minutes old, and a moment's burst in it lasts.
func (n *node) rates() (all []mesh.Rate) {
	for id, p := range n.peers {
		rate := p.load.rate + p.got.rate
		if kbit := rate / 1000; kbit > 0 {
			all = append(all, mesh.Rate{Peer: id, Kbit: kbit})
		}
	}
	slices.SortFunc(all, func(a, b mesh.Rate) int { return cmp.Or(cmp.Compare(b.Kbit, a.Kbit), a.Peer.Compare(b.Peer)) })
	return all
}

// rememberLinks takes up what this agent told of its links in an earlier life: until it has
// decided anew, it goes on to say so.
func (n *node) rememberLinks() {
	if told, _, ok := n.store.Told(n.self); ok && n.linking.epoch == 0 {
		n.linking.former = slices.DeleteFunc(slices.Clone(told.Rows), func(r discovery.Row) bool { return !r.Kept() })
	}
}

// keeps returns what this agent has decided of its link to a peer.
func (n *node) keeps(id overlay.AgentID) (t discovery.Intent) {
	l := &n.linking
	if k := l.link(id); k != nil {
		return k.Intent
	}
	brief := discovery.BriefOf(id)
	for _, r := range l.former {
		if r.Peer == brief {
			return discovery.Intent{Holds: r.Holds, Leaving: r.Leaving, Accepts: r.Accepts}
		}
	}
	return n.keptBefore(id)
}

// link returns the link that is kept with a peer, nil if none is.
func (l *linking) link(id overlay.AgentID) *decide.Kept { return keptLink(l.kept, id) }

// keptLink returns that with a peer of links, ascending; nil if there is none.
func keptLink(kept []decide.Kept, id overlay.AgentID) *decide.Kept {
	i, ok := slices.BinarySearchFunc(kept, id, func(k decide.Kept, id overlay.AgentID) int { return k.Peer.Compare(id) })
	if !ok {
		return nil
	}
	return &kept[i]
}

// watches says whether a peer is to be probed each second: if a link is kept with it, or, as
// far as there are few of these, there is much traffic with it.
func (l *linking) watches(id overlay.AgentID) bool {
	room := max(watched-len(l.kept), 0)
	return l.link(id) != nil || slices.Contains(l.busy[:min(len(l.busy), room)], id)
}
