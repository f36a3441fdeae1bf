package reserve

import (
	"fmt"

	"farlan/overlay"
)

// A Row is one segment as people see it: of a reservation that this agent coordinates, or one
// that it serves for another agent.
type Row struct {
	ID          ID
	Coordinator overlay.AgentID
	Flow        Flow
	From, To    overlay.AgentID // the segment's ends
	Whole       State           // of the reservation, or of the segment if another agent coordinates
	State       State           // of the segment, as far as is known
	Kind        Kind
	Driver      string          // "" of another agent's
	Rate        Rate            // inner Ethernet bits that are granted; underlay packets if another agent coordinates
	Used        Rate            // the same, 0 if that isn't known
	Start, End  overlay.Instant // End is of the lease that runs
	Until       overlay.Instant // to when an owner wants it, and it is renewed; 0: as long as it is needed, or that isn't known
	Declared    bool            // by an owner
	Free        Rate            // inner bits that could have been had instead, if it was refused as there is less; 0: none, or that isn't known
	Owner       string
	Reason      string
	Mark        Mark // that this agent's driver gave
}

// List returns what there is, and what was over a moment ago: first this agent's reservations,
// oldest first.
func (b *Broker) List() (all []Row) {
	for _, r := range b.course {
		for i := range r.parts {
			p := &r.parts[i]
			row := Row{
				ID: ID{r.id, uint8(i)}, Coordinator: b.cfg.Self, Flow: p.flow, From: p.agent, To: p.next, Whole: r.state, State: p.state,
				Kind: p.kind, Rate: r.rate, Start: r.began, End: r.end, Declared: r.declared, Owner: r.req.Owner, Reason: r.says(p),
			}
			if r.declared {
				row.Until = r.until
			}
			if p.flow != r.req.Flow {
				row.Rate = r.back
			}
			if r.why == Full || r.why == OverQuota {
				row.Free = row.Rate * Rate(r.share) / 1000
			}
			if s := b.segments[row.ID]; s != nil && p.agent == b.cfg.Self {
				row.Driver, row.Mark = s.driver, s.grant.Mark
				row.Used = Inner(s.usage.rate, len(r.req.Path))
			}
			all = append(all, row)
		}
	}
	for _, s := range b.order {
		if s.peer == b.cfg.Self {
			continue
		}
		all = append(all, Row{
			ID: s.id, Coordinator: s.peer, Flow: s.flow, From: b.cfg.Self, To: s.next, Whole: s.state, State: s.state, Kind: s.grant.Kind,
			Driver: s.driver, Rate: min(s.asked, s.rate), End: s.end, Declared: s.declared, Owner: s.owner, Reason: s.says(),
		})
	}
	return all
}

// says is why a reservation, or a part of it, is as it is.
func (r *reservation) says(p *part) string {
	switch {
	case p.state == Orphan, r.state == Orphan && !p.state.Over():
		return fmt.Sprintf("%s hasn't confirmed its release, and it ends by itself: %s", p.agent.Short(), firstOf(p.text, "no answer"))
	case r.reason != "":
		return r.reason
	case p.why != Nothing || p.text != "":
		return p.says()
	}
	return ""
}

func (s *segment) says() string {
	if s.why == Nothing {
		return s.text
	}
	return fmt.Sprintf("%v %s", s.why, s.text)
}

// Explain says why a flow has what it has, or has nothing; "" if nothing is known of it.
func (b *Broker) Explain(f Flow) string {
	n := b.needs[f]
	if n == nil {
		return ""
	}
	why := n.said.why
	if r := b.reservations[n.id]; r != nil && (n.declared || !r.state.Over()) {
		return fmt.Sprintf("%v %v: %s", r.state, r.rate, firstOf(why, r.reason, "an owner declared it"))
	}
	return firstOf(why, n.refused, "nothing was seen of it")
}

func firstOf(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return ""
}
