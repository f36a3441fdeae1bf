package agent

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/reserve"
)

var (
	ownVM = overlay.MAC{2, 0, 0, 0, 0, 0xa}
	farVM = overlay.MAC{2, 0, 0, 0, 0, 0xb}
)

// withStations puts a station behind the node, and one behind another agent.
func (w *reserveWorld) withStations(other string) {
	now := w.n.now()
	w.n.sw.Stations.Learn(now, ownVM, overlay.PortPlace(0))
	w.n.sw.Stations.Learn(now, farVM, w.n.peers[w.id(other)].place())
}

// What is asked for is held, shown in full and in short, explained, and given back.
func TestReserveCommands(t *testing.T) {
	t.Parallel()
	w := newReserveWorld(t, "a", "b")
	w.withStations("a")
	w.run()
	out, errs, code := w.farlan(t.Context(), "reserve", "request", ownVM.String(), strings.ToUpper(farVM.String()), "--rate", "20Mbit", "--for", "1h", "--owner", "ann", "--wait")
	id := strings.TrimSpace(out)
	if code != 0 || len(id) != 32 || !strings.Contains(errs, "guarantee, 20 Mbit/s, "+ownVM.String()+" → "+farVM.String()) {
		t.Fatalf("%d\n%s%s", code, out, errs)
	}
	all := w.list()
	if len(all) != 1 {
		t.Fatalf("%+v", all)
	}
	r := all[0]
	if r.ID != id || r.State != "active" || *r.Kind != "guarantee" || *r.Driver != "tc" || *r.RateMbit != 20 || r.UsedMbit != nil || r.Owner != "ann" || !r.Declared || *r.Coordinator != "self" {
		t.Errorf("%+v", r)
	}
	if s := r.Segment; *s.From != "self" || *s.To != "a" || s.Number != 0 || s.State != "active" || *r.Flow.Source != ownVM.String() || *r.Flow.Dest != farVM.String() {
		t.Errorf("%+v", r)
	}
	if since, left := time.Since(*r.Start), time.Until(*r.Until); since < 0 || since > time.Minute || left < 50*time.Minute || left > time.Hour || r.End.After(*r.Until) {
		t.Errorf("from %v to %v", r.Start, r.Until)
	}
	table, _, _ := w.farlan(t.Context(), "reserve", "list")
	if lines := strings.Split(table, "\n"); len(lines) != 3 || !strings.HasPrefix(lines[1], id[:8]+"  active  guarantee  tc ") || strings.Index(lines[0], "STATE") != strings.Index(lines[1], "active") {
		t.Errorf("%s", table)
	}
	w.explains(id)
	out, errs, code = w.farlan(t.Context(), "reserve", "release", strings.ToUpper(id[:6]))
	if code != 0 || out != id+": released\n" && out != id+": releasing\n" {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	if all = w.list(); len(all) != 1 || all[0].State != "released" || len(w.all[0].driver.held) > 0 {
		t.Errorf("%+v", all)
	}
}

// explains checks what is said of the reservation between the two stations.
func (w *reserveWorld) explains(id string) {
	t := w.t
	t.Helper()
	for _, dst := range []string{"a", farVM.String()} {
		out, errs, code := w.farlan(t.Context(), "explain", dst, "--class", "bulk")
		if want := "reservation " + ownVM.String() + " → " + farVM.String() + ": active 20Mbit: "; code != 0 || !strings.Contains(out, want) {
			t.Errorf("explain %s: %d\n%s%s", dst, code, out, errs)
		}
	}
	if out, _, _ := w.farlan(t.Context(), "explain", "b"); !strings.Contains(out, "reservation: none") {
		t.Errorf("%s", out)
	}
	var v explainView
	if w.shows(&v, "explain", "self"); v.Reserved == nil || len(v.Reserved) > 0 {
		t.Errorf("%+v", v.Reserved)
	}
	_, errs, code := w.farlan(t.Context(), "reserve", "request", ownVM.String(), farVM.String(), "--rate", "1Mbit")
	if code != 1 || !strings.Contains(errs, id) {
		t.Errorf("another one for the same frames: %d %s", code, errs)
	}
	var n *reservedCountView
	w.do(func() { n = w.n.reservedCount() })
	var text bytes.Buffer
	if showStatus(&text, statusView{Reservations: n}); !strings.Contains(text.String(), "reservations  1 active\n") {
		t.Errorf("%s", &text)
	}
}

// Who can't be meant is refused with what to do, before anything is asked for.
func TestReserveEnds(t *testing.T) {
	t.Parallel()
	w := newReserveWorld(t, "a", "b")
	w.withStations("a")
	w.n.peers[w.id("b")].out.Store(nil)
	w.run()
	for _, c := range []struct {
		code  int
		error string
		hint  string
		args  []string
	}{
		{5, "nobody: no such agent or station", "farlan peers", []string{"self", "nobody", "--rate", "1Mbit"}},
		{5, "nobody: no such agent or station", "farlan stations", []string{"nobody", "a", "--rate", "1Mbit"}},
		{5, "02:00:00:00:00:0c: no such", "", []string{ownVM.String(), "02:00:00:00:00:0c", "--rate", "1Mbit"}},
		{2, "FROM is a:", "ask at a", []string{"a", "b", "--rate", "1Mbit"}},
		{2, "FROM is " + farVM.String() + ", which is behind a", "ask at a", []string{farVM.String(), ownVM.String(), "--rate", "1Mbit"}},
		{2, "both at this agent", "", []string{"self", "self", "--rate", "1Mbit"}},
		{2, "an agent, the other a station", "two stations", []string{"self", farVM.String(), "--rate", "1Mbit"}},
		{1, "no path to b", "farlan peers", []string{"self", "b", "--rate", "1Mbit"}},
		{2, "--rate: ", "", []string{"self", "a", "--rate", "fast"}},
		{2, "--back: ", "", []string{"self", "a", "--rate", "1Mbit", "--back", "-1Mbit"}},
		{2, "--for: want 10s to", "", []string{"self", "a", "--rate", "1Mbit", "--for", "9s"}},
		{2, "--for: want 10s to", "", []string{"self", "a", "--rate", "1Mbit", "--for", "721h"}},
		{2, "--kind \"none\"", "", []string{"self", "a", "--rate", "1Mbit", "--kind", "none"}},
		{2, "--owner", "", []string{"self", "a", "--rate", "1Mbit", "--owner", strings.Repeat("x", 65)}},
	} {
		out, errs, code := w.farlan(t.Context(), append([]string{"reserve", "request"}, c.args...)...)
		if code != c.code || out != "" || !strings.Contains(errs, c.error) || !strings.Contains(errs, c.hint) {
			t.Errorf("%v: exit code %d, want %d\n%s%s", c.args, code, c.code, out, errs)
		}
	}
	if all := w.list(); len(all) != 0 {
		t.Errorf("%+v", all)
	}
	if out, _, code := w.farlan(t.Context(), "reserve", "list"); code != 0 || out != "nothing is reserved\n" {
		t.Errorf("%d %s", code, out)
	}
}

// The request goes by the way of bulk frames: each agent on it is asked, and back the other way
// round.
func TestReservePath(t *testing.T) {
	t.Parallel()
	w := newReserveWorld(t, "a", "b", "c")
	p := func(name string) *peer { return w.n.peers[w.id(name)] }
	p("a").detours[overlay.ClassBulk].Store(&detour{ids: []overlay.AgentID{w.n.self, w.id("c"), w.id("b"), w.id("a")}, hop: p("c")})
	p("b").out.Store(&outbound{relay: p("c"), between: []overlay.AgentID{w.id("c")}})
	w.run()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"a", "--rate", "10Mbit", "--back", "2Mbit"}, "self-c=10 c-b=10 b-a=10 a-b=2 b-c=2 c-self=2"},
		{[]string{"b", "--rate", "3Mbit"}, "self-c=3 c-b=3"},
		{[]string{"c", "--rate", "4Mbit", "--kind", "guarantee"}, "self-c=4"},
	} {
		var v reserveView
		w.shows(&v, append([]string{"reserve", "request", "self"}, c.args...)...)
		var got []string
		for _, r := range v.Reservations {
			got = append(got, *r.Segment.From+"-"+*r.Segment.To+"="+known(r.RateMbit, "%g"))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: %v, want %s", c.args, got, c.want)
		}
	}
	// No driver has circuits, and nobody serves anything but by what it has.
	_, errs, code := w.farlan(t.Context(), "reserve", "request", "self", "c", "--rate", "1Mbit", "--circuit")
	if code != 1 || !strings.Contains(errs, "there is one for these two already") {
		t.Errorf("%d %s", code, errs)
	}
	w.farlan(t.Context(), "reserve", "release", w.idOf("self → c"))
	out, errs, code := w.farlan(t.Context(), "reserve", "request", "self", "c", "--rate", "1Mbit", "--kind", "circuit")
	if code != 1 || out != "" || !strings.Contains(errs, "rejected: self has it not: no driver") {
		t.Errorf("%d %s%s", code, out, errs)
	}
}

