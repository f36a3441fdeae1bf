package nsi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi/cs"
	"farlan/reserve/nsi/provider"
)

// xmllint returns what is wrong with documents by the Open Grid Forum's schemas, one line for
// each thing. It runs once for all of them, and reaches for nothing on the network.
func xmllint(t *testing.T, documents [][]byte) []string {
	t.Helper()
	if _, err := exec.LookPath("xmllint"); err != nil {
		if os.Getenv("FARLAN_NO_SKIP") != "" {
			t.Fatal("xmllint is missing: install libxml2-utils")
		}
		t.Skip("xmllint is missing: install libxml2-utils")
	}
	folder := t.TempDir()
	args := []string{"--nonet", "--noout", "--schema", "testdata/all.xsd"}
	for i, b := range documents {
		path := filepath.Join(folder, fmt.Sprintf("%03d.xml", i))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	out, err := exec.Command("xmllint", args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	good := 0
	var bad []string
	for line := range strings.Lines(string(out)) {
		if strings.HasSuffix(line, " validates\n") {
			good++
		} else {
			bad = append(bad, strings.TrimSpace(line))
		}
	}
	if good != len(documents) && len(bad) == 0 {
		t.Fatalf("%d of %d validate: %s", good, len(documents), out)
	}
	return bad
}

// every has each message in each form that it is written in, with all that can be in it.
func every() []cs.Message {
	h := cs.Header{Protocol: cs.ToProvider, Correlation: newCorrelation(), Requester: ourNSA, Provider: theirNSA, ReplyTo: nobody}
	full := cs.Criteria{
		Version: 1, Start: overlay.Instant(1e18), End: overlay.Instant(1e18 + 1), ServiceType: defaultService, Capacity: 60,
		Symmetric: true, Source: portA + "?vlan=1-2,4", Dest: portB + "?vlan=3",
	}
	one := full
	one.Unidirectional, one.Symmetric, one.Start = true, false, 0
	states := cs.States{Reservation: cs.StateHeld, Provision: cs.StateReleased, Lifecycle: cs.StateCreated, Plane: cs.Plane{Active: true, Version: 3}}
	e := cs.Exception{NSA: theirNSA, Connection: "c<&>", ServiceType: defaultService, ID: cs.CapacityUnavailable, Text: `"<no>" & 'no'`}
	e.Children = []cs.Exception{e}
	of := func(m cs.Message) cs.Message { m.Header = h; return m }
	all := []cs.Message{
		of(cs.Message{Op: cs.Reserve, Global: "urn:uuid:x", Description: "é\t<>", Criteria: &full}),
		of(cs.Message{Op: cs.Reserve, Connection: "c", Criteria: &cs.Criteria{Version: 2, Capacity: 70}}),
		of(cs.Message{Op: cs.Reserve, Connection: "c", Criteria: &cs.Criteria{Version: -1, End: 1e18}}),
		of(cs.Message{Op: cs.ReserveConfirmed, Connection: "c", Global: "urn:uuid:x", Description: "d", Criteria: &one}),
		of(cs.Message{Op: cs.ReserveFailed, Connection: "c", States: &states, Exception: &e}),
		of(cs.Message{Op: cs.ReserveCommitFailed, Connection: "c", States: &states, Exception: &e}),
		of(cs.Message{Op: cs.Error, Exception: &e}),
		of(cs.Message{Op: cs.Acknowledgment}),
		of(cs.Message{Op: cs.Fault, Exception: &e}),
		{Op: cs.Fault, Exception: &cs.Exception{Text: "no header"}},
		of(cs.Message{Op: cs.QueryNotificationSync, Connection: "c", Query: &cs.Query{From: 2, To: 3}}),
		of(cs.Message{Op: cs.QueryNotificationSync, Connection: "c", Query: &cs.Query{}}),
	}
	for _, op := range []cs.Op{cs.QuerySummary, cs.QuerySummarySync} {
		all = append(all, of(cs.Message{Op: op, Query: &cs.Query{}}),
			of(cs.Message{Op: op, Query: &cs.Query{Connections: []string{"a", "b"}}}), of(cs.Message{Op: op, Query: &cs.Query{Globals: []string{"urn:a"}}}))
	}
	r := cs.Reservation{Connection: "c", Global: "urn:uuid:x", Description: "d", Criteria: []cs.Criteria{full, one}, Requester: ourNSA, States: states, Notice: 7}
	for _, op := range []cs.Op{cs.QuerySummaryConfirmed, cs.QuerySummarySyncConfirmed} {
		all = append(all, of(cs.Message{Op: op}), of(cs.Message{Op: op, Reservations: []cs.Reservation{r, {Connection: "d", Requester: ourNSA, States: states}}}))
	}
	for _, op := range []cs.Op{
		cs.ReserveCommit, cs.ReserveAbort, cs.Provision, cs.Release, cs.Terminate, cs.ReserveResponse, cs.ReserveCommitConfirmed,
		cs.ReserveAbortConfirmed, cs.ProvisionConfirmed, cs.ReleaseConfirmed, cs.TerminateConfirmed,
	} {
		all = append(all, of(cs.Message{Op: op, Connection: "c"}))
	}
	notices := []cs.Notice{
		{Op: cs.DataPlaneStateChange, ID: 1, Plane: states.Plane},
		{Op: cs.ErrorEvent, ID: 2, Event: cs.ForcedEnd, Origin: "o", OriginNSA: theirNSA, Exception: &e},
		{Op: cs.ErrorEvent, ID: 3, Event: cs.DataplaneError, Origin: "o", OriginNSA: theirNSA},
		{Op: cs.ReserveTimeout, ID: 4, Timeout: 120, Origin: "o", OriginNSA: theirNSA},
		{Op: cs.MessageDeliveryTimeout, ID: 5, Correlation: newCorrelation()},
	}
	for i := range notices {
		notices[i].Connection, notices[i].At = "c", overlay.Instant(1e18)
		all = append(all, of(cs.Message{Op: notices[i].Op, Connection: "c", Notices: notices[i : i+1]}))
	}
	return append(all, of(cs.Message{Op: cs.QueryNotificationSyncConfirmed, Notices: notices}), of(cs.Message{Op: cs.QueryNotificationSyncConfirmed}))
}

// TestSchema: every message validates that requester or provider write, in all forms, and as
// they go over the wire while everything happens that can.
func TestSchema(t *testing.T) {
	t.Parallel()
	var all [][]byte
	ops := make(map[cs.Op]bool)
	for _, m := range every() {
		all = append(all, m.Append(nil))
		ops[m.Op] = true
	}
	if len(ops) != cs.Ops() {
		t.Fatalf("%d kinds of messages are tried, of %d", len(ops), cs.Ops())
	}
	passed := everything(t)
	for _, want := range []cs.Op{
		cs.Reserve, cs.ReserveResponse, cs.ReserveConfirmed, cs.ReserveFailed, cs.ReserveCommit, cs.ReserveCommitConfirmed,
		cs.ReserveAbort, cs.ReserveAbortConfirmed, cs.Provision, cs.ProvisionConfirmed, cs.Release, cs.ReleaseConfirmed,
		cs.Terminate, cs.TerminateConfirmed, cs.QuerySummarySync, cs.QuerySummarySyncConfirmed, cs.QueryNotificationSync,
		cs.QueryNotificationSyncConfirmed, cs.Acknowledgment, cs.DataPlaneStateChange, cs.ReserveTimeout, cs.Fault,
	} {
		if !bytes.Contains(bytes.Join(passed, nil), []byte(":"+string(want)+">")) {
			t.Errorf("no %s has passed", want)
		}
	}
	if bad := xmllint(t, append(all, passed...)); len(bad) > 0 {
		t.Fatalf("%d lines:\n%s", len(bad), strings.Join(bad, "\n"))
	}
	t.Logf("%d messages validate", len(all)+len(passed))
}

// everything lets it happen and returns what has passed.
func everything(t *testing.T) [][]byte {
	l := newLab(t)
	r := &recorder{}
	d := l.asks(func(c *Config) {
		c.Callback.Listener = listen(t)
		c.Callback.URL = "https://" + c.Callback.Listener.Addr().String() + "/nsi"
		c.Poll = plenty
	})
	l.run(r.serve(d))
	r.inner = d.client.http.Transport
	d.client.http.Transport = r
	g := l.active(d, l.want(1, reserve.Mbit))
	g = l.must(reserve.Active)(d.Modify(l.ctx(), g, 2*reserve.Mbit))
	l.must(reserve.Committed)(d.Deactivate(l.ctx(), g))
	if err := d.Abort(l.ctx(), l.must(reserve.Held)(d.Hold(l.ctx(), l.want(2, reserve.Mbit)))); err != nil {
		t.Fatal(err)
	}
	greedy := l.want(3, 999*reserve.Mbit)
	if _, err := d.reserve(l.ctx(), &entry{grant: reserve.Grant{ID: greedy.ID}}, func() cs.Criteria { c := d.wanted(greedy); c.Capacity = 5000; return c }()); !errors.Is(err, reserve.ErrFull) {
		t.Fatal(err)
	}
	l.must(reserve.Held)(d.Hold(l.ctx(), l.want(4, reserve.Mbit)))
	l.later(121e9)
	if _, err := d.List(l.ctx()); err != nil {
		t.Fatal(err)
	}
	l.srv.Fault(provider.Faults{PlaneDown: true})
	ctx, cancel := context.WithTimeout(l.ctx(), soon)
	defer cancel()
	if _, err := d.Activate(ctx, g); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if _, err := d.Status(l.ctx(), g); err != nil {
		t.Fatal(err)
	}
	if err := d.Release(l.ctx(), g); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Commit(l.ctx(), reserve.Grant{ID: reserve.ID{Segment: 9}, Handle: "nobody's", End: g.End}); err == nil {
		t.Fatal("committed what isn't there")
	}
	if _, err := d.client.do(l.ctx(), cs.Message{Op: cs.QueryNotificationSync, Connection: g.Handle}); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all
}

// TestSchemaTells: xmllint with these schemas sees what is wrong, in the header, the body and
// what the body has of another namespace.
func TestSchemaTells(t *testing.T) {
	t.Parallel()
	good := string(every()[0].Append(nil))
	for _, change := range [][2]string{
		{"<capacity>60", "<capacity>much"},
		{"requesterNSA>", "requester>"},
		{"<t:reserve>", "<t:reserve><connection>c</connection>"},
		{"<directionality>Bi", "<directionality>Three"},
	} {
		broken := strings.ReplaceAll(good, change[0], change[1])
		if broken == good {
			t.Fatalf("%s isn't there", change[0])
		}
		if bad := xmllint(t, [][]byte{[]byte(broken)}); len(bad) == 0 || !strings.Contains(bad[0], "Schemas validity error") {
			t.Errorf("%s: %v", change[1], bad)
		}
	}
}
