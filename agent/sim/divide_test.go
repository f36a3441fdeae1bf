package sim

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
)

// small are sizes by which few agents make many areas.
var small = decide.Sizes{Whole: 30, Most: 20, Least: 5, Join: 15}

// A sampled is what became of frames and broadcasts.
type sampled struct {
	Traffic
	missed int // agents that didn't get a broadcast although all agreed all the time
}

// sample sends frames and broadcasts between agents by chance.
func (s *Sim) sample(n int) (c sampled) {
	for range n {
		s.frames, s.counted = nil, Traffic{}
		before, agreed := s.areasHash()
		s.emit(int32(s.draw(uint64(len(s.agents)))), int32(s.draw(uint64(len(s.agents)))))
		s.Run(s.now.Sub(beginning) + 2*time.Second)
		if after, still := s.areasHash(); agreed && still && before == after {
			c.missed += s.counted.Wanted - s.counted.Got
		}
		c.add(s.counted)
	}
	return c
}

// well says whether all frames and broadcasts came, none twice. While agents don't agree,
// broadcasts may miss some.
func (c sampled) well() bool {
	return c.Delivered == c.Sent && c.missed == 0 && c.Got >= c.Wanted*95/100 && c.Again+c.Deep+c.Looped == 0
}

// perArea returns of each area its members that run, and its gateways.
func (s *Sim) perArea() (members, gateways map[uint32][]int32) {
	members, gateways = make(map[uint32][]int32), make(map[uint32][]int32)
	for _, a := range s.agents {
		if !a.runs() {
			continue
		}
		area, _ := a.store.Area()
		members[area] = append(members[area], a.n)
		if a.place.gate != nil {
			gateways[area] = append(gateways[area], a.n)
		}
	}
	return members, gateways
}

func (s *Sim) agreedInAreas() bool {
	_, ok := s.areasHash()
	return ok
}

// areasHash returns a hash of all records; ok is false if not all of an area have the same, or
// not all the same wide ones.
func (s *Sim) areasHash() (sum uint64, ok bool) {
	local := make(map[uint32][32]byte)
	var wide [32]byte
	first := true
	for _, a := range s.agents {
		if !a.runs() {
			continue
		}
		area, _ := a.store.Area()
		if h, ok := local[area]; ok && h != a.store.LocalHash() || !first && wide != a.store.WideHash() {
			return 0, false
		}
		local[area], wide, first = a.store.LocalHash(), a.store.WideHash(), false
		h := a.store.Hash()
		sum = mix(sum, binary.BigEndian.Uint64(h[:]))
	}
	return sum, true
}

// Agents in areas have the same records as all in theirs, reach those of others, and have
// broadcasts once; another gateway takes over from one that is gone.
func TestDivided(t *testing.T) {
	s := New(Setting{Seed: 1, Agents: 100, Noise: 30, Sizes: small, Settled: true})
	s.Run(40 * time.Second)
	if took, ok := s.Until(flood+decide.Epoch, s.agreedInAreas); !ok {
		t.Errorf("no agreement after %v", took)
	}
	members, gateways := s.perArea()
	if len(members) != 8 || s.moves > 0 {
		t.Errorf("%d areas, %d moves", len(members), s.moves)
	}
	for area, all := range gateways {
		if len(all) != 4 {
			t.Errorf("area %d of %d members has %d gateways", area, len(members[area]), len(all))
		}
	}
	if c := s.sample(20); !c.well() {
		t.Errorf("%+v", c)
	}
	// A gateway of each of two areas dies.
	lost := []int32{gateways[1][0], gateways[2][3]}
	for _, n := range lost {
		s.agents[n].stop()
	}
	s.Run(s.now.Sub(beginning) + 60*time.Second)
	_, gateways = s.perArea()
	if len(gateways[1]) != 4 || len(gateways[2]) != 4 {
		t.Errorf("%d and %d gateways after one died", len(gateways[1]), len(gateways[2]))
	}
	if c := s.sample(20); !c.well() {
		t.Errorf("after gateways died: %+v", c)
	}
}

