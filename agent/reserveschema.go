package agent

import "time"

type reserveView struct {
	Schema       int               `json:"schema_version"`
	Reservations []reservationView `json:"reservations"` // a segment each: first those of this agent's reservations, the oldest first
}

// reservationView is one segment: of a reservation that this agent coordinates, or one that it
// serves for another agent.
type reservationView struct {
	ID       string              `json:"id"`        // the reservation's, 32 digits; all its segments have it
	State    string              `json:"state"`     // of the reservation, or of the segment if another agent coordinates
	Kind     *string             `json:"kind"`      // guarantee, circuit, priority; null: nothing is granted yet
	Driver   *string             `json:"driver"`    // null: another agent's
	Segment  reservedSegmentView `json:"segment"`   // from an agent to the next one
	RateMbit *float64            `json:"rate_mbit"` // inner Ethernet bits that are granted, or asked for
	UsedMbit *float64            `json:"used_mbit"` // null: nothing, or it isn't known here
	Start    *time.Time          `json:"start"`     // null: another agent's
	End      *time.Time          `json:"end"`       // of the lease that runs
	Owner    string              `json:"owner"`
	Reason   string              `json:"reason"`

	Coordinator *string           `json:"coordinator"` // agent; null: nobody knows whose it is, and it is given back
	Flow        *reservedFlowView `json:"flow"`        // null: it isn't known
	Declared    bool              `json:"declared"`    // by an owner; false: the agents saw that it was needed
	Until       *time.Time        `json:"until"`       // to when its owner wants it, and it is renewed; null: as long as it is needed, or another agent knows
	FreeMbit    *float64          `json:"free_mbit"`   // what could have been had instead, if there wasn't enough; null: nothing, or it isn't known
}

type reservedSegmentView struct {
	From   *string `json:"from"`   // agent
	To     *string `json:"to"`     // agent
	Number int     `json:"number"` // counted from the sender
	State  string  `json:"state"`
}

// reservedFlowView is the frames that a reservation is for.
type reservedFlowView struct {
	From   string  `json:"from"`   // agent
	To     string  `json:"to"`     // agent
	Source *string `json:"source"` // station's MAC address; null: all
	Dest   *string `json:"dest"`
}

// reservedWhyView says why a flow has a reservation, or none.
type reservedWhyView struct {
	Flow reservedFlowView `json:"flow"`
	Why  string           `json:"why"`
}

// reservedCountView is how many reservations there are, by their state.
type reservedCountView struct {
	States map[string]int `json:"states"` // that this agent coordinates, without those that are over
	Served int            `json:"served"` // segments here of others' reservations
}

// requestView is the answer to a request: what becomes of it is asked by its id.
type requestView struct {
	Schema int    `json:"schema_version"`
	ID     string `json:"id"`
	Hint   string `json:"hint"` // what to do if there isn't enough; "" if nothing better is known
}
