package agent

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// Fifty agents choose few links, which hold all together, agree on them, and reach each
// other by them or beside them. It takes some epochs, of ten seconds each.
func TestFiftyChooseLinks(t *testing.T) {
	if os.Getenv("FARLAN_LONG") == "" {
		t.Log("only with FARLAN_LONG: the tests with nodes that run no network show the same in little time")
		return
	}
	const count, most = 50, 12
	takeTurn(t)
	c := newCrowd(t)
	seed := c.add().bootstrap()
	for range count - 1 {
		c.add("--bootstrap", seed)
	}
	c.see(c.agents, count, 3*time.Minute)
	began := time.Now()
	took := eventually(t, 3*time.Minute, func() error {
		time.Sleep(2 * time.Second) // asking costs them time
		return c.agents[0].holdsTogether(count, most)
	})
	t.Logf("links hold %d agents together %v after all saw each other", count, took)
	time.Sleep(time.Until(began.Add(90 * time.Second)))
	if err := c.agents[0].holdsTogether(count, most); err != nil {
		t.Error(err)
	}
	links, reasons := 0, map[string]int{}
	for _, a := range c.agents {
		var v linksView
		if err := a.ask(&v, "links", "--own"); err != nil {
			t.Fatal(err)
		}
		if links += len(v.Links); len(v.Links) == 0 || len(v.Links) > most {
			t.Errorf("%s has %d links", a.name, len(v.Links))
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
				t.Errorf("%+v", l)
			}
		}
	}
	t.Logf("an agent has %.1f links; why: %v", float64(links)/count, reasons)
	took = eventually(t, time.Minute, func() error {
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
	t.Logf("all agents' hashes of the links are equal after %v", took)
	for i := range c.agents {
		var p pingView
		if err := c.agents[i].ask(&p, "ping", fmt.Sprint("agent-", (i*7+11)%count), "--count", "2", "--interval", "50ms"); err != nil || p.Received == 0 {
			if (i*7+11)%count != i {
				t.Errorf("agent-%d to agent-%d: %+v, %v", i, (i*7+11)%count, p, err)
			}
		}
	}
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
