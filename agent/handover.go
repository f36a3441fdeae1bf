package agent

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"farlan/overlay"
)

// A station that is about to move is prepared for it at the agent that it leaves and at the
// one that it comes to. Frames for it go on to the agent that it leaves, from everybody, and
// are written to its port there, as the move may fail; and copies of those that its hypervisor
// has not read are kept (see overlay.Kept), until it speaks at the other agent. Then what is
// left, which surely didn't reach it, is sent after it. When somebody says that it has stopped
// here, before it speaks there, that is sent at once, and all that comes for it from then on is
// sent to the other agent instead; that one keeps it until the station speaks there. So a frame
// is always one agent's to deliver, and the wide area carries it once. Broadcasts and multicasts
// go to all agents anyhow, and aren't kept.
const (
	// maxHandovers bounds the stations that are prepared to leave, and those to come. Further
	// ones are refused.
	maxHandovers = 32
	// handoverLook is how often it is looked whether a station has moved, and what was read.
	handoverLook = time.Millisecond
	// stoppedFor is how long a station that has stopped here is waited for elsewhere; then
	// frames for it are written here again.
	stoppedFor = time.Minute
	// resumedAfter is how long after a station was said to have stopped here it speaks only if it
	// hasn't, or goes on: then nothing is sent elsewhere any more.
	resumedAfter = 500 * time.Millisecond
	// leftFor is for how long what lanes still write for a station that has moved is sent
	// after it.
	leftFor = 50 * time.Millisecond
	// handoverRate and handoverBurst bound what peers may say of handovers.
	handoverRate, handoverBurst = 20, 100
)

var (
	errHandovers = errors.New("too many stations are prepared to move")
	errNoStation = errors.New("no such station")
	errPrepared  = errors.New("it isn't prepared to move")

	errRefusesMove = errors.New("it refuses: the station isn't where this agent has it, or too many are prepared to move there")
)

// A handover is a station that moves from this agent to another, or the other way round.
type handover struct {
	mac     overlay.MAC
	peer    *peer                    // the other agent
	comes   bool                     // to this one
	until   atomic.Int64             // an Instant: when it is given up
	left    overlay.Instant          // when it was seen to have moved, 0: it hasn't; the watcher's
	stopped atomic.Int64             // an Instant: when it was said to have stopped where it leaves; 0: not
	reads   atomic.Pointer[tapReads] // what its hypervisor reads; nil: unknown, or it comes
	kept    overlay.Kept
}

// over says whether the lease has ended.
func (x *handover) over(now overlay.Instant) bool { return now >= overlay.Instant(x.until.Load()) }

func (x *handover) hasStopped() bool { return x.stopped.Load() != 0 }

// resumed says whether the station, which was heard last at a moment, has gone on where it
// stopped.
func (x *handover) resumed(heard overlay.Instant) bool {
	at := overlay.Instant(x.stopped.Load())
	return at != 0 && heard.Sub(at) > resumedAfter
}

// sample drops what the station may have got.
func (x *handover) sample(now overlay.Instant) {
	if r := x.reads.Load(); r != nil {
		x.kept.Sample(now, r.read)
	}
}

// handovers are those of an agent. Safe for concurrent use; the zero one is ready.
type handovers struct {
	now atomic.Pointer[map[overlay.MAC]*handover] // what lanes look at; nil: none

	mu       sync.Mutex
	watching bool
	answers  map[overlay.MAC]chan overlay.HandoverKind
	said     overlay.Bucket // of what peers say
}

// of returns the handover of a station, nil if there is none.
func (h *handovers) of(m overlay.MAC) *handover {
	if all := h.now.Load(); all != nil {
		return (*all)[m]
	}
	return nil
}

// set notes a handover in place of any other of the station; it is false if there are too many.
func (h *handovers) set(x *handover) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := map[overlay.MAC]*handover{x.mac: x}
	count := 0
	if was := h.now.Load(); was != nil {
		for m, o := range *was {
			if m == x.mac {
				continue
			}
			if all[m] = o; o.comes == x.comes {
				count++
			}
		}
	}
	if count >= maxHandovers {
		return false
	}
	if was := h.of(x.mac); was != nil {
		was.reads.Swap(nil).close()
	}
	h.now.Store(&all)
	return true
}

// end forgets a handover.
func (h *handovers) end(x *handover) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.now.Load()
	if was == nil || (*was)[x.mac] != x {
		return
	}
	all := maps.Clone(*was)
	if delete(all, x.mac); len(all) == 0 {
		h.now.Store(nil)
	} else {
		h.now.Store(&all)
	}
	x.reads.Swap(nil).close()
}

// prepare notes that a station will move to or from a peer.
func (n *node) prepare(now overlay.Instant, m overlay.MAC, p *peer, lease time.Duration) (*handover, error) {
	at, known := n.sw.Stations.Lookup(now, m)
	port, here := at.Port()
	if owner := n.view.Load().peer(at); !known || !here && (owner == nil || owner.id != p.id) {
		return nil, errNoStation
	}
	x := &handover{mac: m, peer: p, comes: !here}
	x.until.Store(int64(now.Add(lease)))
	if !n.moving.set(x) {
		return nil, errHandovers
	}
	n.aside("handovers", func(context.Context) error {
		if here {
			n.count(x, n.ports[port])
		}
		return nil
	})
	n.watchHandovers()
	return x, nil
}

