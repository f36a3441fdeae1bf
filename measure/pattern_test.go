package measure

import (
	"math"
	"math/rand/v2"
	"testing"
)

// links makes a matrix of who sends to whom, both ways or not.
func links(n int, mutual bool, pairs func(join func(i, j int))) [][]float64 {
	m := make([][]float64, n)
	for i := range m {
		m[i] = make([]float64, n)
	}
	pairs(func(i, j int) {
		m[i][j] = 1
		if mutual {
			m[j][i] = 1
		}
	})
	return m
}

// gridOf makes each talk to its neighbours in a grid.
func gridOf(wrap bool, dims ...int) [][]float64 {
	g := lattice(wrap, dims...)
	return links(g.n, true, func(join func(i, j int)) {
		for i := range g.n {
			for j := range i {
				if g.joins[i]>>j&1 == 1 {
					join(i, j)
				}
			}
		}
	})
}

// The communication of programs of the NAS Parallel Benchmarks (Bailey et al., NAS-91-002)
// among others.
var patterns = []struct {
	name, want string
	rates      [][]float64
}{
	{"nobody", "none", links(5, true, func(func(i, j int)) {})},
	{"two of nine", "pair", links(9, true, func(join func(i, j int)) { join(3, 7) })},
	{"one way", "pair", links(2, false, func(join func(i, j int)) { join(1, 0) })},
	{"four and four", "pairs", links(8, true, func(join func(i, j int)) {
		for i := range 4 {
			join(i, 7-i)
		}
	})},
	{"a server", "star", links(9, true, func(join func(i, j int)) {
		for i := 1; i < 9; i++ {
			join(0, i)
		}
	})},
	{"three, one in the middle", "star", links(3, true, func(join func(i, j int)) { join(0, 1); join(1, 2) })},
	{"a collector", "star", links(6, false, func(join func(i, j int)) {
		for i := range 5 {
			join(i, 5)
		}
	})},
	{"token ring", "ring", links(7, false, func(join func(i, j int)) {
		for i := range 7 {
			join(i, (i+1)%7)
		}
	})},
	{"ring of three", "ring", links(3, false, func(join func(i, j int)) { join(0, 1); join(1, 2); join(2, 0) })},
	{"NAS FT and IS on 8", "all-to-all", links(8, true, everyPair(8))},
	{"all of 64", "all-to-all", links(64, true, everyPair(64))},
	{"all of 3", "all-to-all", links(3, true, everyPair(3))},
	{"pipeline", "line", gridOf(false, 6)},
	{"NAS LU on 16", "mesh", gridOf(false, 4, 4)},
	{"NAS LU on 8", "mesh", gridOf(false, 2, 4)},
	{"NAS SP and BT on 9", "torus", gridOf(true, 3, 3)},
	{"torus of 25", "torus", gridOf(true, 5, 5)},
	{"torus of 27", "torus", gridOf(true, 3, 3, 3)},
	{"NAS MG on 8", "hypercube", gridOf(false, 2, 2, 2)},
	{"NAS MG on 16", "hypercube", gridOf(false, 2, 2, 2, 2)},
	{"hypercube of 64", "hypercube", gridOf(false, 2, 2, 2, 2, 2, 2)},
	{"grid of three dimensions", "mesh", gridOf(false, 3, 3, 3)},
	{"scatter", "bipartite", links(7, false, func(join func(i, j int)) {
		for i := range 3 {
			for j := 3; j < 7; j++ {
				join(i, j)
			}
		}
	})},
	{"binary tree", "tree", links(15, true, func(join func(i, j int)) {
		for i := 1; i < 15; i++ {
			join(i, (i-1)/2)
		}
	})},
	{"a triangle with a tail", "irregular", links(5, true, func(join func(i, j int)) { join(0, 1); join(1, 2); join(2, 0); join(2, 3); join(3, 4) })},
	{"two rings", "irregular", links(8, true, func(join func(i, j int)) {
		for i := range 4 {
			join(i, (i+1)%4)
			join(4+i, 4+(i+1)%4)
		}
	})},
	{"a grid without a corner's link", "irregular", func() [][]float64 {
		m := gridOf(false, 4, 4)
		m[5][6], m[6][5] = 0, 0
		return m
	}()},
}

