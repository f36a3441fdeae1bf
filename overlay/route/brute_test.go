package route

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// bruteWorlds calls do with small random worlds: dense ones, and rings with few chords,
// on which paths would often need more than MaxHops links.
func bruteWorlds(t *testing.T, do func(t *testing.T, w *world, r *rand.Rand)) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 6))
		w := randomWorld(r, 4+r.IntN(4), 0.5, false)
		if seed%2 == 0 {
			w = randomWorld(r, 11+r.IntN(3), 0.05, false)
		}
		do(t, w, r)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// Every shortest path costs just what the best of all paths does.
func TestDelayIsShortest(t *testing.T) {
	found, missing := 0, 0
	bruteWorlds(t, func(t *testing.T, w *world, _ *rand.Rand) {
		var f Finder
		var table Table
		g := w.graph()
		for from := range w.nodes {
			f.Delay(g, int32(from), &table)
			for to := range w.nodes {
				least, any := uint64(math.MaxUint64), false
				w.paths(from, to, MaxHops, func(p Path) { least, any = min(least, w.micros(p)), len(p) > 1 || any })
				p := table.Path(int32(to))
				switch {
				case (p != nil) != any:
					t.Errorf("%d to %d: path %v, brute force found one: %v", from, to, p, any)
				case p == nil:
					missing++
				case g.valid(p) != None || p[0] != int32(from) || p[len(p)-1] != int32(to):
					t.Errorf("%d to %d: %v can't be taken: %v", from, to, p, g.valid(p))
				case w.micros(p) != least:
					t.Errorf("%d to %d: %v costs %d, the best %d", from, to, p, w.micros(p), least)
				default:
					found++
					x, _ := f.Figures(g, p, nil)
					if uint64(x.CostMicros) != least || int64(x.RateKbit) != w.kbit(p, nil) {
						t.Errorf("%v: figures %+v, want %d µs and %d kbit/s", p, x, least, w.kbit(p, nil))
					}
				}
			}
		}
	})
	t.Logf("%d paths, none for %d pairs", found, missing)
	if found < 1000 || missing < 100 {
		t.Error("too few cases to tell")
	}
}

// Every widest path is as wide as the widest of all paths, by class, and of those the
// shortest as its source sees lengths; for one goal alone it is the same.
func TestBulkIsWidest(t *testing.T) {
	found := 0
	bruteWorlds(t, func(t *testing.T, w *world, r *rand.Rand) {
		var f, one Finder
		var table Table
		g := w.graph()
		for from := range int32(len(w.nodes)) {
			var own []Load
			for range r.IntN(3) {
				f.Delay(g, int32(r.IntN(len(w.nodes))), &table)
				own = append(own, Load{slices.Clone(table.Path(int32(r.IntN(len(w.nodes))))), int64(r.IntN(2000) - 500)})
			}
			f.Bulk(g, from, own, &table)
			length := func(p Path) (sum uint64) {
				for i := 1; i < len(p); i++ {
					e, _ := g.link(p[i-1], p[i])
					sum += f.split[e]
					if i > 1 {
						sum += uint64(w.nodes[p[i-1]].CostMicros) << tieBits
					}
				}
				return sum
			}
			for to := range int32(len(w.nodes)) {
				if from == to {
					continue
				}
				var best Path
				rank := func(p Path) (uint16, uint64) {
					if len(p) == 2 && w.find(int(from), int(to)).RateKbit == 0 {
						return classes, 0 // what isn't known is tried
					}
					return class(uint32(w.kbit(p, own))), math.MaxUint64 - length(p)
				}
				w.paths(int(from), int(to), MaxHops, func(p Path) {
					c, l := rank(p)
					if bc, bl := uint16(0), uint64(0); best != nil {
						if bc, bl = rank(best); c < bc || c == bc && l <= bl {
							return
						}
					}
					best = slices.Clone(p)
				})
				if p := table.Path(to); !slices.Equal(p, best) {
					t.Errorf("%d to %d: %v, want %v", from, to, p, best)
				}
				if p := one.bulkTo(g, from, to, own, none, near); !slices.Equal(p, best) {
					t.Errorf("%d to %d alone: %v, want %v", from, to, p, best)
				}
				if best != nil {
					found++
					if x, _ := f.Figures(g, best, own); int64(x.RateKbit) != w.kbit(best, own) {
						t.Errorf("%v: rate %d, want %d", best, x.RateKbit, w.kbit(best, own))
					}
				}
			}
		}
	})
	t.Logf("%d paths", found)
	if found < 1000 {
		t.Error("too few cases to tell")
	}
}

