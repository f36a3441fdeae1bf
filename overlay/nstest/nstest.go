//go:build linux

// Package nstest gives tests network namespaces of their own. A namespace has
// no name: it vanishes with the test's process, however that ends, and takes
// its interfaces along.
package nstest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// NeedRoot skips the test unless it runs as root, and fails it instead if
// FARLAN_NO_SKIP=1 is set.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("FARLAN_NO_SKIP") == "1" {
		t.Fatal("NEEDS ROOT: makes network namespaces")
	}
	t.Skip("NEEDS ROOT: makes network namespaces")
}

// A Namespace is a network namespace whose loopback interface is up.
type Namespace struct {
	t  testing.TB
	fd int
}

// New returns a namespace that lasts as long as the test. It needs root.
func New(t testing.TB) *Namespace {
	t.Helper()
	NeedRoot(t)
	n := &Namespace{t: t}
	onThread(t, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		fd, err := openOwn()
		n.fd = fd
		return err
	})
	t.Cleanup(func() { _ = unix.Close(n.fd) })
	n.IP("link set lo up")
	return n
}

// Do runs f in the namespace. What f opens stays there; goroutines that f
// starts do not run there.
func (n *Namespace) Do(f func()) {
	n.t.Helper()
	onThread(n.t, func() error {
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("setns: %w", err)
		}
		f()
		return nil
	})
}

// Run runs a shell command in the namespace and returns what it printed; the
// test fails if it fails.
func (n *Namespace) Run(line string) string {
	n.t.Helper()
	var out []byte
	var err error
	n.Do(func() {
		out, err = exec.Command("sh", "-c", line).CombinedOutput()
	})
	if err != nil {
		n.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// IP runs the ip command in the namespace.
func (n *Namespace) IP(line string) string { n.t.Helper(); return n.Run("ip " + line) }

// Path is a file that stands for the namespace: "ip link set x netns PATH".
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.fd) }

// Veth joins n and peer by a cable: interface a here, b there, both up.
func (n *Namespace) Veth(a string, peer *Namespace, b string) {
	n.t.Helper()
	n.IP("link add " + a + " type veth peer name " + b + " netns " + peer.Path())
	n.IP("link set " + a + " up")
	peer.IP("link set " + b + " up")
}

// openOwn returns the namespace of the calling thread.
func openOwn() (fd int, err error) {
	return unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// onThread runs f, which may change the thread's namespace, and then gives the
// thread its own back; if that fails, no other goroutine gets the thread.
func onThread(t testing.TB, f func() error) {
	t.Helper()
	runtime.LockOSThread()
	own, err := openOwn()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setns(own, unix.CLONE_NEWNET); err != nil {
			t.Fatalf("cannot go back to the namespace of before: %v", err)
		}
		_ = unix.Close(own)
		runtime.UnlockOSThread()
	}()
	if err := f(); err != nil {
		t.Fatal(err)
	}
}
