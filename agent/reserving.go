package agent

import (
	"farlan/overlay"
	"farlan/reserve"
)

// A reserving is what the loop knows of reservations.
type reserving struct {
	broker   *reserve.Broker // nil: nothing is reserved here
	problems []reserveProblem
}

// A reserveProblem is a driver that couldn't be opened, why, and what to do about it.
type reserveProblem struct{ driver, text, fix string }

// requestReservation asks for a reservation. It is for the loop.
func (n *node) requestReservation(now overlay.Instant, q reserve.Request) ([16]byte, error) {
	return n.reserving.broker.Request(now, q)
}

// releaseReservation gives one back. It is for the loop.
func (n *node) releaseReservation(now overlay.Instant, id [16]byte) error {
	return n.reserving.broker.Release(now, id)
}
