package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// newMember returns an agent of a signed network that isn't started yet.
func newMember(t *testing.T, namespace, name string) *process {
	t.Helper()
	d := &process{t: t, namespace: namespace, name: name, dir: t.TempDir(), log: filepath.Join(t.TempDir(), "log")}
	t.Cleanup(func() {
		if t.Failed() && d.cmd != nil {
			said := d.said()
			t.Logf("%s said:\n%s", d.name, said[max(len(said)-6000, 0):])
		}
	})
	return d
}

// files are the flags that name the agent's files.
func (d *process) files() []string {
	return []string{"--config", os.DevNull, "--key-file", filepath.Join(d.dir, "network.key"), "--state-dir", filepath.Join(d.dir, "state")}
}

// farlan runs a command about the agent's files and returns what it prints.
func (d *process) farlan(stdin string, args ...string) (string, error) {
	args = append(args, d.files()...)
	if !slices.Contains([]string{"init", "join", "leave"}, args[0]) {
		args = append(args, "--socket", filepath.Join(d.dir, "s"))
	}
	var stderr bytes.Buffer
	cmd := exec.Command(program(d.t), args...)
	cmd.Stdin, cmd.Stderr = strings.NewReader(stdin), &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("farlan %s: %w: %s", args[0], err, stderr.String())
	}
	return string(out), err
}

func (d *process) must(stdin string, args ...string) string {
	d.t.Helper()
	out, err := d.farlan(stdin, args...)
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}

// launch starts the agent until the test ends.
func (d *process) launch(args ...string) *process {
	d.t.Helper()
	if !slices.Contains(args, "--listen") {
		args = append(args, "--listen", "127.0.0.1:0")
	}
	d.args = append(append([]string{"up"}, d.files()...), append([]string{"--socket", filepath.Join(d.dir, "s"), "--log-level", "debug"}, args...)...)
	d.start()
	d.t.Cleanup(d.kill)
	d.bootstrap()
	return d
}

// found makes a signed network and starts its first agent.
func found(t *testing.T, namespace, name string, args ...string) *process {
	t.Helper()
	d := newMember(t, namespace, name)
	d.must("", "init", "--name", name)
	return d.launch(args...)
}

// join makes an agent join by a token that admin makes; invite are flags of that.
func join(t *testing.T, admin *process, namespace, name string, invite ...string) *process {
	t.Helper()
	token := admin.must("", append([]string{"invite"}, invite...)...)
	d := newMember(t, namespace, name)
	d.must(token, "join", "-", "--name", name)
	return d
}

// credentialOf returns what status says of the agent's credential.
func (d *process) credentialOf() credentialView {
	d.t.Helper()
	v, err := d.status()
	if err != nil || v.Credential == nil {
		d.t.Fatalf("%s: %+v, %v", d.name, v, err)
	}
	return *v.Credential
}

// check returns a health check of status.
func (d *process) check(name string) healthView {
	d.t.Helper()
	v, err := d.status()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, h := range v.Health {
		if h.Check == name {
			return h
		}
	}
	return healthView{}
}

// refused checks that an agent doesn't even start.
func refused(t *testing.T, d *process, why string, by *process) {
	t.Helper()
	args := append(append([]string{"up"}, d.files()...), "--socket", filepath.Join(d.dir, "s"), "--listen", "127.0.0.1:0", "--bootstrap", by.bootstrap())
	out, err := exec.Command("timeout", append([]string{"10", program(t)}, args...)...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), why) || strings.Count(string(out), "\n") != 2 {
		t.Errorf("%s: %v\n%s", d.name, err, out)
	}
}

// lastReply returns how long after a moment the last reply to ping -D came.
func lastReply(t *testing.T, said string, since time.Time) time.Duration {
	t.Helper()
	last := time.Duration(-1)
	for line := range strings.Lines(said) {
		if at, ok := strings.CutPrefix(line, "["); ok && strings.Contains(line, "bytes from") {
			at, _, _ = strings.Cut(at, "]")
			seconds, err := strconv.ParseFloat(at, 64)
			if err != nil {
				t.Fatal(err)
			}
			last = time.UnixMicro(int64(seconds * 1e6)).Sub(since)
		}
	}
	return last
}
