package sim

import (
	"math"
	"time"

	"farlan/overlay"
)

// A world is what lies between agents: how far they are from each other, and what
// the faults of the moment do to what they send.
type world struct {
	rtt   []int32 // µs, from each to each; 0: no datagrams pass
	n     int
	spots []spot // instead, if rtt is nil

	side    []uint8 // of a partition, one bit each; by agent
	barrier barrier
	deaf    []overlay.Instant     // until when nothing reaches an agent from outside
	cut     func(a, b int32) bool // between whom nothing passes; nil: nobody
}

// A spot is where an agent of a made-up world is: µs east and north, and how far it is
// from the core of the network.
type spot struct{ x, y, access int64 }

// A barrier says what doesn't pass between the sides of a partition.
type barrier uint8

const (
	open   barrier = iota
	oneWay         // nothing from side 1 to side 0
	closed         // nothing
)

// newWorld makes up a world of agents: towns that are up to 150 ms of round trip apart, in
// which agents have 0.2 to 12 ms to the core, and one pair in eight goes round by as much
// again or twice.
func newWorld(n int, draw func(uint64) uint64) *world {
	w := &world{n: n, side: make([]uint8, n), deaf: make([]overlay.Instant, n)}
	towns := make([]spot, 2+n/12)
	for i := range towns {
		towns[i] = spot{x: int64(draw(75_000)), y: int64(draw(50_000))}
	}
	for range n {
		t := towns[draw(uint64(len(towns)))]
		s := spot{t.x + int64(draw(3000)), t.y + int64(draw(3000)), 100 + int64(draw(1000))}
		if draw(4) == 0 {
			s.access += int64(draw(5000))
		}
		w.spots = append(w.spots, s)
	}
	return w
}

// micros returns the round trip between two agents, in µs; 0 if there is none.
func (w *world) micros(a, b int32) int32 {
	if w.rtt != nil {
		return w.rtt[int(a)*w.n+int(b)]
	}
	s, t := w.spots[a], w.spots[b]
	dx, dy := s.x-t.x, s.y-t.y
	way := int64(math.Sqrt(float64(dx*dx + dy*dy))) // of an integer, so the same everywhere
	switch h := mix(uint64(min(a, b))<<32|uint64(max(a, b)), 1) % 16; h {
	case 0:
		way *= 3
	case 1:
		way *= 2
	}
	return int32(2 * (way + s.access + t.access))
}

// delay is how long a message is under way.
func (w *world) delay(from, to int32) time.Duration {
	return time.Duration(w.micros(from, to)) * time.Microsecond / 2
}

// passes says whether datagrams pass from one agent to another now.
func (w *world) passes(now overlay.Instant, from, to int32) bool {
	if w.cut != nil && w.cut(from, to) {
		return false
	}
	if from == to || w.rtt != nil && w.micros(from, to) == 0 || now < w.deaf[to] {
		return false
	}
	switch w.barrier {
	case oneWay:
		return w.side[from] <= w.side[to]
	case closed:
		return w.side[from] == w.side[to]
	}
	return true
}

// mix returns a hash of two numbers (the finaliser of SplitMix64).
func mix(a, b uint64) uint64 {
	x := a + b*0x9e3779b97f4a7c15 + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
