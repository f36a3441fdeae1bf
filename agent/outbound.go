package agent

import (
	"errors"
	"net/netip"
	"syscall"

	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/link"
)

// maxRuns is how many peers, and classes of frames, one lane packs for at once.
// When a batch of frames goes to more, as a broadcast does, the oldest run is
// sent first.
const maxRuns = 16

// maxRecent bounds the peers whose rates are told that a lane was idle: those of
// others are underestimated.
const maxRecent = 256

// An outgoing is the half of a lane that carries frames of ports to the peers
// and the other ports.
type outgoing struct {
	n        *node
	lane     int
	floods   []overlay.Source // of each port
	runs     []*run           // begun in this batch, oldest first
	free     []*run
	one      [1]overlay.Frame
	now      overlay.Instant
	port     int // that the frames at hand come from
	fence    overlay.Instant
	shaper   *overlay.Shaper
	reserved *reservedTable // nil: no frames have a way of their own
	missed   uint64         // frames that the shaper had dropped when drops last heard of them
	sent     int            // bytes of IP packets since the shaper was charged
	by       [overlay.Classes]sendFunc
	fronts   []byte  // scratch: a run with paths in front
	recent   []*peer // that were sent to since the lane was idle
	last     *peer   // of them
	top      *laneTop

	whole   sendFunc // where even the smallest datagrams don't pass: IP may cut them
	spreads [overlay.Classes]spreader
	limit   *overlay.Bucket // bytes that may be passed on, nil: no limit
	claims  []byte          // scratch: a frame of them, or of a question or its answer
	copied  []byte          // scratch: a run for one of many
	turned  []byte          // scratch: a run that begins another leg
	single  run             // of that
	reached []overlay.Place // scratch: to whom a multicast goes
	few     []*peer         // scratch: so
}

// A run packs frames of one class for one peer.
type run struct {
	packer   *overlay.Packer
	peer     *peer
	class    overlay.Class
	out      *outbound
	detour   *detour      // nil: the session's way
	reserved *reservedWay // nil: the class's
	frames   bool         // there were some
	flood    bool         // they are for all: no traffic of the peer's
}

func newOutgoing(n *node, lane int) *outgoing {
	o := &outgoing{n: n, lane: lane, runs: make([]*run, 0, maxRuns), free: make([]*run, 0, maxRuns), recent: make([]*peer, 0, maxRecent), top: n.laneTop(lane)}
	for i := range n.ports {
		o.floods = append(o.floods, n.newSource(i))
	}
	if rate := n.cfg.Uplink.Up; rate > 0 {
		o.shaper = overlay.NewShaper(rate.BitsPerSecond() * shapedPercent / 100)
	}
	o.whole = n.sender(func(p *link.Port) *link.Writer { return p.Handshake.Writer() })
	o.by = [overlay.Classes]sendFunc{
		overlay.ClassBulk:  n.laneSender(func(p *link.Port) *link.Writer { return p.Bulk[lane].Writer() }),
		overlay.ClassDelay: n.laneSender(func(p *link.Port) *link.Writer { return p.Delay.Writer() }),
	}
	for range maxRuns {
		r := &run{}
		r.packer = overlay.NewPacker(func(b []byte, segment int) {
			switch {
			case r.out.fragment && r.detour == nil:
				o.transmit(r, o.whole, b, segment)
			case r.reserved != nil:
				o.transmit(r, r.reserved.send[lane].send, b, segment)
			default:
				o.transmit(r, o.by[r.class], b, segment)
			}
		})
		o.free = append(o.free, r)
	}
	return o
}

// shapedPercent is how much of the uplink's rate the agent uses for frames: with a little less
// than all, the queue stands here, where it is managed, and not in the modem.
const shapedPercent = 97

type sendFunc func(to netip.AddrPort, b []byte, segment int) error

// sender returns a function that sends datagrams to an address by the socket of its family
// that choose says, for use by one goroutine.
func (n *node) sender(choose func(p *link.Port) *link.Writer) sendFunc {
	return n.senderBy(choose, (*link.Writer).Send)
}

// laneSender is sender for a lane, which waits for nothing while it has frames for which
// something is reserved: bulk that waits for its queue would keep them.
func (n *node) laneSender(choose func(p *link.Port) *link.Writer) sendFunc {
	return n.senderBy(choose, func(w *link.Writer, to netip.AddrPort, b []byte, segment int) error {
		if !n.reserved.any() {
			return w.Send(to, b, segment)
		}
		_, err := w.TrySend(to, b, segment)
		return err
	})
}