// idOf returns the id of what is reserved for a flow.
func (w *reserveWorld) idOf(flow string) string {
	w.t.Helper()
	for _, r := range w.list() {
		if r.Flow.String() == flow {
			return r.ID
		}
	}
	w.t.Fatalf("nothing is reserved for %s", flow)
	return ""
}

// Of what there isn't, the half or more is taken, and said; less isn't, and what could be had is.
func TestReserveRefused(t *testing.T) {
	t.Parallel()
	w := newReserveWorld(t, "a", "b")
	w.run()
	out, errs, code := w.farlan(t.Context(), "reserve", "request", "self", "a", "--rate", "90Mbit", "--wait")
	id := strings.TrimSpace(out)
	all := w.list()
	if code != 0 || len(all) != 2 || all[0].State != "rejected" || all[1].State != "active" || all[1].ID != id || *all[1].RateMbit < 55 || *all[1].RateMbit > 70 {
		t.Fatalf("%d\n%s%s%+v", code, out, errs, all)
	}
	if !strings.Contains(errs, "of 90: there isn't more") || all[0].FreeMbit == nil || *all[0].FreeMbit < 55 || *all[0].FreeMbit > 70 || !strings.HasPrefix(all[0].Reason, "self has it not: no capacity left") {
		t.Errorf("%s%+v", errs, all[0])
	}
	out, errs, code = w.farlan(t.Context(), "reserve", "request", "self", "b", "--rate", "20Mbit")
	if code != 1 || out != "" || !strings.Contains(errs, "farlan: reserve request: rejected: self has it not: no capacity left") {
		t.Errorf("%d %s%s", code, out, errs)
	}
	w.do(func() { w.n.reserving.rate = 0 })
	_, errs, code = w.farlan(t.Context(), "reserve", "request", "self", "b", "--rate", "20Mbit")
	if code != 1 || !strings.Contains(errs, "\n  ") || !strings.Contains(errs, "--uplink") {
		t.Errorf("%d %s", code, errs)
	}
	w.farlan(t.Context(), "reserve", "release", id)
	w.farlan(t.Context(), "reserve", "request", "self", "a", "--rate", "60Mbit")
	_, errs, code = w.farlan(t.Context(), "reserve", "request", "self", "b", "--rate", "30Mbit")
	if code != 1 || !strings.Contains(errs, "Mbit/s could be had: --rate ") {
		t.Errorf("%d %s", code, errs)
	}
	w.do(func() { w.n.reserving.broker = nil })
	for _, c := range [][]string{{"request", "self", "a", "--rate", "1Mbit"}, {"release", id}} {
		if out, errs, code := w.farlan(t.Context(), append([]string{"reserve"}, c...)...); code == 0 || out != "" || !strings.Contains(errs, "\n  ") {
			t.Errorf("%v, and nothing is reserved: %d %s%s", c, code, out, errs)
		}
	}
}

