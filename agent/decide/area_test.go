package decide

import (
	"errors"
	"slices"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/mesh"
	"farlan/overlay/route"
)

// A street is agents in a row, by their distances from the first one, each linked with the
// next one.
func street(at ...time.Duration) (told []Told) {
	for i, x := range at {
		t := Told{ID: agentID(i), At: start}
		if i > 0 {
			t.Rows = append(t.Rows, row(i-1, x-at[i-1], accepting))
		}
		if i < len(at)-1 {
			t.Rows = append(t.Rows, row(i+1, at[i+1]-x, holding))
		}
		told = append(told, t)
	}
	return told
}

func draw(t *testing.T, told []Told) *Picture {
	t.Helper()
	p, err := NewPicture(1, EpochOf(start), told[0].ID, told)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// towns returns a street of towns of so many agents that are 1 ms from each other, with
// 50 ms between towns.
func towns(sizes ...int) []Told {
	var at []time.Duration
	x := time.Duration(0)
	for _, n := range sizes {
		for range n {
			x += ms
			at = append(at, x)
		}
		x += 50 * ms
	}
	return street(at...)
}

// An area is divided where the widest gap is, no half less than a third.
func TestDivide(t *testing.T) {
	for _, c := range []struct{ towns, want []int }{
		{[]int{9, 11}, []int{9, 11}},
		{[]int{4, 16}, []int{10, 10}}, // too small a part
		{[]int{6, 7, 6}, []int{6, 7, 6}},
		{[]int{20, 20, 20, 20}, []int{10, 10, 10, 10, 10, 10, 10, 10}},
	} {
		told := towns(c.towns...)
		parts := draw(t, told).divide(7, 12)
		var sizes []int
		for i, area := range parts {
			if i == 0 || parts[i-1] != area {
				sizes = append(sizes, 0)
			}
			sizes[len(sizes)-1]++
		}
		if slices.Max(sizes) > 12 || slices.Min(sizes) < 4 {
			t.Errorf("%v becomes %v", c.towns, sizes)
		}
		if !slices.Equal(sizes, c.want) {
			t.Errorf("%v becomes %v, want %v", c.towns, sizes, c.want)
		}
		for i, area := range draw(t, told).divide(7, 12) {
			if area != parts[i] || area == 7 || area == 0 {
				t.Errorf("agent %d is in %d, else in %d", i, parts[i], area)
			}
		}
	}
}

func ids(numbers ...int) (all []overlay.AgentID) {
	for _, n := range numbers {
		all = append(all, agentID(n))
	}
	return all
}

// Gateways are spread over the area, stay while they are good, and are replaced at once when
// they are gone.
func TestGateways(t *testing.T) {
	told := towns(5, 5, 5, 5)
	first := draw(t, told).Gateways(nil)
	for town := range 4 {
		if n := len(slices.DeleteFunc(slices.Clone(first), func(id overlay.AgentID) bool { return index(id)/5 != town })); n != 1 {
			t.Errorf("%d gateways in town %d", n, town)
		}
	}
	if again := draw(t, told).Gateways(first); !slices.Equal(again, first) {
		t.Errorf("%v became %v", first, again)
	}
	// Another one of the town is hardly better: the one that is it stays.
	edge := ids(0, 5, 10, 15)
	if got := draw(t, told).Gateways(edge); slices.Equal(got, first) || len(got) != 4 {
		t.Errorf("of %v became %v: all at once", edge, got)
	}
	// One is gone.
	rest := first[1:]
	if got := draw(t, told).Gateways(rest); len(got) != 4 || index(got[0])/5 != 0 {
		t.Errorf("after %v left: %v", first[0].Short(), got)
	}
	// All in one town is bad: one is replaced in each epoch.
	bad := ids(0, 1, 2, 3)
	for range 3 {
		next := draw(t, told).Gateways(bad)
		same := 0
		for _, id := range next {
			if slices.Contains(bad, id) {
				same++
			}
		}
		if same != 3 {
			t.Errorf("%d of %v stay in %v", same, bad, next)
		}
		bad = next
	}
	// More than four there are only for a moment.
	if got := draw(t, told).Gateways(ids(0, 2, 7, 12, 17)); len(got) != 4 || slices.Contains(got, agentID(0)) {
		t.Errorf("of five: %v", got)
	}
}

func TestGatewaysRelay(t *testing.T) {
	told := towns(5, 5)
	for _, i := range []int{2, 7} {
		told[i].NoTransit = true
	}
	if got := draw(t, told).Gateways(ids(2)); len(got) != 4 || slices.Contains(got, agentID(2)) || slices.Contains(got, agentID(7)) {
		t.Errorf("who relays nothing is a gateway: %v", got)
	}
}

// gate returns a gateway that names others, and tells of a tree: a chain of some agents, each
// 10 ms farther.
func gate(n int, area uint32, names []int, tree ...int) Gate {
	a := &discovery.Area{Number: area, Size: len(tree) + 1}
	for _, x := range names {
		a.Gateways = append(a.Gateways, discovery.BriefOf(agentID(x)))
	}
	for i, x := range tree {
		a.Tree = append(a.Tree, discovery.Leaf{Agent: discovery.BriefOf(agentID(x)), Label: agentID(x).Label(), Parent: i - 1, Cost: time.Duration(i+1) * 10 * ms})
	}
	return Gate{ID: agentID(n), At: start, Area: a}
}

// Who isn't named by the others is no gateway, unless nobody is named.
func TestWhoCounts(t *testing.T) {
	for _, c := range []struct {
		name  string
		gates []Gate
		want  []int
	}{
		{"all name all", []Gate{gate(0, 7, []int{1, 2}), gate(1, 7, []int{0, 2}), gate(2, 7, []int{0, 1})}, []int{0, 1, 2}},
		{"a liar", []Gate{gate(0, 7, []int{1, 2}), gate(1, 7, []int{0, 2}), gate(2, 7, []int{0, 1}), gate(3, 7, []int{0, 1, 2})}, []int{0, 1, 2}},
		{"alone", []Gate{gate(0, 7, nil)}, []int{0}},
		{"two who don't know of each other", []Gate{gate(0, 7, nil), gate(1, 7, nil)}, []int{0, 1}},
		{"one is new", []Gate{gate(0, 7, []int{1}), gate(1, 7, []int{0}), gate(2, 7, []int{0, 1})}, []int{0, 1}},
	} {
		all := make([]int, len(c.gates))
		for i := range all {
			all[i] = i
		}
		got := count(c.gates, all)
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v count, want %v", c.name, got, c.want)
		}
	}
	var many []Gate
	some := make([]int, 3*discovery.MaxGateways)
	for i := range some {
		many, some[i] = append(many, gate(i, 7, nil)), i
	}
	if n := len(count(many, some)); n != discovery.MaxGateways {
		t.Errorf("%d of many count", n)
	}
}

