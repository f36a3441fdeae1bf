package nsi

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi/cs"
	"farlan/reserve/nsi/provider"
)

// TestLife goes through all verbs, with callbacks and behind a NAT.
func TestLife(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"called", "asks"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			d := map[string]func(...func(*Config)) *Driver{"called": l.called, "asks": l.asks}[way](func(c *Config) {
				c.Subnet = netip.MustParsePrefix("172.30.0.0/16")
			})
			w := l.want(1, 59500*reserve.Kbit)
			if o, err := d.Offer(l.ctx(), w); err != nil || o.Rate != w.Rate || o.Free != reserve.Gbit || o.Kind != reserve.Circuit {
				t.Fatalf("offer: %+v, %v", o, err)
			}
			g := l.active(d, w)
			if g.Rate != 60*reserve.Mbit || g.Kind != reserve.Circuit || g.ID != w.ID || g.End.Time().Unix() != w.End.Time().Unix() {
				t.Fatalf("%+v", g)
			}
			mark := reserve.Mark{Device: "eth1.100", Source: netip.MustParseAddr("172.30.1.145"), Peer: netip.MustParseAddr("172.30.1.146")}
			if g.Mark != mark || l.plane.circuits() != 1 {
				t.Fatalf("%+v, %d circuits", g.Mark, l.plane.circuits())
			}
			if far, ok := d.Far(w.ID); !ok || far != (reserve.Mark{Device: "eth1.100", Source: mark.Peer, Peer: mark.Source}) {
				t.Fatalf("%+v, %v", far, ok)
			}
			if again, err := d.Hold(l.ctx(), w); err != nil || again.Handle != g.Handle || again.State != reserve.Active {
				t.Fatalf("held again: %+v, %v", again, err)
			}
			g = l.must(reserve.Active)(d.Modify(l.ctx(), g, 80*reserve.Mbit))
			g = l.must(reserve.Active)(d.Renew(l.ctx(), g, w.End.Add(time.Minute)))
			g = l.must(reserve.Active)(d.Status(l.ctx(), g))
			if g.Rate != 80*reserve.Mbit || g.End.Time().Unix()-w.End.Time().Unix() != 60 || !d.Caps().Modify {
				t.Fatalf("%+v", g)
			}
			if _, err := d.Modify(l.ctx(), g, 2*reserve.Gbit); !errors.Is(err, reserve.ErrFull) {
				t.Fatal(err)
			}
			g = l.must(reserve.Committed)(d.Deactivate(l.ctx(), g))
			l.must(reserve.Committed)(d.Status(l.ctx(), g))
			g = l.must(reserve.Active)(d.Activate(l.ctx(), g))
			for range 2 {
				if err := d.Release(l.ctx(), g); err != nil {
					t.Fatal(err)
				}
			}
			l.nothing(d)
			g = l.must(reserve.Held)(d.Hold(l.ctx(), l.want(2, reserve.Gbit)))
			if err := d.Abort(l.ctx(), g); err != nil {
				t.Fatal(err)
			}
			l.nothing(d)
		})
	}
}

