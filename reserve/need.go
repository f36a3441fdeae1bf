package reserve

import (
	"cmp"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// After a reservation wasn't had, or was lost, the next is tried after backoffFirst, then
	// twice as long each time, up to backoffMost; after one that worked it begins anew.
	backoffFirst = time.Minute
	backoffMost  = 30 * time.Minute
	// restFor is how long a flow has none after it gave one back.
	restFor = 10 * time.Second
	// offerShare is how many thousandths of what was wanted must be free for a second try with
	// what there is.
	offerShare = 500
	// quiet is how long a flow isn't seen until it is forgotten.
	quiet = 5 * time.Minute
)

// A need is a flow that wants a reservation, or may, and what it has.
type need struct {
	flow     Flow
	hist     history
	sample   Sample
	seen     overlay.Instant // when a sample came last
	declared bool
	req      Request         // as declared
	until    overlay.Instant // when that is over
	id       [16]byte        // its reservation
	before   [16]byte        // the one that id is to replace, which still works
	handled  bool            // what became of id is known here
	offer    bool            // id is the second try, with less
	tries    int
	after    overlay.Instant // when the next try may be
	refused  string
	full     int  // how often in a row there wasn't enough
	had      bool // what was declared worked already
	grown    overlay.Instant
	renewed  overlay.Instant
	said     decision
}

// needOf returns what is known of a flow. Where that is too many already it returns nil: the flow
// goes without.
func (b *Broker) needOf(now overlay.Instant, f Flow) *need {
	n := b.needs[f]
	if n == nil && len(b.needs) < maxNeeds {
		n = &need{flow: f, seen: now}
		b.needs[f] = n
		i, _ := slices.BinarySearchFunc(b.wishes, f, func(n *need, f Flow) int { return n.flow.compare(f) })
		b.wishes = slices.Insert(b.wishes, i, n)
	}
	return n
}

func (f Flow) compare(o Flow) int {
	return cmp.Or(f.From.Compare(o.From), f.To.Compare(o.To), f.Source.Compare(o.Source), f.Dest.Compare(o.Dest))
}

func (n *need) declare(now overlay.Instant, q Request) {
	n.declared, n.req, n.until, n.handled, n.offer, n.had, n.tries, n.after = true, q, now.Add(q.For), false, false, false, 0, 0
	n.renewed = now
}

// give ends what an owner declared, and keeps the flow from having another one for a while.
func (n *need) give(now overlay.Instant) {
	n.declared, n.tries, n.after, n.refused = false, 0, now.Add(backoffMost), "its owner gave it back"
}

// idle says whether nothing is known of a flow that matters.
func (n *need) idle(now overlay.Instant) bool { return !n.declared && now.Sub(n.seen) >= quiet }

// Observe takes what an agent saw in the last second of all its own flows; flows that aren't
// among them sent nothing, and those that send little need not be. It is to be called each second.
func (b *Broker) Observe(now overlay.Instant, all []Sample) {
	for i := range all {
		if f := all[i].Flow; f.From == b.cfg.Self && !f.To.IsZero() && f.To != f.From {
			if n := b.needOf(now, f); n != nil {
				n.sample, n.seen = all[i], now
			}
		}
	}
	b.rerouted()
	b.claimants = b.claims()
	for _, n := range b.wishes {
		if b.leaving {
			break
		}
		if n.seen != now {
			n.sample.Sent, n.sample.Received, n.sample.Backlog = 0, 0, 0
		}
		reserved, back := Rate(0), Rate(0)
		if r := b.reservations[n.id]; r != nil {
			reserved, back = r.rate, r.back
		}
		n.hist.note(now, &n.sample, reserved, back)
		b.judge(now, n)
	}
}

// rerouted gives back what is held of an egress by which this agent no longer sends to where it
// was for.
func (b *Broker) rerouted() {
	for _, s := range b.order {
		if s.goal == Released || s.state.Over() || s.promise == Circuit {
			continue
		}
		if hop, ok := b.cfg.Hop(s.next, s.hop()); ok && hop.Egress != s.egress {
			s.refuse(Failed, 0, "the way out is another one now")
			b.end(s)
		}
	}
}

// claims returns how many flows need a part of each egress that nobody declared.
func (b *Broker) claims() map[string]int {
	all := make(map[string]int)
	for _, n := range b.wishes {
		if hop, ok := b.firstHop(n); ok && b.claiming(n) {
			all[hop.Egress]++
		}
	}
	return all
}

// claiming says whether a flow needs a part: it has one, or is held up, and nobody declared it.
func (b *Broker) claiming(n *need) bool {
	demanded, hurts := n.hist.demanded()
	r := b.reservations[n.id]
	return !n.declared && (r != nil && !r.state.Over() || demanded && hurts && !n.sample.Gone)
}

func (b *Broker) firstHop(n *need) (Hop, bool) {
	next := n.flow.To
	if len(n.sample.Path) > 0 {
		next = n.sample.Path[0]
	}
	return b.cfg.Hop(next, NoKind)
}

// part returns the most that a flow may have that nobody declared: of what owners and other
// agents leave of its egress as much as each other one that needs a part, in inner bits, or what
// the policy says.
func (b *Broker) part(n *need) Rate {
	hop, ok := b.firstHop(n)
	if !ok || b.capacity[hop.Egress] <= 0 {
		return b.cfg.Cap
	}
	all, left := b.claimants[hop.Egress], Reservable(b.capacity[hop.Egress])
	if !b.claiming(n) {
		all++
	}
	for _, s := range b.order {
		if s.egress == hop.Egress && s.countable() && !s.state.Over() && (s.declared || s.peer != b.cfg.Self) {
			left -= s.takes()
		}
	}
	part := max(Inner(left, len(n.sample.Path))/Rate(max(all, 1)), leastRate)
	if b.cfg.Cap > 0 {
		part = min(part, b.cfg.Cap)
	}
	return part
}

