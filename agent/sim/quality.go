package sim

import (
	"slices"
	"time"

	"farlan/agent/decide"
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
		if since, ok := c.gone[l]; ok && c.epoch-since < dwell {
			e.Again++
		}
	}
	for l := range c.was {
		if !is[l] {
			c.gone[l] = c.epoch
		}
	}
	c.was = is
	e.Links, e.Degree, e.Pieces, e.Quality, e.Same = len(is), slices.Max(degree), c.pieces(), c.Quality(), c.Same()
	return e
}
