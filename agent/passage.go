package agent

import (
	"fmt"
	"sync"
	"sync/atomic"

	"farlan/overlay"
	"farlan/reserve"
)

// What a member passes on for a reservation leaves by a socket of its own, too. Which datagrams
// those are says a number in their front, which this agent's broker gave for the reservation to who
// is before it on the way; each agent on the way has another one for the same. The number alone is
// worth nothing: it counts in the session of the agent that it was given to, towards the one
// that the reservation leads to, up to its rate, and until its end. Anything else goes on as if
// there were no number.

const (
	// passageBurst is for how much longer than its rate has it a passage takes what comes at once:
	// sender and wide area bunch packets up.
	passageBurst = 50 // milliseconds
	leastBurst   = 128 << 10
)

// A passage is a reservation on whose way this agent is. Lanes share it.
type passage struct {
	number   byte
	from, to overlay.AgentID
	next     byte // what to calls the reservation, 0: it is the end, or has none
	grant    reserve.Grant
	marked   *markedSockets
	send     []*markedSend // of each lane
	state    *reservedState
	beyond   atomic.Uint64 // datagrams that were more than is reserved: they went as others do

	mu     sync.Mutex
	bucket overlay.Bucket // bytes of IP packets
}

// A passageTable holds the passages by their numbers. It is immutable.
type passageTable [256]*passage

// allow says whether so many bytes more are within what is reserved.
func (g *passage) allow(now overlay.Instant, bytes int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.bucket.Wait(now, int64(bytes)) > 0 {
		return false
	}
	g.bucket.Take(now, int64(bytes))
	return true
}

// reservedPassage returns the passage by which so many bytes of a peer's go on to another one if
// they ask for that of a number, and what the next one calls it; nil if they have none there.
func (in *inbound) reservedPassage(from, to *peer, number byte, bytes int) (g *passage, next byte) {
	if number == 0 {
		return nil, 0
	}
	t := in.n.reserved.passed.Load()
	if t == nil || t[number] == nil || in.lane >= in.n.lanes {
		return nil, 0
	}
	g = t[number]
	if g.from != from.id || g.to != to.id {
		return nil, 0
	}
	if !g.allow(in.now, bytes) {
		g.beyond.Add(1)
		return nil, 0
	}
	return g, g.next
}

// A passageFlow says which datagrams of others a passage is for.
type passageFlow struct {
	Number   byte            // by which From asks for it; no two passages have one
	From, To overlay.AgentID // who sends them here, and to whom they go on
	Next     byte            // what To calls the reservation, 0: it is the end, or has none
	Grant    reserve.Grant
}

// grantPassage has what one agent sends on to another for a reservation leave by a socket of
// its own. Asked again for the same reservation it changes the grant and what the next agent
// calls it. It is for the loop.
func (n *node) grantPassage(now overlay.Instant, id reserve.ID, f passageFlow) (err error) {
	r := &n.reserved
	old, grant := r.passages[id], f.Grant
	switch {
	case n.relaysNothing():
		return fmt.Errorf("this agent passes nothing on: %w", reserve.ErrRefused)
	case grant.Rate <= 0 || lateReserved(now, grant):
		return fmt.Errorf("nothing is granted: %w", reserve.ErrRefused)
	case old != nil && (old.from != f.From || old.to != f.To || old.number != f.Number):
		return fmt.Errorf("the reservation leads elsewhere: %w", reserve.ErrRefused)
	case f.Number == 0 || old == nil && r.numbered(f.Number):
		return fmt.Errorf("its number is another's: %w", reserve.ErrRefused)
	case old == nil && len(r.ways)+len(r.passages) >= maxReserved:
		return errReservedFull
	}
	rate := grant.Rate.BitsPerSecond() / 8
	queue := int(rate * reservedQueue.Milliseconds() / 1000)
	g := &passage{number: f.Number, from: f.From, to: f.To, next: f.Next, grant: grant, state: &reservedState{}, bucket: overlay.NewBucket(rate, max(rate*passageBurst/1000, leastBurst))}
	if old != nil && old.grant.Mark == grant.Mark {
		g.marked, g.state = old.marked, old.state
		g.marked.setQueue(queue)
	} else if g.marked, err = n.openMarked(grant.Mark, queue); err != nil {
		return err
	}
	g.send = n.markedSends(g.marked, grant.Mark.Peer, g.state)
	if r.passages == nil {
		r.passages = make(map[reserve.ID]*passage)
	}
	r.passages[id] = g
	n.showPassages()
	if old != nil && old.marked != g.marked {
		old.marked.close()
	}
	return nil
}

// numbered says whether a passage has a number.
func (r *reservations) numbered(number byte) bool {
	for _, g := range r.passages {
		if g.number == number {
			return true
		}
	}
	return false
}

// revokePassage ends a passage: what comes by its number goes on as anything else.
func (n *node) revokePassage(id reserve.ID) {
	g := n.reserved.passages[id]
	if g == nil {
		return
	}
	delete(n.reserved.passages, id)
	n.showPassages()
	g.marked.close()
}

func (n *node) showPassages() {
	if len(n.reserved.passages) == 0 {
		n.reserved.passed.Store(nil)
		return
	}
	t := &passageTable{}
	for _, g := range n.reserved.passages {
		t[g.number] = g
	}
	n.reserved.passed.Store(t)
}
