package route

import (
	"math/rand/v2"
	"testing"
)

// A check says whether an agent takes a frame.
type check func(t *Tree, at, from int32, hops int) bool

func noCheck(*Tree, int32, int32, int) bool { return true }

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

// When agents disagree about anything, nobody takes a frame twice. Without a check
// frames go on for ever: the test would see it.
func TestBroadcastNeverLoops(t *testing.T) {
	const n, most, seeds = 12, 2000, 500
	endless, lost := 0, 0
	for seed := range uint64(seeds) {
		r := rand.New(rand.NewPCG(seed, 4))
		var f Finder
		trees := make([]Tree, n)
		for i := range trees {
			f.Tree(randomWorld(r, n, 0.15, false).graph(), 0, &trees[i])
		}
		tree := func(at int32, _ int) *Tree { return &trees[at] }
		if _, sent := spread(n, tree, 0, most, noCheck); sent >= most {
			endless++
		}
		taken, sent := spread(n, tree, 0, most, (*Tree).Accept)
		for v, k := range taken {
			if k > 1 || v == 0 && k > 0 || sent > n*n {
				t.Fatalf("seed %d: %d took a frame %d times; it was sent %d times", seed, v, k, sent)
			}
			if k == 0 && v > 0 {
				lost++
			}
		}
	}
	t.Logf("%d networks whose agents each know something else: without a check %d send for ever; with it %.0f %% of agents get nothing", seeds, endless, 100*float64(lost)/(seeds*(n-1)))
	if endless == 0 {
		t.Error("no network would send for ever: the test can't tell")
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
