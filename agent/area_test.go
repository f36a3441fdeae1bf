package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"farlan/agent/decide"
)

// few are sizes by which twenty agents are too many for one area.
var few = decide.Sizes{Whole: 16, Most: 12, Least: 3, Join: 12}

// Agents that remember three areas join them by gateways: each then hears what each floods
// once, and frames between areas go to and fro, by gateways if datagrams don't pass directly.
func TestAcrossAreas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 20
		w := newTown(t, count, few, func(i int) uint32 { return uint32(1 + i/7) })
		w.run(70 * time.Second)
		all := make([]int, count)
		for i := range all {
			all[i] = i
		}
		t.Logf("%v gateways %v", w.areas(), w.gateways())
		w.why(all...)
		for i := range all {
			if missed, twice := w.broadcast(i); missed != nil || twice != nil {
				t.Errorf("broadcast of %d: %v missed it, %v heard it again", i, missed, twice)
			}
		}
		for _, c := range [][2]int{{0, 19}, {19, 0}, {1, 12}, {12, 1}, {18, 2}, {2, 18}} {
			began := time.Now()
			if !w.tell(c[0], c[1], 3*time.Second) {
				t.Errorf("%v failed", c)
				w.why(c[0], c[1])
			}
			t.Logf("%v after %v", c, time.Since(began))
		}
	})
}
