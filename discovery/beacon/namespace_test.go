//go:build linux

package beacon

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A namespace is a network namespace without a name: it vanishes with the test's
// process.
type namespace struct {
	t    *testing.T
	file *os.File
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("FARLAN_NO_SKIP") != "" {
			t.Fatal("NEEDS ROOT")
		}
		t.Skip("NEEDS ROOT: SKIPPED")
	}
	n := &namespace{t: t}
	n.thread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			n.file, err = os.Open("/proc/thread-self/ns/net")
		}
		return err
	})
	t.Cleanup(func() { _ = n.file.Close() })
	n.IP("link set lo up")
	return n
}

// Do calls f in the namespace. What f opens stays there.
func (n *namespace) Do(f func()) {
	n.t.Helper()
	n.thread(func() error {
		err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		return err
	})
}

// Run runs a line of shell in the namespace.
func (n *namespace) Run(line string) {
	n.t.Helper()
	n.Do(func() {
		if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
			n.t.Errorf("%s: %v\n%s", line, err, out)
		}
	})
}

// IP runs the ip command in the namespace.
func (n *namespace) IP(line string) { n.t.Helper(); n.Run("ip " + line) }

// Veth joins n and peer by a cable: interface a here, b there, both up.
func (n *namespace) Veth(a string, peer *namespace, b string) {
	n.t.Helper()
	n.IP(fmt.Sprintf("link add %s type veth peer name %s netns /proc/%d/fd/%d", a, b, os.Getpid(), peer.file.Fd()))
	n.IP("link set " + a + " up")
	peer.IP("link set " + b + " up")
}

// thread calls f, which may change its thread's namespace, and takes the thread back.
// Where that fails no other goroutine gets the thread.
func (n *namespace) thread(f func() error) {
	n.t.Helper()
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err == nil {
		err = errors.Join(f(), unix.Setns(int(own.Fd()), unix.CLONE_NEWNET), own.Close())
	}
	if err != nil {
		n.t.Fatal(err)
	}
	runtime.UnlockOSThread()
}
