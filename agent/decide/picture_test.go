package decide

import (
	"errors"
	"slices"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/mesh"
)

// row is what an agent tells of its link with another.
func row(peer int, rtt time.Duration, t discovery.Intent) discovery.Row {
	return discovery.Row{Peer: discovery.BriefOf(agentID(peer)), Pair: measure.Pair{RTT: rtt, RTTSource: measure.Measured}, Intent: t}
}

var (
	holding   = discovery.Intent{Holds: true}
	accepting = discovery.Intent{Accepts: true}
)

// A link is there if both ends keep it and one holds it; it costs what the worse of both
// tells.
func TestPictureOfLinks(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name string
		a, b *discovery.Row // what 0 tells of 1, and 1 of 0
		by   [2]mesh.Hold
		rtt  time.Duration // 0: no link
	}{
		{"held and accepted", new(row(1, 10*ms, holding)), new(row(0, 10*ms, accepting)), [2]mesh.Hold{mesh.Holds, mesh.Accepts}, 10 * ms},
		{"the longer round trip counts", new(row(1, ms, holding)), new(row(0, 30*ms, accepting)), [2]mesh.Hold{mesh.Holds, mesh.Accepts}, 30 * ms},
		{"held by both", new(row(1, ms, holding)), new(row(0, ms, holding)), [2]mesh.Hold{mesh.Holds, mesh.Holds}, ms},
		{"leaving", new(row(1, ms, accepting)), new(row(0, ms, discovery.Intent{Holds: true, Leaving: true})), [2]mesh.Hold{mesh.Accepts, mesh.Leaves}, ms},
		{"only measured there", new(row(1, ms, holding)), new(row(0, ms, discovery.Intent{})), [2]mesh.Hold{}, 0},
		{"only accepted", new(row(1, ms, accepting)), new(row(0, ms, accepting)), [2]mesh.Hold{}, 0},
		{"one-sided", new(row(1, ms, holding)), nil, [2]mesh.Hold{}, 0},
		{"forbidden", new(row(1, ms, discovery.Intent{Holds: true, Forbid: true})), new(row(0, ms, accepting)), [2]mesh.Hold{}, 0},
	} {
		told := []Told{{ID: agentID(0), At: start}, {ID: agentID(1), At: start}}
		for i, r := range []*discovery.Row{c.a, c.b} {
			if r != nil {
				told[i].Rows = []discovery.Row{*r}
			}
		}
		p, err := NewPicture(1, EpochOf(start), agentID(0), told)
		if err != nil {
			t.Fatal(err)
		}
		want := []mesh.Link{{A: 0, B: 1, Cost: CandidateCost(c.rtt), By: c.by}}
		if c.rtt == 0 {
			want = nil
		}
		if !slices.Equal(p.Facts.Links, want) {
			t.Errorf("%s: %+v, want %+v", c.name, p.Facts.Links, want)
		}
	}
}

// Who is silent for three minutes and linked with nobody is forgotten, by all but himself.
func TestWhoIsPresent(t *testing.T) {
	old := start.Add(-absentAfter)
	told := []Told{
		{ID: agentID(0), At: start},
		{ID: agentID(1), At: old}, // linked with 0
		{ID: agentID(2), At: old}, // linked with 1
		{ID: agentID(3), At: old}, // says that it is linked with 0, which doesn't
		{ID: agentID(4), At: old}, // linked with 5 only
		{ID: agentID(5), At: old},
		{ID: agentID(6), At: start.Add(time.Second - absentAfter)},
	}
	link := func(a, b int) {
		told[a].Rows = append(told[a].Rows, row(b, time.Millisecond, holding))
		told[b].Rows = append(told[b].Rows, row(a, time.Millisecond, accepting))
	}
	link(0, 1)
	link(1, 2)
	link(4, 5)
	told[3].Rows = []discovery.Row{row(0, time.Millisecond, holding)}
	for i := range told {
		slices.SortFunc(told[i].Rows, func(a, b discovery.Row) int { return byPeer(a, b.Peer) })
	}
	here := func(self int) (all []int) {
		p, err := NewPicture(1, EpochOf(start), agentID(self), told)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range p.Facts.Agents {
			all = append(all, index(a.ID))
		}
		return all
	}
	for self, want := range map[int][]int{0: {0, 1, 2, 6}, 2: {0, 1, 2, 6}, 3: {0, 1, 2, 3, 6}, 5: {0, 1, 2, 4, 5, 6}} {
		if got := here(self); !slices.Equal(got, want) {
			t.Errorf("agent %d sees %v, want %v", self, got, want)
		}
	}
	l := NewLinks(agentID(3))
	if !l.Alone(start.Add(aloneAfter), start) || l.Alone(start.Add(aloneAfter-1), start) {
		t.Error("who has no link must tell each minute")
	}
}

