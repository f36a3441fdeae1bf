package reserve

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"farlan/overlay"
)

// simBeginning is when simulations begin.
const simBeginning = overlay.Instant(1_800_000_000 * int64(time.Second))

// A simSetting says what is simulated: for Trouble agents ask for reservations and there are
// faults, then nobody asks any more, and in the end nothing may be left.
type simSetting struct {
	seed    uint64
	agents  int
	calm    bool // no faults
	wavers  bool // what egresses carry changes
	alone   bool // nobody asks for anything but whom the test has ask
	trouble time.Duration
	mutant  mutant
}

// A simWorld is agents with brokers, drivers and disks, on virtual time in one thread. What goes
// wrong is drawn from the seed, so it can be run again to the bit.
type simWorld struct {
	simSetting
	rand   *rand.Rand
	now    overlay.Instant
	queue  simQueue
	number uint64
	nodes  []*simNode
	index  map[overlay.AgentID]int
	halves bool // messages pass only within the halves
	wrong  []string
	simCounts
}

// simCounts is what happened.
type simCounts struct {
	asked, active, rejected, lost           int
	automatic, messages, calls              int
	crashes                                 map[string]int // where agents were killed
	orphans, unknowns, strays, ways, labels int
	trace                                   uint64
}

type simEvent struct {
	at     overlay.Instant
	number uint64
	f      func()
}

// A simQueue is a binary heap of events, the earliest first.
type simQueue []simEvent

func (e *simEvent) before(f *simEvent) bool {
	return e.at < f.at || e.at == f.at && e.number < f.number
}

func (q *simQueue) push(e simEvent) {
	*q = append(*q, e)
	s := *q
	for i := len(s) - 1; i > 0 && s[i].before(&s[(i-1)/2]); i = (i - 1) / 2 {
		s[i], s[(i-1)/2] = s[(i-1)/2], s[i]
	}
}

func (q *simQueue) pop() simEvent {
	s := *q
	first, last := s[0], s[len(s)-1]
	s[len(s)-1] = simEvent{}
	s = s[:len(s)-1]
	*q = s
	for i := 0; len(s) > 0; {
		child := 2*i + 1
		if child+1 < len(s) && s[child+1].before(&s[child]) {
			child++
		}
		if child >= len(s) || !s[child].before(&last) {
			s[i] = last
			break
		}
		s[i] = s[child]
		i = child
	}
	return first
}

// A simNode is an agent: what of it lasts, and what a crash takes away.
type simNode struct {
	w        *simWorld
	i        int
	id       overlay.AgentID
	drivers  []*fake
	disk     []byte
	owned    map[ID]bool // by what is on disk
	capacity map[string]Rate
	before   map[string]Rate // what egresses carried before
	changed  map[string]overlay.Instant
	broken   map[ID]overlay.Instant // what broke by itself
	epochs   map[line]uint64        // the highest that were served since the start
	flows    []*simFlow

	b      *Broker // nil while it is down
	life   int
	wake   overlay.Instant
	ways   []Way
	busy   map[*fake]overlay.Instant // until when its calls take
	synced overlay.Instant           // until when the disk writes
	since  overlay.Instant
}

// A simFlow is what an agent's station sends.
type simFlow struct {
	Flow
	begin, end overlay.Instant
	rate       Rate
	relays     []overlay.AgentID
	unhindered bool // the ordinary way has room for it
}

func newSimWorld(set simSetting) *simWorld {
	w := &simWorld{simSetting: set, rand: rand.New(rand.NewPCG(set.seed, 1)), now: simBeginning, index: make(map[overlay.AgentID]int)}
	w.crashes = make(map[string]int)
	for i := range set.agents {
		n := &simNode{w: w, i: i, id: overlay.AgentID{byte(i >> 8), byte(i), 1}, owned: make(map[ID]bool), busy: make(map[*fake]overlay.Instant)}
		n.before, n.changed, n.broken = make(map[string]Rate), make(map[string]overlay.Instant), make(map[ID]overlay.Instant)
		n.capacity = map[string]Rate{"east": Rate(50+w.draw(100)) * Mbit, "west": Rate(20+w.draw(200)) * Mbit}
		egress := func(to overlay.AgentID) string { return n.hop(to).Egress }
		tc := &fake{caps: Caps{Name: "tc", Kinds: []Kind{Guarantee}, Modify: true, Setup: 1}, egress: egress, modify: true}
		if w.one(4) { // another kind: by handles alone, soft, and what it granted it can't change
			tc.caps.Name, tc.deaf, tc.soft, tc.modify = "mute", true, true, false
		}
		nsi := &fake{caps: Caps{Name: "nsi", Kinds: []Kind{Circuit}, External: true, Setup: 10}, egress: func(overlay.AgentID) string { return "" }, soft: true}
		n.drivers = []*fake{tc, nsi}
		w.nodes = append(w.nodes, n)
		w.index[n.id] = i
		n.start()
	}
	w.plan()
	return w
}

