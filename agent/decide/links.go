package decide

import (
	"fmt"
	"slices"
	"time"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/mesh"
)

const (
	// An ask is repeated askTimes, first after askEvery and then after twice as long.
	// When it isn't answered the link is asked for again in the next epoch while it is
	// wanted.
	askEvery = time.Second
	askTimes = 3
	// An accepted link that its holder doesn't tell of is kept for so many epochs: he
	// must have said so by then.
	heldEpochs = 3
	// maxLinks is how many links are kept or asked for at most: more than the chooser
	// wants and accepts together.
	maxLinks = 128
	// A peer may ask askBurst times at once and then once each askAgain; what goes beyond
	// isn't answered. maxAskers bounds for how many that is counted; who asked longest ago
	// is forgotten.
	askBurst  = 6
	askAgain  = 2 * time.Second
	maxAskers = 64
	// aloneAfter is how often an agent without links must tell that it is there.
	aloneAfter = time.Minute
)

// LinkCounters count what became of requests for links.
type LinkCounters struct {
	Asked, Accepted, Refused, Unanswered uint64 // by this agent, of others
	Taken, Denied                        uint64 // by others, of this agent
	Limited, Unknown, Malformed          uint64 // messages that weren't taken
}

// Links are the links that an agent keeps with others: those that its mesh.Chooser holds,
// after the peer accepted them, and those that it accepted from others. What is agreed on
// by requests (request.go) is told in records, and where the two differ the records win:
// requests get lost, and agents forget. Use NewLinks. Not safe for concurrent use.
type Links struct {
	self     overlay.AgentID
	chooser  *mesh.Chooser
	picture  *Picture // of the last epoch, nil before the first
	epoch    int64
	links    []link // ascending by peer
	askers   []asker
	out      []outgoing
	number   uint16
	counters LinkCounters
}

// A link is one that an agent keeps, or asks for.
type link struct {
	peer         overlay.AgentID
	mine, theirs bool // who holds it
	agreed       bool // the peer accepted it
	number       uint16
	again        overlay.Instant // when to ask again, 0: no ask is under way
	tries        int
	untold       int // epochs in which the peer didn't say that it is its own
	why, theyWhy mesh.Reason
	gain         int64
	leaving      bool
	since        int64 // epoch
}

// An asker is a peer that asked for links, and when the next time of its share is over.
type asker struct {
	peer overlay.AgentID
	paid overlay.Instant
}

type outgoing struct {
	to  overlay.AgentID
	msg []byte
}

// NewLinks returns the links of an agent that has none. Those that its own record tells of
// are taken up by the first Step.
func NewLinks(self overlay.AgentID) *Links {
	return &Links{self: self, chooser: mesh.New(self)}
}

// A Measured is an agent with whom a link could be made: see CandidateCost.
type Measured struct {
	Peer overlay.AgentID
	Cost int32
}

// Step decides what the agent wants in an epoch, once in each, from whom it could link with
// and what it sends to others and gets from them. An epoch before the last one is one of a
// clock that jumped back.
func (l *Links) Step(now overlay.Instant, epoch int64, p *Picture, measured []Measured, rates []mesh.Rate) {
	if epoch == l.epoch {
		return
	}
	if epoch < l.epoch { // what was noted of later epochs would hold everything up
		l.chooser = mesh.New(l.self)
	}
	first := l.picture == nil
	l.epoch, l.picture = epoch, p
	told := l.told()
	if first {
		l.remember(told)
	}
	l.review(told)
	local := mesh.Local{Rates: rates}
	for _, m := range measured {
		if i := p.View.Index(m.Peer); i >= 0 {
			local.Candidates = append(local.Candidates, mesh.Candidate{Peer: i, Cost: m.Cost})
		}
	}
	for _, w := range l.chooser.Step(epoch, p.View, local) {
		if w.Do == mesh.Drop {
			l.send(w.Peer, request{what: drops, why: w.Why})
		}
	}
	held := l.chooser.Held(nil)
	for i := range l.links {
		x := &l.links[i]
		x.mine = slices.ContainsFunc(held, func(h mesh.Held) bool { return h.Peer == x.peer })
	}
	for _, h := range held {
		x := l.at(h.Peer)
		if x == nil {
			continue
		}
		_, up := told[h.Peer]
		x.mine, x.why, x.gain, x.leaving, x.since = true, h.Why, h.Gain, h.Leaving, h.Since
		if x.agreed = x.agreed && up; !x.agreed {
			l.ask(now, x)
		}
	}
	l.tidy()
}

