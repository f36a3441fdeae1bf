package agent

import (
	"crypto/rand"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"farlan/overlay"
)

// between is what passes from one site to the other.
const between = "ip saddr 10.77.0.0/16 ip daddr 10.77.0.0/16"

// apart starts an agent at each site and one at the router between them, where
// nothing passes from site to site.
func (s *sites) apart(t *testing.T) {
	t.Helper()
	s.drop("sites", between)
	key := newKeyFile(t)
	middle := startAgentIn(t, s.r, key, "c", "--listen", ":4747", "--tap", "t")
	seed := middle.bootstrap()
	for i, ns := range []string{s.a, s.b} {
		seed := strings.ReplaceAll(seed, "10.77.2.254", fmt.Sprintf("10.77.%d.254", i+1))
		seed = strings.ReplaceAll(seed, "10.77.1.254", fmt.Sprintf("10.77.%d.254", i+1))
		s.agents[i] = startAgentIn(t, ns, key, string("ab"[i]), "--listen", fmt.Sprintf("10.77.%d.1:4747", i+1), "--tap", "t", "--bootstrap", seed)
		s.agents[i].bootstrap()
		s.address(i)
	}
	t.Cleanup(func() {
		for _, a := range append(s.agents[:], middle) {
			if said := a.said(); t.Failed() {
				t.Logf("%s said:\n%s", a.name, said[max(len(said)-5000, 0):])
			}
		}
	})
}

// reached fails unless a reaches b some way: "direct", or "relayed" by c.
func (s *sites) reached(path string) error {
	var v peersView
	if err := s.agents[0].ask(&v, "peers"); err != nil {
		return err
	}
	for _, p := range v.Peers {
		if p.Name == "b" {
			via := strings.Join(p.Via, ",")
			if p.State != "up" || p.Path != path || (path == "relayed") != (via == "c") {
				return fmt.Errorf("b is %s, %s via %q", p.State, p.Path, via)
			}
			return s.try(s.a, "ping -c1 -W1 -q 10.78.0.2")
		}
	}
	return fmt.Errorf("a doesn't know b")
}

// TestRelay: two agents that can't reach each other do so by way of a third one,
// sealed end to end, and directly as soon as they can.
func TestRelay(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	s.apart(t)
	start := time.Now()
	eventually(t, 15*time.Second, func() error { return s.reached("relayed") })
	t.Logf("by way of c after %v", time.Since(start).Round(100*time.Millisecond))

	s.in(s.a, "ping -c20 -i0.02 -W1 -q 10.78.0.2")
	s.in(s.a, "ping -c3 -i0.02 -W1 -q -s1472 -Mdo 10.78.0.2")
	var v pingView
	if err := s.agents[0].ask(&v, "ping", "b", "--count", "3", "--interval", "50ms"); err != nil || v.Received != 3 || !slices.Equal(v.Path, []string{"a", "c", "b"}) {
		t.Errorf("farlan ping: %+v, %v", v, err)
	}
	s.background(s.b, "iperf3 -s")
	eventually(t, 5*time.Second, func() error { return s.try(s.a, "iperf3 -c 10.78.0.2 -t 1") })
	eventually(t, 5*time.Second, func() error { return s.try(s.a, "iperf3 -c 10.78.0.2 -t 1 -R") })

	s.drop("sites", "")
	open := time.Now()
	eventually(t, 15*time.Second, func() error { return s.reached("direct") })
	t.Logf("direct after %v", time.Since(open).Round(100*time.Millisecond))

	// Pings every 20 ms tell how long nothing passes.
	pings := exec.Command("ip", strings.Fields("netns exec "+s.a+" ping -c250 -i0.02 -W1 -q 10.78.0.2")...)
	var says strings.Builder
	pings.Stdout = &says
	if err := pings.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	s.drop("sites", between)
	shut := time.Now()
	eventually(t, 15*time.Second, func() error { return s.reached("relayed") })
	t.Logf("by way of c again after %v", time.Since(shut).Round(100*time.Millisecond))
	_ = pings.Wait() // what was lost it says, too
	sent, came := 0, 0
	_, counts, _ := strings.Cut(says.String(), "---\n")
	if _, err := fmt.Sscanf(counts, "%d packets transmitted, %d received", &sent, &came); err != nil || came == 0 {
		t.Fatalf("%v: %s", err, says.String())
	}
	out := time.Duration(sent-came) * 20 * time.Millisecond
	t.Logf("meanwhile nothing passed for about %v", out)
	if out > 2*time.Second { // a second, and what a busy machine adds
		t.Errorf("nothing passed for about %v", out)
	}
}

// A handshake may come by several members before there is any session: nothing says by which
// of them it goes back but the last.
func TestHandshakeBySeveralRelays(t *testing.T) {
	m := newMirror(t)
	static, err := overlay.NewStaticKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, d, err := m.n.hs.Initiate(m.n.now(), overlay.AgentID{3}, static.Public, 7, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	in := m.lane.in
	in.hop, in.path, in.at = m.n.view.Load().sessions[2], []overlay.Label{1, 2, 3, 4}, nil
	in.handshake(d)
	if got := m.n.drops[dropStranger].Load(); got != 0 {
		t.Errorf("%d datagrams of strangers", got)
	}
}
