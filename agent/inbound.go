package agent

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"farlan/overlay"
	"farlan/overlay/link"
)

// reportEvery is how often one session tells the node's loop the same news of
// an address: the loop acts on the first.
const reportEvery = 10 * time.Millisecond

// maxAcking is how many sessions a lane owes acknowledgements at once. When
// there are more, the others are acknowledged when their next datagrams come.
const maxAcking = 256

// An inbound is the half of a lane that carries what sockets receive to the
// ports.
type inbound struct {
	n      *node
	lane   int
	acking []*inboundSession // that are owed an acknowledgement
	taken  *meter            // of what comes
	limit  *overlay.Bucket   // bytes that may be passed on, nil: no limit

	// The datagram at hand.
	now    overlay.Instant
	view   *view
	writer *link.Writer // for replies
	from   netip.AddrPort
	hop    *inboundSession // with the agent that relayed it, nil if none did
	byway  bool            // it came by one
	path   []overlay.Label // then: the way back to who sent it
	data   []byte          // what it was read with
	size   int
	fence  overlay.Instant
	stamp  overlay.Instant // the kernel's, when it came; 0 unknown
	at     *inboundSession
	open   *peer             // who sent what an unpacker may hold back
	opened *overlay.Unpacker // that one

	// The datagrams of session at, and one space, that are not noted yet.
	count, bytes int
	space        overlay.Space
	counter      uint64          // there
	quiet        int             // of count, how many are not worth an acknowledgement
	ack          bool            // the datagram at hand has one
	noticed      overlay.Instant // when somebody was told that a path is broken

	by      *[overlay.Classes]sendFunc // to pass on; nil: nothing is
	passing passing

	out       *outgoing // to pass on what is flooded; nil: nothing is
	spreading spreadRun
	claims    []overlay.Claim // scratch
	reached   []overlay.Place // scratch
	turned    []byte          // scratch: a datagram that begins another leg

	one    [1]overlay.Frame
	reply  []byte
	fronts []byte // scratch: a reply with a path in front
}

func newInbound(n *node, lane int) *inbound {
	return &inbound{
		n: n, lane: lane, taken: &n.routing.taken, limit: n.newTransitLimit(), reply: make([]byte, overlay.HeaderLen, probeSpace),
		acking: make([]*inboundSession, 0, maxAcking),
	}
}

// receive takes what a socket has received; replies go out by a writer.
func (in *inbound) receive(now overlay.Instant, view *view, replies *link.Writer, b *link.Batch) {
	in.now, in.view, in.writer = now, view, replies
	for i := range b.Len() {
		in.from, in.data, in.stamp, in.fence = b.From(i), b.Data(i), b.Stamp(i), in.n.fence()
		in.taken.add(len(in.data) + packetOverhead(in.from)*((len(in.data)+b.Segment(i)-1)/max(b.Segment(i), 1)))
		segment := b.Segment(i)
		for at := 0; at < len(in.data); {
			end := min(at+segment, len(in.data))
			in.datagram(in.data[at:end:end], at)
			at = end
		}
		in.note(b.Stamp(i))
		in.passOn()
		in.passSpreads()
	}
	in.flush()
}

// flush delivers what the last peer's unpacker holds back.
func (in *inbound) flush() {
	if in.open != nil {
		in.opened.Flush(in)
		in.open, in.opened = nil, nil
	}
}

// datagram takes a datagram, which lies at a place in what was read.
func (in *inbound) datagram(d []byte, at int) {
	kind, ok := overlay.ParseKind(d)
	switch {
	case !ok:
		in.n.drops.add(dropStranger)
	case kind == overlay.KindData || kind == overlay.KindProbe:
		in.sealed(kind, d, at)
	case kind == overlay.KindRelay:
		in.transit(d, at)
	case kind == overlay.KindTrain:
		in.n.drops.add(dropTrain) // it didn't come to the socket for trains
	default:
		in.handshake(d)
	}
}

// handshake hands a handshake message to the node's loop, if a member made it.
func (in *inbound) handshake(d []byte) {
	if !in.n.hs.Genuine(d) {
		in.n.drops.add(dropStranger)
		return
	}
	from := overlay.Direct(in.from)
	if in.hop != nil {
		from = overlay.Relayed(in.hop.peer.id)
	}
	n, msg := in.n, append([]byte(nil), d...)
	ok := n.mail.offerLow(func(now overlay.Instant) {
		if err := n.sessions.Receive(now, from, msg); err != nil {
			n.drops.add(dropHandshake)
			n.log.Debug("handshake refused", "from", from, "error", err)
		}
	})
	if !ok {
		n.drops.add(dropBusy)
	}
}

