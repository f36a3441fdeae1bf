package mesh

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"farlan/overlay"
)

// randomFacts returns n agents and some links, some agents that carry nothing for others,
// some demands and rules.
func randomFacts(r *rand.Rand, n, links int) Facts {
	f := Facts{Network: r.Uint64(), Agents: make([]Agent, n)}
	for i := range f.Agents {
		a := &f.Agents[i]
		binary.BigEndian.PutUint32(a.ID[:], uint32(i))
		binary.BigEndian.PutUint64(a.ID[8:], r.Uint64())
		a.NoTransit = r.IntN(6) == 0
		if r.IntN(4) == 0 {
			a.Cost = int32(r.IntN(50))
		}
		for range r.IntN(3) {
			a.Demands = append(a.Demands, Demand{r.IntN(n), int32(r.IntN(9))})
		}
		for range r.IntN(2) {
			a.Rules = append(a.Rules, Rule{Peer: r.IntN(n), Cost: int32(r.IntN(90))})
		}
	}
	seen := map[pair]bool{}
	for range links {
		a, b := r.IntN(n), r.IntN(n)
		if a != b && !seen[pairOf(a, b)] {
			seen[pairOf(a, b)] = true
			f.Links = append(f.Links, Link{A: a, B: b, Cost: int32(1 + r.IntN(20)), By: [2]Hold{Hold(r.IntN(3)), Hold(r.IntN(3))}})
		}
	}
	return f
}

// slow returns the distances by trying until nothing gets shorter.
func slow(v *View) []int32 {
	n := len(v.agents)
	d := make([]int32, n*n)
	for s := range n {
		row := d[s*n : s*n+n]
		for i := range row {
			row[i] = far
		}
		row[s] = 0
		for changed := true; changed; {
			changed = false
			for i := range n {
				if row[i] == far || i != s && v.agents[i].NoTransit {
					continue
				}
				for _, h := range v.next[i] {
					if x := row[i] + h.cost; x < row[h.to] {
						row[h.to], changed = x, true
					}
				}
			}
		}
	}
	return d
}

func mustView(t testing.TB, f Facts) *View {
	t.Helper()
	v, err := NewView(f)
	if err != nil {
		t.Fatal(err)
	}
	v.settled()
	return v
}

// Distances are found when they are asked for, also after they were forgotten; and whether
// there are ways from each agent to each is known without them, where it is sure.
func TestViewIsLazy(t *testing.T) {
	t.Parallel()
	wholes := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		n := 2 + r.IntN(30)
		f := randomFacts(r, n, r.IntN(4*n))
		for i := range f.Agents {
			f.Agents[i].NoTransit = f.Agents[i].NoTransit && seed%3 == 0
		}
		v, err := NewView(f)
		if err != nil {
			t.Fatal(err)
		}
		whole := v.whole()
		if v.bridge(0, 7); whole && v.dist != nil {
			t.Fatalf("seed %d: distances were found for nothing", seed)
		}
		want := slow(v)
		if whole != !slices.Contains(want, far) && (whole || !v.mutes) {
			t.Fatalf("seed %d: whole is %v", seed, whole)
		}
		for i, d := range want {
			if a, b := i/n, i%n; v.joined(a, b) != (d != far) {
				t.Fatalf("seed %d: whether %d and %d are joined isn't as distances say", seed, a, b)
			}
		}
		u := mustView(t, f)
		u.pieces = pieces{known: true} // by distances
		for i := range n {
			if got, want := v.bridge(i, int64(seed)), u.bridge(i, int64(seed)); got != want {
				t.Fatalf("seed %d: agent %d bridges to %d, by distances to %d", seed, i, got, want)
			}
		}
		if whole {
			wholes++
		}
		phi := mustView(t, f).Phi()
		for range 2 {
			a, b := r.IntN(n), r.IntN(n)
			v.cut(a, b) // finds them with the link that it cuts
			v.undo()
			if !slices.Equal(v.dist, want) || v.Phi() != phi {
				t.Fatalf("seed %d: distances are wrong", seed)
			}
			v.Forget()
		}
	}
	if wholes < 30 || wholes > 270 {
		t.Errorf("%d of 300 are whole", wholes)
	}
}