// situation returns what a decision about a flow depends on.
func (b *Broker) situation(now overlay.Instant, n *need) *situation {
	l := line{between: n.flow.between()}
	t := b.lines[l]
	s := &situation{
		now: now, sample: n.sample, automatic: b.cfg.Automatic, notBefore: n.after, refused: n.refused, full: n.full > 1, most: b.part(n),
		leads: b.leads(now, l, b.keepsLine(n), 0), other: t != nil && t.holder == n.flow.To && now.Before(t.until),
	}
	if t != nil && t.wished != 0 && now.Sub(t.wished) < Lease {
		s.wished = min(t.wish, max(2*n.sample.Received, worthy)) // as far as this end sees it
	}
	s.first = n.sample.Sent > n.sample.Received || n.sample.Sent == n.sample.Received && n.flow.From.Compare(n.flow.To) < 0
	hop, ok := b.firstHop(n)
	if d := b.serving(NoKind, 0); d != nil {
		s.able, s.setup = ok && d.opened && b.capacity[hop.Egress] > 0, time.Duration(d.Setup)*time.Second
	}
	if d := b.serving(Circuit, 0); d != nil && b.cfg.Circuits {
		_, s.circuits = b.cfg.Hop(n.flow.To, Circuit)
		s.external = time.Duration(d.Setup) * time.Second
	}
	return s
}

// keepsLine says whether the right to coordinate a line is to be renewed for a flow.
func (b *Broker) keepsLine(n *need) bool {
	r := b.reservations[n.id]
	return !n.declared && r != nil && !r.declared && !r.state.Over()
}

// judge decides about a flow, and does so.
func (b *Broker) judge(now overlay.Instant, n *need) {
	r := b.reservations[n.id]
	if n.idle(now) && r == nil {
		return
	}
	s := b.situation(now, n)
	if r != nil && !r.state.Over() {
		if r.state == Active || r.state == Degraded {
			b.tend(now, n, r, s)
		} else if s.sample.Gone || r.state < Active && !r.declared && n.hist.silent >= pause {
			b.fail(now, r, Released, Nothing, "its flow has ended")
		}
		return
	}
	if n.declared || b.reservations[n.before] != nil && !b.reservations[n.before].state.Over() {
		return
	}
	switch n.said = n.hist.decide(s); n.said.deed {
	case lead:
		b.leads(now, line{between: n.flow.between()}, true, n.said.rate)
	case reserve, circuit:
		b.want(now, n, n.said)
	}
}

// want asks for a reservation that nobody declared.
func (b *Broker) want(now overlay.Instant, n *need, d decision) {
	q := Request{
		Flow: n.flow, Path: n.sample.Path, Back: n.sample.Back, Rate: d.rate, BackRate: d.back,
		For: 24 * time.Hour, Circuit: d.deed == circuit, Owner: owner(n.flow),
	}
	if q.Circuit {
		q.Path, q.Back = nil, nil
	}
	if len(b.course) >= maxReservations || q.validate(b.cfg.Self) != nil {
		return
	}
	n.offer = false
	b.open(now, n, q, false)
	r := b.reservations[n.id]
	r.life = min(n.hist.life(now), b.longestOf(&q))
	r.end, r.reason = now.Add(r.life), d.why
}

// longestOf is the longest lease of a request.
func (b *Broker) longestOf(q *Request) time.Duration {
	if q.Circuit {
		return b.cfg.LongestCircuit
	}
	return b.cfg.Longest
}

// owner names whom a reservation is for that nobody declared.
func owner(f Flow) string {
	if f.Source == (overlay.MAC{}) {
		return "agent"
	}
	return f.Source.String()
}

// open begins a reservation for a flow.
func (b *Broker) open(now overlay.Instant, n *need, q Request, declared bool) {
	n.id, n.handled, n.renewed, n.grown = b.start(now, q, declared).id, false, now, now
	n.hist.idle = 0
}

// tend changes, renews or gives back what a flow has.
func (b *Broker) tend(now overlay.Instant, n *need, r *reservation, s *situation) {
	before := b.reservations[n.before]
	h := &holding{
		rate: r.rate, renewed: n.renewed, life: r.life, grown: n.grown, refused: r.refused, fixed: r.fixed, back: r.back,
		declared: n.declared, replacing: before != nil && !before.state.Over() || now < n.after,
	}
	if r.fixed { // asking for more time wasn't of use
		h.renewed = min(h.renewed, r.end.Add(-r.life))
	}
	if n.declared && now.Add(r.life/2) >= n.until {
		h.life = maxLease // it ends with what was declared
	}
	d := n.hist.keep(s, h)
	n.said = d
	switch d.deed {
	case giveUp:
		b.fail(now, r, Released, Nothing, d.why)
	case resize:
		if r.asking > 0 {
			return
		}
		back := max(d.back, r.back)
		if n.renewed = now; d.rate != r.rate || back != r.back {
			n.grown = now
		}
		life := r.life
		if !n.declared {
			life = min(n.hist.life(now), b.longestOf(&r.req))
		}
		b.change(now, r, d.rate, back, life)
	case replace:
		if len(b.course) < maxReservations {
			q := r.req
			q.Rate, q.BackRate = d.rate, r.back
			if d.back > 0 {
				q.BackRate, q.Back = d.back, n.sample.Back
			}
			if n.declared {
				q.For = n.until.Sub(now)
			}
			n.before = r.id
			b.open(now, n, q, n.declared)
		}
	}
}
