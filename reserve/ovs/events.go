//go:build linux

package ovs

import (
	"context"
	"encoding/json"
	"time"

	"farlan/reserve"
)

// How long to wait after the database was lost before it is tried again.
const (
	firstPause = time.Second
	lastPause  = 30 * time.Second
)

// Events watches the rows (RFC 7047 section 4.1.5), and tells when somebody takes one of this agent's
// off its port (Degraded, and Active when it is back) or away (Lost). What the driver's own calls
// do is told as well. It looks again at all when the database was away.
func (d *Driver) Events(ctx context.Context, tell func(reserve.Event)) error {
	known := make(map[reserve.ID]reserve.Grant)
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		_ = d.watch(ctx, known, tell)
		if time.Since(began) > lastPause {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
			pause = min(2*pause, lastPause)
		}
	}
	return nil
}

// watch tells what happens until the connection ends.
func (d *Driver) watch(ctx context.Context, known map[reserve.ID]reserve.Grant, tell func(reserve.Event)) error {
	c, err := dial(ctx, d.cfg.Socket)
	if err != nil {
		return err
	}
	defer c.close()
	column := func(name string) op { return op{"columns": []string{name}, "select": op{"initial": false}} }
	tables := op{"QoS": column("queues"), "Queue": column("external_ids"), "Port": column("qos")}
	if _, err := c.call(ctx, "monitor", []any{"Open_vSwitch", json.RawMessage("null"), tables}); err != nil {
		return err
	}
	for {
		if err := d.compare(ctx, known, tell); err != nil {
			return err
		}
		if err := c.SetDeadline(time.Time{}); err != nil {
			return err
		}
		if ctx.Err() != nil { // it may have ended just before the deadline was taken away
			return ctx.Err()
		}
		for {
			m, err := c.receive()
			if err != nil {
				return err
			}
			if m.Method == "update" {
				break
			}
		}
	}
}

// compare tells what differs from what is known, and knows it then.
func (d *Driver) compare(ctx context.Context, known map[reserve.ID]reserve.Grant, tell func(reserve.Event)) error {
	all, err := d.List(ctx)
	if err != nil {
		return err
	}
	now := make(map[reserve.ID]bool)
	for _, g := range all {
		if g.ID == (reserve.ID{}) {
			continue
		}
		now[g.ID] = true
		if before, ok := known[g.ID]; ok && before.State != g.State {
			tell(reserve.Event{ID: g.ID, Grant: g})
		}
		known[g.ID] = g
	}
	for id, g := range known {
		if !now[id] {
			delete(known, id)
			g.State, g.Up, g.Reason = reserve.Lost, false, "its row is gone"
			tell(reserve.Event{ID: id, Grant: g})
		}
	}
	return nil
}
