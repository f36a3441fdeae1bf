package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"farlan/overlay"
)

// DefaultQueue is how long a packet may wait for a path's rate unless it is
// said otherwise: one round trip of the default lab, so that one TCP
// connection fills the path, and short enough that a full queue still looks
// like a network and not like an outage.
const DefaultQueue = 50 * time.Millisecond

// A Shape is what the wide area does to packets from one site to another.
type Shape struct {
	Delay   time.Duration `json:"delay"`   // one way
	Jitter  time.Duration `json:"jitter"`  // each packet's delay is uniform within Delay ± Jitter
	Rate    Rate          `json:"rate"`    // of IP packets
	Loss    Loss          `json:"loss"`    // each packet's, independent
	Queue   Queue         `json:"queue"`   // what may wait for Rate; more is dropped at the tail
	MTU     int           `json:"mtu"`     // longer packets vanish, as in a path MTU black hole; 0: no limit
	Reorder bool          `json:"reorder"` // jitter may change the packets' order
	Cut     bool          `json:"cut"`     // nothing passes; what is on its way still arrives
}

// Validate reports every value that can't be.
func (s Shape) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(s.Delay >= 0 && s.Delay <= maxDelay, "delay %v is not within 0 to %v", s.Delay, maxDelay)
	check(s.Jitter >= 0 && s.Jitter <= s.Delay, "jitter %v is not within 0 and the delay %v", s.Jitter, s.Delay)
	check(s.MTU == 0 || s.MTU >= 68 && s.MTU <= maxPacket, "MTU %d is not within 68 to %d", s.MTU, maxPacket)
	check(s.Queue.Time > 0 || s.Queue.Bytes > 0, "the queue has no size")
	return errors.Join(errs...)
}

// maxDelay is a path to the moon and back; longer ones are typing errors.
const maxDelay = 5 * time.Second

// A Drop says why a packet doesn't arrive.
type Drop int

// The reasons; Kept is no reason.
const (
	Kept     Drop = iota
	DropCut       // the path is cut
	DropMTU       // longer than the path's MTU
	DropFull      // no room in the path's queue
	DropLoss      // lost by chance
	DropHold      // the emulator holds as much as it may
	drops
)

// A Path carries packets from one site to another. It decides only, by the
// instants and the random source that it is given.
type Path struct {
	Shape
	Packets, Bytes uint64        // that arrived, or will; a NAT may stand behind the path
	Dropped        [drops]uint64 // by reason

	free overlay.Instant // when the wire has sent what is queued
	last overlay.Instant // when the newest packet arrives
}

// Decide takes a packet of size bytes at now and returns when it arrives, or
// why it doesn't. A packet lost by chance has used the wire, one that finds no
// room has not.
func (p *Path) Decide(now overlay.Instant, size int, rnd *rand.Rand) (overlay.Instant, Drop) {
	at, drop := p.decide(now, size, rnd)
	if drop != Kept {
		p.Dropped[drop]++
		return 0, drop
	}
	p.Packets++
	p.Bytes += uint64(size)
	return at, Kept
}

func (p *Path) decide(now overlay.Instant, size int, rnd *rand.Rand) (overlay.Instant, Drop) {
	switch {
	case p.Cut:
		return 0, DropCut
	case p.MTU > 0 && size > p.MTU:
		return 0, DropMTU
	case p.Rate > 0 && p.free.Sub(now) > p.Queue.limit(p.Rate):
		return 0, DropFull
	}
	p.free = max(p.free, now).Add(p.Rate.onWire(size))
	if p.Loss > 0 && rnd.Int64N(1e6) < int64(p.Loss) {
		return 0, DropLoss
	}
	at := p.free.Add(p.Delay)
	if p.Jitter > 0 {
		at = at.Add(time.Duration(rnd.Int64N(int64(2*p.Jitter)+1)) - p.Jitter)
	}
	if !p.Reorder {
		at = max(at, p.last)
	}
	p.last = at
	return at, Kept
}

// refuse counts a packet that the emulator could not hold.
func (p *Path) refuse() { p.Dropped[DropHold]++ }

// A Change is what to alter about a path; nil keeps what is.
type Change struct {
	Delay   *time.Duration `json:"delay,omitempty"`
	Jitter  *time.Duration `json:"jitter,omitempty"`
	Rate    *Rate          `json:"rate,omitempty"`
	Loss    *Loss          `json:"loss,omitempty"`
	Queue   *Queue         `json:"queue,omitempty"`
	MTU     *int           `json:"mtu,omitempty"`
	Reorder *bool          `json:"reorder,omitempty"`
	Cut     *bool          `json:"cut,omitempty"`

	// Seed starts the path's chance anew: from here on it does to its packets what
	// it did to as many after the same seed before.
	Seed *uint64 `json:"seed,omitempty"`
}

// apply returns s with the change made, or why it can't be.
func (c Change) apply(s Shape) (Shape, error) {
	set(&s.Delay, c.Delay)
	set(&s.Jitter, c.Jitter)
	set(&s.Rate, c.Rate)
	set(&s.Loss, c.Loss)
	set(&s.Queue, c.Queue)
	set(&s.MTU, c.MTU)
	set(&s.Reorder, c.Reorder)
	set(&s.Cut, c.Cut)
	return s, s.Validate()
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}
