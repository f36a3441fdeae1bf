//go:build linux

package ovs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"

	"farlan/reserve"
)

// grant tells what a row is, and what the switch has made of it.
func (d *Driver) grant(ctx context.Context, c *conn, p picture, q queueRow) (reserve.Grant, error) {
	g := reserve.Grant{
		ID: q.id(), Kind: reserve.Guarantee, State: q.state(), Rate: q.rate(), End: q.end(), Handle: string(q.UUID),
		Mark: reserve.Mark{Priority: class(q.number())},
	}
	if g.State != reserve.Active {
		return g, nil
	}
	r, ok := p.at(q)
	switch {
	case q.IDs[tagPort] != p.port:
		g.State, g.Reason = reserve.Degraded, "it is for port "+clip(q.IDs[tagPort])
	case !p.found:
		g.State, g.Reason = reserve.Degraded, "the switch has no port "+p.port+" any more"
	case !ok || p.qos != r.UUID:
		g.State, g.Reason = reserve.Degraded, "somebody took the queue off port "+p.port
	default:
		var err error
		if g.Up, g.Reason, err = d.proof(ctx, c, q); err != nil {
			return g, err
		}
		if !g.Up {
			g.State = reserve.Activating
		}
	}
	return g, nil
}

// class is the number of a queue's class, 1:(n+1), as the kernel writes it; 0 of none.
func class(queue uint32) uint32 {
	if queue == 0 {
		return 0
	}
	return 1<<16 | (queue + 1)
}

// proof looks for the class in the kernel. It gives a reason if it will never be found, and none
// if it may yet come.
func (d *Driver) proof(ctx context.Context, c *conn, q queueRow) (up bool, reason string, err error) {
	kind, err := datapath(ctx, c, d.cfg.Port)
	switch {
	case err != nil:
		return false, "", fmt.Errorf("ovs: %w: %w", reserve.ErrUnreachable, err)
	case kind != "" && kind != "system":
		return false, fmt.Sprintf("the bridge's datapath is %q, in which packets don't get to queues", clip(kind)), nil
	}
	h, err := kernelClass(d.cfg.Port, class(q.number()))
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		return false, "this host has no interface " + d.cfg.Port + " to look for the class at", nil
	case err != nil:
		return false, "can't look for the class in the kernel: " + err.Error(), nil
	}
	return h != nil && h.Rate >= uint64(q.rate().BitsPerSecond()/8), "", nil
}

// datapath tells the kind of datapath of the bridge that has the port.
func datapath(ctx context.Context, c *conn, port string) (string, error) {
	r, err := c.transact(ctx, []op{{"op": "select", "table": "Port", "where": named(port), "columns": []string{"_uuid"}}})
	if err != nil {
		return "", err
	}
	ports, err := rows[struct {
		UUID uuid `json:"_uuid"`
	}](r[0])
	if err != nil || len(ports) != 1 {
		return "", err
	}
	has := []any{[]any{"ports", "includes", ports[0].UUID}}
	if r, err = c.transact(ctx, []op{{"op": "select", "table": "Bridge", "where": has, "columns": []string{"datapath_type"}}}); err != nil {
		return "", err
	}
	bridges, err := rows[struct {
		Type json.RawMessage `json:"datapath_type"`
	}](r[0])
	if err != nil || len(bridges) != 1 {
		return "", err
	}
	var kind string
	err = json.Unmarshal(bridges[0].Type, &kind)
	return kind, err
}

// kernelClass returns a class of an interface's root queueing discipline, or nil.
func kernelClass(device string, handle uint32) (*netlink.HtbClass, error) {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return nil, err
	}
	classes, err := netlink.ClassList(link, netlink.HANDLE_NONE)
	if err != nil {
		return nil, err
	}
	for _, c := range classes {
		if h, ok := c.(*netlink.HtbClass); ok && h.Handle == handle {
			return h, nil
		}
	}
	return nil, nil
}

// Usage is what the kernel counted at the queue's class.
func (d *Driver) Usage(ctx context.Context, g reserve.Grant) (reserve.Usage, error) {
	p, err := d.picture(ctx)
	if err != nil {
		return reserve.Usage{}, err
	}
	q, ok := d.find(p, g)
	if !ok {
		return reserve.Usage{}, gone(g)
	}
	h, err := kernelClass(d.cfg.Port, class(q.number()))
	if err != nil {
		return reserve.Usage{}, fmt.Errorf("ovs: %w: can't look for the class in the kernel: %w", reserve.ErrUnsupported, err)
	}
	if h == nil || h.Statistics == nil {
		return reserve.Usage{}, nil
	}
	var u reserve.Usage
	if b := h.Statistics.Basic; b != nil {
		// Frames are counted, of which Ethernet's header is no part of the packet.
		u.Packets, u.Bytes = uint64(b.Packets), b.Bytes-min(b.Bytes, 14*uint64(b.Packets))
	}
	if s := h.Statistics.Queue; s != nil {
		u.Dropped, u.Backlog = uint64(s.Drops), uint64(s.Backlog)
	}
	return u, nil
}
