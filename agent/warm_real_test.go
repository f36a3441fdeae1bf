package agent

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"
)

// Fifty agents keep in session with some of the others, and both ends of each pair agree. The
// first ping to one without a session is answered; who dies is gone for all, and who starts
// anew is there again, with the links that it kept. It takes some minutes: sessions that
// nobody wants live as long as their keys.
func TestFiftyKeepFewSessions(t *testing.T) {
	if os.Getenv("FARLAN_LONG") == "" {
		t.Log("only with FARLAN_LONG: the tests with agents that run no network show the same in little time")
		return
	}
	const count = 50
	takeTurn(t)
	c := newCrowd(t)
	seed := c.add().bootstrap()
	for range count - 1 {
		c.add("--bootstrap", seed)
	}
	c.see(c.agents, count, 3*time.Minute)
	time.Sleep(settled + 3*time.Minute) // what was begun at the start, on a busy machine, is over
	c.cost(45 * time.Second)
	took := eventually(t, 2*time.Minute, c.pairsAgree)
	all := c.sessions()
	pairs := 0
	for _, with := range all {
		pairs += len(with)
	}
	mean := float64(pairs) / count
	if t.Logf("an agent is in session with %.1f of %d; both ends agree after %v", mean, count-1, took); mean > 0.7*count {
		t.Error("those are nearly all")
	}
	c.pingIdle(all)
	c.dieAndReturn(count)
}

// cost says what agents send and take that have nothing to do.
func (c *crowd) cost(watch time.Duration) {
	before := c.cpu()
	heard := c.sent(watch)
	after := c.cpu()
	costs := make(map[string][]float64)
	for i := range c.agents {
		costs["% of a core"] = append(costs["% of a core"], 100*(after[i]-before[i]).Seconds()/watch.Seconds())
		for _, kind := range []string{"probes", "control", "handshakes"} {
			costs["B/s of "+kind] = append(costs["B/s of "+kind], float64(heard[netip.MustParseAddr(c.address(i))][kind])/watch.Seconds())
		}
	}
	for what, each := range costs {
		slices.Sort(each)
		c.t.Logf("idle for %v: %.4g %s in the median, %.4g at most", watch, each[len(each)/2], what, each[len(each)-1])
	}
}

// sessions returns with whom each agent has a session, and whom it shows as idle (false).
func (c *crowd) sessions() []map[string]bool {
	c.t.Helper()
	all := make([]map[string]bool, len(c.agents))
	for i, a := range c.agents {
		var v peersView
		if err := a.ask(&v, "peers"); err != nil {
			c.t.Fatal(err)
		}
		all[i] = make(map[string]bool)
		for _, p := range v.Peers {
			if p.Transport != nil {
				all[i][p.Name] = true
			} else if p.State != "idle" && p.Path != "self" {
				c.t.Logf("%s shows %s without a session as %s", a.name, p.Name, p.State)
			}
		}
	}
	return all
}

// pairsAgree says whether the ends of all pairs agree on whether they have a session.
func (c *crowd) pairsAgree() error {
	all := c.sessions()
	for i, with := range all {
		for j := range i {
			if a, b := with[c.agents[j].name], all[j][c.agents[i].name]; a != b {
				return fmt.Errorf("%s has a session with %s: %v, the other way: %v", c.agents[i].name, c.agents[j].name, a, b)
			}
		}
	}
	return nil
}

// pingIdle has each agent ping one without a session, once.
func (c *crowd) pingIdle(sessions []map[string]bool) {
	c.t.Helper()
	pinged, worst := 0, time.Duration(0)
	for i, a := range c.agents {
		for j := range c.agents {
			to := c.agents[(i+j)%len(c.agents)].name
			if to == a.name || sessions[i][to] {
				continue
			}
			var v pingView
			began := time.Now()
			if err := a.ask(&v, "ping", to, "--count", "1"); err != nil || v.Received != 1 {
				c.t.Errorf("the first ping of %s to %s: %+v, %v", a.name, to, v, err)
			}
			pinged, worst = pinged+1, max(worst, time.Since(began))
			break
		}
	}
	c.t.Logf("%d agents pinged one without a session; it took %v at most, the command's start included", pinged, worst.Round(time.Millisecond))
	if pinged == 0 {
		c.t.Error("all have a session with all")
	}
}

// dieAndReturn kills an agent, and starts it anew.
func (c *crowd) dieAndReturn(count int) {
	c.t.Helper()
	dead := c.agents[len(c.agents)/2]
	others := append(append([]*process{}, c.agents[:len(c.agents)/2]...), c.agents[len(c.agents)/2+1:]...)
	var before, after linksView
	if err := dead.ask(&before, "links", "--own"); err != nil {
		c.t.Fatal(err)
	}
	dead.kill()
	began := time.Now()
	for _, a := range others {
		eventually(c.t, 2*time.Minute, func() error {
			n, err := a.ups()
			if err == nil && n != count-1 {
				err = fmt.Errorf("%s sees %d", a.name, n)
			}
			return err
		})
	}
	c.t.Logf("the dead one is gone for all after %v", time.Since(began).Round(time.Second))
	dead.start()
	took := c.see(c.agents, count, time.Minute)
	time.Sleep(20 * time.Second)
	if err := dead.ask(&after, "links", "--own"); err != nil {
		c.t.Fatal(err)
	}
	same, kept := 0, make(map[string]bool)
	for _, l := range before.Links {
		kept[l.To] = true
	}
	for _, l := range after.Links {
		if kept[l.To] {
			same++
		}
	}
	c.t.Logf("it is there again for all after %v; of %d links it has %d again, and %d others", took.Round(time.Second), len(kept), same, len(after.Links)-same)
}