// Distances that are found from those of a view that is alike are those that are found anew.
func TestViewLike(t *testing.T) {
	t.Parallel()
	derived := 0
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 4))
		n := 8 + r.IntN(60)
		f := randomFacts(r, n, r.IntN(5*n))
		for i := range f.Agents {
			f.Agents[i].NoTransit = f.Agents[i].NoTransit && seed%5 == 0
		}
		u := mustView(t, f)
		before, g := slices.Clone(u.dist), f
		g.Links = slices.Clone(f.Links)
		for range r.IntN(1 + n/2) {
			switch k := r.IntN(max(1, len(g.Links))); {
			case len(g.Links) == 0 || r.IntN(3) == 0:
				g.Links = append(g.Links, Link{A: r.IntN(n), B: r.IntN(n), Cost: int32(1 + r.IntN(30))})
			case r.IntN(3) == 0:
				g.Links = slices.Delete(g.Links, k, k+1)
			default:
				g.Links[k].Cost = int32(1 + r.IntN(30))
			}
		}
		if seed%7 == 0 {
			g.Agents = slices.Clone(f.Agents)
			g.Agents[r.IntN(n)].Cost += 3
		}
		v, err := NewView(g)
		if err != nil {
			t.Fatal(err)
		}
		v.Like([]*View{v, u})
		if v.derive() {
			derived++
		} else {
			v.settled()
		}
		if !slices.Equal(v.dist, slow(v)) {
			t.Fatalf("seed %d: distances are wrong", seed)
		}
		if v.Forget(); !slices.Equal(u.dist, before) || v.Phi() != mustView(t, g).Phi() {
			t.Fatalf("seed %d: the other view was changed, or Φ is wrong", seed)
		}
	}
	if derived < 200 {
		t.Errorf("only %d of 400 were derived", derived)
	}
}

// What one link less or more would change is what a new view says that has it so.
func TestWhatIf(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		n := 2 + r.IntN(24)
		f := randomFacts(r, n, r.IntN(3*n))
		for i := range f.Agents {
			f.Agents[i].NoTransit = f.Agents[i].NoTransit && seed%3 > 0
		}
		v := mustView(t, f)
		if !slices.Equal(v.dist, slow(v)) {
			t.Fatalf("seed %d: distances are wrong", seed)
		}
		whole := slices.Clone(v.dist)
		for range 20 {
			a, b := r.IntN(n), r.IntN(n)
			if a == b {
				continue
			}
			rise := v.cut(a, b)
			if !slices.Equal(v.dist, slow(v)) {
				t.Fatalf("seed %d: distances without %d–%d are wrong", seed, a, b)
			}
			links := int64(0)
			if v.what.cost != 0 {
				links = v.price()
			}
			if got := v.sum() - v.Phi(); got != rise-links {
				t.Fatalf("seed %d: without %d–%d Φ rises by %d, said was %d", seed, a, b, got, rise-links)
			}
			c, d := r.IntN(n), r.IntN(n)
			if c != d {
				cost := int32(1 + r.IntN(20))
				before := v.sum()
				fall := v.gain(c, d, cost)
				cut := slices.Clone(v.dist)
				v.attach(c, d, cost)
				for i := range n {
					v.settle(i)
				}
				if got := before - v.sum() + v.price(); got != fall {
					t.Fatalf("seed %d: with %d–%d Φ falls by %d, said was %d", seed, c, d, got, fall)
				}
				last := len(v.next[c]) - 1
				v.next[c], v.next[d] = v.next[c][:last], v.next[d][:len(v.next[d])-1]
				copy(v.dist, cut)
			}
			v.undo()
			if !slices.Equal(v.dist, whole) || v.sum() != v.Phi() {
				t.Fatalf("seed %d: undo doesn't", seed)
			}
		}
	}
}

