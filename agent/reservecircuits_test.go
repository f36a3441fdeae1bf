package agent

import (
	"testing"

	"farlan/overlay"
	"farlan/reserve"
)

// TestCircuitsNow: of circuits that had the same interface one after the other only the one that
// there is, or was a moment ago, says what becomes of it.
func TestCircuitsNow(t *testing.T) {
	self := overlay.AgentID{1}
	row := func(number byte, s reserve.State, device string) reserve.Row {
		return reserve.Row{
			ID: reserve.ID{Reservation: [16]byte{number}}, Kind: reserve.Circuit, Coordinator: self, State: s,
			Mark: reserve.Mark{Device: device},
		}
	}
	for _, c := range []struct {
		name     string
		rows     []reserve.Row
		known    []byte // reservations that the agent was on
		on, over []byte
		after    int // how many are known then
	}{
		{name: "granted", rows: []reserve.Row{row(1, reserve.Committed, "w.1")}, on: []byte{1}},
		{name: "not known", rows: []reserve.Row{row(1, reserve.Unknown, "w.1")}, on: []byte{1}},
		{name: "held only", rows: []reserve.Row{row(1, reserve.Held, "w.1")}},
		{name: "over now", rows: []reserve.Row{row(1, reserve.Releasing, "w.1")}, known: []byte{1}, over: []byte{1}, after: 1},
		{name: "over long ago", rows: []reserve.Row{row(1, reserve.Released, "w.1")}},
		{
			name: "the second is over, too", rows: []reserve.Row{row(1, reserve.Released, "w.1"), row(2, reserve.Orphan, "w.1")},
			known: []byte{2}, over: []byte{2}, after: 1,
		},
		{
			name: "the second is on", rows: []reserve.Row{row(2, reserve.Active, "w.1"), row(1, reserve.Released, "w.1")},
			known: []byte{2}, on: []byte{2}, after: 1,
		},
		{
			name: "taken at once", rows: []reserve.Row{row(1, reserve.Released, "w.1"), row(2, reserve.Active, "w.1")},
			known: []byte{1}, on: []byte{2},
		},
		{
			name: "another interface", rows: []reserve.Row{row(1, reserve.Released, "w.1"), row(2, reserve.Active, "w.2")},
			known: []byte{1, 2}, on: []byte{2}, over: []byte{1}, after: 2,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			known := make(map[reserve.ID]reserve.Mark)
			for _, number := range c.known {
				known[reserve.ID{Reservation: [16]byte{number}}] = reserve.Mark{}
			}
			numbers := func(rows []reserve.Row) (all string) {
				for _, r := range rows {
					all += string(r.ID.Reservation[:1])
				}
				return all
			}
			on, over := circuitsNow(c.rows, self, known)
			if numbers(on) != string(c.on) || numbers(over) != string(c.over) || len(known) != c.after {
				t.Errorf("on %v, over %v, known %v", on, over, known)
			}
		})
	}
}
