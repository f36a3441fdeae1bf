package agent

import (
	"time"

	"farlan/overlay"
)

// A predictor says what pairs are like that nobody measured. ok is false if it can't
// tell. The node's loop alone uses it.
type predictor interface {
	// RTT returns a round trip, and by which part of it it may be wrong.
	RTT(from, to overlay.AgentID) (rtt time.Duration, relErr float64, ok bool)
	// Capacity returns the rate of an idle path, in bits of IP packets a second.
	Capacity(from, to overlay.AgentID) (rate int64, relErr float64, ok bool)
}
