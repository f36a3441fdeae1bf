//go:build linux

package vlan

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"farlan/overlay"
	"farlan/overlay/nstest"
	"farlan/reserve/nsi/cs"
)

// A child is an agent of its own: this test's program, which this variable in its environment
// tells before which of its changes to wait for its end.
const childStep = "FARLAN_VLAN_STEP"

func TestMain(m *testing.M) {
	if s := os.Getenv(childStep); s != "" {
		n, _ := strconv.Atoi(s)
		if err := child(n); err != nil {
			fmt.Println("failed", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child makes interfaces, changes them and takes some away, and stops before a change.
func child(stop int) error {
	p, err := Open(Config{Device: "wan1", VLANs: cs.VLANs{{First: 100, Last: 109}}, Agent: overlay.AgentID{1}})
	if err != nil {
		return err
	}
	n := 0
	p.kernel.step = func(what string) {
		if n++; n == stop {
			fmt.Println("at", what)
			_, _ = io.Copy(io.Discard, os.Stdin) // until the end
		}
	}
	return errors.Join(
		p.Attach(101, near), p.Attach(102, near), p.Attach(101, far), // the second one needs the loose filter
		p.Detach(101), p.Detach(102))
}

// killed runs a child until its step and kills it. It returns what it was about to do, or no
// words if it came to its end.
func (h host) killed(step int) (what string) {
	h.t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childStep+"="+strconv.Itoa(step))
	in, err := c.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	defer in.Close()
	out, err := c.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	h.Do(func() { err = c.Start() })
	if err != nil {
		h.t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		if word != "at" {
			h.t.Error("child: ", lines.Text())
			continue
		}
		what = rest
		_ = c.Process.Signal(syscall.SIGKILL)
	}
	_ = c.Wait()
	return what
}

// Wherever an agent is killed, the next one takes away what it left, and nobody else does.
func TestKilledAtEachStep(t *testing.T) {
	t.Parallel()
	const shares = 5 // that run beside each other
	var mu sync.Mutex
	steps, left := make(map[string]int), 0
	t.Run("shares", func(t *testing.T) {
		for share := range shares {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				h, _ := newHosts(t)
				h.alien("wan1.1", "1")
				h.alien("mine", "109")
				h.IP("link set mine alias farlan")
				for step := 1 + share; ; step += shares {
					what, n := h.recovers(step)
					if what == "" || t.Failed() {
						return
					}
					mu.Lock()
					steps[what]++
					left = max(left, n)
					mu.Unlock()
				}
			})
		}
	})
	h, _ := newHosts(t)
	want, most := []string{"add", "alias", "name", "address", "no address", "up", "loose", "remove"}, 2
	if !h.virtual() {
		want, most = []string{"add", "tap", "programs", "address", "no address", "up", "loose"}, 0
	}
	for _, what := range want {
		if steps[what] == 0 {
			t.Errorf("it was never killed at %q: %v", what, steps)
		}
	}
	if left != most {
		t.Errorf("%d interfaces were left at most, want %d", left, most)
	}
}

// recovers kills an agent at a step, and expects that the next one has all in order. It returns
// what the step was, if there was one, and how many interfaces were left.
func (h host) recovers(step int) (what string, left int) {
	h.t.Helper()
	what = h.killed(step)
	before := h.links()
	other := h.open(2)
	if got := h.links(); len(got) != len(before) {
		h.t.Errorf("killed at step %d, %s: another agent makes %v of %v", step, what, got, before)
	}
	other.must(other.p.Close())
	a := h.open(1)
	h.has("killed at "+what, "wan1.1", "mine")
	if what == "" {
		a.must(a.attach(101, near))
	}
	a.must(a.p.Close())
	return what, len(before) - 2
}

// A process that may not make interfaces is told so once.
func TestWithoutRights(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	c := exec.Command("/proc/self/exe")
	c.Env = []string{childStep + "=1"}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := c.Output()
	want := "failed vlan: not supported: to be on circuits the agent needs CAP_NET_ADMIN: run it as root or by its systemd unit\n"
	if err == nil || string(out) != want {
		t.Errorf("%q, %v; want %q", out, err, want)
	}
}
