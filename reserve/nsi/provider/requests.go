package provider

import (
	"fmt"
	"slices"
	"strings"

	"farlan/reserve/nsi/cs"
)

// reserve takes a first request or a modification.
func (p *Core) reserve(m cs.Message) (cs.Message, bool) {
	past := m.Criteria.End != 0 && m.Criteria.End <= p.now
	if p.faults.PoisonedByPast && past {
		p.poisoned = true
	}
	switch {
	case p.poisoned:
		return cs.Message{}, false
	case past:
		return p.fault(m, cs.PayloadError, "the end is in the past"), true
	case m.Connection != "":
		return p.modify(m), true
	case m.Criteria.Source == "" || m.Criteria.Dest == "":
		return p.fault(m, cs.MissingParameter, "p2ps"), true
	case len(p.byID) >= maxConnections:
		return p.fault(m, cs.Unavailable, "too many connections"), true
	}
	p.next++
	c := &connection{
		ID: fmt.Sprintf("FL-%08x", p.next), Requester: m.Requester, ReplyTo: m.ReplyTo,
		Global: m.Global, Description: m.Description, Criteria: *m.Criteria,
		States: cs.States{Reservation: cs.StateChecking, Provision: cs.StateReleased, Lifecycle: cs.StateCreated},
	}
	c.Criteria.Version = max(0, c.Criteria.Version)
	p.byID[c.ID] = c
	p.later(c, m)
	return p.reply(m, cs.Message{Op: cs.ReserveResponse, Connection: c.ID}), true
}

// check admits what a first reserve asked for.
func (p *Core) check(c *connection, h cs.Header) {
	if c.States.Reservation != cs.StateChecking {
		return // aborted or terminated meanwhile
	}
	source, dest, why := p.room(c)
	if why != nil {
		c.States.Reservation, c.Over = cs.StateFailed, p.now
		states := c.States
		p.answer(h, cs.Message{Op: cs.ReserveFailed, Connection: c.ID, States: &states, Exception: why})
		return
	}
	c.Criteria.Source, c.Criteria.Dest = source.String(), dest.String()
	c.Ends = Circuit{Source: source.Port, Dest: dest.Port, SourceVLAN: source.VLANs.One(), DestVLAN: dest.VLANs.One()}
	c.Holds, c.HeldUntil = true, p.now.Add(p.cfg.HoldFor)
	c.States.Reservation = cs.StateHeld
	p.confirm(c, h, c.Criteria)
}

func (p *Core) confirm(c *connection, h cs.Header, criteria cs.Criteria) {
	p.answer(h, cs.Message{
		Op: cs.ReserveConfirmed, Connection: c.ID, Global: c.Global, Description: c.Description, Criteria: &criteria,
	})
}

// room looks for a VLAN that is free at both ends, and for capacity.
func (p *Core) room(c *connection) (source, dest cs.STP, why *cs.Exception) {
	no := func(id, text string) (cs.STP, cs.STP, *cs.Exception) {
		return cs.STP{}, cs.STP{}, p.exception(c.ID, id, text)
	}
	source, err := cs.ParseSTP(c.Criteria.Source)
	if err != nil {
		return no(cs.UnknownSTP, err.Error())
	}
	dest, err = cs.ParseSTP(c.Criteria.Dest)
	if err != nil {
		return no(cs.UnknownSTP, err.Error())
	}
	for _, s := range []cs.STP{source, dest} {
		port, known := p.cfg.Ports[s.Port]
		if !known || source.Port == dest.Port {
			return no(cs.UnknownSTP, s.Port)
		}
		if p.used(s.Port, nil)+c.Criteria.Capacity > port.Capacity && !p.faults.NoAdmission {
			return no(cs.CapacityUnavailable, s.Port)
		}
	}
	vlan := p.vlan(source, dest)
	if vlan == 0 {
		return no(cs.STPUnavailable, "no VLAN is free at both ends")
	}
	if p.faults.OtherCriteria {
		vlan = 4094
	}
	one := cs.VLANs{{First: vlan, Last: vlan}}
	return cs.STP{Port: source.Port, VLANs: one}, cs.STP{Port: dest.Port, VLANs: one}, nil
}

// vlan returns the lowest that was asked for and is free at both ends; labels aren't swapped.
func (p *Core) vlan(source, dest cs.STP) uint16 {
	for _, r := range p.cfg.Ports[source.Port].VLANs {
		for v := r.First; v <= r.Last; v++ {
			if p.free(source, v) && p.free(dest, v) {
				return v
			}
		}
	}
	return 0
}

