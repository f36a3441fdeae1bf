package agent

import (
	"context"
	"fmt"
	"time"

	"farlan/overlay"
)

// handoverAsk is how often a peer is asked until it answers.
const handoverAsk = 200 * time.Millisecond

// takeHandover takes what a peer says of a station that is about to move. The loop does: it
// is little, and no more than a few a second are taken.
func (in *inbound) takeHandover(p *peer, frame []byte) {
	h, ok := overlay.ParseHandover(frame)
	if !ok {
		in.n.drops.add(dropMalformed)
		return
	}
	n := in.n
	if !n.moving.allow(in.now) || !n.mail.offerLow(func(now overlay.Instant) { n.handover(now, p, h) }) {
		n.drops.add(dropBusy)
	}
}

func (h *handovers) allow(now overlay.Instant) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.said == (overlay.Bucket{}) {
		h.said = overlay.NewBucket(handoverRate, handoverBurst)
	}
	return h.said.Allow(now)
}

// handover does what a peer says.
func (n *node) handover(now overlay.Instant, p *peer, h overlay.Handover) {
	x := n.moving.of(h.MAC)
	switch h.Kind {
	case overlay.HandoverPrepare:
		answer := overlay.HandoverReady
		if x != nil && x.peer.id == p.id { // it asks again, or lets it last longer
			x.until.Store(max(x.until.Load(), int64(now.Add(h.Lease))))
		} else if _, err := n.prepare(now, h.MAC, p, h.Lease); err != nil {
			answer = overlay.HandoverRefused
		}
		n.tellHandover(now, p, overlay.Handover{Kind: answer, MAC: h.MAC})
	case overlay.HandoverAbort:
		if x != nil && x.peer.id == p.id {
			n.giveUp(x)
		}
	default:
		n.moving.mu.Lock()
		defer n.moving.mu.Unlock()
		select {
		case n.moving.answers[h.MAC] <- h.Kind: // nil: nobody waits
		default:
		}
	}
}

func (n *node) tellHandover(now overlay.Instant, p *peer, h overlay.Handover) {
	o := n.loopOut(now)
	o.queue(p, &overlay.Frame{Head: overlay.AppendHandover(nil, h)})
	o.flush()
}

// agree asks a peer to prepare for a station's move, until it answers or ctx ends.
func (n *node) agree(ctx context.Context, p *peer, h overlay.Handover) error {
	answer := make(chan overlay.HandoverKind, 1)
	a := &n.moving
	a.mu.Lock()
	if a.answers == nil {
		a.answers = make(map[overlay.MAC]chan overlay.HandoverKind)
	}
	a.answers[h.MAC] = answer
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.answers[h.MAC] == answer {
			delete(a.answers, h.MAC)
		}
	}()
	again := time.NewTicker(handoverAsk)
	defer again.Stop()
	for {
		if err := n.do(ctx, func(now overlay.Instant) { n.tellHandover(now, p, h) }); err != nil {
			return err
		}
		select {
		case kind := <-answer:
			if kind == overlay.HandoverRefused {
				return errRefusesMove
			}
			return nil
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("it doesn't answer: %w", ctx.Err())
		}
	}
}
