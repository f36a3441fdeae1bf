package nsi

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi/cs"
)

// recorded are the messages of testdata/transcript: a circuit's life between a requester and a
// provider of two domains (OpenNSA), in order. out was sent to the provider.
type recorded struct {
	name string
	out  bool
	m    cs.Message
}

func transcript(t *testing.T) []recorded {
	t.Helper()
	names, err := filepath.Glob("testdata/transcript/*.xml")
	if err != nil || len(names) != 36 {
		t.Fatalf("%d messages, %v", len(names), err)
	}
	var all []recorded
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		m, err := cs.Parse(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, recorded{filepath.Base(name), strings.Contains(name, "-out-"), m})
	}
	return all
}

// A player answers as the recorded provider did, when it is asked what it was asked.
type player struct {
	t         *testing.T
	mu        sync.Mutex
	left      []recorded
	described string // what the requester wrote instead of the recorded description
	last      cs.Message
	callback  func(cs.Message)
}

// adapt has a recorded message speak of our description and of our correlation.
func (p *player) adapt(m cs.Message, theirs, ours string) cs.Message {
	if m.Correlation == theirs {
		m.Correlation = ours
	}
	if m.Description != "" {
		m.Description = p.described
	}
	for i := range m.Reservations {
		m.Reservations[i].Description = p.described
	}
	return m
}

func (p *player) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, _ := io.ReadAll(r.Body)
	m, err := cs.Parse(b)
	if err != nil {
		p.t.Errorf("%v: %s", err, b)
	}
	if m.Op == cs.QuerySummarySync && (len(p.left) == 0 || p.left[0].m.Op != m.Op || len(m.Query.Connections) == 0) {
		if p.last.Op == "" && len(m.Query.Connections) > 0 {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		again := p.last // more than was asked when it was recorded
		again.Header = m.Header
		again.Op, again.ReplyTo = cs.QuerySummarySyncConfirmed, ""
		w.Write(again.Append(nil))
		return
	}
	if len(p.left) == 0 || !p.left[0].out {
		p.t.Errorf("asked %s, and nothing more was recorded", m.Op)
		return
	}
	p.same(p.left[0], m)
	theirs := p.left[0].m.Correlation
	p.left = p.left[1:]
	replied := false
	for len(p.left) > 0 && !p.left[0].out {
		in := p.adapt(p.left[0].m, theirs, m.Correlation)
		p.left = p.left[1:]
		switch in.Op {
		case cs.Acknowledgment, cs.ReserveResponse, cs.QuerySummarySyncConfirmed:
			if in.Op == cs.QuerySummarySyncConfirmed {
				p.last = in
			}
			w.Write(in.Append(nil))
			w.(http.Flusher).Flush()
			replied = true
		default: // some before the reply, as recorded
			p.callback(in)
		}
	}
	if !replied {
		p.t.Errorf("no reply to %s", m.Op)
	}
}

// same compares what was sent with what was recorded: all but what each sender chooses.
func (p *player) same(want recorded, got cs.Message) {
	if got.Op == cs.Reserve {
		if _, ours := untag(agentA, got.Description); !ours || !strings.HasPrefix(got.Global, "urn:uuid:") {
			p.t.Errorf("%s: description %q, globalReservationId %q", want.name, got.Description, got.Global)
		}
		p.described = got.Description
	}
	got.Correlation, got.ReplyTo, got.Description, got.Global = want.m.Correlation, want.m.ReplyTo, want.m.Description, want.m.Global
	if !reflect.DeepEqual(got, want.m) {
		p.t.Errorf("%s:\nsent     %s\nrecorded %s", want.name, got.Append(nil), want.m.Append(nil))
	}
}

// TestTranscript has the driver go through the recorded life.
func TestTranscript(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := &player{t: t, left: transcript(t)}
	their := httptest.NewUnstartedServer(p)
	their.TLS = l.as("us")
	their.StartTLS()
	t.Cleanup(their.Close)
	const net = ":2026:topology:host"
	start, _ := time.Parse(time.RFC3339, "2026-11-22T07:28:18Z")
	d := l.called(func(c *Config) {
		c.URL, c.Version, c.Poll = their.URL, 0, time.Second
		c.Requester, c.Provider = "urn:ogf:network:vnet.lab:2026:nsa", "urn:ogf:network:alpha.lab:2026:nsa"
		c.Ends = map[overlay.AgentID]End{
			agentA: {STP: "urn:ogf:network:alpha.lab" + net + "a?vlan=100-109", Capacity: reserve.Gbit},
			agentB: {STP: "urn:ogf:network:beta.lab" + net + "b?vlan=100-109", Capacity: reserve.Gbit},
		}
		c.Now = func() overlay.Instant { return overlay.Instant(start.UnixNano()) }
	})
	caller := http.Client{Transport: &http.Transport{TLSClientConfig: l.as("us")}}
	t.Cleanup(caller.CloseIdleConnections)
	p.callback = func(m cs.Message) {
		answer, err := caller.Post(d.cfg.Callback.URL, "text/xml", bytes.NewReader(m.Append(nil)))
		if err != nil {
			t.Error(err)
			return
		}
		defer answer.Body.Close()
		b, _ := io.ReadAll(answer.Body)
		if ack, err := cs.Parse(b); err != nil || ack.Op != cs.Acknowledgment || ack.Correlation != m.Correlation {
			t.Errorf("%s is answered %s, %v", m.Op, b, err)
		}
	}
	w := l.want(1, 60*reserve.Mbit)
	w.End = overlay.Instant(start.Add(2 * time.Minute).UnixNano())

	g := l.must(reserve.Held)(d.Hold(l.ctx(), w))
	l.must(reserve.Held)(d.Status(l.ctx(), g))
	g = l.must(reserve.Committed)(d.Commit(l.ctx(), g))
	g = l.must(reserve.Active)(d.Activate(l.ctx(), g))
	if s := l.must(reserve.Active)(d.Status(l.ctx(), g)); !s.Up || !g.Up || s.Handle != "AL-f23ab15fd4" || s.Rate != w.Rate || s.End != w.End {
		t.Fatalf("%+v", s)
	}
	g = l.must(reserve.Committed)(d.Deactivate(l.ctx(), g))
	l.must(reserve.Committed)(d.Status(l.ctx(), g))
	g = l.must(reserve.Active)(d.Activate(l.ctx(), g))
	if err := d.Release(l.ctx(), g); err != nil {
		t.Fatal(err)
	}
	l.must(reserve.Released)(d.Status(l.ctx(), g))
	if err := d.Release(l.ctx(), g); err != nil { // acknowledged, and never confirmed
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.left) > 0 {
		t.Fatalf("%d recorded messages weren't asked for, the first is %s", len(p.left), p.left[0].name)
	}
}
