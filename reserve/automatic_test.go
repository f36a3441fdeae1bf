package reserve

import (
	"strings"
	"testing"
	"time"

	"farlan/overlay"
)

// lone returns a world of a few agents of which the first sends a flow that nobody declared.
func lone(begin, lasts time.Duration, rate Rate, relays ...int) (*simWorld, *simNode, *simFlow) {
	w := newSimWorld(simSetting{seed: 3, agents: 5, calm: true, alone: true, trouble: time.Hour})
	for _, n := range w.nodes {
		n.capacity = map[string]Rate{"east": 100 * Mbit, "west": 100 * Mbit}
		for e, c := range n.capacity {
			n.b.SetCapacity(e, c)
		}
	}
	n := w.nodes[0]
	f := &simFlow{Flow: Flow{n.id, w.nodes[4].id, overlay.MAC{2, 1}, overlay.MAC{2, 2}}, rate: rate, begin: w.now.Add(begin), end: w.now.Add(begin + lasts)}
	for _, i := range relays {
		f.relays = append(f.relays, w.nodes[i].id)
	}
	n.flows = []*simFlow{f}
	return w, n, f
}

func (w *simWorld) holds() (n int) {
	for _, x := range w.nodes {
		for _, f := range x.drivers {
			n += len(f.held)
		}
	}
	return n
}

// A transfer of ten minutes that others crowd out has a reservation within a minute, by relays,
// too, keeps it, and nothing of it is left 90 s after it ends.
func TestLongTransfer(t *testing.T) {
	for _, relays := range [][]int{nil, {1, 2}} {
		const begin, lasts = 10 * time.Second, 10 * time.Minute
		w, n, f := lone(begin, lasts, 50*Mbit, relays...)
		var had, full, gone time.Duration
		missed := 0
		for at := time.Duration(0); at < begin+lasts+2*time.Minute; at += time.Second {
			w.run(at)
			sends := f.begin <= w.now && w.now < f.end
			switch got := n.gets(f); {
			case sends && len(n.ways) > 0 && had == 0:
				had = at - begin
			case sends && had > 0 && len(n.ways) == 0:
				missed++
			case sends && full == 0 && got >= f.rate*9/10:
				full = at - begin
			}
			if at > begin+lasts && gone == 0 && w.holds() == 0 {
				gone = at - begin - lasts
			}
		}
		t.Logf("relays %v: reserved after %v, nine tenths of what it wants after %v, nothing left %v after its end", relays, had, full, gone)
		if had == 0 || had > time.Minute || missed > 0 || full == 0 || gone == 0 || gone > 90*time.Second {
			t.Errorf("missing for %d s; %s; %v", missed, n.b.Explain(f.Flow), w.wrong)
		}
	}
}

// Of two that send to each other one agent coordinates both directions, as both hurt.
func TestBothDirections(t *testing.T) {
	w, n, f := lone(10*time.Second, 5*time.Minute, 50*Mbit)
	peer := w.nodes[4]
	peer.flows = []*simFlow{{Flow: f.back(), begin: f.begin, end: f.end, rate: 40 * Mbit}}
	w.run(90 * time.Second)
	if s := peer.b.Explain(f.back()); !strings.Contains(s, "other agent coordinates") {
		t.Error(s)
	}
	w.run(4 * time.Minute)
	if n.gets(f) < 45*Mbit || peer.gets(peer.flows[0]) < 36*Mbit {
		t.Errorf("%v and %v", n.gets(f), peer.gets(peer.flows[0]))
	}
	for _, r := range peer.b.course {
		t.Errorf("both coordinate: %v %s", r.state, r.reason)
	}
	w.run(7 * time.Minute)
	if w.holds() > 0 || len(w.wrong) > 0 {
		t.Errorf("%d are held; %v", w.holds(), w.wrong)
	}
}

