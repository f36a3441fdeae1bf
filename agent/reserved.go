package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/link"
	"farlan/reserve"
)

// Frames for which capacity is reserved leave by a socket of their own, which carries the mark
// by which the underlay knows them, in a class and a space of their own, and by the way for which
// it is reserved. Whoever reserves says so to the frame path here: a reservation's sender by
// setReserved, those on its way by grantPassage. Traffic doesn't depend on it: what the
// reserved way doesn't take goes the ordinary one, and is counted.
//
// When a reservation comes, what follows overtakes what waits in the ordinary queue: frames of
// its flows that were sent up to that queue's length before may come after later ones, once.
// When it goes, or its way fails, what waits in its own queue has been sent before and leaves
// soon: nothing is overtaken but by what the ordinary queue holds less.

// maxReserved is how many reservations an agent's frame path serves, as a sender or on the way;
// another one is refused.
const maxReserved = overlay.MaxGuarantees

// reservedQueue is how long frames may wait at a socket for their class; beyond, the newest are
// dropped, as the sender exceeds what is reserved for it.
const reservedQueue = 50 * time.Millisecond

// pacedLate is by how much frames may leave late that are held back, without what could have
// left before being lost: on a busy machine a lane isn't woken at once. Who polices them bears it:
// passages bear twice as much, and the class before a circuit spreads it.
const pacedLate = passageBurst * time.Millisecond / 2

var (
	errReservedFull = fmt.Errorf("%d reservations use the frame path already: %w", maxReserved, reserve.ErrFull)
	errReservedTwin = fmt.Errorf("there is a reservation for these frames already: %w", reserve.ErrRefused)
	errNoReserved   = reserve.ErrGone
	errNoSession    = errors.New("there is no session with the agent now")
)

// reservations are what the frame path knows of them.
type reservations struct {
	sent   atomic.Pointer[reservedTable] // nil: there are none for frames of this agent
	passed atomic.Pointer[passageTable]  // nil: nor for what it passes on

	// The loop's own.
	ways     map[reserve.ID]*reservedWay
	passages map[reserve.ID]*passage
	number   byte // that a passage was given last

	shared atomic.Bool // set by tests: nothing has a socket of its own
}

// any says whether some frames have a class of their own. Then nothing else may keep a lane: it
// would keep them.
func (r *reservations) any() bool { return r.sent.Load() != nil || r.passed.Load() != nil }

// A reservedFlow says which frames a reservation is for, and how they go.
type reservedFlow struct {
	To   overlay.AgentID
	Pair measure.StationPair // of stations; the zero pair is none
	All  bool                // all frames for the agent that have no reservation of their own
	Path []overlay.AgentID   // the agents on the way, both ends included; nil: the ordinary way
	// Number is what the first agent on the path that isn't its end calls the reservation; 0: it
	// has none.
	Number byte
	// Paced says that frames leave no faster than the grant's rate, as others police it: then
	// what is more waits here and is dropped here, fairly. Otherwise it may have more.
	Paced bool
	Grant reserve.Grant // of this agent's own egress; its mark, rate and end count
}

// none says that no frame is meant yet: the way can be tried, that is all.
func (f *reservedFlow) none() bool { return f.Pair == measure.StationPair{} && !f.All }

// A reservedWay is where frames go for which capacity is reserved. Lanes share it; but for what
// guards itself it isn't changed.
type reservedWay struct {
	id     reserve.ID
	flow   reservedFlow
	slot   int // of maxReserved
	to     *peer
	pinned *detour // nil: the ordinary way
	marked *markedSockets
	send   []*markedSend // of each lane, and the loop's
	pacer  *pacer        // nil: the class paces it
	state  *reservedState
}

// A reservedState is what lanes count of a reservation, and tell of it.
type reservedState struct {
	sent    atomic.Uint64 // bytes of datagrams that left by its socket
	dropped atomic.Uint64 // datagrams that were more than is reserved
	fallen  atomic.Uint64 // that took the ordinary class, as the reserved one failed or was full
	sentAt  atomic.Int64  // when frames were sent last
	down    atomic.Bool   // says the loop: what is sent isn't acknowledged; frames go the ordinary way

	// The loop's own.
	asks    int             // nudges that weren't acknowledged
	retried overlay.Instant // when a way that is down was tried last
	retry   probeKey
	answers chan time.Duration
}

// rate returns what is reserved, in bits a second of IP packets.
func (w *reservedWay) rate() int64 { return w.flow.Grant.Rate.BitsPerSecond() }

