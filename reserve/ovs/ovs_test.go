//go:build linux

package ovs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/reservetest"
)

// Each verb is one transaction, which changes just the rows that it must, and the whole database
// is at the end as it was at the start.
func TestOneTransactionEach(t *testing.T) {
	t.Parallel()
	s := newServer(t, "p0", "p1")
	s.vsctl("--no-wait", "--", "set", "port", "p1", "qos=@q", "--", "--id=@q", "create", "qos", "type=linux-htb", "queues:3=@r", "--", "--id=@r", "create", "queue", "other-config:min-rate=1000000")
	before := s.dump()
	d, ctx, ok := s.driver("p0", 1), t.Context(), must(t)
	w := s.watch()
	expect := func(verb, want string) {
		t.Helper()
		if got := w.next(); got != want {
			t.Errorf("%s changed %q, want %q", verb, got, want)
		}
	}
	g := ok(d.Hold(ctx, wantOf(1, 40*reserve.Mbit)))
	expect("Hold", "Queue 1")
	if g.State != reserve.Held || g.Rate != 40*reserve.Mbit || g.Mark.Priority != 0x10002 || g.Handle == "" || g.Kind != reserve.Guarantee || g.Up {
		t.Errorf("Hold: %+v", g)
	}
	g = ok(d.Commit(ctx, g))
	expect("Commit", "Queue 1")
	g = ok(d.Activate(ctx, g))
	expect("Activate", "Port 1 QoS 1 Queue 1")
	if g.State != reserve.Activating || g.Up || g.Reason == "" {
		t.Errorf("Activate on a port that this host hasn't: %+v", g)
	}
	if got := s.vsctl("get", "Queue", g.Handle, "other_config"); got != `{min-rate="40625000", priority="1"}` {
		t.Errorf("the queue: %s", got)
	}
	second := ok(d.Hold(ctx, wantOf(2, 10*reserve.Mbit)))
	expect("Hold", "Queue 1")
	second = ok(d.Commit(ctx, second))
	expect("Commit", "Queue 1")
	second = ok(d.Activate(ctx, second))
	expect("Activate of a second", "QoS 1 Queue 1")
	if second.Mark.Priority != 0x10003 {
		t.Errorf("the second's mark: %+v", second.Mark)
	}
	g = ok(d.Modify(ctx, g, 50*reserve.Mbit))
	expect("Modify", "Queue 1")
	end := overlay.Instant(time.Now().Add(time.Hour).UnixNano())
	g = ok(d.Renew(ctx, g, end))
	expect("Renew", "Queue 1")
	if g.End != end || g.Rate != 50*reserve.Mbit {
		t.Errorf("after Modify and Renew: %+v", g)
	}
	g = ok(d.Deactivate(ctx, g))
	expect("Deactivate", "QoS 1 Queue 1")
	if g.State != reserve.Committed {
		t.Errorf("after Deactivate: %+v", g)
	}
	if err := d.Release(ctx, g); err != nil {
		t.Fatal(err)
	}
	expect("Release", "Queue 1")
	if err := d.Release(ctx, second); err != nil {
		t.Fatal(err)
	}
	expect("Release of the last", "Port 1 QoS 1 Queue 1")
	if after := s.dump(); after != before {
		t.Errorf("the database before:\n%s\nand after:\n%s", before, after)
	}
}

