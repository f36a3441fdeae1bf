package provider

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/reserve/nsi/cs"
)

const (
	nsaID = "urn:ogf:network:wan.lab:2026:nsa"
	stpA  = "urn:ogf:network:wan.lab:2026:topology:a"
	stpB  = "urn:ogf:network:wan.lab:2026:topology:b"
)

func small() *Core {
	port := Port{Capacity: 1000, VLANs: cs.VLANs{{First: 100, Last: 103}}}
	return New(Config{NSA: nsaID, Ports: map[string]Port{stpA: port, stpB: port}, Delay: time.Second})
}

func request(op cs.Op, connection string) cs.Message {
	return cs.Message{Op: op, Connection: connection, Query: &cs.Query{}, Header: cs.Header{
		Protocol: cs.ToProvider, Correlation: "urn:uuid:00000000-0000-0000-0000-000000000001",
		Requester: "urn:ogf:network:us", Provider: nsaID, ReplyTo: "https://us.example/",
	}}
}

func reserve(capacity int64, end overlay.Instant) cs.Message {
	m := request(cs.Reserve, "")
	m.Criteria = &cs.Criteria{Capacity: capacity, End: end, Source: stpA + "?vlan=100-102", Dest: stpB + "?vlan=101-109"}
	return m
}

// TestSteps goes through a life with the clock in hand: what is told when.
func TestSteps(t *testing.T) {
	p := small()
	now := overlay.Instant(1e18)
	end := now.Add(time.Hour)
	var said []string
	pass := func(d time.Duration) overlay.Instant {
		now = now.Add(d)
		next := p.Tick(now)
		p.Flush(func(o Output) {
			if o.Circuit == nil {
				said = append(said, string(o.Message.Op))
				return
			}
			said = append(said, fmt.Sprintf("%v %d", o.Up, o.Circuit.SourceVLAN))
			p.Planed(now, o.Circuit.Connection, o.Up, nil)
		})
		return next
	}
	do := func(m cs.Message, want cs.Op) {
		t.Helper()
		if reply, ok := p.Receive(now, m); !ok || reply.Op != want || reply.Correlation != m.Correlation {
			t.Fatalf("%s: %+v", m.Op, reply)
		}
	}
	expect := func(want ...string) {
		t.Helper()
		pass(time.Second)
		pass(0)
		if fmt.Sprint(said) != fmt.Sprint(want) {
			t.Fatalf("said %v, want %v", said, want)
		}
		said = nil
	}
	do(reserve(600, end), cs.ReserveResponse)
	do(request(cs.ReserveCommit, "FL-00000001"), cs.Fault)
	expect("reserveConfirmed")
	do(reserve(600, end), cs.ReserveResponse)
	expect("reserveFailed")
	if next := pass(0); next != now.Add(119*time.Second) && next != now.Add(120*time.Second) {
		t.Fatalf("next at %v", next.Sub(now))
	}
	do(request(cs.ReserveCommit, "FL-00000001"), cs.Acknowledgment)
	expect("reserveCommitConfirmed")
	do(request(cs.Provision, "FL-00000001"), cs.Acknowledgment)
	expect("dataPlaneStateChange", "true 101", "provisionConfirmed", "dataPlaneStateChange")
	do(reserve(300, end), cs.ReserveResponse)
	expect("reserveConfirmed")
	if held := p.Held(); len(held) != 2 || held[1].SourceVLAN != 102 {
		t.Fatalf("%+v", held)
	}
	now = now.Add(2 * time.Minute)
	expect("reserveTimeout")
	m := request(cs.Reserve, "FL-00000001")
	m.Criteria = &cs.Criteria{Version: 2, Capacity: 900}
	do(m, cs.ReserveResponse)
	expect("reserveConfirmed")
	do(request(cs.ReserveAbort, "FL-00000001"), cs.Acknowledgment)
	expect("reserveAbortConfirmed")
	if p.List()[0].Criteria[0].Capacity != 600 {
		t.Fatal("aborted and changed")
	}
	do(request(cs.Release, "FL-00000001"), cs.Acknowledgment)
	expect("false 101", "releaseConfirmed", "dataPlaneStateChange")
	do(request(cs.Provision, "FL-00000001"), cs.Acknowledgment)
	expect("dataPlaneStateChange", "true 101", "provisionConfirmed", "dataPlaneStateChange")
	now = end
	expect("false 101", "dataPlaneStateChange")
	if r := p.List()[0]; r.States.Lifecycle != cs.StatePassedEndTime || r.States.Plane.Active || len(p.Held()) > 0 {
		t.Fatalf("%+v", r)
	}
	now = now.Add(2 * time.Hour)
	pass(0)
	if len(p.List()) > 0 {
		t.Fatalf("remembered: %+v", p.List())
	}
}