// Who has much gives way to those that begin later and need as much, before they would be refused.
func TestFairParts(t *testing.T) {
	w, n, f := lone(10*time.Second, 20*time.Minute, 200*Mbit)
	for i := range byte(3) {
		other := &simFlow{Flow: f.Flow, begin: f.begin.Add(5 * time.Minute), end: f.end, rate: 200 * Mbit}
		other.Source[5] = 10 + i
		n.flows = append(n.flows, other)
	}
	w.run(5 * time.Minute)
	if got := n.gets(f); got < 60*Mbit || got > 70*Mbit {
		t.Errorf("alone it has %v", got)
	}
	w.run(6*time.Minute + 20*time.Second)
	for i, f := range n.flows {
		if len(n.ways) != 4 || n.gets(f) > 18*Mbit {
			t.Errorf("%d, a minute after others began: %d ways, %v: %s", i, len(n.ways), n.gets(f), n.b.Explain(f.Flow))
		}
	}
	w.run(10 * time.Minute)
	for i, f := range n.flows {
		if got := n.gets(f); got < 14*Mbit || got > 18*Mbit {
			t.Errorf("%d, in the end: %v: %s", i, got, n.b.Explain(f.Flow))
		}
	}
	if len(w.wrong) > 0 {
		t.Error(w.wrong)
	}
}

// A short one has none, nor has one that nothing hinders.
func TestNoNeed(t *testing.T) {
	w, n, _ := lone(10*time.Second, 29*time.Second, 50*Mbit)
	w.run(2 * time.Minute)
	if w.active > 0 || len(n.b.course) > 0 {
		t.Error("a transfer of 29 s has a reservation")
	}
	w, n, f := lone(10*time.Second, 10*time.Minute, 50*Mbit)
	f.unhindered = true
	w.run(2 * time.Minute)
	if w.active > 0 || !strings.Contains(n.b.Explain(f.Flow), "room") {
		t.Errorf("one that nothing hinders: %s", n.b.Explain(f.Flow))
	}
}

// steps feeds a history with seconds, from a beginning on.
func steps(h *history, from, n int, s Sample, reserved Rate) overlay.Instant {
	now := simBeginning
	for i := range n {
		now = simBeginning.Add(time.Duration(from+i+1) * time.Second)
		h.note(now, &s, reserved, 0)
	}
	return now
}

func TestDecide(t *testing.T) {
	busy := Sample{Sent: 4 * Mbit, Backlog: 100_000, Elastic: true}
	ready := situation{automatic: true, leads: true, able: true, setup: time.Second}
	for _, c := range []struct {
		name    string
		seconds int
		sample  Sample
		change  func(s *situation)
		deed    deed
		why     string
	}{
		{"all holds", 30, busy, nil, reserve, "wants 6Mbit"},
		{"too short yet", 26, busy, nil, wait, "less than"},
		{"what it gets is little, but so is what waits", 30, Sample{Sent: Mbit, Backlog: 1000}, nil, wait, "less than"},
		{"nothing waits", 60, Sample{Sent: 80 * Mbit}, nil, wait, "nothing waits"},
		{"off", 60, busy, func(s *situation) { s.automatic = false }, wait, "owners declare"},
		{"gone", 60, busy, func(s *situation) { s.sample.Gone = true }, wait, "two agents"},
		{"about to move", 60, busy, func(s *situation) { s.sample.Moving = true }, wait, "move"},
		{"no driver", 60, busy, func(s *situation) { s.able = false }, wait, "no driver"},
		{"setting up takes long", 60, busy, func(s *situation) { s.setup = 7 * time.Second }, wait, "ten times"},
		{"long enough for that", 70, busy, func(s *situation) { s.setup = 7 * time.Second }, reserve, ""},
		{"another way first", 60, busy, func(s *situation) { s.sample.Reroute = true }, wait, "another way"},
		{"refused a moment ago", 60, busy, func(s *situation) { s.notBefore, s.refused = simBeginning.Add(2*time.Minute), "full" }, wait, "full"},
		{"the other end coordinates", 90, busy, func(s *situation) { s.leads, s.other = false, true }, lead, "other agent coordinates"},
		{"the other end sends more", 59, busy, func(s *situation) { s.leads = false }, wait, "sends more"},
		{"but doesn't claim it", 60, busy, func(s *situation) { s.leads = false }, lead, ""},
		{"nobody coordinates", 40, busy, func(s *situation) { s.leads, s.first = false, true }, lead, ""},
		{"never as much as a policy's cap", 40, busy, func(s *situation) { s.most = 2 * Mbit }, reserve, "wants 2Mbit"},
		{"not enough on the way", 400, busy, func(s *situation) { s.full, s.circuits, s.external = true, true, 30*time.Second }, circuit, ""},
		{"too soon for a circuit", 200, busy, func(s *situation) { s.full, s.circuits, s.external = true, true, 30*time.Second }, reserve, ""},
	} {
		var h history
		s := ready
		s.sample = c.sample
		s.now = steps(&h, 0, c.seconds, c.sample, 0)
		if c.change != nil {
			c.change(&s)
		}
		if d := h.decide(&s); d.deed != c.deed || !strings.Contains(d.why, c.why) {
			t.Errorf("%s: %+v", c.name, d)
		}
	}
}

