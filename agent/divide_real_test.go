package agent

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// mostAreaMoves is how often an agent goes to another area at most while a network divides: to a
// half, and on from one that turned out too small.
const mostAreaMoves = 2

// Twenty agents that aren't divided come to know each other, find that they are too many for one
// area, and divide, each by few moves. Then machines behind agents of two areas talk, and what one
// floods all others hear once. It takes some epochs, of ten seconds each.
func TestProcessesDivide(t *testing.T) {
	const count = 20
	t.Parallel()
	c := newCrowd(t)
	program := fewProgram(t)
	network, err := readNetwork(c.key)
	if err != nil {
		t.Fatal(err)
	}
	seed := c.addIn(program, network.ID(), 0).bootstrap()
	for range count - 1 {
		c.addIn(program, network.ID(), 0, "--bootstrap", seed)
	}
	began := time.Now()
	areas := c.dividesInto(count, 3*time.Minute)
	t.Logf("%d areas %v after the last agent was started: %v", len(areas), time.Since(began), areas)
	vms := c.inTwo(areas)
	guests := make([]*guest, count)
	for i := range guests {
		if i != vms[0].agent && i != vms[1].agent {
			guests[i] = newGuest(t, c.ns, fmt.Sprint("t", i))
		}
	}
	for i, v := range vms {
		v.move(c, i)
	}
	t.Logf("machines in two areas talk after %v", c.talk(vms, 20*time.Second))
	t.Logf("floods reach all %v later", eventually(t, time.Minute, func() error { return c.hearsFirst(guests) }))
	c.floods(guests)
	for _, a := range c.agents {
		b, err := os.ReadFile(a.log)
		if moves := strings.Count(string(b), "this agent goes to another area"); err != nil || moves == 0 || moves > mostAreaMoves {
			t.Errorf("%s went to another area %d times, %v", a.name, moves, err)
		}
	}
}

// dividesInto waits until all agents are in areas and tell of all, and returns who is in which.
func (c *crowd) dividesInto(count int, limit time.Duration) (areas map[uint32][]int) {
	c.t.Helper()
	eventually(c.t, limit, func() error {
		time.Sleep(time.Second) // asking costs them time
		areas = make(map[uint32][]int)
		told := 0
		for i, a := range c.agents {
			v, err := a.status()
			if err != nil || v.Area == nil || v.Area.Number == 0 || v.Area.All != count {
				return fmt.Errorf("%s: %+v, %w", a.name, v.Area, err)
			}
			areas[v.Area.Number] = append(areas[v.Area.Number], i)
			told = max(told, v.Area.Areas)
		}
		if len(areas) < 2 || told != len(areas) {
			return fmt.Errorf("%v, of which %d are told", areas, told)
		}
		return nil
	})
	return areas
}

// inTwo returns machines behind agents of two areas, no gateways if there are others.
func (c *crowd) inTwo(areas map[uint32][]int) (vms [2]*vm) {
	c.t.Helper()
	i := 0
	for _, who := range areas {
		if i == len(vms) {
			break
		}
		vms[i] = &vm{agent: who[0]}
		for _, k := range who {
			if v, err := c.agents[k].status(); err == nil && !v.Area.Gateway {
				vms[i].agent = k
			}
		}
		i++
	}
	return vms
}
