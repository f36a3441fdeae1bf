package route

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"farlan/overlay"
)

// benchWorld is agents on a plane with so many links each on average: a ring, half the
// others to near ones and half to any; delays are distances, rates a thousand different
// ones.
func benchWorld(n, degree int) *world {
	r := rand.New(rand.NewPCG(uint64(n), 8))
	w := newWorld(n)
	at := make([]complex128, n)
	for i := range at {
		at[i] = complex(r.Float64(), r.Float64())
	}
	linked := make(map[[2]int]bool)
	link := func(a, b int) {
		if a == b || linked[[2]int{min(a, b), max(a, b)}] {
			return
		}
		linked[[2]int{min(a, b), max(a, b)}] = true
		rtt := 2000 + uint32(150_000*square(at[a]-at[b]))
		w.link(a, b, rtt, uint32(1000*(1+r.IntN(1000))))
	}
	for a := range n {
		link(a, (a+1)%n)
		w.nodes[a].UpKbit, w.nodes[a].DownKbit = uint32(1000*(10+r.IntN(1000))), uint32(1000*(10+r.IntN(1000)))
	}
	for len(linked) < min(n*degree, n*(n-1))/2 {
		a := r.IntN(n)
		link(a, r.IntN(n))
		best := r.IntN(n)
		for range 16 {
			if b := r.IntN(n); b != a && square(at[a]-at[b]) < square(at[a]-at[best]) {
				best = b
			}
		}
		link(a, best)
	}
	return w
}

func square(d complex128) float64 { return real(d)*real(d) + imag(d)*imag(d) }

func bench(b *testing.B, do func(b *testing.B, w *world, g *Graph)) {
	for _, c := range [][2]int{{16, 6}, {100, 12}, {500, 12}, {1000, 6}, {1000, 12}, {1000, 32}, {10_000, 6}} {
		b.Run(fmt.Sprintf("nodes=%d/links=%d", c[0], c[1]), func(b *testing.B) {
			w := benchWorld(c[0], c[1])
			b.ReportAllocs()
			do(b, w, w.graph())
		})
	}
}

func BenchmarkNew(b *testing.B) {
	bench(b, func(b *testing.B, w *world, _ *Graph) {
		for b.Loop() {
			w.graph()
		}
	})
}

func BenchmarkDelay(b *testing.B) {
	bench(b, func(b *testing.B, _ *world, g *Graph) {
		var f Finder
		var table Table
		k := 0
		for b.Loop() {
			f.Delay(g, int32(k%g.Len()), &table)
			k++
		}
	})
}

func BenchmarkBulk(b *testing.B) {
	bench(b, func(b *testing.B, _ *world, g *Graph) {
		var f Finder
		var table Table
		k := 0
		for b.Loop() {
			f.Bulk(g, int32(k%g.Len()), nil, &table)
			k++
		}
	})
}

// The alternate for one destination.
func BenchmarkAlternate(b *testing.B) {
	bench(b, func(b *testing.B, _ *world, g *Graph) {
		var f Finder
		var table Table
		f.Delay(g, 0, &table)
		k := 0
		for b.Loop() {
			f.Alternate(g, table.Path(int32(1+k%(g.Len()-1))))
			k++
		}
	})
}

func BenchmarkTree(b *testing.B) {
	bench(b, func(b *testing.B, _ *world, g *Graph) {
		var f Finder
		var tree Tree
		k := 0
		for b.Loop() {
			f.Tree(g, int32(k%g.Len()), &tree)
			k++
		}
	})
}

// The choice of one pair with a load.
func BenchmarkChoose(b *testing.B) {
	bench(b, func(b *testing.B, _ *world, g *Graph) {
		var f Finder
		k := 0
		for b.Loop() {
			from, to := int32(k%g.Len()), int32((k*31+1)%g.Len())
			f.Choose(g, Pair{From: from, To: to}, nil)
			k++
		}
	})
}

func BenchmarkExplain(b *testing.B) {
	bench(b, func(b *testing.B, _ *world, g *Graph) {
		var f Finder
		k := 0
		for b.Loop() {
			from, to := int32(k%g.Len()), int32((k*31+1)%g.Len())
			f.Explain(g, overlay.ClassBulk, Pair{From: from, To: to}, nil)
			k++
		}
	})
}
