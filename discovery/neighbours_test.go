package discovery

import (
	"math/rand/v2"
	"slices"
	"testing"

	"farlan/overlay"
)

func agents(n int) []overlay.AgentID {
	ids := make([]overlay.AgentID, n)
	for i := range ids {
		ids[i] = overlay.AgentID{byte(i * 151), byte(i >> 8), byte(i), 1}
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(n, func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	return ids
}

func TestNeighbours(t *testing.T) {
	id := func(n byte) overlay.AgentID { return overlay.AgentID{n} }
	row := func(n ...byte) (ids []overlay.AgentID) {
		for _, x := range n {
			ids = append(ids, id(x))
		}
		return ids
	}
	for _, c := range []struct {
		name          string
		self          byte
		members, want []overlay.AgentID
		degree        int
	}{
		{"alone", 1, nil, nil, 8},
		{"only self", 1, row(1), nil, 8},
		{"all of few", 2, row(4, 2, 1, 3), row(1, 3, 4), 8},
		{"self not among the members, one twice", 9, row(4, 2, 2), row(2, 4), 8},
		{"ring", 5, row(1, 2, 3, 4, 5, 6, 7, 8), row(3, 4, 6, 7), 4},
		{"ring over the end", 8, row(1, 2, 3, 4, 5, 6, 7, 8), row(1, 2, 6, 7), 4},
		{"ring over the start", 1, row(1, 2, 3, 4, 5, 6, 7, 8), row(2, 3, 7, 8), 4},
	} {
		if got := Neighbours(id(c.self), c.members, c.degree); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// For any number of agents the graph is symmetric, in one piece (even without
// any one agent) and of bounded degree.
func TestNeighbourGraph(t *testing.T) {
	for n := 2; n <= 500; n += 1 + n/8 {
		members := agents(n)
		graph := make(map[overlay.AgentID][]overlay.AgentID)
		edges, most := 0, 0
		for _, a := range members {
			graph[a] = Neighbours(a, members, 8)
			edges += len(graph[a])
			most = max(most, len(graph[a]))
		}
		for _, a := range members {
			for _, b := range graph[a] {
				if a == b || !slices.Contains(graph[b], a) {
					t.Fatalf("%d agents: %v has %v, but not the other way round", n, a.Short(), b.Short())
				}
			}
		}
		if mean := float64(edges) / float64(n); mean > 9 || most > 18 {
			t.Errorf("%d agents: mean degree %.1f, greatest %d", n, mean, most)
		}
		if got := reached(graph, members[0], overlay.AgentID{}); got != n {
			t.Errorf("%d agents: only %d in one piece", n, got)
		}
		if got := reached(graph, members[0], members[1]); got != n-1 {
			t.Errorf("%d agents without one: only %d in one piece", n, got)
		}
	}
}

// reached returns how many agents a reaches in the graph without one.
func reached(graph map[overlay.AgentID][]overlay.AgentID, a, without overlay.AgentID) int {
	seen := map[overlay.AgentID]bool{a: true}
	for todo := []overlay.AgentID{a}; len(todo) > 0; todo = todo[1:] {
		for _, b := range graph[todo[0]] {
			if !seen[b] && b != without {
				seen[b] = true
				todo = append(todo, b)
			}
		}
	}
	return len(seen)
}

func TestServers(t *testing.T) {
	members := agents(100)
	all := Servers(members, 16)
	if len(all) != 16 || !slices.IsSortedFunc(all, overlay.AgentID.Compare) {
		t.Fatalf("%d servers, %v", len(all), all)
	}
	slices.Reverse(members)
	if got := Servers(append(members, members[0]), 16); !slices.Equal(got, all) {
		t.Error("the order of the members or one twice makes a difference")
	}
	// Without one of the servers another agent takes its place; the rest stays.
	without := slices.DeleteFunc(slices.Clone(members), func(a overlay.AgentID) bool { return a == all[5] })
	kept := 0
	for _, a := range Servers(without, 16) {
		if slices.Contains(all, a) {
			kept++
		}
	}
	if kept != 15 {
		t.Errorf("%d of 15 servers stay", kept)
	}
	if got := Servers(members[:3], 16); len(got) != 3 {
		t.Errorf("%d servers of 3", len(got))
	}
}
