package overlay

import (
	"math"
	"time"
)

// Beside the two classes of all frames a Shaper has some with a rate of their own, for frames
// for which capacity is reserved. Each is an FQ-CoDel queue too. As long as it has not had its
// rate it goes before the others, whatever they have waiting; beyond that it gets what nobody
// else wants. So what is guaranteed to all together must leave the others something.
const (
	// MaxGuarantees is how many such classes there are.
	MaxGuarantees = 32
	// guaranteedPercent is how much of the line all may have together.
	guaranteedPercent = 90
	// guaranteeBurst is for how long a class saves up while it sends nothing, or the line is
	// another's, and so by how much others may be held up at once.
	guaranteeBurst = 10 * time.Millisecond
)

// GuaranteedClass returns class i of those with a rate of their own, from 0 to MaxGuarantees-1.
func GuaranteedClass(i int) Class { return Classes + Class(i) }

// Guaranteed returns which of those a class is; ok is false if it is none.
func (c Class) Guaranteed() (i int, ok bool) { return int(c) - int(Classes), c >= Classes }

// A guarantee is a class with a rate of its own.
type guarantee struct {
	fairQueue
	rate   int64 // bits a second
	most   bool  // never more
	tokens Bucket
}

// Guarantee gives class i a rate of bits a second of underlay IP packets, which only says it may
// have, too, if most is set. 0 ends it: what waits goes on as bulk, in order. It is false, and
// nothing changes, if all together would have more than nine tenths of the line.
func (s *Shaper) Guarantee(i int, rate int64, most bool) bool {
	s.recycle()
	sum := rate
	for j, g := range s.guarantees {
		if g != nil && j != i {
			sum += g.rate
		}
	}
	switch {
	case i < 0 || i >= MaxGuarantees || rate < 0 || sum > s.rate/100*guaranteedPercent:
		return false
	case rate == 0:
		s.endGuarantee(i)
		return true
	}
	for len(s.guarantees) <= i {
		s.guarantees = append(s.guarantees, nil)
	}
	g := s.guarantees[i]
	if g == nil {
		g = new(guarantee)
		s.guarantees[i] = g
	}
	if g.rate != rate {
		g.rate = rate
		g.tokens = NewBucket(rate/8, max(rate/8*guaranteeBurst.Milliseconds()/1000, int64(2*wireLen(fullFrame))))
		full := time.Duration(int64(wireLen(fullFrame)) * 8 * int64(time.Second) / rate)
		g.target = max(codelTarget, full)
		g.interval = g.target + codelInterval - codelTarget
		g.limit = min(max(int(rate/8*shaperQueue.Milliseconds()/1000), minShaperBytes), maxBulkBytes)
	}
	g.most = most
	s.fitRooms()
	return true
}

// endGuarantee makes bulk of what waits of class i.
func (s *Shaper) endGuarantee(i int) {
	if i >= len(s.guarantees) || s.guarantees[i] == nil {
		return
	}
	g, bulk := s.guarantees[i], &s.class[ClassBulk]
	s.guarantees[i] = nil
	if s.spender == g {
		s.spender = nil
	}
	for j := range g.flows {
		for w := g.flows[j].head; w != nil; {
			next := w.next
			bulk.push(&bulk.flows[j], w)
			w = next
		}
	}
	bulk.drops += g.drops
	s.fitRooms()
}

// fitRooms makes the memory that frames may take that of all classes.
func (s *Shaper) fitRooms() {
	limit := 0
	for i := range s.class {
		limit += s.class[i].limit
	}
	for _, g := range s.guarantees {
		if g != nil {
			limit += g.limit
		}
	}
	s.rooms = rooms{limit: limit, used: s.rooms.used}
	for i := range s.class {
		s.class[i].makeRoom(0, &s.rooms)
	}
	for _, g := range s.guarantees {
		if g != nil {
			g.makeRoom(0, &s.rooms)
		}
	}
}

// queueOf returns the queue of a class; a guarantee that has ended is bulk.
func (s *Shaper) queueOf(class Class) *fairQueue {
	if class < Classes {
		return &s.class[class]
	}
	if i := int(class - Classes); i < len(s.guarantees) && s.guarantees[i] != nil {
		return &s.guarantees[i].fairQueue
	}
	return &s.class[ClassBulk]
}

// due returns the guarantee that has the line next: the one that has waited longest for its
// rate, or with borrow the one that may have more. It is nil if there is none.
func (s *Shaper) due(now Instant, borrow bool) (class Class, best *guarantee) {
	longest := int64(math.MinInt64)
	for i, g := range s.guarantees {
		if g == nil || g.bytes == 0 {
			continue
		}
		if waits := g.tokens.Wait(now, 1) > 0; waits && (!borrow || g.most) {
			continue
		}
		if credit := g.tokens.level / g.tokens.rate; credit > longest {
			longest, class, best = credit, GuaranteedClass(i), g
		}
	}
	return class, best
}

// guaranteed takes the next frame, or run, of a guarantee; with borrow of one that has had its
// rate.
func (s *Shaper) guaranteed(now Instant, borrow bool) (w *waiting, n int, class Class) {
	for range s.guarantees {
		var g *guarantee
		if class, g = s.due(now, borrow); g == nil {
			return nil, 0, 0
		}
		if w, n = g.pop(now, s.runLen, &s.rooms); w == nil {
			continue // its last frames were dropped
		}
		if !borrow {
			g.tokens.Take(now, int64(wireLen(w.headers.Len+n)))
			s.spender = g
		}
		return w, n, class
	}
	return nil, 0, 0
}

// nextGuaranteed returns when a guarantee has something to send.
func (s *Shaper) nextGuaranteed(now Instant) (at Instant, ok bool) {
	for _, g := range s.guarantees {
		if g == nil || g.bytes == 0 {
			continue
		}
		t := max(now, s.free)
		if g.most {
			t = max(t, now.Add(g.tokens.Wait(now, 1)))
		}
		if !ok || t < at {
			at, ok = t, true
		}
	}
	return at, ok
}

// Guaranteed returns how many bytes of frames of guarantee i wait.
func (s *Shaper) Guaranteed(i int) int {
	if i < 0 || i >= len(s.guarantees) || s.guarantees[i] == nil {
		return 0
	}
	return s.guarantees[i].bytes
}

// Lost returns how many frames of all classes have been dropped.
func (s *Shaper) Lost() (n uint64) {
	for i := range s.class {
		n += s.class[i].drops
	}
	for _, g := range s.guarantees {
		if g != nil {
			n += g.drops
		}
	}
	return n
}

// Waited returns how long the frame has waited that Dequeue returned last.
func (s *Shaper) Waited() time.Duration { return s.waited }
