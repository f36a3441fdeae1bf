package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

const (
	// reserveFor is for how long something is reserved unless somebody says otherwise.
	reserveFor = 10 * time.Minute
	// What is wanted for less isn't worth the asking, and what is wanted for longer is forgotten
	// by whoever wanted it: a month of reservations must be asked for again.
	leastReserve = 10 * time.Second
	mostReserve  = 30 * 24 * time.Hour
	// maxOwner is how long an owner's word may be, as messages have it.
	maxOwner = 64
)

// reserveOff is said where nothing is reserved.
func reserveOff() *failure {
	return &failure{err: errors.New("nothing is reserved at this agent"), code: exitFailed, hint: "start it without '--reserve off'"}
}

// serveReserveRequest asks for a reservation and answers with its id; it isn't held yet.
func (n *node) serveReserveRequest(w http.ResponseWriter, r *http.Request) {
	var v requestView
	q, refused := reserveRequest(r.FormValue)
	if refused == nil {
		refused = n.reachFar(r.Context(), r.FormValue("to"))
	}
	if refused == nil {
		v, refused = n.askReservation(r.Context(), q, r.FormValue("from"), r.FormValue("to"))
	}
	n.answerReserve(w, v, nil, refused)
}

// askReservation asks for a reservation between two who are named.
func (n *node) askReservation(ctx context.Context, q reserve.Request, from, to string) (v requestView, refused *failure) {
	var p *peer
	err := n.do(ctx, func(overlay.Instant) {
		if refused = reserveOff(); n.reserving.broker != nil {
			q.Flow, p, refused = n.flowBetween(from, to, n.names())
		}
	})
	if err == nil && refused == nil {
		n.summon(ctx, p)
		err = n.do(ctx, func(now overlay.Instant) { v, refused = n.askNow(now, q, p) })
	}
	if err != nil {
		refused = &failure{err: err, code: exitNoAgent}
	}
	return v, refused
}

// askNow asks for a reservation to a peer.
func (n *node) askNow(now overlay.Instant, q reserve.Request, p *peer) (v requestView, refused *failure) {
	if refused = n.reservePath(&q, p); refused != nil {
		return v, refused
	}
	id, err := n.requestReservation(now, q)
	if err != nil {
		return v, &failure{err: fmt.Errorf("reserve request: %w", err), code: exitFailed, hint: "'farlan reserve list' shows what there is"}
	}
	return requestView{Schema: schemaVersion, ID: reservationID(id), Hint: n.reserveHint()}, nil
}

// reserveHint says what to do if nothing can be had, "" if that isn't known.
func (n *node) reserveHint() string {
	if c := n.credentialView(); c != nil && !slices.Contains(c.Rights, "reserve") {
		return "this agent hasn't the right to reserve at others: the admin gives it by 'farlan renew --rights'"
	}
	if n.reserving.rate > 0 {
		return ""
	}
	return "what this host's way out carries isn't known, so nothing of it can be promised: set --uplink (it is measured only where two paths or more have it for a bottleneck)"
}

// reserveRequest reads what is asked for, but between whom.
func reserveRequest(value func(string) string) (q reserve.Request, refused *failure) {
	bad := func(err error, format string, args ...any) {
		if err != nil && refused == nil {
			refused = &failure{err: fmt.Errorf(format, args...), code: exitUsage}
		}
	}
	var err error
	q.Rate, err = reserve.ParseRate(value("rate"))
	bad(err, "--rate: %w", err)
	if value("back") != "" {
		q.BackRate, err = reserve.ParseRate(value("back"))
		bad(err, "--back: %w", err)
	}
	q.For, err = time.ParseDuration(cmp.Or(value("for"), reserveFor.String()))
	if err == nil && (q.For < leastReserve || q.For > mostReserve) {
		err = errors.New("out of bounds")
	}
	bad(err, "--for: want %v to %v", leastReserve, mostReserve)
	q.Kind, err = parseKind(value("kind"))
	bad(err, "--kind %q: want guarantee, circuit or priority", value("kind"))
	q.Circuit = value("circuit") != "" || q.Kind == reserve.Circuit
	if q.Owner = value("owner"); len(q.Owner) > maxOwner {
		bad(errors.New("too long"), "--owner: want %d bytes at most", maxOwner)
	}
	return q, refused
}

func parseKind(s string) (reserve.Kind, error) {
	if s == "" {
		return reserve.NoKind, nil
	}
	for _, k := range []reserve.Kind{reserve.Circuit, reserve.Guarantee, reserve.Priority} {
		if k.String() == s {
			return k, nil
		}
	}
	return 0, errors.New("no such kind")
}

// reserveEnd finds who is meant by one end of a request: this agent is also called self.
func (n *node) reserveEnd(name string, names map[overlay.AgentID]string) (goal, *failure) {
	if m, err := overlay.ParseMAC(strings.ToLower(name)); err == nil {
		name = m.String()
	}
	g, unknown := n.goal(name, names)
	if unknown != nil && name == "self" {
		return goal{}, nil
	}
	return g, unknown
}

// flowBetween returns the frames that are meant, and the agent to which they go.
func (n *node) flowBetween(from, to string, names map[overlay.AgentID]string) (f reserve.Flow, p *peer, refused *failure) {
	a, refused := n.reserveEnd(from, names)
	if refused != nil {
		return f, nil, refused
	}
	b, refused := n.reserveEnd(to, names)
	if refused != nil {
		return f, nil, refused
	}
	no := func(hint, format string, args ...any) (reserve.Flow, *peer, *failure) {
		return f, nil, &failure{err: fmt.Errorf("reserve request: "+format, args...), code: exitUsage, hint: hint}
	}
	switch {
	case a.peer != nil && a.station != nil:
		return no("ask at "+names[a.peer.id], "FROM is %s, which is behind %s: a reservation is asked for where frames begin", a.station, names[a.peer.id])
	case a.peer != nil:
		return no("ask at "+names[a.peer.id], "FROM is %s: a reservation is asked for where frames begin", names[a.peer.id])
	case b.peer == nil:
		return no("", "FROM and TO are both at this agent: nothing between them crosses to another one")
	case (a.station == nil) != (b.station == nil):
		return no("name two agents, or two stations", "one of FROM and TO is an agent, the other a station")
	}
	f = reserve.Flow{From: n.self, To: b.peer.id}
	if a.station != nil {
		f.Source, f.Dest = *a.station, *b.station
	}
	return f, b.peer, nil
}

// reservePath has a request go by the way that bulk frames to the peer take now, and back by the
// same.
func (n *node) reservePath(q *reserve.Request, p *peer) *failure {
	switch {
	case p.out.Load() == nil:
		return &failure{err: fmt.Errorf("reserve request: there is no path to %s now", n.names()[p.id]), code: exitFailed, hint: "'farlan peers' says what is known of it"}
	case q.Circuit:
		return nil
	}
	q.Path = n.bulkRelays(p)
	if q.BackRate > 0 {
		q.Back = slices.Clone(q.Path)
		slices.Reverse(q.Back)
	}
	return nil
}
