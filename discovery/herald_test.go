package discovery

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"farlan/overlay"
)

// A stage is some heralds on links, in a time of its own. What one sends on a link
// all hear who are on it, the sender too.
type stage struct {
	t       *testing.T
	now     overlay.Instant
	heralds []*Herald
	deaf    map[int]bool
	sent    []sentBeacon
	news    map[int][]Beacon // what each heard
}

type sentBeacon struct {
	at   time.Duration
	from int
	ask  bool
}

func newStage(t *testing.T, count int) *stage {
	s := &stage{t: t, now: beaconTime, news: make(map[int][]Beacon), deaf: make(map[int]bool)}
	for i := range count {
		h, err := NewHerald(beaconAgent(byte(i+1)), testKey(7), rand.NewChaCha8([32]byte{byte(i), 3}))
		if err != nil {
			t.Fatal(err)
		}
		s.heralds = append(s.heralds, h)
	}
	return s
}

// run lets time pass in steps of 5 ms.
func (s *stage) run(d time.Duration) {
	for end := s.now.Add(d); s.now.Before(end); s.now = s.now.Add(5 * time.Millisecond) {
		for i, h := range s.heralds {
			h.Tick(s.now, func(link int, ask bool) { s.speak(i, link, ask) })
			if next := h.Next(); next != 0 && !s.now.Before(next) {
				s.t.Fatalf("herald %d wants to speak again at once", i)
			}
		}
	}
}