// A port is one agent's, and never ours if it has somebody else's QoS.
func TestForeign(t *testing.T) {
	t.Parallel()
	s := newServer(t, "p0", "p1")
	first, second, ctx := s.driver("p0", 1), s.driver("p0", 2), t.Context()
	held := must(t)(first.Hold(ctx, wantOf(1, 10*reserve.Mbit)))
	refused := func(what string, d *Driver, who string) {
		t.Helper()
		before := s.dump()
		_, hold := d.Hold(ctx, wantOf(9, reserve.Mbit))
		_, offer := d.Offer(ctx, wantOf(9, reserve.Mbit))
		for _, err := range []error{hold, offer} {
			if !errors.Is(err, reserve.ErrForeign) || !strings.Contains(err.Error(), who) {
				t.Errorf("%s: %v, want ErrForeign that names %s", what, err, who)
			}
		}
		if _, err := d.Status(ctx, held); !errors.Is(err, reserve.ErrGone) {
			t.Errorf("%s: another agent's status: %v", what, err)
		}
		if err := d.Release(ctx, held); !errors.Is(err, reserve.ErrGone) {
			t.Errorf("%s: another agent's release: %v", what, err)
		}
		if err := d.Reap(ctx, first.cfg.Now()); err != nil {
			t.Error(err)
		}
		if all, err := d.List(ctx); err != nil || len(all) != 0 {
			t.Errorf("%s: %v, %v listed", what, all, err)
		}
		if s.dump() != before {
			t.Errorf("%s: the database changed", what)
		}
	}
	refused("another agent's that is held", second, first.agent)
	held = must(t)(first.Commit(ctx, held))
	held = must(t)(first.Activate(ctx, held))
	refused("another agent's that is active", second, first.agent)

	operators := s.vsctl("--no-wait", "--", "set", "port", "p1", "qos=@q", "--", "--id=@q", "create", "qos", "type=linux-htb")
	refused("an operator's", s.driver("p1", 2), operators)
	refused("a port that isn't the first's", s.driver("p1", 3), operators)

	// An operator gives the port another QoS: our row stays ours, and goes without touching theirs.
	s.vsctl("--no-wait", "set", "port", "p0", "qos="+operators)
	if g := must(t)(first.Status(ctx, held)); g.State != reserve.Degraded || g.Up || g.Reason == "" {
		t.Errorf("taken off its port: %+v", g)
	}
	if err := first.Release(ctx, held); err != nil {
		t.Fatal(err)
	}
	if got := s.vsctl("get", "port", "p0", "qos"); got != operators {
		t.Errorf("the operator's QoS on our port became %s", got)
	}
	if n := strings.Count(s.vsctl("--columns=_uuid", "list", "QoS"), "_uuid"); n != 1 {
		t.Errorf("%d QoS rows are left, want the operator's", n)
	}
}

// Rows of others that refer to ours keep ours there, and no change is half done.
func TestReferredTo(t *testing.T) {
	t.Parallel()
	s := newServer(t, "p0", "p1")
	d, ctx := s.driver("p0", 1), t.Context()
	g := activate(t, d, wantOf(1, 10*reserve.Mbit))
	s.vsctl("--no-wait", "set", "port", "p1", "qos="+s.vsctl("get", "port", "p0", "qos"))
	before := s.dump()
	if err := d.Release(ctx, g); !errors.Is(err, reserve.ErrForeign) {
		t.Errorf("release of what another port uses: %v", err)
	}
	if s.dump() != before {
		t.Error("a release that failed changed something")
	}
	s.vsctl("--no-wait", "clear", "port", "p1", "qos")

	// An operator's QoS has our queue: it stays, but others that ended go.
	s.vsctl("--no-wait", "--", "set", "port", "p1", "qos=@q", "--", "--id=@q", "create", "qos", "type=linux-htb", "queues:3="+g.Handle)
	second := activate(t, d, wantOf(2, 10*reserve.Mbit))
	if err := d.Reap(ctx, g.End.Add(time.Hour)); !errors.Is(err, reserve.ErrForeign) {
		t.Errorf("reaped what somebody refers to: %v", err)
	}
	if _, err := d.Status(ctx, second); !errors.Is(err, reserve.ErrGone) {
		t.Errorf("what nobody refers to: %v", err)
	}
	s.vsctl("--no-wait", "clear", "port", "p1", "qos", "--", "clear", "qos", s.vsctl("get", "port", "p1", "qos"), "queues")
	if err := d.Release(ctx, g); err != nil {
		t.Error(err)
	}
}

// What ended goes: one's own at once, a dead agent's two minutes later; and whoever comes then
// finds the port free.
func TestReap(t *testing.T) {
	t.Parallel()
	s := newServer(t, "p0")
	dead, ctx := s.driver("p0", 1), t.Context()
	clean := s.dump()
	w := wantOf(1, 10*reserve.Mbit)
	activate(t, dead, w)
	if err := dead.Reap(ctx, w.End-1); err != nil {
		t.Fatal(err)
	}
	heir := s.driver("p0", 2)
	if err := heir.Reap(ctx, w.End.Add(abandoned-time.Second)); err != nil {
		t.Fatal(err)
	}
	if all, err := dead.List(ctx); err != nil || len(all) != 1 {
		t.Fatalf("what hasn't ended was reaped: %v, %v", all, err)
	}
	again := s.driver("p0", 1) // the same agent, started again, whose journal is lost
	if err := again.Reap(ctx, w.End); err != nil {
		t.Fatal(err)
	}
	if s.dump() != clean {
		t.Errorf("left after the end:\n%s", s.dump())
	}
	activate(t, dead, w)
	heir.cfg.Now = func() overlay.Instant { return w.End.Add(abandoned) }
	later := wantOf(2, 70*reserve.Mbit)
	later.End = w.End.Add(time.Hour)
	g := activate(t, heir, later)
	if _, err := dead.Status(ctx, reserve.Grant{ID: w.ID}); !errors.Is(err, reserve.ErrGone) {
		t.Errorf("the dead agent's: %v", err)
	}
	if err := heir.Release(ctx, g); err != nil {
		t.Fatal(err)
	}
	// Somebody takes a dead agent's queues away, but not its QoS.
	activate(t, dead, w)
	s.vsctl("--no-wait", "--", "clear", "QoS", s.vsctl("get", "port", "p0", "qos"), "queues", "--", "--all", "destroy", "Queue")
	if err := heir.Reap(ctx, w.End); err != nil {
		t.Fatal(err)
	}
	if s.dump() != clean {
		t.Errorf("left at the end:\n%s", s.dump())
	}
}

