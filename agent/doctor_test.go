package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/overlay"
)

// doctor runs the doctor of agent i.
func (s *sites) doctor(t *testing.T, i int) doctorView {
	t.Helper()
	ns := []string{s.a, s.b}[i]
	return runDoctor(t, nil, "ip", "netns", "exec", ns, program(t), "doctor", "--json", "--socket", filepath.Join(s.agents[i].dir, "s"))
}

// runDoctor runs a command that prints a doctor's findings, and checks what holds for
// all of them.
func runDoctor(t *testing.T, env []string, args ...string) (v doctorView) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
		if !strings.Contains(string(exit.Stderr), "farlan: doctor: ") {
			t.Errorf("standard error: %s", exit.Stderr)
		}
	}
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := 0
	for _, f := range v.Findings {
		if f.Level == levelFail {
			want = 1
		}
		if (f.Fix == "") != (f.Level == levelOK) || f.Detail == "" || f.Check == "" {
			t.Errorf("an incomplete finding: %+v", f)
		}
	}
	if code != want || v.Schema != 1 {
		t.Errorf("exit code %d, want %d, schema %d", code, want, v.Schema)
	}
	return v
}

// of returns the finding of a check.
func (v doctorView) of(check string) findingView {
	for _, f := range v.Findings {
		if f.Check == check {
			return f
		}
	}
	return findingView{Check: "no check " + check}
}

func (s *sites) finding(t *testing.T, i int, check string) findingView {
	t.Helper()
	return s.doctor(t, i).of(check)
}

// expect fails unless a check says what it should.
func (v doctorView) expect(t *testing.T, check, level, detail string) {
	t.Helper()
	if f := v.of(check); f.Level != level || !strings.Contains(f.Detail, detail) {
		t.Errorf("%s %s %q, want %s %q", f.Check, f.Level, f.Detail, level, detail)
	}
}

// The doctor finds nothing where nothing is wrong, and every fault that is made.
func TestDoctor(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	s.join(t, ",trust=dhcp")
	eventually(t, 10*time.Second, func() error {
		if a, b := s.mtu(0), s.mtu(1); a < 1490 || b < 1490 {
			return fmt.Errorf("MTU %d and %d", a, b)
		}
		return nil
	})
	eventually(t, 20*time.Second, func() error {
		if f := s.finding(t, 0, "path MTU"); !strings.Contains(f.Detail, "1 members") {
			return fmt.Errorf("%+v", f)
		}
		return nil
	})
	well := s.doctor(t, 0)
	for _, f := range well.Findings {
		if f.Level != levelOK {
			t.Errorf("nothing is wrong, but: %+v", f)
		}
	}
	for check, detail := range map[string]string{
		"rights": "all that", tunDevice: "can be opened", "key file": "network", "clock": "within 2m0s", "members": "1 of 1",
		"offload t": "64 KB", "NAT": "none", "nested tunnel": "no way", "path MTU": "1 members", "reachable": "TCP from b, and UDP from a port that this host never sent to, from b",
		"duplicate MAC": "none of", "rogue DHCP": "no DHCP server", "guard": "nothing was refused",
	} {
		well.expect(t, check, levelOK, detail)
	}

	// Long packets vanish, and then routers say so.
	s.background(s.a, "ping -i0.2 -q -s 1472 -M do 10.78.0.2")
	s.narrow(1400)
	eventually(t, 20*time.Second, func() error {
		if f := s.finding(t, 0, "path MTU"); f.Level != levelWarn || !strings.Contains(f.Detail, "vanish") || !strings.Contains(f.Detail, "b (1") {
			return fmt.Errorf("path MTU: %+v", f)
		}
		return nil
	})
	s.host("ip -n " + s.a + " route add 10.77.2.1 via 10.77.1.254 mtu 1400")
	s.doctor(t, 0).expect(t, "path MTU", levelOK, "no black hole")
	s.host("ip -n " + s.a + " route del 10.77.2.1")
	s.narrow(0)

	// A route sends what is for the other agent through the overlay.
	s.host("ip -n " + s.a + " route add 10.77.2.0/25 dev t")
	v := s.doctor(t, 0)
	s.host("ip -n " + s.a + " route del 10.77.2.0/25")
	v.expect(t, "nested tunnel", levelFail, "b at 10.77.2.1 by t")
	eventually(t, 15*time.Second, func() error { return errors.Join(s.agents[0].sees(2), s.agents[1].sees(2)) })

	// A firewall lets nothing in that b didn't ask for.
	s.in(s.b, "nft add table ip wall")
	s.in(s.b, "nft add chain ip wall in { type filter hook input priority 0 ; }")
	s.in(s.b, "nft add rule ip wall in iifname u ct state new drop")
	eventually(t, 20*time.Second, func() error { // it is connected again some time after it was seen
		if f := s.finding(t, 1, "reachable"); f.Level != levelWarn || !strings.Contains(f.Detail, "takes nothing") {
			return fmt.Errorf("reachable: %+v", f)
		}
		return nil
	})
	s.in(s.b, "nft delete table ip wall")

	// Machines at both ends hand out addresses.
	for i, ns := range []string{s.a, s.b} {
		s.within(ns, func() error { return sendLease(fmt.Sprintf("10.78.0.%d", i+1)) })
	}
	eventually(t, 20*time.Second, func() error {
		if f := s.finding(t, 0, "rogue DHCP"); f.Level != levelFail || !strings.Contains(f.Detail, "10.78.0.1") || !strings.Contains(f.Detail, "10.78.0.2") || !strings.Contains(f.Detail, "behind b") {
			return fmt.Errorf("%+v", f)
		}
		return nil
	})

	// Two machines have one address.
	for i, ns := range []string{s.a, s.b} {
		s.host("ip -n " + ns + " link set dev t address 02:00:00:00:00:77")
		s.background(ns, fmt.Sprintf("ping -b -i0.02 -q -I 10.78.0.%d 10.78.0.255", i+1))
	}
	eventually(t, 20*time.Second, func() error {
		if f := s.finding(t, 0, "duplicate MAC"); f.Level != levelFail || !strings.Contains(f.Detail, "02:00:00:00:00:77") {
			return fmt.Errorf("%+v", f)
		}
		return nil
	})
}

