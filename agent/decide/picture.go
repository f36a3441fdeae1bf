package decide

import (
	"encoding/binary"
	"hash/fnv"
	"slices"
	"time"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/mesh"
	"farlan/overlay/route"
)

const (
	// Epoch is how often agents decide on their links.
	Epoch = 10 * time.Second
	// absentAfter is how long a member of whom nobody says that he is linked is waited
	// for after he spoke last. Who has no link speaks more often: see Links.Alone.
	absentAfter = 3 * time.Minute
)

// EpochOf returns the epoch of a time by the wall clock.
func EpochOf(wall overlay.Instant) int64 { return int64(max(wall, 0)) / int64(Epoch) }

// All returns what a store knows of all members that haven't left, ascending by id. Of
// who told nothing of links yet At is when he told of himself.
func All(s *discovery.Store) []Told {
	ids := s.Origins()
	all := make([]Told, 0, len(ids))
	for _, id := range ids {
		r, ok := s.Record(id, discovery.KindMember)
		if m, _ := s.Member(id); !ok || m.Left {
			continue
		}
		t := Told{ID: id, At: overlay.Instant(r.Version)}
		if l, at, ok := s.Told(id); ok {
			t.Links, t.At = l, max(t.At, at)
		}
		all = append(all, t)
	}
	return all
}

// A Picture is what an agent sees of the links of all in an epoch, and what follows from
// it. Agents with the same records have equal pictures and may share one, but not
// concurrently.
type Picture struct {
	Facts mesh.Facts
	View  *mesh.View

	crowd       int               // how many there are, if it doesn't show all; else 0
	divided     []uint32          // see divide
	were, gates []overlay.AgentID // see Gateways
}

// NewPicture draws the picture of an epoch from what members tell, ascending by id. A
// member is in it while he is linked with others, and for a while after he told something:
// see present. It fails with mesh.ErrTooMany.
func NewPicture(network uint64, epoch int64, self overlay.AgentID, told []Told) (*Picture, error) {
	return newPicture(mesh.Facts{Network: network}, epoch, self, told)
}

// NewPictureOfSome is NewPicture where there are too many for that: it shows those
// mesh.MaxAgents whose hashes are least, the same at all that have the same records. The
// others, self possibly among them, wait until some of these have gone to areas: until
// then they choose no links.
func NewPictureOfSome(network uint64, epoch int64, self overlay.AgentID, told []Told) (*Picture, error) {
	here := present(told, pairsOf(told, namesOf(told)), self, overlay.Instant(epoch)*overlay.Instant(Epoch))
	i := -1
	some := slices.DeleteFunc(slices.Clone(told), func(Told) bool { i++; return !here[i] })
	crowd := len(some)
	slices.SortFunc(some, func(a, b Told) int { return compareKeys(a.ID, b.ID) })
	some = some[:min(len(some), mesh.MaxAgents)]
	slices.SortFunc(some, func(a, b Told) int { return a.ID.Compare(b.ID) })
	p, err := newPicture(mesh.Facts{Network: network}, epoch, self, some)
	if err == nil {
		p.crowd = crowd
	}
	return p, err
}

// backboneLinks is how many links a gateway chooses with others.
const backboneLinks = 8

// NewBackbonePicture is NewPicture for gateways: see Backbone. They have more links than
// members, as paths between areas should be no longer than within one, and who carries
// the traffic of twenty can.
func NewBackbonePicture(network uint64, epoch int64, self overlay.AgentID, told []Told) (*Picture, error) {
	return newPicture(mesh.Facts{Network: network, Own: backboneLinks}, epoch, self, told)
}

func newPicture(f mesh.Facts, epoch int64, self overlay.AgentID, told []Told) (*Picture, error) {
	names := namesOf(told)
	links := pairsOf(told, names)
	here := present(told, links, self, overlay.Instant(epoch)*overlay.Instant(Epoch))
	where := make([]int, len(told))
	for i := range told {
		where[i] = -1
		if here[i] {
			where[i] = len(f.Agents)
			f.Agents = append(f.Agents, mesh.Agent{
				ID: told[i].ID, NoTransit: told[i].NoTransit, Cost: int32(min(micros(told[i].Cost), mesh.MaxCost)),
			})
		}
	}
	for i := range told {
		if !here[i] {
			continue
		}
		a := &f.Agents[where[i]]
		for _, r := range told[i].Rows {
			if !r.Prefer && !r.Forbid && r.Cost == 0 || len(a.Rules) >= mesh.MaxRules {
				continue
			}
			if peer := names.find(r.Peer); peer >= 0 && where[peer] >= 0 {
				a.Rules = append(a.Rules, mesh.Rule{Peer: where[peer], Cost: int32(min(micros(r.Cost), mesh.MaxCost)), Prefer: r.Prefer, Forbid: r.Forbid})
			}
		}
	}
	for _, l := range links {
		if where[l.a] >= 0 && where[l.b] >= 0 {
			f.Links = append(f.Links, l.link(told, where))
		}
	}
	v, err := mesh.NewView(f)
	if err != nil {
		return nil, err
	}
	return &Picture{Facts: f, View: v}, nil
}

// Shows says whether the picture is one for an agent: it shows it, or shows only some.
func (p *Picture) Shows(id overlay.AgentID) bool { return p.crowd > 0 || p.View.Index(id) >= 0 }