// Rows that carry our name but were written by hand, with nothing or nonsense in their tags.
func TestNonsenseRows(t *testing.T) {
	t.Parallel()
	s := newServer(t, "p0")
	d, ctx := s.driver("p0", 1), t.Context()
	clean := s.dump()
	for _, tags := range []dict{
		{tagEnd: "tomorrow", tagID: "../../x", tagKbit: "-5", tagQueue: "0", tagState: "dead"},
		{tagEnd: "9999-01-01T00:00:00Z", tagKbit: "99999999999999999999", tagQueue: "4294967295"},
		{},
	} {
		tags[tagOwner], tags[tagAgent], tags[tagPort] = owner, d.agent, "p0"
		s.ask(op{"op": "insert", "table": "Queue", "row": op{"external_ids": tags}})
	}
	all, err := d.List(ctx)
	if err != nil || len(all) != 3 {
		t.Fatalf("listed %v, %v", all, err)
	}
	for _, g := range all {
		if (g.ID != reserve.ID{}) || g.Rate != 0 || g.End != 0 || g.State != reserve.Unknown || g.Mark != (reserve.Mark{}) {
			t.Errorf("nonsense read as %+v", g)
		}
	}
	if err := d.Release(ctx, all[0]); err != nil { // by its handle alone
		t.Error(err)
	}
	if err := d.Reap(ctx, d.cfg.Now()); err != nil {
		t.Error(err)
	}
	if s.dump() != clean {
		t.Errorf("left:\n%s", s.dump())
	}
}

// Many ask at once, also two agents for one port: never more than the bound, and one of the two.
func TestAskedAtOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t, "p0")
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			d := s.driver("p0", byte(1+i%2))
			g, err := d.Hold(context.Background(), wantOf(byte(i+1), 20*reserve.Mbit))
			if err == nil {
				g, err = d.Commit(context.Background(), g)
			}
			if err == nil {
				_, err = d.Activate(context.Background(), g)
			}
			if err != nil && !errors.Is(err, reserve.ErrFull) && !errors.Is(err, reserve.ErrForeign) && !errors.Is(err, reserve.ErrUnreachable) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	a, _ := s.driver("p0", 1).List(t.Context())
	b, _ := s.driver("p0", 2).List(t.Context())
	if min(len(a), len(b)) != 0 || max(len(a), len(b)) > 3 || len(a)+len(b) == 0 {
		t.Errorf("the agents hold %d and %d queues of 20Mbit on a port of 70Mbit", len(a), len(b))
	}
	if n := strings.Count(s.vsctl("--columns=_uuid", "list", "QoS"), "_uuid"); n != 1 {
		t.Errorf("%d QoS rows for one port", n)
	}
}

// The database goes and comes back: what is said meanwhile says so, and the rows are still there.
func TestDatabaseRestarts(t *testing.T) {
	t.Parallel()
	s := newServer(t, "p0")
	d, ctx := s.driver("p0", 1), t.Context()
	g := activate(t, d, wantOf(1, 10*reserve.Mbit))
	s.stop()
	_, hold := d.Hold(ctx, wantOf(2, reserve.Mbit))
	_, status := d.Status(ctx, g)
	_, list := d.List(ctx)
	for what, err := range map[string]error{"Hold": hold, "Status": status, "List": list, "Release": d.Release(ctx, g), "Reap": d.Reap(ctx, d.cfg.Now())} {
		if !errors.Is(err, reserve.ErrUnreachable) {
			t.Errorf("%s without a database: %v", what, err)
		}
	}
	s.start()
	if again := must(t)(d.Status(ctx, g)); again.ID != g.ID || again.State != g.State || again.Handle != g.Handle {
		t.Errorf("after the restart: %+v, was %+v", again, g)
	}
	if err := d.Release(ctx, g); err != nil {
		t.Error(err)
	}
}