func (p *Core) free(at cs.STP, vlan uint16) bool {
	if !at.VLANs.Has(vlan) || !p.cfg.Ports[at.Port].VLANs.Has(vlan) {
		return false
	}
	for _, c := range p.byID {
		k := c.circuit()
		if c.Holds && (k.Source == at.Port && k.SourceVLAN == vlan || k.Dest == at.Port && k.DestVLAN == vlan) {
			return false
		}
	}
	return true
}

// used returns what is granted at a port, but for one connection.
func (p *Core) used(port string, but *connection) int64 {
	sum := int64(0)
	for _, c := range p.byID {
		k := c.circuit()
		if !c.Holds || c == but || k.Source != port && k.Dest != port {
			continue
		}
		most := c.Criteria.Capacity
		if c.Next != nil {
			most = max(most, c.Next.Capacity)
		}
		sum += most
	}
	return sum
}

// modify takes a reserve for a connection that exists.
func (p *Core) modify(m cs.Message) cs.Message {
	c, bad := p.find(m)
	switch {
	case bad != nil:
		return *bad
	case p.faults.NoModify:
		return p.fault(m, cs.NotImplemented, "modification")
	case !c.Committed || c.States.Reservation != cs.StateStart || c.Over != 0:
		return p.fault(m, cs.InvalidTransition, c.States.Reservation)
	}
	next := c.Criteria
	next.Version = max(c.Criteria.Version+1, m.Criteria.Version)
	if m.Criteria.End != 0 {
		next.End = m.Criteria.End
	}
	if m.Criteria.Capacity != 0 {
		next.Capacity = m.Criteria.Capacity
	}
	c.Next, c.States.Reservation = &next, cs.StateChecking
	p.later(c, m)
	return p.reply(m, cs.Message{Op: cs.ReserveResponse, Connection: c.ID})
}

func (p *Core) checkNext(c *connection, h cs.Header) {
	if c.Next == nil || c.States.Reservation != cs.StateChecking {
		return
	}
	k := c.circuit()
	for _, port := range []string{k.Source, k.Dest} {
		if p.used(port, c)+c.Next.Capacity > p.cfg.Ports[port].Capacity && !p.faults.NoAdmission {
			c.Next, c.States.Reservation = nil, cs.StateFailed
			states := c.States
			p.answer(h, cs.Message{
				Op: cs.ReserveFailed, Connection: c.ID, States: &states,
				Exception: p.exception(c.ID, cs.CapacityUnavailable, port),
			})
			return
		}
	}
	c.States.Reservation, c.HeldUntil = cs.StateHeld, p.now.Add(p.cfg.HoldFor)
	p.confirm(c, h, *c.Next)
}

// find returns the connection that a request names, or what to answer.
func (p *Core) find(m cs.Message) (*connection, *cs.Message) {
	c := p.byID[m.Connection]
	if c == nil || c.Requester != m.Requester {
		f := p.fault(m, cs.NoConnection, "no such connection")
		return nil, &f
	}
	if m.ReplyTo != "" {
		c.ReplyTo = m.ReplyTo
	}
	return c, nil
}

// step takes the requests that only name a connection.
func (p *Core) step(m cs.Message) cs.Message {
	c, bad := p.find(m)
	if bad != nil {
		return *bad
	}
	ready := c.Committed && c.Over == 0 && c.States.Lifecycle == cs.StateCreated
	ok := false
	switch m.Op {
	case cs.ReserveCommit:
		ok = c.States.Reservation == cs.StateHeld && c.HeldUntil != 0
	case cs.ReserveAbort:
		waits := []string{cs.StateChecking, cs.StateHeld, cs.StateFailed, cs.StateTimeout}
		ok = slices.Contains(waits, c.States.Reservation)
	case cs.Provision:
		ok = ready && c.States.Provision == cs.StateReleased
	case cs.Release:
		ok = ready && c.States.Provision == cs.StateProvisioned
	case cs.Terminate:
		ok = true
	}
	if !ok {
		s := c.States
		return p.fault(m, cs.InvalidTransition, fmt.Sprintf("%s in %s, %s, %s", m.Op, s.Reservation, s.Provision, s.Lifecycle))
	}
	p.enter(c, m.Op)
	p.later(c, m)
	return p.reply(m, cs.Message{Op: cs.Acknowledgment})
}

// enter shows the state that lasts until the work is done.
func (p *Core) enter(c *connection, op cs.Op) {
	switch op {
	case cs.ReserveCommit:
		c.States.Reservation, c.HeldUntil = cs.StateCommitting, 0
	case cs.Provision:
		c.States.Provision = cs.StateProvisioning
	case cs.Release:
		c.States.Provision = cs.StateReleasing
	case cs.Terminate:
		if c.States.Lifecycle == cs.StateCreated {
			c.States.Lifecycle = cs.StateTerminating
		}
	}
}