// TestMoreThanThereIs: ten VLANs, twelve who want one at once.
func TestMoreThanThereIs(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := l.called()
	var mu sync.Mutex
	var got []reserve.Grant
	full := 0
	var wg sync.WaitGroup
	for n := range byte(12) {
		wg.Go(func() {
			g, err := d.Hold(l.ctx(), l.want(n+1, 10*reserve.Mbit))
			if err == nil {
				g, err = d.Commit(l.ctx(), g)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && g.State == reserve.Committed:
				got = append(got, g)
			case errors.Is(err, reserve.ErrFull):
				full++
			default:
				t.Errorf("%v, %v", g, err)
			}
		})
	}
	wg.Wait()
	if len(got) != 10 || full != 2 || len(l.srv.Held()) != 10 {
		t.Fatalf("%d granted, %d refused, the provider holds %v", len(got), full, l.srv.Held())
	}
	devices := make(map[string]bool)
	for _, g := range got {
		devices[g.Mark.Device] = true
	}
	if list, err := d.List(l.ctx()); err != nil || len(list) != 10 || len(devices) != 10 {
		t.Fatalf("listed: %d, %v, on %v", len(list), err, devices)
	}
	for _, g := range got {
		wg.Go(func() {
			if err := d.Release(l.ctx(), g); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	l.nothing(d)
}

// TestCrash: after each step the driver is gone without a word. A new one, which has nothing but
// the journal's ID, finds what is left and releases it.
func TestCrash(t *testing.T) {
	t.Parallel()
	steps := []struct {
		name string
		do   func(l *lab, d *Driver, w reserve.Want)
		left reserve.State
	}{
		{"before the reserve", func(*lab, *Driver, reserve.Want) {}, reserve.Released},
		{"reserve sent", func(l *lab, d *Driver, w reserve.Want) {
			asked := d.wanted(w)
			if _, err := d.client.do(l.ctx(), cs.Message{Op: cs.Reserve, Description: tag(agentA, w.ID), Criteria: &asked}); err != nil {
				l.t.Fatal(err)
			}
		}, reserve.Held},
		{"hold", func(l *lab, d *Driver, w reserve.Want) { l.must(reserve.Held)(d.Hold(l.ctx(), w)) }, reserve.Held},
		{"commit", func(l *lab, d *Driver, w reserve.Want) {
			l.must(reserve.Committed)(d.Commit(l.ctx(), l.must(reserve.Held)(d.Hold(l.ctx(), w))))
		}, reserve.Committed},
		{"activate", func(l *lab, d *Driver, w reserve.Want) { l.active(d, w) }, reserve.Active},
		{"deactivate", func(l *lab, d *Driver, w reserve.Want) {
			l.must(reserve.Committed)(d.Deactivate(l.ctx(), l.active(d, w)))
		}, reserve.Committed},
		{"terminate sent", func(l *lab, d *Driver, w reserve.Want) {
			if _, err := d.client.do(l.ctx(), cs.Message{Op: cs.Terminate, Connection: l.active(d, w).Handle}); err != nil {
				l.t.Fatal(err)
			}
		}, reserve.Released},
	}
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			w := l.want(7, 100*reserve.Mbit)
			s.do(l, l.asks(), w)
			d := l.asks()
			for start := time.Now(); ; time.Sleep(time.Millisecond) { // what was sent is under way
				g, err := d.Status(l.ctx(), reserve.Grant{ID: w.ID})
				if errors.Is(err, reserve.ErrGone) && s.left == reserve.Released || err == nil && g.State == s.left {
					break
				}
				if time.Since(start) > plenty {
					t.Fatalf("%+v, %v; want %v", g, err, s.left)
				}
			}
			list, err := d.List(l.ctx())
			if err != nil || (len(list) == 1) != (s.left != reserve.Released) || len(list) == 1 && list[0].ID != w.ID {
				t.Fatalf("%+v, %v", list, err)
			}
			if err := d.Release(l.ctx(), reserve.Grant{ID: w.ID}); err != nil {
				t.Fatal(err)
			}
			l.nothing(d)
		})
	}
}

// TestQueriesLater: a provider that answers queries only by callbacks.
func TestQueriesLater(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.srv.Fault(provider.Faults{NoSync: true})
	d := l.called()
	g := l.active(d, l.want(1, reserve.Mbit))
	l.must(reserve.Active)(d.Status(l.ctx(), g))
	l.release(d, g)
	if _, err := l.asks().List(l.ctx()); code(err) != cs.NotImplemented {
		t.Fatal(err)
	}
}

// TestNoDescription: a provider that doesn't keep descriptions lists nothing of ours, and knows
// it by the handle in the journal.
func TestNoDescription(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := l.asks()
	w := l.want(7, reserve.Mbit)
	asked := d.wanted(w)
	reply, err := d.client.do(l.ctx(), cs.Message{Op: cs.Reserve, Criteria: &asked})
	if err != nil {
		t.Fatal(err)
	}
	g := reserve.Grant{ID: w.ID, Handle: reply.Connection, End: w.End, Rate: w.Rate}
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		s, err := d.Status(l.ctx(), g)
		if err == nil && s.State == reserve.Held && s.ID == w.ID {
			break
		}
		if err != nil || time.Since(start) > plenty {
			t.Fatalf("%+v, %v", s, err)
		}
	}
	g = l.must(reserve.Committed)(d.Commit(l.ctx(), g))
	l.release(d, l.must(reserve.Active)(d.Activate(l.ctx(), g)))
}

