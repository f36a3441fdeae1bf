package lab

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// killedWithin is how long it may take after a kill until what there is of circuits is what
	// the agents say.
	killedWithin = 60 * time.Second
	// killDelay is how long the provider takes for each step, so that kills meet them all.
	killDelay = 150 * time.Millisecond
)

// TestAgentsKilled: whoever is killed at whatever moment of a circuit's life, the agent that asks,
// the one at the other end or the provider, what is held, the interfaces and the classes of traffic
// are what agents list as theirs soon after it is back, and nothing is left when that is given
// back. With FARLAN_LONG each is killed many times, ROUNDS in all; SEED has it again.
func TestAgentsKilled(t *testing.T) {
	t.Parallel()
	rounds, seed := 2, uint64(time.Now().UnixNano())
	if os.Getenv("FARLAN_LONG") != "" {
		rounds = 18
		if n, err := strconv.Atoi(os.Getenv("ROUNDS")); err == nil {
			rounds = n
		}
	}
	if n, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("SEED=%d", seed)
	c := agentsLab(t, 3, nil)
	c.slow(t, killDelay, 0)
	chance := rand.New(rand.NewPCG(seed, 0))
	for round := range rounds {
		c.killed(t, round, chance)
		if t.Failed() {
			return
		}
	}
}

// killed is a round.
func (c *agentsTest) killed(t *testing.T, round int, chance *rand.Rand) {
	victim := []string{agentName("site1"), agentName("site2"), providerProcess}[chance.IntN(3)]
	release := chance.IntN(2) == 0
	at, away := time.Duration(chance.IntN(1500))*time.Millisecond, time.Duration(chance.IntN(700))*time.Millisecond
	var asked sync.WaitGroup
	asked.Go(func() {
		id, err := c.request(t, "site1", "site2", "20Mbit", "5m", "--timeout", "10s")
		if err == nil && release {
			time.Sleep(killDelay)
			_, _ = c.l.farlan(t.Context(), "site1", "reserve", "release", id) // it may be killed
		}
	})
	time.Sleep(at)
	p := c.l.process(victim)
	if err := signalAll(t.Context(), unix.SIGKILL, killWait, []*Process{p}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(away)
	began := time.Now()
	if err := c.l.restart(p); err != nil {
		t.Fatal(err)
	}
	asked.Wait()
	var left int
	eventually(t, killedWithin, func() (err error) { left, err = c.agrees(t); return err })
	took := time.Since(began)
	t.Logf("round %d: %s killed after %v, back after %v, given back meanwhile: %v; %d left, all agree after %v",
		round, victim, at, away, release, left, took.Round(10*time.Millisecond))
	began = time.Now()
	c.releaseAll(t)
	c.nothing(t, killedWithin)
	for _, h := range c.l.agentHosts() {
		c.idle(t, h.Site, killedWithin)
	}
	t.Logf("round %d: nothing left %v after that", round, time.Since(began).Round(10*time.Millisecond))
}

// agrees says how many circuits there are, and in what what is there differs from what agents
// list: those that the provider holds, the wide area carries and have interfaces at both ends and
// a class at the asking agent's are those that are active.
func (c *agentsTest) agrees(t *testing.T) (active int, err error) {
	v, err := c.l.circuits(t.Context())
	if err != nil {
		return 0, err
	}
	held, vlans := make(map[string]bool), make(map[string][]uint16)
	for _, r := range v.Reservations {
		if !r.Held {
			continue
		}
		tag, _, _ := strings.Cut(strings.TrimPrefix(r.Description, "farlan "), "-")
		held[tag] = true
		vlans[r.From.Port] = append(vlans[r.From.Port], r.From.VLAN)
		vlans[r.To.Port] = append(vlans[r.To.Port], r.To.VLAN)
	}
	if len(v.Circuits) != len(held) || !v.Provider.Running {
		return 0, fmt.Errorf("%d held, carried: %+v", len(held), v.Circuits)
	}
	for _, h := range c.l.agentHosts() {
		all, err := c.reserved(t, h.Site)
		if err != nil {
			return 0, err
		}
		own := 0
		for _, r := range all {
			switch {
			case r.over() || r.Coordinator == nil || *r.Coordinator != h.Site:
			case r.State != "active" || r.Segment.State != "active":
				return 0, fmt.Errorf("%s: %+v", h.Site, r)
			case r.circuit() && !held[r.ID]:
				return 0, fmt.Errorf("not held: %+v", r)
			case r.circuit():
				own++
			}
		}
		there, classes, err := c.ends(t, h)
		slices.Sort(vlans[h.Site])
		slices.Sort(there)
		if err != nil || !slices.Equal(there, vlans[h.Site]) || (classes > 0) != (own > 0) || own > 0 && classes != own+ownClasses {
			return 0, fmt.Errorf("%s: VLANs %v, not %v; %d classes for %d circuits; %w", h.Site, there, vlans[h.Site], classes, own, err)
		}
		active += own
	}
	if active != len(held) {
		return 0, fmt.Errorf("%d active, %d held", active, len(held))
	}
	return active, nil
}

// ownClasses is how many classes an agent makes on an interface beside those that are reserved: all
// traffic, what isn't reserved, and priorities.
const ownClasses = 3
