//go:build linux

package ovs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

// picture looks at the database, by a connection of its own.
func (d *Driver) picture(ctx context.Context) (picture, error) {
	c, err := dial(ctx, d.cfg.Socket)
	if err != nil {
		return picture{}, err
	}
	defer c.close()
	p, err := look(ctx, c, d.cfg.Port)
	if err != nil {
		return p, fmt.Errorf("ovs: %w: %w", reserve.ErrUnreachable, err)
	}
	return p, nil
}

// change does what decide says of the picture, in one transaction that fails if the picture
// isn't true any more; then decide is asked again with a new one. decide returns no operations
// if there is nothing to do.
func (d *Driver) change(ctx context.Context, decide func(picture) ([]op, error)) error {
	c, err := dial(ctx, d.cfg.Socket)
	if err != nil {
		return err
	}
	defer c.close()
	for range tries {
		p, err := look(ctx, c, d.cfg.Port)
		if err != nil {
			return fmt.Errorf("ovs: %w: %w", reserve.ErrUnreachable, err)
		}
		ops, err := decide(p)
		if err != nil || len(ops) == 0 {
			return err
		}
		_, err = c.transact(ctx, append(p.unchanged(), ops...))
		var refused dbError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &refused):
			return fmt.Errorf("ovs: whether it was done isn't known: %w", err)
		case refused.kind == refErr:
			return fmt.Errorf("ovs: %w: rows that aren't ours refer to ours; take them off first (%w)", reserve.ErrForeign, err)
		case refused.kind != timedOut:
			return fmt.Errorf("ovs: %w: %w", reserve.ErrRefused, err)
		}
	}
	return fmt.Errorf("ovs: %w: others change the same rows all the time", reserve.ErrUnreachable)
}

// update changes one grant's rows and tells its state after that.
func (d *Driver) update(ctx context.Context, g reserve.Grant, decide func(picture, queueRow) ([]op, error)) (reserve.Grant, error) {
	err := d.change(ctx, func(p picture) ([]op, error) {
		q, ok := d.find(p, g)
		if !ok {
			return nil, gone(g)
		}
		return decide(p, q)
	})
	if err != nil {
		return g, err
	}
	return d.done(ctx, g)
}

// done tells what became of a grant after a change was made. If that can't be told, the error
// doesn't say that nothing was changed.
func (d *Driver) done(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	after, err := d.Status(ctx, g)
	if errors.Is(err, reserve.ErrUnreachable) {
		return g, fmt.Errorf("ovs: it was done, but what came of it can't be asked: %s", err.Error())
	}
	return after, err
}

func gone(g reserve.Grant) error { return fmt.Errorf("ovs: %v: %w", g.ID, reserve.ErrGone) }

func stamp(end overlay.Instant) string { return end.Time().Format(time.RFC3339Nano) }

// check refuses what no queue can do.
func (d *Driver) check(w reserve.Want) error {
	switch {
	case w.Kind == reserve.Circuit:
		return fmt.Errorf("ovs: a circuit: %w", reserve.ErrUnsupported)
	case w.ID == reserve.ID{}:
		return fmt.Errorf("ovs: %w: no ID", reserve.ErrRefused)
	case w.Rate <= 0:
		return fmt.Errorf("ovs: %w: a rate of %v", reserve.ErrRefused, w.Rate)
	case len(w.Owner) > maxOwner:
		return fmt.Errorf("ovs: %w: an owner's name of %d bytes", reserve.ErrRefused, len(w.Owner))
	}
	return d.inTime(w.End)
}

func (d *Driver) inTime(end overlay.Instant) error {
	if end <= d.cfg.Now() {
		return fmt.Errorf("ovs: %w: its end, %v, has passed", reserve.ErrRefused, end.Time())
	}
	return nil
}

// foreign says whether the port is somebody else's.
func (d *Driver) foreign(p picture) error {
	if !p.found {
		return fmt.Errorf("ovs: %w: the switch has no port %q", reserve.ErrRefused, p.port)
	}
	for _, q := range p.queues {
		if q.agent() != d.agent && q.IDs[tagPort] == p.port {
			return fmt.Errorf("ovs: port %s: %w: agent %s has a queue there until %v", p.port, reserve.ErrForeign, clip(q.agent()), q.end().Time())
		}
	}
	if p.qos == "" {
		return nil
	}
	for _, r := range p.rows {
		if r.UUID != p.qos {
			continue
		}
		if a := r.IDs[tagAgent]; a != d.agent {
			return fmt.Errorf("ovs: port %s: %w: its QoS is agent %s's", p.port, reserve.ErrForeign, clip(a))
		}
		return nil
	}
	return fmt.Errorf("ovs: port %s: %w: its QoS %s isn't an agent's (see 'ovs-vsctl list QoS'; 'ovs-vsctl clear Port %s qos' takes it off)", p.port, reserve.ErrForeign, p.qos, p.port)
}

// free is what may still be reserved, without what the queue but has.
func (d *Driver) free(p picture, but uuid) reserve.Rate {
	free := d.cfg.Reservable
	for _, q := range p.queues {
		if q.agent() == d.agent && q.IDs[tagPort] == p.port && q.UUID != but {
			free -= q.rate()
		}
	}
	return free
}

// find returns the row of a grant of this agent's.
func (d *Driver) find(p picture, g reserve.Grant) (queueRow, bool) {
	i := slices.IndexFunc(p.queues, func(q queueRow) bool {
		if q.agent() != d.agent || (g.ID != reserve.ID{} && q.id() != g.ID) {
			return false
		}
		return g.ID != reserve.ID{} || g.Handle == string(q.UUID)
	})
	if i < 0 {
		return queueRow{}, false
	}
	return p.queues[i], true
}

