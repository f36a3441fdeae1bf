package mesh

import "testing"

// Where pieces were joined an agent may have more links than it may: those who hold them give
// some up in their turns, but none that holds the agents together.
func TestCrowdedAgentIsRelieved(t *testing.T) {
	t.Parallel()
	const n = 30
	f := Facts{Agents: agents(n)}
	for i := range n { // a ring of its own makes up for what is given up
		f.Links = append(f.Links, Link{A: i, B: (i + 1) % n, Cost: 1000, By: [2]Hold{Holds, Accepts}})
	}
	for i := 2; i < 2+4*ownLinks+2; i++ {
		f.Links = append(f.Links, Link{A: i, B: 0, Cost: 1000, By: [2]Hold{Holds, Accepts}})
	}
	minds := make([]*Chooser, n)
	for i := range minds {
		minds[i] = New(id(i))
	}
	has := func(l Link, a, b int) bool { return l.A == a && l.B == b || l.A == b && l.B == a }
	for epoch := range int64(40) {
		v := mustView(t, f)
		next := f
		next.Links = nil
		gone := func(l Link) (gone bool) {
			for i, c := range minds {
				for _, w := range c.wishes {
					gone = gone || w.Do == Drop && has(l, i, v.Index(w.Peer)) && l.By[0] == Holds && l.A == i
				}
			}
			return gone
		}
		for _, c := range minds {
			c.Step(epoch, v, Local{})
		}
		for _, l := range f.Links {
			if !gone(l) {
				next.Links = append(next.Links, l)
			}
		}
		f = next
	}
	v := mustView(t, f)
	if d := v.Degree(0); d > v.Cap() || d < 4*ownLinks/2 {
		t.Errorf("the agent has %d links, %d are the most", d, v.Cap())
	}
	for i := range n {
		if v.d(0, i) == far {
			t.Errorf("agent %d is cut off", i)
		}
	}
}

// An agent that starts anew takes over what the facts say that it holds, but not more links than
// it may have, and always the ring's: what somebody said in its name goes at once.
func TestResumeIsBounded(t *testing.T) {
	t.Parallel()
	const n = 60
	f := Facts{Agents: agents(n)}
	c := New(id(0))
	for i := 1; i < n; i++ {
		f.Links = append(f.Links, Link{A: 0, B: i, Cost: 1000, By: [2]Hold{Holds, Accepts}})
	}
	v := mustView(t, f)
	drops := 0
	for _, w := range c.Step(1, v, Local{}) {
		if w.Do != Drop || w.Why != Surplus {
			t.Errorf("%v %v", w.Do, w.Why)
		}
		drops++
	}
	ring := c.find(v.agents[v.after(0)].ID)
	if held := len(c.held); held > v.Cap()+1 || held < v.Cap() || drops != n-1-held || ring == nil || ring.Why != Ring {
		t.Errorf("%d links are held and %d given up, %d are the most; that of the ring is %v", held, drops, v.Cap(), ring)
	}
}
