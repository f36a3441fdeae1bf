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
	none, slow, urgent := discovery.NoNews, discovery.SlowNews, discovery.Urgent
	for _, c := range []struct {
		name  string
		cut   [][2]int
		first []int             // what gateway 0 told of
		last  []int             // and 3
		alone bool              // 3 has no link with gateways of other areas
		want  [2]discovery.News // the most in some epochs
	}{
		{"all stand", nil, []int{1, 2}, []int{2, 1}, false, [2]discovery.News{none, none}},
		{"another one leads there", [][2]int{{1, 2}}, []int{1, 2}, []int{2, 1}, false, [2]discovery.News{slow, slow}},
		{"one leads there that nobody reaches", [][2]int{{1, 2}}, []int{1, 2}, []int{2, 1}, true, [2]discovery.News{urgent, slow}},
		{"nobody leads there", [][2]int{{0, 1}}, []int{1, 2}, []int{2}, false, [2]discovery.News{urgent, urgent}},
		{"somebody is new", nil, []int{1}, []int{1}, false, [2]discovery.News{urgent, urgent}},
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
		gates[0].Rows = []discovery.Row{row(20, ms, holding)}
		if !c.alone {
			gates[1].Rows = gates[0].Rows
		}
		b := NewBeyond(gates)
		var most, times [2]discovery.News
		for epoch := range int64(20) {
			var got [2]discovery.News
			for i := range gates {
				got[i] = b.Haste(g, epoch, gates[i].ID, gates[i].Area, TreeOf(g, gates[i].ID, f), f)
				if most[i] = max(most[i], got[i]); got[i] == urgent {
					times[i]++
				}
			}
			if got[0] == urgent && got[1] == urgent {
				t.Errorf("%s: both at once in epoch %d", c.name, epoch)
			}
		}
		if most != c.want {
			t.Errorf("%s: %v, want %v", c.name, most, c.want)
		}
		for i := range times {
			if c.want[i] == urgent && (times[i] < 3 || times[0]+times[1] < 20 && c.want[0] == c.want[1]) {
				t.Errorf("%s: told %v times in 20 epochs", c.name, times)
			}
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
