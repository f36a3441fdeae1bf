package segment

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"farlan/overlay"
)

// A world is ports that send each other beacons, which may be lost and take a while; their
// clocks run at rates of their own.
type world struct {
	t      *testing.T
	rand   *rand.Rand
	now    time.Duration
	nodes  []*node
	cut    func(from, to int) bool
	loss   float64
	delay  time.Duration
	air    []flight
	bound  time.Duration // for how long two may forward that hear each other
	since  map[[2]int]time.Duration
	worst  time.Duration
	change int // how often one began or ceased to forward
	moves  int // how often another one than before did
	last   int // who did
}

type node struct {
	*Port
	rate   float64
	offset time.Duration
	frozen bool
	dead   bool
	queue  []Beacon
	led    bool
	epoch  uint64
}

type flight struct {
	at       time.Duration
	from, to int
	b        Beacon
}

const step = 5 * time.Millisecond

func name(i int) Name { return Name{Agent: overlay.AgentID{byte(i + 1)}, Port: 1} }

func newWorld(t *testing.T, seed uint64, count int) *world {
	w := &world{t: t, rand: rand.New(rand.NewPCG(seed, 1)), delay: 20 * time.Millisecond, since: make(map[[2]int]time.Duration)}
	w.cut = func(int, int) bool { return false }
	for i := range count {
		n := &node{rate: 0.97 + 0.06*w.rand.Float64(), offset: time.Duration(w.rand.Int64N(int64(time.Hour)))}
		w.nodes = append(w.nodes, n)
		w.start(i)
	}
	return w
}

func (w *world) start(i int) {
	n := w.nodes[i]
	n.epoch++
	n.dead, n.frozen, n.queue = false, false, nil
	n.Port = New(w.clock(i), name(i), fmt.Sprint("port", i), n.epoch)
}

// clock is what a node's clock shows.
func (w *world) clock(i int) overlay.Instant {
	n := w.nodes[i]
	return overlay.Instant(1 + n.offset + time.Duration(float64(w.now)*n.rate))
}

func (w *world) wall() overlay.Instant { return overlay.Instant(time.Hour + w.now) }

func (w *world) forwards(i int) bool {
	n := w.nodes[i]
	return !n.dead && !n.frozen && w.clock(i).Before(n.Until())
}

func (w *world) leaders() (all []int) {
	for i := range w.nodes {
		if w.forwards(i) {
			all = append(all, i)
		}
	}
	return all
}

func (w *world) run(d time.Duration) {
	w.t.Helper()
	for end := w.now + d; w.now < end && !w.t.Failed(); w.now += step {
		w.deliver()
		for i, n := range w.nodes {
			if n.dead || n.frozen {
				continue
			}
			if w.now%(10*step) == 0 || w.clock(i) >= n.due {
				n.Tick(w.clock(i))
			}
			w.send(i)
			if is := w.forwards(i); is != n.led {
				n.led = is
				w.change++
				if is && i != w.last {
					w.last = i
					w.moves++
				}
			}
		}
		w.check()
	}
}

func (w *world) deliver() {
	rest := w.air[:0]
	for _, f := range w.air {
		if f.at > w.now {
			rest = append(rest, f)
			continue
		}
		n := w.nodes[f.to]
		switch {
		case n.dead:
		case n.frozen:
			if len(n.queue) < 20 { // a socket's buffer: what is too much is the newest
				n.queue = append(n.queue, f.b)
			}
		default:
			w.hear(f.to, f.b)
		}
	}
	w.air = rest
}

func (w *world) hear(i int, b Beacon) {
	if w.nodes[i].Receive(w.clock(i), w.wall(), b) && b.Forwarding && w.forwards(i) {
		w.t.Errorf("%v: %d forwards although it heard that %d does", w.now, i, b.Agent[0]-1)
	}
}

func (w *world) send(i int) {
	b, ok := w.nodes[i].Beacon(w.clock(i), w.wall())
	if !ok {
		return
	}
	for to := range w.nodes {
		if to != i && !w.cut(i, to) && w.rand.Float64() >= w.loss {
			w.air = append(w.air, flight{w.now + time.Duration(w.rand.Int64N(int64(w.delay))), i, to, *b})
		}
	}
}