// A network that grows is divided, an area that is too small joins another one, and what is
// left of a network is one again; frames come while that happens.
func TestDivideAndJoin(t *testing.T) {
	const agents = 30
	s := New(Setting{Seed: 2, Agents: agents, Noise: 30, Sizes: decide.Sizes{Whole: 24, Most: 20, Least: 4, Join: 10}})
	s.Run(60 * time.Second)
	_, ok := s.Until(3*time.Minute, func() bool { m, _ := s.perArea(); return len(m) > 1 && len(m[0]) == 0 })
	members, _ := s.perArea()
	t.Logf("%v: %d areas, %d moves", s.now.Sub(beginning), len(members), s.moves)
	if !ok || s.moves > agents {
		t.Errorf("%d areas, %d of them in none, after %d moves", len(members), len(members[0]), s.moves)
	}
	c := s.sample(40)
	t.Logf("while it is divided: %+v", c)
	if c.Again+c.Deep+c.Looped > 0 || c.Delivered < c.Sent*9/10 || c.Got < c.Wanted*9/10 {
		t.Errorf("while it is divided: %+v", c)
	}
	s.Run(s.now.Sub(beginning) + 3*time.Minute)
	if c := s.sample(20); !c.well() {
		t.Errorf("divided: %+v", c)
	}
	// One area shrinks to three.
	members, _ = s.perArea()
	for area, all := range members {
		if len(all) > 3 && area == s.firstArea() {
			for _, n := range all[3:] {
				s.agents[n].stop()
			}
		}
	}
	first := s.firstArea()
	if _, ok := s.Until(8*time.Minute, func() bool { m, _ := s.perArea(); return len(m[first]) == 0 }); !ok {
		members, gates := s.perArea()
		t.Errorf("an area of three stays: %v, %v", members, gates)
	}
	t.Logf("%v: joined, %d moves", s.now.Sub(beginning), s.moves)
	s.Run(s.now.Sub(beginning) + 3*time.Minute)
	if c := s.sample(20); !c.well() {
		t.Errorf("joined: %+v", c)
	}
}

// What goes wrong is borne in areas, too: whatever it is, no frame loops or comes twice, and
// afterwards all agree again and reach each other. The same seed gives the same run.
func TestDividedWithFaults(t *testing.T) {
	begin := func(seed uint64) (*Sim, sampled) {
		s := New(Setting{
			Seed: seed, Agents: 45, Noise: 30, Sizes: small, Settled: true,
			Faults: Churn | Loss | Duplicate | Reorder | Partition | Pause | Rebind, Calm: 30 * time.Second, Trouble: 80 * time.Second,
		})
		s.Run(30 * time.Second)
		c := s.sample(20)
		return s, c
	}
	s, c := begin(1)
	trace := s.Trace()
	if c.Again+c.Deep+c.Looped > 0 {
		t.Errorf("in trouble: %+v", c)
	}
	s.Run(180 * time.Second)
	if took, ok := s.Until(time.Minute, s.agreedInAreas); !ok {
		t.Errorf("no agreement after %v", took)
	}
	if after := s.sample(20); !after.well() {
		t.Errorf("afterwards: %+v", after)
	}
	if again, _ := begin(1); again.Trace() != trace {
		t.Error("the same seed ran differently")
	}
}

// An agent came to another area, whose gateway hasn't heard of that, as little as those in the area
// before. So a broadcast of its comes to its new area as one of there and as one of outside: nobody
// takes it twice, but where agents don't look at that.
func TestBroadcastOfMover(t *testing.T) {
	count := func(m mutant, seed uint64) Traffic {
		s := New(Setting{Seed: seed, Agents: 60, Noise: 30, Sizes: small, Settled: true, mutant: m})
		s.Run(15 * time.Second)
		members, gateways := s.perArea()
		i := slices.IndexFunc(members[1], func(n int32) bool { return !slices.Contains(gateways[1], n) })
		mover := s.agents[members[1][i]]
		before := make(map[*agent]*discovery.Store)
		for _, n := range append(members[1], mover.entry(2)) {
			if a := s.agents[n]; a != mover {
				before[a] = discovery.NewStore(a.id, s.network, 1, discovery.Limits{})
				before[a].Share(&s.archive)
				area, _ := a.store.Area()
				before[a].Enter(a.wall(), area)
				before[a].Mirror(a.store)
			}
		}
		mover.move(2)
		swap := func() {
			for a, store := range before {
				before[a], a.store = a.store, store
			}
		}
		for s.now.Sub(beginning) < 50*time.Second { // meanwhile it has links in both areas
			s.Run(s.now.Sub(beginning) + 3*time.Second)
			swap()
			s.emit(mover.n, members[3][0])
			s.Run(s.now.Sub(beginning) + time.Second)
			swap()
		}
		return s.counted
	}
	for seed := range uint64(8) { // in some it never has links in both areas
		if count(noSides, seed).Again == 0 {
			continue
		}
		if c := count(noNumbers, seed); c.Again+c.Deep+c.Looped > 0 {
			t.Errorf("seed %d: %+v", seed, c)
		}
		return
	}
	t.Error("nobody notices the mutant")
}

