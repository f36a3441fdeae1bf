package decide

import (
	"slices"
	"testing"

	"farlan/discovery"
	"farlan/overlay/route"
)

// Agents 0 to 3 are in a ring, of whom 0 and 3 are gateways. Where another gateway leads still,
// there is no haste; where none does, one of them tells at once, another one in another epoch.
func TestHaste(t *testing.T) {
	const none = discovery.NoNews
	for _, c := range []struct {
		name     string
		cut      [][2]int
		first    []int // what gateway 0 told of
		last     []int // and 3
		want     discovery.News
		somebody bool // instead: one of them at once
	}{
		{"all stand", nil, []int{1, 2}, []int{2, 1}, none, false},
		{"another one leads there", [][2]int{{1, 2}}, []int{1, 2}, []int{2, 1}, discovery.SlowNews, false},
		{"nobody leads there", [][2]int{{0, 1}}, []int{1, 2}, []int{2}, 0, true},
		{"somebody is new", nil, []int{1}, []int{1}, 0, true},
	} {
		told := street(0, 10*ms, 20*ms, 30*ms)
		told[0].Rows = append(told[0].Rows, row(3, 30*ms, accepting))
		told[3].Rows = slices.Insert(told[3].Rows, 0, row(0, 30*ms, holding))
		for _, x := range c.cut {
			for _, ends := range [2][2]int{x, {x[1], x[0]}} {
				told[ends[0]].Rows = slices.DeleteFunc(told[ends[0]].Rows, func(r discovery.Row) bool { return r.Peer == discovery.BriefOf(agentID(ends[1])) })
			}
		}
		g, f := Graph(told, nil), new(route.Finder)
		gates := []Gate{gate(0, 9, []int{3}, c.first...), gate(3, 9, []int{0}, c.last...)}
		b := NewBeyond(gates)
		urgent := [2]int{}
		for epoch := range int64(20) {
			var got [2]discovery.News
			for i := range gates {
				got[i] = b.Haste(g, epoch, gates[i].ID, gates[i].Area, TreeOf(g, gates[i].ID, f), f)
				if got[i] == discovery.Urgent {
					urgent[i]++
				}
			}
			if want := [2]discovery.News{c.want, c.want}; !c.somebody && got != want {
				t.Fatalf("%s: %v, want %v", c.name, got, want)
			}
			if c.somebody && (got[0] == discovery.Urgent) == (got[1] == discovery.Urgent) {
				t.Fatalf("%s: %v in epoch %d", c.name, got, epoch)
			}
		}
		if c.somebody && min(urgent[0], urgent[1]) < 3 {
			t.Errorf("%s: of 20 epochs told %v", c.name, urgent)
		}
	}
}

// A tree that names whom it can't lead to, or nobody who is there, leads nowhere.
func TestStandingOfLies(t *testing.T) {
	told := street(0, 10*ms, 20*ms, 30*ms)
	g, f := Graph(told, nil), new(route.Finder)
	for _, c := range []struct {
		gateway int
		tree    []int
		want    int
	}{
		{0, []int{1, 2, 3}, 3},
		{0, []int{2, 3}, 0},     // there is no link with 2
		{0, []int{1, 77, 2}, 1}, // nobody leads beyond who isn't there
		{0, []int{0, 1}, 0},     // from itself to itself
		{77, []int{1, 2}, 0},
	} {
		led, _ := standing(g, agentID(c.gateway), gate(c.gateway, 9, nil, c.tree...).Tree, f)
		if len(led) != c.want {
			t.Errorf("%d leads to %d by %v, want %d", c.gateway, len(led), c.tree, c.want)
		}
	}
}
