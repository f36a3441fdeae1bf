package measure

import (
	"time"

	"farlan/overlay"
)

// A Source says how a figure of the peer map is known.
type Source uint8

// The sources.
const (
	Unknown    Source = iota
	Measured          // a time: by probes and by frames
	Passive           // a rate: by the frames that were sent anyway
	Train             // a rate: by a train of packets that was sent to find out
	Predicted         // by what others measured of other pairs
	Configured        // an agent's own rate: its owner says so
)

// String returns the source's name in the command line's output.
func (s Source) String() string {
	return [...]string{"none", "measured", "passive", "train", "predicted", "configured"}[s]
}

// A Pair is what is known of the path from one agent to another, as the peer map
// tells it. What isn't known has the source Unknown, or is zero where it has none.
// Rates are bits of underlay IP packets a second.
type Pair struct {
	RTT       time.Duration // minimum of the last 10 s
	Floor     time.Duration // minimum of the last 5 min
	Smoothed  time.Duration // α = 1/8
	Jitter    time.Duration // RFC 3550 § 6.4.1
	Queue     time.Duration // how much longer than at its emptiest the way there takes now
	QueueBack time.Duration // the same of the way back
	RTTAt     overlay.Instant
	RTTSource Source

	Loss, LossLow, LossHigh float64 // of what is sent, in the last 60 s; the 95 % interval
	LossKnown               bool

	Capacity, CapacityLow, CapacityHigh int64 // of an idle path; the 95 % interval, High 0 unknown
	CapacityBound                       bool  // it is at least so much
	CapacityAt                          overlay.Instant
	CapacitySource                      Source
	Available                           int64 // what a sender can achieve now, 0 unknown
	AvailableBound                      bool  // and more: what is sent now doesn't wait

	MTU int // of IP packets, 0 unknown

	// Relayed says that datagrams go by way of a member: what is known is of that way,
	// nothing of the path between the two.
	Relayed bool
}