// told returns of whom the facts say that they have a link with this agent, and whether
// they hold it.
func (l *Links) told() map[overlay.AgentID]bool {
	all := make(map[overlay.AgentID]bool)
	f := &l.picture.Facts
	self := l.picture.View.Index(l.self)
	for _, x := range f.Links {
		switch self {
		case x.A:
			all[f.Agents[x.B].ID] = x.By[1] != mesh.Accepts
		case x.B:
			all[f.Agents[x.A].ID] = x.By[0] != mesh.Accepts
		}
	}
	return all
}

// review compares what was agreed on with what is told.
func (l *Links) review(told map[overlay.AgentID]bool) {
	for i := range l.links {
		x := &l.links[i]
		theirs, up := told[x.peer]
		x.agreed = x.agreed || up
		switch {
		case !x.theirs || theirs:
			x.untold = 0
		default:
			if x.untold++; x.untold >= heldEpochs {
				x.theirs, x.untold = false, 0
			}
		}
	}
}

// remember takes up the links that peers hold with an earlier life of this agent.
func (l *Links) remember(told map[overlay.AgentID]bool) {
	for id, theirs := range told {
		if x := l.at(id); theirs && x != nil {
			x.theirs = true
		}
	}
	l.tidy()
}

// at returns the link with a peer, a new one if there was none; nil if there are too many.
func (l *Links) at(peer overlay.AgentID) *link {
	i, ok := l.find(peer)
	if !ok {
		if len(l.links) >= maxLinks {
			return nil
		}
		l.links = slices.Insert(l.links, i, link{peer: peer, since: l.epoch})
	}
	return &l.links[i]
}

func (l *Links) find(peer overlay.AgentID) (int, bool) {
	return slices.BinarySearchFunc(l.links, peer, func(x link, id overlay.AgentID) int { return x.peer.Compare(id) })
}

// tidy forgets links that nobody holds.
func (l *Links) tidy() {
	l.links = slices.DeleteFunc(l.links, func(x link) bool { return !x.mine && !x.theirs })
}

// ask begins to ask for a link.
func (l *Links) ask(now overlay.Instant, x *link) {
	l.number++
	x.number, x.tries, x.again = l.number, 1, now.Add(askEvery)
	l.counters.Asked++
	l.send(x.peer, request{what: asks, number: x.number, why: x.why})
}

func (l *Links) send(to overlay.AgentID, r request) {
	l.out = append(l.out, outgoing{to, r.append(nil)})
}

// Receive takes a message of a peer, which must be who it says; msg isn't kept. Errors:
// it makes no sense.
func (l *Links) Receive(now overlay.Instant, from overlay.AgentID, msg []byte) error {
	r, known, err := parseRequest(msg)
	switch {
	case err != nil:
		l.counters.Malformed++
		return fmt.Errorf("link request of %s: %w", from.Short(), err)
	case !known:
		l.counters.Unknown++
	case r.what == asks:
		l.asked(now, from, r)
	case r.what == drops:
		if i, ok := l.find(from); ok {
			l.links[i].theirs = false
		}
		l.tidy()
	default:
		l.answered(from, r)
	}
	return nil
}

// asked answers a peer that wants a link.
func (l *Links) asked(now overlay.Instant, from overlay.AgentID, r request) {
	if !l.allow(now, from) {
		l.counters.Limited++
		return
	}
	answer := request{what: refuses, number: r.number}
	i, ok := l.find(from)
	switch {
	case l.picture == nil: // not now
	case ok && l.links[i].theirs:
		answer.what = accepts
	default:
		others := len(l.links)
		if ok {
			others--
		}
		why, yes := l.chooser.Accept(l.picture.View, from, r.why, others)
		if answer.why = why; yes {
			answer.what = accepts
		}
	}
	if answer.what == accepts {
		if x := l.at(from); x != nil {
			x.theirs, x.theyWhy, x.untold = true, r.why, 0
			l.counters.Taken++
			l.send(from, answer)
			return
		}
		answer = request{what: refuses, number: r.number, why: mesh.CapReached}
	}
	l.counters.Denied++
	l.send(from, answer)
}

// allow says whether a peer may ask now.
func (l *Links) allow(now overlay.Instant, from overlay.AgentID) bool {
	i := slices.IndexFunc(l.askers, func(a asker) bool { return a.peer == from })
	if i < 0 {
		if i = len(l.askers); i < maxAskers {
			l.askers = append(l.askers, asker{})
		} else {
			i = 0
			for k, a := range l.askers {
				if a.paid < l.askers[i].paid {
					i = k
				}
			}
		}
		l.askers[i] = asker{peer: from, paid: now}
	}
	a := &l.askers[i]
	if a.paid.Sub(now) > (askBurst-1)*askAgain {
		return false
	}
	a.paid = max(a.paid, now).Add(askAgain)
	return true
}

