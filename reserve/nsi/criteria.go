package nsi

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi/cs"
)

// A clock of the provider's may go a little ahead of ours.
const maxSkew = time.Minute

// megabits returns the capacity to ask for: whole Mbit/s, rounded up.
func megabits(r reserve.Rate) int64 { return int64((r + reserve.Mbit - 1) / reserve.Mbit) }

// tag is the description by which List and a new start find what is ours.
func tag(self overlay.AgentID, id reserve.ID) string { return fmt.Sprintf("farlan %v of %v", id, self) }

// untag returns the ID in a description of this agent's.
func untag(self overlay.AgentID, description string) (reserve.ID, bool) {
	text, ours := strings.CutSuffix(description, fmt.Sprintf(" of %v", self))
	text, tagged := strings.CutPrefix(text, "farlan ")
	var id reserve.ID
	var number []byte
	n, err := fmt.Sscanf(text, "%32x-%d", &number, &id.Segment)
	if !ours || !tagged || n != 2 || err != nil || len(number) != len(id.Reservation) {
		return reserve.ID{}, false
	}
	copy(id.Reservation[:], number)
	return id, id.String() == text
}

// wanted returns what is asked for a want that was checked.
func (d *Driver) wanted(w reserve.Want) cs.Criteria {
	return cs.Criteria{
		Version: d.cfg.Version, End: overlay.Instant(w.End.Time().Truncate(time.Second).UnixNano()),
		ServiceType: d.cfg.Service, Capacity: megabits(w.Rate), Symmetric: true,
		Source: d.cfg.Ends[w.From].STP, Dest: d.cfg.Ends[w.To].STP,
	}
}

// compare says in what the criteria that the provider confirms differ from what was asked. What
// starts later than about now differs, too; symmetry is a wish.
func compare(asked, got cs.Criteria, now overlay.Instant) error {
	switch {
	case got.Capacity != asked.Capacity:
		return fmt.Errorf("nsi: the provider confirms %d Mbit/s and was asked for %d", got.Capacity, asked.Capacity)
	case got.End != asked.End:
		return fmt.Errorf("nsi: the provider confirms an end at %v and was asked for %v", got.End.Time(), asked.End.Time())
	case got.Start > now.Add(maxSkew):
		return fmt.Errorf("nsi: the provider confirms a start at %v", got.Start.Time())
	case got.Unidirectional:
		return fmt.Errorf("nsi: the provider confirms one direction only")
	}
	if err := within(asked.Source, got.Source); err != nil {
		return err
	}
	return within(asked.Dest, got.Dest)
}

// within says whether the STP that is confirmed is one VLAN of those asked for.
func within(asked, got string) error {
	a, err := cs.ParseSTP(asked)
	if err != nil {
		return fmt.Errorf("nsi: %w", err)
	}
	g, err := cs.ParseSTP(got)
	vlan := g.VLANs.One()
	if err != nil || g.Port != a.Port || vlan == 0 || !a.VLANs.Has(vlan) {
		return fmt.Errorf("nsi: the provider confirms %.200q and was asked for %q", got, asked)
	}
	return nil
}

// stands says where a reservation stands by what a query tells of it, and why.
func stands(s cs.States, end, now overlay.Instant) (reserve.State, string) {
	switch s.Lifecycle {
	case cs.StateTerminated, cs.StatePassedEndTime:
		return reserve.Released, ""
	}
	if end != 0 && end <= now {
		return reserve.Released, "its end is over by our clock; the provider says " + s.Lifecycle
	}
	switch s.Lifecycle {
	case cs.StateLifeFailed:
		return reserve.Lost, "the provider says that it has failed"
	case cs.StateTerminating:
		return reserve.Releasing, "the provider is terminating it"
	}
	switch {
	case s.Provision == cs.StateReleasing:
		return reserve.Releasing, "the provider is releasing it"
	case s.Provision == cs.StateProvisioned && s.Plane.Up():
		return reserve.Active, ""
	case s.Provision == cs.StateProvisioned || s.Provision == cs.StateProvisioning:
		return reserve.Activating, "provider: " + s.Provision + ", the data plane isn't up"
	}
	switch s.Reservation {
	case cs.StateChecking:
		return reserve.Requested, ""
	case cs.StateHeld, cs.StateCommitting:
		return reserve.Held, ""
	case cs.StateStart:
		return reserve.Committed, ""
	}
	return reserve.Rejected, "the provider says " + s.Reservation
}

