package sim

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/mesh"
)

// What agents' stations send to each other decides on links, too. Who talks with whom is
// made up for each epoch: rates of pairs differ by much, wander, swell and ebb in two
// days, jump for single epochs, and now and then an agent talks with others than before.
// Agents know of it what real ones know: their own meters, and what the others tell.

const (
	talkMedian = 20e6 // bits a second of a pair in one direction
	talkSpread = 1.6  // standard deviation of its logarithm
	talkTide   = 288  // epochs in which rates swell and ebb
	talkJump   = 400  // one of so many rates is five times as high for an epoch
	talkTurn   = 2500 // in one of so many epochs an agent talks with others
	// What an agent tells at most, as agent/flows.go does; and whom it measures for a link.
	talkTold, talkLeast = 32, 50_000
	busyRate, busiest   = 1_000_000, 8
)

// talk is how much agents send to each other.
type talk struct {
	rand        *rand.Rand
	step, turns int
	base, drift [][]float64
	rates       [][]int64 // bits a second, from each to each
	told        []discovery.TrafficTelling
	version     []uint64  // of the record
	sent, got   [][]int64 // what agents measure that they send and get: agent/meter.go
}

func newTalk(seed uint64, agents int) *talk {
	x := &talk{rand: rand.New(rand.NewPCG(seed, 9)), told: make([]discovery.TrafficTelling, agents), version: make([]uint64, agents)}
	for range agents {
		x.base, x.drift = append(x.base, make([]float64, agents)), append(x.drift, make([]float64, agents))
		x.rates = append(x.rates, make([]int64, agents))
		x.sent, x.got = append(x.sent, make([]int64, agents)), append(x.got, make([]int64, agents))
	}
	for i := range agents {
		x.turn(i)
	}
	x.next()
	return x
}

// turn lets an agent talk with others: much with a few, little with most.
func (x *talk) turn(i int) {
	for j := range x.base[i] {
		x.base[i][j] = talkMedian * math.Exp(talkSpread*x.rand.NormFloat64())
	}
	x.turns++
}

// next goes on to the next epoch.
func (x *talk) next() {
	tide := 1 + 0.5*math.Sin(2*math.Pi*float64(x.step)/talkTide)
	for i := range x.base {
		if x.step > 0 && x.rand.IntN(talkTurn) == 0 {
			x.turn(i)
		}
		for j := range x.base {
			x.drift[i][j] = 0.9*x.drift[i][j] + 0.06*x.rand.NormFloat64()
			rate := x.base[i][j] * math.Exp(x.drift[i][j]) * tide
			if x.rand.IntN(talkJump) == 0 {
				rate *= 5
			}
			if x.rates[i][j] = int64(rate); i == j {
				x.rates[i][j] = 0
			}
		}
	}
	x.step++
}

// pair returns what goes to and fro between two agents, bits a second.
func (x *talk) pair(i, j int32) int64 { return x.rates[i][j] + x.rates[j][i] }

// talks begins an epoch of talk.
func (s *Sim) talks(e event) {
	s.talk.next()
	e.at = e.at.Add(decide.Epoch)
	s.push(e)
}

// hear is a second of an agent's meters, and it tells what they show if that is news.
func (a *agent) hear() {
	x := a.talk
	if x == nil {
		return
	}
	var t discovery.Traffic
	for n, rate := range x.rates[a.n] {
		sent, got := &x.sent[a.n][n], &x.got[a.n][n]
		*sent, *got = (*sent+rate)/2, (*got+x.rates[n][a.n])/2
		if *sent >= talkLeast && a.agents[n].runs() {
			t.Sums = append(t.Sums, discovery.Sum{Agent: discovery.BriefOf(a.agents[n].id), Rate: *sent})
		}
	}
	slices.SortFunc(t.Sums, func(p, q discovery.Sum) int {
		return cmp.Or(cmp.Compare(q.Rate, p.Rate), cmp.Compare(p.Agent, q.Agent))
	})
	t.Sums = t.Sums[:min(len(t.Sums), talkTold)]
	for _, s := range t.Sums { // one station behind each agent
		t.Flows = append(t.Flows, discovery.Flow{From: station(discovery.BriefOf(a.id)), To: station(s.Agent), Agent: s.Agent, Rate: s.Rate})
	}
	k, now, agents := &x.told[a.n], a.steady(), len(a.control.members)
	if !k.Due(now, t, agents) {
		return
	}
	body, err := t.Append(nil)
	if err != nil {
		panic(err)
	}
	x.version[a.n] = a.publish(discovery.KindTraffic, body)
	k.Tell(now, t, agents)
}

func station(b discovery.Brief) overlay.MAC {
	return overlay.MAC{2, byte(b >> 56), byte(b >> 48), byte(b >> 40), byte(b >> 32), byte(b >> 24)}
}

// traded returns what goes between an agent and others, the most first, and with whom it is so much that a link is worth being measured: as
// agent/linking.go does.
func (a *agent) traded() (all []mesh.Rate, busy []overlay.AgentID) {
	if a.talk == nil {
		return nil, nil
	}
	for n, b := range a.agents {
		rate := a.talk.sent[a.n][n] + a.talk.got[a.n][n]
		if kbit := rate / 1000; kbit > 0 && n != int(a.n) {
			all = append(all, mesh.Rate{Peer: b.id, Kbit: kbit})
		}
	}
	slices.SortFunc(all, func(p, q mesh.Rate) int { return cmp.Or(cmp.Compare(q.Kbit, p.Kbit), p.Peer.Compare(q.Peer)) })
	for _, r := range all[:min(len(all), busiest)] {
		if r.Kbit >= busyRate/1000 {
			busy = append(busy, r.Peer)
		}
	}
	return all, busy
}

