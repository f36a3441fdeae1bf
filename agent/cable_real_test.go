package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Two far sites have a TAP in a bridge each, with a machine:
//
//	x: t, e0 ── e :hx     y: t, e0 ── e :hy
//	x, y: u ── r
//
// A cable between the bridges, w, is cut at once by one agent, and when it is pulled both go
// on.
func TestCable(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := &street{sites: sites{t: t}, agents: make(map[string]*process)}
	prefix := fmt.Sprintf("fw%d-%d", os.Getpid(), siteCount.Add(1))
	add := func(name string) string {
		s.host("ip netns add " + prefix + name)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", prefix+name).Run() })
		s.host("ip -n " + prefix + name + " link set lo up")
		return prefix + name
	}
	s.r = add("r")
	s.in(s.r, "sysctl -qw net.ipv4.ip_forward=1")
	key := newKeyFile(t)
	var sites, hosts []string
	var agents []*process
	for i, name := range []string{"x", "y"} {
		site, host := add(name), add("h"+name)
		s.host("ip -n " + site + " link add br0 type bridge mcast_snooping 0")
		s.host("ip -n " + site + " link set br0 up")
		s.plug(host, "e", "e0", site)
		s.uplink(site, i+1)
		agents = append(agents, s.start(name, site, key, i+1, "--tap", "t,bridge=br0"))
		sites, hosts = append(sites, site), append(hosts, host)
	}
	x, y := agents[0], agents[1]
	eventually(t, 15*time.Second, func() error {
		return errors.Join(x.sees(2), y.sees(2), roles([]string{"forwarding", "forwarding"}, x, y))
	})
	a, b := s.newCaller(hosts[0], "e", 'a'), s.newCaller(hosts[1], "e", 'b')
	callEachOther(t, a, b)
	a.silence('b', time.Now())
	b.silence('a', time.Now())
	a.copies()
	b.copies()
	time.Sleep(time.Second)
	once(t, "two sites", a, b)

	rounds := 1
	if os.Getenv("FARLAN_LONG") != "" {
		rounds = 5
	}
	for range rounds {
		began := time.Now()
		s.plugCable(sites)
		eventually(t, 5*time.Second, func() error { return roles([]string{"blocked", "forwarding"}, x, y) })
		t.Logf("a port is blocked %v after the cable was plugged in", time.Since(began))
		for _, c := range []*caller{a, b} {
			time.Sleep(500 * time.Millisecond)
			frames, again, most := c.copies()
			t.Logf("meanwhile %d frames came to %c, and %d again, one of them %d times", frames, c.from, again, most)
		}
		time.Sleep(2 * time.Second)
		once(t, "the loop is cut", a, b)
		for _, d := range agents {
			h, err := d.health("segment t")
			if err != nil || h.OK || !strings.Contains(h.Detail, "a cable or bridge joins this LAN with") || !strings.Contains(h.Detail, "'s t") {
				t.Errorf("%s says %+v, %v", d.name, h, err)
			}
		}
		s.host("ip -n " + sites[0] + " link del w")
		pulled := time.Now()
		took := max(a.silence('b', pulled), b.silence('a', pulled))
		t.Logf("frames come again %v after it was pulled", took)
		if took > 3*time.Second {
			t.Error("too late")
		}
		eventually(t, 5*time.Second, func() error {
			// Each notices by itself that it hears the other no more.
			h, err := x.health("segment t")
			if err == nil && !h.OK {
				err = fmt.Errorf("x says %+v", h)
			}
			return errors.Join(err, roles([]string{"forwarding", "forwarding"}, x, y))
		})
		a.copies()
		b.copies()
		time.Sleep(time.Second)
		once(t, "it is pulled", a, b)
	}
	s.muteCable(sites, agents, a, b)
}

// muteCable plugs in a cable that passes no beacons: the agents notice by the frames that come
// back.
func (s *street) muteCable(sites []string, agents []*process, a, b *caller) {
	t := s.t
	t.Helper()
	s.in(sites[0], "nft add table bridge f")
	s.in(sites[0], "nft add chain bridge f forward { type filter hook forward priority 0 ; }")
	s.in(sites[0], "nft add rule bridge f forward ether type 0x88b6 drop")
	began := time.Now()
	s.plugCable(sites)
	// Now and then both block theirs at once, and then one of them the next time.
	eventually(t, 20*time.Second, func() error { return roles([]string{"blocked", "forwarding"}, agents...) })
	t.Logf("without beacons a port is blocked %v after the cable was plugged in", time.Since(began))
	took := eventually(t, 30*time.Second, func() error {
		a.copies()
		b.copies()
		time.Sleep(time.Second)
		for _, c := range []*caller{a, b} {
			if frames, again, _ := c.copies(); again > 0 || frames < 100 {
				return fmt.Errorf("%d frames came to %c, %d again", frames, c.from, again)
			}
		}
		return nil
	})
	t.Logf("for a second nothing came twice %v later", took)
	s.host("ip -n " + sites[0] + " link del w")
	took = eventually(t, 15*time.Second, func() error { return roles([]string{"forwarding", "forwarding"}, agents...) })
	t.Logf("both forward %v after it was pulled", took)
}

// plugCable joins the bridges of two sites.
func (s *street) plugCable(sites []string) {
	s.t.Helper()
	s.host(fmt.Sprintf("ip link add w netns %s type veth peer name w netns %s", sites[0], sites[1]))
	for _, site := range sites {
		s.host("ip -n " + site + " link set w master br0 up")
	}
}
