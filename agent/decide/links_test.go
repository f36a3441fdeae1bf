package decide

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/mesh"
)

const start = overlay.Instant(1_800_000_000 * int64(time.Second))

func agentID(i int) (id overlay.AgentID) {
	binary.BigEndian.PutUint64(id[:], uint64(i+1)<<32)
	return id
}

// A village is some agents whose records reach all at once, 10 ms from each other.
type village struct {
	t      *testing.T
	now    overlay.Instant
	links  []*Links
	down   map[int]bool // who doesn't run
	lost   func(from, to int) bool
	sent   int
	broken func(a, b int) bool // which links don't work
}

func newVillage(t *testing.T, n int) *village {
	v := &village{t: t, now: start, down: map[int]bool{}, lost: func(int, int) bool { return false }, broken: func(int, int) bool { return false }}
	for i := range n {
		v.links = append(v.links, NewLinks(agentID(i)))
	}
	return v
}

func index(id overlay.AgentID) int { return int(binary.BigEndian.Uint64(id[:])>>32) - 1 }

// told is what all tell.
func (v *village) told() (all []Told) {
	for i, l := range v.links {
		t := Told{ID: agentID(i), At: v.now}
		if v.down[i] {
			continue
		}
		for _, k := range l.Kept() {
			if !v.broken(i, index(k.Peer)) && !v.down[index(k.Peer)] {
				t.Rows = append(t.Rows, discovery.Row{Peer: discovery.BriefOf(k.Peer), Pair: measure.Pair{RTT: 10 * time.Millisecond, RTTSource: measure.Measured}, Intent: k.Intent})
			}
		}
		all = append(all, t)
	}
	return all
}

func (v *village) step(i int, told []Told) {
	epoch := EpochOf(v.now)
	p, err := NewPicture(1, epoch, agentID(i), told)
	if err != nil {
		v.t.Fatal(err)
	}
	var measured []Measured
	for j := range v.links {
		if j != i && !v.down[j] {
			measured = append(measured, Measured{agentID(j), CandidateCost(10 * time.Millisecond)})
		}
	}
	v.links[i].Step(v.now, epoch, p, measured, nil)
}

// carry carries messages until there are none.
func (v *village) carry() {
	for busy := true; busy; {
		busy = false
		for i, l := range v.links {
			l.Flush(func(to overlay.AgentID, msg []byte) {
				busy = true
				v.sent++
				if j := index(to); !v.down[i] && !v.down[j] && !v.lost(i, j) {
					if err := v.links[j].Receive(v.now, agentID(i), msg); err != nil {
						v.t.Error(err)
					}
				}
			})
		}
	}
}

// epoch lets all decide by what was told before, and goes on to the next one.
func (v *village) epoch() {
	told := v.told()
	for i := range v.links {
		if !v.down[i] {
			v.step(i, told)
		}
	}
	v.carry()
	for range 10 {
		v.now = v.now.Add(time.Second)
		for i, l := range v.links {
			if next := l.Tick(v.now); next != 0 && next <= v.now {
				v.t.Errorf("agent %d wants to be called at %v, it is %v", i, next, v.now)
			}
		}
		v.carry()
	}
}

// agree checks that both ends of all links keep them.
func (v *village) agree() {
	v.t.Helper()
	for i, l := range v.links {
		for _, k := range l.Kept() {
			j := index(k.Peer)
			other := v.links[j].Kept()
			at := slices.IndexFunc(other, func(o Kept) bool { return o.Peer == agentID(i) })
			if at < 0 || other[at].Accepts != k.Holds || other[at].Holds != k.Accepts {
				v.t.Errorf("agent %d keeps %+v, its peer %+v", i, k, other)
			}
		}
	}
}

func (v *village) degrees() (all []int) {
	for _, l := range v.links {
		all = append(all, len(l.Kept()))
	}
	return all
}

// Few agents link with all, many with some, and lost messages only delay that.
func TestLinksAreMade(t *testing.T) {
	for _, c := range []struct {
		agents, epochs int
		loses          int // each so-manieth message is lost
		least, most    int
	}{
		{2, 1, 0, 1, 1},
		{6, 1, 0, 5, 5},
		{6, 4, 3, 5, 5},
		{16, 1, 0, 15, 15},
		{40, 12, 0, 3, 12},
		{40, 16, 3, 3, 12},
	} {
		v := newVillage(t, c.agents)
		if c.loses > 0 {
			v.lost = func(int, int) bool { return v.sent%c.loses == 0 }
		}
		for range c.epochs {
			v.epoch()
		}
		v.lost = func(int, int) bool { return false }
		for range heldEpochs + 1 { // by then all have noticed what was lost
			v.epoch()
		}
		v.agree()
		if d := v.degrees(); slices.Min(d) < c.least || slices.Max(d) > c.most {
			t.Errorf("%d agents, each %d. message lost: links %v", c.agents, c.loses, d)
		}
		if k := v.links[0].Kept()[0]; k.Why == 0 && k.TheyWhy == 0 {
			t.Errorf("nobody says why: %+v", k)
		}
	}
}