// TestTwiceAfterCrash: what was sent before a crash and is again after it comes to the same.
func TestTwiceAfterCrash(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := l.want(7, 100*reserve.Mbit)
	first := l.must(reserve.Held)(l.asks().Hold(l.ctx(), w))
	d := l.asks()
	g := l.must(reserve.Held)(d.Hold(l.ctx(), w))
	if g.Handle != first.Handle || len(l.srv.List()) != 1 {
		t.Fatalf("%+v and %+v", first, g)
	}
	for range 2 {
		l.must(reserve.Committed)(d.Commit(l.ctx(), g))
	}
	for range 2 {
		l.must(reserve.Active)(d.Activate(l.ctx(), g))
	}
	for range 2 {
		l.must(reserve.Committed)(d.Deactivate(l.ctx(), g))
	}
	if err := d.Release(l.ctx(), g); err != nil {
		t.Fatal(err)
	}
	l.nothing(d)
}

// TestEvents: the data plane fails and comes back, and the provider ends the circuit for
// another requester's sake, told or found.
func TestEvents(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"called", "asks"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			d := map[string]func(...func(*Config)) *Driver{"called": l.called, "asks": l.asks}[way](func(c *Config) { c.Watch = soon })
			g := l.active(d, l.want(1, reserve.Mbit))
			events := make(chan reserve.Event, 64)
			l.run(func(ctx context.Context) error { return d.Events(ctx, func(e reserve.Event) { events <- e }) })
			until := func(s reserve.State, up bool) {
				t.Helper()
				for {
					select {
					case e := <-events:
						if e.ID == g.ID && e.Grant.State == s && e.Grant.Up == up {
							return
						}
					case <-time.After(plenty):
						t.Fatalf("not %v", s)
					}
				}
			}
			l.srv.Break(g.Handle, false)
			until(reserve.Degraded, false)
			l.srv.Break(g.Handle, true)
			until(reserve.Active, true)
			l.later(11 * time.Minute)
			until(reserve.Released, false)
			l.nothing(d)
		})
	}
}

// TestStrangers: who isn't the provider isn't heard, whatever certificate it has, and what the
// provider says that isn't an answer to what we asked confirms nothing.
func TestStrangers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.issue("other", "other.example")
	d := l.called(func(c *Config) { c.Poll = soon })
	g := l.must(reserve.Held)(d.Hold(l.ctx(), l.want(1, reserve.Mbit)))
	e, _ := d.book.get(g.ID)
	e.grant.State = reserve.Active
	d.book.put(e, false)
	down := cs.Message{Op: cs.DataPlaneStateChange, Notices: []cs.Notice{{Op: cs.DataPlaneStateChange, Connection: g.Handle, At: l.now()}}}
	down.Header = cs.Header{Protocol: cs.ToRequester, Correlation: newCorrelation(), Requester: ourNSA, Provider: theirNSA}
	post := func(as *tls.Config, m cs.Message) bool {
		c := http.Client{Transport: &http.Transport{TLSClientConfig: as, DisableKeepAlives: true}, Timeout: plenty}
		answer, err := c.Post(d.cfg.Callback.URL, "text/xml", bytes.NewReader(m.Append(nil)))
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	}
	state := func() reserve.State { e, _ := d.book.get(g.ID); return e.grant.State }
	if post(&tls.Config{InsecureSkipVerify: true}, down) || post(l.as("other"), down) || state() != reserve.Active {
		t.Fatalf("a stranger was heard: %v", state())
	}
	misled := down
	misled.Provider = "urn:ogf:network:other:nsa"
	if post(l.as("us"), misled) || state() != reserve.Active {
		t.Fatal("another provider was heard") // the lab's provider has our host, and so our name
	}
	if !post(l.as("us"), down) || state() != reserve.Degraded {
		t.Fatalf("the provider wasn't heard: %v", state())
	}

	w := d.inbox.expect(newCorrelation(), g.Handle)
	defer d.inbox.forget(w)
	confirmed := cs.Message{Header: down.Header, Op: cs.ReserveCommitConfirmed, Connection: g.Handle}
	d.hear(confirmed) // a correlation of nobody's
	confirmed.Correlation, confirmed.Connection = w.correlation, "another"
	d.hear(confirmed)
	if len(w.got) != 0 {
		t.Fatal("what was no answer was taken for one")
	}
	confirmed.Connection = g.Handle
	for range 100 { // told again and again: nothing blocks or grows
		d.hear(confirmed)
	}
	if len(w.got) != cap(w.got) {
		t.Fatalf("%d answers", len(w.got))
	}
	if _, err := http.Post("http"+strings.TrimPrefix(d.cfg.Callback.URL, "https"), "text/xml", nil); err == nil {
		if post(&tls.Config{InsecureSkipVerify: true}, down) {
			t.Fatal("heard without TLS")
		}
	}
}

