package agent

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"farlan/overlay"
	"farlan/reserve"
)

// serveReservations answers what is asked about reservations.
func (n *node) serveReservations(mux *http.ServeMux) {
	mux.HandleFunc("GET /reserve", n.serveReserveList)
	mux.HandleFunc("POST /reserve/request", n.serveReserveRequest)
	mux.HandleFunc("POST /reserve/release", n.serveReserveRelease)
}

// reservedRows returns what there is of reservations.
func (n *node) reservedRows() []reserve.Row {
	if n.reserving.broker == nil {
		return nil
	}
	return n.reserving.broker.List()
}

// reserveView returns rows as people and programs see them.
func (n *node) reserveView(now overlay.Instant, rows []reserve.Row, names map[overlay.AgentID]string) reserveView {
	v := reserveView{Schema: schemaVersion, Reservations: make([]reservationView, 0, len(rows))}
	plain := plainNames(rows, names)
	for i := range rows {
		v.Reservations = append(v.Reservations, n.reservationView(now, &rows[i], names, plain))
	}
	return v
}

func (n *node) reservationView(now overlay.Instant, r *reserve.Row, names map[overlay.AgentID]string, plain *strings.Replacer) reservationView {
	v := reservationView{
		ID: reservationID(r.ID.Reservation), State: r.Whole.String(), Owner: r.Owner, Reason: plain.Replace(strings.TrimSpace(r.Reason)), Declared: r.Declared,
		Segment:  reservedSegmentView{From: agentName(r.From, names), To: agentName(r.To, names), Number: int(r.ID.Segment), State: r.State.String()},
		RateMbit: megabits(n.innerRate(r).BitsPerSecond()), UsedMbit: megabits(r.Used.BitsPerSecond()), FreeMbit: megabits(r.Free.BitsPerSecond()),
		Coordinator: agentName(r.Coordinator, names),
	}
	if r.Kind != reserve.NoKind {
		v.Kind = new(r.Kind.String())
	}
	if r.Driver != "" {
		v.Driver = &r.Driver
	}
	if r.Start != 0 {
		v.Start = new(lastSeen(now, r.Start))
	}
	if r.End != 0 {
		v.End = new(lastSeen(now, r.End))
	}
	if r.Until != 0 {
		v.Until = new(lastSeen(now, r.Until))
	}
	if !r.Flow.From.IsZero() {
		v.Flow = new(flowOf(r.Flow, names))
	}
	return v
}

// innerRate returns the rate of a row in inner Ethernet bits. Of another agent's reservation this
// one isn't told by how many relays it goes: it counts on those that it sees.
func (n *node) innerRate(r *reserve.Row) reserve.Rate {
	if r.Coordinator == n.self {
		return r.Rate
	}
	relays := 0
	if !r.Flow.From.IsZero() && (r.Flow.From != r.From || r.Flow.To != r.To) {
		relays = 1
	}
	return reserve.Inner(r.Rate, relays)
}

func flowOf(f reserve.Flow, names map[overlay.AgentID]string) reservedFlowView {
	v := reservedFlowView{From: *agentName(f.From, names), To: *agentName(f.To, names)}
	if (f.Source != overlay.MAC{}) {
		v.Source = new(f.Source.String())
	}
	if (f.Dest != overlay.MAC{}) {
		v.Dest = new(f.Dest.String())
	}
	return v
}

func reservationID(id [16]byte) string { return hex.EncodeToString(id[:]) }

// agentName returns an agent's name, nil of the zero agent.
func agentName(id overlay.AgentID, names map[overlay.AgentID]string) *string {
	if id.IsZero() {
		return nil
	}
	return &namesOf([]overlay.AgentID{id}, names)[0]
}

// plainNames returns what puts the names of agents where a reason has their short ids.
func plainNames(rows []reserve.Row, names map[overlay.AgentID]string) *strings.Replacer {
	var pairs []string
	known := make(map[overlay.AgentID]bool)
	for i := range rows {
		for _, id := range []overlay.AgentID{rows[i].From, rows[i].To, rows[i].Coordinator, rows[i].Flow.To} {
			if !id.IsZero() && !known[id] {
				known[id] = true
				pairs = append(pairs, id.Short(), namesOf([]overlay.AgentID{id}, names)[0])
			}
		}
	}
	return strings.NewReplacer(pairs...)
}

// reservedCount counts what isn't over.
func (n *node) reservedCount() *reservedCountView {
	if n.reserving.broker == nil {
		return nil
	}
	v := &reservedCountView{States: make(map[string]int)}
	seen := make(map[[16]byte]bool)
	for _, r := range n.reservedRows() {
		switch {
		case r.Whole.Over():
		case r.Coordinator != n.self:
			v.Served++
		case !seen[r.ID.Reservation]:
			seen[r.ID.Reservation] = true
			v.States[r.Whole.String()]++
		}
	}
	return v
}