// An agent that begins anew knows by its own record which links it held, and its peers keep
// what they hold.
func TestLinksOfAnEarlierLife(t *testing.T) {
	v := newVillage(t, 6)
	for range 3 {
		v.epoch()
	}
	told := v.told()
	was := v.links[2].Kept()
	v.links[2] = NewLinks(agentID(2))
	v.step(2, told)
	v.carry()
	is := v.links[2].Kept()
	if len(is) != len(was) {
		t.Fatalf("%d links of %d are taken up", len(is), len(was))
	}
	for i, k := range is {
		if k.Holds != was[i].Holds || k.Accepts != was[i].Accepts {
			t.Errorf("%+v was %+v", k, was[i])
		}
	}
	// With its record lost, too, its peers ask for theirs again.
	v.links[2] = NewLinks(agentID(2))
	for range 2 {
		v.epoch()
	}
	v.agree()
	if d := v.degrees(); slices.Min(d) != 5 {
		t.Errorf("links %v", d)
	}
}

// What isn't agreed on is forgotten: a link whose holder doesn't tell of it, one that
// doesn't come up, and one whose peer is gone.
func TestLinksAreForgotten(t *testing.T) {
	v := newVillage(t, 3)
	v.epoch()
	v.epoch()
	v.down[2] = true
	for range heldEpochs + 2 {
		v.epoch()
	}
	for i := range 2 {
		if k := v.links[i].Kept(); len(k) != 1 {
			t.Errorf("agent %d still keeps %+v", i, k)
		}
	}
	v.broken = func(a, b int) bool { return true }
	for range 8 {
		v.epoch()
	}
	for i := range 2 {
		if k := v.links[i].Kept(); len(k) != 0 {
			t.Errorf("agent %d keeps %+v, which doesn't work", i, k)
		}
	}
	// The peer asked, was accepted, and never says that it holds the link.
	v = newVillage(t, 2)
	v.broken = func(a, b int) bool { return true }
	asker := slices.IndexFunc([]int{0, 1}, func(i int) bool { v.step(i, v.told()); return len(v.links[i].out) > 0 })
	v.step(1-asker, v.told())
	v.carry()
	v.down[asker] = true
	v.now = v.now.Add(Epoch)
	for i := range heldEpochs + 1 {
		if n := len(v.links[1-asker].Kept()); (n == 1) != (i < heldEpochs) {
			t.Errorf("%d links after %d epochs", n, i)
		}
		v.epoch()
	}
}

// Asks are repeated a second, then three later, and then left to the next epoch.
func TestAsksAreRepeated(t *testing.T) {
	v := newVillage(t, 2)
	v.lost = func(int, int) bool { return true }
	told := v.told()
	v.step(0, told)
	v.step(1, told)
	var at []time.Duration
	for v.now < start.Add(9*time.Second) {
		before := v.sent
		for _, l := range v.links {
			l.Tick(v.now)
		}
		if v.carry(); v.sent > before {
			at = append(at, v.now.Sub(start))
		}
		v.now = v.now.Add(100 * time.Millisecond)
	}
	if want := []time.Duration{0, time.Second, 3 * time.Second}; !slices.Equal(at, want) {
		t.Errorf("asked after %v, want %v", at, want)
	}
	if c := v.links[0].Counters().Unanswered + v.links[1].Counters().Unanswered; c != 1 {
		t.Errorf("%d unanswered", c)
	}
	v.now = start.Add(Epoch)
	v.lost = func(int, int) bool { return false }
	v.epoch()
	v.agree()
	if d := v.degrees(); d[0] != 1 {
		t.Errorf("links %v", d)
	}
}

// A clock that jumps back doesn't stop decisions.
func TestLinksAfterAJump(t *testing.T) {
	v := newVillage(t, 30)
	for range 12 {
		v.epoch()
	}
	before := v.links[3].epoch
	p, err := NewPicture(1, before-360, agentID(3), v.told())
	if err != nil {
		t.Fatal(err)
	}
	kept, chooser := len(v.links[3].Kept()), v.links[3].chooser
	v.links[3].Step(v.now, before-1, p, nil, nil)
	if l := v.links[3]; l.epoch != before || l.chooser != chooser {
		t.Error("a clock that is set right by a little begins all anew")
	}
	v.links[3].Step(v.now, before-360, p, nil, nil)
	v.carry()
	if l := v.links[3]; l.epoch != before-360 || len(l.Kept()) < kept-1 {
		t.Errorf("epoch %d, %d links of %d", l.epoch, len(l.Kept()), kept)
	}
}

// That a link will be given up for another one is told once there is this other one:
// exchanges that a peer refuses, or doesn't answer, nobody hears of.
func TestLeavingIsToldOnceAgreed(t *testing.T) {
	v := newVillage(t, 40)
	begun, told := 0, 0
	look := func() {
		for _, l := range v.links {
			for _, x := range l.links {
				if x.leaving {
					begun++
				}
			}
			for _, k := range l.Kept() {
				i, _ := l.find(k.Peer)
				if !k.Leaving {
					continue
				}
				told++
				heir := l.links[i].heir
				if !slices.ContainsFunc(l.Kept(), func(o Kept) bool { return o.Peer == heir && o.Holds }) {
					t.Errorf("a link is told to go, the one instead isn't there: %+v", l.links[i])
				}
			}
		}
	}
	for range 14 {
		v.epoch()
		look()
	}
	if told == 0 || told > begun {
		t.Errorf("%d exchanges were begun, %d told", begun, told)
	}
	v.lost = func(int, int) bool { return true }
	begun, told = 0, 0
	for _, l := range v.links { // places are new, so that exchanges are begun
		l.chooser = mesh.New(l.self)
	}
	for range 12 {
		v.epoch()
		look()
	}
	if begun == 0 || told > 0 {
		t.Errorf("%d exchanges were begun that nobody answers, %d told", begun, told)
	}
}