// sendLease sends what a DHCP server answers, from an address.
func sendLease(from string) error {
	c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from), Port: 67}, &net.UDPAddr{IP: net.IPv4(10, 78, 0, 255), Port: 68})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(append([]byte{2, 1, 6, 0}, make([]byte, 296)...))
	return err
}

func TestDoctorFindsPlainPorts(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	s.join(t, ",offload=off")
	s.doctor(t, 0).expect(t, "offload t", levelWarn, "one by one")
}

// Without an agent the doctor looks at the host alone, as 'farlan up' would.
func TestDoctorOfTheHost(t *testing.T) {
	key := newKeyFile(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "farlan.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"FARLAN_KEY_FILE=" + key, "FARLAN_SOCKET=" + dir + "/s", "FARLAN_STATE_DIR=" + dir + "/state", "FARLAN_CONFIG=" + filepath.Join(dir, "farlan.yaml")}
	doctor := func(before []string, more ...string) doctorView {
		t.Helper()
		return runDoctor(t, append(env, more...), append(before, program(t), "doctor", "--json")...)
	}
	v := doctor(nil)
	v.expect(t, "rights", levelOK, "no configured port takes any")
	v.expect(t, "key file", levelOK, "of network")
	v.expect(t, "agent", levelWarn, "nobody listens")
	if _, err := os.Stat(dir + "/state"); !errors.Is(err, os.ErrNotExist) {
		t.Error("the doctor made the state folder")
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	doctor(nil).expect(t, "key file", levelFail, "others can read it")
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key+oldKeysSuffix, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	doctor(nil).expect(t, "key file", levelWarn, "not as farlan writes them")
	doctor(nil, "FARLAN_TAP=x,what=7").expect(t, "configuration", levelFail, "what=7")

	needRoot(t)
	doctor([]string{"unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$@\"", "sh"}, "FARLAN_TAP=t").expect(t, tunDevice, levelFail, "no such file")
	doctor([]string{"unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$@\"", "sh"}).expect(t, tunDevice, levelWarn, "no TAP is configured")
	v = doctor([]string{"setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw"}, "FARLAN_TAP=t", "FARLAN_LAN=u")
	v.expect(t, "rights", levelFail, "CAP_NET_ADMIN, CAP_NET_RAW")
}

// A wrong clock is found.
func TestDoctorFindsSkew(t *testing.T) {
	t.Parallel()
	key := newKeyFile(t)
	a := startAgent(t, key, "a")
	defer past(t, key, a.bootstrap())()
	eventually(t, 15*time.Second, func() error {
		v := runDoctor(t, nil, program(t), "doctor", "--json", "--socket", filepath.Join(a.dir, "s"))
		if f := v.of("clock"); f.Level != levelFail || !strings.Contains(f.Detail, "ahead of the other members'") {
			return fmt.Errorf("%+v", f)
		}
		return nil
	})
}

func TestReachFindings(t *testing.T) {
	names := map[overlay.AgentID]string{{1}: "x", {2}: "y"}
	x := func(answered, sent, tcp, udp bool) reachState {
		return reachState{member: overlay.AgentID{1}, answered: answered, sent: sent, tcp: tcp, udp: udp}
	}
	for _, c := range []struct {
		states []reachState
		level  string
		want   string
	}{
		{nil, levelOK, "unknown: none of 0"},
		{[]reachState{x(false, false, false, false)}, levelOK, "unknown: none of 1"},
		{[]reachState{x(true, false, false, false)}, levelOK, "unknown: none of 1"},
		{[]reachState{x(true, true, false, false)}, levelWarn, "takes nothing"},
		{[]reachState{x(true, true, true, false)}, levelWarn, "UDP only answers"},
		{[]reachState{x(true, true, false, true)}, levelWarn, "TCP doesn't"},
		{[]reachState{x(true, true, true, true)}, levelOK, "TCP from x"},
		{[]reachState{x(true, true, false, false), {member: overlay.AgentID{2}, answered: true, sent: true, tcp: true, udp: true}}, levelOK, "TCP from y"},
	} {
		if f := reachFinding(c.states, names, 4747); f.Level != c.level || !strings.Contains(f.Detail, c.want) || (f.Fix == "") != (f.Level == levelOK) {
			t.Errorf("%+v, want %s %q", f, c.level, c.want)
		}
	}
}

func TestNATFindings(t *testing.T) {
	const none, same, varied = discovery.MappingNone, discovery.MappingSame, discovery.MappingByDestination
	outside := netip.MustParseAddrPort("30.99.0.1:4747")
	for _, c := range []struct {
		facts natFacts
		level string
		want  string
	}{
		{natFacts{}, levelOK, "unknown: 0 members"},
		{natFacts{told: 1}, levelOK, "unknown: 1 members"},
		{natFacts{mapping: none}, levelOK, "none: "},
		{natFacts{mapping: none, tried: true, let: true}, levelOK, "at an address of its own"},
		{natFacts{mapping: none, tried: true}, levelOK, "a firewall"},
		{natFacts{mapping: none, tried: true, mapped: outside}, levelOK, "hands on to this host what comes to 30.99.0.1:4747"},
		{natFacts{mapping: same}, levelOK, "a cone: "},
		{natFacts{mapping: same, tried: true}, levelOK, "a port-restricted cone"},
		{natFacts{mapping: same, tried: true, let: true}, levelOK, "a full cone, or a restricted one"},
		{natFacts{mapping: varied, tried: true}, levelWarn, "symmetric"},
		{natFacts{mapping: varied, cut: true}, levelWarn, "no UDP passes"},
	} {
		if f := natFinding(c.facts); f.Level != c.level || !strings.Contains(f.Detail, c.want) || (f.Fix == "") != (f.Level == levelOK) {
			t.Errorf("%+v: %+v, want %s %q", c.facts, f, c.level, c.want)
		}
	}
}

func TestDHCPFindings(t *testing.T) {
	server := func(n byte, behind string, home bool) dhcpServer {
		ip := netip.AddrFrom4([4]byte{192, 168, n, 1})
		return dhcpServer{overlay.Station{MAC: overlay.MAC{2, 5: n}, IPs: []netip.Addr{ip}}, behind, home}
	}
	router, second := server(1, "home's eth0", true), server(2, "home's eth0", true)
	host, other := server(122, "vmhost", false), server(123, "attic", false)
	for _, c := range []struct {
		servers []dhcpServer
		lan     bool
		level   string
		want    []string
	}{
		{nil, true, levelOK, []string{"no DHCP server"}},
		{[]dhcpServer{router}, true, levelOK, []string{"only 192.168.1.1 (02:00:00:00:00:01) behind home's eth0"}},
		{[]dhcpServer{router, second}, true, levelOK, []string{"192.168.1.1", "192.168.2.1"}}, // one stands in for the other
		{[]dhcpServer{router, server(10, "office", true)}, true, levelFail, []string{"192.168.1.1 (02:00:00:00:00:01) behind home's eth0", "192.168.10.1 (02:00:00:00:00:0a) behind office"}},
		{[]dhcpServer{host}, false, levelOK, []string{"only 192.168.122.1"}}, // a network of VMs alone
		{[]dhcpServer{host}, true, levelWarn, []string{"192.168.122.1", "vmhost"}},
		{[]dhcpServer{host, router}, true, levelFail, []string{"LAN's own, 192.168.1.1", "so does 192.168.122.1 (02:00:00:00:00:7a) behind vmhost"}},
		{[]dhcpServer{host, other}, false, levelFail, []string{"192.168.122.1", "192.168.123.1"}},
		{slices.Repeat([]dhcpServer{host}, 100), false, levelFail, nil},
	} {
		f := dhcpFinding(c.servers, c.lan)
		if f.Level != c.level || (f.Fix == "") != (f.Level == levelOK) || len(f.Detail) > 600 {
			t.Errorf("%v: %+v, want %s", c.servers, f, c.level)
		}
		for _, w := range c.want {
			if !strings.Contains(f.Detail, w) {
				t.Errorf("%q, want %q", f.Detail, w)
			}
		}
	}
}

func TestBuffersFindings(t *testing.T) {
	for most, want := range map[int]string{4 << 20: levelOK, 212992: levelWarn, 0: levelWarn} {
		if f := buffersFinding(most, nil); f.Level != want || want == levelWarn && !strings.Contains(f.Fix, "net.core.rmem_max=4194304") {
			t.Errorf("%d: %+v", most, f)
		}
	}
}