// Whoever doesn't wait any longer is told that the reservation goes on.
func TestReserveLeft(t *testing.T) {
	t.Parallel()
	w := newReserveWorld(t, "a")
	w.mute = true
	w.run()
	out, errs, code := w.farlan(t.Context(), "reserve", "request", "self", "a", "--rate", "2Mbit", "--wait", "--timeout", "300ms")
	id := w.idOf("self → a")
	if code != 1 || out != "" || !strings.Contains(errs, id+" is activating: not active within 300ms") || !strings.Contains(errs, "farlan reserve release "+id) {
		t.Errorf("%d %s%s", code, out, errs)
	}
	w.farlan(t.Context(), "reserve", "release", id)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	out, errs, code = w.farlan(ctx, "reserve", "request", "self", "a", "--rate", "3Mbit", "--wait")
	all := w.list()
	last := all[len(all)-1]
	if code != 1 || out != "" || last.State != "activating" || !strings.Contains(errs, last.ID+" is activating: interrupted") {
		t.Errorf("%d %s%s", code, out, errs)
	}
}

// What another agent coordinates is shown as its own, and isn't given back here.
func TestReserveOfOthers(t *testing.T) {
	t.Parallel()
	w := newReserveWorld(t, "a")
	a := w.all[1]
	w.run()
	w.do(func() {
		q := reserve.Request{Flow: reserve.Flow{From: a.id, To: w.n.self}, Rate: reserve.Mbit, BackRate: 20 * reserve.Mbit, For: time.Hour, Owner: "eve"}
		if _, err := a.broker.Request(w.n.now(), q); err != nil {
			t.Error(err)
		}
	})
	eventually(t, 5*time.Second, func() error {
		if all := w.list(); len(all) != 1 || all[0].State != "active" {
			return fmt.Errorf("%+v", all)
		}
		return nil
	})
	r := w.list()[0]
	if *r.Coordinator != "a" || *r.Segment.From != "self" || *r.Segment.To != "a" || r.Start != nil || r.Owner != "eve" || *r.RateMbit < 19.9 || *r.RateMbit > 20.1 || r.Flow.String() != "self → a" {
		t.Errorf("%+v", r)
	}
	_, errs, code := w.farlan(t.Context(), "reserve", "release", r.ID[:4])
	if code != 2 || !strings.Contains(errs, "it is a's reservation") || !strings.Contains(errs, "ask at a: 'farlan reserve release "+r.ID+"'") {
		t.Errorf("%d %s", code, errs)
	}
	if out, _, _ := w.farlan(t.Context(), "explain", "a"); !strings.Contains(out, "reservation self → a: active") || !strings.Contains(out, "a coordinates it, for eve") {
		t.Errorf("%s", out)
	}
	var n *reservedCountView
	if w.do(func() { n = w.n.reservedCount() }); n.String() != "1 for other agents" {
		t.Errorf("%v", n)
	}
}

