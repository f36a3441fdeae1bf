//go:build linux

package ovs

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

// The tags on our rows, in their external_ids.
const (
	tagOwner = "owner"        // "farlan"
	tagAgent = "farlan-agent" // who wrote it
	tagPort  = "farlan-port"  // for which port
	tagID    = "farlan-id"    // which grant (queues only, as all below)
	tagState = "farlan-state" // held, committed or active
	tagKbit  = "farlan-kbit"  // the rate that is promised
	tagEnd   = "farlan-end"   // RFC 3339; whoever comes by after it takes the row away
	tagFor   = "farlan-for"   // the owner of the want, for people
	tagQueue = "farlan-queue" // its number in the QoS row

	owner = "farlan"
)

// An op is one operation of a transaction (RFC 7047 section 5.2).
type op map[string]any

// A qosRow is a row of the table QoS.
type qosRow struct {
	UUID    uuid     `json:"_uuid"`
	Version uuid     `json:"_version"`
	Queues  queueMap `json:"queues"`
	IDs     dict     `json:"external_ids"`
}

// A queueRow is a row of the table Queue.
type queueRow struct {
	UUID    uuid `json:"_uuid"`
	Version uuid `json:"_version"`
	IDs     dict `json:"external_ids"`
}

// A picture is all that the database holds of farlan's, whichever agent's, and the port.
type picture struct {
	port   string
	found  bool // the port is there
	qos    uuid // the port's
	rows   []qosRow
	queues []queueRow
}

// sorted returns the keys in order.
func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// ours matches rows that carry our name.
var ours = []any{[]any{"external_ids", "includes", dict{tagOwner: owner}}}

func named(port string) []any { return []any{[]any{"name", "==", port}} }

func is(u uuid) []any { return []any{[]any{"_uuid", "==", u}} }

// look takes the picture.
func look(ctx context.Context, c *conn, port string) (picture, error) {
	r, err := c.transact(ctx, []op{
		{"op": "select", "table": "Port", "where": named(port), "columns": []string{"qos"}},
		{"op": "select", "table": "QoS", "where": ours, "columns": []string{"_uuid", "_version", "queues", "external_ids"}},
		{"op": "select", "table": "Queue", "where": ours, "columns": []string{"_uuid", "_version", "external_ids"}},
	})
	if err != nil {
		return picture{}, err
	}
	return read(port, r)
}

// read makes a picture of the answers to the three selects.
func read(port string, r []json.RawMessage) (picture, error) {
	p := picture{port: port}
	ports, err := rows[struct {
		QoS set `json:"qos"`
	}](r[0])
	if err != nil {
		return p, err
	}
	if p.found = len(ports) == 1; p.found {
		p.qos = ports[0].QoS.one()
	}
	if p.rows, err = rows[qosRow](r[1]); err != nil {
		return p, err
	}
	p.queues, err = rows[queueRow](r[2])
	slices.SortFunc(p.rows, func(a, b qosRow) int { return cmp.Compare(a.UUID, b.UUID) })
	slices.SortFunc(p.queues, func(a, b queueRow) int { return cmp.Compare(a.UUID, b.UUID) })
	return p, err
}

func rows[R any](raw json.RawMessage) ([]R, error) {
	var r struct{ Rows []R }
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("the database's answer: %w", err)
	}
	return r.Rows, nil
}

// unchanged are the operations that let a transaction fail if anything of the picture is not
// any more as it was, rows that came since included.
func (p picture) unchanged() []op {
	version := func(u, v uuid) op { return op{"_uuid": u, "_version": v} }
	ports, qoss, queues := []op{}, []op{}, []op{}
	if p.found {
		ports = append(ports, op{"qos": optional(p.qos)})
	}
	for _, q := range p.rows {
		qoss = append(qoss, version(q.UUID, q.Version))
	}
	for _, q := range p.queues {
		queues = append(queues, version(q.UUID, q.Version))
	}
	wait := func(table string, where []any, columns []string, rows []op) op {
		return op{"op": "wait", "timeout": 0, "table": table, "where": where, "columns": columns, "until": "==", "rows": rows}
	}
	both := []string{"_uuid", "_version"}
	return []op{
		wait("Port", named(p.port), []string{"qos"}, ports),
		wait("QoS", ours, both, qoss),
		wait("Queue", ours, both, queues),
	}
}

func optional(u uuid) set {
	if u == "" {
		return set{}
	}
	return set{u}
}

// What a queue's tags say. Each of them may be missing or nonsense, in rows that somebody wrote
// by hand: such a row has no ID, no rate, and an end long ago.

func (q queueRow) agent() string { return q.IDs[tagAgent] }

func (q queueRow) end() overlay.Instant {
	t, err := time.Parse(time.RFC3339Nano, q.IDs[tagEnd])
	if err != nil || t.Year() < 1970 || t.Year() > 2200 {
		return 0
	}
	return overlay.Instant(t.UnixNano())
}

func (q queueRow) rate() reserve.Rate {
	n, err := strconv.ParseInt(q.IDs[tagKbit], 10, 48)
	if err != nil || n < 0 {
		return 0
	}
	return reserve.Rate(n)
}

func (q queueRow) number() uint32 {
	n, err := strconv.ParseUint(q.IDs[tagQueue], 10, 32)
	if err != nil || n < 1 || n > maxQueue {
		return 0
	}
	return uint32(n)
}

func (q queueRow) state() reserve.State {
	for _, s := range []reserve.State{reserve.Held, reserve.Committed, reserve.Active} {
		if q.IDs[tagState] == s.String() {
			return s
		}
	}
	return reserve.Unknown
}

func (q queueRow) id() reserve.ID {
	id, err := reserve.ParseID(q.IDs[tagID])
	if err != nil {
		return reserve.ID{}
	}
	return id
}

// at says by which QoS row packets get to the queue, if by any.
func (p picture) at(q queueRow) (qosRow, bool) {
	for _, r := range p.rows {
		if q.number() != 0 && r.Queues[q.number()] == q.UUID {
			return r, true
		}
	}
	return qosRow{}, false
}
