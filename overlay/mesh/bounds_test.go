package mesh

import (
	"errors"
	"slices"
	"testing"
)

// Agents that claim links with all don't make views large; all agents ignore the same ones.
func TestLinksAreBounded(t *testing.T) {
	t.Parallel()
	const n = 400
	f := Facts{Agents: agents(n)}
	for a := range n {
		for b := range a {
			if a < 250 || b < 3 {
				f.Links = append(f.Links, Link{A: a, B: b, Cost: 1000, By: [2]Hold{Holds, Accepts}})
			}
		}
	}
	for i := 299; i+1 < n; i++ {
		f.Links = append(f.Links, Link{A: i, B: i + 1, Cost: 1000, By: [2]Hold{Holds, Accepts}})
	}
	v := mustView(t, f)
	slices.Reverse(f.Links)
	w := mustView(t, f)
	if len(v.links) > n*MaxLinks/2 || !slices.Equal(v.links, w.links) || v.Phi() != w.Phi() {
		t.Errorf("%d links, Φ %d; in another order %d, %d", len(v.links), v.Phi(), len(w.links), w.Phi())
	}
	for i := range n {
		if v.Degree(i) > MaxLinks {
			t.Errorf("agent %d has %d links", i, v.Degree(i))
		}
	}
	if d := v.Degree(350); d != 2 {
		t.Errorf("an honest agent has %d links, want the 2 with other honest ones", d)
	}
}

// Nothing that others say may make an agent panic, hang or hold links without bound.
func FuzzFacts(f *testing.F) {
	f.Add(uint64(1), []byte{20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
	f.Add(uint64(7), []byte{2, 0, 0, 255, 255, 1, 1})
	f.Fuzz(func(t *testing.T, seed uint64, b []byte) {
		next := func() int {
			if len(b) == 0 {
				return 0
			}
			x := int(int8(b[0]))
			b = b[1:]
			return x
		}
		n := next() & 63
		facts := Facts{Network: seed, Agents: agents(n)}
		for len(b) > 0 {
			cost := int32(next()) << (next() & 31)
			switch a, x := next(), next(); {
			case a >= 0 && a < n && x < -60:
				facts.Agents[a].Rules = append(facts.Agents[a].Rules, Rule{Peer: next(), Cost: cost, Prefer: x&1 == 0, Forbid: x&2 == 0})
			case a >= 0 && a < n && x < -20:
				facts.Agents[a].Demands = append(facts.Agents[a].Demands, Demand{next(), cost})
			case a >= 0 && a < n && x < -10:
				facts.Agents[a].Cost, facts.Agents[a].NoTransit = cost, x&1 == 0
			default:
				facts.Links = append(facts.Links, Link{A: a, B: x, Cost: cost, By: [2]Hold{Hold(next()), Hold(next())}})
			}
		}
		v := mustView(t, facts)
		if v.Phi() < 0 {
			t.Fatalf("Φ is %d", v.Phi())
		}
		c := New(id(0))
		var l Local
		for j := range n + 2 {
			l.Candidates = append(l.Candidates, Candidate{j - 1, int32(seed >> (j & 63))})
			l.Rates = append(l.Rates, Rate{id(j), int64(seed >> (j & 63))})
		}
		told := make([]int32, n)
		for j := range told {
			told[j] = int32(seed >> (j & 63))
		}
		for epoch := range int64(12) {
			if a := v.Nominees(0, epoch, told, []int{n, -1, 0, 1}); len(a) > MaxNominees || slices.Contains(a, 0) {
				t.Fatalf("nominees %v", a)
			}
			phi := v.Phi()
			if v.sum() != phi {
				t.Fatalf("Φ was %d, is %d", phi, v.sum())
			}
			for _, w := range c.Step(epoch, v, l) {
				if v.Index(w.Peer) < 0 && w.Do == Add || w.Peer == id(0) || w.Why.String() == "" {
					t.Fatalf("wishes %+v", w)
				}
			}
			if h := c.Held(nil); len(h) > MaxRules+64 {
				t.Fatalf("holds %d links", len(h))
			}
		}
	})
}

func TestTooManyAgents(t *testing.T) {
	t.Parallel()
	if _, err := NewView(Facts{Agents: agents(MaxAgents + 1)}); !errors.Is(err, ErrTooMany) {
		t.Errorf("got %v", err)
	}
	v := mustView(t, Facts{Agents: agents(3)})
	c := New(id(7))
	if w := c.Step(1, v, Local{}); w != nil {
		t.Errorf("who is no member wishes %v", w)
	}
}