// A Tally is how links follow the talk of some time.
type Tally struct {
	Steps, Changes, Flaps int     // links that came or went for it; those that came back, or went again, soon
	Direct                float64 // share of what pairs send that have a link, or a way that is far shorter
	Oracle                float64 // the same if each agent's busiest peers were known before each epoch
	Turns                 int     // agents that talked with others from one epoch to the next
}

// String returns it as people read it.
func (t Tally) String() string {
	return fmt.Sprintf("%d epochs, %d agents talked with others: %.3f changes an epoch, %.1f %% of them flaps; %.1f %% of the traffic direct or better, %.1f %% of what is by the oracle's links",
		t.Steps, t.Turns, float64(t.Changes)/float64(t.Steps), 100*float64(t.Flaps)/float64(max(1, t.Changes)), 100*t.Direct, 100*t.Direct/t.Oracle)
}

// add adds one of so many tallies of as many epochs.
func (t *Tally) add(x Tally, of int) {
	t.Steps, t.Changes, t.Flaps, t.Turns = t.Steps+x.Steps, t.Changes+x.Changes, t.Flaps+x.Flaps, t.Turns+x.Turns
	t.Direct, t.Oracle = t.Direct+x.Direct/float64(of), t.Oracle+x.Oracle/float64(of)
}

const (
	oracleLinks = 2  // that an agent has for its traffic: as mesh has
	flapSoon    = 50 // epochs
)

// Follow runs for so many epochs of talk, and tallies.
func (s *Sim) Follow(steps int) (t Tally) {
	was, changed := s.busyLinks(), make(map[[2]int32]int)
	turn := func(p [2]int32, step int) {
		if at, ok := changed[p]; ok && step-at < flapSoon {
			t.Flaps++
		}
		changed[p] = step
		t.Changes++
	}
	turns, all := s.talk.turns, 0.0
	for step := range steps {
		s.Run(s.now.Sub(beginning) + decide.Epoch)
		is := s.busyLinks()
		for p, busy := range is {
			if _, there := was[p]; busy && !there {
				turn(p, step)
			}
		}
		for p, busy := range was {
			if _, there := is[p]; busy && !there {
				turn(p, step)
			}
		}
		was = is
		direct, oracle, sum := s.carried()
		t.Direct, t.Oracle, all = t.Direct+direct, t.Oracle+oracle, all+sum
	}
	t.Steps, t.Turns = steps, s.talk.turns-turns
	t.Direct, t.Oracle = t.Direct/all, t.Oracle/all
	return t
}

// busyLinks returns the links that agents keep, and which exist for traffic.
func (s *Sim) busyLinks() map[[2]int32]bool {
	all := make(map[[2]int32]bool)
	for _, a := range s.agents {
		if !a.runs() {
			continue
		}
		for _, k := range a.meshing.links.Kept() {
			n := s.index[k.Peer]
			p := [2]int32{min(a.n, n), max(a.n, n)}
			all[p] = all[p] || k.Why == mesh.Traffic
		}
	}
	return all
}

// carried returns how much of what is sent now goes by links, or by a way over others that
// takes two thirds of a link's time or less; how much would if agents had links with their
// busiest peers instead of those that they have for traffic; and all of it.
func (s *Sim) carried() (direct, oracle, sum float64) {
	n := len(s.agents)
	linked, wanted := make([]bool, n*n), make([]bool, n*n)
	forTalk := s.busyLinks()
	for _, l := range s.linked() {
		linked[int(l[0])*n+int(l[1])], linked[int(l[1])*n+int(l[0])] = true, true
		if !forTalk[l] {
			wanted[int(l[0])*n+int(l[1])], wanted[int(l[1])*n+int(l[0])] = true, true
		}
	}
	for i := range s.agents {
		peers := make([]int32, 0, n)
		for j := range s.agents {
			if i != j && s.world.micros(int32(i), int32(j)) > 0 {
				peers = append(peers, int32(j))
			}
		}
		slices.SortFunc(peers, func(p, q int32) int { return cmp.Compare(s.talk.pair(int32(i), q), s.talk.pair(int32(i), p)) })
		for _, j := range peers[:min(len(peers), oracleLinks)] {
			wanted[i*n+int(j)], wanted[int(j)*n+i] = true, true
		}
	}
	for i, a := range s.agents {
		c := a.chart()
		for j := range i {
			rate := float64(s.talk.pair(int32(i), int32(j)))
			p := s.path(c, int32(i), int32(j))
			better := p != nil && 3*(s.length(p)+int64(len(p)-1)*1000) <= 2*int64(s.world.micros(int32(i), int32(j))+1000)
			sum += rate
			if linked[i*n+j] || better {
				direct += rate
			}
			if wanted[i*n+j] || better {
				oracle += rate
			}
		}
	}
	return direct, oracle, sum
}
