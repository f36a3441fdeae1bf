package route

import (
	"bufio"
	"compress/gzip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// throughputGrid reads what 63 cloud regions receive from each other, in kbit/s.
func throughputGrid(t testing.TB) [][]uint32 {
	t.Helper()
	file, err := os.Open("../../measure/predict/testdata/skyplane63_gbps.csv.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	s := bufio.NewScanner(z)
	s.Scan() // a comment
	var rates [][]uint32
	for s.Scan() {
		var row []uint32
		for _, x := range strings.Split(s.Text(), ",")[1:] {
			gbit, _ := strconv.ParseFloat(x, 64)
			row = append(row, uint32(max(0, gbit)*1e6))
		}
		rates = append(rates, row)
	}
	return rates
}

// On the grid the widest path of every pair gives 95 % at least of what the best relay
// gives, or the direct path if that is better.
func TestGridBulk(t *testing.T) {
	rates := throughputGrid(t)
	n := len(rates)
	w := newWorld(n)
	linked := func(a, b int) bool { return a != b && rates[a][b] > 0 && rates[b][a] > 0 }
	for a := range n {
		for b := range n {
			if linked(a, b) {
				w.links = append(w.links, Link{From: id(a), To: id(b), RTTMicros: 100_000, RateKbit: rates[a][b], Up: true})
			}
		}
	}
	g := w.graph()
	var f Finder
	var table Table
	var ratios, gains []float64
	var ours, relay, direct float64
	hops := 0
	for a := range n {
		f.Bulk(g, int32(a), nil, &table)
		for b := range n {
			if !linked(a, b) {
				continue
			}
			best := rates[a][b]
			for r := range n {
				if linked(a, r) && linked(r, b) {
					best = max(best, min(rates[a][r], rates[r][b]))
				}
			}
			x, why := f.Figures(g, table.Path(int32(b)), nil)
			if why != None {
				t.Fatalf("%d to %d: %v", a, b, why)
			}
			ours, relay, direct = ours+float64(x.RateKbit), relay+float64(best), direct+float64(rates[a][b])
			ratios = append(ratios, float64(x.RateKbit)/float64(best))
			gains = append(gains, float64(x.RateKbit)/float64(rates[a][b]))
			hops += len(table.Path(int32(b))) - 1
		}
	}
	slices.Sort(ratios)
	slices.Sort(gains)
	t.Logf("%d pairs of %d: widest ÷ best of direct and one relay %.3f in all, least %.3f, median %.3f; ÷ direct %.3f in all, median %.3f; %.2f links on average",
		len(ratios), n, ours/relay, ratios[0], ratios[len(ratios)/2], ours/direct, gains[len(gains)/2], float64(hops)/float64(len(ratios)))
	if n != 63 || len(ratios) < 3000 {
		t.Fatalf("only %d pairs of %d regions", len(ratios), n)
	}
	if ratios[0] < 0.95 || ours/relay < 0.95 {
		t.Errorf("below 95 %% of the best relay")
	}
}