// answered takes what a peer said to an ask.
func (l *Links) answered(from overlay.AgentID, r request) {
	i, ok := l.find(from)
	if !ok || !l.links[i].mine || l.links[i].again == 0 || l.links[i].number != r.number {
		return // it was given up meanwhile, or is answered
	}
	x := &l.links[i]
	switch {
	case r.what == accepts:
		x.agreed, x.again = true, 0
		l.counters.Accepted++
	case r.why != 0:
		x.mine, x.again = false, 0
		l.chooser.Refused(l.epoch, from)
		l.counters.Refused++
		l.tidy()
	}
}

// Tick repeats asks that weren't answered, and returns when it wants to be called again, 0
// if it needn't.
func (l *Links) Tick(now overlay.Instant) (next overlay.Instant) {
	for i := range l.links {
		x := &l.links[i]
		switch {
		case x.again == 0:
			continue
		case now < x.again:
		case x.tries >= askTimes:
			x.again = 0
			l.counters.Unanswered++
			continue
		default:
			x.again = now.Add(askEvery << x.tries)
			x.tries++
			l.send(x.peer, request{what: asks, number: x.number, why: x.why})
		}
		if next == 0 || x.again < next {
			next = x.again
		}
	}
	return next
}

// Flush hands over the messages that are to be sent; send keeps msg. Who isn't connected is
// to be connected for it.
func (l *Links) Flush(send func(to overlay.AgentID, msg []byte)) {
	for _, o := range l.out {
		send(o.to, o.msg)
	}
	l.out = l.out[:0]
}

// A Kept link is one that is to be kept warm, and why it exists.
type Kept struct {
	Peer  overlay.AgentID
	Epoch int64 // in which it was wished, or asked for
	// Why this agent holds the link, 0 if it doesn't, and by how much all distances
	// become less by it, in µs, where that is why.
	Why  mesh.Reason
	Gain int64
	// TheyWhy is what the peer said when it asked for the link, 0 if it doesn't hold it.
	TheyWhy mesh.Reason
	discovery.Intent
}

// Kept returns the links that both ends have agreed on, ascending by peer, with what is to
// be told of them: Holds, Leaving and Accepts.
func (l *Links) Kept() []Kept {
	all := make([]Kept, 0, len(l.links))
	for _, x := range l.links {
		if !x.theirs && (!x.mine || !x.agreed) {
			continue
		}
		k := Kept{Peer: x.peer, Epoch: x.since}
		if x.theirs {
			k.TheyWhy, k.Accepts = x.theyWhy, true
		}
		if x.mine && x.agreed {
			k.Why, k.Gain, k.Holds, k.Leaving = x.why, x.gain, true, x.leaving
		}
		all = append(all, k)
	}
	return all
}

// Nominees returns whom to measure for the next epoch, which are those that the agent may
// link with in it: none if it has no turn. predict returns what coordinates say that a link
// costs, 0 where they don't; busy are those with whom there is most traffic. See
// mesh.View.Nominees.
func (l *Links) Nominees(predict func(overlay.AgentID) int32, busy []overlay.AgentID) []overlay.AgentID {
	if l.picture == nil {
		return nil
	}
	v, agents := l.picture.View, l.picture.Facts.Agents
	self := v.Index(l.self)
	if self < 0 || !v.Turn(self, l.epoch+1) && len(busy) == 0 {
		return nil
	}
	predicted, most := make([]int32, len(agents)), make([]int, 0, len(busy))
	for i := range agents {
		if i != self {
			predicted[i] = predict(agents[i].ID)
		}
	}
	for _, id := range busy {
		most = append(most, v.Index(id))
	}
	var all []overlay.AgentID
	for _, i := range v.Nominees(self, l.epoch, predicted, most) {
		all = append(all, agents[i].ID)
	}
	return all
}

// Alone says that the agent has no link and told so long ago that it must tell again that
// it is there: by the links of others it is known otherwise.
func (l *Links) Alone(now, told overlay.Instant) bool {
	return len(l.Kept()) == 0 && now.Sub(told) >= aloneAfter
}

// Counters returns what became of requests so far.
func (l *Links) Counters() LinkCounters { return l.counters }
