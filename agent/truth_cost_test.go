package agent

import (
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

// What an agent sends to measure at idle: at most 1 kB/s with 10 agents, and 1.6 with 100.
// They are on one machine; FARLAN_TRUTH says for how long it is counted.
func TestTruthCost(t *testing.T) {
	watch, err := time.ParseDuration(os.Getenv("FARLAN_TRUTH"))
	if err != nil {
		t.Log("only with FARLAN_TRUTH, a duration: measure's tests count the datagrams, overlay's their bytes")
		return
	}
	t.Run("10", func(t *testing.T) { truthCost(t, 10, 10, 1000, 20*time.Second, watch) })
	t.Run("100", func(t *testing.T) { truthCost(t, 100, manyReal, 1600, time.Minute, watch) })
}

// truthCost has count agents, of which some are real and the others light members, and
// looks what probes the real ones send while they are watched, after a rest.
func truthCost(t *testing.T, count, processes, most int, rest, watch time.Duration) {
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
	time.Sleep(rest)
	heard := c.sent(watch)
	sums := make(map[string][]int)
	for i := range c.agents {
		for kind, n := range heard[netip.MustParseAddr(c.address(i))] {
			sums[kind] = append(sums[kind], int(float64(n)/watch.Seconds()))
		}
	}
	for kind, each := range sums {
		slices.Sort(each)
		t.Logf("%d agents, idle for %v: an agent sends %d B/s of %s in the median, %d at most", count, watch, each[len(each)/2], kind, each[len(each)-1])
	}
	probes := sums["probes"]
	if len(probes) != processes {
		t.Fatalf("%d agents send probes: %v", len(probes), sums)
	}
	if n := probes[len(probes)-1]; n > most {
		t.Errorf("an agent sends %d B/s of probes, want %d", n, most)
	}
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
