package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A network is made, others are invited, join and find each other, with no flag
// but where the files are; a copied key without a credential is of no use.
func TestSignedNetwork(t *testing.T) {
	t.Parallel()
	a := found(t, "", "a")
	began := time.Now()
	token := a.must("", "invite")
	joined := []*process{a}
	for _, name := range []string{"b", "c"} {
		d := newMember(t, "", name)
		d.must(token, "join", "-", "--name", name)
		joined = append(joined, d.launch("--beacon", "off"))
	}
	took := eventually(t, 15*time.Second, func() error {
		return errors.Join(joined[0].sees(3), joined[1].sees(3), joined[2].sees(3))
	})
	t.Logf("three see each other %v after the last one started, %v after the invite", took, time.Since(began))
	for _, d := range joined {
		v, err := d.status()
		if err != nil || v.Admission != "signed" || v.State != "ready" || !d.check("credential").OK || len(v.Credential.Rights) != 3 {
			t.Errorf("%s: %+v, %v", d.name, v, err)
		}
	}
	if joined[1].credentialOf().Invite == nil || a.credentialOf().Invite != nil {
		t.Error("status doesn't say who came by an invite")
	}

	// A thief has the key file, and a network of its own to make a credential in.
	thief := newMember(t, "", "thief")
	own := newMember(t, "", "own")
	own.must("", "init")
	b, err := os.ReadFile(filepath.Join(a.dir, "network.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(thief.dir, "network.key"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, thief, "this agent has none", a)
	var m membership
	if b, err = os.ReadFile(filepath.Join(own.dir, "state", membershipFile)); err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	v, err := a.status()
	if err != nil {
		t.Fatal(err)
	}
	m.Network = v.Network
	if b, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{membershipFile: b, identityFile: nil} {
		if text == nil {
			if text, err = os.ReadFile(filepath.Join(own.dir, "state", name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(filepath.Join(thief.dir, "state"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(thief.dir, "state", name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, thief, "not signed by this network's admin", a)
	if err := a.sees(3); err != nil {
		t.Error(err)
	}
}

// A revoked member is out everywhere within seconds: of the control plane, of the
// sessions, and of what others know; it can't come back. Others of its invite stay.
func TestRevoke(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	a := found(t, s.a, "a", "--listen", "10.77.1.1:4747", "--tap", "t")
	s.agents[0] = a
	s.address(0)
	token := a.must("", "invite")
	b, c := newMember(t, s.b, "b"), newMember(t, s.r, "c")
	b.must(token, "join", "-", "--name", "b")
	c.must(token, "join", "-", "--name", "c")
	b.launch("--listen", "10.77.2.1:4747", "--tap", "t")
	s.agents[1] = b
	s.address(1)
	c.launch("--listen", ":4747", "--tap", "t")
	s.host("ip -n " + s.r + " addr add 10.78.0.3/24 dev t")
	eventually(t, 20*time.Second, func() error {
		return errors.Join(a.sees(3), b.sees(3), c.sees(3), s.try(s.a, "ping -c1 -W1 -q 10.78.0.2"), s.try(s.r, "ping -c1 -W1 -q 10.78.0.2"), s.try(s.a, "ping -c1 -W1 -q 10.78.0.3"))
	})
	var files [2]*os.File
	var pings [2]*exec.Cmd
	said := func(i int) string {
		b, err := os.ReadFile(files[i].Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for i, ns := range []string{s.a, s.r} {
		var err error
		if files[i], err = os.Create(filepath.Join(t.TempDir(), "pings")); err != nil {
			t.Fatal(err)
		}
		defer files[i].Close()
		pings[i] = exec.Command("ip", "netns", "exec", ns, "ping", "-D", "-i", "0.05", "-w", "8", "10.78.0.2")
		pings[i].Stdout = files[i]
		if err := pings[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 5*time.Second, func() error {
		for i := range pings {
			if !strings.Contains(said(i), "bytes from") {
				return fmt.Errorf("no reply to agent %d: %s", i, said(i))
			}
		}
		return nil
	})
	old := c.credentialOf()
	began := time.Now()
	var v revokeView
	if err := json.Unmarshal([]byte(a.must("", "revoke", "b", "--json")), &v); err != nil {
		t.Fatal(err)
	}
	if v.Name == nil || *v.Name != "b" || v.Invite == nil || !slices.Equal(v.Renewed, []string{"c"}) || v.Until == nil {
		t.Errorf("revoke says %+v", v)
	}
	out := func(d *process) error {
		if state := d.stateOf("b"); state != "not listed" {
			return fmt.Errorf("%s says that b is %s", d.name, state)
		}
		return nil
	}
	took := eventually(t, 5*time.Second, func() error { return errors.Join(out(a), out(c)) })
	alone := took + eventually(t, 30*time.Second, func() error { return b.sees(1) })
	for i, p := range pings {
		_ = p.Wait() // fails: replies are missing
		last := lastReply(t, said(i), began)
		t.Logf("agent %d: the last reply came %v after the revocation began", i, last)
		if last > 5*time.Second {
			t.Errorf("frames pass for %v", last)
		}
	}
	t.Logf("all others had forgotten it after %v; it was alone after %v", took, alone)
	eventually(t, 10*time.Second, func() error {
		return errors.Join(a.sees(2), c.sees(2), s.try(s.a, "ping -c1 -W1 -q 10.78.0.3"))
	})
	eventually(t, 5*time.Second, func() error {
		if now := c.credentialOf(); now.Invite != nil || !now.Expires.Equal(old.Expires) {
			return fmt.Errorf("c has %+v, had %+v", now, old)
		}
		return nil
	})
	// Neither a restart nor the token brings it back.
	b.kill()
	b.must(token, "join", "-")
	b.start()
	b.bootstrap()
	eventually(t, 15*time.Second, func() error {
		if h := b.check("members"); h.OK || !strings.Contains(h.Detail, "credential") {
			return fmt.Errorf("b's health: %+v", h)
		}
		return nil
	})
	d := newMember(t, s.b, "d")
	d.must(token, "join", "-")
	d.launch("--listen", "10.77.2.1:4748", "--beacon", "off") // b and it would take each other for members
	eventually(t, 15*time.Second, func() error {
		if h := d.check("members"); h.OK {
			return fmt.Errorf("d's health: %+v", h)
		}
		return nil
	})
	if err := errors.Join(a.sees(2), c.sees(2), out(a), out(c)); err != nil {
		t.Error(err)
	}
}

// A one-time invite makes one member, without a restart of anybody.
func TestOnceInvite(t *testing.T) {
	t.Parallel()
	a := found(t, "", "a", "--beacon", "off")
	token := a.must("", "invite", "--once")
	first, second := newMember(t, "", "first"), newMember(t, "", "second")
	if said := first.must(token, "join", "-", "--name", "first"); !strings.Contains(said, "for one agent") {
		t.Errorf("join says %q", said)
	}
	second.must(token, "join", "-", "--name", "second")
	first.launch("--beacon", "off")
	took := eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(2), first.sees(2)) })
	t.Logf("joined after %v", took)
	if c := first.credentialOf(); !c.Complete {
		t.Errorf("first has %+v", c)
	}
	second.launch("--beacon", "off")
	eventually(t, 15*time.Second, func() error {
		if h := second.check("members"); h.OK || !strings.Contains(h.Detail, "another one has joined by it") {
			return fmt.Errorf("second's health: %+v", h)
		}
		return nil
	})
	if err := errors.Join(a.sees(2), first.sees(2), second.sees(1)); err != nil {
		t.Error(err)
	}
	// It is the first one's after a restart of all, from what they have written down.
	for _, d := range []*process{a, first, second} {
		if err := d.stop(); err != nil {
			t.Fatal(err)
		}
	}
	a.args[slices.Index(a.args, "--listen")+1] = "127.0.0.1:0"
	a.start()
	seed := a.bootstrap()
	for _, d := range []*process{second, first} {
		d.args = append(d.args, "--bootstrap", seed)
		d.start()
		d.bootstrap()
	}
	eventually(t, 15*time.Second, func() error { return errors.Join(a.sees(2), first.sees(2), second.sees(1)) })
}

// In a network that is in two pieces a one-time invite makes two members, until
// the pieces meet: then one of them is left, the same for all.
func TestOnceInviteRace(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	a := found(t, s.a, "a", "--listen", "10.77.1.1:4747")
	b := join(t, a, s.b, "b").launch("--listen", "10.77.2.1:4747")
	eventually(t, 15*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
	s.drop("sites", between)
	rivals := map[string]*process{}
	token := a.must("", "invite", "--once")
	for name, at := range map[string]struct{ namespace, listen, seed string }{
		"c": {s.a, "10.77.1.1:4748", a.bootstrap()}, "d": {s.b, "10.77.2.1:4748", b.bootstrap()},
	} {
		d := newMember(t, at.namespace, name)
		d.must(token, "join", "-", "--name", name)
		rivals[name] = d.launch("--listen", at.listen, "--bootstrap", at.seed)
	}
	c, d := rivals["c"], rivals["d"]
	up := func(p *process, name string) error {
		if state := p.stateOf(name); state != "up" {
			return fmt.Errorf("%s says that %s is %s", p.name, name, state)
		}
		return nil
	}
	eventually(t, 20*time.Second, func() error { return errors.Join(up(a, "c"), up(b, "d")) })
	s.drop("sites", "")
	took := eventually(t, 60*time.Second, func() error { return oneOf(a, b, c, d) })
	t.Logf("one of two is left %v after the pieces met", took)
}

// oneOf returns nil when a and b see each other and the same one of c and d.
func oneOf(a, b, c, d *process) error {
	if err := errors.Join(a.sees(3), b.sees(3)); err != nil {
		return err
	}
	for _, pair := range [][2]*process{{c, d}, {d, c}} {
		in, out := pair[0], pair[1]
		if a.stateOf(in.name) == "up" && b.stateOf(in.name) == "up" && a.stateOf(out.name) == "not listed" && b.stateOf(out.name) == "not listed" {
			if v, err := out.status(); err != nil || v.State != "degraded" {
				return fmt.Errorf("the loser is %s, %w", v.State, err)
			}
			return nil
		}
	}
	return fmt.Errorf("a sees %v, b sees %v", a.up(), b.up())
}

// Credentials are renewed while all run, and what they let an agent do changes with
// them: here, whether two agents that can't reach each other may go by way of a
// third.
func TestRenewRights(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	s.drop("sites", between)
	a := found(t, s.a, "a", "--listen", "10.77.1.1:4747", "--tap", "t")
	s.agents[0] = a
	s.address(0)
	c := join(t, a, s.r, "c", "--rights", "none", "--valid", "1h").launch("--listen", ":4747", "--tap", "t")
	seed := strings.ReplaceAll(c.bootstrap(), "10.77.1.254", "10.77.2.254")
	b := join(t, a, s.b, "b").launch("--listen", "10.77.2.1:4747", "--tap", "t", "--bootstrap", seed)
	s.agents[1] = b
	s.address(1)
	eventually(t, 20*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2), c.sees(3)) })
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for range 30 { // as long as it takes where it is allowed, and more
		if err := s.reached("relayed"); err == nil {
			t.Fatal("who may not relay is made to")
		}
		<-look.C
	}
	before, started := c.credentialOf(), c.cmd.Process.Pid
	began := time.Now()
	a.must("", "renew", "c", "--rights", "relay", "--valid", "2h")
	took := eventually(t, 5*time.Second, func() error {
		if now := c.credentialOf(); !slices.Equal(now.Rights, []string{"relay"}) || now.Expires.Sub(before.Expires) < 50*time.Minute {
			return fmt.Errorf("c has %+v, had %+v", now, before)
		}
		return nil
	})
	t.Logf("renewed after %v", took)
	eventually(t, 20*time.Second, func() error { return s.reached("relayed") })
	t.Logf("relayed %v after the right was given", time.Since(began).Round(100*time.Millisecond))
	// In place, and on the disk.
	if c.cmd.Process.Pid != started || c.credentialOf().Invite != nil {
		t.Error("not the same process, or credential")
	}
	var m membership
	text, err := os.ReadFile(filepath.Join(c.dir, "state", membershipFile))
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil || len(m.Credential) != 115 || m.Name != "c" {
		t.Errorf("membership %+v, %v", m, err)
	}
	began = time.Now()
	a.must("", "renew", "c", "--rights", "none")
	eventually(t, 10*time.Second, func() error {
		if s.reached("relayed") == nil {
			return errors.New("still relayed")
		}
		return nil
	})
	t.Logf("not relayed any more %v after the right was taken", time.Since(began).Round(100*time.Millisecond))
}

// An agent without the right to bridge a LAN can't, from its start, or from when
// the right is taken.
func TestBridgeRight(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	a := found(t, s.a, "a", "--listen", "10.77.1.1:4747")
	b := join(t, a, s.b, "b", "--rights", "relay")
	args := append(append([]string{"up"}, b.files()...), "--socket", filepath.Join(b.dir, "s"), "--listen", "10.77.2.1:4747", "--lan", "u")
	out, err := exec.Command("ip", append([]string{"netns", "exec", s.b, program(t)}, args...)...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.HasPrefix(string(out), "farlan: --lan u: this agent's credential lacks the right to bridge") ||
		!strings.Contains(string(out), "\n  have the admin give it the right with 'farlan renew --rights bridge,relay b'") {
		t.Errorf("%v\n%s", err, out)
	}
	b.launch("--listen", "10.77.2.1:4747")
	eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
	a.must("", "renew", "b", "--rights", "bridge,relay")
	eventually(t, 5*time.Second, func() error {
		if !slices.Contains(b.credentialOf().Rights, "bridge") {
			return errors.New("not renewed")
		}
		return nil
	})
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	b.args = append(b.args, "--lan", "u")
	b.start()
	b.bootstrap()
	eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
	a.must("", "renew", "b", "--rights", "none")
	select {
	case <-b.done:
	case <-time.After(5 * time.Second):
		t.Fatal("it goes on without the right")
	}
	if said := b.said(); !strings.Contains(said, "lacks the right to bridge a LAN (it has: none)") {
		t.Errorf("it ended saying\n%s", said)
	}
}

// What an agent knows of its credential's end.
func TestCredentialExpires(t *testing.T) {
	t.Parallel()
	a := newMember(t, "", "a")
	a.must("", "init", "--name", "a", "--valid", "8s")
	a.launch()
	if h := a.check("credential"); !h.OK {
		t.Errorf("at first: %+v", h)
	}
	b := join(t, a, "", "b", "--valid", "1h").launch()
	eventually(t, 5*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
	eventually(t, 8*time.Second, func() error {
		if h := a.check("credential"); h.OK || !strings.Contains(h.Detail, "expires in") || !strings.Contains(h.Hint, "farlan renew a") {
			return fmt.Errorf("%+v", h)
		}
		return nil
	})
	// Then it is over, for all.
	took := eventually(t, 30*time.Second, func() error {
		if h := a.check("credential"); !strings.Contains(h.Detail, "expired") {
			return fmt.Errorf("%+v", h)
		}
		return b.sees(1)
	})
	t.Logf("out %v after the warning", took)
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	refused(t, a, "credential has expired", b)
	a.must("", "renew") // no agent runs: its own
	a.start()
	a.bootstrap()
	eventually(t, 15*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
}
