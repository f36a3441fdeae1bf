package agent

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"farlan/measure"
	"farlan/overlay"
)

// How soon traffic must flow again after an address changed and after an agent was
// suspended, on a machine that has nothing else to do; and what a busy one may take.
const (
	roamGoal   = 2 * time.Second
	resumeGoal = 3 * time.Second
	busySlack  = 3
)

// roamers are sites whose agents see each other and may move, and a talk between them.
// It is the other site that asks: nothing but the agent tells it that a has moved.
func roamers(t *testing.T) (*sites, *talk) {
	t.Helper()
	s := newSites(t)
	s.join(t, "", "--listen", ":4747")
	return s, s.settled(t)
}

// settled waits for what follows when agents meet, and returns a talk between them.
func (s *sites) settled(t *testing.T) *talk {
	t.Helper()
	// Connections that close together could be two that dial each other at once: the
	// first moves must come later than that.
	s.host("sleep 2.5")
	f := s.talk(t)
	s.talksAgain(t, f, "at first", roamGoal)
	return f
}

// moveTo gives site a another address in 10.77.subnet.0/24.
func (s *sites) moveTo(subnet, host int) {
	s.t.Helper()
	s.shell(s.a, fmt.Sprintf("ip -4 addr flush dev u; ip addr add 10.77.%d.%d/24 dev u; ip route add default via 10.77.%d.254", subnet, host, subnet))
}

