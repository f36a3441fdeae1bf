package sim

import (
	"fmt"
	"testing"
)

// Links follow who talks with whom, but not the noise of it: by what agents measure and tell
// each other, at most a tenth of a link changes in an epoch, few come and go again, and
// nearly as much is sent directly, or better, as if the busiest peers were known before.
func TestTalk(t *testing.T) {
	agents, steps, seeds := 22, 200, 2
	if long() {
		agents, steps, seeds = 24, 2000, number(t, "FARLAN_SIM_TALKS", 5)
	}
	var all Tally
	for seed := range uint64(seeds) {
		s := New(Setting{Seed: seed + 1, Agents: agents, Noise: 30, RTT: planetLab(t, agents), Talk: true})
		s.Follow(100) // the mesh comes to rest, and the first links for traffic are there
		x := s.Follow(steps)
		t.Logf("seed %d: %v", seed+1, x)
		all.add(x, seeds)
	}
	changes, flaps := float64(all.Changes)/float64(all.Steps), float64(all.Flaps)/float64(max(1, all.Changes))
	t.Logf("%d agents: %v", agents, all)
	name := fmt.Sprintf("%d agents whose traffic shifts: ", agents)
	atMost(t, name+"links made or given up for it in an epoch", changes, 0.1)
	atMost(t, name+"% of these undone within 50 epochs", 100*flaps, 5)
	atLeast(t, name+"% of the traffic that an oracle's links would carry", 100*all.Direct/all.Oracle, 97)
}