// far looks from agent 0 of a street, whose last agents are gateways, for another one.
func far(told []Told, to int, gates ...Gate) (names []int, ok bool) {
	g := Graph(Joined(told, gates), nil)
	from, _ := g.Index(agentID(0))
	f, ok := NewLookout(NewBeyond(gates), g, from, new(route.Finder)).Path(discovery.BriefOf(agentID(to)))
	for _, i := range f.Near {
		names = append(names, index(g.ID(i)))
	}
	for _, l := range f.Tree {
		names = append(names, index(overlay.AgentID{byte(l.Agent >> 56), byte(l.Agent >> 48), byte(l.Agent >> 40), byte(l.Agent >> 32)}))
	}
	return names, ok
}

// Paths to other areas go to the gateway by which they cost least, and have eight links at
// most; trees that go back are left alone.
func TestPathsBeyond(t *testing.T) {
	short := street(0, 10*ms, 20*ms, 30*ms)
	for _, c := range []struct {
		name  string
		told  []Told
		gates []Gate
		want  []int
	}{
		{"by the gateway", short, []Gate{gate(3, 9, nil, 20, 21)}, []int{0, 1, 2, 3, 20, 21}},
		{"by the nearer one", short, []Gate{gate(2, 9, nil, 20, 21), gate(3, 9, nil, 20, 21)}, []int{0, 1, 2, 20, 21}},
		{"by the one nearer to the other end", short, []Gate{gate(1, 9, nil, 20, 22, 23, 24, 21), gate(3, 9, nil, 21)}, []int{0, 1, 2, 3, 21}},
		{"of two areas the nearer", short, []Gate{gate(1, 8, nil, 21), gate(3, 9, nil, 21)}, []int{0, 1, 21}},
		{"a tree that comes back", short, []Gate{gate(3, 9, nil, 1, 21)}, nil},
		{"nobody knows it", short, []Gate{gate(3, 9, nil, 22)}, nil},
		{"eight links", street(0, ms, 2*ms, 3*ms, 4*ms, 5*ms, 6*ms), []Gate{gate(6, 9, nil, 20, 21)}, []int{0, 1, 2, 3, 4, 5, 6, 20, 21}},
		{"nine links", street(0, ms, 2*ms, 3*ms, 4*ms, 5*ms, 6*ms), []Gate{gate(6, 9, nil, 20, 22, 21)}, nil},
		{"the gateway itself", short, []Gate{gate(0, 9, nil, 21)}, []int{0, 21}},
	} {
		if got, ok := far(c.told, 21, c.gates...); !slices.Equal(got, c.want) || ok != (c.want != nil) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// What a gateway tells of its area's ways is what others find there.
func TestTreeOf(t *testing.T) {
	told := street(0, 10*ms, 20*ms, 30*ms)
	var f route.Finder
	tree := TreeOf(Graph(told, nil), agentID(1), &f)
	a := discovery.Area{Tree: tree}
	for i, l := range tree {
		if l.Agent == discovery.BriefOf(agentID(3)) {
			if way := a.Way(i); len(way) != 2 || l.Label != agentID(3).Label() || l.Cost != 11*ms {
				t.Errorf("the way to 3 is %+v", way)
			}
		}
	}
	if len(tree) != 3 {
		t.Errorf("%+v", tree)
	}
}

// When agents move, and where to.
func TestAbode(t *testing.T) {
	z := Sizes{Whole: 20, Most: 12, Least: 4, Join: 14}
	leaves := func(n, from int) (all []int) {
		for i := range n {
			all = append(all, from+i)
		}
		return all
	}
	linked := func(g Gate, peer int) Gate {
		g.Rows = []discovery.Row{row(peer, ms, holding)}
		return g
	}
	// Where no area has several gateways each gets another one beside it.
	twins := func(gates []Gate) (all []Gate) {
		b := NewBeyond(gates)
		for _, g := range gates {
			if len(b.Sizes()) < len(gates) {
				return gates
			}
			twin := g
			twin.ID, twin.Links = agentID(500+index(g.ID)), discovery.Links{}
			all = append(all, g, twin)
		}
		slices.SortFunc(all, func(a, b Gate) int { return a.ID.Compare(b.ID) })
		return all
	}
	for _, c := range []struct {
		name   string
		area   uint32
		told   []Told
		gates  []Gate
		moving bool
		wait   int // epochs until it moves, 0: it doesn't
		want   uint32
	}{
		{"few", 0, towns(10, 10), nil, false, 0, 0},
		{"too many", 0, towns(10, 11), nil, false, 3, child(0, 1)},
		{"too many for an area, but few in all", 5, towns(6, 7), []Gate{gate(3, 5, nil, leaves(12, 30)...)}, false, 3, 0},
		{"too many for an area, in a network that is large", 5, towns(6, 7), []Gate{gate(3, 5, nil, leaves(12, 30)...), gate(20, 6, nil, leaves(9, 50)...)}, false, 3, child(5, 1)},
		{"it has just come", 5, towns(6, 7), []Gate{gate(3, 5, nil, leaves(12, 30)...), gate(20, 6, nil, leaves(9, 50)...)}, true, 0, 5},
		{"a newcomer", 0, towns(1), []Gate{gate(20, 6, nil, leaves(9, 30)...), gate(21, 8, nil, leaves(9, 50)...)}, false, 1, 6},
		{"a newcomer, the nearest is full", 0, towns(1), []Gate{gate(20, 6, nil, leaves(12, 30)...), gate(21, 8, nil, leaves(9, 50)...)}, false, 1, 8},
		{"a newcomer, of the nearest area one gateway alone tells", 0, towns(1), []Gate{gate(20, 6, nil, leaves(9, 30)...), gate(21, 8, []int{22}, leaves(9, 50)...), gate(22, 8, []int{21}, leaves(9, 50)...), gate(23, 9, []int{24}, leaves(9, 70)...), gate(24, 9, []int{23}, leaves(9, 70)...)}, false, 1, 8},
		{"a newcomer to a network that isn't divided", 0, towns(1), []Gate{gate(20, 6, nil, leaves(9, 30)...)}, false, 0, 0},
		{"those who are left over", 0, towns(5), []Gate{gate(20, 6, nil, leaves(9, 30)...), gate(21, 8, nil, leaves(9, 50)...)}, false, 3, child(0, rest)},
		{"an area too small", 5, towns(3), []Gate{linked(gate(1, 5, nil, 0, 2), 20), linked(gate(20, 6, nil, leaves(7, 30)...), 1), gate(21, 8, nil, leaves(9, 50)...)}, false, 3, 6},
		{"an area too small, there is no room", 5, towns(3), []Gate{linked(gate(1, 5, nil, 0, 2), 20), linked(gate(20, 6, nil, leaves(11, 30)...), 1), gate(21, 8, nil, leaves(9, 50)...)}, false, 0, 5},
		{"a small network", 5, towns(8), []Gate{gate(1, 5, nil, leaves(7, 2)...)}, false, 3, 0},
	} {
		p := draw(t, c.told)
		var a Abode
		moved := 0
		for epoch := 1; epoch <= 5 && moved == 0; epoch++ {
			got := a.Step(z, Situation{
				Self: agentID(0), Area: c.area, Moving: c.moving, Picture: p, Beyond: NewBeyond(twins(c.gates)),
				Gone:    func(uint32) bool { return false },
				Predict: func(id overlay.AgentID) int32 { return int32(index(id)) },
			})
			if got != c.area {
				moved = epoch
				if got != c.want {
					t.Errorf("%s: to %d, want %d", c.name, got, c.want)
				}
			}
		}
		if moved != c.wait {
			t.Errorf("%s: moves after %d epochs, want %d", c.name, moved, c.wait)
		}
	}
}

// Who sees others go where it was about to go itself follows, although the area isn't too
// large any more.
func TestAbodeFollows(t *testing.T) {
	z := Sizes{Whole: 20, Most: 12, Least: 4, Join: 14}
	in := Situation{Self: agentID(0), Picture: draw(t, towns(10, 11)), Beyond: NewBeyond(nil), Gone: func(uint32) bool { return false }}
	var a Abode
	a.Step(z, in)
	a.Step(z, in)
	in.Picture = draw(t, towns(10, 2))
	in.Gone = func(area uint32) bool { return area == child(0, 1) }
	if got := a.Step(z, in); got != child(0, 1) {
		t.Errorf("it is in %d", got)
	}
}

// Where more are than are shown in a picture, all that have the same records see the same ones.
// They are divided, and the others join areas as soon as there are some.
func TestCrowd(t *testing.T) {
	told := make([]Told, mesh.MaxAgents+50)
	for i := range told {
		told[i] = Told{ID: agentID(i), At: start}
	}
	if _, err := NewPicture(1, EpochOf(start), told[0].ID, told); !errors.Is(err, mesh.ErrTooMany) {
		t.Errorf("all of them: %v", err)
	}
	p, err := NewPictureOfSome(1, EpochOf(start), told[0].ID, told)
	if err != nil || p.View.Agents() != mesh.MaxAgents {
		t.Fatalf("%v, %d agents", err, p.View.Agents())
	}
	last := len(told) - 1
	if q, _ := NewPictureOfSome(1, EpochOf(start), told[last].ID, told); !slices.EqualFunc(p.Facts.Agents, q.Facts.Agents, func(a, b mesh.Agent) bool { return a.ID == b.ID }) {
		t.Error("another one sees others")
	}
	shown := p.Facts.Agents[0].ID
	i := slices.IndexFunc(told, func(x Told) bool { return p.View.Index(x.ID) < 0 })
	gates := []Gate{gate(20, 6, []int{21}, 30, 31, 32), gate(21, 6, []int{20}, 30, 31, 32)}
	next := func(self overlay.AgentID, gates []Gate) (area uint32) {
		var a Abode
		for range steadily {
			area = a.Step(Usual, Situation{
				Self: self, Picture: p, Beyond: NewBeyond(gates), Gone: func(uint32) bool { return false },
				Predict: func(overlay.AgentID) int32 { return 1 },
			})
		}
		return area
	}
	if area := next(shown, nil); area == 0 {
		t.Error("who is shown stays")
	}
	if area := next(told[i].ID, nil); area != 0 {
		t.Errorf("who isn't goes to %d before there are areas", area)
	}
	if area := next(told[i].ID, gates); area != 6 {
		t.Errorf("who isn't goes to %d", area)
	}
}

// Who tells of the members of other areas as the only gateway of one isn't believed as long as
// theirs do.
func TestLieOfMembers(t *testing.T) {
	short := street(0, 10*ms, 20*ms, 30*ms)
	liar := gate(1, 66, nil, 21)
	honest := []Gate{gate(2, 9, []int{3}, 20, 21), gate(3, 9, []int{2}, 20, 21)}
	if got, _ := far(short, 21, append([]Gate{liar}, honest...)...); !slices.Equal(got, []int{0, 1, 2, 20, 21}) {
		t.Errorf("%v", got)
	}
	if got, _ := far(short, 21, liar, honest[0]); !slices.Equal(got, []int{0, 1, 21}) {
		t.Errorf("of two that are alone the nearer: %v", got)
	}
}