func (n *node) senderBy(choose func(p *link.Port) *link.Writer, send func(w *link.Writer, to netip.AddrPort, b []byte, segment int) error) sendFunc {
	var four, six *link.Writer
	for _, s := range n.sockets {
		if s.Delay.LocalAddr().Addr().Is4() {
			four = choose(s)
		} else {
			six = choose(s)
		}
	}
	return func(to netip.AddrPort, b []byte, segment int) error {
		w := six
		if to.Addr().Is4() {
			w = four
		} else if isByway(to.Addr()) {
			return n.byways.send(to, b, segment)
		}
		err := errNoFamily
		if w != nil {
			err = send(w, to, b, segment)
		}
		if err != nil && !errors.Is(err, syscall.EMSGSIZE) { // that is a probe's answer
			n.drops.add(dropSend)
		}
		return err
	}
}

var errNoFamily = errors.New("no socket of that family")

// transmit sends a run that the packer has filled, and notes it.
func (o *outgoing) transmit(r *run, send sendFunc, b []byte, segment int) {
	datagrams, around, p := (len(b)+segment-1)/segment, r.out.around, r.peer
	by, err := p, errNoRelay
	if r.detour != nil {
		by, around = r.detour.hop, r.detour.around
		err = o.sendRouted(r, send, b, segment)
	} else if r.out.relay == nil {
		err = send(r.out.way.Addr, b, segment)
	} else if hop := r.out.hop(); hop != nil {
		by = r.out.relay
		o.fronts, err = o.n.relay(send, hop, r.out.path, o.fronts, b, segment)
	}
	bytes := len(b) + datagrams*around
	o.sent += bytes
	if !r.flood {
		p.load.add(bytes)
	}
	by.carried.add(bytes)
	switch {
	case errors.Is(err, syscall.EMSGSIZE):
		if r.detour != nil {
			segment += overlay.RelayOverhead(len(r.detour.path))
			r.detour.hop.tooBig.Store(int64(segment))
		} else {
			p.tooBig.Store(int64(segment))
		}
		o.n.drops.add(dropSend)
	case errors.Is(err, errNoRelay):
		o.n.drops.addN(dropNoRelay, uint64(datagrams))
	}
	if r.reserved != nil {
		p.noteReserved(o.now, r)
		return
	}
	if r.detour != nil {
		p.noteRouted(o.now, r)
		return
	}
	p.sentAt.Store(int64(o.now))
	if min(segment, len(b)) > overlay.DatagramSize {
		p.filled.Store(int64(o.now))
	}
	rated := r.class != overlay.ClassDelay && r.out.relay == nil // else it is too little, or not one path
	p.note(o.now, r.out, rated)
	if rated && p != o.last && len(o.recent) < cap(o.recent) {
		o.recent, o.last = append(o.recent, p), p
	}
}

// note notes when frames were sent; rated says that they tell a rate.
func (p *peer) note(now overlay.Instant, out *outbound, rated bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sent := out.session.Sent()
	if p.path != nil {
		p.path.Sent(now, sent)
	}
	if !rated {
		return
	}
	if p.delivery == nil {
		p.delivery = new(measure.Delivery)
	}
	p.delivery.Around = out.around
	p.delivery.Sent(now, sent)
}

// idle notes that nothing waits to be sent: until more comes, how much arrives at
// the peers says nothing of what the paths to them could carry.
func (o *outgoing) idle() {
	for _, p := range o.recent {
		p.mu.Lock()
		p.delivery.AppLimited()
		p.mu.Unlock()
	}
	o.recent, o.last = o.recent[:0], nil
}

// carry takes a batch of a port's frames.
func (o *outgoing) carry(now overlay.Instant, view *view, port int, frames []overlay.Frame) {
	o.now, o.port, o.fence = now, port, o.n.fence()
	o.look()
	if !o.n.ports[port].gate.open(o.fence) {
		o.n.overhear(port, frames)
		return
	}
	probed := &o.n.ports[port].refusal
	waits := probed.waits.Load()
	o.top.mu.Lock()
	for i := range frames {
		if !waits || !probed.takes(frames[i].Head) {
			o.frame(view, &frames[i])
		}
	}
	o.top.mu.Unlock()
	o.flush()
}

func (o *outgoing) frame(view *view, f *overlay.Frame) {
	if overlay.IsSegment(f.Head) && o.n.takeBeacon(o.port, f.Head) {
		return
	}
	if o.fence != 0 && o.n.segments.returns.Back(o.now, f.Head) {
		o.n.cameBack(o.port)
	}
	source := &o.floods[o.port]
	to, v := o.n.sw.Forward(o.now, overlay.PortPlace(o.port), f.Head, source)
	if source.Learned != overlay.LearnedNothing {
		o.claimed(view, source.Learned, overlay.MAC(f.Head[6:12]))
	}
	switch v {
	case overlay.ToPlace:
		o.unicast(view, to, f)
	case overlay.Flood:
		if o.asked(view, f, &source.Heard) || o.multicast(view, f) {
			break
		}
		for i := range o.n.ports {
			if i != o.port {
				o.write(i, f)
			}
		}
		o.flood(view, f)
	default:
		o.n.guard(o.now, v, overlay.PortPlace(o.port), f.Head)
		return
	}
	o.heard(source, f)
}