// TestLateNews: callbacks in another order, and twice.
func TestLateNews(t *testing.T) {
	b := newBook()
	b.put(entry{grant: reserve.Grant{ID: reserve.ID{Segment: 1}, Handle: "c", State: reserve.Activating}}, false)
	say := func(at overlay.Instant, up bool) {
		b.notice(cs.Notice{Op: cs.DataPlaneStateChange, Connection: "c", At: at, Plane: cs.Plane{Active: up, Consistent: true}})
	}
	say(20, true)
	say(20, true)
	say(10, false)
	b.notice(cs.Notice{Op: cs.DataPlaneStateChange, Connection: "somebody else's", At: 30})
	if e, _ := b.get(reserve.ID{Segment: 1}); e.grant.State != reserve.Active || !e.grant.Up {
		t.Fatalf("%+v", e.grant)
	}
	if n := len(b.news()); n != 1 {
		t.Fatalf("%d events", n)
	}
	b.notice(cs.Notice{Op: cs.ErrorEvent, Connection: "c", Event: cs.ForcedEnd, Exception: &cs.Exception{Text: "maintenance"}})
	say(40, true)
	e, _ := b.get(reserve.ID{Segment: 1})
	if e.grant.State != reserve.Lost || e.grant.Up || !strings.Contains(e.grant.Reason, "maintenance") {
		t.Fatalf("%+v", e.grant)
	}
}

// TestRefusedHere: what is wrong by what is known here never gets to a provider.
func TestRefusedHere(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := l.asks()
	for name, change := range map[string]func(*reserve.Want){
		"end in the past": func(w *reserve.Want) { w.End = l.now().Add(-time.Second) },
		"no end":          func(w *reserve.Want) { w.End = 0 },
		"end too far":     func(w *reserve.Want) { w.End = l.now().Add(2 * time.Hour) },
		"unknown agent":   func(w *reserve.Want) { w.To = overlay.AgentID{9} },
		"to itself":       func(w *reserve.Want) { w.To = w.From },
		"no rate":         func(w *reserve.Want) { w.Rate = 0 },
	} {
		w := l.want(1, reserve.Mbit)
		change(&w)
		if g, err := d.Hold(l.ctx(), w); !errors.Is(err, reserve.ErrRefused) {
			t.Errorf("%s: %v, %v", name, g, err)
		}
		if _, err := d.Offer(l.ctx(), w); !errors.Is(err, reserve.ErrRefused) {
			t.Errorf("%s: offered, %v", name, err)
		}
	}
	if list := l.srv.List(); len(list) > 0 {
		t.Fatalf("asked for: %v", list)
	}
	if _, err := d.Usage(l.ctx(), reserve.Grant{}); !errors.Is(err, reserve.ErrUnsupported) {
		t.Fatal(err)
	}
}

// TestOthers: what isn't this agent's isn't listed, nor touched.
func TestOthers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	other := l.asks(func(c *Config) { c.Self = agentB })
	g := l.must(reserve.Held)(other.Hold(l.ctx(), l.want(1, reserve.Mbit)))
	d := l.asks()
	if list, err := d.List(l.ctx()); err != nil || len(list) > 0 {
		t.Fatalf("%v, %v", list, err)
	}
	if _, err := d.Status(l.ctx(), g); !errors.Is(err, reserve.ErrForeign) {
		t.Fatal(err)
	}
	if err := d.Release(l.ctx(), reserve.Grant{ID: g.ID}); err != nil || len(l.srv.Held()) != 1 {
		t.Fatalf("%v, %v", err, l.srv.Held())
	}
	l.later(11 * time.Minute)
	if err := other.Reap(l.ctx(), l.now()); err != nil {
		t.Fatal(err)
	}
	l.nothing(other)
}

