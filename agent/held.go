package agent

import (
	"bytes"
	"context"
	"sync"
	"time"

	"farlan/overlay"
)

const (
	// What waits for a session with one peer, and with all, at most; then the oldest is
	// dropped. A super-frame has 64 kB.
	heldBytes, heldAllBytes = 128 << 10, 4 << 20
	heldFrames              = 256 // of one peer: small ones take memory, too
	// heldFor is how long a frame waits: who sent it has sent it again by then.
	heldFor = 3 * time.Second
)

// held are frames for peers with whom there is no session yet. Safe for concurrent use; the
// zero held is ready.
type held struct {
	mu    sync.Mutex
	of    map[*peer]*heldQueue
	bytes int
}

// A heldQueue is what waits for one peer, oldest first.
type heldQueue struct {
	frames []heldFrame
	bytes  int
}

type heldFrame struct {
	at    overlay.Instant
	frame overlay.Frame
}

// add keeps a copy of a frame for a peer, and returns how many it drops for that.
func (h *held) add(now overlay.Instant, p *peer, f *overlay.Frame) (dropped uint64) {
	f = &overlay.Frame{Head: bytes.Clone(f.Head), Body: cloneAll(f.Body), Offload: f.Offload}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == nil {
		h.of = make(map[*peer]*heldQueue)
	}
	q := h.of[p]
	if q == nil {
		q = new(heldQueue)
		h.of[p] = q
	}
	size := f.Len()
	for len(q.frames) > 0 && (q.bytes+size > heldBytes || len(q.frames) >= heldFrames) {
		h.drop(p, q)
		dropped++
	}
	h.of[p] = q
	q.frames, q.bytes, h.bytes = append(q.frames, heldFrame{now, *f}), q.bytes+size, h.bytes+size
	for h.bytes > heldAllBytes {
		h.drop(h.oldest())
		dropped++
	}
	return dropped
}

func cloneAll(all [][]byte) (out [][]byte) {
	for _, b := range all {
		out = append(out, bytes.Clone(b))
	}
	return out
}

// oldest returns whose first frame waits longest.
func (h *held) oldest() (first *peer, of *heldQueue) {
	for p, q := range h.of {
		if first == nil || q.frames[0].at < of.frames[0].at {
			first, of = p, q
		}
	}
	return first, of
}

// drop drops the first frame of a peer's queue; an empty one isn't kept.
func (h *held) drop(p *peer, q *heldQueue) {
	n := q.frames[0].frame.Len()
	q.frames[0] = heldFrame{}
	q.frames, q.bytes, h.bytes = q.frames[1:], q.bytes-n, h.bytes-n
	if len(q.frames) == 0 {
		delete(h.of, p)
	}
}

// take returns what waits for a peer.
func (h *held) take(p *peer) []heldFrame {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.of[p]
	if q == nil {
		return nil
	}
	delete(h.of, p)
	h.bytes -= q.bytes
	return q.frames
}

// expire drops what has waited for too long.
func (h *held) expire(now overlay.Instant, drop func([]heldFrame)) {
	h.mu.Lock()
	var late []*peer
	for p, q := range h.of {
		if now.Sub(q.frames[0].at) >= heldFor {
			late = append(late, p)
		}
	}
	h.mu.Unlock()
	for _, p := range late {
		drop(h.take(p))
	}
}

func (n *node) dropHeld(frames []heldFrame) { n.drops.addN(dropHeld, uint64(len(frames))) }

// hold keeps a frame until there is a session with a peer, which is opened for it.
func (o *outgoing) hold(p *peer, f *overlay.Frame) {
	o.n.drops.addN(dropHeld, o.n.held.add(o.now, p, f))
	o.n.call(p, o.n.demand)
}

// release sends what waited for a session with a peer. It isn't shaped: it is little.
func (n *node) release(now overlay.Instant, p *peer) {
	frames := n.held.take(p)
	if len(frames) == 0 {
		return
	}
	o := n.loopOut(now)
	for i := range frames {
		o.queue(p, &frames[i].frame)
	}
	o.flush()
	o.idle()
}

// loopOut returns what the loop sends frames with. They aren't shaped.
func (n *node) loopOut(now overlay.Instant) *outgoing {
	if n.late == nil {
		n.late = newOutgoing(n, 0)
		n.late.shaper = nil
	}
	n.late.now, n.late.fence = now, n.fence()
	return n.late
}

const (
	// summonFor is how long at most a session is waited for that somebody asks for, and
	// summonEvery how often it is looked.
	summonFor   = 3 * time.Second
	summonEvery = 10 * time.Millisecond
)

// summon opens a session with a peer if there is none and waits for it, but not for long.
func (n *node) summon(ctx context.Context, p *peer) {
	if p.out.Load() != nil || !p.onDemand.Load() {
		return
	}
	n.call(p, n.demand)
	look := time.NewTicker(summonEvery)
	defer look.Stop()
	for end := time.Now().Add(summonFor); p.out.Load() == nil && time.Now().Before(end); {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// reachPeer returns the peer with a name or id, with whom there is a session if one can be
// opened soon; nil if there is none of that name. It fails if there are several.
func (n *node) reachPeer(ctx context.Context, name string) (p *peer, refused *failure) {
	if n.do(ctx, func(overlay.Instant) { p = n.find(name, n.names()) }) == nil && p != nil {
		n.summon(ctx, p)
		return p, nil
	}
	if p, refused = n.lookFor(ctx, name); p != nil {
		n.summon(ctx, p)
	}
	return p, refused
}
