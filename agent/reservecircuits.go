package agent

import (
	"context"

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
		n.log.Warn("no circuits", "why", s)
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
	for _, row := range r.broker.List() {
		if row.Kind != reserve.Circuit || row.Coordinator != n.self || row.Mark.Device == "" {
			continue
		}
		until := now.Add(attachLease)
		if row.State < reserve.Committed || row.State > reserve.Degraded && row.State != reserve.Unknown {
			until = now
		}
		before := r.ends.has(row.Mark)
		if _, err := r.ends.own(now, row.Mark, until); err != nil {
			n.log.Warn("circuit can't be used", "id", row.ID, "error", err)
			continue
		}
		if after := r.ends.has(row.Mark); before != after || after && again {
			n.tellFar(now, &row)
		}
	}
	r.ends.tick(now)
}

// tellFar tells the agent at the other end of a circuit how long it is to be on it, as far as its
// driver knows that end; a circuit that is over it may have forgotten.
func (n *node) tellFar(now overlay.Instant, row *reserve.Row) {
	r := &n.reserving
	if far, known := r.nsi.Far(row.ID); known {
		r.far[row.ID] = far
	}
	far, known := r.far[row.ID]
	if !known {
		return
	}
	if msg := r.ends.far(now, row.Mark, far); msg != nil {
		n.sendReserve(now, row.Flow.To, msg)
	}
	if !r.ends.has(row.Mark) {
		delete(r.far, row.ID)
	}
}
