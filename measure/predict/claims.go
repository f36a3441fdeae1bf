package predict

import (
	"math"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// maxClaims bounds a slot's row: at it the oldest claim gives way to a new one.
	maxClaims = 64
	// claimLife is how long a claim counts that isn't made again.
	claimLife = 30 * time.Minute
	// agreement is how far apart, as a factor's logarithm, two ends' claims of one
	// pair are when each counts half.
	agreement = 0.25
)

// A claim is what a slot says of its path to another.
type claim struct {
	to    int
	log   float64 // of the value
	at    overlay.Instant
	bound bool // the value is at least so much
}

// claims are the rows of all slots, each in order of the other end.
type claims [][]claim

func (c claims) clone() claims { return cloneRows(c) }

// find returns where the claim of from about to is, or belongs.
func (c claims) find(from, to int) (int, bool) {
	row := c[from]
	low, high := 0, len(row)
	for low < high {
		if mid := (low + high) / 2; row[mid].to < to {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low, low < len(row) && row[low].to == to
}

// put replaces or adds a claim and returns by how much it differs from the former
// one, 1 if there was none.
func (c claims) put(from int, x claim) float64 {
	i, ok := c.find(from, x.to)
	if ok {
		change := math.Abs(c[from][i].log - x.log)
		c[from][i] = x
		return change
	}
	if len(c[from]) >= maxClaims {
		oldest := 0
		for k := range c[from] {
			if c[from][k].at < c[from][oldest].at {
				oldest = k
			}
		}
		c[from] = slices.Delete(c[from], oldest, oldest+1)
		i, _ = c.find(from, x.to)
	}
	c[from] = slices.Insert(c[from], i, x)
	return 1
}

// drop forgets what from claims of to.
func (c claims) drop(from, to int) bool {
	i, ok := c.find(from, to)
	if ok {
		c[from] = slices.Delete(c[from], i, i+1)
	}
	return ok
}

// expire forgets the claims of a slot that are too old and says whether there were any.
func (c claims) expire(from int, now overlay.Instant) bool {
	n := len(c[from])
	c[from] = slices.DeleteFunc(c[from], func(x claim) bool { return now.Sub(x.at) > claimLife })
	return len(c[from]) < n
}

// reset forgets all that a slot claims and all that others claim of it.
func (c claims) reset(slot int) {
	c[slot] = nil
	for from := range c {
		c.drop(from, slot)
	}
}

// accord returns the weight of a slot's claim: 1 unless the other end says
// something else of the same pair, then the less the further apart they are.
func (c claims) accord(from int, x claim) float64 {
	k, ok := c.find(x.to, from)
	if !ok {
		return 1
	}
	d := (c[x.to][k].log - x.log) / agreement
	return 1 / (1 + d*d)
}

// pair returns what is claimed of a pair by either end, and whether anything is.
// What two ends contradict each other in is not known.
func (c claims) pair(i, j int) (log float64, ok bool) {
	a, one := c.find(i, j)
	b, other := c.find(j, i)
	switch {
	case one && other:
		x, y := c[i][a].log, c[j][b].log
		return (x + y) / 2, math.Abs(x-y) < agreement
	case one:
		return c[i][a].log, true
	case other:
		return c[j][b].log, true
	}
	return 0, false
}
