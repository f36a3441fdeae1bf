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
	"syscall"
	"testing"
	"time"
)

func TestThreeFindEachOther(t *testing.T) {
	t.Parallel()
	key := newKeyFile(t)
	a := startAgent(t, key, "a")
	seed := a.bootstrap()
	b := startAgent(t, key, "b", "--bootstrap", seed)
	c := startAgent(t, key, "c", "--bootstrap", seed)
	took := eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(3), b.sees(3), c.sees(3)) })
	t.Logf("all three see each other after %v", took)

	var v statusView
	if err := b.ask(&v, "status"); err != nil || v.State != "ready" || v.Peers != 2 || v.Links != 2 || v.Schema != 1 {
		t.Errorf("status: %+v, %v", v, err)
	}
	var p pingView
	if err := b.ask(&p, "ping", "c", "--count", "3", "--interval", "50ms"); err != nil || p.Received != 3 || p.MinMs == nil || !slices.Equal(p.Path, []string{"b", "c"}) {
		t.Errorf("ping: %+v, %v", p, err)
	}
	if err := b.ask(&p, "ping", "nobody"); err == nil || !strings.Contains(err.Error(), "exit status 5") {
		t.Errorf("ping of nobody: %v", err)
	}
	var l linksView
	eventually(t, 15*time.Second, func() error {
		if err := a.ask(&l, "links"); err != nil || len(l.Links) != 6 {
			return fmt.Errorf("links: %+v, %w", l, err)
		}
		return nil
	})
	if err := a.ask(&l, "links", "--own"); err != nil || len(l.Links) != 2 || l.Links[0].From != "a" || l.Links[0].State != "up" {
		t.Errorf("own links: %+v, %v", l, err)
	}
	if out, err := exec.Command(program(t), "wait", "--for", "peer=c", "--socket", filepath.Join(a.dir, "s")).CombinedOutput(); err != nil {
		t.Errorf("wait: %v: %s", err, out)
	}
	if err := c.stop(); err != nil {
		t.Errorf("stop: %v\n%s", err, c.said())
	}
	took = eventually(t, 2*time.Second, func() error {
		if s := a.stateOf("c"); s != "gone" {
			return errors.New("c is " + s)
		}
		return nil
	})
	t.Logf("one that left is gone after %v", took)
	if left, _ := filepath.Glob(filepath.Join(c.dir, "*")); !slices.Equal(left, []string{filepath.Join(c.dir, "state")}) {
		t.Errorf("left behind: %v", left)
	}
}

func TestKilledAndRestarted(t *testing.T) {
	t.Parallel()
	key := newKeyFile(t)
	a := startAgent(t, key, "a")
	b := startAgent(t, key, "b", "--bootstrap", a.bootstrap())
	c := startAgent(t, key, "c", "--bootstrap", a.bootstrap())
	eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(3), b.sees(3), c.sees(3)) })
	// Its own port: the restarted one listens where the killed one did.
	v, err := b.status()
	if err != nil {
		t.Fatal(err)
	}
	port := netip.MustParseAddrPort(hostPort(v.Listen[0]))
	eventually(t, 5*time.Second, b.remembers(3))
	b.kill()
	suspect := eventually(t, 6*time.Second, func() error {
		if s := a.stateOf("b"); s != "suspect" {
			return errors.New("b is " + s)
		}
		return nil
	})
	gone := suspect + eventually(t, 12*time.Second, func() error {
		if s := a.stateOf("b"); s != "gone" {
			return errors.New("b is " + s)
		}
		return nil
	})
	b.args[slices.Index(b.args, "--listen")+1] = port.String()
	if i := slices.Index(b.args, "--bootstrap"); i > 0 { // it must remember
		b.args = slices.Delete(b.args, i, i+2)
	}
	b.start()
	back := eventually(t, 5*time.Second, func() error { return errors.Join(a.sees(3), b.sees(3), c.sees(3)) })
	t.Logf("killed: suspect after %v, gone after %v; restarted without bootstrap: back after %v", suspect, gone, back)
}

// hostPort takes the address out of a multiaddr.
func hostPort(multiaddr string) string {
	p := strings.Split(multiaddr, "/")
	return net.JoinHostPort(p[2], p[4])
}

// remembers says whether an agent has written down count members.
func (d *process) remembers(count int) func() error {
	return func() error {
		var r remembered
		b, err := os.ReadFile(filepath.Join(d.dir, "state", rememberedFile))
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		if err == nil && len(r.Records) < count {
			err = fmt.Errorf("%s remembers %d records", d.name, len(r.Records))
		}
		return err
	}
}

func TestBootstrapGoneForGood(t *testing.T) {
	t.Parallel()
	key := newKeyFile(t)
	first := startAgent(t, key, "first")
	b := startAgent(t, key, "b", "--bootstrap", first.bootstrap())
	c := startAgent(t, key, "c", "--bootstrap", first.bootstrap())
	eventually(t, 10*time.Second, func() error { return errors.Join(b.sees(3), c.sees(3)) })
	var ports []string
	for _, d := range []*process{b, c} {
		v, err := d.status()
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, hostPort(v.Listen[0]))
	}
	for _, d := range []*process{b, c} {
		eventually(t, 5*time.Second, d.remembers(3))
	}
	first.kill()
	b.kill()
	c.kill()
	for i, d := range []*process{b, c} { // the bootstrap address is still given, and dead
		d.args[slices.Index(d.args, "--listen")+1] = ports[i]
		d.start()
	}
	took := eventually(t, 10*time.Second, func() error { return errors.Join(b.sees(2), c.sees(2)) })
	t.Logf("together again by the peers on disk after %v", took)
}

