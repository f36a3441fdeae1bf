package route

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// A check says whether an agent takes a frame.
type check func(t *Tree, at, from int32, hops int) bool

func noCheck(*Tree, int32, int32, int) bool { return true }

// noReversePath takes frames of the right depth from anybody.
func noReversePath(t *Tree, at, _ int32, hops int) bool { return t.Depth(at) == hops }

func reversePath(t *Tree, at, from int32, _ int) bool {
	p, ok := t.Parent(at)
	return ok && p == from
}

// spread sends a broadcast and counts how often each of n agents takes it, and how often
// it is sent. An agent goes by a tree that may be another one after it took a frame. It
// gives up after most sendings.
func spread(n int, tree func(at int32, taken int) *Tree, origin int32, most int, ok check) (taken []int, sent int) {
	type frame struct {
		at, from int32
		hops     int
	}
	taken = make([]int, n)
	var queue []frame
	send := func(t *Tree, from int32, hops int) {
		for _, v := range t.Children(from) {
			sent++
			queue = append(queue, frame{v, from, hops})
		}
	}
	for send(tree(origin, 0), origin, 1); len(queue) > 0 && sent < most; queue = queue[1:] {
		q := queue[0]
		if t := tree(q.at, taken[q.at]); ok(t, q.at, q.from, q.hops) {
			taken[q.at]++
			send(t, q.at, q.hops+1)
		}
	}
	return taken, sent
}

// When all agents know the same, each one that can be reached gets a broadcast once.
func TestBroadcastReachesAllOnce(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 3))
		w := randomWorld(r, 60, 0.04, false)
		var f Finder
		for origin := range int32(2) {
			trees := make([]Tree, 60)
			for i := range trees {
				f.Tree(w.shuffled(r), origin, &trees[i])
			}
			f.search(w.graph(), w.graph().sum, origin, none, 60)
			taken, _ := spread(60, func(at int32, _ int) *Tree { return &trees[at] }, origin, 1000, (*Tree).Accept)
			for v, n := range taken {
				if want := f.best[v] != none && int32(v) != origin; (n == 1) != want || n > 1 {
					t.Fatalf("seed %d, from %d: %d got it %d times, can be reached: %v", seed, origin, v, n, want)
				}
			}
		}
	}
}

// differently returns what an agent may know that heard other news of a quarter of the
// links.
func differently(r *rand.Rand, w *world) *world {
	w = &world{w.nodes, slices.Clone(w.links)}
	for i := range w.links {
		if r.IntN(4) == 0 {
			w.links[i].RTTMicros, w.links[i].Up = uint32(r.IntN(10_000)), r.IntN(4) > 0
		}
	}
	return w
}

// When agents disagree about anything, nobody takes a frame twice. Without the
// reverse-path check they do, and without any check frames go on for ever: the same
// networks show it.
func TestBroadcastNeverLoops(t *testing.T) {
	const n, most, seeds = 12, 2000, 500
	for _, c := range []struct {
		name           string
		accept         check
		twice, endless bool // that happens in some networks
	}{
		{"as it is", (*Tree).Accept, false, false},
		{"without the reverse-path check", noReversePath, true, false},
		{"without a check", noCheck, true, true},
	} {
		twice, endless, lost := 0, 0, 0
		for seed := range uint64(seeds) {
			r := rand.New(rand.NewPCG(seed, 4))
			var f Finder
			base, trees := randomWorld(r, n, 0.3, false), make([]Tree, n)
			for i := range trees {
				w := randomWorld(r, n, 0.15, false)
				if seed%2 == 0 {
					w = differently(r, base)
				}
				f.Tree(w.graph(), 0, &trees[i])
			}
			taken, sent := spread(n, func(at int32, _ int) *Tree { return &trees[at] }, 0, most, c.accept)
			if sent >= most {
				endless++
			}
			if slices.Max(taken) > 1 || taken[0] > 0 {
				twice++
			}
			for _, k := range taken[1:] {
				if k == 0 {
					lost++
				}
			}
		}
		t.Logf("%s: of %d networks whose agents know other links, or the same with other news, in %d somebody takes a frame twice, %d send for ever; %.0f %% of agents get nothing",
			c.name, seeds, twice, endless, 100*float64(lost)/(seeds*(n-1)))
		if (twice > 0) != c.twice || (endless > 0) != c.endless {
			t.Errorf("%s: %d twice, %d for ever", c.name, twice, endless)
		}
	}
}

// An agent learns something new just after it took a frame, and now expects it from
// where it sent it. The reverse-path check alone lets the frame go round; the depth ends it.
func TestBroadcastMeetsAChange(t *testing.T) {
	var f Finder
	tree := func(links ...[2]int) *Tree {
		w := newWorld(4)
		for _, l := range links {
			w.link(l[0], l[1], 1000, 1000)
		}
		t := new(Tree)
		f.Tree(w.graph(), 0, t)
		return t
	}
	line := tree([2]int{0, 1}, [2]int{1, 2}, [2]int{2, 3})
	know := []*Tree{line, line, line, tree([2]int{0, 2}, [2]int{2, 3}, [2]int{3, 1})}
	news := tree([2]int{0, 3}, [2]int{3, 1}, [2]int{1, 2})
	at := func(at int32, taken int) *Tree {
		if at == 1 && taken > 0 {
			return news
		}
		return know[at]
	}
	if taken, sent := spread(4, at, 0, 1000, reversePath); sent < 1000 {
		t.Errorf("the reverse-path check alone ends it, taken %v: the test can't tell", taken)
	}
	if taken, sent := spread(4, at, 0, 1000, (*Tree).Accept); sent > 4 {
		t.Errorf("sent %d times, taken %v", sent, taken)
	}
}

// Who is farther than TreeHops gets no broadcast, and nobody sends it one.
func TestTreeEnds(t *testing.T) {
	const n = TreeHops + 5
	w := newWorld(n)
	for v := 1; v < n; v++ {
		w.link(v-1, v, 1000, 1000)
	}
	var f Finder
	var tree Tree
	f.Tree(w.graph(), 0, &tree)
	if tree.Depth(TreeHops) != TreeHops || tree.Children(TreeHops) != nil {
		t.Errorf("the last one is %d deep and sends to %v", tree.Depth(TreeHops), tree.Children(TreeHops))
	}
	if _, ok := tree.Parent(TreeHops + 1); ok || tree.Accept(TreeHops+1, TreeHops, TreeHops+1) {
		t.Error("one beyond the last takes frames")
	}
}
