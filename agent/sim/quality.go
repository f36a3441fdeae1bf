package sim

import (
	"fmt"
	"slices"
	"time"

	"farlan/agent/decide"
	"farlan/overlay/mesh"
)

// An Epoch is what an epoch of a cold start came to.
type Epoch struct {
	Quality float64 // see Sim.Quality
	Links   int
	Made    int // links that weren't there an epoch before
	Again   int // those of them that were there less than a dwell ago
	Degree  int // links of the agent that has most
	Pieces  int
	Bytes   float64 // an agent and second, headers included
	Told    uint64  // records of links
	Same    bool    // all had the same records at its end
	Moves   []Move  // the links that were made, and those that went
	Movers  int     // agents that chose links which were made
}

// A Move is a link that was made or went.
type Move struct {
	A, B int32 // the agent that wished it comes first
	Made bool
	Why  mesh.Reason // of who wished it; 0: nobody holds it any more
	Gain int64       // what was expected of it, see decide.Kept
}

// String returns it as people read it.
func (m Move) String() string {
	if m.Made {
		return fmt.Sprintf("+%d–%d %v %d", m.A, m.B, m.Why, m.Gain)
	}
	return fmt.Sprintf("-%d–%d", m.A, m.B)
}

// dwell is for how many epochs mesh doesn't make a link anew that it gave up.
const dwell = 6

// A Course follows how a simulation comes to rest, epoch by epoch.
type Course struct {
	*Sim
	epoch int
	was   map[[2]int32]bool
	gone  map[[2]int32]int // in which epoch a link went
}

// NewCourse returns the course of a simulation at its beginning.
func NewCourse(set Setting) *Course {
	return &Course{Sim: New(set), gone: make(map[[2]int32]int)}
}

// Next goes on for an epoch.
func (c *Course) Next() Epoch {
	c.epoch++
	bytes, told := c.bytes, c.told
	c.Run(time.Duration(c.epoch+1)*decide.Epoch - time.Millisecond) // just before agents decide anew
	e := Epoch{Told: c.told - told, Bytes: float64(c.bytes-bytes) / decide.Epoch.Seconds() / float64(len(c.agents))}
	is, degree := make(map[[2]int32]bool), make([]int, len(c.agents))
	for _, l := range c.linked() {
		is[l] = true
		degree[l[0]]++
		degree[l[1]]++
		if c.was[l] {
			continue
		}
		e.Made++
		e.Moves = append(e.Moves, c.wished(l))
		if since, ok := c.gone[l]; ok && c.epoch-since < dwell {
			e.Again++
		}
	}
	for l := range c.was {
		if !is[l] {
			c.gone[l] = c.epoch
			e.Moves = append(e.Moves, Move{A: l[0], B: l[1]})
		}
	}
	c.was, e.Movers = is, movers(e.Moves)
	e.Links, e.Degree, e.Pieces, e.Quality, e.Same = len(is), slices.Max(degree), c.pieces(), c.Quality(), c.Same()
	return e
}

// movers returns how many agents chose links that were made.
func movers(moves []Move) int {
	who := make(map[int32]bool)
	for _, m := range moves {
		if m.Made && m.Why == mesh.Gain {
			who[m.A] = true
		}
	}
	return len(who)
}

// wished returns who wished a link that was made, and why.
func (c *Course) wished(l [2]int32) Move {
	for _, end := range [2][2]int32{l, {l[1], l[0]}} {
		for _, k := range c.agents[end[0]].meshing.links.Kept() {
			if k.Peer == c.agents[end[1]].id && k.Why != 0 {
				return Move{A: end[0], B: end[1], Made: true, Why: k.Why, Gain: k.Gain}
			}
		}
	}
	return Move{A: l[0], B: l[1], Made: true}
}