// Ids are told by as many digits as tell them apart, and no fewer than four.
func TestReservationNamed(t *testing.T) {
	row := func(last byte) reserve.Row {
		return reserve.Row{ID: reserve.ID{Reservation: [16]byte{0xab, 0xcd, 0xef, 0x01, 2, last}}}
	}
	other := reserve.Row{ID: reserve.ID{Reservation: [16]byte{0xab, 0xce}}}
	again := row(1)
	again.ID.Segment = 1
	rows := []reserve.Row{row(1), other, again, row(2)}
	for digits, want := range map[string]struct {
		rows, code int
		text       string
	}{
		"abce":                               {1, 0, ""},
		"ABCDEF010201":                       {2, 0, ""},
		reservationID(row(2).ID.Reservation): {1, 0, ""},
		"abcdef":                             {0, exitUsage, reservationID(row(1).ID.Reservation) + ", " + reservationID(row(2).ID.Reservation)},
		"abc":                                {0, exitUsage, "no reservation's id"},
		"":                                   {0, exitUsage, "no reservation's id"},
		"wxyz":                               {0, exitUsage, "no reservation's id"},
		strings.Repeat("a", 33):              {0, exitUsage, "no reservation's id"},
		"abcdef010203":                       {0, exitNoPeer, "no such reservation"},
	} {
		found, no := reservationNamed(rows, digits)
		switch {
		case no == nil && (want.code != 0 || len(found) != want.rows):
			t.Errorf("%q: %d rows, want %+v", digits, len(found), want)
		case no != nil && (no.code != want.code || !strings.Contains(no.Error(), want.text) || no.hint == ""):
			t.Errorf("%q: %v, exit code %d, want %+v", digits, no, no.code, want)
		}
	}
	v := reserveView{}
	for i := range rows {
		v.Reservations = append(v.Reservations, reservationView{ID: reservationID(rows[i].ID.Reservation)})
	}
	if n := v.digits(); n != 12 {
		t.Errorf("%d digits tell them apart", n)
	}
	if _, no := reservationNamed(slices.Repeat(rows, 400), "abcd"); no == nil || len(no.Error()) > 500 {
		t.Errorf("%v", no)
	}
}