// Leaving links aren't counted on; the operator's cost is.
func TestViewOfLinks(t *testing.T) {
	t.Parallel()
	f := Facts{Agents: agents(4)}
	f.Agents[1].Cost = 7
	f.Agents[2].Rules = []Rule{{Peer: 3, Cost: 40}, {Peer: 2, Forbid: true}, {Peer: 9, Prefer: true}}
	f.Links = []Link{
		{A: 0, B: 1, Cost: 100, By: [2]Hold{Holds, Accepts}},
		{A: 1, B: 2, Cost: 100, By: [2]Hold{Leaves, Holds}},
		{A: 0, B: 2, Cost: 10, By: [2]Hold{Accepts, Leaves}},
		{A: 3, B: 2, Cost: 100, By: [2]Hold{Accepts, Accepts}},
	}
	v := mustView(t, f)
	for _, c := range []struct {
		from, to int
		want     int32
	}{{0, 1, 107}, {1, 2, 107}, {0, 2, 214}, {2, 3, 140}, {3, 0, 354}} {
		if d, ok := v.Distance(c.from, c.to); !ok || d != c.want {
			t.Errorf("from %d to %d it is %d, want %d", c.from, c.to, d, c.want)
		}
	}
	if v.Degree(2) != 3 || v.Degree(0) != 2 {
		t.Error("a leaving link is one as long as it is up")
	}
	f.Agents[2].NoTransit = true
	if _, ok := mustView(t, f).Distance(0, 3); ok {
		t.Error("an agent without transit carries what isn't its own")
	}
	if d, ok := mustView(t, f).Distance(2, 3); !ok || d != 140 {
		t.Error("it doesn't carry its own")
	}
}

// agents returns n agents with ids in order.
func agents(n int) []Agent {
	all := make([]Agent, n)
	for i := range all {
		all[i].ID = id(i)
	}
	return all
}

func id(i int) (id overlay.AgentID) {
	binary.BigEndian.PutUint32(id[:], uint32(i)+1)
	return id
}

// All agents must see the same: the order in which links are told doesn't matter.
func TestViewsAgree(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 3))
	f := randomFacts(r, 40, 110)
	for i := range f.Agents {
		f.Agents[i].NoTransit = false
	}
	var cands []Candidate
	for j := range f.Agents {
		cands = append(cands, Candidate{j, int32(1 + r.IntN(10))})
	}
	shuffled := f
	shuffled.Links = slices.Clone(f.Links)
	r.Shuffle(len(f.Links), func(i, j int) {
		shuffled.Links[i], shuffled.Links[j] = shuffled.Links[j], shuffled.Links[i]
	})
	for i := range shuffled.Links {
		if l := &shuffled.Links[i]; i%2 == 0 {
			l.A, l.B, l.By[0], l.By[1] = l.B, l.A, l.By[1], l.By[0]
		}
	}
	v, w := mustView(t, f), mustView(t, shuffled)
	moves := 0
	for i := range f.Agents {
		a, b := New(f.Agents[i].ID), New(f.Agents[i].ID)
		for epoch := range int64(30) {
			x, y := a.Step(epoch, v, Local{Candidates: cands}), b.Step(epoch, w, Local{Candidates: cands})
			sortWishes(x)
			sortWishes(y)
			if !slices.Equal(x, y) {
				t.Fatalf("agent %d, epoch %d: %v and %v", i, epoch, x, y)
			}
			moves += len(x)
		}
	}
	if v.Phi() != w.Phi() || moves == 0 {
		t.Error("Φ depends on the order of the links, or nobody wished anything")
	}
}

func sortWishes(w []Wish) {
	slices.SortFunc(w, func(a, b Wish) int { return a.Peer.Compare(b.Peer) })
}