func (n *simNode) hop(to overlay.AgentID) Hop {
	if to[1]%2 == 0 {
		return Hop{"east", netip.AddrPort{}}
	}
	return Hop{"west", netip.AddrPort{}}
}

func (w *simWorld) draw(n int) int    { return w.rand.IntN(n) }
func (w *simWorld) one(of int) bool   { return w.draw(of) == 0 }
func (w *simWorld) fault(of int) bool { return !w.calm && w.troubled() && w.one(of) }
func (w *simWorld) troubled() bool    { return w.now < simBeginning.Add(w.trouble) }

func (w *simWorld) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.rand.Int64N(int64(b-a)))
}

func (w *simWorld) after(d time.Duration, f func()) {
	w.number++
	w.queue.push(simEvent{w.now.Add(d), w.number, f})
}

func (w *simWorld) run(until time.Duration) {
	end := simBeginning.Add(until)
	for len(w.queue) > 0 && w.queue[0].at <= end && len(w.wrong) < 5 {
		e := w.queue.pop()
		w.now = e.at
		w.trace = w.trace*1099511628211 ^ uint64(e.at) ^ e.number<<1
		e.f()
	}
	w.now = end
}

func (w *simWorld) fail(format string, args ...any) {
	if len(w.wrong) < 5 {
		w.wrong = append(w.wrong, fmt.Sprintf("%v: ", w.now.Sub(simBeginning))+fmt.Sprintf(format, args...))
	}
}

// start starts an agent with what is on its disk.
func (n *simNode) start() {
	w := n.w
	n.life++
	n.since, n.ways, n.wake, n.synced = w.now, nil, 0, 0
	n.epochs = make(map[line]uint64)
	clear(n.busy)
	j := ReadJournal(n.disk)
	n.disk = n.disk[:len(n.disk)-j.Torn]
	cfg := Config{
		Self: n.id, Automatic: true, Circuits: true, Cap: 60 * Mbit, Longest: time.Duration(1+n.i%10) * time.Minute, Rand: rand.New(rand.NewPCG(w.seed, uint64(n.i)<<20|uint64(n.life))),
		Hop: func(to overlay.AgentID, _ Kind) (Hop, bool) { return n.hop(to), true },
	}
	for _, f := range n.drivers {
		cfg.Drivers = append(cfg.Drivers, f.caps)
		f.reap(w.now)
	}
	n.b = NewBroker(w.now, cfg, j)
	n.b.mutant = w.mutant
	n.b.moved = n.moved
	for _, e := range []string{"east", "west"} {
		n.b.SetCapacity(e, n.capacity[e])
	}
	n.every(time.Minute, func() {
		for _, f := range n.drivers {
			f.reap(w.now)
		}
		n.compact()
	})
	n.every(time.Second, n.observe)
	life := n.life
	w.after(time.Minute, func() {
		if n.b != nil && n.life == life {
			n.checkReconciled()
		}
	})
	n.turn()
}

// every does something again and again while the agent lives.
func (n *simNode) every(d time.Duration, f func()) {
	life := n.life
	var again func()
	again = func() {
		if n.b != nil && n.life == life {
			f()
			n.w.after(d, again)
		}
	}
	n.w.after(n.w.between(0, d), again)
}

// crash kills an agent. What its disk was about to write may be there, a part of it, or nothing.
func (n *simNode) crash(where string, unwritten []byte) {
	w := n.w
	w.crashes[where]++
	if len(unwritten) > 0 {
		n.disk = append(n.disk, unwritten[:w.draw(len(unwritten)+1)]...)
		n.read()
	}
	n.b, n.ways = nil, nil
	n.life++
	w.after(w.between(time.Second, 25*time.Second), n.start)
}

