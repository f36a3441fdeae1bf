package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAgentsFaults: what providers do wrong is seen for what it is by agents that ask them, the
// frames that it is about go on, and nothing is left of it. Faults that only show when somebody
// restarts, or that last, are in TestAgentsLastingFaults
// and TestAgentsDeadDomain.
func TestAgentsFaults(t *testing.T) {
	t.Parallel()
	c := agentsLab(t, 3, nil)
	f := c.flow(t, "site1", "site2")
	for _, x := range []struct {
		fault string
		meet  func(*testing.T, *datagrams)
	}{
		{"events-first", c.works},
		{"no-sync", c.works},
		{"other-criteria", c.otherCriteria},
		{"plane-down", c.planeDown},
		{"no-admission", c.noAdmission},
		{"no-modify", c.noModify},
	} {
		t.Run(x.fault, func(t *testing.T) {
			began := time.Now()
			c.fault(t, x.fault, true)
			x.meet(t, f)
			c.nothing(t, 15*time.Second)
			c.fault(t, x.fault, false)
			t.Logf("%v; nothing came for %v", time.Since(began).Round(10*time.Millisecond), f.gap(began))
			if gap := f.gap(began); gap > longestGap {
				t.Errorf("nothing came for %v", gap)
			}
		})
	}
}

// fault switches one of the provider's.
func (c *agentsTest) fault(t *testing.T, name string, on bool) {
	t.Helper()
	if _, err := c.l.askProvider(t.Context(), providerRequest{Fault: name, On: on}); err != nil {
		t.Fatal(err)
	}
}

// works: a circuit comes and goes as if there were no fault.
func (c *agentsTest) works(t *testing.T, f *datagrams) {
	id := c.mustRequest(t, "site1", "site2", "20Mbit", "1m", "--wait")
	c.goesBy(t, f, true)
	c.releases(t, "site1", id)
	c.becomes(t, "site1", id, 10*time.Second, "released")
}

// otherCriteria: what wasn't asked for is refused, and its owner told why.
func (c *agentsTest) otherCriteria(t *testing.T, _ *datagrams) {
	_, err := c.request(t, "site1", "site2", "20Mbit", "1m", "--wait")
	if err == nil || !strings.Contains(err.Error(), "vlan=4094") {
		t.Errorf("%v", err)
	}
	c.never(t, "site1", "held", "committed", "activating", "active")
}

// never checks that a site's agent lists no circuit in some states.
func (c *agentsTest) never(t *testing.T, site string, states ...string) {
	t.Helper()
	all, err := c.reserved(t, site)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if slices.Contains(states, r.State) {
			t.Errorf("%+v", r)
		}
	}
}

// planeDown: what is confirmed isn't active as long as the provider doesn't say that it works.
func (c *agentsTest) planeDown(t *testing.T, _ *datagrams) {
	_, err := c.request(t, "site1", "site2", "20Mbit", "1m", "--wait", "--timeout", "3s")
	if err == nil || !strings.Contains(err.Error(), "is activating") {
		t.Fatalf("%v", err)
	}
	c.never(t, "site1", "active", "degraded")
	c.releaseAll(t)
}

// releaseAll gives back what any agent has.
func (c *agentsTest) releaseAll(t *testing.T) {
	t.Helper()
	for _, h := range c.l.agentHosts() {
		all, err := c.reserved(t, h.Site)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			if r.Segment.State != "orphan" && !r.over() && r.Coordinator != nil && *r.Coordinator == h.Site {
				c.releases(t, h.Site, r.ID)
			}
		}
	}
}

