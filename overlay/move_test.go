package overlay

import (
	"container/heap"
	"math/rand/v2"
	"testing"
	"time"
)

// A claimWorld is agents that tell each other claims, with delay, loss and duplicates. Agent i
// is AgentPlace(i) to others and PortPlace(0) to itself; the lower goes first.
type claimWorld struct {
	t      *testing.T
	rng    *rand.Rand
	now    Instant
	events claimEvents
	order  int
	agents []*Stations
	loss   float64
}

type claimEvent struct {
	at    Instant
	order int
	do    func()
}

type claimEvents []claimEvent

func (q claimEvents) Len() int { return len(q) }
func (q claimEvents) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q claimEvents) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *claimEvents) Push(x any)   { *q = append(*q, x.(claimEvent)) }
func (q *claimEvents) Pop() any {
	x := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return x
}

func newClaimWorld(t *testing.T, seed uint64, agents int, loss float64) *claimWorld {
	w := &claimWorld{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: Instant(time.Hour), loss: loss}
	for range agents {
		w.agents = append(w.agents, new(Stations))
	}
	return w
}

func (w *claimWorld) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.events, claimEvent{w.now.Add(d), w.order, do})
}

func (w *claimWorld) run(until Instant) {
	for len(w.events) > 0 && w.events[0].at <= until {
		e := heap.Pop(&w.events).(claimEvent)
		w.now = e.at
		e.do()
	}
	w.now = until
}

// speak has the station send a frame at agent i, which all others hear of, if nothing is lost.
func (w *claimWorld) speak(i int, m MAC) {
	switch w.agents[i].Learn(w.now, m, PortPlace(0)) {
	case LearnedNew, LearnedMove:
		w.agents[i].Claim(m)
		w.tell(i, m, 0)
	}
	for j := range w.agents {
		w.send(j != i, func() { w.agents[j].Learn(w.now, m, AgentPlace(i)) })
	}
}

func (w *claimWorld) send(ok bool, do func()) {
	for ok && w.rng.Float64() >= w.loss {
		w.after(time.Duration(5+w.rng.IntN(150))*time.Millisecond, do)
		ok = w.rng.IntN(10) == 0 // twice
	}
}

func (w *claimWorld) tell(i int, m MAC, times int) {
	if seq := w.agents[i].Claimed(m); seq != 0 {
		for j := range w.agents {
			w.send(j != i, func() { w.take(j, i, Claim{MAC: m, Sequence: seq}, false) })
		}
	}
	if again := []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second}; times < len(again) {
		w.after(again[times], func() { w.tell(i, m, times+1) })
	}
}

func (w *claimWorld) take(at, from int, c Claim, answer bool) {
	first := func(other Place) bool {
		j, ok := other.Agent()
		return ok && from < j || !ok && from < at
	}
	switch w.agents[at].TakeClaim(w.now, c, AgentPlace(from), answer, first) {
	case LearnedOlder:
		if seq := w.agents[at].Claimed(c.MAC); !answer {
			w.send(true, func() { w.take(from, at, Claim{MAC: c.MAC, Sequence: seq}, true) })
		}
	case LearnedAgain:
		w.agents[at].Claim(c.MAC)
		w.tell(at, c.MAC, 0)
	}
}

// owners returns how many tables say of m that it is elsewhere than at agent i.
func (w *claimWorld) wrong(i int, m MAC) (n int) {
	for j, s := range w.agents {
		want := AgentPlace(i)
		if j == i {
			want = PortPlace(0)
		}
		if p, ok := s.Lookup(w.now, m); !ok || p != want {
			n++
		}
	}
	return n
}

// Whatever is lost, late and doubled, all soon know where a station is that moves about, also
// one that nobody or not everybody knew of.
func TestStationsAgree(t *testing.T) {
	for seed := range uint64(300) {
		w := newClaimWorld(t, seed, 2+int(seed%7), []float64{0, 0.1, 0.3}[seed%3])
		m, at := mac(1), 0
		for range 1 + w.rng.IntN(6) {
			at = w.rng.IntN(len(w.agents))
			for range 1 + w.rng.IntN(5) {
				w.speak(at, m)
				w.run(w.now.Add(time.Duration(1+w.rng.IntN(300)) * time.Millisecond))
			}
			w.run(w.now.Add(time.Duration(w.rng.IntN(60)) * time.Second))
		}
		last := w.now
		for range 20 {
			w.speak(at, m)
			w.run(w.now.Add(500 * time.Millisecond))
		}
		if n := w.wrong(at, m); n > 0 {
			t.Errorf("seed %d: %d of %d agents don't know where the station is %v after it moved", seed, n, len(w.agents), w.now.Sub(last))
		}
	}
}

// Where nothing is lost, one frame is enough, whatever came before.
func TestStationMovesAtOnce(t *testing.T) {
	for seed := range uint64(100) {
		w := newClaimWorld(t, seed, 5, 0)
		m := mac(1)
		w.speak(0, m)
		w.run(w.now.Add(time.Minute))
		w.speak(3, m)
		w.speak(0, mac(2)) // others' frames change nothing
		w.run(w.now.Add(160 * time.Millisecond))
		if n := w.wrong(3, m); n > 0 {
			t.Errorf("seed %d: %d agents don't know", seed, n)
		}
	}
}

