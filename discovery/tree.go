package discovery

import (
	"math"
	"slices"
	"time"

	"farlan/overlay"
)

// New records spread by Plumtree (Leitão, Pereira and Rodrigues, "Epidemic broadcast
// trees", SRDS 2007). At first every neighbour is sent every new record. Who gets one
// twice tells the second sender to stop (prune): that link is lazy from then on, and
// carries only the stamps of what is new (news). What is left is a tree, by which
// everybody gets a record once. When news tell of a record that doesn't come within
// graftAfter, the tree is broken: the record is asked for where the news came from, and
// that link belongs to the tree again (graft). A tree that is broken is mended so,
// without waiting until anybody notices that a connection is dead.
const (
	// graftAfter is above the time that a record takes through the tree, or
	// everybody would ask for what is under way.
	graftAfter = time.Second
	// newsAfter is how long news and offers of what was just got wait for others, so that
	// many are told by one message, and none of what the neighbour gets meanwhile by the
	// tree. It is short beside graftAfter.
	newsAfter = 250 * time.Millisecond
	// maxTellers is how many neighbours are remembered who told of a record that is
	// missing; they are asked in turn.
	maxTellers = 4
	// maxMissing is how many records may be missing. News of others are dropped; the
	// comparisons of the stores find them.
	maxMissing = 4096
)

// A branch is what a store keeps of a neighbour for the tree of a scope.
type branch struct {
	lazy   bool   // it is told news instead of being sent records
	prune  bool   // it is to be told to do the same
	news   keySet // it is to be told of these
	grafts keySet // it is to be asked for these
}

// has notes that n has the newest record of k, or will be sent it: it needn't be told.
func (n *neighbour) has(k key) {
	n.records.remove(k)
	n.offers.remove(k)
	n.later.remove(k)
	for i := range n.branches {
		n.branches[i].news.remove(k)
	}
}

// missing are the records that news told of and that haven't come.
type missing struct {
	order keySet
	told  table[*news]
	due   overlay.Instant // not before that is one of them
}

// News tell who has a record.
type news struct {
	stamp   stamp // the newest that was told of
	due     overlay.Instant
	tellers []overlay.AgentID // in the order in which they are asked
}

func (m *missing) remove(k key) {
	m.order.remove(k)
	m.told.remove(k)
}

func (s *Store) receiveNews(now overlay.Instant, n *neighbour, body []byte) error {
	if len(body)%stampLen != 0 {
		return errMalformed
	}
	for b := body; len(b) > 0; b = b[stampLen:] {
		if t := parseStamp(b); s.lacks(now, n, t) {
			s.missing.tell(now, n.id, t)
		}
	}
	return nil
}

// tell notes that an agent has the record of a stamp.
func (m *missing) tell(now overlay.Instant, by overlay.AgentID, t stamp) {
	w, _ := m.told.get(t.key)
	switch {
	case w == nil && m.told.len() >= maxMissing:
		return
	case w == nil:
		w = &news{stamp: t, due: now.Add(graftAfter)}
		m.told.set(t.key, w)
		m.order.add(t.key)
		if len(m.order) == 1 || w.due < m.due {
			m.due = w.due
		}
	case w.stamp.version < t.version: // who told of the older one may not have it
		w.stamp, w.tellers = t, w.tellers[:0]
	}
	if len(w.tellers) < maxTellers && !slices.Contains(w.tellers, by) {
		w.tellers = append(w.tellers, by)
	}
}

// toldBy says whether an agent has told that it has the record of a stamp.
func (m *missing) toldBy(id overlay.AgentID, t stamp) bool {
	w, _ := m.told.get(t.key)
	return w != nil && w.stamp == t && slices.Contains(w.tellers, id)
}

// graft asks for the records that are missing for too long, and returns when it wants
// to be called again.
func (s *Store) graft(now overlay.Instant) (next overlay.Instant) {
	// The second condition is true only after the clock jumped back.
	if m := &s.missing; len(m.order) > 0 && now < m.due && m.due.Sub(now) <= askAgain {
		return m.due
	}
	next = math.MaxInt64
	for _, k := range slices.Clone(s.missing.order) {
		w, _ := s.missing.told.get(k)
		if e := s.entry(k); e != nil && e.record.Version >= w.stamp.version || len(w.tellers) == 0 {
			s.missing.remove(k)
			continue
		}
		// The second condition is true only after the clock jumped back.
		if now >= w.due || w.due.Sub(now) > askAgain {
			if w.due = now.Add(askAgain); !s.waiting(now, k) {
				s.askTellers(now, k, w)
			} else if asked, _ := s.asked.get(k); asked.Add(askAgain) > now {
				w.due = asked.Add(askAgain)
			}
		}
		next = min(next, w.due)
	}
	s.missing.due = next
	return next
}

// gather lets news and offers wait for others, and returns when it wants to be called again.
func (s *Store) gather(now overlay.Instant) (next overlay.Instant) {
	next = math.MaxInt64
	for _, n := range s.neighbours {
		switch {
		case len(n.branches[local].news)+len(n.branches[wide].news)+len(n.later) == 0:
			n.speak = 0
			continue
		case n.speak == 0 || n.speak.Sub(now) > newsAfter: // the clock jumped back
			n.speak = now.Add(newsAfter)
		}
		n.told = now >= n.speak
		next = min(next, n.speak)
	}
	return next
}

// askTellers asks the next of those who told of the record of k.
func (s *Store) askTellers(now overlay.Instant, k key, w *news) {
	for len(w.tellers) > 0 {
		i, ok := s.neighbourAt(w.tellers[0])
		w.tellers = w.tellers[1:]
		if ok {
			b := s.branch(s.neighbours[i], k)
			b.lazy = false
			b.grafts.add(k)
			s.asked.set(k, now)
			return
		}
	}
}

// packTree writes what n is to be told for the tree.
func (s *Store) packTree(n *neighbour, p *packer) {
	for i := range n.branches {
		if b := &n.branches[i]; b.prune {
			b.prune = false
			p.begin(sectionPrune, i)
			p.buf = append(p.buf, pruned[:i]...)
		}
	}
	for i := range n.branches {
		if b := &n.branches[i]; n.told {
			list(p, sectionNews, stampLen, s.stamps(b.news), func(b []byte, t stamp) []byte { return t.append(b) })
			b.news.clear()
		}
	}
	if n.told {
		list(p, sectionOffer, stampLen, s.stamps(n.later), func(b []byte, t stamp) []byte { return t.append(b) })
		n.later.clear()
		n.speak, n.told = 0, false
	}
	for i := range n.branches {
		b := &n.branches[i]
		list(p, sectionGraft, keyLen, b.grafts, func(b []byte, k key) []byte { return k.append(b) })
		b.grafts.clear()
	}
}