// noAdmission: what the provider has too little for is refused and nothing left; what it grants
// nevertheless is the agents', neither of which knows of the other.
func (c *agentsTest) noAdmission(t *testing.T, _ *datagrams) {
	c.fault(t, "no-admission", false)
	first := c.mustRequest(t, "site1", "site2", "500Mbit", "1m", "--wait")
	if _, err := c.request(t, "home", "site2", "500Mbit", "1m", "--wait"); err == nil {
		t.Error("a port carries twice 500 Mbit/s of 1000, and what is around frames")
	} else if !strings.Contains(err.Error(), "rejected") {
		t.Error(err)
	}
	c.fault(t, "no-admission", true)
	second := c.mustRequest(t, "home", "site2", "500Mbit", "1m", "--wait")
	v, err := c.l.circuits(t.Context())
	if err != nil || len(v.Circuits) != 2 {
		t.Errorf("%v: %+v", err, v.Circuits)
	}
	c.releases(t, "site1", first)
	c.releases(t, "home", second)
}

// noModify: a circuit whose provider can't give it a later end is replaced by another one before
// its end, and its flow goes on.
func (c *agentsTest) noModify(t *testing.T, f *datagrams) {
	c.shortLeases(t, "site1", "8s")
	eventually(t, 20*time.Second, func() error { // once they have met again
		_, err := c.request(t, "site1", "site2", "20Mbit", "40s", "--wait")
		return err
	})
	c.goesBy(t, f, true)
	old, _ := c.carried(t)
	eventually(t, 20*time.Second, func() error {
		v, err := c.l.circuits(t.Context())
		if err != nil {
			return err
		}
		if len(v.Circuits) == 1 && v.Circuits[0].ID != old {
			return nil
		}
		return fmt.Errorf("%+v", v.Circuits)
	})
	c.goesBy(t, f, true)
	c.releaseAll(t)
}

// shortLeases has a site's agent ask for circuits for so long at a time.
func (c *agentsTest) shortLeases(t *testing.T, site, longest string) {
	t.Helper()
	file := c.l.nsiPath(site)
	b, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, append(b, "longest: "+longest+"\n"...), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.restarts(t, site, 0)
}

// restarts kills a site's agent, and starts it again after a while.
func (c *agentsTest) restarts(t *testing.T, site string, after time.Duration) {
	t.Helper()
	if err := c.l.killAgent(t.Context(), site); err != nil {
		t.Fatal(err)
	}
	time.Sleep(after)
	if err := c.l.restartAgent(within(t, 30*time.Second), site); err != nil {
		t.Fatal(err)
	}
}

// slow gives the provider a delay of each step, and a time for which it holds what isn't
// committed.
func (c *agentsTest) slow(t *testing.T, delay, holdFor time.Duration) {
	t.Helper()
	file := c.l.path("provider.json")
	var config ProviderConfig
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &config)
	}
	config.Delay, config.HoldFor = delay, holdFor
	if err == nil {
		err = c.l.writeJSON("provider.json", config)
	}
	if err == nil {
		err = c.l.restartProvider(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestAgentsLastingFaults: what a provider goes on to say of what is over has agents that were
// killed meanwhile neither wait for anything nor take it for theirs.
func TestAgentsLastingFaults(t *testing.T) {
	t.Parallel()
	c := agentsLab(t, 3, nil)
	c.slow(t, 500*time.Millisecond, time.Second)
	for _, name := range []string{"held-for-ever", "terminate-once", "keeps-created"} {
		c.fault(t, name, true)
	}
	const short = 10 * time.Second
	end := time.Now().Add(short + time.Second)
	var waits sync.WaitGroup
	var asked [2]error
	var terminated string
	waits.Go(func() { _, asked[0] = c.request(t, "site1", "site2", "20Mbit", short.String(), "--wait") })
	waits.Go(func() { terminated, asked[1] = c.request(t, "home", "site2", "30Mbit", "1m", "--wait") })
	waits.Wait()
	if err := errors.Join(asked[:]...); err != nil {
		t.Fatal(err)
	}
	c.releases(t, "home", terminated)
	c.states(t, 30, "Terminating", false)
	c.kills(t, "home") // it will terminate once more
	c.kills(t, "site1")
	waits.Go(func() { _, _ = c.request(t, "site2", "home", "40Mbit", "1m", "--timeout", "1s") }) // it is killed
	c.states(t, 40, "ReserveChecking", false)
	c.kills(t, "site2") // it won't commit
	waits.Wait()
	time.Sleep(time.Until(end))
	c.states(t, 20, "Created", true)
	c.states(t, 30, "Terminated", true)
	c.states(t, 40, "ReserveHeld", true)
	began := time.Now()
	for _, site := range []string{"site1", "site2", "home"} {
		if err := c.l.restartAgent(within(t, 30*time.Second), site); err != nil {
			t.Fatal(err)
		}
	}
	for _, site := range []string{"site1", "site2", "home"} {
		c.idle(t, site, 20*time.Second)
	}
	c.nothing(t, 15*time.Second)
	t.Logf("nothing is known of anything %v after the first restart", time.Since(began).Round(10*time.Millisecond))
}

// kills ends a site's agent with no chance to say so.
func (c *agentsTest) kills(t *testing.T, site string) {
	t.Helper()
	if err := c.l.killAgent(t.Context(), site); err != nil {
		t.Fatal(err)
	}
}

// states waits until the provider says that the reservation which was asked for with so many
// Mbit/s is in a state, which may be any of its three machines', and, if over is set, that it
// occupies nothing.
func (c *agentsTest) states(t *testing.T, mbit int64, want string, over bool) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		v, err := c.l.circuits(t.Context())
		if err != nil {
			return err
		}
		for _, r := range v.Reservations {
			if asked := r.Capacity >= mbit && r.Capacity < mbit+10; !asked || over && r.Held {
				continue
			}
			if slices.Contains([]string{r.Reservation, r.Provision, r.Lifecycle}, want) {
				return nil
			}
		}
		b, _ := json.Marshal(v.Reservations)
		return fmt.Errorf("none of %d Mbit/s is %s: %s", mbit, want, b)
	})
}

