package sim

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"farlan/agent/decide"
	"farlan/overlay/mesh"
	"farlan/overlay/route"
)

const (
	// flood is how long a record takes at most to all that are connected, lost messages
	// included: news of it, a second's patience, and what is asked for.
	flood = 5 * time.Second
	// mostLinks is how many links an agent has at most, ever: see mesh.Chooser.Accept.
	mostLinks = 20
)

// A Verdict is what a run showed.
type Verdict struct {
	Cold    time.Duration // from the start until all had the same records
	Agreed  time.Duration // the same from the end of the faults
	Traffic Traffic       // while there were faults
	Steady  Traffic       // afterwards
	Degree  int           // links of the agent that has most in the end
	Events  uint64
	Bytes   float64 // an agent and second, headers included
	Trace   uint64
	Wrong   []string // what must not be
}

// Check runs a setting: a cold start, trouble, and quiet, and says whether all is as it
// must be.
func Check(set Setting) Verdict {
	s := New(set)
	var v Verdict
	wrong := func(format string, args ...any) { v.Wrong = append(v.Wrong, fmt.Sprintf(format, args...)) }
	s.Run(min(10*time.Second, set.Calm))
	cold, _ := s.Until(set.Calm-10*time.Second, s.Agreed)
	v.Cold = cold + 10*time.Second
	end := set.Calm + set.Trouble
	s.Run(set.Calm)
	every := time.Second
	if set.Agents > mostStruck { // a broadcast comes to so many then
		every *= 4
	}
	for now := set.Calm; now < end; now += every {
		s.emit(int32(s.draw(uint64(set.Agents))), int32(s.draw(uint64(set.Agents))))
		s.Run(now + every)
		s.degrees(wrong)
	}
	v.Traffic = s.counted
	var ok bool
	if v.Agreed, ok = s.Until(flood+decide.Epoch, s.Agreed); !ok {
		wrong("no agreement of the facts %v after the faults: %s", v.Agreed, s.lacking())
	}
	// Links that broke are given up after three epochs, and new ones made in two.
	s.Run(s.now.Sub(beginning) + 6*decide.Epoch)
	if s.pieces() > 1 {
		wrong("the links leave the agents in %d pieces", s.pieces())
	}
	for range 20 {
		s.frames, s.counted = nil, Traffic{}
		before, agreed := s.hash()
		s.emit(int32(s.draw(uint64(set.Agents))), int32(s.draw(uint64(set.Agents))))
		s.Run(s.now.Sub(beginning) + 2*time.Second)
		after, still := s.hash()
		s.counted.check(agreed && still && before == after, wrong)
		v.Steady.add(s.counted)
		s.degrees(wrong)
	}
	if v.Traffic.Looped > 0 || v.Traffic.Deep > 0 {
		wrong("%d frames looped, %d broadcasts went too far, while there were faults", v.Traffic.Looped, v.Traffic.Deep)
	}
	// Links may still be exchanged, but less and less.
	if _, ok := s.Until(6*decide.Epoch, s.Same); !ok {
		wrong("no moment in which all have the same records")
	} else {
		s.compare(wrong)
	}
	for _, d := range s.linksOfEach() {
		v.Degree = max(v.Degree, d)
	}
	v.Events, v.Trace = s.events, s.trace
	v.Bytes = float64(s.bytes) / float64(set.Agents) / s.now.Sub(beginning).Seconds()
	slices.Sort(v.Wrong)
	v.Wrong = slices.Compact(v.Wrong)
	return v
}

// add adds what was counted later.
func (t *Traffic) add(u Traffic) {
	t.Sent, t.Delivered, t.NoPath, t.Broken, t.Looped = t.Sent+u.Sent, t.Delivered+u.Delivered, t.NoPath+u.NoPath, t.Broken+u.Broken, t.Looped+u.Looped
	t.Broadcast, t.Wanted, t.Cut, t.Got, t.Again, t.Spare, t.Deep = t.Broadcast+u.Broadcast, t.Wanted+u.Wanted, t.Cut+u.Cut, t.Got+u.Got, t.Again+u.Again, t.Spare+u.Spare, t.Deep+u.Deep
}

// check says what must not be when nothing goes wrong. While agents don't agree broadcasts
// may miss somebody, but none may come twice.
func (t Traffic) check(agreed bool, wrong func(string, ...any)) {
	if t.Delivered != t.Sent || t.Looped > 0 {
		wrong("%d of %d frames delivered: %d had no path, %d met a broken link, %d looped", t.Delivered, t.Sent, t.NoPath, t.Broken, t.Looped)
	}
	if agreed && t.Got != t.Wanted || t.Again > 0 || t.Deep > 0 {
		wrong("broadcasts reached %d of %d agents, %d times twice, %d went too far", t.Got, t.Wanted, t.Again, t.Deep)
	}
}

// linksOfEach returns how many links agents keep.
func (s *Sim) linksOfEach() (all []int) {
	for _, a := range s.agents {
		if a.runs() {
			all = append(all, len(a.meshing.links.Kept()))
		}
	}
	return all
}

// degrees looks at how many links agents have.
func (s *Sim) degrees(wrong func(string, ...any)) {
	if slices.Max(s.linksOfEach()) > mostLinks {
		wrong("an agent has more than %d links", mostLinks)
	}
}