// works says whether the way can be taken now, as far as this agent knows.
func (w *reservedWay) works(p *peer) bool {
	return !w.state.down.Load() && (w.pinned == nil || w.pinned.works(p))
}

// A reservedTable says which frames have a way of their own. It is immutable.
type reservedTable struct {
	pairs  map[measure.StationPair]*reservedWay
	agents map[*peer]*reservedWay
	slots  [maxReserved]*reservedWay
	paced  []*reservedWay
}

// find returns the way of a frame for a peer, nil if it is the ordinary one.
func (t *reservedTable) find(p *peer, head []byte) *reservedWay {
	if w := t.pairs[measure.StationPair(head[:12])]; w != nil && w.to == p {
		return w
	}
	return t.agents[p]
}

// setReserved has frames take a reserved way from now on, or changes which and how; without any
// the way is only made ready, to be tried. What the reservation had before stays if it fails. It
// is for the loop.
func (n *node) setReserved(now overlay.Instant, id reserve.ID, f reservedFlow) error {
	r := &n.reserved
	old := r.ways[id]
	p := n.peers[f.To]
	switch {
	case p == nil:
		return fmt.Errorf("agent %v isn't known: %w", f.To.Short(), reserve.ErrRefused)
	case f.Grant.End != 0 && f.Grant.End <= now:
		return fmt.Errorf("it ended %v ago: %w", now.Sub(f.Grant.End), reserve.ErrRefused)
	case old == nil && len(r.ways)+len(r.passages) >= maxReserved:
		return errReservedFull
	case r.taken(id, f):
		return errReservedTwin
	}
	w := &reservedWay{id: id, flow: f, to: p, state: &reservedState{}}
	if old != nil {
		w.slot, w.state = old.slot, old.state
	} else {
		w.slot = r.freeSlot()
	}
	if err := n.pin(w); err != nil {
		return err
	}
	if err := n.equip(w, old); err != nil {
		return err
	}
	if r.ways == nil {
		r.ways = make(map[reserve.ID]*reservedWay)
	}
	r.ways[id] = w
	n.showReserved()
	if old != nil && old.marked != w.marked {
		old.marked.close()
	}
	return nil
}

// taken says whether another reservation is for the same frames.
func (r *reservations) taken(id reserve.ID, f reservedFlow) bool {
	for other, w := range r.ways {
		same := f.All && w.flow.All && f.To == w.flow.To || f.Pair == w.flow.Pair && f.Pair != measure.StationPair{}
		if other != id && same {
			return true
		}
	}
	return false
}

func (r *reservations) freeSlot() int {
	var used [maxReserved]bool
	for _, w := range r.ways {
		used[w.slot] = true
	}
	for i, u := range used {
		if !u {
			return i
		}
	}
	return 0 // not reached: there are fewer than maxReserved
}

// pin finds the way that a reservation says.
func (n *node) pin(w *reservedWay) error {
	if len(w.flow.Path) < 3 {
		return nil
	}
	if w.pinned = n.detourOf(w.flow.Path, nil, assumedMTU); w.pinned == nil || w.pinned.hop == nil {
		return fmt.Errorf("the path of %d agents isn't known: %w", len(w.flow.Path), reserve.ErrRefused)
	}
	return nil
}

// equip gives a way its sockets, and what else lanes need to send by it: that of the way
// before, as far as it fits.
func (n *node) equip(w, old *reservedWay) error {
	mark, queue := w.flow.Grant.Mark, int(w.rate()/8*reservedQueue.Milliseconds()/1000)
	if old != nil && old.flow.Grant.Mark == mark {
		w.marked = old.marked
		w.marked.setQueue(queue)
	} else {
		var err error
		if w.marked, err = n.openMarked(mark, queue); err != nil {
			return err
		}
	}
	w.send = n.markedSends(w.marked, mark.Peer, w.state)
	if w.flow.Paced && n.cfg.Uplink.Up == 0 && w.rate() > 0 {
		if old != nil && old.pacer != nil {
			w.pacer = old.pacer
		} else {
			w.pacer = &pacer{}
		}
		w.pacer.setRate(w.rate() * shapedPercent / 100)
	}
	return nil
}

// clearReserved has frames take the ordinary way again; what waited goes it, too.
func (n *node) clearReserved(id reserve.ID) {
	w := n.reserved.ways[id]
	if w == nil {
		return
	}
	delete(n.reserved.ways, id)
	n.showReserved()
	if w.pacer != nil {
		n.releasePaced(w)
	}
	w.marked.close()
}