// Every alternate shares the fewest links that a path can, then the fewest relays, then
// it is the shortest.
func TestAlternateSharesLeast(t *testing.T) {
	found, apart := 0, 0
	bruteWorlds(t, func(t *testing.T, w *world, r *rand.Rand) {
		var f Finder
		var table Table
		g := w.graph()
		for from := range int32(len(w.nodes)) {
			f.Delay(g, from, &table)
			for to := range int32(len(w.nodes)) {
				p := slices.Clone(table.Path(to))
				if p == nil {
					continue
				}
				rank := func(q Path) (links, relays int, cost uint64) {
					for i, v := range q {
						at := slices.Index(p, v)
						if at < 0 {
							continue
						}
						if i > 0 && i < len(q)-1 {
							relays++
						}
						if i > 0 && (at > 0 && p[at-1] == q[i-1] || at < len(p)-1 && p[at+1] == q[i-1]) {
							links++
						}
					}
					return links, relays, w.micros(q)
				}
				best := fmt.Sprint(nil)
				w.paths(int(from), int(to), MaxHops, func(q Path) {
					if !slices.Equal(p, q) {
						links, relays, cost := rank(q)
						if s := fmt.Sprintf("%02d %02d %012d", links, relays, cost); best == "<nil>" || s < best {
							best = s
						}
					}
				})
				q, shared := f.Alternate(g, p)
				got := fmt.Sprint(nil)
				if q != nil {
					links, relays, cost := rank(q)
					got = fmt.Sprintf("%02d %02d %012d", links, relays, cost)
					found++
					if shared == 0 {
						apart++
					}
					if shared != links || g.valid(q) != None {
						t.Errorf("%v for %v: says %d shared, it is %d; %v", q, p, shared, links, g.valid(q))
					}
				}
				if got != best {
					t.Errorf("%v for %v: shares %s, the best %s", q, p, got, best)
				}
			}
		}
	})
	t.Logf("%d alternates, %d share no link", found, apart)
	if found < 1000 || apart < 500 || apart == found {
		t.Error("too few cases to tell")
	}
}

// Trees are of the shortest paths, however long, and reach all that can be reached.
func TestTreeIsShortest(t *testing.T) {
	bruteWorlds(t, func(t *testing.T, w *world, _ *rand.Rand) {
		var f Finder
		var tree Tree
		g := w.graph()
		for origin := range int32(len(w.nodes)) {
			f.Tree(g, origin, &tree)
			for v := range int32(len(w.nodes)) {
				if v == origin {
					continue
				}
				least := uint64(math.MaxUint64)
				w.paths(int(origin), int(v), len(w.nodes), func(p Path) { least = min(least, w.micros(p)) })
				p := Path{v}
				for u, ok := tree.Parent(v); ok; u, ok = tree.Parent(u) {
					if !slices.Contains(tree.Children(u), p[0]) {
						t.Errorf("%d is no child of its parent %d", p[0], u)
					}
					p = slices.Insert(p, 0, u)
				}
				if depth := tree.Depth(v); depth != len(p)-1 {
					t.Errorf("%v has depth %d", p, depth)
				}
				if (len(p) > 1) != (least < math.MaxUint64) || len(p) > 1 && (p[0] != origin || w.micros(p) != least) {
					t.Errorf("tree of %d: %v, want a path that costs %d", origin, p, least)
				}
			}
		}
	})
}
