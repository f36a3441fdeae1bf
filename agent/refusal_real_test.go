package agent

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A switch that takes no frames from a proxy's port but with the proxy's own address, as a
// hypervisor or Wi-Fi do, is noticed and explained, and that it does again.
func TestRefusedAddresses(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := &street{sites: sites{t: t}, agents: make(map[string]*process)}
	prefix := fmt.Sprintf("fx%d-%d", os.Getpid(), siteCount.Add(1))
	var ns [3]string
	for i, name := range []string{"lan", "h", "p"} {
		ns[i] = prefix + name
		s.host("ip netns add " + ns[i])
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns[i]).Run() })
		s.host("ip -n " + ns[i] + " link set lo up")
	}
	lan, h, p := ns[0], ns[1], ns[2]
	s.host("ip -n " + lan + " link add br0 type bridge mcast_snooping 0")
	s.host("ip -n " + lan + " link set br0 up")
	s.plug(h, "e", "l0", lan)
	s.plug(p, "e", "l1", lan)
	s.host("ip -n " + p + " link set e address 02:00:00:00:05:01")
	s.host("ip -n " + h + " addr add 10.80.0.2/24 dev e")
	s.host("ip -n " + p + " addr add 10.80.0.1/24 dev e")
	s.in(lan, "bridge fdb replace 02:00:00:00:05:01 dev l1 master static")
	s.in(lan, "bridge link set dev l1 learning off locked on")
	s.in(p, "sysctl -qw net.ipv4.neigh.e.base_reachable_time_ms=3600000") // a ping confirms nobody
	s.in(p, "ping -q -c1 10.80.0.2")
	a := startAgentIn(t, p, newKeyFile(t), "p", "--listen", "10.80.0.1:4747", "--lan", "e")
	var said healthView
	took := eventually(t, 40*time.Second, func() (err error) { said, err = a.health("spoofing e"); return err })
	t.Logf("noticed after %v: %+v", took, said)
	if said.OK || !strings.Contains(said.Detail, "10.80.0.2 answers this host") || !strings.Contains(said.Hint, "Wi-Fi") {
		t.Errorf("%+v", said)
	}
	s.in(lan, "bridge link set dev l1 learning on locked off")
	took = eventually(t, 20*time.Second, func() error {
		v, err := a.status()
		for _, h := range v.Health {
			if h.Check == "spoofing e" {
				err = fmt.Errorf("%+v", h)
			}
		}
		return err
	})
	t.Logf("that it is over is noticed after %v", took)
}
