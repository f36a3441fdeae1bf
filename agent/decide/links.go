package decide

import (
	"slices"
	"time"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/mesh"
)

const (
	// An accepted link that its holder doesn't tell of is kept for so many epochs: he
	// must have said so by then.
	heldEpochs = 3
	// maxLinks is how many links are kept or asked for at most: more than the chooser
	// wants and accepts together.
	maxLinks = 128
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
	hasty    bool
	layer    byte
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
	heir         overlay.AgentID // with whom a link is asked for instead
	since        int64           // epoch
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

// NewBackbone is NewLinks for the links of a gateway with others, about which it is asked and
// asks apart from other links: see OfBackbone.
func NewBackbone(self overlay.AgentID) *Links {
	l := NewLinks(self)
	l.layer = backbone
	return l
}

// A Measured is an agent with whom a link could be made: see CandidateCost.
type Measured struct {
	Peer overlay.AgentID
	Cost int32
}

// Careless takes rules out, see mesh.Chooser.Careless.
func (l *Links) Careless(turns, worth bool) {
	l.chooser.Careless(turns, worth)
	l.hasty = turns
}

// Step decides what the agent wants in an epoch, once in each, from whom it could link with
// and what it sends to others and gets from them. Epochs long before the last one are those
// of a clock that jumped back; the one before is that of a clock set right by a little.
func (l *Links) Step(now overlay.Instant, epoch int64, p *Picture, measured []Measured, rates []mesh.Rate) {
	if epoch == l.epoch || epoch == l.epoch-1 {
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
		} else if i, ok := l.find(w.Other); ok {
			l.links[i].heir = w.Peer
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
			k.Why, k.Gain, k.Holds, k.Leaving = x.why, x.gain, true, x.leaving && l.inherited(x)
		}
		all = append(all, k)
	}
	return all
}

// inherited says whether the link that is to replace one is agreed on. Many are refused, as
// several agents ask for the same place at once: of these nobody needs to know.
func (l *Links) inherited(x link) bool {
	i, ok := l.find(x.heir)
	return ok && l.links[i].mine && l.links[i].agreed
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
	if self < 0 || !v.Turn(self, l.epoch+1) && len(busy) == 0 && !l.hasty {
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