// TestRandom: whatever requesters ask in whatever order, with whatever faults, no VLAN is given
// twice at a port, no port is given more than it carries, a circuit is up only while it is held,
// and with the capacity that is confirmed; and after all ends nothing is left. Now and then the
// provider is killed before it does what it has decided, and goes on by what it has kept.
func TestRandom(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1))
		coin := func() bool { return r.IntN(4) == 0 }
		p := small()
		now := overlay.Instant(1e18)
		last := now.Add(time.Hour)
		up := make(map[string]int64) // Mbit/s
		faults := func() Faults {
			return Faults{
				PlaneDown: coin(), HeldForEver: coin(), NoModify: coin(), TerminateOnce: coin(),
				EventsFirst: coin(), KeepsCreated: coin(), DeadDomain: coin(),
			}
		}
		flush := func() {
			p.Flush(func(o Output) {
				if o.Circuit == nil {
					return
				}
				capacity := int64(0)
				if o.Up {
					capacity = o.Circuit.Capacity
				}
				if up[o.Circuit.Connection] == capacity {
					t.Fatalf("seed %d: up %v twice", seed, o.Up)
				}
				up[o.Circuit.Connection] = capacity
				p.Planed(now, o.Circuit.Connection, o.Up, nil)
			})
		}
		ops := []cs.Op{cs.ReserveCommit, cs.ReserveAbort, cs.Provision, cs.Release, cs.Terminate, cs.QuerySummarySync, cs.QueryNotificationSync, cs.Reserve}
		for range 120 {
			now = now.Add(time.Duration(r.IntN(20)) * time.Second)
			if coin() {
				p.Fault(faults())
			}
			m := reserve(int64(100+r.IntN(500)), min(last, now.Add(time.Duration(r.IntN(1000)+1)*time.Second)))
			if r.IntN(3) > 0 {
				criteria := m.Criteria
				m = request(ops[r.IntN(len(ops))], fmt.Sprintf("FL-%08x", r.IntN(20)))
				m.Criteria = criteria
			}
			p.Receive(now, m)
			p.Tick(now)
			if r.IntN(40) == 0 {
				p = again(t, p)
				clear(up) // what nobody wants is taken away, and the rest is asked for again
			}
			flush()
			check(t, seed, p)
			for _, c := range p.Wanted() {
				if up[c.Connection] != c.Capacity {
					t.Fatalf("seed %d: %+v is up with %d Mbit/s", seed, c, up[c.Connection])
				}
			}
		}
		for range 3 {
			now = max(now, last).Add(time.Minute)
			p.Tick(now)
			flush()
		}
		for id, is := range up {
			if is != 0 {
				t.Fatalf("seed %d: %s is still up", seed, id)
			}
		}
		if held := p.Held(); len(held) > 0 {
			t.Fatalf("seed %d: %v is still held", seed, held)
		}
	}
}

// again returns what a provider is after a crash.
func again(t *testing.T, p *Core) *Core {
	t.Helper()
	kept, err := p.Save()
	if err != nil {
		t.Fatal(err)
	}
	next := small()
	if err = next.Load(kept); err != nil {
		t.Fatal(err)
	}
	if same, err := next.Save(); err != nil || string(same) != string(kept) {
		t.Fatalf("kept %s, and then %s (%v)", kept, same, err)
	}
	return next
}

// TestLoad: what isn't a provider's state is refused.
func TestLoad(t *testing.T) {
	for _, text := range []string{"", "{", `{"Jobs":1}`, `{"Connections":[null]}`} {
		if err := small().Load([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// TestFaultNames: each fault has a name of its own, by which it is switched.
func TestFaultNames(t *testing.T) {
	var f Faults
	for i, name := range FaultNames {
		before := f
		if err := f.Set(name, true); err != nil || f == before || len(f.On()) != i+1 || f.On()[i] != name {
			t.Errorf("%s: %+v (%v)", name, f, err)
		}
	}
	if want := (Faults{true, true, true, true, true, true, true, true, true, true, true}); f != want {
		t.Errorf("%+v", f)
	}
	if err := f.Set("plane-down", false); err != nil || f.PlaneDown || len(f.On()) != len(FaultNames)-1 {
		t.Errorf("%+v (%v)", f, err)
	}
	if err := f.Set("no such", true); err == nil {
		t.Error("a fault of no name is taken")
	}
}

func check(t *testing.T, seed uint64, p *Core) {
	t.Helper()
	vlans := make(map[string]bool)
	sum := make(map[string]int64)
	for _, c := range p.Held() {
		for _, at := range []string{fmt.Sprint(c.Source, c.SourceVLAN), fmt.Sprint(c.Dest, c.DestVLAN)} {
			if vlans[at] {
				t.Fatalf("seed %d: %s twice", seed, at)
			}
			vlans[at] = true
		}
		sum[c.Source] += c.Capacity
		sum[c.Dest] += c.Capacity
	}
	if sum[stpA] > 1000 || sum[stpB] > 1000 {
		t.Fatalf("seed %d: %v", seed, sum)
	}
}

// FuzzCore: no request that can be read makes the provider panic, whatever its faults.
func FuzzCore(f *testing.F) {
	for _, op := range []cs.Op{cs.ReserveCommit, cs.Provision, cs.Terminate, cs.QuerySummary, cs.QueryNotificationSync, cs.ReserveConfirmed} {
		m := request(op, "FL-00000001")
		m.Criteria = &cs.Criteria{}
		f.Add(m.Append(nil), uint16(0))
	}
	f.Add(reserve(5, 2e18).Append(nil), uint16(0xffff))
	f.Fuzz(func(t *testing.T, b []byte, bits uint16) {
		m, err := cs.Parse(b)
		if err != nil {
			return
		}
		has := func(i int) bool { return bits>>i&1 == 1 }
		p := small()
		p.Fault(Faults{has(0), has(1), has(2), has(3), has(4), has(5), has(6), has(7), has(8), has(9), has(10)})
		now := overlay.Instant(1e18)
		p.Receive(now, reserve(1, now.Add(time.Hour)))
		for range 4 {
			now = now.Add(time.Second)
			if reply, ok := p.Receive(now, m); ok {
				if _, err := cs.Parse(reply.Append(nil)); err != nil {
					t.Fatalf("%v: %s", err, reply.Append(nil))
				}
			}
			p.Tick(now)
			p.Flush(func(o Output) {
				if o.Circuit != nil {
					p.Planed(now, o.Circuit.Connection, o.Up, nil)
				} else if _, err := cs.Parse(o.Message.Append(nil)); err != nil {
					t.Fatalf("%v: %s", err, o.Message.Append(nil))
				}
			})
		}
	})
}
