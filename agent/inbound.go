package agent

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"farlan/overlay"
	"farlan/overlay/link"
)

// reportEvery is how often one session tells the node's loop the same news of
// an address: the loop acts on the first.
const reportEvery = 10 * time.Millisecond

// An inbound carries what one socket receives to the ports. Its goroutine does
// everything from the read of a batch to the writes of its frames: no hand-off,
// no allocation.
type inbound struct {
	n      *node
	socket *link.Socket
	writer *link.Writer
	batch  *link.Batch
	snoop  snooper

	// The datagram at hand.
	now  overlay.Instant
	from netip.AddrPort
	at   *inboundSession

	one   [1][]byte
	reply []byte
	each  func(from netip.AddrPort, d []byte) bool // bound once
	view  *view
}

func newInbound(n *node, s *link.Socket) *inbound {
	in := &inbound{
		n: n, socket: s, writer: s.Writer(), batch: link.NewBatch(),
		reply: make([]byte, overlay.HeaderLen, 128),
	}
	in.each = func(from netip.AddrPort, d []byte) bool {
		in.datagram(from, d)
		return true
	}
	return in
}

// run reads until the socket is closed.
func (in *inbound) run() error {
	for {
		if err := in.socket.Read(in.batch); err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		in.now = in.n.now()
		in.view = in.n.view.Load()
		in.batch.All(in.each)
	}
}

func (in *inbound) datagram(from netip.AddrPort, d []byte) {
	kind, ok := overlay.ParseKind(d)
	switch {
	case !ok:
		in.n.drops.add(dropStranger)
	case kind == overlay.KindData:
		in.data(from, d)
	default:
		in.handshake(from, d)
	}
}

// handshake hands a handshake message to the node's loop, if a member made it.
func (in *inbound) handshake(from netip.AddrPort, d []byte) {
	if !in.n.hs.Genuine(d) {
		in.n.drops.add(dropStranger)
		return
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

// data opens a data datagram and carries what is in it further.
func (in *inbound) data(from netip.AddrPort, d []byte) {
	s := in.view.sessions[overlay.ReceiverIndex(d)]
	if s == nil {
		in.n.drops.add(dropNoKeys)
		return
	}
	body, ok := s.session.Open(d)
	if !ok {
		in.n.drops.add(dropForged)
		return
	}
	in.from, in.at = from, s
	in.news()
	p := s.peer
	p.mu.Lock()
	if p.path != nil {
		p.path.Heard(in.now)
	}
	before := p.unpack.Malformed + p.unpack.Unknown
	p.unpack.Unpack(body, in)
	if p.unpack.Malformed+p.unpack.Unknown != before {
		in.n.drops.add(dropMalformed)
	}
	p.mu.Unlock()
}

// news tells the loop of the first datagram on a session, and of one from
// another address than before: the newest authenticated one's source counts.
func (in *inbound) news() {
	n, s, from := in.n, in.at.session, in.from
	if !in.at.waiting {
		o := in.at.peer.out.Load()
		if o == nil || o.session != s || o.to == from {
			return
		}
	}
	last := in.at.reported.Load()
	if in.now.Sub(overlay.Instant(last)) < reportEvery || !in.at.reported.CompareAndSwap(last, int64(in.now)) {
		return
	}
	n.mail.offer(func(overlay.Instant) { n.sessions.Heard(s, from) })
}

// Frame carries a frame of the peer's to the ports; overlay.Items.
func (in *inbound) Frame(f []byte) {
	p := in.at.peer
	to, v := in.n.sw.Forward(in.now, p.place(), f, &p.floods)
	switch v {
	case overlay.ToPlace:
		if i, ok := to.Port(); ok {
			in.write(i, f)
		}
	case overlay.Flood:
		for i := range in.n.ports {
			in.write(i, f)
		}
	default:
		in.n.drops.verdict(v)
		return
	}
	in.snoop.frame(&in.n.sw.Stations, f)
}

func (in *inbound) write(port int, f []byte) {
	in.one[0] = f
	if in.n.ports[port].Write(in.one[:]) == 0 {
		in.n.drops.add(dropPort)
	}
}

// Probe answers a probe at once, to where it came from; overlay.Items.
func (in *inbound) Probe(p overlay.Probe) {
	p.HoldMicros = uint32(max(in.n.now().Sub(in.now).Microseconds(), 0))
	b := overlay.AppendProbe(in.reply[:overlay.HeaderLen], p, true)
	if d := in.at.session.Seal(b); d != nil {
		if err := in.writer.Send(in.from, d, len(d)); err != nil {
			in.n.drops.add(dropSend)
		}
	}
}

// ProbeReply takes the reply to a probe of ours; overlay.Items.
func (in *inbound) ProbeReply(p overlay.Probe) { in.at.peer.reply(in.now, p) }

// Bye says that the peer leaves; overlay.Items.
func (in *inbound) Bye() {
	n, p := in.n, in.at.peer
	n.mail.offer(func(now overlay.Instant) { n.gone(now, p, "left") })
}
