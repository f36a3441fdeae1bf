package agent

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// A peer is another member, as the node and the frame path share it.
type peer struct {
	id    overlay.AgentID
	index int // its Place; see node.index
	out   atomic.Pointer[outbound]
	cuts  atomic.Uint32 // numbers the frames that are cut, over all sessions

	// The node's loop alone uses these.
	known  overlay.Instant // since when
	since  overlay.Instant // since when it is in its state
	state  measure.State
	probe  overlay.Instant // when to send the next one
	member discovery.Member

	mu      sync.Mutex // guards what follows
	unpack  overlay.Unpacker
	floods  overlay.Source
	path    *measure.Path // nil: never heard from
	waiters map[uint32]chan<- time.Duration
}

// An outbound is where the frames to a peer go. It is replaced as a whole.
type outbound struct {
	session *overlay.Session
	to      netip.AddrPort
}

// An inbound session can open datagrams.
type inboundSession struct {
	peer     *peer
	session  *overlay.Session
	waiting  bool // for its first datagram
	reported atomic.Int64
}

// A view is what the frame path sees of the members. It is immutable, but for
// what its peers guard themselves.
type view struct {
	byIndex  []*peer // nil where there is none
	linked   []*peer // those with a session, in the order of their ids
	sessions map[uint32]*inboundSession
}

func newPeer(id overlay.AgentID, index int, now overlay.Instant) *peer {
	return &peer{
		id: id, index: index, known: now, since: now, state: measure.Suspect,
		floods: overlay.NewSource(false),
	}
}

// place is where the switch finds the peer.
func (p *peer) place() overlay.Place { return overlay.AgentPlace(p.index) }

// heard notes that the peer is there.
func (p *peer) heard(now overlay.Instant) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.path == nil {
		p.path = measure.NewPath(now)
	}
	p.path.Heard(now)
}

// reply takes the reply to a probe; p.mu is held.
func (p *peer) reply(now overlay.Instant, r overlay.Probe) {
	if p.path == nil {
		return
	}
	hold := time.Duration(r.HoldMicros) * time.Microsecond
	rtt, ok := p.path.Reply(now, r.Number, hold)
	if w := p.waiters[r.Number]; w != nil && ok {
		delete(p.waiters, r.Number)
		w <- rtt // has room for every probe
	}
}

// publish replaces the view after sessions changed.
func (n *node) publish(now overlay.Instant) {
	old := n.view.Load()
	v := &view{byIndex: slices.Clone(n.byIndex), sessions: make(map[uint32]*inboundSession)}
	current := make(map[*peer]bool)
	n.sessions.Live(func(l overlay.Live) {
		p := n.peers[l.Session.Peer()]
		if p == nil {
			return
		}
		in := old.sessions[l.Session.LocalIndex()]
		if in == nil || in.session != l.Session || in.waiting != l.Waiting {
			in = &inboundSession{peer: p, session: l.Session, waiting: l.Waiting}
		}
		v.sessions[l.Session.LocalIndex()] = in
		if l.Current {
			current[p] = true
			v.linked = append(v.linked, p)
			n.attach(now, p, l)
		}
	})
	for _, p := range n.peers {
		if !current[p] {
			p.out.Store(nil)
		}
	}
	n.view.Store(v)
}

// attach makes a live session the one that frames to p are sent with.
func (n *node) attach(now overlay.Instant, p *peer, l overlay.Live) {
	o := p.out.Load()
	if o != nil && o.session == l.Session && o.to == l.Addr {
		return
	}
	p.out.Store(&outbound{session: l.Session, to: l.Addr})
	if o == nil || o.session != l.Session {
		p.heard(now) // the handshake proved that it is there
		p.probe = now
	}
}