// htb is a queue's configuration. The kernel counts the Ethernet header, too: 14 bytes more on
// packets of 900 and more are not more than a 64th.
func htb(rate reserve.Rate) dict {
	return dict{"min-rate": strconv.FormatInt(rate.BitsPerSecond()/64*65, 10), "priority": "1"}
}

// insert writes a new queue's row.
func (d *Driver) insert(p picture, w reserve.Want) ([]op, error) {
	number := uint32(1)
	for ; number <= maxQueue; number++ {
		if !slices.ContainsFunc(p.queues, func(q queueRow) bool { return q.IDs[tagPort] == p.port && q.number() == number }) {
			break
		}
	}
	if number > maxQueue {
		return nil, fmt.Errorf("ovs: %d queues on port %s: %w", maxQueue, p.port, reserve.ErrFull)
	}
	tags := dict{
		tagOwner: owner, tagAgent: d.agent, tagPort: p.port, tagID: w.ID.String(), tagState: reserve.Held.String(),
		tagKbit: strconv.FormatInt(int64(w.Rate), 10), tagEnd: stamp(w.End), tagFor: w.Owner, tagQueue: strconv.Itoa(int(number)),
	}
	return []op{{"op": "insert", "table": "Queue", "row": op{"other_config": htb(w.Rate), "external_ids": tags}}}, nil
}

// tag is the operation that changes some of a queue's tags.
func (q queueRow) tag(tags dict) op {
	all := maps.Clone(q.IDs)
	maps.Copy(all, tags)
	return op{"op": "update", "table": "Queue", "where": is(q.UUID), "row": op{"external_ids": all}}
}

// attach gives the queue to the port.
func (d *Driver) attach(p picture, q queueRow) ([]op, error) {
	if q.IDs[tagPort] != p.port {
		return nil, fmt.Errorf("ovs: %w: it is for port %s, not %s", reserve.ErrRefused, clip(q.IDs[tagPort]), p.port)
	}
	if q.state() == reserve.Held {
		return nil, fmt.Errorf("ovs: %w: it isn't committed", reserve.ErrRefused)
	}
	if err := d.foreign(p); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(p.rows, func(r qosRow) bool { return r.IDs[tagAgent] == d.agent && r.IDs[tagPort] == p.port })
	active := q.tag(dict{tagState: reserve.Active.String()})
	queues := queueMap{q.number(): q.UUID}
	if i < 0 {
		row := op{
			"type": "linux-htb", "queues": queues,
			"other_config": dict{"max-rate": strconv.FormatInt(d.cfg.Capacity.BitsPerSecond(), 10)},
			"external_ids": dict{tagOwner: owner, tagAgent: d.agent, tagPort: p.port},
		}
		return []op{
			{"op": "insert", "table": "QoS", "uuid-name": "ours", "row": row},
			{"op": "update", "table": "Port", "where": named(p.port), "row": op{"qos": []string{"named-uuid", "ours"}}},
			active,
		}, nil
	}
	r := p.rows[i]
	if there, ok := r.Queues[q.number()]; ok && there != q.UUID {
		return nil, fmt.Errorf("ovs: port %s: %w: somebody gave queue %d of our QoS to another row, %s", p.port, reserve.ErrForeign, q.number(), there)
	}
	ops := []op{active, {"op": "mutate", "table": "QoS", "where": is(r.UUID), "mutations": []any{[]any{"queues", "insert", queues}}}}
	if p.qos == "" {
		ops = append(ops, op{"op": "update", "table": "Port", "where": named(p.port), "row": op{"qos": r.UUID}})
	}
	return ops, nil
}

// detach takes queues off all QoS rows that have our tag, and takes those away that are empty
// then, off their ports first.
func (p picture) detach(queues ...queueRow) []op {
	var ops []op
	for _, r := range p.rows {
		var keys []uint32
		for _, n := range sorted(r.Queues) {
			if slices.ContainsFunc(queues, func(q queueRow) bool { return q.UUID == r.Queues[n] }) {
				keys = append(keys, n)
			}
		}
		switch {
		case len(keys) == 0:
		case len(keys) == len(r.Queues):
			ops = append(ops, r.drop()...)
		default:
			ops = append(ops, op{"op": "mutate", "table": "QoS", "where": is(r.UUID), "mutations": []any{[]any{"queues", "delete", []any{"set", keys}}}})
		}
	}
	return ops
}

// drop takes a QoS row away, and off the port that it was made for.
func (r qosRow) drop() []op {
	where := []any{[]any{"name", "==", r.IDs[tagPort]}, []any{"qos", "==", r.UUID}}
	return []op{
		{"op": "update", "table": "Port", "where": where, "row": op{"qos": set{}}},
		{"op": "delete", "table": "QoS", "where": is(r.UUID)},
	}
}

// remove takes queues away, and QoS rows without any that are the agent's, or one's who has no
// other row either.
func (p picture) remove(queues []queueRow, agent string) []op {
	ops := p.detach(queues...)
	for _, q := range queues {
		ops = append(ops, op{"op": "delete", "table": "Queue", "where": is(q.UUID)})
	}
	for _, r := range p.rows {
		a := r.IDs[tagAgent]
		idle := a == agent || !slices.ContainsFunc(p.queues, func(q queueRow) bool { return q.agent() == a })
		if idle && len(r.Queues) == 0 {
			ops = append(ops, r.drop()...)
		}
	}
	return ops
}