// TestCompare: each thing that a provider may confirm otherwise than asked.
func TestCompare(t *testing.T) {
	now := overlay.Instant(1e18)
	asked := cs.Criteria{Version: 0, End: now.Add(time.Hour), Capacity: 60, Symmetric: true, Source: portA + "?vlan=100-109", Dest: portB + "?vlan=200"}
	good := asked
	good.Version, good.Symmetric, good.Source, good.Start = 1, false, portA+"?vlan=105", now.Add(time.Second)
	if err := compare(asked, good, now); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*cs.Criteria){
		"less":           func(c *cs.Criteria) { c.Capacity = 59 },
		"more":           func(c *cs.Criteria) { c.Capacity = 61 },
		"nothing":        func(c *cs.Criteria) { *c = cs.Criteria{} },
		"earlier end":    func(c *cs.Criteria) { c.End -= 1e9 },
		"no end":         func(c *cs.Criteria) { c.End = 0 },
		"later start":    func(c *cs.Criteria) { c.Start = now.Add(10 * time.Minute) },
		"one way":        func(c *cs.Criteria) { c.Unidirectional = true },
		"another VLAN":   func(c *cs.Criteria) { c.Source = portA + "?vlan=110" },
		"several VLANs":  func(c *cs.Criteria) { c.Source = asked.Source },
		"no VLAN":        func(c *cs.Criteria) { c.Source = portA },
		"another source": func(c *cs.Criteria) { c.Source = portB + "?vlan=105" },
		"another dest":   func(c *cs.Criteria) { c.Dest = portA + "?vlan=200" },
		"another label":  func(c *cs.Criteria) { c.Dest = portB + "?mpls=200" },
	} {
		got := good
		change(&got)
		if err := compare(asked, got, now); err == nil {
			t.Errorf("%s: the same", name)
		}
	}
}

func TestTag(t *testing.T) {
	id := reserve.ID{Reservation: [16]byte{0, 1, 0xff}, Segment: 255}
	if got, ok := untag(agentA, tag(agentA, id)); !ok || got != id {
		t.Fatalf("%v, %v", got, ok)
	}
	for _, s := range []string{"", "farlan", tag(agentB, id), "x" + tag(agentA, id), strings.Replace(tag(agentA, id), "-255", "-256", 1), strings.Replace(tag(agentA, id), "-255", "-255 ", 1), fmt.Sprintf("farlan -1 of %v", agentA)} {
		if got, ok := untag(agentA, s); ok {
			t.Errorf("%q is %v", s, got)
		}
	}
}

func TestValidate(t *testing.T) {
	l := &lab{t: t, folder: t.TempDir(), url: "https://wan.example/nsi"}
	good := l.config()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"url":          func(c *Config) { c.URL = "http://wan.example" },
		"requester":    func(c *Config) { c.Requester = "me" },
		"provider":     func(c *Config) { c.Provider = "" },
		"certificate":  func(c *Config) { c.Key = "" },
		"authorities":  func(c *Config) { c.Authorities = "" },
		"two at least": func(c *Config) { c.Ends = nil },
		"has no VLANs": func(c *Config) {
			c.Ends = map[overlay.AgentID]End{agentA: {STP: portA, Capacity: reserve.Gbit}, agentB: {}}
		},
		"how much it car": func(c *Config) { c.Ends[agentA] = End{STP: portA + "?vlan=1"} },
		"subnet":          func(c *Config) { c.Subnet = netip.MustParsePrefix("10.0.0.0/24") },
		"version":         func(c *Config) { c.Version = 7 },
		"clock":           func(c *Config) { c.Now = nil },
		"negative":        func(c *Config) { c.Watch = -1 },
	} {
		c := l.config()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	c := l.config()
	c.Certificate = l.folder + "/nowhere"
	if _, err := Open(c); err == nil {
		t.Fatal("opened without certificates")
	}
}

var _ provider.Plane = (*plane)(nil)
