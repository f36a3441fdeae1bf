package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fewProgram builds an agent for which twenty are too many for one area.
func fewProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "farlan")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-X 'farlan/agent.testSizes=16 12 3 12'", "-o", path, "farlan")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// addIn starts the next agent, which remembers an area.
func (c *crowd) addIn(program, network string, area uint32, args ...string) *process {
	c.t.Helper()
	i := len(c.agents)
	d := &process{t: c.t, namespace: c.ns, name: fmt.Sprint("agent-", i), dir: c.t.TempDir(), log: filepath.Join(c.t.TempDir(), "log"), program: program}
	state := filepath.Join(d.dir, "state")
	b, err := json.Marshal(remembered{Format: 1, Network: network, Area: area})
	if err = errors.Join(err, os.Mkdir(state, 0o700)); err == nil {
		err = os.WriteFile(filepath.Join(state, rememberedFile), b, 0o600)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	d.args = append([]string{
		"up", "--key-file", c.key, "--name", d.name, "--state-dir", state, "--socket", filepath.Join(d.dir, "s"), "--config", os.DevNull,
		"--log-level", "debug", "--listen", c.address(i) + ":4747", "--beacon=off", "--tap", fmt.Sprint("t", i),
	}, args...)
	d.start()
	c.t.Cleanup(d.kill)
	c.agents = append(c.agents, d)
	return d
}

// joined waits until all agents tell of all areas, and of so many agents in them.
func (c *crowd) joined(areas, agents int, limit time.Duration) time.Duration {
	c.t.Helper()
	start := time.Now()
	for _, a := range c.agents {
		eventually(c.t, limit-time.Since(start), func() error {
			time.Sleep(200 * time.Millisecond)
			v, err := a.status()
			if err == nil && v.Area != nil && (len(v.Area.Gateways) != 4 || v.Area.Gateway != slices.Contains(v.Area.Gateways, a.name)) {
				return fmt.Errorf("%s: %+v", a.name, v.Area)
			}
			if err == nil && (v.Area == nil || v.Area.Areas != areas || v.Area.All != agents || !v.Floods.Tree || v.Floods.Direct > 0) {
				err = fmt.Errorf("%s: %+v, floods %+v", a.name, v.Area, v.Floods)
			}
			return err
		})
	}
	return time.Since(start)
}

// heardBy returns how often those guests heard a broadcast of one that can.
func heardBy(guests []*guest, number uint64) (missed, twice []int) {
	for i, g := range guests {
		if g == nil {
			continue
		}
		g.mu.Lock()
		got := g.got[number]
		g.mu.Unlock()
		switch {
		case got == 0:
			missed = append(missed, i)
		case got > 1:
			twice = append(twice, i)
		}
	}
	return missed, twice
}

// Twenty agents in three areas: what a machine behind one floods, all others hear once; machines
// behind agents of two areas that can't reach each other directly talk by gateways, and go on
// when one of these dies.
func TestAreasOfProcesses(t *testing.T) {
	const count, each = 20, 7
	t.Parallel()
	c := newCrowd(t)
	program := fewProgram(t)
	network, err := readNetwork(c.key)
	if err != nil {
		t.Fatal(err)
	}
	var seeds []string
	for i := range count {
		var args []string
		if i%each == 0 && i > 0 {
			args = []string{"--bootstrap", seeds[0]}
		} else if i > 0 {
			args = []string{"--bootstrap", seeds[i/each]}
		}
		a := c.addIn(program, network.ID(), uint32(1+i/each), args...)
		if i%each == 0 {
			seeds = append(seeds, a.bootstrap())
		}
	}
	began := time.Now()
	t.Logf("areas are joined %v after the last agent was started", c.joined(3, count, 2*time.Minute))
	vms := [2]*vm{c.member(0, each), c.member(2*each, count)}
	c.separate(vms)
	guests := make([]*guest, count)
	for i := range guests {
		if i != vms[0].agent && i != vms[1].agent {
			guests[i] = newGuest(t, c.ns, fmt.Sprint("t", i))
		}
	}
	for i, v := range vms {
		v.move(c, i)
	}
	took := eventually(t, time.Minute, func() error { return c.hearsFirst(guests) })
	t.Logf("floods reach all areas %v later, %v after the start", took, time.Since(began))
	c.floods(guests)
	c.talk(vms, 10*time.Second)
	c.killBetween(vms, guests)
	t.Logf("floods reach all again %v later", eventually(t, 30*time.Second, func() error { return c.hearsFirst(guests) }))
	c.floods(guests)
}

// member returns a machine behind an agent of some that is no gateway.
func (c *crowd) member(from, to int) *vm {
	c.t.Helper()
	for i := from; i < to; i++ {
		if v, err := c.agents[i].status(); err != nil {
			c.t.Fatal(err)
		} else if !v.Area.Gateway {
			return &vm{agent: i}
		}
	}
	c.t.Fatal("all are gateways")
	return nil
}

// separate has no datagram pass between the agents of two machines.
func (c *crowd) separate(vms [2]*vm) {
	c.t.Helper()
	one, other := c.address(vms[0].agent), c.address(vms[1].agent)
	c.run("ip", "netns", "exec", c.ns, "nft", fmt.Sprintf(
		"add table ip cut; add chain ip cut in { type filter hook input priority 0; }; add rule ip cut in ip saddr %s ip daddr %s drop; add rule ip cut in ip saddr %s ip daddr %s drop",
		one, other, other, one))
}

// hearsFirst says who doesn't hear the first guest of each area.
func (c *crowd) hearsFirst(guests []*guest) error {
	for i, from := range []int{0, 8, 15} {
		for guests[from] == nil {
			from++
		}
		number := uint64(time.Now().UnixNano())
		guests[from].broadcast([6]byte{2, 0, 0, 0, 8, byte(i)}, number)
		time.Sleep(500 * time.Millisecond)
		if missed, _ := heardBy(append(append(slices.Clone(guests[:from]), nil), guests[from+1:]...), number); missed != nil {
			return fmt.Errorf("%v don't hear %d", missed, from)
		}
	}
	return nil
}

// floods has each guest speak to all, who are to hear it once.
func (c *crowd) floods(guests []*guest) {
	c.t.Helper()
	for from, g := range guests {
		if g == nil {
			continue
		}
		number := uint64(time.Now().UnixNano())
		others := slices.Clone(guests)
		others[from] = nil
		g.broadcast([6]byte{2, 0, 0, 0, 9, byte(from)}, number)
		eventually(c.t, 10*time.Second, func() error {
			if missed, _ := heardBy(others, number); missed != nil {
				return fmt.Errorf("%v don't hear %d", missed, from)
			}
			return nil
		})
		time.Sleep(20 * time.Millisecond)
		if _, twice := heardBy(others, number); twice != nil {
			c.t.Errorf("%v heard %d more than once", twice, from)
		}
	}
}

// talk waits until one machine's ping is answered by the other.
func (c *crowd) talk(vms [2]*vm, limit time.Duration) time.Duration {
	c.t.Helper()
	return eventually(c.t, limit, func() error {
		out, err := exec.Command("ip", "netns", "exec", vms[0].ns, "ping", "-q", vms[1].addr, "-c", "1", "-W", "1").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
}

// killBetween kills an agent by which two machines talk.
func (c *crowd) killBetween(vms [2]*vm, guests []*guest) {
	c.t.Helper()
	var v explainView
	if err := c.agents[vms[0].agent].ask(&v, "explain", vms[1].addr); err != nil || v.Chosen == nil || len(v.Chosen.Path) < 3 {
		c.t.Fatalf("%+v, %v", v, err)
	}
	c.t.Logf("they talk by %v; %s", v.Chosen.Path, v.WouldChange)
	name := v.Chosen.Path[1]
	for i, a := range c.agents {
		if a.name != name {
			continue
		}
		var s statusView
		if err := a.ask(&s, "status"); err != nil || s.Area == nil || !s.Area.Gateway {
			c.t.Errorf("%s is on the path, and no gateway: %+v, %v", name, s.Area, err)
		}
		var l linksView
		if err := a.ask(&l, "links", "--own"); err != nil || !slices.ContainsFunc(l.Links, func(l linkView) bool { return strings.Contains(l.Reason, "backbone") }) {
			c.t.Errorf("links of a gateway: %+v, %v", l, err)
		}
		a.kill()
		guests[i] = nil
	}
	c.t.Logf("%s dies: they talk again after %v", name, c.talk(vms, 20*time.Second))
	if err := c.agents[vms[0].agent].ask(&v, "explain", vms[1].addr); err != nil || v.Chosen == nil || slices.Contains(v.Chosen.Path, name) {
		c.t.Errorf("%+v, %v", v, err)
	}
}