// sealed opens a datagram of a session, which lies at a place in what was read, and carries
// what is in it further.
func (in *inbound) sealed(kind overlay.Kind, d []byte, at int) {
	s := in.at
	if index := overlay.ReceiverIndex(d); s == nil || s.session.LocalIndex() != index || in.count == 0 {
		if s = in.view.sessions[index]; s == nil {
			in.n.drops.add(dropNoKeys)
			return
		}
	}
	space, counter := overlay.SpaceOf(overlay.Counter(d))
	body, ok := s.session.Open(d)
	if !ok {
		in.n.drops.add(dropForged)
		return
	}
	if s != in.at || space != in.space {
		in.note(0)
		in.at, in.space = s, space
	}
	in.count++
	in.bytes += len(d)
	in.counter = max(in.counter, counter)
	in.size = len(d)
	in.ack = false
	if overlay.IsSpread(body) {
		in.spread(d, at)
	} else {
		in.unpack(s.peer, &s.peer.lanes[in.lane].unpack, body)
	}
	if kind == overlay.KindProbe || in.ack && len(d) == overlay.AckDatagram {
		in.quiet++
	}
}

// unpack takes apart what a peer has packed, with the unpacker that is for that.
func (in *inbound) unpack(p *peer, u *overlay.Unpacker, items []byte) {
	if in.opened != u {
		in.flush()
		in.open, in.opened = p, u
	}
	before := u.Malformed + u.Unknown
	u.Unpack(items, in)
	if u.Malformed+u.Unknown != before {
		in.n.drops.add(dropMalformed)
	}
}

// note accounts for the datagrams of a session that came in one go.
func (in *inbound) note(stamp overlay.Instant) {
	if in.count == 0 {
		return
	}
	s := in.at
	in.news(s)
	s.peer.got.add(in.bytes)
	if in.space != overlay.SpaceReserved && in.counts(s.peer) {
		s.peer.heardAt.Store(int64(in.now))
	} // else it isn't the way that frames to the peer take: that may be cut
	s.mu.Lock()
	if in.quiet == in.count { // to acknowledge acknowledgements would never end
		s.receivers[in.space].Counted(in.counter, in.count, in.bytes, stamp)
	} else {
		s.receivers[in.space].Received(in.now, in.counter, in.count, in.bytes, stamp)
	}
	owed := s.next() != 0
	s.mu.Unlock()
	if owed && in.lane < in.n.lanes && !s.owed.Load() && len(in.acking) < maxAcking && !s.owed.Swap(true) {
		in.acking = append(in.acking, s)
		s.peer.acking.Store(s)
	}
	in.count, in.bytes, in.counter, in.quiet = 0, 0, 0, 0
}

// way returns the way that the datagram at hand came, and back.
func (in *inbound) way() overlay.Way {
	switch {
	case in.hop == nil:
		return overlay.Direct(in.from)
	case len(in.path) > 3: // nobody relays alone: back it goes as before
		if out := in.at.peer.out.Load(); out != nil {
			return out.way
		}
	}
	return overlay.Relayed(in.hop.peer.id)
}

// news tells the loop of the first datagram on a session, and of one from
// another address than before: the newest authenticated one's source counts.
func (in *inbound) news(at *inboundSession) {
	n, s, from := in.n, at.session, in.way()
	if !at.waiting {
		if in.space == overlay.SpaceReserved {
			return // it may come by a circuit, where nothing else is to go
		}
		o := at.peer.out.Load()
		switch {
		case o == nil:
			return
		case o.session != s:
			if !overlay.OtherChoice(in.now, s, o.session) {
				return
			}
		case o.way == from || in.hop != nil || in.byway || !o.byPort():
			return // what takes another way turns direct when a probe was answered so
		}
	}
	last := at.reported.Load()
	if in.now.Sub(overlay.Instant(last)) < reportEvery || !at.reported.CompareAndSwap(last, int64(in.now)) {
		return
	}
	n.mail.offer(func(now overlay.Instant) { n.sessions.Heard(now, s, from) })
}

// Frame carries a frame of the peer's to the ports; overlay.Items.
func (in *inbound) Frame(f *overlay.Frame) {
	p := in.open
	if overlay.IsHandover(f.Head) {
		in.takeHandover(p, f.Head)
		return
	}
	if overlay.IsClaims(f.Head) {
		if in.affords(p, f.Head) {
			in.takeClaims(p, f.Head)
		}
		return
	}
	if overlay.IsSegment(f.Head) && in.n.takeBeacon(-1, f.Head) {
		in.n.drops.add(dropStandby)
		return
	}
	if in.fence != 0 {
		in.n.segments.returns.Came(in.now, f.Head)
	}
	source := &p.lanes[in.lane].floods
	source.Trust = overlay.Trust(p.trust.Load())
	to, v := in.n.sw.Forward(in.now, p.place(), f.Head, source)
	switch v {
	case overlay.ToPlace:
		if i, ok := to.Port(); ok {
			if other := in.n.leaves(in.now, f); other != nil {
				in.after(other.place(), f)
			} else {
				in.write(i, f)
			}
		} else {
			in.after(to, f)
		}
	case overlay.Flood:
		if source.Heard.Said == overlay.SaidMDNS && !in.n.cfg.AskAll {
			in.n.sw.HearName(in.now, p.place(), f, &source.Heard)
		}
		in.flooded(p, f)
	default:
		if v == overlay.DropSame && in.n.comes(in.now, p, f) {
			return
		}
		in.n.guard(in.now, v, p.place(), f.Head)
		return
	}
	if source.Heard.Said != overlay.SaidNothing {
		snoop(&in.n.sw.Stations, f.Head)
	}
}

