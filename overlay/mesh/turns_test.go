package mesh

import "testing"

// Everybody has three turns in ten epochs, so nobody waits long, and nobody's turns are all
// others', too.
func TestTurns(t *testing.T) {
	t.Parallel()
	v := mustView(t, Facts{Agents: agents(200)})
	most := 0
	for i := range 200 {
		last := int64(-1)
		for block := range int64(100) {
			turns := 0
			for e := block * turnsOf; e < (block+1)*turnsOf; e++ {
				if v.Turn(i, e) {
					turns++
					if e-last > 2*(turnsOf-3)+1 {
						t.Errorf("agent %d waits for %d epochs", i, e-last)
					}
					last = e
				}
			}
			if turns != 3 {
				t.Errorf("agent %d has %d turns in ten epochs", i, turns)
			}
		}
	}
	for e := range int64(1000) {
		together := 0
		for i := range 200 {
			if v.Turn(i, e) {
				together++
			}
		}
		most = max(most, together)
	}
	if most > 200/2 {
		t.Errorf("%d of 200 agents have a turn in the same epoch", most)
	}
}

// The facts say how many links agents choose, as far as that makes sense.
func TestOwnLinks(t *testing.T) {
	agents := make([]Agent, 2*fewAgents)
	for i := range agents {
		agents[i].ID[0] = byte(i)
	}
	for own, most := range map[int]int{0: 4 * ownLinks, -1: 4 * ownLinks, 8: 32, 1000: 4 * mostOwn} {
		v, err := NewView(Facts{Own: own, Agents: agents})
		if err != nil || v.Cap() != most {
			t.Errorf("%d own links: %d at most, want %d, %v", own, v.Cap(), most, err)
		}
	}
}