// What operators wish is part of the picture, and a network can be too large for one.
func TestPictureOfRules(t *testing.T) {
	told := []Told{{ID: agentID(0), At: start}, {ID: agentID(1), At: start}, {ID: agentID(2), At: start}}
	told[0].NoTransit, told[1].Cost = true, 3*time.Millisecond
	told[0].Rows = []discovery.Row{row(1, 0, discovery.Intent{Prefer: true}), row(2, 0, discovery.Intent{Forbid: true, Cost: time.Millisecond})}
	p, err := NewPicture(1, EpochOf(start), agentID(0), told)
	if err != nil {
		t.Fatal(err)
	}
	a := p.Facts.Agents
	want := []mesh.Rule{{Peer: 1, Prefer: true}, {Peer: 2, Cost: 1000, Forbid: true}}
	if !a[0].NoTransit || a[1].Cost != 3000 || !slices.Equal(a[0].Rules, want) {
		t.Errorf("%+v", a)
	}
	var many []Told
	for i := range mesh.MaxAgents + 1 {
		many = append(many, Told{ID: agentID(i), At: start})
	}
	if _, err := NewPicture(1, EpochOf(start), overlay.AgentID{}, many); !errors.Is(err, mesh.ErrTooMany) {
		t.Error(err)
	}
}

// Agents compare hashes of their pictures: what links cost isn't in them, who holds them is.
func TestPictureHash(t *testing.T) {
	hash := func(rtt time.Duration, theirs discovery.Intent, agents int) string {
		told := []Told{{ID: agentID(0), At: start}, {ID: agentID(1), At: start}, {ID: agentID(2), At: start}}
		told[0].Rows = []discovery.Row{row(1, rtt, holding)}
		told[1].Rows = []discovery.Row{row(0, rtt, theirs)}
		p, err := NewPicture(1, EpochOf(start), agentID(0), told[:agents])
		if err != nil {
			t.Fatal(err)
		}
		return string(p.Hash())
	}
	same := hash(time.Millisecond, accepting, 3)
	if hash(2*time.Millisecond, accepting, 3) != same {
		t.Error("it depends on costs")
	}
	for _, other := range []string{hash(time.Millisecond, holding, 3), hash(time.Millisecond, discovery.Intent{}, 3), hash(time.Millisecond, accepting, 2)} {
		if other == same {
			t.Error("it is the same for other links or agents")
		}
	}
}

// Agents compare hashes of the routes that follow from what is told: they are the same whatever
// the order, and whatever changes no path; what makes another path the shortest changes them.
func TestRoutesHash(t *testing.T) {
	for _, n := range []int{routesHashed, 40} {
		told, _ := ringWorld(n, 8)
		same := string(RoutesHash(1, told))
		if again := slices.Clone(told); string(RoutesHash(1, again)) != same {
			t.Errorf("%d agents: the same facts, another hash", n)
		}
		back := slices.Clone(told)
		slices.Reverse(back)
		if string(RoutesHash(1, back)) != same {
			t.Errorf("%d agents: it depends on the order", n)
		}
		twice := changed(told, func(r *discovery.Row) { r.RTT *= 2; r.Left = 1_000_000 })
		if string(RoutesHash(1, twice)) == same {
			t.Errorf("%d agents: every round trip twice as long, and no path is another one", n)
		}
		if wider := changed(told, func(r *discovery.Row) { r.Left = 1_000_000 }); string(RoutesHash(1, wider)) != same {
			t.Errorf("%d agents: it depends on what changes no shortest path", n)
		}
		if string(RoutesHash(1, told[1:])) == same {
			t.Errorf("%d agents: one less, and the same", n)
		}
	}
	few, _ := ringWorld(3, 2)
	if string(RoutesHash(1, few)) != string(RoutesHash(2, few)) || len(RoutesHash(1, nil)) != 8 {
		t.Error("of few agents all count")
	}
}

// changed returns told with all rows changed.
func changed(told []Told, change func(*discovery.Row)) (all []Told) {
	for _, x := range told {
		x.Rows = slices.Clone(x.Rows)
		for i := range x.Rows {
			change(&x.Rows[i])
		}
		all = append(all, x)
	}
	return all
}
