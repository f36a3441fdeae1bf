//go:build linux

package ovs

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"farlan/overlay"
	"farlan/reserve"
)

// The child's part of TestKilled: it lives a grant's whole life until somebody kills it.
func TestMain(m *testing.M) {
	socket := os.Getenv("FARLAN_OVS_CHILD")
	if socket == "" {
		os.Exit(m.Run())
	}
	d, err := New(Config{Socket: socket, Port: "p0", Capacity: 100 * reserve.Mbit, Agent: overlay.AgentID{1}})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	g, err := d.Hold(ctx, wantOf(1, 10*reserve.Mbit))
	for _, verb := range []func(context.Context, reserve.Grant) (reserve.Grant, error){
		d.Commit, d.Activate,
		func(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
			return d.Modify(ctx, g, 20*reserve.Mbit)
		},
		d.Deactivate, d.Activate,
	} {
		if err == nil {
			g, err = verb(ctx, g)
		}
	}
	if err == nil {
		err = d.Release(ctx, g)
	}
	if err != nil {
		panic(err)
	}
}

// A tripwire stands between the child and the database, and kills it at its n-th change: before
// it is handed on, or after it was carried out and before the child hears of that.
type tripwire struct {
	mu            sync.Mutex
	child         *exec.Cmd
	changes, trip int
	after, sprung bool
}

func (w *tripwire) kill() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sprung = true
	_ = w.child.Process.Kill()
}

// serve hands one connection on, a request at a time.
func (w *tripwire) serve(c net.Conn, database string) {
	defer c.Close()
	db, err := net.Dial("unix", database)
	if err != nil {
		return
	}
	defer db.Close()
	in, answer := bufio.NewReader(c), make([]byte, 1<<20)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		change := strings.Contains(line, `"op":"wait"`)
		if change {
			w.changes++
		}
		here := change && w.changes == w.trip
		if here && !w.after {
			w.kill()
			return
		}
		if _, err := io.WriteString(db, line); err != nil {
			return
		}
		n, err := db.Read(answer)
		if here {
			w.kill()
		}
		if err != nil {
			return
		}
		if _, err := c.Write(answer[:n]); err != nil {
			return
		}
	}
}

// An agent that is killed at any step leaves what the next one lists, and releases, and nothing else.
func TestKilled(t *testing.T) {
	t.Parallel()
	s := newServer(t, "p0")
	clean := s.dump()
	left := map[bool]int{}
	for trip := 1; ; trip++ {
		sprung := false
		for _, after := range []bool{false, true} {
			w := &tripwire{trip: trip, after: after}
			sprung = s.killed(t, w)
			d := s.driver("p0", 1)
			all, err := d.List(t.Context())
			if err != nil || len(all) > 1 {
				t.Fatalf("change %d, after it: %v: listed %+v, %v", trip, after, all, err)
			}
			left[len(all) == 1]++
			for _, g := range all {
				if g.ID != wantOf(1, 1).ID {
					t.Errorf("listed %+v", g)
				}
				if err := d.Release(t.Context(), g); err != nil {
					t.Errorf("change %d, after it: %v: %v", trip, after, err)
				}
			}
			if now := s.dump(); now != clean {
				t.Fatalf("change %d, after it: %v: left:\n%s", trip, after, now)
			}
		}
		if !sprung {
			if trip != 8 || left[true] != 12 {
				t.Errorf("%d changes in a grant's life, want 7; %d left something, want 12", trip-1, left[true])
			}
			return
		}
	}
}

// killed runs a child behind the tripwire to its end, and says whether that was by it.
func (s *server) killed(t *testing.T, w *tripwire) bool {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "proxy.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var says strings.Builder
	w.child = exec.Command(self)
	w.child.Env = append(os.Environ(), "FARLAN_OVS_CHILD="+socket)
	w.child.Stderr = &says
	w.child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.serve(c, s.socket)
		}
	}()
	w.mu.Lock()
	err = w.child.Start()
	w.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	err = w.child.Wait()
	_ = l.Close()
	<-done
	if !w.sprung && err != nil {
		t.Fatalf("the child: %v\n%s", err, says.String())
	}
	return w.sprung
}