// Events tell when somebody takes a queue away, also while the database was away.
func TestEvents(t *testing.T) {
	t.Parallel()
	s := newServer(t, "p0")
	d := s.driver("p0", 1)
	ctx, cancel := context.WithCancel(t.Context())
	g := activate(t, d, wantOf(1, 10*reserve.Mbit))
	told := make(chan reserve.Event, 10)
	done := make(chan error, 1)
	go func() { done <- d.Events(ctx, func(e reserve.Event) { told <- e }) }()
	expect := func(want reserve.State) {
		t.Helper()
		select {
		case e := <-told:
			if e.ID != g.ID || e.Grant.State != want || e.Grant.Up {
				t.Errorf("told %+v, want %v", e, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("not told %v", want)
		}
	}
	// The first look of Events isn't told: take the queue off until it is noticed.
	s.until("Events look", func() bool {
		qos := s.vsctl("get", "port", "p0", "qos")
		s.vsctl("--no-wait", "clear", "port", "p0", "qos")
		time.Sleep(50 * time.Millisecond)
		if len(told) > 0 {
			return true
		}
		s.vsctl("--no-wait", "set", "port", "p0", "qos="+qos)
		return false
	})
	expect(reserve.Degraded)
	for len(told) > 0 {
		<-told
	}
	s.stop()
	s.start()
	s.vsctl("--no-wait", "--all", "destroy", "QoS", "--", "--all", "destroy", "Queue")
	expect(reserve.Lost)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t, "p0")
	d, ctx := s.driver("p0", 1), t.Context()
	circuit, zero, nobody, long := wantOf(1, 1), wantOf(1, 0), wantOf(1, 1), wantOf(1, 1)
	circuit.Kind, nobody.ID, long.Owner = reserve.Circuit, reserve.ID{}, strings.Repeat("x", 65)
	for _, c := range []struct {
		name string
		d    *Driver
		w    reserve.Want
		want error
	}{
		{"a circuit", d, circuit, reserve.ErrUnsupported},
		{"no rate", d, zero, reserve.ErrRefused},
		{"no ID", d, nobody, reserve.ErrRefused},
		{"a long owner", d, long, reserve.ErrRefused},
		{"no such port", s.driver("p7", 1), wantOf(1, 1), reserve.ErrRefused},
	} {
		if _, err := c.d.Hold(ctx, c.w); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	g := must(t)(d.Hold(ctx, wantOf(1, reserve.Mbit)))
	if _, err := d.Activate(ctx, g); !errors.Is(err, reserve.ErrRefused) {
		t.Errorf("activated without a commit: %v", err)
	}
	for n := 2; n < maxQueue; n++ {
		tags := dict{tagOwner: owner, tagAgent: d.agent, tagPort: "p0", tagQueue: fmt.Sprint(n), tagEnd: stamp(g.End)}
		s.ask(op{"op": "insert", "table": "Queue", "row": op{"external_ids": tags}})
	}
	if last := must(t)(d.Hold(ctx, wantOf(2, reserve.Kbit))); last.Mark.Priority != 0x10000+maxQueue+1 {
		t.Errorf("the last queue: %+v", last)
	}
	if _, err := d.Hold(ctx, wantOf(3, reserve.Kbit)); !errors.Is(err, reserve.ErrFull) {
		t.Errorf("one queue more than there may be: %v", err)
	}
	if _, err := New(Config{Reservable: 5}); err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("an empty configuration: %v", err)
	}
	none := mustNew(t, Config{Socket: filepath.Join(t.TempDir(), "none"), Port: "p0", Capacity: reserve.Gbit, Agent: overlay.AgentID{1}})
	if _, err := none.Offer(ctx, wantOf(1, 1)); !errors.Is(err, reserve.ErrUnreachable) || !strings.Contains(fmt.Sprint(err), "none") {
		t.Errorf("no socket: %v", err)
	}
}

func TestConform(t *testing.T) {
	t.Parallel()
	s := newServer(t, "p0")
	d := s.driver("p0", 1)
	d.cfg.Reservable = 30 * reserve.Mbit
	before := s.dump()
	reservetest.Conform(t, reservetest.Case{Driver: d, Agent: d.cfg.Agent, Rate: 10 * reserve.Mbit})
	if after := s.dump(); after != before {
		t.Errorf("the database before:\n%s\nand after:\n%s", before, after)
	}
}
