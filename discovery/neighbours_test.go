package discovery

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"farlan/measure"
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
		{"ring", 5, row(1, 2, 3, 4, 5, 6, 7, 8), row(4, 6), 4},
		{"ring over the end", 8, row(1, 2, 3, 4, 5, 6, 7, 8), row(1, 7), 4},
		{"ring over the start", 1, row(1, 2, 3, 4, 5, 6, 7, 8), row(2, 8), 4},
	} {
		if got := Neighbours(id(c.self), c.members, nil, c.degree); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// For any number of agents the graph is symmetric, in one piece (even without
// any one agent), shallow, and of bounded degree.
func TestNeighbourGraph(t *testing.T) {
	const degree = 8
	for n := 2; n <= 500; n += 1 + n/8 {
		members := agents(n)
		told := tellLinks(members, uint64(n))
		graph := make(map[overlay.AgentID][]overlay.AgentID)
		near := 0
		for _, a := range members {
			beside := Near(a, told)
			near += len(beside)
			graph[a] = Neighbours(a, members, beside, degree)
			if len(graph[a]) > degree {
				t.Errorf("%d agents: %v has %d neighbours", n, a.Short(), len(graph[a]))
			}
		}
		for _, a := range members {
			for _, b := range graph[a] {
				if a == b || !slices.Contains(graph[b], a) {
					t.Fatalf("%d agents: %v has %v, but not the other way round", n, a.Short(), b.Short())
				}
			}
		}
		if n > 2 && near < n/4 {
			t.Errorf("%d agents: only %d ends of near connections", n, near)
		}
		if got, far := reached(graph, members[0], overlay.AgentID{}); got != n || far > 6 {
			t.Errorf("%d agents: %d in one piece, the farthest %d steps away", n, got, far)
		}
		for _, without := range members[1:min(n, 20)] {
			if got, _ := reached(graph, members[0], without); got != n-1 {
				t.Errorf("%d agents without one: only %d in one piece", n, got)
			}
		}
	}
}

func linkTo(id overlay.AgentID, micros int) Link {
	return Link{Peer: id, Pair: measure.Pair{RTT: time.Duration(micros) * time.Microsecond}}
}

// tellLinks makes up the links that agents on a plane tell, everybody to everybody.
func tellLinks(members []overlay.AgentID, seed uint64) func(overlay.AgentID) ([]Link, bool) {
	r := rand.New(rand.NewPCG(seed, 3))
	at := make([][2]float64, len(members))
	for i := range at {
		at[i] = [2]float64{r.Float64(), r.Float64()}
	}
	told := make(map[overlay.AgentID][]Link)
	for i, a := range members {
		links := make([]Link, 0, len(members))
		for j, b := range members {
			if a != b {
				links = append(links, linkTo(b, 500+int(100_000*math.Hypot(at[i][0]-at[j][0], at[i][1]-at[j][1]))))
			}
		}
		told[a] = links
	}
	return func(a overlay.AgentID) ([]Link, bool) { return told[a], true }
}

// Only who is near from both sides is a near neighbour; what isn't measured isn't near;
// and what changes by little changes nothing.
func TestNear(t *testing.T) {
	id := func(n byte) overlay.AgentID { return overlay.AgentID{n} }
	told := map[overlay.AgentID][]Link{
		id(1): {linkTo(id(2), 9_000), linkTo(id(3), 40_000), linkTo(id(4), 200_000), linkTo(id(5), 0)},
		id(2): {linkTo(id(1), 9_500), linkTo(id(3), 30_000), linkTo(id(4), 150_000)},
		id(3): {linkTo(id(2), 30_000), linkTo(id(4), 20_000), linkTo(id(1), 90_000)},
		id(4): {linkTo(id(3), 20_000), linkTo(id(6), 10_000), linkTo(id(1), 200_000)},
		// 5 is one who has told nothing
	}
	links := func(a overlay.AgentID) ([]Link, bool) { l, ok := told[a]; return l, ok }
	for self, want := range map[byte][]overlay.AgentID{1: {id(2)}, 2: {id(1), id(3)}, 3: {id(2), id(4)}, 4: {id(3)}, 5: nil, 6: nil} {
		got := Near(id(self), links)
		slices.SortFunc(got, overlay.AgentID.Compare)
		if !slices.Equal(got, want) {
			t.Errorf("near to %d: %v, want %v", self, got, want)
		}
	}
}

// reached returns how many agents a reaches in the graph without one, and in how many
// steps.
func reached(graph map[overlay.AgentID][]overlay.AgentID, a, without overlay.AgentID) (count, steps int) {
	seen := map[overlay.AgentID]int{a: 0}
	for todo := []overlay.AgentID{a}; len(todo) > 0; todo = todo[1:] {
		for _, b := range graph[todo[0]] {
			if _, ok := seen[b]; !ok && b != without {
				seen[b] = seen[todo[0]] + 1
				steps = seen[b]
				todo = append(todo, b)
			}
		}
	}
	return len(seen), steps
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

// Of many links those are told that were told before, then the nearest; both ends of a
// link see the same distance, so it is told by both or by none as often as can be.
func TestTellable(t *testing.T) {
	id := func(n int) overlay.AgentID { return overlay.AgentID{byte(n)} }
	var links []Link
	for i := 1; i <= 9; i++ {
		links = append(links, linkTo(id(i), i*i*10_000))
	}
	links[0].RTT = 0 // isn't measured
	peers := func(links []Link) (out []int) {
		for _, l := range links {
			out = append(out, int(l.Peer[0]))
		}
		return out
	}
	for _, c := range []struct {
		name string
		told []Link
		most int
		want []int
	}{
		{"few", nil, 9, []int{1, 2, 3, 4, 5, 6, 7, 8, 9}},
		{"the nearest", nil, 2, []int{2, 3}},
		{"those of before", []Link{linkTo(id(1), 0), linkTo(id(9), 1), linkTo(id(77), 1)}, 4, []int{1, 2, 3, 9}},
		{"too many of before", links, 2, []int{2, 3}},
	} {
		if got := peers(Tellable(id(100), links, c.told, c.most)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if !slices.Equal(peers(links), []int{1, 2, 3, 4, 5, 6, 7, 8, 9}) {
		t.Error("the links were changed")
	}
}