// What stands in the way of reservations is said with what to do, and what is left of them with
// what is being done.
func TestReserveFindings(t *testing.T) {
	t.Parallel()
	w := newReserveWorld(t, "a")
	n := w.n
	one := func(level, text string) {
		t.Helper()
		all := n.reserveFindings(n.now())
		if len(all) != 1 || all[0].Check != "reserve" || all[0].Level != level || !strings.Contains(all[0].Detail, text) || (all[0].Fix == "") != (level == levelOK) {
			t.Errorf("%+v, want %s %q", all, level, text)
		}
	}
	one(levelOK, "all drivers work")
	n.reserving.rate = 0
	one(levelOK, "until --uplink is set or measured")
	w.ask(t)
	one(levelWarn, "until --uplink is set or measured")
	n.reserving.rate = 100 * reserve.Mbit
	w.all[0].driver.deaf = true
	if err := n.releaseReservation(n.now(), w.ask(t)); err != nil {
		t.Fatal(err)
	}
	w.turn(n.now())
	one(levelWarn, "its release is repeated, and its end is in 10m0s (")
	one(levelWarn, "the switch doesn't answer")
	n.admission.network = discovery.NewNetwork(w.network, discovery.AdminPublic{1})
	if hint := n.reserveHint(); !strings.Contains(hint, "the right to reserve") {
		t.Errorf("a member without the right: %s", hint)
	}
	n.reserving.problems = []reserveProblem{{"ovs", "no such port", "name one"}}
	n.reserving.rate = 0
	if all := n.reserveFindings(n.now()); len(all) != 3 || all[0].Detail != "driver ovs can't be used: no such port" || all[0].Fix != "name one" {
		t.Errorf("%+v", all)
	}
	n.reserving = reserving{}
	one(levelOK, "nothing is reserved at this agent")
}

// ask reserves something for frames to a, unless it is already, and returns its id.
func (w *reserveWorld) ask(t *testing.T) [16]byte {
	t.Helper()
	if rows := w.n.reservedRows(); len(rows) > 0 {
		return rows[0].ID.Reservation
	}
	id, err := w.n.requestReservation(w.n.now(), reserve.Request{Flow: reserve.Flow{From: w.n.self, To: w.id("a")}, Rate: reserve.Mbit, For: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	w.turn(w.n.now())
	return id
}
