package agent

import (
	"context"
	"slices"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi"
)

// openNSI opens the driver that asks for circuits, and what this agent needs to be on them.
func (n *node) openNSI(c *driverConfig) (*nsi.Driver, error) {
	r := &n.reserving
	f, err := readNSIFile(c.File, n.self)
	if err != nil {
		return nil, err
	}
	if s := f.warning(); s != "" {
		n.log.Warn("circuits", "problem", s)
	}
	ends, err := openCircuits(f, n.self, n.log)
	if err != nil {
		return nil, err
	}
	if !n.cfg.Listen.Addr().IsUnspecified() {
		n.log.Warn("circuits: nothing comes in by them, as --listen names one address; leave it out there", "listen", n.cfg.Listen)
	}
	cfg, err := f.open(n.now)
	if err != nil {
		return nil, err
	}
	d, err := nsi.Open(cfg)
	if err != nil {
		return nil, err
	}
	r.longest = f.Config.Longest
	r.ends, r.nsi, r.far = ends, d, make(map[reserve.ID]reserve.Mark)
	if f.Device == "" {
		return d, nil
	}
	r.circuits = make(map[overlay.AgentID]circuitHop)
	for id := range f.Config.Ends {
		if id != n.self {
			r.circuits[id] = circuitHop{f.Device, f.Config.Ends[n.self].Capacity}
		}
	}
	return d, nil
}

// startCircuits starts what makes this agent's ends of circuits, and tells what the device
// carries where they begin.
func (n *node) startCircuits(start func(context.Context, string, func(context.Context) error), ctx context.Context) {
	r := &n.reserving
	if r.ends == nil {
		return
	}
	n.lookAtPorts()
	start(ctx, "circuits", r.ends.run)
	for _, c := range r.circuits {
		r.broker.SetCapacity(c.Device, c.Capacity)
		for _, w := range r.drivers {
			w.setRate(c.Device, c.Capacity)
		}
		break // they all begin at one
	}
}

// mindCircuits has both ends of each circuit be there that this agent asked for, as long as it is
// granted.
func (n *node) mindCircuits(now overlay.Instant) {
	r := &n.reserving
	if r.ends == nil {
		return
	}
	again := now.Sub(r.attached) >= attachEvery
	if again {
		r.attached = now
	}
	on, over := circuitsNow(r.broker.List(), n.self, r.far)
	for i := range on {
		_, known := r.far[on[i].ID]
		if !known { // its interface may be another's that has just ended, and the other end not know it
			r.far[on[i].ID], _ = r.nsi.Far(on[i].ID)
		}
		n.mindCircuit(now, &on[i], now.Add(attachLease), again || !known)
	}
	for i := range over {
		n.mindCircuit(now, &over[i], now, false)
		delete(r.far, over[i].ID)
	}
	r.ends.tick(now)
}

// circuitsNow returns the circuits that an agent has asked for which are granted, and those that
// are over of which that isn't known yet: known are those that it was on. An interface that is
// another one's by now is left alone: what was over a while ago is shown, too.
func circuitsNow(rows []reserve.Row, self overlay.AgentID, known map[reserve.ID]reserve.Mark) (on, over []reserve.Row) {
	taken := make(map[string]bool)
	for _, row := range rows {
		if row.Kind != reserve.Circuit || row.Coordinator != self || row.Mark.Device == "" {
			continue
		}
		if _, was := known[row.ID]; row.State >= reserve.Committed && row.State <= reserve.Degraded || row.State == reserve.Unknown {
			on = append(on, row)
			taken[row.Mark.Device] = true
		} else if was {
			over = append(over, row)
		}
	}
	return on, slices.DeleteFunc(over, func(row reserve.Row) bool {
		if taken[row.Mark.Device] {
			delete(known, row.ID)
		}
		return taken[row.Mark.Device]
	})
}

// mindCircuit has both ends of a circuit be there until an instant. The other one is told when
// something changes, and again from time to time.
func (n *node) mindCircuit(now overlay.Instant, row *reserve.Row, until overlay.Instant, again bool) {
	ends := n.reserving.ends
	before := ends.has(row.Mark)
	if _, err := ends.own(now, row.Mark, until); err != nil {
		n.log.Warn("circuit can't be used", "id", row.ID, "error", err)
		return
	}
	if after := ends.has(row.Mark); before != after || after && again {
		n.tellFar(now, row)
	}
}

// tellFar tells the agent at the other end of a circuit how long it is to be on it, as far as its
// driver knows that end; a circuit that is over it may have forgotten.
func (n *node) tellFar(now overlay.Instant, row *reserve.Row) {
	r := &n.reserving
	if far, known := r.nsi.Far(row.ID); known {
		r.far[row.ID] = far
	}
	if msg := r.ends.far(now, row.Mark, r.far[row.ID]); msg != nil {
		n.sendReserve(now, row.Flow.To, msg)
	}
}
