package agent

import (
	"time"

	"farlan/measure"
	"farlan/overlay"
	"farlan/reserve"
)

// probeReserved sends a probe by a reservation's socket, and along its way, whether or not
// frames take it yet; it never takes another one. The far end's answer, whose round trip goes to
// waiter, proves that the way works. Who waits in vain ends that by forget. It is for the loop.
func (n *node) probeReserved(id reserve.ID, waiter chan<- time.Duration) (key probeKey, err error) {
	w := n.reserved.ways[id]
	if w == nil {
		return key, errNoReserved
	}
	out := w.to.out.Load()
	if out == nil {
		return key, errNoSession
	}
	now := n.now()
	w.to.mu.Lock()
	x := &w.to.routed[reservedRoute]
	x.use(now, out.session)
	q := x.path.Probe(now)
	key = probeKey{overlay.SpaceReserved, q.Number}
	w.to.await(key, waiter)
	w.to.mu.Unlock()
	b := overlay.AppendProbe(make([]byte, overlay.HeaderLen, probeSpace), q, false)
	err = n.postReserved(w, out, out.session.SealOf(overlay.SpaceReserved, overlay.KindProbe, overlay.LaneDelay, b))
	if err != nil {
		w.to.forget(key)
	}
	return key, err
}

// forget ends the wait for a probe's round trip.
func (p *peer) forget(key probeKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiters, key)
}

// postReserved sends a datagram by a reservation's socket along its way, nil is none.
func (n *node) postReserved(w *reservedWay, out *outbound, d []byte) (err error) {
	if d == nil {
		return errNoSession
	}
	send := w.send[n.lanes].strictly
	route := w.pinned
	if route == nil && !w.outside() {
		route = w.to.detour(overlay.ClassBulk)
	}
	switch {
	case route != nil:
		hop := route.hop.out.Load()
		if hop == nil || hop.relay != nil {
			return errNoRelay
		}
		n.relayed, err = n.relayBy(send, hop, w.flow.Number, route.path, n.relayed, d, len(d))
		return err
	default:
		return n.post(send, out, d, len(d))
	}
}

// watchReserved notices that frames which took a reserved way aren't acknowledged: before it is
// given up it is asked whether it works, and afterwards each second whether it does again. The
// loop calls it at each turn.
func (n *node) watchReserved(now overlay.Instant) {
	silences := make(map[*peer]measure.Silence, len(n.reserved.ways))
	for id, w := range n.reserved.ways {
		s := w.state
		if s.down.Load() {
			n.retryReserved(now, id, w)
			continue
		}
		if w.to.out.Load() == nil || s.sentAt.Load() == 0 {
			continue
		}
		silence, known := silences[w.to]
		if !known { // a path is asked once a turn
			silence = w.to.reservedSilence(now, n.lastReserved(w.to))
			silences[w.to] = silence
		}
		switch {
		case silence == measure.Answering:
			s.asks = 0
		case silence == measure.Cut && s.asks >= measure.Misses:
			s.down.Store(true)
			n.log.Warn("reserved way fails: frames take the ordinary one", "id", id, "to", w.to.member.Name)
			n.unanswered(id)
		default:
			s.asks++
			_, _ = n.probeReserved(id, nil)
		}
	}
}

// lastReserved returns when frames were sent to a peer last by any reserved way.
func (n *node) lastReserved(p *peer) (at overlay.Instant) {
	for _, w := range n.reserved.ways {
		if w.to == p {
			at = max(at, overlay.Instant(w.state.sentAt.Load()))
		}
	}
	return at
}

func (p *peer) reservedSilence(now, sent overlay.Instant) measure.Silence {
	p.mu.Lock()
	defer p.mu.Unlock()
	if path := p.routed[reservedRoute].path; path != nil {
		return path.Silent(now, sent)
	}
	return measure.Answering
}

// retryReserved asks whether a way that failed works again.
func (n *node) retryReserved(now overlay.Instant, id reserve.ID, w *reservedWay) {
	s := w.state
	if s.answers == nil {
		s.answers = make(chan time.Duration, 1)
	}
	select {
	case <-s.answers:
		s.asks = 0
		s.down.Store(false)
		n.log.Info("reserved way works again", "id", id, "to", w.to.member.Name)
		return
	default:
	}
	if now.Sub(s.retried) < reservedAgain {
		return
	}
	w.to.forget(s.retry)
	s.retried = now
	s.retry, _ = n.probeReserved(id, s.answers)
}

// A reservedUse is what became of a reservation's frames so far.
type reservedUse struct {
	Bytes   uint64 // of datagrams that left by its socket
	Dropped uint64 // datagrams, or frames that were held back, that were more than is reserved
	Fallen  uint64 // datagrams and frames that went the ordinary way, as the reserved one failed
	Waiting int    // bytes that wait for its class now
	Down    bool   // what was sent wasn't acknowledged: frames go the ordinary way
}

// useOf returns that of a reservation that starts here; ok is false if there is none.
func (n *node) useOf(id reserve.ID) (u reservedUse, ok bool) {
	w := n.reserved.ways[id]
	if w == nil {
		return u, false
	}
	return reservedUse{
		Bytes: w.state.sent.Load(), Dropped: w.state.dropped.Load(), Fallen: w.state.fallen.Load(),
		Waiting: w.waiting(), Down: w.state.down.Load(),
	}, true
}

// passedFor is useOf of a reservation on whose way this agent is: what is beyond it is Fallen.
func (n *node) passedFor(id reserve.ID) (u reservedUse, ok bool) {
	g := n.reserved.passages[id]
	if g == nil {
		return u, false
	}
	return reservedUse{
		Bytes: g.state.sent.Load(), Dropped: g.state.dropped.Load(),
		Fallen: g.state.fallen.Load() + g.beyond.Load(), Waiting: g.marked.waiting(),
	}, true
}

// waiting returns how many bytes wait for the way's class.
func (w *reservedWay) waiting() int {
	n := w.marked.waiting()
	if w.pacer != nil {
		n += w.pacer.waiting()
	}
	return n
}

func (p *pacer) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shaper.Backlog()[overlay.ClassBulk]
}