// An agent that has forgotten, or never known, that others claimed a station gets it all the
// same: who has it answers, and the claim is made again with a higher number.
func TestStationMovesToNewcomer(t *testing.T) {
	w := newClaimWorld(t, 1, 4, 0)
	m := mac(1)
	for i := range 3 {
		w.speak(i, m)
		w.run(w.now.Add(time.Minute))
	}
	w.agents[3] = new(Stations)
	w.speak(3, m)
	w.run(w.now.Add(time.Second))
	if n := w.wrong(3, m); n > 0 {
		t.Errorf("%d agents don't know", n)
	}
}

// Two machines with one address: after five moves nobody follows any more, and it is told.
func TestStationTwice(t *testing.T) {
	w := newClaimWorld(t, 1, 3, 0)
	m := mac(1)
	for range 200 {
		w.speak(0, m)
		w.run(w.now.Add(200 * time.Millisecond))
		w.speak(1, m)
		w.run(w.now.Add(200 * time.Millisecond))
	}
	for i, s := range w.agents {
		all := s.List()
		if len(all) != 1 || all[0].Moves > twiceMoves+1 {
			t.Errorf("agent %d: %+v", i, all)
		}
		if twice := s.Twice(w.now.Add(-80 * time.Second)); len(twice) != 1 {
			t.Errorf("agent %d doesn't tell it", i)
		}
	}
	w.run(w.now.Add(twiceTime))
	w.speak(2, m) // one was turned off, and the other moved
	w.run(w.now.Add(time.Second))
	if n := w.wrong(2, m); n > 0 {
		t.Errorf("%d agents don't know where the one that is left is", n)
	}
}

// Frames that are late don't bring a station back, but where no claim says otherwise they are
// followed, and a claim that nobody keeps up is believed no longer than doubtTime.
func TestLateFrames(t *testing.T) {
	var s Stations
	now := Instant(time.Hour)
	none := func(Place) bool { return false }
	s.TakeClaim(now, Claim{MAC: mac(1), Sequence: 1}, AgentPlace(1), false, none)
	s.TakeClaim(now, Claim{MAC: mac(1), Sequence: 2}, AgentPlace(2), false, none)
	at := func(want int) {
		t.Helper()
		if p, _ := s.Lookup(now, mac(1)); p != AgentPlace(want) {
			t.Errorf("it is at %x, want agent %d", p, want)
		}
	}
	s.Learn(now, mac(1), AgentPlace(1))
	at(2)
	for range 29 { // while it speaks there, too, that is an echo
		now = now.Add(doubtTime / 10)
		s.Learn(now, mac(1), AgentPlace(1))
		s.Learn(now, mac(1), AgentPlace(2))
		at(2)
	}
	for range 11 {
		now = now.Add(doubtTime / 10)
		s.Learn(now, mac(1), AgentPlace(1))
	}
	at(1)
}

// What comes for a station that has just left is sent after it, and not for ever.
func TestLate(t *testing.T) {
	s := Switch{LAN: make([]bool, 1)}
	now := Instant(time.Hour)
	port, source := NewSource(false), NewSource(false)
	s.Forward(now, PortPlace(0), eth(Broadcast, mac(1)), &port)
	s.Stations.TakeClaim(now, Claim{MAC: mac(1), Sequence: 7}, AgentPlace(2), false, func(Place) bool { return false })
	if to, v := s.Forward(now, AgentPlace(1), eth(mac(1), mac(9)), &source); v != ToPlace || to != AgentPlace(2) {
		t.Errorf("it goes to %x: %v", to, v)
	}
	if _, v := s.Forward(now, AgentPlace(2), eth(mac(1), mac(8)), &source); v != DropSame {
		t.Errorf("it goes back: %v", v)
	}
	now = now.Add(lateTime)
	if _, v := s.Forward(now, AgentPlace(1), eth(mac(1), mac(9)), &source); v != DropTransit {
		t.Errorf("it still goes after it: %v", v)
	}
}

// Numbers go round, so whatever was claimed, a higher one can be.
func TestClaimNumbers(t *testing.T) {
	for _, c := range []struct {
		a, b uint32
		want bool
	}{{1, 0, true}, {0, 1, false}, {2, 1, true}, {1, 1, false}, {1, 1<<32 - 1, true}, {1<<32 - 1, 1, false}, {1 << 30, 1, true}} {
		if got := newer(c.a, c.b); got != c.want {
			t.Errorf("%d after %d: %v", c.a, c.b, got)
		}
	}
	if after(1<<32-1) != 1 || after(0) != 1 {
		t.Error("0 is a number")
	}
	for _, seq := range []uint32{1, 1 << 31, 1<<32 - 1} {
		if !newer(after(seq), seq) {
			t.Errorf("nothing is after %d", seq)
		}
	}
}

func FuzzClaims(f *testing.F) {
	f.Add(AppendClaims(nil, []Claim{{MAC: mac(1), Sequence: 1}, {MAC: mac(2), Sequence: 1<<32 - 1}}, true))
	f.Add(append(AppendClaims(nil, []Claim{{MAC: mac(1)}}, false), make([]byte, 30)...))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if !IsClaims(frame) {
			return
		}
		claims, answer, ok := ParseClaims(frame, nil)
		if !ok || len(claims) == 0 {
			return
		}
		again, a, ok := ParseClaims(AppendClaims(nil, claims, answer), nil)
		if !ok || a != answer || len(again) != len(claims) || len(claims) > MaxClaims {
			t.Errorf("%v became %v", claims, again)
		}
		var s Stations
		for _, c := range claims {
			if c.MAC.Group() || c.Sequence == 0 {
				t.Errorf("%v is claimed", c)
			}
			s.TakeClaim(Instant(time.Hour), c, AgentPlace(0), answer, func(Place) bool { return true })
		}
	})
}