// read makes an entry of a reservation of ours in an answer to a query; false if it is
// somebody else's.
func (d *Driver) read(r cs.Reservation) (entry, bool) {
	id, ours := untag(d.cfg.Self, r.Description)
	if !ours || r.Requester != d.cfg.Requester {
		return entry{}, false
	}
	return d.entryOf(id, r), true
}

// entryOf is read for a reservation that is known to be ours.
func (d *Driver) entryOf(id reserve.ID, r cs.Reservation) entry {
	e := entry{grant: reserve.Grant{ID: id, Kind: reserve.Circuit, Handle: r.Connection}}
	if n := len(r.Criteria); n > 0 {
		d.fillIn(&e, r.Criteria[n-1])
	}
	now := d.cfg.Now()
	e.grant.State, e.grant.Reason = stands(r.States, e.grant.End, now)
	e.grant.Up = e.grant.State == reserve.Active
	old, _ := d.book.get(id)
	if len(r.Criteria) == 0 {
		e.capacity, e.from, e.to, e.far = old.capacity, old.from, old.to, old.far
		e.grant.Rate, e.grant.End, e.grant.Mark = old.grant.Rate, old.grant.End, old.grant.Mark
	}
	if e.grant.State == reserve.Held && old.held != 0 && now.Sub(old.held) > d.cfg.CommitWithin {
		e.grant.State, e.grant.Reason = reserve.Rejected, lapsed
	}
	if was := old.grant.State; e.grant.State == reserve.Activating && (was == reserve.Active || was == reserve.Degraded) {
		e.grant.State = reserve.Degraded
	}
	return e
}

const lapsed = "it wasn't committed within the provider's time, whatever the provider says"

// fillIn takes from criteria what an entry has of them.
func (d *Driver) fillIn(e *entry, c cs.Criteria) {
	e.capacity = c.Capacity
	e.grant.Rate, e.grant.End = reserve.Rate(c.Capacity)*reserve.Mbit, c.End
	source, _ := cs.ParseSTP(c.Source)
	dest, _ := cs.ParseSTP(c.Dest)
	e.from, e.to = d.at(source.Port, e.from), d.at(dest.Port, e.to)
	from, to := d.marks(e.from, e.to, source.VLANs.One(), dest.VLANs.One())
	e.grant.Mark, e.far = from, to
	if d.cfg.Self == e.to {
		e.grant.Mark, e.far = to, from
	}
}

// at returns the agent that a port is meant for: the one that is known, this one, or the lowest of
// those that share it.
func (d *Driver) at(port string, known overlay.AgentID) overlay.AgentID {
	here := func(id overlay.AgentID) bool { p, _ := d.port(id); return p != "" && p == port }
	if known != (overlay.AgentID{}) {
		return known
	}
	if here(d.cfg.Self) {
		return d.cfg.Self
	}
	var lowest overlay.AgentID
	for id := range d.cfg.Ends {
		if here(id) && (lowest == (overlay.AgentID{}) || slices.Compare(id[:], lowest[:]) < 0) {
			lowest = id
		}
	}
	return lowest
}

// marks returns what packets carry at either end of a circuit: the interface of its VLAN, and
// the two addresses that belong to its source's VLAN.
func (d *Driver) marks(from, to overlay.AgentID, source, dest uint16) (a, b reserve.Mark) {
	device := func(id overlay.AgentID, vlan uint16) string {
		if name := d.cfg.Ends[id].Device; name != "" && vlan != 0 {
			return fmt.Sprintf("%s.%d", name, vlan)
		}
		return ""
	}
	a.Device, b.Device = device(from, source), device(to, dest)
	if d.cfg.Subnet.IsValid() && source != 0 {
		base := d.cfg.Subnet.Masked().Addr().As4()
		at := func(host uint32) netip.Addr {
			n := uint32(base[0])<<24 | uint32(base[1])<<16 | uint32(base[2])<<8 | uint32(base[3])
			n += uint32(source)*4 + host
			return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		}
		a.Source, a.Peer = at(1), at(2)
		b.Source, b.Peer = a.Peer, a.Source
	}
	return a, b
}