// linked returns the links that both ends keep and that work, each once.
func (s *Sim) linked() (all [][2]int32) {
	for _, a := range s.agents {
		if !a.runs() {
			continue
		}
		for _, m := range a.meshes() {
			for _, k := range m.links.Kept() {
				n := s.index[k.Peer]
				b := s.agents[n]
				if n > a.n && b.runs() && a.reaches(n) && slices.ContainsFunc(b.meshes(), func(m *meshing) bool { return m.has(a.id) }) {
					all = append(all, [2]int32{a.n, n})
				}
			}
		}
	}
	return all
}

// pieces returns in how many pieces the links leave the agents that run.
func (s *Sim) pieces() (n int) {
	root := make([]int32, len(s.agents))
	for i := range root {
		root[i] = int32(i)
	}
	find := func(i int32) int32 {
		for root[i] != i {
			root[i] = root[root[i]]
			i = root[i]
		}
		return i
	}
	for _, l := range s.linked() {
		root[find(l[0])] = find(l[1])
	}
	for i, a := range s.agents {
		if a.runs() && root[i] == int32(i) {
			n++
		}
	}
	return n
}

// mostAnew is how many agents compute all anew in the end. Of more, which take seconds for it,
// those do that have heard something else than the first one; the others would do the same once
// more with the same.
const mostAnew = 100

// compare lets each agent compute anew, from the records in its own store, its facts,
// routes and links, and compares these. By then nobody has too many links.
func (s *Sim) compare(wrong func(string, ...any)) {
	var facts, routes, links []uint64
	var first []decide.Told
	for _, a := range s.agents {
		if !a.runs() {
			continue
		}
		told := decide.All(a.store)
		if first == nil {
			first = told
		}
		if len(facts) < mostAnew || !slices.EqualFunc(told, first, sameTold) {
			facts = append(facts, decide.Graph(told, nil).Hash())
			routes = append(routes, binary.BigEndian.Uint64(decide.RoutesHash(1, told)))
		}
		p, err := decide.NewPicture(1, decide.EpochOf(s.now), a.id, told)
		if err != nil {
			wrong("%v", err)
			return
		}
		links = append(links, hashOf(p.Facts))
		if n := len(a.meshing.links.Kept()); n > p.View.Cap() {
			wrong("agent %d has %d links, %d are the most", a.n, n, p.View.Cap())
		}
	}
	for what, hashes := range map[string][]uint64{"graphs": facts, "routes": routes, "links": links} {
		slices.Sort(hashes)
		if n := len(slices.Compact(hashes)); n != 1 {
			wrong("agents with equal records have %d different %s", n, what)
		}
	}
}

// sameTold says whether a member told two agents the same.
func sameTold(x, y decide.Told) bool {
	return x.ID == y.ID && x.At == y.At && x.Facts == y.Facts && slices.Equal(x.Rows, y.Rows)
}

// hashOf returns a hash of what a mesh is decided by.
func hashOf(f mesh.Facts) (h uint64) {
	for _, a := range f.Agents {
		for i := 0; i < len(a.ID); i += 4 {
			h = mix(h, uint64(a.ID[i])<<24|uint64(a.ID[i+1])<<16|uint64(a.ID[i+2])<<8|uint64(a.ID[i+3]))
		}
	}
	for _, l := range f.Links {
		h = mix(h, uint64(l.A)<<32|uint64(l.B))
		h = mix(h, uint64(l.Cost)<<16|uint64(l.By[0])<<8|uint64(l.By[1]))
	}
	return h
}

// Quality returns the mean round trip of all pairs that run, by the paths that each agent
// chose itself, divided by that of the best paths over any links at all; infinite if a pair
// has no path.
func (s *Sim) Quality() float64 {
	if s.optimum == 0 {
		s.optimum = s.best()
	}
	sum := 0.0
	for _, a := range s.agents {
		if !a.runs() {
			continue
		}
		c := a.chart()
		for _, b := range s.agents {
			if !b.runs() || a == b {
				continue
			}
			p := s.path(c, a.n, b.n)
			if p == nil {
				return math.Inf(1)
			}
			sum += float64(s.length(p))
		}
	}
	return sum / s.optimum
}

// length returns a path's true round trip.
func (s *Sim) length(p route.Path) (sum int64) {
	for i, b := range p[1:] {
		sum += int64(s.world.micros(p[i], b))
	}
	return sum
}

// best returns the sum of all pairs' shortest round trips over any links (Floyd and
// Warshall).
func (s *Sim) best() (sum float64) {
	n := len(s.agents)
	d := make([]int32, n*n)
	for i := range n {
		for j := range n {
			if d[i*n+j] = s.world.micros(int32(i), int32(j)); i != j && d[i*n+j] == 0 {
				d[i*n+j] = math.MaxInt32 / 2
			} else if i == j {
				d[i*n+j] = 0
			}
		}
	}
	for k := range n {
		row := d[k*n : k*n+n]
		for i := range n {
			by, to := d[i*n+k], d[i*n:i*n+n]
			for j, x := range row {
				to[j] = min(to[j], by+x)
			}
		}
	}
	for _, x := range d {
		sum += float64(x)
	}
	return sum
}
