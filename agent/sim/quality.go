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

// Course runs a setting for so many epochs.
func (s *Sim) Course(epochs int) (all []Epoch) {
	was, gone := make(map[[2]int32]bool), make(map[[2]int32]int)
	for epoch := range epochs {
		bytes, told := s.bytes, s.told
		// Just before agents decide anew.
		s.Run((s.now.Sub(beginning)/decide.Epoch+1)*decide.Epoch + decide.Epoch - time.Millisecond)
		e := Epoch{Told: s.told - told, Bytes: float64(s.bytes-bytes) / decide.Epoch.Seconds() / float64(len(s.agents))}
		is := make(map[[2]int32]bool)
		for _, l := range s.linked() {
			is[l] = true
			if since, ok := gone[l]; !was[l] && ok && epoch-since < dwell {
				e.Again++
			}
			if !was[l] {
				e.Made++
			}
		}
		degree := make([]int, len(s.agents))
		for l := range was {
			if !is[l] {
				gone[l] = epoch
			}
		}
		for l := range is {
			degree[l[0]]++
			degree[l[1]]++
		}
		e.Degree = slices.Max(degree)
		was, e.Links, e.Pieces, e.Quality, e.Same = is, len(is), s.pieces(), s.Quality(), s.Same()
		all = append(all, e)
	}
	return all
}