// leastDigits is the least that must be given of a reservation's id.
const leastDigits = 4

// reservationNamed returns the rows of the reservation whose id begins with some digits.
func reservationNamed(rows []reserve.Row, digits string) ([]reserve.Row, *failure) {
	digits = strings.ToLower(digits)
	if len(digits) < leastDigits || len(digits) > 32 || strings.Trim(digits, "0123456789abcdef") != "" {
		return nil, &failure{
			err: fmt.Errorf("%.40q is no reservation's id", digits), code: exitUsage,
			hint: fmt.Sprintf("'farlan reserve list' shows them; %d digits will do if no other one begins with them", leastDigits),
		}
	}
	var found []reserve.Row
	var ids []string
	for _, r := range rows {
		id := reservationID(r.ID.Reservation)
		if !strings.HasPrefix(id, digits) {
			continue
		}
		if found = append(found, r); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	switch len(ids) {
	case 1:
		return found, nil
	case 0:
		return nil, &failure{err: fmt.Errorf("%s: no such reservation", digits), code: exitNoPeer, hint: "'farlan reserve list' shows what there is"}
	}
	return nil, &failure{err: fmt.Errorf("%s: several reservations begin so: %s", digits, named(ids)), code: exitUsage, hint: "give more digits"}
}

// serveReserveList answers with all, or, of one id, with what this agent reserved for the same
// frames since: it may have asked again with less.
func (n *node) serveReserveList(w http.ResponseWriter, r *http.Request) {
	var v reserveView
	var refused *failure
	of := r.FormValue("of")
	err := n.do(r.Context(), func(now overlay.Instant) {
		rows := n.reservedRows()
		if of != "" {
			rows, refused = n.reservedSince(rows, of)
		}
		v = n.reserveView(now, rows, n.names())
	})
	n.answerReserve(w, v, err, refused)
}

func (n *node) answerReserve(w http.ResponseWriter, v any, err error, refused *failure) {
	switch {
	case err != nil:
		refuse(w, http.StatusServiceUnavailable, &failure{err: err, code: exitNoAgent})
	case refused != nil:
		refuse(w, http.StatusConflict, refused)
	default:
		reply(w, v)
	}
}

// reservedSince returns the rows of a reservation, and of those that this agent declared for the
// same frames later.
func (n *node) reservedSince(rows []reserve.Row, of string) (all []reserve.Row, refused *failure) {
	first, refused := reservationNamed(rows, of)
	if refused != nil {
		return nil, refused
	}
	begun, since := false, make(map[[16]byte]bool)
	for _, r := range rows {
		begun = begun || r.ID.Reservation == first[0].ID.Reservation
		if !begun || r.Coordinator != first[0].Coordinator {
			continue
		}
		if r.ID.Segment == 0 && r.Flow == first[0].Flow && r.Declared == first[0].Declared {
			since[r.ID.Reservation] = true
		}
		if since[r.ID.Reservation] {
			all = append(all, r)
		}
	}
	return all, nil
}

// serveReserveRelease gives a reservation back.
func (n *node) serveReserveRelease(w http.ResponseWriter, r *http.Request) {
	var v reserveView
	var refused *failure
	err := n.do(r.Context(), func(now overlay.Instant) {
		names := n.names()
		rows, no := reservationNamed(n.reservedRows(), r.FormValue("id"))
		if refused = no; refused != nil {
			return
		}
		id := rows[0].ID.Reservation
		if refused = n.mayRelease(rows, names); refused != nil {
			return
		}
		if err := n.releaseReservation(now, id); err != nil {
			refused = &failure{err: fmt.Errorf("%s: %w", reservationID(id), err), code: exitFailed, hint: "'farlan reserve list' shows what there is"}
			return
		}
		after := slices.DeleteFunc(n.reservedRows(), func(r reserve.Row) bool { return !bytes.Equal(r.ID.Reservation[:], id[:]) })
		v = n.reserveView(now, after, names)
	})
	n.answerReserve(w, v, err, refused)
}

// mayRelease says why a reservation can't be given back here, nil if it can.
func (n *node) mayRelease(rows []reserve.Row, names map[overlay.AgentID]string) *failure {
	id := reservationID(rows[0].ID.Reservation)
	switch who := rows[0].Coordinator; {
	case who == n.self:
		return nil
	case who.IsZero():
		return &failure{
			err: fmt.Errorf("%s: nobody here asked for it: it is being given back already", id), code: exitFailed,
			hint: "'farlan doctor' says what stands in the way",
		}
	default:
		name := *agentName(who, names)
		return &failure{err: fmt.Errorf("%s: it is %s's reservation, this agent only serves a part of it", id, name), code: exitUsage, hint: fmt.Sprintf("ask at %s: 'farlan reserve release %s'", name, id)}
	}
}
