package overlay

import (
	"net/netip"
	"testing"
	"time"
)

// A tally counts what handshakes cost: each initiation that is made, each answer that is
// made to one, and each session that is made of an answer takes about as long. To send
// one again costs nothing beside that.
type tally struct {
	asked, answered map[[32]byte]bool // by their ephemeral keys
	finished        map[*Session]bool
	repeated        int
}

func newTally() *tally {
	return &tally{make(map[[32]byte]bool), make(map[[32]byte]bool), make(map[*Session]bool), 0}
}

func (y *tally) sent(d []byte) {
	if y == nil {
		return
	}
	by := y.asked
	if kind, _ := ParseKind(d); kind == KindResponse {
		by = y.answered
	}
	key := [32]byte(d[noiseStart:])
	if by[key] {
		y.repeated++
	}
	by[key] = true
}

func (y *tally) live(s *Session) {
	if y != nil && s.Initiator() {
		y.finished[s] = true
	}
}

// each returns how many handshakes' worth of work were done for each of some pairs.
func (y *tally) each(pairs int) float64 {
	return float64(len(y.asked)+len(y.answered)+len(y.finished)) / 3 / float64(pairs)
}

// Everybody meets everybody at about the same time, on machines that have so much to do
// that answers take seconds: one of two begins, and only once.
func TestCrowdShakesHandsOnce(t *testing.T) {
	const agents, pairs = 10, 10 * 9 / 2
	for _, c := range []struct {
		name  string
		round time.Duration // the shortest one that a machine works in, the longest takes thrice as long
		loss  float64
		most  float64 // handshakes for a pair
	}{
		{"idle", 0, 0, 1},
		{"lossy", 0, 0.1, 1.1},
		{"busy", 500 * time.Millisecond, 0, 1.1},
		{"busy and lossy", 500 * time.Millisecond, 0.1, 1.15},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(2) {
				w := newWorld(t, seed, agents)
				w.loss, w.shaken = c.loss, newTally()
				for _, a := range w.agents {
					if c.round > 0 {
						a.round = func() time.Duration { return c.round + time.Duration(w.rand.Int64N(int64(2*c.round))) }
					}
				}
				w.meet(time.Second)
				w.run(20 * time.Second)
				w.mustReach()
				y := w.shaken
				t.Logf("seed %d: %d initiations, %d answers and %d sessions made for %d pairs: %.2f each; %d datagrams were sent again",
					seed, len(y.asked), len(y.answered), len(y.finished), pairs, y.each(pairs), y.repeated)
				if e := y.each(pairs); e > c.most {
					t.Errorf("seed %d: %.2f handshakes for a pair, more than %.2f", seed, e, c.most)
				}
			}
		})
	}
}

// meet tells everybody of everybody else, each at some time within d.
func (w *world) meet(d time.Duration) {
	type news struct {
		at    Instant
		a, of *resident
	}
	var all []news
	for _, a := range w.agents {
		for _, b := range w.agents {
			all = append(all, news{w.now.Add(time.Duration(w.rand.Int64N(int64(d)))), a, b})
		}
	}
	for end := w.now.Add(d); w.now.Before(end); w.run(10 * time.Millisecond) {
		for _, n := range all {
			if n.at < w.now || n.at >= w.now.Add(10*time.Millisecond) {
				continue
			}
			if err := n.a.s.Know(w.now, n.of.id, n.of.static.Public, []netip.AddrPort{n.of.addr}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// Keys are renewed by one of two, once each RekeyAfter, also where both met at the same
// time or answers are late.
func TestKeysAreRenewedOnce(t *testing.T) {
	const agents, pairs, times = 3, 3, 4
	for seed := range uint64(4) {
		w := newWorld(t, seed, agents)
		if seed%2 == 1 {
			w.delay = 400 * time.Millisecond
		}
		w.introduce()
		if seed >= 2 {
			for _, a := range w.agents {
				for _, b := range w.agents {
					a.s.Renew(w.now, b.id) // both begin
				}
			}
		}
		w.run(10 * time.Second)
		w.mustReach()
		w.shaken = newTally()
		for _, a := range w.agents {
			a.s.Live(func(l Live) { w.shaken.finished[l.Session] = true })
		}
		before := len(w.shaken.finished)
		w.run(times * RekeyAfter)
		w.mustReach()
		y := w.shaken
		each := float64(len(y.asked)+len(y.answered)+len(y.finished)-before) / 3 / pairs
		t.Logf("seed %d: keys were renewed %.2f times within %v", seed, each, times*RekeyAfter)
		if each > times || each < times-1 {
			t.Errorf("seed %d: keys were renewed %.2f times within %v", seed, each, times*RekeyAfter)
		}
	}
}