func (w *world) freeze(i int) { w.nodes[i].frozen = true }

// thaw has a node go on; some of what waited for it comes before it looks at the clock.
func (w *world) thaw(i int) {
	n := w.nodes[i]
	n.frozen = false
	for _, j := range w.leaders() {
		if w.forwards(i) && i != j && !w.cut(i, j) && !w.cut(j, i) && w.bound == 0 {
			w.t.Errorf("%v: %d would forward at once", w.now, i)
		}
	}
	if w.rand.IntN(2) == 0 {
		n.Tick(w.clock(i))
		w.send(i)
	}
	for _, b := range n.queue {
		n.Receive(w.clock(i), w.wall(), b)
	}
	n.queue = nil
}

// check sees that two that hear each other both forward no longer than they may.
func (w *world) check() {
	l := w.leaders()
	seen := make(map[[2]int]bool)
	for x, i := range l {
		for _, j := range l[x+1:] {
			if w.cut(i, j) || w.cut(j, i) {
				continue
			}
			pair := [2]int{i, j}
			seen[pair] = true
			if _, ok := w.since[pair]; !ok {
				w.since[pair] = w.now
			}
			d := w.now - w.since[pair] + step
			w.worst = max(w.worst, d)
			if d > w.bound {
				w.t.Errorf("%v: %d and %d both forward since %v", w.now, i, j, w.since[pair])
			}
		}
	}
	for pair := range w.since {
		if !seen[pair] {
			delete(w.since, pair)
		}
	}
}

// one sees that exactly one forwards.
func (w *world) one() int {
	w.t.Helper()
	l := w.leaders()
	if len(l) != 1 {
		for i, n := range w.nodes {
			w.t.Logf("%d: dead %v frozen %v role %v leader %x own %x others %+v", i, n.dead, n.frozen, n.Role(w.clock(i)), n.leader, n.tag, n.Others())
		}
		w.t.Fatalf("%v: %v forward", w.now, l)
	}
	return l[0]
}

func seeds(t *testing.T, count uint64, f func(t *testing.T, seed uint64)) {
	t.Helper()
	for seed := range count {
		if t.Run(fmt.Sprint(seed), func(t *testing.T) { f(t, seed) }); t.Failed() {
			return
		}
	}
}

// Ports that start beside each other have one that forwards, and another one when that dies,
// leaves or freezes; never two.
func TestTakeOver(t *testing.T) {
	seeds(t, 300, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, 2+int(seed%3))
		w.run(1500 * time.Millisecond)
		first := w.one()
		began := w.now
		switch seed % 3 {
		case 0:
			w.nodes[first].dead = true
		case 1:
			w.freeze(first)
		case 2:
			w.nodes[first].Set(w.clock(first), false, true)
			w.run(200 * time.Millisecond)
		}
		for len(w.leaders()) == 0 && w.now-began < 3*time.Second {
			w.run(step)
		}
		if took := w.now - began; took > 2200*time.Millisecond || seed%3 == 2 && took > 300*time.Millisecond {
			t.Errorf("another one forwards after %v", took)
		}
		second := w.one()
		w.run(30 * time.Second)
		if got := w.one(); got != second {
			t.Errorf("%d forwarded, and %d does", second, got)
		}
		switch seed % 3 {
		case 0:
			w.start(first)
		case 1:
			w.thaw(first)
		case 2:
			w.nodes[first].Set(w.clock(first), true, true)
		}
		w.run(5 * time.Second)
		if got := w.one(); got != second {
			t.Errorf("%d forwarded, and %d does since the other is back", second, got)
		}
		if r := w.nodes[first].Role(w.clock(first)); r != Standby {
			t.Errorf("the other is %v", r)
		}
	})
}

// Halves that are cut apart have one that forwards each; when they are whole again two do as
// long as it takes to hear of that.
func TestHalves(t *testing.T) {
	seeds(t, 300, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, 2+int(seed%4))
		w.run(3 * time.Second)
		w.one()
		half := 1 + int(seed)%(len(w.nodes)-1)
		w.cut = func(from, to int) bool { return (from < half) != (to < half) }
		w.run(4 * time.Second)
		if l := w.leaders(); len(l) != 2 || (l[0] < half) == (l[1] < half) {
			t.Fatalf("%v forward", l)
		}
		w.bound = Alone + w.delay + step
		w.cut = func(int, int) bool { return false }
		w.run(2 * time.Second)
		w.one()
		for i, n := range w.nodes {
			if r := n.Role(w.clock(i)); r == Blocked {
				t.Errorf("%d is blocked, though they were one before", i)
			}
		}
	})
}

