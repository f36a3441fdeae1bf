package agent

import (
	"context"
	"time"

	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/link"
)

// unloadEvery is how often cars are taken in that have come: in between they find
// room in a buffer as small as the least that systems give.
const unloadEvery = time.Millisecond

// Train takes what a peer says about a train, or a car; overlay.Items.
func (in *inbound) Train(t overlay.Train) {
	n, p := in.n, in.at.peer
	if in.hop != nil || in.byway {
		n.drops.add(dropTrain) // it didn't take the path that it is about
		return
	}
	if !n.trains.take(in, p, t) {
		n.drops.add(dropTrain)
	}
}

// take takes an item about a train; ok is false if it belongs to none.
func (s *trains) take(in *inbound, p *peer, t overlay.Train) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch t.Verb {
	case overlay.TrainAsk:
		s.unload(in.n) // what lies there already is of no train
		if p.trains.credit == nil {
			p.trains.credit = measure.NewCredit()
		}
		wait, ok := s.arrivals.Ask(in.now, p.id, t, p.trains.credit)
		if ok {
			wait = min(wait, time.Hour)
			if wait == 0 {
				select {
				case s.granted <- struct{}{}:
				default:
				}
			}
			in.said(overlay.Train{Verb: overlay.TrainGrant, ID: t.ID, Wait: uint32((wait + time.Millisecond - 1).Milliseconds())})
		}
		return ok
	case overlay.TrainEnd:
		s.unload(in.n)
		report, found, ok := s.arrivals.End(in.now, p.id, t)
		if ok {
			in.said(report)
			p.mu.Lock()
			if found.Queued {
				p.trains.in, p.trains.inAt = found, in.now
			}
			p.mu.Unlock()
		}
		return ok
	}
	if s.answers == nil || s.to != p || s.id != t.ID {
		return false
	}
	select {
	case s.answers <- t:
	default: // the same, again
	}
	return true
}

// takeTrains looks after trains that come, until ctx ends. Nobody waits for cars: to be
// woken for each would hold up those behind it on a machine that is slow.
func (n *node) takeTrains(ctx context.Context) error {
	s := n.trains
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.granted:
		}
		for coming := true; coming; {
			if err := sleep(ctx, unloadEvery); err != nil {
				return nil
			}
			s.mu.Lock()
			s.unload(n)
			coming = s.arrivals.Expecting(n.now())
			s.mu.Unlock()
		}
	}
}

// unload takes the cars that have come. s.mu is held.
func (s *trains) unload(n *node) {
	if s.batch == nil {
		s.batch = link.NewBatch()
	}
	view := n.view.Load()
	for _, port := range n.sockets {
		for {
			if err := port.Train.Read(s.batch); err != nil || s.batch.Len() == 0 {
				break
			}
			now := n.now()
			for i := range s.batch.Len() {
				d, stamp := s.batch.Data(i), s.batch.Stamp(i)
				if s.batch.Segment(i) < len(d) {
					stamp = 0 // several that came as one: none has a time of its own
				}
				for segment := s.batch.Segment(i); len(d) > 0; d = d[min(segment, len(d)):] {
					s.car(n, now, view, d[:min(segment, len(d))], stamp)
				}
			}
		}
	}
}

// car takes a datagram from a socket for trains.
func (s *trains) car(n *node, now overlay.Instant, view *view, d []byte, stamp overlay.Instant) {
	if kind, ours := overlay.ParseKind(d); !ours || kind != overlay.KindTrain {
		n.drops.add(dropStranger)
		return
	}
	at := view.sessions[overlay.ReceiverIndex(d)]
	if at == nil {
		n.drops.add(dropNoKeys)
		return
	}
	space, counter := overlay.SpaceOf(overlay.Counter(d))
	body, ok := at.session.Open(d)
	if !ok {
		n.drops.add(dropForged)
		return
	}
	at.mu.Lock()
	at.receivers[space].Counted(counter, 1, len(d), 0)
	at.mu.Unlock()
	if car, ok := overlay.ParseCar(body); !ok || !s.arrivals.Car(now, at.peer.id, car, stamp) {
		n.drops.add(dropTrain)
	}
}

// said answers something about a train.
func (in *inbound) said(t overlay.Train) {
	b := overlay.AppendTrain(in.reply[:overlay.HeaderLen], t)
	if d := in.at.session.Seal(overlay.KindProbe, 0, b); d != nil && in.answer(d) != nil {
		in.n.drops.add(dropSend)
	}
}
