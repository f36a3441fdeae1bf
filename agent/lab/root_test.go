package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// What the tests that need root share: names, the farlan program, labs.

// needRoot skips a test that makes namespaces when it may not, or fails it if
// FARLAN_NO_SKIP is 1.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("FARLAN_NO_SKIP") == "1" {
		t.Fatal("needs root, and FARLAN_NO_SKIP=1")
	}
	t.Skip("SKIPPED: needs root: run the tests as root, or in a container with all capabilities")
}

var labs atomic.Int32

// labName returns a name that no other lab on this machine has.
func labName() string { return fmt.Sprintf("t%x%c", os.Getpid(), 'a'+labs.Add(1)%26) }

var buildDir string // what program built is in it; "" if it has not

func TestMain(m *testing.M) {
	if text := os.Getenv(requesterEnv); text != "" {
		if err := beRequester(text, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if buildDir != "" {
		_ = os.RemoveAll(buildDir)
	}
	os.Exit(code)
}

// program returns the farlan program: FARLAN_BIN, or built once.
var program = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("FARLAN_BIN"); path != "" {
		return filepath.Abs(path)
	}
	var err error
	if buildDir, err = os.MkdirTemp("", "farlan-lab-*"); err != nil {
		return "", err
	}
	path := filepath.Join(buildDir, "farlan")
	if out, err := exec.Command("go", "build", "-o", path, "farlan").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, nil
})

// testOptions returns the options of a lab of this test's own, whose traces
// are looked for at the test's end.
func testOptions(t *testing.T) Options {
	t.Helper()
	needRoot(t)
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	o := DefaultOptions(labName())
	o.Dir, o.Binary = filepath.Join(t.TempDir(), "lab"), binary
	t.Cleanup(func() {
		for _, trace := range traces(o) {
			t.Errorf("left behind: %s", trace)
		}
	})
	return o
}

// up builds a lab and takes it down at the test's end.
func up(t *testing.T, o Options) *Lab {
	t.Helper()
	t.Cleanup(func() {
		if _, err := Down(context.Background(), o.Name, o.Dir); err != nil {
			t.Error(err)
		}
	})
	l, err := Up(within(t, 2*time.Minute), o, false, func(step string) { t.Log(step) })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// traces returns what there is of a lab on this machine: namespaces, mounts,
// processes that name it, files.
func traces(o Options) []string {
	var found []string
	names, err := namespacesOf(o.Name)
	if err != nil {
		found = append(found, err.Error())
	}
	for _, n := range names {
		found = append(found, "namespace "+n)
	}
	mark := namespaceName(o.Name, "")
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), mark) {
		found = append(found, "a mount of "+mark)
	}
	entries, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range entries {
		cmdline, _ := os.ReadFile(file) // it may have ended by now
		environ, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "environ"))
		for _, b := range [][]byte{cmdline, environ} {
			if strings.Contains(string(b), o.Dir) || strings.Contains(string(b), mark) {
				found = append(found, "process "+strings.ReplaceAll(string(cmdline), "\x00", " "))
				break
			}
		}
	}
	if _, err := os.Stat(o.Dir); !errors.Is(err, os.ErrNotExist) {
		found = append(found, "folder "+o.Dir)
	}
	return found
}

// within returns a context that ends after d.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until f has nothing to complain about.
func eventually(t *testing.T, d time.Duration, f func() error) {
	t.Helper()
	if err := poll(within(t, d), 20*time.Millisecond, f); err != nil {
		t.Fatalf("not within %v: %v", d, err)
	}
}

// command prepares a lab command of the farlan program about the lab of o.
func command(ctx context.Context, o Options, verb string, args ...string) *exec.Cmd {
	args = append([]string{"lab", verb, "--name", o.Name, "--dir", o.Dir}, args...)
	cmd := exec.CommandContext(ctx, o.Binary, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

// output runs a lab command that must succeed and returns what it prints.
func output(t *testing.T, o Options, verb string, args ...string) string {
	t.Helper()
	var notes strings.Builder
	cmd := command(within(t, time.Minute), o, verb, args...)
	cmd.Stderr = &notes
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("lab %s %v: %v: %s", verb, args, err, notes.String())
	}
	return string(out)
}

// mustHost returns a host of the lab.
func (l *Lab) mustHost(t *testing.T, name string) Host {
	t.Helper()
	h, err := l.host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