// count finds out how to tell what the station's hypervisor reads, if that can be told.
func (n *node) count(x *handover, p *port) {
	x.reads.Store(findReads(p.bridge, p.Name(), x.mac))
	if n.moving.of(x.mac) != x { // it has ended meanwhile
		x.reads.Swap(nil).close()
	}
}

// aside runs what may take a while beside the loop.
func (n *node) aside(name string, f func(context.Context) error) {
	if n.spawn == nil {
		_ = f(context.Background()) // nothing runs
		return
	}
	n.spawn(name, f)
}

// watchHandovers looks at handovers until there are none.
func (n *node) watchHandovers() {
	h := &n.moving
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watching || n.spawn == nil {
		return
	}
	h.watching = true
	n.spawn("handovers", func(ctx context.Context) error {
		tick := time.NewTicker(handoverLook)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			n.lookAtHandovers(n.now())
			h.mu.Lock()
			if h.now.Load() == nil {
				h.watching = false
				h.mu.Unlock()
				return nil
			}
			h.mu.Unlock()
		}
	})
}

// lookAtHandovers does what is due.
func (n *node) lookAtHandovers(now overlay.Instant) {
	all := n.moving.now.Load()
	if all == nil {
		return
	}
	for _, x := range *all {
		if x.comes {
			n.lookAtComing(now, x)
		} else {
			n.lookAtLeaving(now, x)
		}
	}
}

func (n *node) lookAtComing(now overlay.Instant, x *handover) {
	at, known := n.sw.Stations.Lookup(now, x.mac)
	switch port, here := at.Port(); {
	case known && here:
		kept := x.kept.Take()
		for i := range kept {
			n.write(port, 0, n.fence(), kept[i:i+1])
		}
		n.log.Info("a prepared station is here", "mac", x.mac, "from", x.peer.id, "frames", len(kept))
		n.moving.end(x)
	case x.over(now):
		n.giveUp(x)
	}
}

func (n *node) lookAtLeaving(now overlay.Instant, x *handover) {
	if !x.hasStopped() {
		x.sample(now)
	}
	at, known := n.sw.Stations.Lookup(now, x.mac)
	_, here := at.Port()
	switch {
	case known && !here:
		if x.left == 0 {
			x.left = now
			n.log.Info("a prepared station has moved", "mac", x.mac, "to", x.peer.id)
		}
		n.sendAfter(at, x)
		if now.Sub(x.left) >= leftFor {
			n.moving.end(x)
		}
	case x.over(now), known && x.resumed(n.sw.Stations.HeardLast(x.mac)):
		n.giveUp(x)
	case x.hasStopped(): // what lanes had in hand
		n.sendAfter(x.peer.place(), x)
	}
}

// giveUp ends a handover of which nothing came.
func (n *node) giveUp(x *handover) {
	n.moving.end(x)
	kept := x.kept.Take()
	if x.comes || x.hasStopped() {
		n.drops.addN(dropMoving, uint64(len(kept)))
	}
	n.log.Info("a prepared station didn't move", "mac", x.mac)
}

// stop notes that a station has stopped where it leaves: what it surely didn't get goes after
// it, and all that comes for it from now on.
func (n *node) stop(now overlay.Instant, x *handover) {
	x.sample(now)
	x.until.Store(int64(now.Add(stoppedFor)))
	x.stopped.Store(int64(now))
}

// sendAfter sends what is kept for a station to a place.
func (n *node) sendAfter(at overlay.Place, x *handover) {
	frames := x.kept.Take()
	if len(frames) == 0 {
		return
	}
	if !n.mail.offer(func(now overlay.Instant) {
		p := n.view.Load().peer(at)
		if p == nil {
			n.drops.addN(dropMoving, uint64(len(frames)))
			return
		}
		o := n.loopOut(now)
		for i := range frames {
			o.queue(p, &frames[i])
		}
		o.flush()
	}) {
		n.drops.addN(dropMoving, uint64(len(frames)))
	}
}

// leaves says of a frame for a station at a port of this agent that it is to go to the peer that
// it returns instead; else that is nil, and a copy is kept if the station is about to leave.
func (n *node) leaves(now overlay.Instant, f *overlay.Frame) *peer {
	x := n.moving.of(overlay.MAC(f.Head[:6]))
	switch {
	case x == nil || x.comes:
	case x.hasStopped():
		return x.peer
	case x.reads.Load() != nil:
		x.kept.Keep(now, f) // what goes for it was most likely read
	}
	return nil
}

// comes keeps a peer's frame for a station that is about to come from there, and says whether
// it is one.
func (n *node) comes(now overlay.Instant, p *peer, f *overlay.Frame) bool {
	x := n.moving.of(overlay.MAC(f.Head[:6]))
	if x == nil || !x.comes || x.peer.id != p.id {
		return false
	}
	n.drops.addN(dropMoving, uint64(x.kept.Keep(now, f)))
	return true
}
