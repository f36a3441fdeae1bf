package agent

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/measure"
)

func TestReasons(t *testing.T) {
	const by, same, none = discovery.MappingByDestination, discovery.MappingSame, discovery.MappingNone
	up := wayFacts{state: measure.Up, addrs: 2, told: 2, indirect: time.Minute, anyDirect: true}
	with := func(change func(*wayFacts)) wayFacts { f := up; f.path = "relayed"; change(&f); return f }
	for _, c := range []struct {
		f    wayFacts
		want string
	}{
		{wayFacts{path: "self"}, ""},
		{wayFacts{path: "direct", transport: "udp", state: measure.Up}, ""},
		{wayFacts{path: "direct", transport: "udp", state: measure.Suspect}, "suspect: it has not"},
		{wayFacts{path: "none", state: measure.Gone, since: 90 * time.Second}, "gone: silent for 1m30s"},
		{wayFacts{path: "none", left: true, state: measure.Gone}, "it has left"},
		{wayFacts{path: "none", state: measure.Suspect}, "none: it tells no address"},
		{wayFacts{path: "none", state: measure.Suspect, told: 1}, "none: all its addresses are of a family"},
		{wayFacts{path: "none", state: measure.Suspect, told: 3, addrs: 2, known: 7 * time.Second}, "none: no handshake was answered for 7s, at 2 addresses"},
		{with(func(f *wayFacts) { f.here, f.there = by, by }), "relayed: both NATs map by destination"},
		{with(func(f *wayFacts) { f.here, f.there = by, same }), "relayed: the NAT here maps by destination, and the other"},
		{with(func(f *wayFacts) { f.here, f.there = same, by }), "relayed: the NAT there maps by destination, and this"},
		{with(func(f *wayFacts) { f.here, f.there = none, none }), "relayed: no direct datagram passed in the last 30 tries, at 2 addresses"},
		{with(func(f *wayFacts) { f.indirect = time.Second }), "relayed: not tried directly for long enough"},
		{with(func(f *wayFacts) { f.stream = true }), "relayed: UDP doesn't pass between the two"},
		{with(func(f *wayFacts) { f.stream, f.anyDirect = true, false }), "relayed: UDP gets nothing out"},
		{with(func(f *wayFacts) { f.path, f.transport, f.stream, f.anyDirect = "direct", "stream", true, false }), "stream: UDP gets nothing out"},
		{with(func(f *wayFacts) { f.addrs = 0 }), "relayed: this host can send to none"},
	} {
		if got := c.f.reason(); !strings.HasPrefix(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%+v\n%q, want %q", c.f, got, c.want)
		}
	}
}

func TestFindMapping(t *testing.T) {
	at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	own, x, y, z := at("10.0.0.1:4747"), at("192.0.2.1:4747"), at("192.0.2.1:4748"), at("192.0.2.2:4747")
	for _, c := range []struct {
		seen []netip.AddrPort
		want discovery.Mapping
	}{
		{nil, discovery.MappingUnknown},
		{[]netip.AddrPort{own}, discovery.MappingNone},
		{[]netip.AddrPort{own, own, own}, discovery.MappingNone},
		{[]netip.AddrPort{x}, discovery.MappingUnknown},
		{[]netip.AddrPort{own, x}, discovery.MappingUnknown},
		{[]netip.AddrPort{x, own, x}, discovery.MappingSame},
		{[]netip.AddrPort{x, y}, discovery.MappingByDestination},
		{[]netip.AddrPort{x, z}, discovery.MappingUnknown}, // inside and outside of another NAT
		{[]netip.AddrPort{x, x, z, own}, discovery.MappingSame},
		{[]netip.AddrPort{x, y, z}, discovery.MappingByDestination},
		{[]netip.AddrPort{x, y, x}, discovery.MappingSame}, // one hasn't noticed that the NAT forgot
	} {
		if got := findMapping([]netip.AddrPort{own}, c.seen); got != c.want {
			t.Errorf("%v: %v, want %v", c.seen, got, c.want)
		}
	}
}

