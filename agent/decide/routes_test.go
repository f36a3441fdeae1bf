package decide

import (
	"slices"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// A small world of agents a, b, c …, as a sees it.
type world struct {
	t    *testing.T
	r    *Routes
	now  overlay.Instant
	told map[byte]*Told
	own  map[byte]discovery.Link
	load map[byte]int64
}

func newWorld(t *testing.T, agents string) *world {
	w := &world{t: t, r: NewRoutes(idOf('a')), now: overlay.Instant(time.Hour), told: make(map[byte]*Told), own: make(map[byte]discovery.Link), load: make(map[byte]int64)}
	for _, name := range []byte(agents[1:]) {
		w.told[name] = &Told{ID: idOf(name), At: w.now}
	}
	return w
}

func idOf(name byte) overlay.AgentID { return overlay.AgentID{name, name} }

// link sets both directions of a link: what is left of it in Mbit/s, 0 unknown.
func (w *world) link(x, y byte, rtt time.Duration, left int64) *world {
	pair := measure.Pair{RTT: rtt, RTTSource: measure.Measured, MTU: 1500}
	for _, d := range [][2]byte{{x, y}, {y, x}} {
		l := discovery.Link{Peer: idOf(d[1]), Pair: pair, Intent: discovery.Intent{Left: left * 1_000_000}}
		if d[0] == 'a' {
			w.own[d[1]] = l
			continue
		}
		t := w.told[d[0]]
		t.Rows = slices.DeleteFunc(t.Rows, func(r discovery.Row) bool { return r.Peer == discovery.BriefOf(l.Peer) })
		t.Rows = append(t.Rows, discovery.Row{Peer: discovery.BriefOf(l.Peer), Pair: l.Pair, Intent: l.Intent})
		t.At = w.now
	}
	return w
}

// after lets time pass and decides anew each second.
func (w *world) after(d time.Duration) *world {
	for ; d >= 0; d -= time.Second {
		var in Input
		in.Now = w.now
		for _, t := range w.told {
			in.Told = append(in.Told, *t)
		}
		for _, l := range w.own {
			in.Own = append(in.Own, l)
		}
		in.Load = func(id overlay.AgentID) int64 { return w.load[id[0]] }
		w.r.Update(in)
		w.now = w.now.Add(time.Second)
	}
	return w
}

func name(p Path) (s string) {
	for _, id := range p {
		s += string(id[0])
	}
	return s
}

func (w *world) want(to byte, c overlay.Class, path, alternate string) {
	w.t.Helper()
	way := w.r.Way(idOf(to), c)
	if name(way.Path) != path || name(way.Alternate) != alternate {
		w.t.Errorf("to %c: %q, else %q; want %q, else %q", to, name(way.Path), name(way.Alternate), path, alternate)
	}
}

const ms = time.Millisecond

// Frames take the shortest path, stay on it for what is little, leave it for what is much,
// and leave a broken one at once.
func TestShortest(t *testing.T) {
	w := newWorld(t, "abc").link('a', 'b', 50*ms, 0).link('a', 'c', 20*ms, 0).link('c', 'b', 20*ms, 0).after(0)
	for _, c := range []overlay.Class{overlay.ClassDelay, overlay.ClassBulk} {
		w.want('b', c, "acb", "ab")
	}
	w.link('a', 'b', 38*ms, 0).after(0) // 19.5 ms instead of 21
	w.want('b', overlay.ClassDelay, "acb", "ab")
	w.link('a', 'b', 30*ms, 0).after(0)
	w.want('b', overlay.ClassDelay, "ab", "acb")
	delete(w.own, 'b')
	w.after(0)
	w.want('b', overlay.ClassDelay, "acb", "")
	delete(w.own, 'c')
	w.after(0)
	w.want('b', overlay.ClassDelay, "", "")
	var why []Reason
	for _, h := range w.r.History(idOf('b')) {
		if h.Class == overlay.ClassDelay {
			why = append(why, h.Why)
		}
	}
	if !slices.Equal(why, []Reason{First, Shorter, Broke, Broke}) {
		t.Errorf("changes because of %v", why)
	}
	for range 40 { // what is remembered of changes is bounded
		w.link('a', 'b', 30*ms, 0).after(0)
		delete(w.own, 'b')
		w.after(0)
	}
	if n := len(w.r.History(idOf('b'))); n != maxHistory {
		t.Errorf("%d changes are remembered", n)
	}
}

// What an agent sees itself of its links counts more than what others tell of them.
func TestOwnLinksAreNewer(t *testing.T) {
	w := newWorld(t, "abc").link('a', 'b', 50*ms, 0).link('a', 'c', 20*ms, 0).link('c', 'b', 20*ms, 0)
	w.told['b'].Rows = nil // it has too many to tell of, or not yet
	w.after(0)
	w.want('b', overlay.ClassDelay, "ab", "")
	w = newWorld(t, "abc").link('a', 'b', 50*ms, 0).link('a', 'c', 20*ms, 0).link('c', 'b', 20*ms, 0)
	delete(w.own, 'c') // c doesn't know yet
	w.after(0)
	w.want('b', overlay.ClassDelay, "ab", "")
	w.want('c', overlay.ClassDelay, "abc", "")
}

// A link that somebody can't use is left out until he tells anew, or for a while.
func TestBroken(t *testing.T) {
	w := newWorld(t, "abcd").link('a', 'b', 90*ms, 0).link('a', 'c', 20*ms, 0).link('c', 'b', 20*ms, 0).link('a', 'd', 30*ms, 0).link('d', 'b', 20*ms, 0).after(0)
	w.want('b', overlay.ClassDelay, "acb", "adb")
	h := Hop{idOf('c'), idOf('b')}
	if !w.r.Broken(w.now, h) || w.r.Broken(w.now, h) {
		t.Error("it is news once")
	}
	w.after(0)
	w.want('b', overlay.ClassDelay, "adb", "ab")
	w.after(brokenFor)
	w.want('b', overlay.ClassDelay, "acb", "adb")
	w.r.Broken(w.now, h)
	w.after(0)
	w.want('b', overlay.ClassDelay, "adb", "ab")
	w.link('c', 'b', 20*ms, 0).after(0) // c has told anew
	w.want('b', overlay.ClassDelay, "acb", "adb")
	if w.r.Broken(w.now, Hop{idOf('a'), idOf('b')}) || w.r.Broken(w.now, Hop{idOf('x'), idOf('b')}) {
		t.Error("of this agent's own links it knows better, of strangers nothing")
	}
	for i := range 3 * maxBroken {
		w.r.Broken(w.now.Add(time.Duration(i)), Hop{idOf('c'), overlay.AgentID{byte(i), byte(i >> 8), 1}})
	}
	if len(w.r.broken) > maxBroken {
		t.Errorf("%d broken links are remembered", len(w.r.broken))
	}
}

// Operators' wishes count: no transit, costs, forbidden links.
func TestWishesCount(t *testing.T) {
	w := newWorld(t, "abc").link('a', 'b', 50*ms, 0).link('a', 'c', 20*ms, 0).link('c', 'b', 20*ms, 0)
	w.told['c'].NoTransit = true
	w.after(0)
	w.want('b', overlay.ClassDelay, "ab", "")
	w.told['c'].NoTransit, w.told['c'].Cost = false, 20*ms
	w.after(0)
	w.want('b', overlay.ClassDelay, "ab", "acb")
	w.told['c'].Cost = 0
	w.after(0)
	w.want('b', overlay.ClassDelay, "acb", "ab")
	w.told['c'].Rows[0].Cost = 20 * ms
	w.told['c'].Rows[1%len(w.told['c'].Rows)].Cost = 20 * ms
	w.after(0)
	w.want('b', overlay.ClassDelay, "ab", "acb")
	l := w.own['b']
	l.Forbid = true
	w.own['b'] = l
	w.after(0)
	w.want('b', overlay.ClassDelay, "acb", "")
}

// Who sends much has the rates measured that matter, stays where it is until they are known,
// takes the widest path then, and the shortest again when it sends little.
func TestBulkGoesWide(t *testing.T) {
	w := newWorld(t, "abcd").link('a', 'b', 10*ms, 0).link('a', 'c', 20*ms, 0).link('c', 'b', 20*ms, 0).link('a', 'd', 500*ms, 0).link('d', 'b', 500*ms, 0)
	w.load['b'] = 9_000_000
	w.after(busyAfter - time.Second)
	if len(w.r.wants) > 0 {
		t.Error("a moment of much traffic has rates measured")
	}
	w.after(time.Second)
	w.want('b', overlay.ClassBulk, "ab", "acb")
	for _, h := range []Hop{{idOf('a'), idOf('b')}, {idOf('a'), idOf('c')}, {idOf('c'), idOf('b')}} {
		if !slices.Contains(slices.Collect(w.r.Wants), h) {
			t.Errorf("the rate from %c to %c isn't wanted", h.From[0], h.To[0])
		}
	}
	w.link('a', 'b', 10*ms, 1).after(20 * time.Second) // 10 Mbit/s in all
	w.want('b', overlay.ClassBulk, "ab", "acb")        // the relay's isn't known
	w.link('a', 'c', 20*ms, 80).link('c', 'b', 20*ms, 80).after(2 * TurnEvery)
	w.want('b', overlay.ClassBulk, "acb", "ab")
	w.want('b', overlay.ClassDelay, "ab", "acb")
	w.load['b'] = 79_000_000
	w.link('a', 'b', 10*ms, 10).link('a', 'c', 20*ms, 1).link('c', 'b', 20*ms, 1).after(time.Minute) // by its own load
	w.want('b', overlay.ClassBulk, "acb", "ab")
	w.load['b'] = 100_000
	w.after(calmAfter - 2*time.Second)
	w.want('b', overlay.ClassBulk, "acb", "ab")
	w.after(2 * time.Second)
	w.want('b', overlay.ClassBulk, "ab", "acb")
	if h := w.r.History(idOf('b')); h[len(h)-1].Why != Calm || h[len(h)-2].Why != Wider {
		t.Errorf("%v", h)
	}
}

// Agents that go are forgotten, and come back as new ones.
func TestForgetsWhoWent(t *testing.T) {
	w := newWorld(t, "abc").link('a', 'b', 10*ms, 0).link('a', 'c', 10*ms, 0).after(0)
	b := w.told['b']
	delete(w.told, 'b')
	delete(w.own, 'b')
	w.after(0)
	w.want('b', overlay.ClassDelay, "", "")
	if len(w.r.peers) != 1 || w.r.History(idOf('b')) != nil {
		t.Error("it is remembered")
	}
	w.told['b'] = b
	w.link('a', 'b', 10*ms, 0).after(0)
	w.want('b', overlay.ClassDelay, "ab", "")
}