func (o *outgoing) unicast(view *view, to overlay.Place, f *overlay.Frame) {
	if i, ok := to.Port(); ok {
		other := o.n.leaves(o.now, f)
		if other == nil {
			o.write(i, f)
			return
		}
		to = other.place()
	}
	if p := view.peer(to); p != nil {
		o.top.count(to, f)
		o.queue(p, f)
	} else {
		o.n.drops.add(dropNoSession)
	}
}

func (o *outgoing) write(port int, f *overlay.Frame) {
	o.one[0] = *f
	o.n.write(port, o.lane, o.fence, o.one[:])
}

// queue takes a frame for a peer: it goes at once, or when the uplink has room.
func (o *outgoing) queue(p *peer, f *overlay.Frame) {
	class, flow := overlay.ClassOf(o.n.flowKey, f.Head)
	if o.reserved != nil && o.queueReserved(p, flow, f) {
		return
	}
	if out := p.out.Load(); out != nil {
		size := out.size
		if r := p.detour(class); r != nil {
			size = r.size
		}
		clamp(f, size)
	} else if p.onDemand.Load() {
		o.hold(p, f)
		return
	}
	if o.shaper == nil {
		o.send(p, class, f)
		return
	}
	if !o.shaper.Enqueue(o.now, p.place(), class, flow, f) {
		o.n.drops.add(dropUnfit)
	}
}

// begin returns the run for frames of a class to a peer, nil if they can't be sent.
func (o *outgoing) begin(p *peer, class overlay.Class) *run { return o.beginBy(p, class, nil) }

// beginBy is begin for frames that have a way of their own, unless by is nil.
func (o *outgoing) beginBy(p *peer, class overlay.Class, by *reservedWay) *run {
	for _, r := range o.runs {
		if r.peer == p && r.class == class && r.reserved == by {
			return r
		}
	}
	out, detour := o.aim(p, class)
	if out == nil {
		return nil
	}
	if by != nil && (by.pinned != nil || by.outside()) {
		detour = by.pinned
	}
	if len(o.free) == 0 {
		o.end(o.runs[0])
		o.runs = append(o.runs[:0], o.runs[1:]...)
	}
	r := o.free[len(o.free)-1]
	o.free = o.free[:len(o.free)-1]
	r.peer, r.out, r.class, r.detour, r.reserved, r.frames = p, out, class, detour, by, false
	space, size := overlay.SpaceWay, out.size
	if r.detour != nil {
		space, size = spaceOf(class), r.detour.size
	}
	if by != nil {
		space = overlay.SpaceReserved
	}
	r.packer.Begin(out.session, space, &p.cuts, size, o.mark(class))
	o.runs = append(o.runs, r)
	return r
}

// aim returns how frames of a class go to a peer; nil, and that is counted, if they can't.
func (o *outgoing) aim(p *peer, class overlay.Class) (*outbound, *detour) {
	out := p.out.Load()
	if out == nil {
		o.n.drops.add(dropNoSession)
		return nil, nil
	}
	detour := p.detour(class)
	if p.forbidden.Load() && detour == nil && out.relay == nil {
		o.n.drops.add(dropForbidden)
		return nil, nil
	}
	if !p.used.Load() {
		p.used.Store(true)
	}
	return out, detour
}

// mark returns the lane byte of datagrams with frames of a class.
func (o *outgoing) mark(class overlay.Class) byte {
	if class == overlay.ClassDelay {
		return byte(o.lane) | overlay.LaneDelay
	}
	return byte(o.lane)
}

// send packs a frame for a peer.
func (o *outgoing) send(p *peer, class overlay.Class, f *overlay.Frame) { o.pack(o.begin(p, class), f) }

// pack packs a frame into a run, unless that is nil.
func (o *outgoing) pack(r *run, f *overlay.Frame) {
	if r == nil {
		return
	}
	r.frames = true
	if !r.packer.Add(f) {
		o.n.drops.add(dropUnfit)
	}
}

// end sends what a run has left, with an acknowledgement if one is due.
func (o *outgoing) end(r *run) {
	if s := r.peer.acking.Load(); s != nil {
		s.ack(o.n, o.now, r.packer)
	}
	r.packer.Flush()
	r.peer = nil
	o.free = append(o.free, r)
}

func (o *outgoing) flush() {
	for _, r := range o.runs {
		o.end(r)
	}
	o.runs = o.runs[:0]
	o.flushSpreads()
}