// A member that says it is a gateway, of whatever area, with everybody on its tree, and links with
// all gateways, costs few frames; none loops, or is taken twice, and nobody moves for it.
func TestLiarInAreas(t *testing.T) {
	s := New(Setting{
		Seed: 1, Agents: 45, Noise: 30, Sizes: small, Settled: true,
		Faults: Liar, Calm: 10 * time.Second, Trouble: 40 * time.Second,
	})
	s.Run(20 * time.Second)
	c := s.sample(10)
	t.Logf("%+v", c)
	if c.Again+c.Deep+c.Looped > 0 || c.Delivered < c.Sent*9/10 || c.Got < c.Wanted*9/10 || s.moves > 0 {
		t.Errorf("while it lies: %+v, %d moves", c, s.moves)
	}
	s.Run(50 * time.Second)
	if took, ok := s.Until(time.Minute, s.agreedInAreas); !ok {
		t.Errorf("no agreement after %v", took)
	}
	s.Run(s.now.Sub(beginning) + 6*decide.Epoch) // links that broke are given up, and made anew
	if c := s.sample(10); !c.well() {
		t.Errorf("afterwards: %+v", c)
	}
}

// Nothing passes between gateways of two halves of the areas for a while, first for so short that
// agents hardly notice, then for longer: meanwhile all frames within areas come, none loops or
// is taken twice, and afterwards all come.
func TestBackboneCut(t *testing.T) {
	s := New(Setting{Seed: 6, Agents: 36, Noise: 30, Sizes: small, Settled: true})
	now := 10 * time.Second
	for _, lasts := range []time.Duration{2 * time.Second, 40 * time.Second} {
		s.Run(now)
		_, gateways := s.perArea()
		side := make(map[int32]uint32)
		for area, all := range gateways {
			for _, n := range all {
				side[n] = 1 + area%2
			}
		}
		s.world.cut = func(a, b int32) bool { return side[a]+side[b] == 3 && side[a]*side[b] == 2 }
		s.Run(now + lasts/2)
		c := s.sample(5)
		if c.Again+c.Deep+c.Looped > 0 {
			t.Errorf("cut for %v: %+v", lasts, c)
		}
		for _, who := range s.regions.people {
			a, b := s.agents[who[0]], who[len(who)-1]
			if p := s.path(a.chart(), a.n, b); p == nil {
				t.Errorf("cut for %v: no way from %d to %d of the same area", lasts, a.n, b)
			}
		}
		now = max(now+lasts, s.now.Sub(beginning))
		s.Run(now)
		s.world.cut = nil
		now += 8 * decide.Epoch // links that broke are given up, and made anew
		s.Run(now)
		if took, ok := s.Until(time.Minute, s.agreedInAreas); !ok {
			t.Errorf("cut for %v: no agreement after %v", lasts, took)
		}
		if c := s.sample(10); !c.well() || s.moves > 0 {
			t.Errorf("after a cut of %v: %+v, %d moves", lasts, c, s.moves)
		}
		now = s.now.Sub(beginning)
	}
}

// A network of about as many agents as are divided, of whom some come and go and restart, is divided
// once at most, without loops or duplicates; and so is one that was divided, and is about as
// small as those that are one again.
func TestThresholdsWithFaults(t *testing.T) {
	type threshold struct {
		sizes   decide.Sizes
		settled bool
	}
	cases := []threshold{{decide.Sizes{Whole: 29, Most: 18, Least: 4, Join: 12}, false}}
	if long() {
		cases = append(cases, threshold{decide.Sizes{Whole: 40, Most: 18, Least: 4, Join: 30}, true})
	}
	for _, c := range cases {
		s := New(Setting{
			Seed: 3, Agents: 32, Noise: 30, Sizes: c.sizes, Settled: c.settled,
			Faults: Churn | Loss | Duplicate | Restart | Pause, Calm: 20 * time.Second, Trouble: 100 * time.Second,
		})
		var in sampled
		for now := 30 * time.Second; now < 2*time.Minute; now += 6 * time.Second {
			s.Run(now)
			in.add(s.sample(1).Traffic)
		}
		s.Run(6 * time.Minute)
		members, _ := s.perArea()
		t.Logf("%v: %+v, %d areas, %d moves", c, in, len(members), s.moves)
		if in.Again+in.Deep+in.Looped > 0 || in.Got < in.Wanted/2 || s.moves > 2*32 {
			t.Errorf("%v: in trouble %+v, %d moves", c, in, s.moves)
		}
		if took, ok := s.Until(6*time.Minute, s.agreedInAreas); !ok {
			t.Errorf("%v: no agreement after %v", c, took)
		}
		if after := s.sample(10); !after.well() {
			t.Errorf("%v: afterwards %+v", c, after)
		}
	}
}

// firstArea returns the area of least number.
func (s *Sim) firstArea() (least uint32) {
	members, _ := s.perArea()
	for area := range members {
		if least == 0 || area < least {
			least = area
		}
	}
	return least
}