// outside starts two agents, c and d, at one more host behind the router, and a and b
// at the sites; each of the two has a NAT of the kind that natRule makes in front, and
// no packet passes from one to the other but through them.
func (s *sites) outside(t *testing.T, natRule string) {
	t.Helper()
	far := s.r + "c"
	s.host("ip netns add " + far)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", far).Run() })
	s.host(fmt.Sprintf("ip link add u netns %s type veth peer name uc netns %s", far, s.r))
	s.host("ip -n " + far + " addr add 10.77.3.1/24 dev u")
	s.host("ip -n " + s.r + " addr add 10.77.3.254/24 dev uc")
	for _, up := range []string{far + " link set lo up", far + " link set u up", s.r + " link set uc up"} {
		s.host("ip -n " + up)
	}
	s.host("ip -n " + far + " route add default via 10.77.3.254")
	if natRule != "" {
		s.in(s.r, "nft add table ip nat")
		s.in(s.r, "nft add chain ip nat post { type nat hook postrouting priority 100 ; }")
		s.in(s.r, "nft add rule ip nat post oifname uc ip saddr { 10.77.1.0/24, 10.77.2.0/24 } "+natRule)
		s.in(s.r, "nft add chain ip nat forward { type filter hook forward priority 0 ; }")
		s.in(s.r, "nft add rule ip nat forward iifname uc ct state new drop")
	}
	s.drop("sites", "ip saddr { 10.77.1.0/24, 10.77.2.0/24 } ip daddr { 10.77.1.0/24, 10.77.2.0/24 }")
	key := newKeyFile(t)
	seed := ""
	start := func(ns, name, listen string, more ...string) *process {
		args := append([]string{"--listen", listen, "--beacon=off"}, more...)
		if seed != "" {
			args = append(args, "--bootstrap", seed)
		}
		d := startAgentIn(t, ns, key, name, args...)
		d.bootstrap()
		t.Cleanup(func() {
			if said := d.said(); t.Failed() {
				t.Logf("%s said:\n%s", name, said[max(len(said)-3000, 0):])
			}
		})
		return d
	}
	seed = start(far, "c", "10.77.3.1:4747").bootstrap()
	start(far, "d", "10.77.3.1:4748")
	s.agents[0] = start(s.a, "a", "10.77.1.1:4747", "--tap", "t")
	s.agents[1] = start(s.b, "b", "10.77.2.1:4747", "--tap", "t")
	s.address(0)
	s.address(1)
}

// why returns how a reaches another agent, and why not better.
func (s *sites) why(name string) (path, reason string, err error) {
	v, err := s.agents[0].peers()
	for _, p := range v.Peers {
		if p.Name == name {
			if p.Reason != nil {
				reason = *p.Reason
			}
			return p.Path, reason, err
		}
	}
	return "", "", fmt.Errorf("a doesn't know %s: %w", name, err)
}

// becauseOf waits until a says that it reaches b by others for a reason.
func (s *sites) becauseOf(t *testing.T, want string) {
	t.Helper()
	took := eventually(t, 40*time.Second, func() error {
		if path, reason, err := s.why("b"); err != nil || path != "relayed" || !strings.HasPrefix(reason, want) {
			return fmt.Errorf("b is %s, because %q, %w", path, reason, err)
		}
		return nil
	})
	_, reason, _ := s.why("b")
	t.Logf("after %v: %s", took, reason)
	if path, reason, err := s.why("c"); err != nil || path != "direct" || reason != "" {
		t.Errorf("c is %s, because %q, %v", path, reason, err)
	}
	out, err := exec.Command(program(t), "peers", "--socket", s.agents[0].dir+"/s").Output()
	if err != nil || !slices.ContainsFunc(strings.Split(string(out), "\n"), func(l string) bool { return strings.HasPrefix(l, "b is "+want) }) {
		t.Errorf("the table doesn't say it: %v\n%s", err, out)
	}
}

// Both sites have a NAT that takes another port for every destination.
func TestReasonIsNAT(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	s.outside(t, "masquerade fully-random")
	s.becauseOf(t, "relayed: both NATs map by destination")
	f := s.finding(t, 0, "NAT")
	if f.Level != levelWarn || !strings.Contains(f.Detail, "symmetric: it maps by destination") || !strings.Contains(f.Fix, "4747") {
		t.Errorf("doctor: %+v", f)
	}
	f = s.finding(t, 0, "reachable")
	if f.Level != levelWarn || !strings.Contains(f.Detail, "takes nothing") || !strings.Contains(f.Fix, "--advertise") {
		t.Errorf("doctor: %+v", f)
	}
}

// No NAT, but a firewall between the sites.
func TestReasonIsFirewall(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	s.outside(t, "")
	s.becauseOf(t, "relayed: no direct datagram passed in the last")
	if f := s.finding(t, 0, "NAT"); f.Level != levelOK || !strings.HasPrefix(f.Detail, "none") {
		t.Errorf("doctor: %+v", f)
	}
}
