package agent

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"

	"farlan/discovery/p2p"
	"farlan/overlay"
	"farlan/overlay/link"
)

// A byway carries datagrams to and from one member beside the agent's port: a pipe
// through TCP, or a socket of its own. It has an address in 100::/64, the prefix that
// no packet leaves for (discard-only, RFC 6666), so that sessions, ways and relays
// treat it as any other address: what is sent there goes into the byway, and what
// comes out of it is taken as sent from there. The port's own datagrams come first: a
// byway is left as soon as they pass.
type byway struct {
	addr   netip.AddrPort
	peer   overlay.AgentID
	remote netip.AddrPort // where it leads
	opened bool           // by this agent
	send   sendFunc       // safe for concurrent use; doesn't keep what it sends
	close  func()
}

var bywayPrefix = netip.MustParsePrefix("100::/64")

// The ports of byways say what they are.
const (
	streamByway = 1 + iota // a pipe through TCP
	socketByway            // a UDP socket for one member
)

// isByway says whether an address stands for a byway.
func isByway(a netip.Addr) bool { return bywayPrefix.Contains(a) }

// isStream says whether an address stands for a pipe through TCP.
func isStream(a netip.AddrPort) bool { return a.Port() == streamByway && isByway(a.Addr()) }

// byPort says whether the datagrams leave by the agent's own port, and no other
// agent relays them.
func (o *outbound) byPort() bool { return o.relay == nil && !isByway(o.way.Addr.Addr()) }

// byPort says whether datagrams to the peer leave by the agent's own port, and no
// other agent relays them.
func (p *peer) byPort() bool {
	out := p.out.Load()
	return out != nil && out.byPort()
}

// byways are those that there are. What comes out of them is taken by one goroutine
// at a time: that of a pipe waits for its turn, so TCP slows down who sends too much.
type byways struct {
	count atomic.Uint64 // made so far: no address is used twice
	table sync.Map      // netip.AddrPort → *byway

	mu sync.Mutex // guards in
	in *inbound
}

// openByways makes ready for byways, which carry frames as an extra lane does.
func (n *node) openByways() {
	in := newInbound(n, n.lanes+len(n.sockets))
	in.byway = true
	in.by = &[overlay.Classes]sendFunc{
		overlay.ClassBulk:  n.sender(func(p *link.Port) *link.Writer { return p.Bulk[0].Writer() }),
		overlay.ClassDelay: n.sender(func(p *link.Port) *link.Writer { return p.Delay.Writer() }),
	}
	in.out = &outgoing{n: n, by: *in.by, whole: n.sender(func(p *link.Port) *link.Writer { return p.Handshake.Writer() })}
	n.byways.in = in
}

// add gives a byway its address, of a kind.
func (w *byways) add(b *byway, kind uint16) {
	a := bywayPrefix.Addr().As16()
	binary.BigEndian.PutUint64(a[8:], w.count.Add(1))
	b.addr = netip.AddrPortFrom(netip.AddrFrom16(a), kind)
	w.table.Store(b.addr, b)
}

func (w *byways) remove(b *byway) { w.table.Delete(b.addr) }

// at returns the byway with an address, nil if there is none.
func (w *byways) at(a netip.AddrPort) *byway {
	if b, ok := w.table.Load(a); ok {
		return b.(*byway)
	}
	return nil
}

// send sends datagrams into the byway with an address.
func (w *byways) send(to netip.AddrPort, d []byte, segment int) error {
	if b := w.at(to); b != nil {
		return b.send(b.remote, d, segment)
	}
	return errNoRelay
}

// take takes datagrams that came out of a byway.
func (w *byways) take(b *byway, ds [][]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := w.in
	in.now, in.view, in.from, in.stamp, in.fence = in.n.now(), in.n.view.Load(), b.addr, 0, in.n.fence()
	for _, d := range ds {
		in.data = d
		in.datagram(d, 0)
		in.passOn()
		in.passSpreads()
	}
	in.note(0)
	in.flush()
}

// answer sends a reply to where the datagram at hand came from.
func (in *inbound) answer(d []byte) error {
	if in.byway {
		return in.n.byways.send(in.from, d, len(d))
	}
	return in.writer.Send(in.from, d, len(d))
}

// counts says whether the datagram at hand shows that the way works which datagrams
// to p take: what comes by a worse one doesn't, that one may be all that is left.
func (in *inbound) counts(p *peer) bool {
	switch {
	case in.hop != nil:
		return !p.direct()
	case in.byway:
		return !p.byPort()
	}
	return true
}

// seen takes where the peer at hand sees this agent; what is new is told to all.
func (in *inbound) seen(a netip.AddrPort) {
	n, p := in.n, in.at.peer
	if old := p.seen.Load(); old != nil && *old == a {
		return
	}
	p.seen.Store(&a)
	n.mail.offer(func(now overlay.Instant) {
		if now.Sub(n.punches.mapped) >= tick { // of many at once the next look takes the others
			n.punches.mapped = now
			n.watchMapping()
		}
		if now.Sub(n.punches.hurried) >= controlEvery {
			n.punches.hurried, n.control.next = now, 0
		}
	})
}

// pipeUp takes a pipe that is there.
func (n *node) pipeUp(p *p2p.Pipe) {
	b := &byway{
		peer: p.Peer, remote: p.Remote, opened: p.Opened, close: p.Close,
		send: func(_ netip.AddrPort, d []byte, segment int) error { return p.Send(d, segment) },
	}
	n.byways.add(b, streamByway)
	p.Owner = b
	n.mail.put(func(now overlay.Instant) { n.piped(now, b) })
}

// pipeDown forgets a pipe that has ended.
func (n *node) pipeDown(p *p2p.Pipe) {
	b := p.Owner.(*byway)
	n.byways.remove(b)
	n.mail.put(func(now overlay.Instant) { n.unpiped(now, b) })
}

func (n *node) fromPipe(p *p2p.Pipe, ds [][]byte) { n.byways.take(p.Owner.(*byway), ds) }
