//go:build linux

package ovs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

const schema = "/usr/share/openvswitch/vswitch.ovsschema"

// A server is an ovsdb-server of the test's own, with its database and sockets in a directory
// that goes with the test.
type server struct {
	t      *testing.T
	folder string
	socket string
	cmd    *exec.Cmd
}

// newServer starts a database with a bridge br0, whose datapath is the kernel's, and these ports.
func newServer(t *testing.T, ports ...string) *server {
	t.Helper()
	folder := t.TempDir()
	s := &server{t: t, folder: folder, socket: filepath.Join(folder, "db.sock")}
	s.run("ovsdb-tool", "create", filepath.Join(folder, "conf.db"), schema)
	s.start()
	s.vsctl("--no-wait", "init")
	s.vsctl("--no-wait", "add-br", "br0")
	for _, p := range ports {
		s.vsctl("--no-wait", "add-port", "br0", p)
	}
	return s
}

// spawn starts a process that dies with the test.
func (s *server) spawn(name string, args ...string) *exec.Cmd {
	s.t.Helper()
	c := exec.Command(name, args...)
	c.Dir = s.folder
	c.Env = append(os.Environ(), "OVS_RUNDIR="+s.folder, "OVS_LOGDIR="+s.folder, "OVS_DBDIR="+s.folder)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		s.t.Fatalf("%s: %v (Debian package openvswitch-switch)", name, err)
	}
	s.t.Cleanup(func() { end(c) })
	return c
}

func end(c *exec.Cmd) {
	_ = c.Process.Kill()
	_ = c.Wait()
}

func (s *server) start() {
	s.t.Helper()
	s.cmd = s.spawn("ovsdb-server", "conf.db", "--remote=punix:"+s.socket, "--unixctl="+filepath.Join(s.folder, "db.ctl"), "--log-file=/dev/null", "-vconsole:off")
	s.until("the database listens", func() bool {
		c, err := dial(s.t.Context(), s.socket)
		if err == nil {
			c.close()
		}
		return err == nil
	})
}

func (s *server) stop() { end(s.cmd) }

func (s *server) until(what string, ok func() bool) {
	s.t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("never: %s", what)
}

func (s *server) run(name string, args ...string) string {
	s.t.Helper()
	c := exec.Command(name, args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		s.t.Fatalf("%s %v: %v\n%s%s", name, args, err, out.String(), errs.String())
	}
	return out.String()
}

func (s *server) vsctl(args ...string) string {
	s.t.Helper()
	return strings.TrimSpace(s.run("ovs-vsctl", append([]string{"--db=unix:" + s.socket}, args...)...))
}

// dump is the whole database.
func (s *server) dump() string {
	s.t.Helper()
	return s.run("ovsdb-client", "-f", "json", "--pretty", "dump", "unix:"+s.socket, "Open_vSwitch")
}

// ask carries operations out as anybody could.
func (s *server) ask(ops ...op) []json.RawMessage {
	s.t.Helper()
	c, err := dial(s.t.Context(), s.socket)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.close()
	r, err := c.transact(s.t.Context(), ops)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// driver returns one for a port of 100 Mbit/s, of which 70 are reservable.
func (s *server) driver(port string, agent byte) *Driver {
	s.t.Helper()
	return mustNew(s.t, Config{Socket: s.socket, Port: port, Capacity: 100 * reserve.Mbit, Agent: overlay.AgentID{agent}})
}

func mustNew(t *testing.T, c Config) *Driver {
	t.Helper()
	d, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func wantOf(n byte, rate reserve.Rate) reserve.Want {
	id := reserve.ID{Reservation: [16]byte{n, 15: 1}, Segment: 2}
	return reserve.Want{ID: id, Rate: rate, End: overlay.Instant(time.Now().Add(time.Minute).UnixNano()), Owner: "test"}
}

func must(t *testing.T) func(g reserve.Grant, err error) reserve.Grant {
	return func(g reserve.Grant, err error) reserve.Grant {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
}

// activate brings a want all the way.
func activate(t *testing.T, d *Driver, w reserve.Want) reserve.Grant {
	t.Helper()
	g := must(t)(d.Hold(t.Context(), w))
	g = must(t)(d.Commit(t.Context(), g))
	return must(t)(d.Activate(t.Context(), g))
}

// A watcher counts the transactions that change QoS, Queue or Port's qos, and what they change.
type watcher struct {
	t *testing.T
	c *conn
}

func (s *server) watch() *watcher {
	s.t.Helper()
	c, err := dial(s.t.Context(), s.socket)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.close)
	column := func(names ...string) op { return op{"columns": names} }
	tables := op{"QoS": column("queues", "other_config", "type"), "Queue": column("external_ids", "other_config"), "Port": column("qos")}
	if _, err := c.call(s.t.Context(), "monitor", []any{"Open_vSwitch", "w", tables}); err != nil {
		s.t.Fatal(err)
	}
	return &watcher{s.t, c}
}

// next returns a summary of the next transaction: "Port 1 QoS 1 Queue 1" says how many rows of
// each table it changed.
func (w *watcher) next() string {
	w.t.Helper()
	if err := w.c.SetDeadline(time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	for {
		m, err := w.c.receive()
		if err != nil {
			w.t.Fatal(err)
		}
		if m.Method != "update" {
			continue
		}
		var params []json.RawMessage
		var tables map[string]map[string]any
		if err := json.Unmarshal(m.Params, &params); err != nil || json.Unmarshal(params[1], &tables) != nil {
			w.t.Fatalf("%s: %v", m.Params, err)
		}
		var all []string
		for _, name := range sorted(tables) {
			all = append(all, fmt.Sprintf("%s %d", name, len(tables[name])))
		}
		return strings.Join(all, " ")
	}
}
