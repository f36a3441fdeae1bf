package agent

import (
	"context"
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// What an agent that has nothing to do sends to measure and to tell, as bytes of IP
// packets a second, and the share of a core that it takes for everything.
const (
	truthCostFew  = 1300 // with 10 agents
	truthCostMany = 2500 // with 100
	truthCostCore = 0.01 // with 100, in the median
)

// Measuring costs little: probes, and control, records among it. All agents are on one
// machine; FARLAN_TRUTH says for how long it is counted.
func TestTruthCost(t *testing.T) {
	watch, err := time.ParseDuration(os.Getenv("FARLAN_TRUTH"))
	if err != nil {
		t.Log("only with FARLAN_TRUTH, a duration: measure's tests count the datagrams, overlay's their bytes")
		return
	}
	t.Run("10", func(t *testing.T) { truthCost(t, 10, 10, truthCostFew, 1, 30*time.Second, watch) })
	t.Run("100", func(t *testing.T) { truthCost(t, 100, manyReal, truthCostMany, truthCostCore, time.Minute, watch) })
}

// truthCost has count agents, of which some are real and the others light members, and
// looks what the real ones send and take while they are watched, after a rest.
func truthCost(t *testing.T, count, processes, most int, core float64, rest, watch time.Duration) {
	takeTurn(t)
	c := newCrowd(t)
	seed := c.add().bootstrap()
	if count > processes {
		c.addLight(seed, count-processes)
	}
	for range processes - 1 {
		c.add("--bootstrap", seed)
	}
	c.see(c.agents, count, 4*time.Minute)
	if longer, err := time.ParseDuration(os.Getenv("FARLAN_TRUTH_REST")); err == nil {
		rest = longer
	}
	time.Sleep(rest)
	stop, told := make(chan struct{}), make(chan int)
	go func() { told <- c.countTold(stop) }()
	before := c.cpu()
	heard := c.sent(watch)
	after := c.cpu()
	close(stop)
	t.Logf("in %v all together told their rows %d times", watch, <-told)

	costs := map[string][]float64{}
	for i := range c.agents {
		kinds := heard[netip.MustParseAddr(c.address(i))]
		for _, kind := range []string{"probes", "control"} {
			if kinds[kind] == 0 {
				t.Errorf("%s sends no %s", c.agents[i].name, kind)
			}
			costs[kind] = append(costs[kind], float64(kinds[kind])/watch.Seconds())
		}
		costs["handshakes"] = append(costs["handshakes"], float64(kinds["handshakes"])/watch.Seconds())
		costs["both"] = append(costs["both"], float64(kinds["probes"]+kinds["control"])/watch.Seconds())
		if i > 0 { // the first one is asked for its map all the while
			costs["core"] = append(costs["core"], (after[i]-before[i]).Seconds()/watch.Seconds())
		}
	}
	median := func(what string) float64 { return costs[what][len(costs[what])/2] }
	worst := func(what string) float64 { return costs[what][len(costs[what])-1] }
	for _, each := range costs {
		slices.Sort(each)
	}
	for _, kind := range []string{"probes", "control", "both", "handshakes"} {
		t.Logf("%d agents, idle for %v: an agent sends %.0f B/s of %s in the median, %.0f at most", count, watch, median(kind), kind, worst(kind))
	}
	t.Logf("%d agents: one takes %.2f %% of a core in the median, %.2f %% at most", count, 100*median("core"), 100*worst("core"))
	if worst("both") > float64(most) {
		t.Errorf("an agent sends %.0f B/s, want %d", worst("both"), most)
	}
	if median("core") > core {
		t.Errorf("an agent takes %.2f %% of a core, want %.0f %%", 100*median("core"), 100*core)
	}
}

// cpu returns the processor time that each agent has taken.
func (c *crowd) cpu() (all []time.Duration) {
	c.t.Helper()
	for _, a := range c.agents {
		all = append(all, processorTime(a.cmd.Process.Pid))
	}
	return all
}

// sent counts for a while what each address sends, in bytes of IP packets, by what it is.
func (c *crowd) sent(d time.Duration) map[netip.Addr]map[string]int {
	c.t.Helper()
	out := make(map[netip.Addr]map[string]int)
	c.hear(d, []bpf.Instruction{bpf.RetConstant{Val: 128}}, func(packet []byte) {
		from, _ := netip.AddrFromSlice(packet[12:16])
		if out[from] == nil {
			out[from] = make(map[string]int)
		}
		kind, datagram := "control", packet[min(int(packet[0]&15)*4+8, len(packet)):]
		if k, ok := overlay.ParseKind(datagram); ok && packet[9] == unix.IPPROTO_UDP {
			switch k {
			case overlay.KindProbe:
				kind = "probes"
			case overlay.KindInitiation, overlay.KindResponse:
				kind = "handshakes"
			default:
				kind = "frames"
			}
		}
		out[from][kind] += int(binary.BigEndian.Uint16(packet[2:]))
	})
	return out
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
