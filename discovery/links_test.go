package discovery

import (
	"bytes"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// noLinks is the body of who has none.
var noLinks = func() []byte {
	b, err := AppendLinks(nil, 0, Facts{}, nil)
	if err != nil {
		panic(err)
	}
	return b
}()

func TestSqueeze(t *testing.T) {
	worst := map[int]float64{}
	last := map[int]uint16{}
	r := rand.New(rand.NewPCG(1, 1))
	for v := uint64(0); v < 1<<50; v += 1 + v/300 + r.Uint64N(1+v/300) {
		for _, m := range []int{fine, coarse} {
			code := squeeze(v, m)
			got := expand(code, m)
			if v < 2<<m && got != v || squeeze(got, m) != code || code < last[m] {
				t.Fatalf("%d bits: %d became %d, %d; the code before was %d", m, v, code, got, last[m])
			}
			last[m] = code
			if m == coarse && v < 1<<33 && code > math.MaxUint8 {
				t.Fatalf("%d takes more than a byte", v)
			}
			worst[m] = max(worst[m], math.Abs(float64(got)-float64(v))/float64(max(v, 1)))
		}
	}
	t.Logf("off by %.3f %% and %.1f %% at most", 100*worst[fine], 100*worst[coarse])
	if worst[fine] > 0.001 || worst[coarse] > 0.0626 {
		t.Error("too much")
	}
	for code := range math.MaxUint16 + 1 { // foreign codes are numbers, too
		if v := expand(uint16(code), fine); v < 1<<60 && int(squeeze(v, fine)) != code {
			t.Fatalf("%d is %d", code, v)
		}
	}
}

// full is a pair of which everything is known.
func full(at overlay.Instant) measure.Pair {
	return measure.Pair{
		RTT: 50_123 * time.Microsecond, RTTSource: measure.Measured, RTTAt: at.Add(-3 * time.Second),
		Jitter: 700 * time.Microsecond, Queue: 12 * time.Millisecond,
		Loss: 0.01, LossLow: 0.004, LossHigh: 0.03, LossKnown: true,
		Capacity: 93_400_000, CapacityLow: 92_000_000, CapacityHigh: 95_000_000, CapacityBound: true,
		CapacityAt: at.Add(-time.Minute), CapacitySource: measure.Passive, Available: 40_000_000, MTU: 1452,
	}
}

// What is told arrives within what squeezing costs, and unknown stays unknown.
func TestLinksArrive(t *testing.T) {
	now := at(0)
	access := measure.Access{Up: 20_000_000, Down: 250_000_000, UpSource: measure.Configured, DownSource: measure.Measured}
	b, err := AppendLinks(nil, now, Facts{Access: access}, []Link{{Peer: agentID(1), Pair: full(now)}, {Peer: agentID(2)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes for two rows", len(b))
	got, err := ParseLinks(b, now)
	if err != nil || len(got.Rows) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	near := func(what string, a, b, part float64) {
		t.Helper()
		if math.Abs(a-b) > part*math.Abs(b) {
			t.Errorf("%s: %v, want %v", what, a, b)
		}
	}
	near("up", float64(got.Access.Up), 20e6, 0.001)
	near("down", float64(got.Access.Down), 250e6, 0.001)
	for _, r := range got.Rows {
		if r.Peer == BriefOf(agentID(2)) {
			if r.Pair != (measure.Pair{}) {
				t.Errorf("unknown became %+v", r.Pair)
			}
			continue
		}
		p, w := r.Pair, full(now)
		near("round trip", float64(p.RTT), float64(w.RTT), 0.001)
		near("its age", now.Sub(p.RTTAt).Seconds(), 3, 0.06)
		near("jitter", float64(p.Jitter), float64(w.Jitter), 0.06)
		near("queue", float64(p.Queue), float64(w.Queue), 0.06)
		near("loss", p.Loss, w.Loss, 0.06)
		near("low", p.LossLow, w.LossLow, 0.06)
		near("high", p.LossHigh, w.LossHigh, 0.06)
		near("capacity", float64(p.Capacity), float64(w.Capacity), 0.001)
		near("capacity at least", float64(p.CapacityLow), float64(w.CapacityLow), 0.003)
		near("capacity at most", float64(p.CapacityHigh), float64(w.CapacityHigh), 0.003)
		near("its age", now.Sub(p.CapacityAt).Seconds(), 60, 0.06)
		near("available", float64(p.Available), float64(w.Available), 0.001)
		if p.MTU != w.MTU || p.Relayed || !p.LossKnown || !p.CapacityBound || p.CapacitySource != w.CapacitySource || p.RTTSource != w.RTTSource {
			t.Errorf("%+v", p)
		}
	}
	if got.Access.UpSource != access.UpSource || got.Access.DownSource != access.DownSource {
		t.Errorf("%+v", got.Access)
	}
}

// What an agent relays and intends arrives, and earlier versions' rows are without.
func TestIntentArrives(t *testing.T) {
	own := Facts{NoTransit: true, TransitLimit: 5_000_000, Cost: 32768 * time.Microsecond, LeftUp: 1_000_000, LeftDown: 7_000_000}
	want := []Intent{
		{Left: 8_000_000, Cost: 4096 * time.Microsecond, Prefer: true, Holds: true},
		{Left: 1000, Forbid: true, Holds: true, Leaving: true},
		{Accepts: true},
		{},
	}
	var links []Link
	for i, w := range want {
		links = append(links, Link{Peer: agentID(i + 1), Pair: full(at(0)), Intent: w})
	}
	slices.SortFunc(links, func(a, b Link) int { return a.Peer.Compare(b.Peer) })
	b, err := AppendLinks(nil, at(0), own, links)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseLinks(b, at(0))
	if err != nil || got.Facts != own || len(got.Rows) != len(links) {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, r := range got.Rows {
		if r.Intent != links[i].Intent || !r.LossKnown || r.Relayed {
			t.Errorf("%+v became %+v", links[i].Intent, r)
		}
	}
	old := append(bytes.Clone(b[:linksHead+leastFacts]), b[linksHead+factsLen:][:leastRowLen]...)
	old[1], old[2], old[3] = 1, leastRowLen, leastFacts
	if got, err = ParseLinks(old, at(0)); err != nil || len(got.Rows) != 1 || got.Facts != (Facts{}) || got.Rows[0].Left != 0 || got.Rows[0].MTU == 0 {
		t.Errorf("of an earlier version: %+v, %v", got, err)
	}
	beyond := bytes.Clone(b)
	copy(beyond[linksHead+leastFacts+5:], "\xff\xff")
	if _, err := ParseLinks(beyond, at(0)); err == nil {
		t.Error("more is left than anything carries")
	}
	beyond = bytes.Clone(b)
	copy(beyond[linksHead+factsLen+leastRowLen:], "\xff\xff")
	if _, err := ParseLinks(beyond, at(0)); err == nil {
		t.Error("more is left of a link than anything carries")
	}
}

// That a row is relayed is told beside all else, and such a row is no link.
func TestRelayedRow(t *testing.T) {
	now := at(0)
	p := full(now)
	p.Relayed = true
	b, err := AppendLinks(nil, now, Facts{}, []Link{{Peer: agentID(1), Pair: full(now)}, {Peer: agentID(2), Pair: p}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseLinks(b, now)
	if err != nil || len(got.Rows) != 2 {
		t.Fatal(err)
	}
	for _, r := range got.Rows {
		same := r.Pair
		same.Relayed = false
		if relayed := r.Peer == BriefOf(agentID(2)); r.Relayed != relayed || same != got.Rows[0].Pair && same != got.Rows[1].Pair || r.RTT == 0 {
			t.Errorf("%+v", r)
		}
	}
	if got := NewsOf(full(now), p); got != Urgent {
		t.Errorf("that a pair is relayed now is news %v", got)
	}
}

// A later version's longer rows and facts are read as far as this one knows them.
func TestLinksOfLaterVersion(t *testing.T) {
	now := at(0)
	b, err := AppendLinks(nil, now, Facts{Access: measure.Access{Up: 1e6, UpSource: measure.Configured}}, []Link{{Peer: agentID(1), Pair: full(now)}, {Peer: agentID(2), Pair: full(now)}})
	if err != nil {
		t.Fatal(err)
	}
	want, err := ParseLinks(b, now)
	if err != nil {
		t.Fatal(err)
	}
	facts, rows := b[linksHead:linksHead+factsLen], b[linksHead+factsLen:]
	later := append([]byte{0, 2, rowLen + 7, factsLen + 3}, facts...)
	later = append(append(later, 1, 2, 3), rows[:rowLen]...)
	later = append(append(later, 1, 2, 3, 4, 5, 6, 7), rows[rowLen:]...)
	later = append(later, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
	if got, err := ParseLinks(later, now); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}

func TestLinksLimits(t *testing.T) {
	many := make([]Link, MaxLinks+1)
	for i := range many {
		many[i].Peer[3], many[i].Peer[2] = byte(i), byte(i>>8)
	}
	if _, err := AppendLinks(nil, 0, Facts{}, many); err == nil {
		t.Error("too many links were taken")
	}
	if _, err := AppendLinks(nil, 0, Facts{}, []Link{{Peer: agentID(1)}, {Peer: agentID(1)}}); err == nil {
		t.Error("a peer twice was taken")
	}
	b, err := AppendLinks(nil, 0, Facts{}, many[:MaxLinks])
	if err != nil || len(b) > MaxLinksBody {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if got, err := ParseLinks(append(b, 9), 0); err != nil || len(got.Rows) != MaxLinks {
		t.Errorf("%d links, %v", len(got.Rows), err)
	}
	// What is beyond a limit is told as the limit.
	beyond := measure.Pair{
		RTT: time.Hour, RTTSource: measure.Measured, Jitter: time.Hour, Queue: -1, LossKnown: true, Loss: 7, LossLow: -1, LossHigh: 9,
		Capacity: math.MaxInt64, CapacitySource: measure.Train, CapacityLow: math.MinInt64 / 2, CapacityHigh: math.MaxInt64, Available: math.MaxInt64, MTU: 1 << 20,
	}
	b, err = AppendLinks(nil, at(0), Facts{Access: measure.Access{Up: math.MaxInt64, UpSource: measure.Measured}}, []Link{{Peer: agentID(1), Pair: beyond}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseLinks(b, at(0)); err != nil || got.Rows[0].RTT > topRTT || got.Rows[0].Loss != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// lie returns a record's body with some bytes of its row changed.
func lie(t *testing.T, p measure.Pair, offset int, with ...byte) []byte {
	t.Helper()
	b, err := AppendLinks(nil, at(0), Facts{Access: measure.Access{Up: 1e6, UpSource: measure.Configured}}, []Link{{Peer: agentID(2), Pair: p}, {Peer: agentID(3), Pair: p}})
	if err != nil {
		t.Fatal(err)
	}
	copy(b[offset:], with)
	return b
}

// An agent that tells what can't be isn't believed a word, and it is counted; it can't
// speak for others.
func TestLiars(t *testing.T) {
	const row = linksHead + factsLen
	known, unknown := full(at(0)), measure.Pair{}
	two, err := AppendLinks(nil, 0, Facts{}, []Link{{Peer: agentID(2)}, {Peer: agentID(3)}})
	if err != nil {
		t.Fatal(err)
	}
	twice := bytes.Clone(two)
	copy(twice[row+rowLen:], twice[row:row+8])
	itself, err := AppendLinks(nil, 0, Facts{}, []Link{{Peer: agentID(1)}})
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{
		"a round trip of hours":          lie(t, known, row+9, 0xff, 0xff),
		"an age without a round trip":    lie(t, unknown, row+11, 1),
		"a jitter of hours":              lie(t, known, row+12, 0xff),
		"a queue of hours":               lie(t, known, row+13, 0xff),
		"more loss than all":             lie(t, known, row+14, 0xff, 0, 0xff),
		"loss below its bound":           lie(t, known, row+14, 1, 9, 20),
		"loss above its bound":           lie(t, known, row+14, 9, 1, 2),
		"loss that isn't known":          lie(t, unknown, row+14, 1, 1, 1),
		"a petabit":                      lie(t, known, row+17, 0xff, 0xff),
		"a capacity from nowhere":        lie(t, unknown, row+17, 1, 1),
		"a source of no capacity":        lie(t, unknown, row+8, byte(measure.Train)<<2),
		"an odd source":                  lie(t, known, row+8, rowLoss|byte(measure.Measured)<<2),
		"a source that isn't":            lie(t, known, row+8, rowLoss|7<<2),
		"a bound of nothing":             lie(t, unknown, row+8, rowBound),
		"a petabit available":            lie(t, known, row+22, 0xff, 0xff),
		"an MTU of nothing":              lie(t, known, row+24, 0, 9),
		"an uplink of a petabit":         lie(t, known, linksHead+1, 0xff, 0xff),
		"an uplink from nowhere":         lie(t, known, linksHead, 0),
		"an uplink of an unknown source": lie(t, known, linksHead, 15),
		"a peer twice":                   twice,
		"itself as a peer":               itself,
		"rows out of order":              append(append(bytes.Clone(two[:row]), two[row+rowLen:]...), two[row:row+rowLen]...),
		"more rows than there are":       lie(t, known, 0, 0, 3),
		"too many rows":                  append(lie(t, known, 0, 0xff, 0xff), make([]byte, 40<<10)...),
		"short rows":                     lie(t, known, 2, leastRowLen-1),
		"short facts":                    lie(t, known, 3, leastFacts-1),
		"nothing":                        {},
	} {
		s := NewStore(agentID(0), testKey(7), 1, Limits{})
		s.Connected(at(0), agentID(1))
		honest := signed(1, KindLinks, version(0), start+100, two)
		lied := signed(1, KindLinks, version(1), start+100, body)
		if err := s.Receive(at(1), agentID(1), message(sectionRecord, honest.Bytes())); err != nil {
			t.Fatal(err)
		}
		err := s.Receive(at(1), agentID(1), message(sectionRecord, lied.Bytes()))
		if err == nil || s.Counters().Malformed != 1 {
			t.Errorf("%s: %v, counted %d", name, err, s.Counters().Malformed)
		}
		if told, _, ok := s.Told(agentID(1)); !ok || len(told.Rows) != 2 {
			t.Errorf("%s: what it said before is gone", name)
		}
	}

	// In another's name.
	s := NewStore(agentID(0), testKey(7), 1, Limits{})
	s.Connected(at(0), agentID(1))
	forged := bytes.Clone(signed(1, KindLinks, version(1), start+100, two).Bytes())
	victim := agentID(2)
	copy(forged[2:], victim[:])
	err = s.Receive(at(1), agentID(1), message(sectionRecord, forged))
	if err == nil || !strings.Contains(err.Error(), "signature") || s.Counters().Signature != 1 {
		t.Errorf("another's name: %v, %+v", err, s.Counters())
	}
	if _, _, ok := s.Told(victim); ok {
		t.Error("it spoke for another")
	}
}

// Rows about agents that nobody has heard of are kept, but not shown.
func TestUnknownPeers(t *testing.T) {
	s := NewStore(agentID(0), testKey(7), 1, Limits{})
	body, err := AppendLinks(nil, 0, Facts{}, []Link{{Peer: agentID(2)}, {Peer: agentID(3)}})
	if err != nil {
		t.Fatal(err)
	}
	s.Load(at(0), [][]byte{signed(1, KindLinks, version(0), start+100, body).Bytes(), member(3, 0).Bytes()})
	if links, ok := s.Links(agentID(1)); !ok || len(links) != 1 || links[0].Peer != agentID(3) {
		t.Errorf("%+v", links)
	}
	for n := range keys {
		id, ok := s.Find(BriefOf(agentID(n)))
		if known := n == 1 || n == 3; ok != known || known && id != agentID(n) {
			t.Errorf("agent %d: %v", n, ok)
		}
	}
	if _, ok := s.Find(math.MaxUint64); ok {
		t.Error("there is nobody")
	}
}

func FuzzParseLinks(f *testing.F) {
	now := at(0)
	b, err := AppendLinks(nil, now, Facts{Access: measure.Access{Up: 5e6, UpSource: measure.Configured}}, []Link{{Peer: agentID(1), Pair: full(now)}, {Peer: agentID(2)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(noLinks)
	f.Fuzz(func(t *testing.T, b []byte) {
		told, err := ParseLinks(b, now)
		if err != nil {
			return
		}
		links := make([]Link, len(told.Rows))
		for i, r := range told.Rows {
			links[i].Pair, links[i].Intent = r.Pair, r.Intent
			for j := range 8 {
				links[i].Peer[j] = byte(r.Peer >> (56 - 8*j))
			}
		}
		c, err := AppendLinks(nil, now, told.Facts, links)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseLinks(c, now); err != nil || !reflect.DeepEqual(again, told) {
			t.Fatalf("%+v comes back as %+v, %v", told, again, err)
		}
	})
}