// after sends a frame for a station that has just left this agent after it. The loop does:
// there are few, for as long as those who send them haven't heard of it.
func (in *inbound) after(to overlay.Place, f *overlay.Frame) {
	n, p := in.n, in.view.peer(to)
	late := &overlay.Frame{Head: bytes.Clone(f.Head), Body: cloneAll(f.Body), Offload: f.Offload}
	if p == nil || !n.mail.offer(func(now overlay.Instant) {
		o := n.loopOut(now)
		o.queue(p, late)
		o.flush()
	}) {
		n.drops.verdict(overlay.DropTransit)
	}
}

func (in *inbound) write(port int, f *overlay.Frame) {
	in.one[0] = *f
	in.n.write(port, in.lane, in.fence, in.one[:])
}

// arrived returns when the datagram at hand came, by the kernel's stamp: that is the wall
// clock's, so it tells only how long ago that was.
func (in *inbound) arrived() overlay.Instant {
	const atMost = time.Minute // or the clock was set meanwhile
	age := in.n.wall().Sub(in.stamp)
	if in.stamp == 0 || age < 0 || age > atMost {
		return in.now
	}
	return in.n.now().Add(-age)
}

// Probe answers a probe at once, to where it came from; overlay.Items.
func (in *inbound) Probe(q overlay.Probe) {
	if in.space != overlay.SpaceWay {
		in.detourProbe(q, false)
		return
	}
	at, s := in.arrived(), in.at
	from := s.peer
	if n, addr := in.n, in.from; q.Number == directProbe && in.hop == nil && !from.byPort() {
		n.mail.offer(func(now overlay.Instant) { n.tried(now, from, addr) })
	} else if q.Number == punchNumber && in.hop != nil {
		n.mail.offer(func(now overlay.Instant) { n.invited(now, from) })
	}
	r := overlay.Probe{Echo: q.Number}
	if q.Number < overlay.ProbeSpecial {
		if !from.echo(at, q, false, s.session) {
			in.n.drops.add(dropProbe)
		}
		from.mu.Lock()
		if from.path != nil {
			r = from.path.Answer(in.n.now(), q.Number, at)
		}
		from.mu.Unlock()
		s.tell(&r)
	}
	r.Size = uint16(in.size)
	if in.hop == nil {
		r.Seen = in.from
	}
	b := overlay.AppendProbe(in.reply[:overlay.HeaderLen], r, true)
	in.answerBack(s.session.Seal(overlay.KindProbe, 0, b))
}

// answerBack sends a reply the way that the datagram at hand came; nil is none.
func (in *inbound) answerBack(d []byte) {
	if d == nil {
		return
	}
	if in.hop != nil {
		in.fronts = overlay.AppendRelayed(in.fronts[:0], in.hop.session, overlay.LaneDelay, in.path, d)
		d = in.fronts
	}
	if err := in.answer(d); err != nil {
		in.n.drops.add(dropSend)
	}
}

// ProbeReply takes the reply to a probe of ours; overlay.Items.
func (in *inbound) ProbeReply(r overlay.Probe) {
	if in.space != overlay.SpaceWay {
		in.detourProbe(r, true)
		return
	}
	if in.hop == nil && !in.byway {
		in.seen(r.Seen)
	}
	if r.Echo != directProbe {
		if !in.at.peer.echo(in.arrived(), r, true, in.at.session) {
			in.n.drops.add(dropProbe)
		}
	} else if in.hop == nil && (!in.byway || !in.at.peer.byPort()) {
		n, s, from := in.n, in.at.session, in.way()
		in.at.peer.arrived(in.now, 1)
		n.mail.offer(func(now overlay.Instant) { n.sessions.Heard(now, s, from) })
	}
}

// Notice takes what a member says of paths; overlay.Items.
func (in *inbound) Notice(x overlay.Notice) {
	n, from := in.n, in.at.peer
	n.mail.offer(func(now overlay.Instant) { n.noticed(now, from, x) })
}

// Request takes what a peer says of a link; overlay.Items.
func (in *inbound) Request(msg []byte) {
	n, from, msg := in.n, in.at.peer, slices.Clone(msg)
	n.mail.offer(func(now overlay.Instant) { n.requested(now, from, msg) })
}

// Bye says that the peer leaves; overlay.Items.
func (in *inbound) Bye() {
	n, p := in.n, in.at.peer
	n.mail.offer(func(now overlay.Instant) { n.gone(now, p, "left") })
}