func (p *Core) commit(c *connection, h cs.Header) {
	if c.States.Reservation != cs.StateCommitting || c.Over != 0 {
		return
	}
	if c.Next != nil {
		changed := c.Criteria.Capacity != c.Next.Capacity
		c.Criteria, c.Next = *c.Next, nil
		if c.Up && changed { // it goes on with the new capacity
			circuit := c.circuit()
			p.out = append(p.out, Output{Circuit: &circuit, Up: true})
		}
	}
	c.States.Reservation, c.Committed = cs.StateStart, true
	p.answer(h, cs.Message{Op: cs.ReserveCommitConfirmed, Connection: c.ID})
}

func (p *Core) abort(c *connection, h cs.Header) {
	if c.Over == 0 && !c.Committed {
		c.Holds = false
	}
	c.Next, c.HeldUntil, c.States.Reservation = nil, 0, cs.StateStart
	p.answer(h, cs.Message{Op: cs.ReserveAbortConfirmed, Connection: c.ID})
}

func (p *Core) provision(c *connection, h cs.Header) {
	if c.States.Provision != cs.StateProvisioning || c.Over != 0 {
		return
	}
	c.States.Provision = cs.StateProvisioned
	p.planeIs(c, false, false) // on its way, as aggregators tell it
	if p.faults.PlaneDown {
		p.planeIs(c, false, true)
	} else {
		p.plane(c, true)
	}
	p.answer(h, cs.Message{Op: cs.ProvisionConfirmed, Connection: c.ID})
}

func (p *Core) release(c *connection, h cs.Header) {
	if p.faults.DeadDomain || c.States.Provision != cs.StateReleasing || c.Over != 0 {
		return
	}
	c.States.Provision = cs.StateReleased
	p.plane(c, false)
	p.answer(h, cs.Message{Op: cs.ReleaseConfirmed, Connection: c.ID})
}

func (p *Core) terminate(c *connection, h cs.Header) {
	switch {
	case p.faults.DeadDomain:
		return
	case c.States.Lifecycle == cs.StateTerminated && p.faults.TerminateOnce:
		return
	}
	c.States.Lifecycle = cs.StateTerminated
	if c.Over == 0 {
		p.giveBack(c)
	}
	p.answer(h, cs.Message{Op: cs.TerminateConfirmed, Connection: c.ID})
}

// query answers what is asked about the requester's own.
func (p *Core) query(m cs.Message) cs.Message {
	if m.Op == cs.QueryNotificationSync {
		c, bad := p.find(m)
		if bad != nil {
			return *bad
		}
		var some []cs.Notice
		for _, n := range c.Notices {
			if n.ID >= m.Query.From && (m.Query.To == 0 || n.ID <= m.Query.To) {
				some = append(some, n)
			}
		}
		return p.reply(m, cs.Message{Op: cs.QueryNotificationSyncConfirmed, Notices: some})
	}
	if p.faults.NoSync && m.Op == cs.QuerySummarySync {
		return p.fault(m, cs.NotImplemented, string(m.Op))
	}
	if p.faults.TerminateOnce && len(m.Query.Globals) > 0 {
		return p.fault(m, cs.InternalError, "internal error")
	}
	var all []cs.Reservation
	for _, r := range p.List() {
		q := m.Query
		named := len(q.Connections)+len(q.Globals) == 0 || slices.Contains(q.Connections, r.Connection) || r.Global != "" && slices.Contains(q.Globals, r.Global)
		if r.Requester == m.Requester && named {
			all = append(all, r)
		}
	}
	if m.Op == cs.QuerySummarySync {
		return p.reply(m, cs.Message{Op: cs.QuerySummarySyncConfirmed, Reservations: all})
	}
	p.answer(m.Header, cs.Message{Op: cs.QuerySummaryConfirmed, Reservations: all})
	return p.reply(m, cs.Message{Op: cs.Acknowledgment})
}

// List returns all connections, those that are over included, by name.
func (p *Core) List() []cs.Reservation {
	var all []cs.Reservation
	for _, c := range p.byID {
		r := cs.Reservation{
			Connection: c.ID, Global: c.Global, Description: c.Description, Requester: c.Requester,
			Criteria: []cs.Criteria{c.Criteria}, States: c.States, Notice: c.Noticed,
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b cs.Reservation) int { return strings.Compare(a.Connection, b.Connection) })
	return all
}

// Held returns the circuits that occupy VLANs and capacity now, whatever is said of them.
func (p *Core) Held() []Circuit {
	var all []Circuit
	for _, c := range p.byID {
		if c.Holds {
			all = append(all, c.circuit())
		}
	}
	slices.SortFunc(all, func(a, b Circuit) int { return strings.Compare(a.Connection, b.Connection) })
	return all
}

// Forget is what a restart does to what a provider knows only in memory.
func (p *Core) Forget() { p.poisoned = false }