// systemd is told when the agent is ready, how it is, and that it stops.
func TestNotify(t *testing.T) {
	key := newKeyFile(t)
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	a := startAgent(t, key, "a")
	expect := func(want string) {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		for b := make([]byte, 1000); ; {
			n, err := c.Read(b)
			if err != nil {
				t.Fatalf("not told %q: %v", want, err)
			}
			if strings.Contains(string(b[:n]), want) {
				return
			}
		}
	}
	expect("READY=1")
	expect("STATUS=a: 0 of 0 other members answer")
	seed := a.bootstrap()
	if err := os.Unsetenv("NOTIFY_SOCKET"); err != nil {
		t.Fatal(err)
	}
	startAgent(t, key, "b", "--bootstrap", seed)
	expect("STATUS=a: 1 of 1 other members answer")
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	expect("STOPPING=1")
}

// Two agents of one name are told apart by a suffix of the id, the same for all.
func TestNameClash(t *testing.T) {
	key := newKeyFile(t)
	a := startAgent(t, key, "twin")
	b := startAgent(t, key, "twin", "--bootstrap", a.bootstrap())
	eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
	one, two := a.up(), b.up()
	slices.Sort(one)
	slices.Sort(two)
	if !slices.Equal(one, two) || one[0] == one[1] || !strings.HasPrefix(one[0], "twin-") || !strings.HasPrefix(one[1], "twin-") {
		t.Errorf("called %v and %v", one, two)
	}
	var p pingView
	if err := a.ask(&p, "ping", one[0], "--count", "1"); err != nil {
		if err := a.ask(&p, "ping", one[1], "--count", "1"); err != nil {
			t.Error(err)
		}
	}
}

func TestReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "farlan.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log-level: warn\n")
	a := startAgent(t, newKeyFile(t), "a")
	a.kill()
	a.args[slices.Index(a.args, os.DevNull)] = file
	i := slices.Index(a.args, "--log-level")
	a.args = slices.Delete(a.args, i, i+2)
	a.start()
	a.bootstrap()
	hup := func(text, want string) {
		t.Helper()
		write(text)
		_ = a.cmd.Process.Signal(syscall.SIGHUP)
		eventually(t, 5*time.Second, func() error {
			if !strings.Contains(a.said(), want) {
				return fmt.Errorf("not said: %s\n%s", want, a.said())
			}
			return nil
		})
	}
	hup("log-level: debug\n", "log-level=DEBUG")
	hup("log-levl: info\n", "configuration not read again")
	hup("log-level: info\n", "log-level=INFO")
	if _, err := a.status(); err != nil {
		t.Errorf("after reloading: %v", err)
	}
}

// An agent that left in order, and boots before its network is up, finds the
// others by what it remembers although it has given them all up by then.
func TestBackAfterLeaving(t *testing.T) {
	t.Parallel()
	key := newKeyFile(t)
	a := startAgent(t, key, "a")
	b := startAgent(t, key, "b", "--bootstrap", a.bootstrap())
	eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
	eventually(t, 5*time.Second, b.remembers(2))
	v, err := a.status()
	if err != nil {
		t.Fatal(err)
	}
	addr := hostPort(v.Listen[0])
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	// The network isn't there: a is silent.
	if err := a.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	i := slices.Index(b.args, "--bootstrap")
	b.args = slices.Delete(b.args, i, i+2)
	b.start()
	eventually(t, 20*time.Second, func() error {
		if s := b.stateOf("a"); s != "gone" {
			return errors.New("a is " + s)
		}
		return nil
	})
	if err := a.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 30*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
	t.Logf("back with the agent at %s after %v", addr, took)
}

// A machine that lost its state comes back as somebody else, by its old name.
func TestBackWithoutState(t *testing.T) {
	key := newKeyFile(t)
	a := startAgent(t, key, "a")
	b := startAgent(t, key, "b", "--bootstrap", a.bootstrap())
	eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(b.dir, "state")); err != nil {
		t.Fatal(err)
	}
	b.start()
	eventually(t, 10*time.Second, func() error {
		if s := a.stateOf("b"); s != "up" {
			return errors.New("b is " + s)
		}
		return nil
	})
}

func TestWrongKeyLearnsNothing(t *testing.T) {
	t.Parallel()
	a := startAgent(t, newKeyFile(t), "a")
	seed := a.bootstrap()
	b := startAgent(t, newKeyFile(t), "b", "--bootstrap", seed)
	b.bootstrap()
	var status statusView
	eventually(t, 20*time.Second, func() (err error) {
		if status, err = b.status(); err == nil && status.State != "degraded" {
			err = errors.New("state " + status.State)
		}
		return err
	})
	said := fmt.Sprint(status.Health)
	for _, want := range []string{hostPort(seed), "farlan key id"} {
		if !strings.Contains(said, want) {
			t.Errorf("status doesn't say %q: %s", want, said)
		}
	}
	if err := exec.Command(program(t), "status", "--check", "ready", "--socket", filepath.Join(b.dir, "s")).Run(); err != nil {
		t.Errorf("a degraded agent is ready: %v", err)
	}
	for _, d := range []*process{a, b} {
		if v, err := d.peers(); err != nil || len(v.Peers) != 1 {
			t.Errorf("%s knows %+v, %v", d.name, v.Peers, err)
		}
	}
	eventually(t, 5*time.Second, func() error {
		if !strings.Contains(b.said(), "nobody answered") {
			return fmt.Errorf("the log doesn't say that nobody answered:\n%s", b.said())
		}
		return nil
	})
}
