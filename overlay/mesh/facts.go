package mesh

import (
	"cmp"
	"errors"

	"farlan/overlay"
)

const (
	// MaxAgents is how many agents choose links together; larger networks are split
	// into areas. All their distances take 4 MB.
	MaxAgents = 1024
	// MaxRules is how many rules of an agent count; the rest is ignored.
	MaxRules = 64
	// MaxDemands is how many demands of an agent count; the rest is ignored.
	MaxDemands = 8
	// MaxLinks is how many links of an agent count, in the order of the agents; the rest
	// is ignored. Honest agents have fewer, preferred ones included.
	MaxLinks = 128
	// MaxCost is the most that a link costs, in µs: what costs more is taken for it.
	MaxCost = 10_000_000
)

// ErrTooMany is what NewView says of more than MaxAgents.
var ErrTooMany = errors.New("mesh: too many agents in one area")

// Facts are what all agents know: equal facts give equal views.
type Facts struct {
	// Network tells networks apart: hashes of equal agents differ between them.
	Network uint64
	// Own is how many links each agent chooses, the ring's included, 0: three. It has four
	// times as many at most, those of others included.
	Own int
	// Agents are all members, in ascending order of their ids.
	Agents []Agent
	// Links are those that are up, one for each pair.
	Links []Link
}

// An Agent is what one member says of itself.
type Agent struct {
	ID overlay.AgentID
	// NoTransit agents carry nothing for others.
	NoTransit bool
	// Cost is added to each link of the agent, in µs.
	Cost    int32
	Rules   []Rule
	Demands []Demand
}

// A Rule is an operator's wish for the link of an agent with another.
type Rule struct {
	Peer   int   // index into Facts.Agents
	Cost   int32 // added to the link's, in µs
	Prefer bool  // the link shall exist, whatever it is good for
	Forbid bool  // it must not; stronger than Prefer
}

// A Demand says how much of an agent's traffic goes to another.
type Demand struct {
	Peer   int   // index into Facts.Agents
	Weight int32 // the pair counts 1 + Weight times; at most as often as there are agents
}

// A Link joins two agents, both ways.
type Link struct {
	A, B int   // indices into Facts.Agents
	Cost int32 // of the delay class, in µs, as both ends agreed
	By   [2]Hold
}

// A Hold is what an end of a link says of it.
type Hold uint8

// The zero Hold is that of an end which only accepted the link.
const (
	Accepts Hold = iota
	Holds        // the link is one of its own
	Leaves       // it is, and will be given up in the next epoch
)

// leaving says whether nobody wants the link any more.
func (l *Link) leaving() bool {
	return l.By[0] != Holds && l.By[1] != Holds && (l.By[0] == Leaves || l.By[1] == Leaves)
}

// A pair is two agents' indices, the smaller first.
type pair [2]int

func pairOf(a, b int) pair { return pair{min(a, b), max(a, b)} }

// A ruling is what both ends' rules come to.
type ruling struct {
	cost           int32
	prefer, forbid bool
}

// ruleAll returns the rulings for all pairs that have rules.
func ruleAll(agents []Agent) map[pair]ruling {
	all := make(map[pair]ruling)
	for i := range agents {
		for _, r := range agents[i].Rules[:min(len(agents[i].Rules), MaxRules)] {
			if r.Peer < 0 || r.Peer >= len(agents) || r.Peer == i {
				continue
			}
			at := pairOf(i, r.Peer)
			old := all[at]
			all[at] = ruling{
				cost:   clamp(old.cost + clamp(r.Cost)),
				prefer: old.prefer || r.Prefer,
				forbid: old.forbid || r.Forbid,
			}
		}
	}
	return all
}

// clamp returns a cost that can be added to others without overflow.
func clamp(cost int32) int32 { return max(0, min(cost, MaxCost)) }

// mix is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable
// pseudorandom number generators", OOPSLA 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// keyOf returns an agent's hash in a network, from which all turns and orders follow.
func keyOf(network uint64, id overlay.AgentID) uint64 {
	h := mix(network)
	for i := 0; i < len(id); i += 8 {
		var word uint64
		for _, b := range id[i : i+8] {
			word = word<<8 | uint64(b)
		}
		h = mix(h ^ word)
	}
	return h
}

// byKey orders agents by their hashes, equal ones by their places in the facts.
func byKey(keys []uint64) func(a, b int) int {
	return func(a, b int) int { return cmp.Or(cmp.Compare(keys[a], keys[b]), cmp.Compare(a, b)) }
}