// A cable between two segments blocks the port of one, until it is pulled.
func TestJoined(t *testing.T) {
	seeds(t, 100, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, 2)
		w.cut = func(int, int) bool { return true }
		w.run(5 * time.Second)
		for range 2 {
			w.bound = Alone + w.delay + step
			w.cut = func(int, int) bool { return false }
			w.run(2 * time.Second)
			l := w.one()
			if r := w.nodes[1-l].Role(w.clock(1 - l)); r != Blocked {
				t.Errorf("the other is %v", r)
			}
			if o := w.nodes[l].Others(); len(o) != 1 || !o[0].Joined || o[0].Label != fmt.Sprint("port", 1-l) {
				t.Errorf("who forwards knows of %+v", o)
			}
			w.cut = func(int, int) bool { return true }
			w.run(4 * time.Second)
			if l := w.leaders(); len(l) != 2 {
				t.Errorf("%v forward when it is pulled", l)
			}
		}
	})
}

// One that isn't heard by another, and hears it, leaves the lease to that.
func TestOneWay(t *testing.T) {
	seeds(t, 100, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, 2)
		w.bound = Alone + w.delay + step // none hears the other at first
		deaf := int(seed % 2)
		w.cut = func(_, to int) bool { return to == deaf }
		w.run(5 * time.Second)
		if got := w.one(); got != deaf {
			t.Errorf("%d forwards", got)
		}
	})
}

// With loss, freezes, cuts and restarts at random two never forward that hear each other,
// longer than it takes to hear each other; when calm comes there is one.
func TestFaults(t *testing.T) {
	seeds(t, 200, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, 2+int(seed%4))
		w.loss = 0.2 * w.rand.Float64()
		w.delay = time.Duration(5+w.rand.IntN(100)) * time.Millisecond
		w.bound = 1500 * time.Millisecond // six beacons in a row, in both directions
		for range 60 {
			i := w.rand.IntN(len(w.nodes))
			n := w.nodes[i]
			switch w.rand.IntN(6) {
			case 0:
				w.freeze(i)
			case 1:
				n.dead = true
			case 2:
				half := w.rand.IntN(len(w.nodes))
				w.cut = func(from, to int) bool { return (from < half) != (to < half) }
			case 3:
				w.cut = func(int, int) bool { return false }
			case 4:
				n.Set(w.clock(i), true, w.rand.IntN(2) == 0)
			}
			w.run(time.Duration(w.rand.Int64N(int64(4 * time.Second))))
			if n.frozen {
				w.thaw(i)
			}
			if n.dead {
				w.start(i)
			}
		}
		w.cut = func(int, int) bool { return false }
		w.run(15 * time.Second)
		w.loss = 0
		w.run(2 * time.Second)
		w.one()
	})
}

// Loss of a fifth of all beacons has the leader stop for a moment a few times in five minutes,
// and that of nearly all not often.
func TestCalm(t *testing.T) {
	for _, c := range []struct {
		loss float64
		most int
	}{{0.2, 0}, {0.5, 20}, {0.9, 200}} {
		t.Run(fmt.Sprint(c.loss), func(t *testing.T) {
			w := newWorld(t, 1, 3)
			w.bound = time.Hour
			w.run(2 * time.Second)
			first := w.one()
			w.loss, w.moves, w.change = c.loss, 0, 0
			w.run(5 * time.Minute)
			t.Logf("%d takeovers, %d breaks, two forwarded for %v at most", w.moves, w.change/2, w.worst)
			if w.moves > c.most || c.loss < 0.5 && w.worst > 0 {
				t.Errorf("%d takeovers, two forwarded for %v", w.moves, w.worst)
			}
			if c.loss < 0.5 {
				w.loss = 0
				w.run(time.Second)
				if got := w.one(); got != first {
					t.Errorf("%d forwards instead of %d", got, first)
				}
			}
		})
	}
}