func TestKeep(t *testing.T) {
	const rate = 20 * Mbit
	for _, c := range []struct {
		name    string
		seconds int
		sample  Sample
		change  func(s *situation, r *holding)
		deed    deed
		rate    Rate
	}{
		{"used, and young", 30, Sample{Sent: rate}, nil, wait, 0},
		{"half-life, used", 61, Sample{Sent: 15 * Mbit}, nil, resize, rate},
		{"half-life, little used", 61, Sample{Sent: 5 * Mbit}, nil, resize, 6 * Mbit},
		{"what waits is elastic", 30, Sample{Sent: rate, Backlog: 10_000, Elastic: true}, nil, resize, 2 * rate},
		{"what waits is not", 60, Sample{Sent: rate, Backlog: 2_500_000}, nil, resize, 72 * Mbit},
		{"grown a moment ago", 30, Sample{Sent: rate, Backlog: 10_000, Elastic: true}, func(s *situation, r *holding) { r.grown = s.now.Add(-9 * time.Second) }, wait, 0},
		{"more was refused", 30, Sample{Sent: rate, Backlog: 10_000, Elastic: true}, func(s *situation, r *holding) { r.refused = s.now.Add(-time.Second) }, wait, 0},
		{"at the cap it is still renewed", 61, Sample{Sent: rate, Backlog: 10_000, Elastic: true}, func(s *situation, _ *holding) { s.most = rate }, resize, rate},
		{"idle", 60, Sample{Sent: rate / 21}, nil, giveUp, 0},
		{"a little is used", 50, Sample{Sent: rate / 19}, nil, wait, 0},
		{"gone", 10, Sample{Sent: rate, Gone: true}, nil, giveUp, 0},
		{"can't be renewed", 61, Sample{Sent: rate}, func(_ *situation, r *holding) { r.fixed = true }, replace, rate},
		{"is being replaced", 61, Sample{Sent: rate}, func(_ *situation, r *holding) { r.fixed, r.replacing = true, true }, wait, 0},
		{"declared and idle", 59, Sample{}, func(_ *situation, r *holding) { r.declared = true }, wait, 0},
		{"declared, half-life", 61, Sample{}, func(_ *situation, r *holding) { r.declared = true }, resize, rate},
		{"the other side hurts", 50, Sample{Sent: rate, Received: 10 * Mbit}, func(s *situation, _ *holding) { s.wished = 3 * Mbit }, replace, rate},
	} {
		var h history
		now := steps(&h, 0, c.seconds, c.sample, rate)
		s, r := situation{now: now, sample: c.sample}, holding{rate: rate, renewed: simBeginning, life: 2 * time.Minute}
		if c.change != nil {
			c.change(&s, &r)
		}
		if d := h.keep(&s, &r); d.deed != c.deed || d.rate != c.rate {
			t.Errorf("%s: %+v", c.name, d)
		}
	}
}
