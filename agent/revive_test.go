package agent

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// reviveGoal is how soon a network must be whole again without a person.
const reviveGoal = time.Minute

// All agents crash at once. The seeds stay dead, and all others come back somewhere else,
// but for two that are where they were: by what each remembers the network is whole again.
// FARLAN_CROWD says how many agents there are.
func TestAllRestartedElsewhere(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	count, err := strconv.Atoi(os.Getenv("FARLAN_CROWD"))
	if err != nil {
		count = 16
	}
	const seeds = 2
	takeTurn(t)
	c := newCrowd(t)
	first := c.add().bootstrap()
	second := c.add("--bootstrap", first).bootstrap()
	for range count - seeds {
		c.add("--bootstrap", first, "--bootstrap", second)
	}
	c.see(c.agents, count, 5*time.Minute)
	for _, a := range c.agents {
		eventually(t, 10*time.Second, a.remembers(count))
	}
	for _, a := range c.agents {
		a.kill()
	}
	back := c.agents[seeds:]
	others := othersTime(t, back)
	start := time.Now()
	for i, a := range back {
		if i >= 2 {
			a.args[slices.Index(a.args, "--listen")+1] = c.address(1000+i) + ":4747"
		}
		a.start()
	}
	took := c.see(back, len(back), 5*time.Minute)
	taken := othersTime(t, back) - others
	t.Logf("%d agents, of which %d are elsewhere, see each other %v after all were started again, of which other processes took %v",
		len(back), len(back)-2, time.Since(start).Round(time.Millisecond), taken)
	if took-taken > reviveGoal {
		t.Errorf("more than %v", reviveGoal)
	}
}
