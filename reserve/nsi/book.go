package nsi

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi/cs"
)

// maxBooked is how many circuits are kept in mind; a requester has dozens.
const maxBooked = 1024

// An entry is what is known of a circuit of ours.
type entry struct {
	grant    reserve.Grant
	from, to overlay.AgentID
	far      reserve.Mark    // what the other agent's packets carry
	capacity int64           // Mbit/s; counts as long as the grant isn't over
	held     overlay.Instant // when that was confirmed to us; 0: not known
	planeAt  overlay.Instant // when the newest news of the data plane was made, by the provider's clock
	news     bool            // Events hasn't told yet
}

// A book has the circuits of ours: those asked for, and those found by asking. It is safe for
// concurrent use.
type book struct {
	mu   sync.Mutex
	byID map[reserve.ID]*entry
	wake chan struct{} // something is news
}

func newBook() *book {
	return &book{byID: make(map[reserve.ID]*entry), wake: make(chan struct{}, 1)}
}

// enter books a circuit that is asked for, if the ports have room for it beside the others;
// otherwise it says what is free. now is by which ends are over.
func (b *book) enter(e entry, ports func(overlay.AgentID) (string, int64), now overlay.Instant) (free int64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	free = b.free(e, ports, now)
	if _, known := b.byID[e.grant.ID]; e.capacity > free || !known && len(b.byID) >= maxBooked {
		return free, false
	}
	b.byID[e.grant.ID] = &e
	return free, true
}

// free returns what a circuit between two agents could have, in Mbit/s: what the fuller of the
// two ports has left beside all others.
func (b *book) free(e entry, ports func(overlay.AgentID) (string, int64), now overlay.Instant) int64 {
	var least int64
	for i, end := range []overlay.AgentID{e.from, e.to} {
		port, left := ports(end)
		for id, o := range b.byID {
			p1, _ := ports(o.from)
			p2, _ := ports(o.to)
			if id != e.grant.ID && !o.grant.State.Over() && now.Before(o.grant.End) && (p1 == port || p2 == port) {
				left -= o.capacity
			}
		}
		if i == 0 || left < least {
			least = left
		}
	}
	return max(0, least)
}

// leave takes a circuit out of the book.
func (b *book) leave(id reserve.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.byID, id)
}

// get returns what is known of a circuit.
func (b *book) get(id reserve.ID) (entry, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.byID[id]; e != nil {
		return *e, true
	}
	return entry{}, false
}

// all returns all that is booked, by ID.
func (b *book) all() []entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []entry
	for _, e := range b.byID {
		all = append(all, *e)
	}
	slices.SortFunc(all, func(a, b entry) int {
		return cmp.Or(slices.Compare(a.grant.ID.Reservation[:], b.grant.ID.Reservation[:]), cmp.Compare(a.grant.ID.Segment, b.grant.ID.Segment))
	})
	return all
}

// put books what a call has come to, or what was found by asking. tell: it is news to the
// agent, which didn't ask.
func (b *book) put(e entry, tell bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.byID[e.grant.ID]
	switch {
	case old != nil:
		if e.held == 0 {
			e.held = old.held
		}
		e.planeAt = max(e.planeAt, old.planeAt)
		e.news = old.news || tell && differs(old.grant, e.grant)
	case len(b.byID) >= maxBooked:
		return // its ends can't be watched; Status and Release find it by asking
	}
	b.byID[e.grant.ID] = &e
	if e.news {
		b.poke()
	}
}

func differs(a, b reserve.Grant) bool { return a.State != b.State || a.Up != b.Up }

func (b *book) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// news returns what hasn't been told.
func (b *book) news() []reserve.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []reserve.Event
	for id, e := range b.byID {
		if e.news {
			e.news = false
			all = append(all, reserve.Event{ID: id, Grant: e.grant})
		}
	}
	return all
}

// notice takes in what the provider tells unasked. Notices may come late, twice, in another
// order and all with the same number: for the data plane the newest time counts, the rest says
// the same if it is said again.
func (b *book) notice(n cs.Notice) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.byID {
		if e.grant.Handle == "" || e.grant.Handle != n.Connection || e.grant.State.Over() {
			continue
		}
		old := e.grant
		switch n.Op {
		case cs.DataPlaneStateChange:
			if n.At < e.planeAt {
				return
			}
			e.planeAt = n.At
			e.grant = planed(e.grant, n.Plane.Up())
		case cs.ErrorEvent:
			e.grant = erred(e.grant, n)
		case cs.ReserveTimeout:
			if e.grant.State == reserve.Held {
				e.grant.State, e.grant.Reason = reserve.Rejected, "it wasn't committed within the provider's time"
			}
		}
		if differs(old, e.grant) {
			e.news = true
			b.poke()
		}
	}
}

// planed returns the grant after the data plane was said to be up or down.
func planed(g reserve.Grant, up bool) reserve.Grant {
	g.Up = up
	switch {
	case up && (g.State == reserve.Activating || g.State == reserve.Degraded):
		g.State, g.Reason = reserve.Active, ""
	case !up && g.State == reserve.Active:
		g.State, g.Reason = reserve.Degraded, "the provider says that the data plane is down"
	}
	return g
}

// erred returns the grant after the provider told of an error.
func erred(g reserve.Grant, n cs.Notice) reserve.Grant {
	text := ""
	if n.Exception != nil {
		text = n.Exception.Text
	}
	g.Reason = fmt.Sprintf("the provider says %.40q: %.200q", n.Event, text)
	switch n.Event {
	case cs.ForcedEnd:
		g.State, g.Up = reserve.Lost, false
	case cs.ActivateFailed, cs.DataplaneError:
		if g.State == reserve.Active {
			g.State = reserve.Degraded
		}
		g.Up = false
	}
	return g
}