// Hash returns 8 bytes that are equal for pictures with the same agents and links, whoever
// draws them and whatever the links cost.
func (p *Picture) Hash() []byte {
	h := fnv.New64a()
	for _, a := range p.Facts.Agents {
		_, _ = h.Write(a.ID[:])
	}
	var b [10]byte
	for _, l := range p.Facts.Links {
		binary.BigEndian.PutUint32(b[:], uint32(l.A))
		binary.BigEndian.PutUint32(b[4:], uint32(l.B))
		b[8], b[9] = byte(l.By[0]), byte(l.By[1])
		_, _ = h.Write(b[:])
	}
	return h.Sum(nil)
}

// routesHashed is of how many agents the routes are hashed: of all up to so many, of more those
// that a hash draws. That takes 11 ms among 200 agents and 21 ms among 1,000 (BenchmarkRoutesHash).
const routesHashed = 16

// RoutesHash returns 8 bytes that are equal at agents to whom all members tell the same: a
// hash of the shortest paths from some of them to all, the same ones in a network as long as
// the same are there. Each agent's own routes may differ from these for a while by what it
// knows that isn't told yet, and by what it keeps because it is little worse.
func RoutesHash(network uint64, told []Told) []byte {
	var f route.Finder
	return binary.BigEndian.AppendUint64(nil, f.Agreed(Graph(told, nil), network, routesHashed))
}

// A twosome is two agents that both say that they keep their link: indices of told, and of
// their rows.
type twosome struct{ a, b, rowA, rowB int }

// pairsOf returns the links that both ends keep, each once, in order. So nobody can say
// of others that they are linked with him.
func pairsOf(told []Told, names names) (all []twosome) {
	for a := range told {
		for i := range told[a].Rows {
			r := &told[a].Rows[i]
			if r.Peer < names[a] || !r.Kept() || r.Relayed || r.Forbid {
				continue
			}
			b := names.find(r.Peer)
			if b <= a {
				continue
			}
			j, ok := slices.BinarySearchFunc(told[b].Rows, names[a], byPeer)
			if !ok {
				continue
			}
			if back := &told[b].Rows[j]; back.Kept() && !back.Relayed && (holds(r) || holds(back)) {
				all = append(all, twosome{a, b, i, j})
			}
		}
	}
	return all
}

func holds(r *discovery.Row) bool { return r.Holds || r.Leaving }

// names are the brief names of members, in their order, to find them fast.
type names []discovery.Brief

func namesOf(told []Told) names {
	all := make(names, len(told))
	for i := range told {
		all[i] = discovery.BriefOf(told[i].ID)
	}
	return all
}

// find returns the index of the member with a brief name, -1 if there is none.
func (n names) find(b discovery.Brief) int {
	i, ok := slices.BinarySearch(n, b)
	if !ok {
		return -1
	}
	return i
}

func byPeer(r discovery.Row, b discovery.Brief) int {
	switch {
	case r.Peer < b:
		return -1
	case r.Peer > b:
		return 1
	}
	return 0
}

// link returns a pair's link as the mesh reckons with it.
func (p twosome) link(told []Told, where []int) mesh.Link {
	a, b := told[p.a].Rows[p.rowA], told[p.b].Rows[p.rowB]
	return mesh.Link{
		A: where[p.a], B: where[p.b], Cost: costOf(a, b),
		By: [2]mesh.Hold{holdOf(a.Intent), holdOf(b.Intent)},
	}
}

// costOf returns what a link costs there and back by what both ends tell, without what
// operators add.
func costOf(a, b discovery.Row) int32 {
	there := linkOf(overlay.AgentID{}, discovery.Link{Pair: a.Pair})
	back := linkOf(overlay.AgentID{}, discovery.Link{Pair: b.Pair})
	return int32(min(uint64(there.Cost(back))+uint64(back.Cost(there)), mesh.MaxCost))
}

// CandidateCost returns what a link would cost there and back whose round trip is known,
// in µs, as that of a mesh.Candidate.
func CandidateCost(rtt time.Duration) int32 {
	l := route.Link{RTTMicros: micros(rtt)}
	return int32(min(2*uint64(l.Cost(l)), mesh.MaxCost))
}

func holdOf(t discovery.Intent) mesh.Hold {
	switch {
	case t.Leaving:
		return mesh.Leaves
	case t.Holds:
		return mesh.Holds
	}
	return mesh.Accepts
}

// present says which members are there: those that told something of late, self, and
// whoever is linked with them. So all agree on it who have the same records and are
// linked; who was cut off or died is forgotten, and comes back when he is heard again.
func present(told []Told, links []twosome, self overlay.AgentID, now overlay.Instant) []bool {
	near := make([][]int, len(told))
	for _, l := range links {
		near[l.a], near[l.b] = append(near[l.a], l.b), append(near[l.b], l.a)
	}
	here := make([]bool, len(told))
	var queue []int
	for i, t := range told {
		if here[i] = t.ID == self || now.Sub(t.At) < absentAfter; here[i] {
			queue = append(queue, i)
		}
	}
	for len(queue) > 0 {
		i := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, j := range near[i] {
			if !here[j] {
				here[j] = true
				queue = append(queue, j)
			}
		}
	}
	return here
}
