//go:build linux

package ovs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

// pretend is a database server that handles each connection like this.
func pretend(t *testing.T, serve func(c net.Conn, in *bufio.Scanner)) *Driver {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "db.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewScanner(c)
				in.Buffer(nil, 1<<20)
				serve(c, in)
			}()
		}
	}()
	return mustNew(t, Config{Socket: socket, Port: "p0", Capacity: reserve.Gbit, Agent: overlay.AgentID{1}})
}

// always answers each request with this, in which ID is the request's.
func always(answer string) func(net.Conn, *bufio.Scanner) {
	return func(c net.Conn, in *bufio.Scanner) {
		for in.Scan() {
			var r struct{ ID json.RawMessage }
			_ = json.Unmarshal(in.Bytes(), &r)
			if _, err := io.WriteString(c, strings.ReplaceAll(answer, "ID", string(r.ID))); err != nil {
				return
			}
		}
	}
}

// A server may say what it likes: what is only looked at has failed then, and what was to be
// changed isn't known or was refused; it never blocks longer than its time, and nothing is left.
func TestHostileServer(t *testing.T) {
	t.Parallel()
	row := func(r string) string {
		return `{"id":ID,"error":null,"result":[{"rows":[{"qos":["set",[]]}]},{"rows":[]},{"rows":[` + r + `]}]}`
	}
	const u = `["uuid","00000000-0000-0000-0000-000000000001"]`
	for name, serve := range map[string]func(net.Conn, *bufio.Scanner){
		"closes":            func(net.Conn, *bufio.Scanner) {},
		"closes when asked": func(_ net.Conn, in *bufio.Scanner) { in.Scan() },
		"says nothing": func(_ net.Conn, in *bufio.Scanner) {
			for in.Scan() {
				continue
			}
		},
		"half an answer":         always(`{"id":ID,"result":[`),
		"no JSON":                always("hello\n"),
		"a number":               always("1 "),
		"another id":             always(`{"id":999,"result":[{},{},{}]}`),
		"an id in quotes":        always(`{"id":"ID","result":[{},{},{}]}`),
		"an error":               always(`{"id":ID,"error":{"error":"unknown database"},"result":null}`),
		"no result":              always(`{"id":ID,"error":null}`),
		"a result that is none":  always(`{"id":ID,"error":null,"result":{"rows":1}}`),
		"fewer results":          always(`{"id":ID,"error":null,"result":[{"rows":[]}]}`),
		"rows that are none":     always(`{"id":ID,"error":null,"result":[{"rows":5},{"rows":"x"},{"rows":null}]}`),
		"a uuid that is none":    always(row(`{"_uuid":["uuid","../../etc"],"_version":` + u + `,"external_ids":["map",[]]}`)),
		"a map that is none":     always(row(`{"_uuid":` + u + `,"_version":` + u + `,"external_ids":["map",[["a"]]]}`)),
		"a map of numbers":       always(row(`{"_uuid":` + u + `,"_version":` + u + `,"external_ids":["map",[[1,2]]]}`)),
		"deep nesting":           always(strings.Repeat("[", 1<<20)),
		"endless echoes":         always(strings.Repeat(`{"id":"e","method":"echo","params":[]}`, 1000)),
		"endless notifications":  always(strings.Repeat(`{"id":null,"method":"update","params":[]}`, 1000)),
		"an endless string":      func(c net.Conn, in *bufio.Scanner) { in.Scan(); flood(c, `{"id":1,"result":"`, "x") },
		"an endless transaction": func(c net.Conn, in *bufio.Scanner) { in.Scan(); flood(c, `{"id":1,"result":[`, "{},") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := pretend(t, serve)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			switch name {
			case "says nothing", "half an answer", "another id", "an id in quotes":
				cancel() // there is no more to come: don't wait as long as the driver would
				ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
			}
			defer cancel()
			g := reserve.Grant{ID: wantOf(1, 1).ID}
			_, list := d.List(ctx)
			_, hold := d.Hold(ctx, wantOf(1, 1))
			_, status := d.Status(ctx, g)
			for what, err := range map[string]error{"List": list, "Hold": hold, "Status": status, "Release": d.Release(ctx, g)} {
				if err == nil || errors.Is(err, reserve.ErrGone) || len(err.Error()) > 2000 {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

func flood(c net.Conn, head, piece string) {
	_, err := io.WriteString(c, head)
	b := bytes.Repeat([]byte(piece), 1<<16)
	for err == nil {
		_, err = c.Write(b)
	}
}

// A server that breaks off after a change was sent leaves the outcome open; one that refuses it
// says that nothing was done.
func TestOutcome(t *testing.T) {
	t.Parallel()
	const empty = `{"id":ID,"error":null,"result":[{"rows":[{"qos":["set",[]]}]},{"rows":[]},{"rows":[]}]}`
	for _, c := range []struct {
		name, answer string
		want         error // nil: open
	}{
		{"nothing", "", nil},
		{"half", `{"id":ID,"resu`, nil},
		{"disk full", `{"id":ID,"error":null,"result":[{},{},{},{},{"error":"I/O error","details":"no space"}]}`, nil},
		{"constraint", `{"id":ID,"error":null,"result":[{},{},{},null,{"error":"constraint violation","details":"x"}]}`, reserve.ErrRefused},
		{"read only", `{"id":ID,"error":{"error":"not allowed"},"result":null}`, reserve.ErrRefused},
		{"references", `{"id":ID,"error":null,"result":[{},{},{},{},{"error":"referential integrity violation","details":"x"}]}`, reserve.ErrForeign},
		{"changed for ever", `{"id":ID,"error":null,"result":[{"error":"timed out"},null,null,null]}`, reserve.ErrUnreachable},
	} {
		d := pretend(t, func(conn net.Conn, in *bufio.Scanner) {
			for in.Scan() {
				answer := empty
				if strings.Contains(in.Text(), "insert") {
					answer = c.answer
				}
				_, _ = io.WriteString(conn, strings.ReplaceAll(answer, "ID", idOf(in.Bytes())))
				if !strings.HasSuffix(answer, "}") {
					return
				}
			}
		})
		_, err := d.Hold(t.Context(), wantOf(1, 1))
		var means error
		for _, k := range []error{reserve.ErrFull, reserve.ErrRefused, reserve.ErrUnsupported, reserve.ErrGone, reserve.ErrForeign, reserve.ErrUnreachable} {
			if errors.Is(err, k) {
				means = k
			}
		}
		if err == nil || !errors.Is(means, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// The database goes right after it has done what was asked: that isn't nothing changed.
func TestGoesAfterwards(t *testing.T) {
	t.Parallel()
	const done = `{"id":ID,"error":null,"result":[{},{},{},{"uuid":["uuid","00000000-0000-0000-0000-000000000001"]}]}`
	const empty = `{"id":ID,"error":null,"result":[{"rows":[{"qos":["set",[]]}]},{"rows":[]},{"rows":[]}]}`
	var over atomic.Bool
	d := pretend(t, func(c net.Conn, in *bufio.Scanner) {
		for in.Scan() && !over.Load() {
			answer := empty
			if strings.Contains(in.Text(), "insert") {
				answer = done
				over.Store(true)
			}
			_, _ = io.WriteString(c, strings.ReplaceAll(answer, "ID", idOf(in.Bytes())))
		}
	})
	if _, err := d.Hold(t.Context(), wantOf(1, 1)); err == nil || errors.Is(err, reserve.ErrUnreachable) {
		t.Errorf("Hold: %v, want that its outcome isn't known", err)
	}
}

func idOf(b []byte) string {
	var r struct{ ID json.RawMessage }
	_ = json.Unmarshal(b, &r)
	return string(r.ID)
}

// The server asks whether we are there before it answers, and is told.
func TestEcho(t *testing.T) {
	t.Parallel()
	heard := make(chan string, 1)
	d := pretend(t, func(c net.Conn, in *bufio.Scanner) {
		in.Scan()
		id := idOf(in.Bytes())
		_, _ = fmt.Fprint(c, `{"id":"echo","method":"echo","params":["there?"]}`)
		in.Scan()
		heard <- in.Text()
		_, _ = fmt.Fprintf(c, `{"id":%s,"error":null,"result":[{"rows":[]},{"rows":[]},{"rows":[]}]}`, id)
	})
	if all, err := d.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("List: %v, %v", all, err)
	}
	if got := <-heard; got != `{"id":"echo","result":["there?"],"error":null}` {
		t.Errorf("the echo: %s", got)
	}
}

// Calls that fail leave no goroutine and no connection.
func TestNothingStays(t *testing.T) {
	d := pretend(t, always("no"))
	before := runtime.NumGoroutine()
	for range 50 {
		_, _ = d.List(t.Context())
		_, _ = d.Hold(t.Context(), wantOf(1, 1))
	}
	for range 500 {
		if runtime.NumGoroutine() <= before+2 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, before %d", runtime.NumGoroutine(), before)
}

func FuzzPicture(f *testing.F) {
	f.Add([]byte(`[{"rows":[{"qos":["uuid","00000000-0000-0000-0000-00000000000a"]}]},{"rows":[{"_uuid":["uuid","00000000-0000-0000-0000-00000000000a"],"_version":["uuid","00000000-0000-0000-0000-00000000000b"],"queues":["map",[[1,["uuid","00000000-0000-0000-0000-00000000000c"]]]],"external_ids":["map",[["owner","farlan"],["farlan-agent","x"],["farlan-port","p0"]]]}]},{"rows":[{"_uuid":["uuid","00000000-0000-0000-0000-00000000000c"],"_version":["uuid","00000000-0000-0000-0000-00000000000d"],"external_ids":["map",[["owner","farlan"],["farlan-agent","x"],["farlan-port","p0"],["farlan-id","01000000000000000000000000000000-1"],["farlan-state","active"],["farlan-kbit","1000"],["farlan-queue","1"],["farlan-end","2026-01-02T03:04:05.000000006Z"]]]}]}]`))
	f.Add([]byte(`[{"rows":[{"qos":["set",[]]}]},{"rows":[]},{"rows":[]}]`))
	f.Add([]byte(`[{},{},{},{"error":"timed out","details":"x"}]`))
	d := &Driver{Config{Port: "p0", Capacity: 10, Reservable: 7, Now: func() overlay.Instant { return 1 }}, "x"}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := results(b, 3)
		if err != nil {
			return
		}
		p, err := read("p0", r)
		if err != nil {
			return
		}
		_ = d.foreign(p)
		ops := append(p.unchanged(), p.remove(p.queues, "x")...)
		for _, q := range p.queues {
			if _, err := d.attach(p, q); err == nil && q.agent() != "x" && q.IDs[tagPort] == "p0" {
				t.Errorf("attached while agent %q has a queue on the port", q.agent())
			}
		}
		if _, err := json.Marshal(ops); err != nil {
			t.Error(err)
		}
	})
}