func everyPair(n int) func(join func(i, j int)) {
	return func(join func(i, j int)) {
		for i := range n {
			for j := range i {
				join(i, j)
			}
		}
	}
}

// Each pattern is named whatever the stations' numbers are, with rates that differ, and
// with other traffic of some per cent.
func TestPatterns(t *testing.T) {
	for _, c := range patterns {
		if got := PatternOf(c.rates); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
			continue
		}
		r := rand.New(rand.NewPCG(1, uint64(len(c.name))))
		right, tries := 0, 100
		for range tries {
			if PatternOf(noisy(c.rates, r)) == c.want {
				right++
			}
		}
		t.Logf("%s: %s, %d of %d times with noise", c.name, c.want, right, tries)
		if right < tries*95/100 {
			t.Errorf("%s: with noise it is seen %d of %d times only", c.name, right, tries)
		}
	}
}

// noisy returns the matrix under other numbers: each rate by another factor, log-normal
// with σ = 0.25, and up to 2 % of the rates on a third of the other pairs.
func noisy(rates [][]float64, r *rand.Rand) [][]float64 {
	n := len(rates)
	any := false
	for _, row := range rates {
		for _, x := range row {
			any = any || x > 0
		}
	}
	order := r.Perm(n)
	m := links(n, false, func(func(i, j int)) {})
	for i := range n {
		for j := range n {
			switch x := rates[i][j]; {
			case x > 0:
				m[order[i]][order[j]] = x * 37 * math.Exp(0.25*min(max(r.NormFloat64(), -2), 2))
			case any && i != j && r.IntN(3) == 0:
				m[order[i]][order[j]] = 37 * 0.02 * r.Float64()
			}
		}
	}
	return m
}

// Noise alone has no pattern, and any matrix is answered, soon.
func TestNoPattern(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	seen := make(map[string]int)
	for i := range 300 {
		n := 5 + i%60
		m := links(n, false, func(func(i, j int)) {})
		for range 3 * n {
			m[r.IntN(n)][r.IntN(n)] = math.Exp(r.NormFloat64())
		}
		seen[PatternOf(m)]++
	}
	t.Logf("300 matrices of chance: %v", seen)
	if seen["irregular"] < 270 { // in some, one flow outweighs all others: a pair
		t.Error("patterns are seen where there are none")
	}
}

func FuzzPattern(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9}, uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		n := int(size)
		m := links(n, false, func(func(i, j int)) {})
		for i, x := range b {
			if n > 0 {
				m[i/n%n][i%n] = math.Float64frombits(uint64(x) << 56)
			}
		}
		if PatternOf(m) == "" {
			t.Fatal("no answer")
		}
	})
}

// Of more stations than a pattern is looked for in, those with the most traffic count.
func TestMatrixOfMany(t *testing.T) {
	rates := make(map[[2]int]float64)
	for i := range 20_000 {
		rates[[2]int{i, i + 1}] = 1
	}
	for i := range MaxPattern - 1 {
		rates[[2]int{19_000, 100 * i}] = 500
	}
	m := Matrix(rates)
	if got := PatternOf(m); len(m) != MaxPattern || got != "star" {
		t.Errorf("of %d: %s", len(m), got)
	}
	if got := PatternOf(append(m, nil)); got != "irregular" {
		t.Errorf("of too many: %s", got)
	}
	if m := Matrix(map[[2]string]float64{}); len(m) != 0 || PatternOf(m) != "none" {
		t.Errorf("of nobody: %v", m)
	}
}