// read notes what the disk says that is owned.
func (n *simNode) read() {
	clear(n.owned)
	for _, s := range ReadJournal(n.disk).segments {
		n.owned[s.id] = !s.state.Over()
	}
}

// compact writes a new journal in the place of the old one.
func (n *simNode) compact() {
	if n.synced > n.w.now { // a write is under way
		return
	}
	j, entry := n.b.Snapshot()
	n.disk = j
	n.read()
	n.b.Written(entry)
	n.turn()
}

// turn is what an agent does after each event: Tick, and what Flush says.
func (n *simNode) turn() {
	w := n.w
	if n.b == nil {
		return
	}
	next := n.b.Tick(w.now)
	out := n.b.Flush()
	if out.Changed {
		n.ways = out.Ways
		n.checkWays("new ways")
	}
	if len(out.Journal) > 0 {
		n.write(out.Journal, out.Entry)
		if n.b == nil {
			return
		}
	}
	for _, c := range out.Calls {
		n.call(c)
	}
	for _, m := range out.Messages {
		w.deliver(n, m)
	}
	for _, p := range out.Probes {
		n.probe(p)
	}
	if next > 0 && (n.wake <= w.now || next < n.wake) {
		n.wake = max(next, w.now+1)
		life, at := n.life, n.wake
		w.after(at.Sub(w.now), func() {
			if n.life == life && n.wake == at {
				n.turn()
			}
		})
	}
}

// write appends to the journal, which takes a moment.
func (n *simNode) write(b []byte, entry uint64) {
	w := n.w
	if w.fault(700) {
		n.crash("before the journal", b)
		return
	}
	n.synced = max(n.synced, w.now).Add(w.between(100*time.Microsecond, 5*time.Millisecond))
	life := n.life
	w.after(n.synced.Sub(w.now), func() {
		if n.b == nil || n.life != life {
			return
		}
		n.disk = append(n.disk, b...)
		for _, s := range ReadJournal(b).segments {
			n.owned[s.id] = !s.state.Over()
		}
		if w.fault(700) {
			n.crash("journaled", nil)
			return
		}
		n.b.Written(entry)
		n.turn()
	})
}

// call has a driver do something: when those before it are done.
func (n *simNode) call(c Call) {
	w := n.w
	w.calls++
	f := n.drivers[slices.IndexFunc(n.drivers, func(f *fake) bool { return f.caps.Name == c.Driver })]
	begin := max(n.busy[f], w.now)
	done := begin.Add(f.takes(w, c.Verb))
	lost := c.Verb != DoList && w.fault(25) // its answer, or the question
	if lost {
		done = begin.Add(c.Within)
	}
	n.busy[f] = done
	life := n.life
	w.after(begin.Sub(w.now)+done.Sub(begin)/2, func() {
		if n.life != life {
			return
		}
		r := Result{Number: c.Number, Err: fmt.Errorf("no answer to %v", c.Verb)}
		switch {
		case lost && w.one(2):
		case w.fault(40) && (c.Verb == DoHold || c.Verb == DoCommit || c.Verb == DoActivate || c.Verb == DoModify):
			r.Err = []error{ErrFull, ErrRefused, Refusal{w.freeRate()}, ErrUnsupported, ErrForeign}[w.draw(5)]
		case w.fault(60) && c.Verb == DoRelease:
			r.Err = fmt.Errorf("it sticks")
		default:
			if x := n.effect(f, c); !lost {
				r = x
			}
		}
		if w.fault(400) {
			n.crash("under way: "+c.Verb.String(), nil)
			return
		}
		w.after(done.Sub(begin)/2, func() {
			if n.life == life {
				n.b.Result(w.now, r)
				n.turn()
			}
		})
	})
}

func (w *simWorld) freeRate() Rate { return Rate(w.draw(30)) * Mbit }

// effect does what a call does to the underlay, and looks whether it may.
func (n *simNode) effect(f *fake, c Call) Result {
	if c.Verb.journaled() && c.Verb == DoHold && !n.owned[c.Want.ID] {
		n.w.fail("agent %d holds %v, and the journal doesn't know of it", n.i, c.Want.ID)
	}
	r := f.do(n.w.now, c)
	if c.Verb == DoHold || c.Verb == DoModify {
		n.checkSums(true)
	}
	if c.Verb == DoAbort || c.Verb == DoRelease {
		n.checkWays("after " + c.Verb.String())
	}
	return r
}