// showReserved shows the lanes which frames have a way of their own.
func (n *node) showReserved() {
	t := &reservedTable{pairs: make(map[measure.StationPair]*reservedWay), agents: make(map[*peer]*reservedWay)}
	any := false
	for _, w := range n.reserved.ways {
		if w.flow.none() {
			continue
		}
		any = true
		t.slots[w.slot] = w
		if w.flow.All {
			t.agents[w.to] = w
		}
		if (w.flow.Pair != measure.StationPair{}) {
			t.pairs[w.flow.Pair] = w
		}
		if w.pacer != nil {
			t.paced = append(t.paced, w)
		}
	}
	if !any {
		t = nil
	}
	n.reserved.sent.Store(t)
}

// markedSockets are those of one mark: of each family that this host has, one for each lane.
type markedSockets struct{ four, six []*link.Marked }

// openMarked opens sockets with a mark.
func (n *node) openMarked(mark reserve.Mark, queue int) (*markedSockets, error) {
	m := &markedSockets{}
	for _, s := range n.sockets {
		four := s.Delay.LocalAddr().Addr().Is4()
		if only := mark.Source; only.IsValid() && only.Is4() != four {
			continue
		}
		for lane := range n.lanes {
			x, err := s.Join(lane, link.Mark{TOS: mark.TOS, Priority: mark.Priority, Device: mark.Device, Source: mark.Source, Queue: queue})
			if err != nil {
				m.close()
				return nil, err
			}
			if four {
				m.four = append(m.four, x)
			} else {
				m.six = append(m.six, x)
			}
		}
	}
	if m.four == nil && m.six == nil {
		return nil, errNoFamily
	}
	return m, nil
}

func (m *markedSockets) all() []*link.Marked {
	return append(append([]*link.Marked{}, m.four...), m.six...)
}

func (m *markedSockets) setQueue(bytes int) {
	for _, x := range m.all() {
		_ = x.SetQueue(bytes) // it is a matter of delay only
	}
}

func (m *markedSockets) close() {
	for _, x := range m.all() {
		_ = x.Close()
	}
}

// waiting returns how many bytes wait at them.
func (m *markedSockets) waiting() (n int) {
	for _, x := range m.all() {
		n += x.Waiting()
	}
	return n
}

// markedSends returns what sends by marked sockets, for each lane and the loop.
func (n *node) markedSends(m *markedSockets, peer netip.Addr, state *reservedState) []*markedSend {
	all := make([]*markedSend, n.lanes+1)
	for i := range all {
		lane := min(i, n.lanes-1)
		s := &markedSend{n: n, peer: peer, state: state}
		if m.four != nil {
			s.four = m.four[lane].Writer()
		}
		if m.six != nil {
			s.six = m.six[lane].Writer()
		}
		s.ordinary = n.laneSender(func(p *link.Port) *link.Writer { return p.Bulk[lane].Writer() })
		all[i] = s
	}
	return all
}

// A pacer holds frames back that would be more than others let pass. Lanes share it.
type pacer struct {
	mu     sync.Mutex
	shaper *overlay.Shaper
	next   atomic.Int64 // when something may leave, 0: nothing waits
	lost   uint64       // frames that it has dropped when that was counted last
	closed bool
}

func (p *pacer) setRate(rate int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shaper == nil {
		p.shaper = overlay.NewShaper(rate)
		p.shaper.CatchUp(pacedLate)
	}
	p.shaper.SetRate(rate)
}

// lateReserved returns reservations that have ended by an instant.
func lateReserved(now overlay.Instant, g reserve.Grant) bool { return g.End != 0 && g.End <= now }

// mindReserved ends what has ended, and follows what changes under the others: peers that are
// met anew, links whose MTU is another one. The loop calls it each second.
func (n *node) mindReserved(now overlay.Instant) {
	for id, w := range n.reserved.ways {
		if lateReserved(now, w.flow.Grant) {
			n.log.Info("reservation ended", "id", id)
			n.clearReserved(id)
			continue
		}
		again := &reservedWay{flow: w.flow}
		if err := n.pin(again); err == nil && n.peers[w.flow.To] == w.to && same(again.pinned, w.pinned) {
			continue
		}
		if err := n.setReserved(now, id, w.flow); err != nil && !errors.Is(err, reserve.ErrRefused) {
			n.log.Warn("reservation unusable", "id", id, "error", err)
		}
	}
	for id, g := range n.reserved.passages {
		if lateReserved(now, g.grant) {
			n.log.Info("passage ended", "id", id)
			n.revokePassage(id)
		}
	}
}
