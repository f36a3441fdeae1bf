package agent

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Sites are two hosts and a router between them, as network namespaces, each
// host with an agent and a TAP:
//
//	a: t 10.78.0.1 │ u 10.77.1.1 ── r: ua │ ub ── u 10.77.2.1 │ t 10.78.0.2 :b
type sites struct {
	t       *testing.T
	a, r, b string
	agents  [2]*process
}

var siteCount atomic.Int64

// newSites makes the namespaces, the cables and the router.
func newSites(t *testing.T) *sites {
	t.Helper()
	needRoot(t)
	s := &sites{t: t}
	prefix := fmt.Sprintf("fs%d-%d", os.Getpid(), siteCount.Add(1))
	s.a, s.r, s.b = prefix+"a", prefix+"r", prefix+"b"
	for _, n := range []string{s.a, s.r, s.b} {
		s.host("ip netns add " + n)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", n).Run() })
		s.host("ip -n " + n + " link set lo up")
	}
	for i, n := range []string{s.a, s.b} {
		far := "u" + string("ab"[i])
		s.host(fmt.Sprintf("ip link add u netns %s type veth peer name %s netns %s", n, far, s.r))
		s.host(fmt.Sprintf("ip -n %s addr add 10.77.%d.1/24 dev u", n, i+1))
		s.host(fmt.Sprintf("ip -n %s addr add 10.77.%d.254/24 dev %s", s.r, i+1, far))
		s.host(fmt.Sprintf("ip -n %s link set u up", n))
		s.host(fmt.Sprintf("ip -n %s link set %s up", s.r, far))
		s.host(fmt.Sprintf("ip -n %s route add default via 10.77.%d.254", n, i+1))
	}
	s.in(s.r, "sysctl -qw net.ipv4.ip_forward=1")
	return s
}

// host runs a command line.
func (s *sites) host(line string) string {
	s.t.Helper()
	args := strings.Fields(line)
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// in runs a command line in a namespace.
func (s *sites) in(ns, line string) string {
	s.t.Helper()
	return s.host("ip netns exec " + ns + " " + line)
}

// try is in for what may fail.
func (s *sites) try(ns, line string) error {
	args := append([]string{"netns", "exec", ns}, strings.Fields(line)...)
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", line, err, out)
	}
	return nil
}

// background runs a command line in a namespace until the test ends.
func (s *sites) background(ns, line string) *exec.Cmd {
	s.t.Helper()
	c := exec.Command("ip", append([]string{"netns", "exec", ns}, strings.Fields(line)...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c
}

// join starts both agents and waits until they see each other. Their TAPs are
// called t; tap is what else --tap says of it.
func (s *sites) join(t *testing.T, tap string, more ...string) {
	t.Helper()
	key := newKeyFile(t)
	seed := ""
	for i, ns := range []string{s.a, s.b} {
		args := append([]string{"--listen", fmt.Sprintf("10.77.%d.1:4747", i+1), "--tap", "t" + tap}, more...)
		if seed != "" {
			args = append(args, "--bootstrap", seed)
		}
		s.agents[i] = startAgentIn(t, ns, key, string("ab"[i]), args...)
		seed = s.agents[i].bootstrap()
		s.address(i)
	}
	t.Cleanup(func() {
		for _, a := range s.agents {
			if said := a.said(); t.Failed() {
				t.Logf("%s said:\n%s", a.name, said[max(len(said)-5000, 0):])
			}
		}
	})
	eventually(t, 15*time.Second, func() error { return s.try(s.a, "ping -c1 -W1 -q 10.78.0.2") })
}

// drop makes the router drop what matches, under a name that the next drop of that
// name replaces; with "" nothing.
func (s *sites) drop(name, match string) {
	s.t.Helper()
	_ = s.try(s.r, "nft delete table ip "+name)
	if match != "" {
		s.in(s.r, "nft add table ip "+name)
		s.in(s.r, "nft add chain ip "+name+" forward { type filter hook forward priority 0 ; }")
		s.in(s.r, "nft add rule ip "+name+" forward "+match+" drop")
	}
}

// address gives the TAP of agent i its addresses.
func (s *sites) address(i int) {
	s.t.Helper()
	ns := []string{s.a, s.b}[i]
	s.host(fmt.Sprintf("ip -n %s addr add 10.78.0.%d/24 dev t", ns, i+1))
	s.host(fmt.Sprintf("ip -n %s addr add fd78::%d/64 dev t nodad", ns, i+1))
}

// restart kills agent i and starts it again. Its new TAP has the address of the one before.
func (s *sites) restart(i int) {
	s.t.Helper()
	s.agents[i].kill()
	s.agents[i].start()
	s.agents[i].bootstrap()
	s.address(i)
}

// retap starts agent i again with a TAP of which --tap says something else, and
// waits until both agents see each other.
func (s *sites) retap(t *testing.T, i int, tap string) {
	t.Helper()
	args := s.agents[i].args
	args[slices.Index(args, "--tap")+1] = "t" + tap
	s.restart(i)
	eventually(t, 15*time.Second, func() error { return s.try(s.a, "ping -c1 -W1 -q 10.78.0.2") })
}

// mtu returns what agent i takes for the MTU of its path to the other.
func (s *sites) mtu(i int) int {
	v, err := s.agents[i].peers()
	if err != nil {
		return 0
	}
	for _, p := range v.Peers {
		if p.Path == "direct" && p.MTU != nil {
			return *p.MTU
		}
	}
	return 0
}