func (s *stage) speak(from, link int, ask bool) {
	s.sent = append(s.sent, sentBeacon{s.now.Sub(beaconTime), from, ask})
	all, err := s.heralds[from].Beacon(s.now, ask, []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4747")})
	if err != nil {
		s.t.Fatal(err)
	}
	for i, h := range s.heralds {
		if _, on := h.find(link); on && !s.deaf[i] {
			for _, d := range all {
				if b, ok := h.Receive(s.now, s.now, link, d); ok {
					s.news[i] = append(s.news[i], b)
				}
			}
		}
	}
}

// by returns when a herald spoke since some time.
func (s *stage) by(from int, since time.Duration) (at []time.Duration) {
	for _, b := range s.sent {
		if b.from == from && b.at >= since {
			at = append(at, b.at)
		}
	}
	return at
}

func TestHeraldAlone(t *testing.T) {
	s := newStage(t, 1)
	s.heralds[0].Join(s.now, 4)
	s.run(5 * time.Minute)
	at := s.by(0, 0)
	for i, want := range burst {
		if d := at[i] - at[0] - want; d < 0 || d > 10*time.Millisecond {
			t.Errorf("beacon %d after %v, want %v", i, at[i]-at[0], want)
		}
	}
	gaps := map[time.Duration]bool{}
	for i := len(burst); i < len(at); i++ {
		gap := at[i] - at[i-1]
		if gaps[gap] = true; gap < beaconEvery-beaconJitter || gap > beaconEvery+beaconJitter+5*time.Millisecond {
			t.Errorf("a gap of %v", gap)
		}
	}
	if len(at) < len(burst)+8 || len(gaps) < 3 {
		t.Errorf("%d beacons with gaps %v", len(at), gaps)
	}
	for _, b := range s.sent {
		if !b.ask {
			t.Errorf("at %v it doesn't ask, though it heard nobody", b.at)
		}
	}
	if n := s.heralds[0].Heard(s.now); n != 0 || len(s.news) != 0 {
		t.Errorf("it heard %d others: itself", n)
	}
}

func TestNewcomerIsAnswered(t *testing.T) {
	const settled = 40
	s := newStage(t, settled+1)
	for _, h := range s.heralds[:settled] {
		h.Join(s.now, 1)
	}
	s.run(time.Minute)
	came := s.now.Sub(beaconTime)
	sent := len(s.sent)
	s.heralds[settled].Join(s.now, 1)
	s.run(500 * time.Millisecond)
	if len(s.news[settled]) == 0 {
		t.Fatal("nobody answered within 0.5 s")
	}
	answers := 0
	for _, b := range s.sent[sent:] {
		if b.from != settled && !b.ask {
			answers++
		}
	}
	// One that is due anyhow may come in between, and those who answer at the very
	// same time don't hear each other.
	if answers < 1 || answers > enoughAnswers+3 {
		t.Errorf("%d of %d answered", answers, settled)
	}
	for i := range settled {
		if !slices.ContainsFunc(s.news[i], func(b Beacon) bool { return b.Agent == beaconAgent(settled+1) }) {
			t.Errorf("%d wasn't told of the newcomer", i)
		}
	}
	s.run(4 * time.Second)
	for i := range settled {
		last := time.Duration(-1)
		for _, at := range s.by(i, came) {
			if last >= 0 && at-last < answerEvery {
				t.Errorf("%d spoke %v after it spoke", i, at-last)
			}
			last = at
		}
	}
}

func TestTwoOnly(t *testing.T) {
	s := newStage(t, 2)
	s.heralds[0].Join(s.now, 1)
	s.run(10 * time.Second)
	came := s.now.Sub(beaconTime)
	s.heralds[1].Join(s.now, 1)
	s.run(250 * time.Millisecond)
	if at := s.by(0, came); len(at) != 1 || len(s.news[0]) != 1 || len(s.news[1]) != 1 {
		t.Errorf("answered at %v, %d and %d told", at, len(s.news[0]), len(s.news[1]))
	}
	s.run(3 * time.Minute)
	if n := len(s.by(1, came)); n > len(burst)+8 {
		t.Errorf("%d beacons of the newcomer: they answer each other", n)
	}
}

// What is repeated has no effect, and news are told at once.
func TestHeraldReceive(t *testing.T) {
	s := newStage(t, 1)
	h := s.heralds[0]
	h.Join(s.now, 1)
	s.run(10 * time.Second)
	seal := NewBeaconSeal(testKey(7))
	nonce := byte(0)
	make1 := func(b Beacon) []byte {
		nonce++
		d, err := seal.Seal(s.now, [beaconNonceLen]byte{nonce}, b)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	first := testBeacon(9, "192.0.2.9:4747")
	again, moved := first, testBeacon(9, "192.0.2.10:4747")
	again.Session++
	mine := testBeacon(1)
	ask := testBeacon(8)
	ask.Ask = true
	recorded := make1(ask)
	for _, c := range []struct {
		name  string
		after time.Duration
		d     []byte
		told  bool
	}{
		{"first", 0, make1(first), true},
		{"the same a second later", time.Second, make1(first), false},
		{"elsewhere", 0, make1(moved), true},
		{"where it was", 0, make1(first), true},
		{"started again", 0, make1(again), true},
		{"after a while", tellEvery, make1(again), true},
		{"with our own identity", 0, make1(mine), false},
		{"one that asks", 0, recorded, true},
		{"a stranger", 0, bytes.Repeat([]byte{7}, BeaconLen), false},
	} {
		s.now = s.now.Add(c.after)
		if _, ok := h.Receive(s.now, s.now, 1, c.d); ok != c.told {
			t.Errorf("%s: told %v", c.name, ok)
		}
	}
	s.run(time.Second)
	sent := len(s.sent)
	for range 20 { // somebody recorded one that asks
		if _, ok := h.Receive(s.now, s.now, 1, recorded); ok {
			t.Error("told again of what was recorded")
		}
		s.run(100 * time.Millisecond)
	}
	if len(s.sent) != sent {
		t.Errorf("%d answers to what was recorded", len(s.sent)-sent)
	}
	if _, ok := h.Receive(s.now, s.now.Add(2*BeaconSkew), 1, make1(ask)); ok {
		t.Error("told by a clock that is far off")
	}
	if got, want := h.Counters(), (HeraldCounters{Strangers: 1, Late: 1, Repeated: 20}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

func TestHeraldIsBounded(t *testing.T) {
	s := newStage(t, 1)
	h := s.heralds[0]
	for i := range MaxBeaconLinks + 10 {
		if ok := h.Join(s.now, i); ok != (i < MaxBeaconLinks) {
			t.Fatalf("link %d: %v", i, ok)
		}
	}
	h.Leave(3)
	h.Leave(3)
	if !h.Join(s.now, 1000) {
		t.Error("no room after one has left")
	}
	seal := NewBeaconSeal(testKey(7))
	for i := range maxHeard + 50 {
		var id overlay.AgentID
		copy(id[:], fmt.Sprintf("%032d", i))
		d, err := seal.Seal(s.now, [beaconNonceLen]byte(fmt.Appendf(nil, "%08d%016d", i, 0)), Beacon{Agent: id, Session: 1})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := h.Receive(s.now.Add(time.Duration(i)), s.now, 1, d); !ok {
			t.Fatalf("not told of agent %d", i)
		}
	}
	if len(h.heard) != maxHeard {
		t.Errorf("%d are remembered", len(h.heard))
	}
}

func TestHeraldLeaves(t *testing.T) {
	s := newStage(t, 1)
	h := s.heralds[0]
	h.Join(s.now, 1)
	s.run(time.Minute)
	h.Leave(1)
	sent := len(s.sent)
	s.run(time.Minute)
	if len(s.sent) != sent || h.Next() != 0 {
		t.Error("it speaks on a link that it has left")
	}
	back := s.now.Sub(beaconTime)
	h.Join(s.now, 1)
	s.run(5 * time.Second)
	if n := len(s.by(0, back)); n != len(burst) {
		t.Errorf("%d beacons when the link is back, want %d", n, len(burst))
	}
}

// While the network changes its key, agents that know one key hear those that know
// both, and are heard by them.
func TestHeraldKeys(t *testing.T) {
	older, newer := testKey(7), testKey(8)
	wall := beaconTime
	addrs := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4747")}
	herald := func(n byte, keys ...NetworkKey) *Herald {
		h, err := NewHerald(beaconAgent(n), keys[0], rand.NewChaCha8([32]byte{n, 9}))
		if err != nil {
			t.Fatal(err)
		}
		h.SetKeys(keys...)
		h.Join(wall, 1)
		return h
	}
	both, old, fresh, after := herald(1, newer, older), herald(2, older), herald(3, newer), herald(4, newer)
	hears := func(to, from *Herald) (heard bool) {
		all, err := from.Beacon(wall, true, addrs)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range all {
			_, ok := to.Receive(wall, wall, 1, d)
			heard = heard || ok
		}
		return heard
	}
	for name, c := range map[string]struct {
		to, from *Herald
		want     bool
	}{
		"both, old": {both, old, true}, "old, both": {old, both, true},
		"both, new": {both, fresh, true}, "new, both": {fresh, both, true},
		"old, new": {old, fresh, false}, "afterwards": {after, old, false},
	} {
		if got := hears(c.to, c.from); got != c.want {
			t.Errorf("%s: heard is %v", name, got)
		}
	}
}
