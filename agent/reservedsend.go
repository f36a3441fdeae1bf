package agent

import (
	"errors"
	"net/netip"
	"syscall"
	"time"

	"farlan/overlay"
	"farlan/overlay/link"
)

const (
	// reservedStuck is how long a class may take nothing until it counts as one that doesn't work:
	// a queue that stands so long serves nobody.
	reservedStuck = 100 * time.Millisecond
	// reservedAgain is how long after a class failed it is tried again.
	reservedAgain = time.Second
)

// A markedSend sends datagrams by the marked socket of their family, for one goroutine.
type markedSend struct {
	n         *node
	four, six *link.MarkedWriter // nil: there is none
	ordinary  sendFunc
	peer      netip.Addr // where the other agent is on a circuit; invalid: where it ever is
	state     *reservedState
	full      overlay.Instant // since when it takes nothing, 0: it does
	until     overlay.Instant // it isn't tried before
}

// try sends a run, and returns what it hasn't sent.
func (s *markedSend) try(to netip.AddrPort, b []byte, segment int) (rest []byte, err error) {
	if s.peer.IsValid() {
		to = netip.AddrPortFrom(s.peer, to.Port())
	}
	w := s.six
	if to.Addr().Is4() {
		w = s.four
	}
	if w == nil || isByway(to.Addr()) {
		return b, errNoFamily
	}
	rest, err = w.Send(to, b, segment)
	s.state.sent.Add(uint64(len(b) - len(rest)))
	return rest, err
}

// strictly is try as a sendFunc.
func (s *markedSend) strictly(to netip.AddrPort, b []byte, segment int) error {
	_, err := s.try(to, b, segment)
	return err
}

// send is a sendFunc. What the class has no room for is dropped: in the ordinary queue it would
// come late and out of order, which harms a flow more. What can't be sent goes the ordinary way.
func (s *markedSend) send(to netip.AddrPort, b []byte, segment int) error {
	if s.n.reserved.shared.Load() {
		return s.ordinary(to, b, segment)
	}
	if s.until != 0 {
		if s.n.now().Before(s.until) {
			return s.fall(to, b, segment)
		}
		s.until = 0
	}
	rest, err := s.try(to, b, segment)
	if err == nil {
		s.full = 0
		return nil
	}
	now := s.n.now()
	if errors.Is(err, syscall.EAGAIN) {
		if s.full == 0 || len(rest) < len(b) {
			s.full = now
		}
		if now.Sub(s.full) < reservedStuck {
			lost := uint64((len(rest) + segment - 1) / segment)
			s.state.dropped.Add(lost)
			s.n.drops.addN(dropReserved, lost)
			return nil
		}
	}
	s.full, s.until = 0, now.Add(reservedAgain)
	return s.fall(to, rest, segment)
}

// fall sends what is reserved for the ordinary way.
func (s *markedSend) fall(to netip.AddrPort, b []byte, segment int) error {
	s.state.fallen.Add(uint64((len(b) + segment - 1) / segment))
	return s.ordinary(to, b, segment)
}

// look takes over which frames have a way of their own.
func (o *outgoing) look() {
	t := o.n.reserved.sent.Load()
	if t == o.reserved {
		return
	}
	old := o.reserved
	o.reserved = t
	if o.shaper == nil {
		return
	}
	if old == nil {
		old = &reservedTable{}
	}
	if t == nil {
		t = &reservedTable{}
	}
	for i, w := range t.slots {
		if v := old.slots[i]; v != nil && (w == nil || w.id != v.id) {
			o.shaper.Guarantee(i, 0, false)
		}
	}
	for i, w := range t.slots {
		if w != nil && w.rate() > 0 && !o.shaper.Guarantee(i, w.rate(), w.flow.Paced) {
			o.n.log.Warn("uplink too slow for a reservation", "id", w.id, "rate", w.flow.Grant.Rate)
		}
	}
}

// queueReserved takes a frame for a peer if it has a way of its own that works.
func (o *outgoing) queueReserved(p *peer, flow uint32, f *overlay.Frame) bool {
	w, out := o.reserved.find(p, f.Head), p.out.Load()
	if w == nil || out == nil {
		return false
	}
	if !w.works(p) {
		w.state.fallen.Add(1)
		return false
	}
	size := out.size
	if w.pinned != nil {
		size = w.pinned.size
	}
	clamp(f, size)
	switch {
	case o.shaper != nil:
		if !o.shaper.Enqueue(o.now, p.place(), overlay.GuaranteedClass(w.slot), flow, f) {
			o.n.drops.add(dropUnfit)
		}
	case w.pacer != nil:
		return o.holdBack(w.pacer, p, flow, f)
	default:
		o.pack(o.beginBy(p, overlay.ClassBulk, w), f)
	}
	return true
}

// holdBack has a pacer hold a frame back; false if that has been closed.
func (o *outgoing) holdBack(x *pacer, p *peer, flow uint32, f *overlay.Frame) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return false
	}
	if !x.shaper.Enqueue(o.now, p.place(), overlay.ClassBulk, flow, f) {
		o.n.drops.add(dropUnfit)
	}
	x.note(o.now)
	return true
}

// note notes when something may leave. p.mu is held.
func (p *pacer) note(now overlay.Instant) {
	at, ok := p.shaper.Next(now)
	if !ok {
		at = 0
	}
	p.next.Store(int64(at))
}

// pace sends what waited in a pacer, as far as it may leave now.
func (o *outgoing) pace(now overlay.Instant, view *view, w *reservedWay) {
	x := w.pacer
	if at := overlay.Instant(x.next.Load()); at == 0 || now.Before(at) {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for {
		to, _, f, ok := x.shaper.Dequeue(now)
		if !ok {
			break
		}
		o.sent = 0
		if p := view.peer(to); p != nil {
			o.pack(o.beginBy(p, overlay.ClassBulk, w), f)
		}
		o.flush()
		x.shaper.Charge(o.sent)
	}
	if lost := x.shaper.Lost(); lost != x.lost {
		w.state.dropped.Add(lost - x.lost)
		o.n.drops.addN(dropReserved, lost-x.lost)
		x.lost = lost
	}
	x.note(now)
}

// releasePaced sends what waits in the pacer of a way that has gone, the ordinary way.
func (n *node) releasePaced(w *reservedWay) {
	x, now := w.pacer, n.now()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	x.next.Store(0)
	o, v := n.loopOut(now), n.view.Load()
	for at, ok := x.shaper.Next(now); ok; at, ok = x.shaper.Next(at) {
		to, _, f, ok := x.shaper.Dequeue(at)
		if p := v.peer(to); ok && p != nil {
			o.pack(o.begin(p, overlay.ClassBulk), f)
			o.flush()
		}
		x.shaper.Charge(0)
	}
}

// noteReserved notes that frames were sent by a reserved way.
func (p *peer) noteReserved(now overlay.Instant, r *run) {
	p.sentAt.Store(int64(now))
	r.reserved.state.sentAt.Store(int64(now))
	p.mu.Lock()
	defer p.mu.Unlock()
	x := &p.routed[reservedRoute]
	x.use(now, r.out.session)
	x.path.Sent(now, r.out.session.SentOf(overlay.SpaceReserved))
}
