package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests here run real agents, as processes of their own, on the loopback
// interface.

var built struct {
	once sync.Once
	path string
	err  error
}

// program returns the program under test: FARLAN_BIN, or one built for the tests.
func program(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.path = os.Getenv("FARLAN_BIN"); built.path != "" {
			return
		}
		// Not in this test's folder: all tests use it.
		built.path = filepath.Join(os.TempDir(), fmt.Sprintf("farlan-test-%d", os.Getpid()))
		if out, err := exec.Command("go", "build", "-o", built.path, "farlan").CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// A process is an agent that a test runs.
type process struct {
	t    *testing.T
	name string
	dir  string
	args []string
	cmd  *exec.Cmd
	log  string // a file

	namespace string   // "" the test's own
	prefix    []string // what runs it
	program   string   // "" that under test
	done      chan struct{}
	err       error
}

// newKeyFile makes a network key.
func newKeyFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "network.key")
	if out, err := exec.Command(program(t), "key", "new", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// startAgent runs an agent on the loopback interface until the test ends.
func startAgent(t *testing.T, key, name string, args ...string) *process {
	t.Helper()
	return startAgentIn(t, "", key, name, args...)
}

// startAgentIn is startAgent in a network namespace.
func startAgentIn(t *testing.T, namespace, key, name string, args ...string) *process {
	t.Helper()
	d := &process{t: t, namespace: namespace, name: name, dir: t.TempDir(), log: filepath.Join(t.TempDir(), "log")}
	if !slices.Contains(args, "--listen") {
		args = append(args, "--listen", "127.0.0.1:0")
	}
	d.args = append([]string{
		"up", "--key-file", key, "--name", name, "--state-dir", filepath.Join(d.dir, "state"),
		"--socket", filepath.Join(d.dir, "s"), "--config", os.DevNull, "--log-level", "debug",
	}, args...)
	d.start()
	t.Cleanup(d.kill)
	return d
}

func (d *process) start() {
	d.t.Helper()
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	run := d.program
	if run == "" {
		run = program(d.t)
	}
	args := append(append(slices.Clone(d.prefix), run), d.args...)
	if d.namespace != "" {
		// ip becomes the agent, so the process is the agent's own.
		args = append([]string{"ip", "netns", "exec", d.namespace}, args...)
	}
	d.cmd = exec.Command(args[0], args[1:]...)
	d.cmd.Stderr, d.cmd.Stdout = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	done := make(chan struct{})
	d.done = done
	cmd := d.cmd
	go func() { d.err = cmd.Wait(); close(done) }()
}

// said returns what the agent has logged.
func (d *process) said() string {
	b, err := os.ReadFile(d.log)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

// kill ends the agent without a word, as a crash does.
func (d *process) kill() {
	_ = d.cmd.Process.Kill()
	<-d.done
}

// stop ends the agent in order and returns how it ended.
func (d *process) stop() error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(10 * time.Second):
		d.t.Fatalf("%s doesn't stop:\n%s", d.name, d.said())
	}
	return d.err
}

// ask runs a client command and decodes what it prints.
func (d *process) ask(view any, args ...string) error {
	var stderr bytes.Buffer
	cmd := exec.Command(program(d.t), append(args, "--json", "--socket", filepath.Join(d.dir, "s"))...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%v: %w: %s", args, err, stderr.String())
	}
	return json.Unmarshal(out, view)
}

// client returns a client of the agent in this process: cheaper than ask.
func (d *process) client() *client {
	return &client{socket: filepath.Join(d.dir, "s"), timeout: 5 * time.Second}
}

func (d *process) status() (v statusView, err error) {
	err = d.client().call(context.Background(), "GET", "/status", nil, &v)
	return v, err
}

func (d *process) peers() (v peersView, err error) {
	err = d.client().call(context.Background(), "GET", "/peers", nil, &v)
	return v, err
}

// up returns the names of the agents that d sees up, itself included.
func (d *process) up() []string { return d.inState("up") }

// inState returns the names of the agents that d sees in one of some states.
func (d *process) inState(states ...string) (names []string) {
	v, err := d.peers()
	if err != nil {
		return nil
	}
	for _, p := range v.Peers {
		if slices.Contains(states, p.State) {
			names = append(names, p.Name)
		}
	}
	return names
}

// seesThere returns an error until d sees each of some agents up or idle: those are there,
// with a session or not.
func (d *process) seesThere(all []*process) error {
	there := d.inState("up", "idle")
	for _, o := range all {
		if !slices.Contains(there, o.name) {
			return fmt.Errorf("%s sees %d agents, and %s is %s", d.name, len(there), o.name, d.stateOf(o.name))
		}
	}
	return nil
}

// takesForGone returns an error until d says that an agent is gone.
func (d *process) takesForGone(name string) error {
	if s := d.stateOf(name); s != "gone" {
		return fmt.Errorf("%s shows %s as %s", d.name, name, s)
	}
	return nil
}

func (d *process) stateOf(name string) string {
	v, err := d.peers()
	if err != nil {
		return err.Error()
	}
	for _, p := range v.Peers {
		if p.Name == name {
			return p.State
		}
	}
	return "not listed"
}

// bootstrap returns what others take as --bootstrap, once the agent is ready.
func (d *process) bootstrap() string {
	d.t.Helper()
	var addr string
	eventually(d.t, 10*time.Second, func() error {
		v, err := d.status()
		if err != nil {
			return fmt.Errorf("%w\n%s", err, d.said())
		}
		if len(v.Listen) == 0 {
			return errors.New("listens nowhere")
		}
		addr = v.Listen[0]
		return nil
	})
	return addr
}

// eventually waits until is returns nil, and says how long that took.
func eventually(t *testing.T, limit time.Duration, is func() error) time.Duration {
	t.Helper()
	start := time.Now()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		err := is()
		if err == nil {
			return time.Since(start)
		}
		if time.Since(start) > limit {
			t.Fatalf("not within %v: %v", limit, err)
		}
		<-look.C
	}
}

// sees returns an error until d sees count agents up, itself included.
func (d *process) sees(count int) error {
	if n := len(d.up()); n != count {
		return fmt.Errorf("%s sees %d of %d agents up: %v", d.name, n, count, d.up())
	}
	return nil
}