// shell runs a line of shell in a namespace.
func (s *sites) shell(ns, line string) {
	s.t.Helper()
	if out, err := exec.Command("ip", "netns", "exec", ns, "sh", "-ec", line).CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// reachedAt waits until the agent at b sends to an address of the one at a.
func (s *sites) reachedAt(t *testing.T, addr string) {
	t.Helper()
	eventually(t, 5*time.Second, func() error {
		v, err := s.agents[1].peers()
		if err != nil {
			return err
		}
		for _, p := range v.Peers {
			if p.Address != nil && (*p.Address == addr || strings.HasPrefix(*p.Address, addr+":")) {
				return nil
			}
		}
		return fmt.Errorf("a isn't reached at %s: %+v", addr, v.Peers)
	})
}

// remembersAt says whether an agent has written down that a member is at an address.
func (d *process) remembersAt(name, addr string) error {
	var r remembered
	b, err := os.ReadFile(filepath.Join(d.dir, "state", rememberedFile))
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	for _, raw := range r.Records {
		// Signed for the network; what is inside says enough here.
		if record := string(raw); strings.Contains(record, string(netip.MustParseAddr(addr).AsSlice())) && strings.Contains(record, "\x01"+name) {
			return nil
		}
	}
	return errors.Join(err, fmt.Errorf("%s doesn't remember that %s is at %s", d.name, name, addr))
}

// An agent whose address is replaced by another one goes on within the goal, whether
// the new one is in the same network or not; and the others get to know the new one
// for good: one that starts again finds it there.
func TestAddressReplaced(t *testing.T) {
	t.Parallel()
	s, f := roamers(t)
	s.host("ip -n " + s.r + " addr add 10.77.3.254/24 dev ua")
	for _, to := range []struct {
		what         string
		subnet, host int
	}{
		{"another address of the same network", 1, 9},
		{"another network", 3, 7},
		{"back", 1, 1},
		{"another network again", 3, 8},
	} {
		s.moveTo(to.subnet, to.host)
		s.talksAgain(t, f, to.what, roamGoal)
		s.reachedAt(t, fmt.Sprintf("10.77.%d.%d", to.subnet, to.host))
	}
	// b remembers where a is now, and asks nobody else. What a told on a connection
	// that a move cut is told again soon; if that was by TCP, which answers go by that
	// b has, when b has given it up.
	told := eventually(t, 25*time.Second, func() error { return s.agents[1].remembersAt("a", "10.77.3.8") })
	t.Logf("the other one has the record with the new address after %v more", told)
	i := slices.Index(s.agents[1].args, "--bootstrap")
	s.agents[1].args = slices.Delete(s.agents[1].args, i, i+2)
	s.restart(1)
	s.talksAgain(t, f, "the other one is started again and knows only what it remembers", 5*time.Second)
}

// Where an agent comes to, the other one may be out of reach at the address that was
// used. Then it is reached at another one within the goal.
func TestReachedElsewhere(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	for i, ns := range []string{s.a, s.b} {
		s.host(fmt.Sprintf("ip -n %s addr add fd77:%d::1/64 dev u nodad", ns, i+1))
		s.host(fmt.Sprintf("ip -n %s addr add fd77:%d::fe/64 dev u%s nodad", s.r, i+1, string("ab"[i])))
		s.host(fmt.Sprintf("ip -n %s route add default via fd77:%d::fe", ns, i+1))
	}
	s.in(s.r, "sysctl -qw net.ipv6.conf.all.forwarding=0")
	s.join(t, "", "--listen", ":4747")
	f := s.settled(t)
	s.reachedAt(t, "10.77.1.1")
	s.in(s.r, "sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv4.ip_forward=0")
	s.moveTo(1, 9)
	s.talksAgain(t, f, "where only IPv6 passes", roamGoal)
	s.reachedAt(t, "[fd77:1::1]")
}

// An agent that had IPv4 alone comes to where there is IPv6 alone, and back.
func TestOtherFamily(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	s.in(s.r, "sysctl -qw net.ipv6.conf.all.forwarding=1")
	s.host("ip -n " + s.r + " addr add fd77:1::fe/64 dev ua nodad")
	s.host("ip -n " + s.r + " addr add fd77:2::fe/64 dev ub nodad")
	s.host("ip -n " + s.b + " addr add fd77:2::1/64 dev u nodad")
	s.host("ip -n " + s.b + " route add default via fd77:2::fe")
	s.join(t, "", "--listen", ":4747")
	f := s.settled(t)
	s.reachedAt(t, "10.77.1.1")
	s.shell(s.a, "ip -4 addr flush dev u; ip addr add fd77:1::1/64 dev u nodad; ip route add default via fd77:1::fe")
	s.talksAgain(t, f, "from IPv4 to IPv6", roamGoal)
	s.reachedAt(t, "[fd77:1::1]")
	s.shell(s.a, "ip -6 addr del fd77:1::1/64 dev u; ip -6 route del default || true; ip addr add 10.77.1.1/24 dev u; ip route add default via 10.77.1.254")
	s.talksAgain(t, f, "from IPv6 to IPv4", roamGoal)
	s.reachedAt(t, "10.77.1.1")
}

// The NAT in front of an agent forgets its mapping and makes another one, with another
// port or another address: the host sees nothing of it, and the old one leads nowhere.
func TestNATRebound(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	s.host("ip -n " + s.r + " addr add 10.77.2.253/24 dev ub")
	s.drop("inward", "iifname ub ct state new")
	translate := func(to string) {
		t.Helper()
		_ = s.try(s.r, "nft delete table ip translate")
		s.shell(s.r, "nft add table ip translate; nft add chain ip translate after '{ type nat hook postrouting priority 100 ; }'; "+
			"nft add rule ip translate after oifname ub udp sport 4747 snat to "+to+"; nft add rule ip translate after oifname ub masquerade")
		s.within(s.r, func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
	}
	translate("10.77.2.254:5001")
	key := newKeyFile(t)
	b := startAgentIn(t, s.b, key, "b", "--listen", ":4747", "--tap", "t")
	a := startAgentIn(t, s.a, key, "a", "--listen", ":4747", "--tap", "t", "--bootstrap", b.bootstrap())
	s.agents = [2]*process{a, b}
	a.bootstrap()
	s.address(0)
	s.address(1)
	eventually(t, 15*time.Second, func() error { return s.try(s.a, "ping -c1 -W1 -q 10.78.0.2") })
	f := s.settled(t)
	s.reachedAt(t, "10.77.2.254:5001")
	for what, to := range map[string]string{"another port": "10.77.2.254:5002", "another address": "10.77.2.253:5003"} {
		translate(to)
		s.talksAgain(t, f, "the NAT gives "+what, roamGoal)
		s.reachedAt(t, to)
	}
}

// An agent whose cable is pulled for five seconds, or whose interface is down as long,
// goes on within the goal.
func TestInterfaceDown(t *testing.T) {
	const outage = "5"
	for what, link := range map[string]func(*sites) string{
		"the cable was pulled":   func(s *sites) string { return "ip -n " + s.r + " link set ua " },
		"the interface was down": func(s *sites) string { return "ip -n " + s.a + " link set u " },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s, f := roamers(t)
			s.host(link(s) + "down")
			s.host("sleep " + outage) // what the test is of
			s.host(link(s) + "up")
			_ = s.try(s.a, "ip route add default via 10.77.1.254") // goes with the interface
			s.talksAgain(t, f, what, roamGoal)
		})
	}
}

