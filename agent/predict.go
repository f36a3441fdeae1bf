package agent

import (
	"maps"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/measure/predict"
	"farlan/overlay"
)

// A predictor says what pairs are like that nobody measured. ok is false if it can't
// tell. The node's loop alone uses it.
type predictor interface {
	// RTT returns a round trip, and by which part of it it may be wrong.
	RTT(from, to overlay.AgentID) (rtt time.Duration, relErr float64, ok bool)
	// Capacity returns the rate of an idle path, in bits of IP packets a second.
	Capacity(from, to overlay.AgentID) (rate int64, relErr float64, ok bool)
	// frozen returns a copy that others may use, and that doesn't change.
	frozen() predictor
}

const (
	// guesserFewest is of how few agents nothing can be told: each needs four that it
	// measured, and another.
	guesserFewest = 6
	// guesserSlots is for how many agents a guesser has room at first; it doubles.
	guesserSlots = 32
	// guesserTurn is how many looks it takes until every agent's rows were read again,
	// though nothing is new: a claim that isn't repeated is forgotten after 30 minutes.
	guesserTurn = 300
	// guesserFits is how many agents are placed anew at a look, at most.
	guesserFits = 16
)

// A guesser predicts by the rows that all agents tell: it completes the matrix of which
// they are parts (package predict). Nobody needs to tell more for it.
type guesser struct {
	slots map[overlay.AgentID]int
	free  []int
	row   [][]int // by slot: the slots that its agent told of last
	size  int
	times *predict.Latency
	rates *predict.Rates
	news  map[overlay.AgentID]bool // whose rows have changed
	turn  []overlay.AgentID        // who is to be read again
}

func newGuesser() *guesser {
	g := &guesser{news: make(map[overlay.AgentID]bool)}
	g.begin(guesserSlots)
	return g
}

// begin forgets everything, and has so much room.
func (g *guesser) begin(size int) {
	const seed = 1 // all agents guess the same
	g.size, g.slots, g.row, g.free = size, make(map[overlay.AgentID]int), make([][]int, size), nil
	for i := range size {
		g.free = append(g.free, size-1-i)
	}
	g.times, g.rates = predict.NewLatency(size, seed), predict.NewRates(size, seed)
}

// changed says that an agent tells something new.
func (g *guesser) changed(id overlay.AgentID) { g.news[id] = true }

// forget drops an agent.
func (g *guesser) forget(id overlay.AgentID) {
	delete(g.news, id)
	if slot, ok := g.slots[id]; ok {
		g.times.Reset(slot)
		g.rates.Reset(slot)
		g.row[slot] = nil
		g.free = append(g.free, slot)
		delete(g.slots, id)
	}
}

// look reads rows that are new, and some again, and improves the guesses. It is to be
// called each second. rows returns what an agent tells, and all are the agents.
func (g *guesser) look(now overlay.Instant, all []overlay.AgentID, rows func(overlay.AgentID) []discovery.Link) {
	if len(all) > g.size {
		g.begin(max(2*g.size, len(all)))
		g.turn = nil
		for _, id := range all {
			g.changed(id)
		}
	}
	if len(g.turn) == 0 {
		g.turn = all
	}
	again := min((len(all)+guesserTurn-1)/guesserTurn, len(g.turn))
	for _, id := range g.turn[:again] {
		g.changed(id)
	}
	g.turn = g.turn[again:]
	for _, id := range all {
		if g.news[id] {
			g.read(now, id, rows(id))
		}
	}
	clear(g.news)
	g.times.Improve(now, guesserFits)
	g.rates.Improve(now, guesserFits)
}

// slot returns an agent's, false if there is none left.
func (g *guesser) slot(id overlay.AgentID) (int, bool) {
	slot, ok := g.slots[id]
	if !ok && len(g.free) > 0 {
		slot, ok = g.free[len(g.free)-1], true
		g.free = g.free[:len(g.free)-1]
		g.slots[id] = slot
	}
	return slot, ok
}

// read takes an agent's rows in place of those before.
func (g *guesser) read(now overlay.Instant, id overlay.AgentID, rows []discovery.Link) {
	from, ok := g.slot(id)
	if !ok {
		return
	}
	old := make(map[int]bool, len(g.row[from]))
	for _, to := range g.row[from] {
		old[to] = true
	}
	g.row[from] = g.row[from][:0]
	for _, l := range rows {
		to, ok := g.slot(l.Peer)
		if !ok {
			continue
		}
		delete(old, to)
		g.row[from] = append(g.row[from], to)
		if l.RTTSource == measure.Measured {
			g.times.Feed(from, to, l.RTT, now)
		}
		if l.CapacitySource != measure.Unknown {
			g.rates.Feed(from, to, l.Capacity, l.CapacityBound, now)
		}
	}
	for to := range old {
		g.times.Forget(from, to)
		g.rates.Forget(from, to)
	}
}

// pair returns the slots of two agents.
func (g *guesser) pair(from, to overlay.AgentID) (i, j int, ok bool) {
	i, ok = g.slots[from]
	if !ok {
		return 0, 0, false
	}
	j, ok = g.slots[to]
	return i, j, ok
}

// RTT implements predictor.
func (g *guesser) RTT(from, to overlay.AgentID) (rtt time.Duration, relErr float64, ok bool) {
	i, j, ok := g.pair(from, to)
	if !ok {
		return 0, 0, false
	}
	return g.times.Predict(i, j)
}

// Capacity implements predictor.
func (g *guesser) Capacity(from, to overlay.AgentID) (rate int64, relErr float64, ok bool) {
	i, j, ok := g.pair(from, to)
	if !ok {
		return 0, 0, false
	}
	return g.rates.Predict(i, j)
}

func (g *guesser) frozen() predictor {
	return &guesser{slots: maps.Clone(g.slots), times: g.times.Clone(), rates: g.rates.Clone()}
}

// guess looks after what is predicted.
func (n *node) guess(now overlay.Instant, live []overlay.AgentID) {
	all := append([]overlay.AgentID{n.self}, live...)
	if len(all) < guesserFewest {
		return // everybody measures everybody, or nothing can be told
	}
	if n.guesser == nil {
		n.guesser = newGuesser()
		n.predict = n.guesser
		for _, id := range all {
			n.guesser.changed(id)
		}
	}
	n.guesser.look(now, all, func(id overlay.AgentID) []discovery.Link {
		if id == n.self {
			return linksOf(n.own.rows.Links)
		}
		links, _ := n.store.Links(id)
		return links
	})
}
