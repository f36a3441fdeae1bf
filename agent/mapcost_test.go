package agent

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// What the map may cost at idle: bytes of IP packets that an agent sends a second for
// control, records among them.
const (
	mapCostFew  = 300 // with 10 agents
	mapCostMany = 900 // with 100
)

// Agents that have nothing to do tell little. FARLAN_MAP says how many there are, at most
// manyReal of them processes of their own, the others light members; FARLAN_MAP_WATCH for
// how long they are watched.
func TestMapCost(t *testing.T) {
	count, err := strconv.Atoi(os.Getenv("FARLAN_MAP"))
	if err != nil {
		t.Skip("FARLAN_MAP says with how many agents")
	}
	watch, err := time.ParseDuration(os.Getenv("FARLAN_MAP_WATCH"))
	if err != nil {
		watch = 5 * time.Minute
	}
	takeTurn(t)
	c := newCrowd(t)
	real := min(count, manyReal)
	seed := c.add().bootstrap()
	if count > real {
		c.addLight(seed, count-real)
	}
	for range real - 1 {
		c.add("--bootstrap", seed)
	}
	c.see(c.agents, count, 4*time.Minute)
	time.Sleep(30 * time.Second) // until what the start brought has been told
	stop := make(chan struct{})
	told := make(chan int)
	go func() { told <- c.countTold(stop) }()
	heard := c.listen(watch)
	close(stop)
	t.Logf("in that time all together told their rows %d times", <-told)
	var each []int
	for i := range c.agents {
		each = append(each, heard[netip.MustParseAddr(c.address(i))].sent)
	}
	slices.Sort(each)
	second := func(bytes int) float64 { return float64(bytes) / watch.Seconds() }
	sum := 0
	for _, b := range each {
		sum += b
	}
	goal := mapCostFew
	if count > 16 {
		goal = mapCostMany
	}
	mean := second(sum) / float64(len(each))
	t.Logf("%d agents, watched for %v: each sends %.0f B/s for control on average, median %.0f, most %.0f; goal %d",
		count, watch, mean, second(each[len(each)/2]), second(each[len(each)-1]), goal)
	if mean > float64(goal) {
		t.Errorf("more than %d", goal)
	}
}

// countTold counts how often the first agent hears that others tell their rows anew,
// until stop is closed: then what they told grows younger.
func (c *crowd) countTold(stop <-chan struct{}) (count int) {
	last := make(map[string]float64)
	look := time.NewTicker(2 * time.Second)
	defer look.Stop()
	for {
		select {
		case <-stop:
			return count
		case <-look.C:
		}
		var v mapView
		if c.agents[0].client().call(context.Background(), "GET", "/map", nil, &v) != nil {
			continue
		}
		youngest := make(map[string]float64)
		for _, p := range v.Pairs {
			if p.RTTAgeS != nil && p.From != c.agents[0].name {
				if age, ok := youngest[p.From]; !ok || *p.RTTAgeS < age {
					youngest[p.From] = *p.RTTAgeS
				}
			}
		}
		for from, age := range youngest {
			if before, ok := last[from]; ok && age < before {
				count++
			}
		}
		last = youngest
	}
}