// An agent that was suspended for FARLAN_SUSPEND, by default until the others gave it up,
// goes on within the goal, also if it wakes up somewhere else.
func TestResume(t *testing.T) {
	length, err := time.ParseDuration(cmp.Or(os.Getenv("FARLAN_SUSPEND"), "11s"))
	if err != nil || length <= measure.GoneAfter {
		t.Fatalf("FARLAN_SUSPEND: want more than %v: %v", measure.GoneAfter, err)
	}
	for _, what := range []string{"resumed", "resumed in another network"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s, f := roamers(t)
			s.host("ip -n " + s.r + " addr add 10.77.3.254/24 dev ua")
			a, b := s.agents[0], s.agents[1]
			if err := a.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			s.host(fmt.Sprint("sleep ", length.Seconds())) // what the test is of
			eventually(t, measure.GoneAfter, func() error {
				if state := b.stateOf("a"); state != "gone" {
					return errors.New("a is " + state)
				}
				return nil
			})
			if strings.Contains(what, "another") {
				s.moveTo(3, 7)
			}
			if err := a.cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			s.talksAgain(t, f, fmt.Sprintf("suspended for %v, %s", length, what), resumeGoal)
		})
	}
}

// Bursts of events cost one look, and events that never end cost few.
func TestRoamingIsBounded(t *testing.T) {
	const ms = time.Millisecond
	start := overlay.Instant(time.Hour)
	for name, c := range map[string]struct {
		every, until time.Duration // one change each
		what         change
		looks, moves int // within ten seconds
	}{
		"one":                     {time.Hour, time.Hour, addressChange, 1, 0},
		"a burst":                 {ms, 40 * ms, addressChange, 1, 0},
		"a burst of routes":       {ms, 40 * ms, defaultChange | routeChange, 2, 2},
		"addresses without end":   {ms, 10 * time.Second, addressChange, 20, 0},
		"defaults without end":    {ms, 10 * time.Second, defaultChange, 20, 20},
		"routes without end":      {ms, 10 * time.Second, routeChange, 3, 3},
		"a router on a busy host": {ms, 10 * time.Second, routeChange | addressChange, 21, 3},
	} {
		var r roaming
		looks, moves := 0, 0
		for d := time.Duration(0); d < 10*time.Second; d += ms {
			now := start.Add(d)
			if d < c.until && d%c.every == 0 {
				r.notice(now, c.what)
			}
			look, forced := r.due(now)
			if look {
				looks++
			}
			if forced {
				moves++
				r.moved = now
			}
		}
		if looks == 0 || looks > c.looks || moves > c.moves || (moves == 0) != (c.moves == 0) {
			t.Errorf("%s: %d looks and %d moves, want %d and %d at most", name, looks, moves, c.looks, c.moves)
		}
	}
}

// What the kernel says of changes is understood, and what isn't one is not.
func TestWatcher(t *testing.T) {
	s := newSites(t)
	heard := make(chan change, 1000)
	var w *watcher
	s.within(s.a, func() (err error) {
		w, err = newWatcher(func(c change) { heard <- c })
		return err
	})
	done := make(chan error)
	go func() { done <- w.run(t.Context()) }()
	for _, c := range []struct {
		line string
		want change
	}{
		{"ip addr add 10.77.1.5/24 dev u", addressChange},
		{"ip addr del 10.77.1.5/24 dev u", addressChange},
		{"ip route add 10.80.0.0/16 via 10.77.1.254", routeChange},
		{"ip route del default", defaultChange},
		{"ip link set u down", addressChange | routeChange},
		{"ip link set u up", addressChange | routeChange},
	} {
		s.in(s.a, c.line)
		got := change(0)
		eventually(t, 5*time.Second, func() error {
			for len(heard) > 0 {
				got |= <-heard
			}
			if got&c.want != c.want {
				return fmt.Errorf("%s: heard %b, want %b", c.line, got, c.want)
			}
			return nil
		})
		if c.want == routeChange && got != routeChange {
			t.Errorf("%s: heard %b", c.line, got)
		}
	}
	w.stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func FuzzClassify(f *testing.F) {
	f.Add([]byte{20, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, b []byte) { classify(b) }) // ends, and doesn't panic
}
