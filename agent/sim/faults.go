package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"farlan/overlay"
)

// Faults is a set of things that go wrong.
type Faults uint16

// What can go wrong.
const (
	Loss      Faults = 1 << iota // a twentieth of all datagrams is lost: what goes by connections comes later
	Duplicate                    // a twentieth arrives twice
	Reorder                      // a fifth is up to 0.3 s late
	Partition                    // nothing passes between two parts of the network, or only one way
	Skew                         // clocks drift by up to 200 ppm, and jump
	Pause                        // agents stand still for up to 30 s
	Restart                      // agents begin anew with lost state
	Liar                         // members tell lies, until they are found out and set up anew
	Churn                        // agents leave and come, a hundredth in a minute
	Rebind                       // the NAT in front of an agent forgets it
)

var faultNames = [...]string{"loss", "duplicate", "reorder", "partition", "skew", "pause", "restart", "liar", "churn", "rebind"}

// All are all faults, None is none of them.
const (
	None Faults = 0
	All  Faults = 1<<len(faultNames) - 1
)

// String returns the names, with commas between them.
func (f Faults) String() string {
	if f == All || f == None {
		return map[Faults]string{All: "all", None: "none"}[f]
	}
	var names []string
	for i, name := range faultNames {
		if f>>i&1 != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// ParseFaults reads what String returns.
func ParseFaults(text string) (f Faults, err error) {
	switch text {
	case "all":
		return All, nil
	case "none", "":
		return None, nil
	}
	for name := range strings.SplitSeq(text, ",") {
		i := slices.Index(faultNames[:], strings.TrimSpace(name))
		if i < 0 {
			return None, fmt.Errorf("no fault is called %q; there are %s", name, strings.Join(faultNames[:], ", "))
		}
		f |= 1 << i
	}
	return f, nil
}

// A fault goes wrong from one instant to another.
type fault struct {
	what        Faults
	from, until overlay.Instant
	agent       int32
	offset      time.Duration // of a clock
	barrier     barrier
}

// Clocks jump by up to maxJump, which is less than what stores believe; one in a run is
// hours ahead for a while, which nobody believes.
const (
	maxJump  = 8 * time.Minute
	farAhead = 3 * time.Hour
)

// mostStruck is of how many agents' number the faults are that strike single agents, but for
// churn: of more, each would be struck so seldom alone that records of faults were all there is.
const mostStruck = 200

// conspire draws the faults of the whole run, and pushes their events.
func (s *Sim) conspire() {
	if s.set.Trouble == 0 {
		return
	}
	begin := beginning.Add(s.set.Calm)
	end := begin.Add(s.set.Trouble)
	n := uint64(s.set.Agents)
	struck := min(n, mostStruck)
	add := func(what Faults, times uint64, longest time.Duration, edit func(*fault)) {
		for range times {
			if s.set.Faults&what == 0 {
				return
			}
			f := fault{what: what, from: begin.Add(time.Duration(s.draw(uint64(s.set.Trouble * 9 / 10)))), agent: int32(s.draw(n))}
			f.until = min(f.from.Add(time.Duration(s.draw(uint64(longest)))), end)
			if edit != nil {
				edit(&f)
			}
			s.plan = append(s.plan, f)
		}
	}
	whole := func(f *fault) { f.from, f.until = begin, end }
	minutes := uint64(s.set.Trouble / time.Minute)
	add(Loss, 1, time.Second, whole)
	add(Duplicate, 1, time.Second, whole)
	add(Reorder, 1, time.Second, whole)
	add(Partition, 1, time.Minute, func(f *fault) { f.barrier = cmp.Or(barrier(s.draw(3)), closed) })
	add(Skew, 1+struck/10, time.Hour, func(f *fault) { f.offset = time.Duration(s.draw(uint64(2*maxJump))) - maxJump })
	add(Skew, 1, time.Minute, func(f *fault) { f.offset = farAhead })
	add(Pause, 1+struck/5, 30*time.Second, nil)
	add(Restart, 1+struck/10, 10*time.Second, nil)
	add(Liar, 1+struck/50, time.Second, whole)
	add(Churn, 1+n*minutes/100, 50*time.Second, nil)
	add(Rebind, 1+struck/10, 8*time.Second, nil)
	for i, f := range s.plan {
		s.push(event{at: f.from, what: strikes, to: f.agent, id: uint64(2 * i)})
		s.push(event{at: f.until, what: strikes, to: f.agent, id: uint64(2*i + 1)})
	}
}

// strike begins or ends a fault.
func (s *Sim) strike(e event) {
	f, ends := &s.plan[e.id/2], e.id&1 != 0
	a := s.agents[f.agent]
	switch f.what {
	case Loss, Duplicate, Reorder:
		s.faults |= f.what
		if ends {
			s.faults &^= f.what
		}
	case Partition:
		s.world.barrier = f.barrier
		if ends {
			s.world.barrier = open
			return
		}
		for i := range s.world.side {
			s.world.side[i] = uint8(s.draw(2))
		}
	case Skew:
		a.clock.offset = f.offset
		if ends {
			a.clock.offset = 0
		}
	case Pause:
		a.awake = max(a.awake, f.until)
	case Restart, Churn:
		if !ends {
			a.stop()
		} else if !a.runs() {
			a.start()
		}
	case Liar:
		if a.lying = f.until; !ends {
			s.push(event{at: s.now, what: lies, to: a.n})
		} else if a.runs() { // found out, and set up anew
			a.stop()
			a.start()
		}
	case Rebind:
		s.world.deaf[a.n] = f.until
		if ends {
			a.port++
		}
	}
}