// idle waits until a site's agent knows of no circuit that isn't over.
func (c *agentsTest) idle(t *testing.T, site string, within time.Duration) {
	t.Helper()
	eventually(t, within, func() error {
		all, err := c.reserved(t, site)
		if err != nil {
			return err
		}
		for _, r := range all {
			if !r.over() {
				return fmt.Errorf("%s: %+v", site, r)
			}
		}
		return nil
	})
}

// TestAgentsDeadDomain: a circuit that a domain below the provider doesn't give back takes no
// frames any more, is an orphan until its end, and over then. Others can be had meanwhile, and
// later: of an end that passes a provider isn't told that is poisoned by it.
func TestAgentsDeadDomain(t *testing.T) {
	t.Parallel()
	c := agentsLab(t, 3, nil)
	f := c.flow(t, "site1", "site2")
	c.fault(t, "poisoned-by-past", true)
	const lasts = 14 * time.Second
	end := time.Now().Add(lasts)
	id := c.mustRequest(t, "site1", "site2", "20Mbit", lasts.String(), "--wait")
	c.goesBy(t, f, true)
	c.fault(t, "dead-domain", true)
	began := time.Now()
	c.releases(t, "site1", id)
	c.goesBy(t, f, false)
	second := make(chan error, 1)
	go func() {
		_, err := c.request(t, "site1", "home", "20Mbit", "1m", "--wait")
		t.Logf("another one, meanwhile: active %v after the first's release", time.Since(began).Round(10*time.Millisecond))
		second <- err
	}()
	reason, took := c.becomes(t, "site1", id, 13*time.Second, "orphan")
	t.Logf("orphan after %v: %s", took, reason)
	if gap := f.gap(began); gap > longestGap {
		t.Errorf("nothing came for %v", gap)
	}
	c.becomes(t, "site1", id, 20*time.Second, "released")
	t.Logf("over %v after its end", time.Since(end).Round(10*time.Millisecond))
	if err := <-second; err != nil {
		t.Errorf("another one, meanwhile: %v", err)
	}
	c.fault(t, "dead-domain", false)
	c.releaseAll(t)
	c.nothing(t, 20*time.Second)
	c.works(t, f)
}
