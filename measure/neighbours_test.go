package measure

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"farlan/overlay"
)

func someCandidates(n int) (all []Candidate) {
	for i := range n {
		c := Candidate{RTT: time.Duration(1+i) * 3 * time.Millisecond}
		binary.BigEndian.PutUint64(c.ID[:], uint64(i+1)*0x9e3779b97f4a7c15)
		all = append(all, c)
	}
	return all
}

func both(a, b []overlay.AgentID) (n int) {
	for _, x := range a {
		if slices.Contains(b, x) {
			n++
		}
	}
	return n
}

// In a small network everybody is measured; in a large one the near, those with links
// and traffic, and some at random; and as many as the budget has room for.
func TestNeighbours(t *testing.T) {
	self := overlay.AgentID{1}
	if got := Neighbours(self, append(someCandidates(15), Candidate{ID: self}), 1, 8); len(got) != 15 {
		t.Errorf("%d of 15", len(got))
	}
	const k = 32
	all := someCandidates(400)
	all[399].Linked, all[398].Linked = true, true
	for i := 300; i < 320; i++ {
		all[i].Traffic = int64(i) << (i - 300)
	}
	got := Neighbours(self, all, 7, k)
	has := func(i int) bool { return slices.Contains(got, all[i].ID) }
	near := 0
	for i := range 21 { // under 64 ms
		if has(i) {
			near++
		}
	}
	traffic := 0
	for i := 300; i < 320; i++ {
		if has(i) {
			traffic++
		}
	}
	t.Logf("%d neighbours: %d of the 21 nearest, %d with traffic, links: %v %v", len(got), near, traffic, has(398), has(399))
	if len(got) != k || !slices.IsSortedFunc(got, overlay.AgentID.Compare) || near < 8 || !has(398) || !has(399) || traffic < 12 || !has(319) {
		t.Error("others were chosen")
	}

	// The same arguments make the same choice, in whatever order.
	shuffled := slices.Clone(all)
	slices.Reverse(shuffled)
	shuffled = append(shuffled, all[3], Candidate{ID: self})
	if !slices.Equal(got, Neighbours(self, shuffled, 7, k)) {
		t.Error("the order makes a difference")
	}
	// Little changes from one epoch to the next, or with a little noise.
	for i := range all {
		all[i].RTT += all[i].RTT / 50
	}
	if n := both(got, Neighbours(self, all, 7, k)); n < k-2 {
		t.Errorf("2 %% more leave %d of %d", n, k)
	}
	plain := someCandidates(400)
	first := Neighbours(self, plain, 0, k)
	last, after := first, make(map[overlay.AgentID]bool)
	for epoch := range uint64(2 * turns) {
		next := Neighbours(self, plain, epoch, k)
		if n := both(last, next); n < k-6 {
			t.Errorf("epoch %d leaves %d of %d", epoch, n, k)
		}
		last = next
		for _, id := range next {
			after[id] = true
		}
	}
	t.Logf("in %d epochs %d agents were measured, of %d at a time", 2*turns, len(after), k)
	if len(after) < k+8 {
		t.Error("chance always chooses the same")
	}
	for budget, want := range map[float64]int{0: MinNeighbours, 640: 16, 1e9: 1 << 10} {
		if n := NeighbourCount(budget, 40); n != want {
			t.Errorf("%v B/s are enough for %d, want %d", budget, n, want)
		}
	}
	if NeighbourCount(1, 0) != MinNeighbours || EpochOf(-5) != 0 {
		t.Error("nothing costs nothing")
	}
	if got := Neighbours(self, nil, 0, k); len(got) != 0 {
		t.Error("nobody is there")
	}
}
