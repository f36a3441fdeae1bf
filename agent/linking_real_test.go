package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Eighteen agents, which are more than have a link with each, and with FARLAN_LONG fifty,
// choose few links, which hold all together, agree on them, and reach each other by them or
// beside them, as machines behind them do. It takes some epochs, of ten seconds each.
func TestAgentsChooseLinks(t *testing.T) {
	const most = 12
	count, settle := 18, time.Duration(0)
	if os.Getenv("FARLAN_LONG") != "" {
		takeTurn(t)
		count, settle = 50, 90*time.Second
	} else {
		t.Parallel()
	}
	c := newCrowd(t)
	seed := c.add().bootstrap()
	vms := [2]*vm{{agent: 3}, {agent: 11}}
	for i := 1; i < count; i++ {
		args := []string{"--bootstrap", seed}
		if i == vms[0].agent || i == vms[1].agent {
			args = append(args, "--tap", fmt.Sprint("t", i))
		}
		c.add(args...)
	}
	c.see(c.agents, count, 3*time.Minute)
	began := time.Now()
	for i, v := range vms {
		v.move(c, i)
	}
	vms[0].chats(c, vms[1])
	took := eventually(t, 3*time.Minute, func() error {
		time.Sleep(2 * time.Second) // asking costs them time
		return c.agents[0].holdsTogether(count, most)
	})
	t.Logf("links hold %d agents together %v after all saw each other", count, took)
	time.Sleep(time.Until(began.Add(settle)))
	if err := c.agents[0].holdsTogether(count, most); err != nil {
		t.Error(err)
	}
	c.links(most)
	c.agree()
	for i := range c.agents {
		to := (i*7 + 11) % count
		var p pingView
		if err := c.agents[i].ask(&p, "ping", fmt.Sprint("agent-", to), "--count", "2", "--interval", "50ms"); to != i && (err != nil || p.Received == 0) {
			t.Errorf("agent-%d to agent-%d: %+v, %v", i, to, p, err)
		}
	}
	c.advised(vms)
}

// links checks the links that each agent has.
func (c *crowd) links(most int) {
	c.t.Helper()
	links, reasons := 0, map[string]int{}
	for _, a := range c.agents {
		var v linksView
		if err := a.ask(&v, "links", "--own"); err != nil {
			c.t.Fatal(err)
		}
		if links += len(v.Links); len(v.Links) == 0 || len(v.Links) > most {
			c.t.Errorf("%s has %d links", a.name, len(v.Links))
		}
		for _, l := range v.Links {
			for why := range strings.SplitSeq(l.Reason, "; ") {
				why, _, _ = strings.Cut(why, ":")
				if strings.HasPrefix(why, "held by ") {
					why = "held by the other"
				}
				reasons[why]++
			}
			if l.State != "up" || l.Reason == "" || len(l.HeldBy) == 0 {
				c.t.Errorf("%+v", l)
			}
		}
	}
	c.t.Logf("an agent has %.1f links; why: %v", float64(links)/float64(len(c.agents)), reasons)
}

// agree waits until all agents see the same links, and the same routes.
func (c *crowd) agree() {
	c.t.Helper()
	took := eventually(c.t, time.Minute, func() error {
		seen := make(map[agreementView]int)
		for _, a := range c.agents {
			v, err := a.status()
			if err != nil || v.Agreement == nil {
				return errors.Join(err, fmt.Errorf("%s tells of no agreement", a.name))
			}
			v.Agreement.Records = "" // something is on its way nearly always
			seen[*v.Agreement]++
		}
		if len(seen) != 1 {
			return fmt.Errorf("they see %v", seen)
		}
		return nil
	})
	c.t.Logf("all agents' hashes of links and routes are equal after %v", took)
}

// A vm is a machine behind an agent of a crowd, in a network namespace of its own.
type vm struct {
	agent int
	ns    string
	addr  string
}

// move moves the agent's TAP into a namespace: from there the machine sends its frames.
func (v *vm) move(c *crowd, i int) {
	c.t.Helper()
	v.ns, v.addr = fmt.Sprintf("%s-%d", c.ns, i), fmt.Sprintf("10.78.0.%d", i+1)
	c.run("ip", "netns", "add", v.ns)
	c.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", v.ns).Run() })
	tap := fmt.Sprint("t", v.agent)
	c.run("ip", "-n", c.ns, "link", "set", tap, "netns", v.ns)
	c.run("ip", "-n", v.ns, "addr", "add", v.addr+"/24", "dev", tap)
	c.run("ip", "-n", v.ns, "link", "set", tap, "up")
}

// chats sends something to another machine until the test ends, and gets answers.
func (v *vm) chats(c *crowd, other *vm) {
	c.t.Helper()
	ping := func(args ...string) *exec.Cmd {
		return exec.Command("ip", append([]string{"netns", "exec", v.ns, "ping", "-q", other.addr}, args...)...)
	}
	took := eventually(c.t, 20*time.Second, func() error {
		out, err := ping("-c", "1", "-W", "1").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	c.t.Logf("machines behind two of them reach each other after %v", took)
	p := ping("-i", "0.01", "-s", "1200")
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = p.Process.Kill(); _ = p.Wait() })
}

// advised waits until an agent that has nothing to do with it advises to move one of two
// machines to where the other one is.
func (c *crowd) advised(vms [2]*vm) {
	c.t.Helper()
	names := [2]string{fmt.Sprint("agent-", vms[0].agent), fmt.Sprint("agent-", vms[1].agent)}
	took := eventually(c.t, time.Minute, func() error {
		var v adviseView
		if err := c.agents[0].ask(&v, "advise"); err != nil {
			return err
		}
		for _, m := range v.Moves {
			there := m.From == names[0] && m.To == names[1] || m.From == names[1] && m.To == names[0]
			if there && m.Mbit > 0.5 && m.WasMs != nil && m.WillMs != nil && *m.WillMs < *m.WasMs {
				return nil
			}
		}
		return fmt.Errorf("%s advises %+v", c.agents[0].name, v.Moves)
	})
	c.t.Logf("it is advised to move one of them to the other after %v", took)
}

// holdsTogether says whether all are linked by what an agent knows of links, and with at most
// so many each.
func (d *process) holdsTogether(count, most int) error {
	var v linksView
	if err := d.ask(&v, "links"); err != nil {
		return err
	}
	to := make(map[string][]string)
	for _, l := range v.Links {
		if to[l.From] = append(to[l.From], l.To); len(to[l.From]) > most {
			return fmt.Errorf("%s has more than %d links", l.From, most)
		}
	}
	reached, queue := map[string]bool{d.name: true}, []string{d.name}
	for ; len(queue) > 0; queue = queue[1:] {
		for _, x := range to[queue[0]] {
			if !reached[x] {
				reached[x] = true
				queue = append(queue, x)
			}
		}
	}
	if len(reached) != count {
		return fmt.Errorf("links reach %d of %d", len(reached), count)
	}
	return nil
}
