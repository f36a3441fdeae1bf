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
	label overlay.Label
	index int // its Place; see node.index
	out   atomic.Pointer[outbound]
	// Where frames of a class go, nil: the session's way.
	detours [overlay.Classes]atomic.Pointer[detour]
	cuts    atomic.Uint32 // numbers the frames that are cut, over all sessions

	// What the lanes tell the loop, and each other.
	heardAt atomic.Int64                   // when the newest datagram came
	sentAt  atomic.Int64                   // when frames were sent last
	filled  atomic.Int64                   // when datagrams that not every path takes were sent
	tooBig  atomic.Int64                   // the size of one that this host refused to send, 0 none
	used    atomic.Bool                    // frames were sent to it
	load    meter                          // what was sent to it, by whatever way
	got     meter                          // what came of it, by whatever way
	carried meter                          // what left by the link to it, for whomever
	acking  atomic.Pointer[inboundSession] // what may be owed an acknowledgement
	seen    atomic.Pointer[netip.AddrPort] // where it sees this agent
	lanes   []peerLane                     // each one's own
	floods  peerFloods
	claims  claimBudget

	trust     atomic.Uint32 // says the loop: what may come from it, an overlay.Trust
	onDemand  atomic.Bool   // says the loop: without a session one is opened for what is sent
	calling   atomic.Bool   // that is asked of it
	silenced  atomic.Bool   // says the loop: it doesn't answer directly, or isn't up
	forbidden atomic.Bool   // and that nothing may go to it directly

	// The node's loop alone uses these.
	known     overlay.Instant // since when
	since     overlay.Instant // since when it is in its state
	state     measure.State
	probe     overlay.Instant // when to send one in any case, 0 never
	watched   bool            // see chooseWatched
	warmth    warmth          // how long a session is wanted
	wanted    overlay.Instant // until when one was asked for
	warmed    overlay.Instant // since when one is wanted
	called    overlay.Instant // when one was begun for that
	forOthers bool            // that is only to relay to it
	lost      overlay.Instant // when it was asked because it was gone, or seemed to be by what others tell, 0 never
	missed    int             // how often it was asked since it is gone
	goneAt    overlay.Instant // when it was found to be gone, by the wall clock
	candidate bool            // for a link: it is measured
	tried     overlay.Instant // directly, while another agent relays
	asked     overlay.Instant // because it was silent
	indirect  overlay.Instant // since when it isn't reached directly, 0 it is
	asks      int             // since it was silent
	silent    overlay.Instant // since when it is asked, if it is
	fathomed  overlay.Instant // when the search for the path's MTU was last looked after
	fathom    bool            // the search may go on
	member    discovery.Member
	rights    discovery.Rights
	far       bool            // it is in another area
	way       farWay          // to it then
	bypass    bypass          // of the direct way to it then
	barred    bool            // it has left, or may not do what it does: no session with it
	cut       bool            // what it was sent isn't answered: see mindSilence
	echoed    overlay.Instant // where its try came from was tried
	pipe      peerPipe
	punch     peerPunch

	mu       sync.Mutex                  // guards what follows
	path     *measure.Path               // nil: never heard from
	mtu      *measure.MTU                // nil: no session yet
	delivery *measure.Delivery           // nil: it was sent no frames
	routed   [overlay.Classes + 1]routed // the last is reservedRoute
	waiters  map[probeKey]chan<- time.Duration
	trains   peerTrains
}

// A peerLane is what one lane keeps of a peer.
type peerLane struct {
	unpack overlay.Unpacker
	floods overlay.Source
	spread *overlay.Unpacker // of what it flooded and others pass on; nil: none yet
}

// peerFloods is what lanes remember of a peer's floods together.
type peerFloods struct {
	sync.Mutex
	overlay.Floods
}

// An outbound is where the frames to a peer go. It is replaced as a whole.
type outbound struct {
	session *overlay.Session
	way     overlay.Way
	relay   *peer             // that is on the way, nil if none is
	between []overlay.AgentID // then, the relay first
	path    []overlay.Label
	around  int // bytes around each datagram: headers of IP and UDP, and of the path
	size    int // of datagrams: what the path's MTU lets pass
	// fragment says that not even the smallest size passes: then IP may cut.
	fragment bool
}

// An inbound session can open datagrams.
type inboundSession struct {
	peer     *peer
	session  *overlay.Session
	waiting  bool // for its first datagram
	relays   bool // the peer may relay others' datagrams
	reported atomic.Int64
	owed     atomic.Bool // an acknowledgement, by the lane that has it on its list

	mu        sync.Mutex
	receivers [overlay.Spaces]measure.Receiver
}

// A view is what the frame path sees of the members. It is immutable, but for
// what its peers guard themselves.
type view struct {
	byIndex  []*peer // nil where there is none
	linked   []*peer // those with a session, in the order of their ids
	members  []*peer // those who are there, with a session or not; nil: all have one
	sessions map[uint32]*inboundSession
	byLabel  map[overlay.Label]*peer // nil where two have the same
	afar     *afar                   // nil in tests
}

// peer returns the peer at a place, nil if there is none.
func (v *view) peer(at overlay.Place) *peer {
	i, ok := at.Agent()
	if ok && i >= farPlaces && v.afar != nil {
		return v.afar.at(i - farPlaces)
	}
	if !ok || i >= len(v.byIndex) {
		return nil
	}
	return v.byIndex[i]
}

func newPeer(id overlay.AgentID, index int, now overlay.Instant, lanes int) *peer {
	p := &peer{id: id, label: id.Label(), index: index, known: now, since: now, state: measure.Suspect, warmth: steady, lanes: make([]peerLane, lanes)}
	p.floods.Floods = overlay.NewFloods()
	p.trust.Store(uint32(overlay.TrustLeases | overlay.TrustRouters))
	for i := range p.lanes {
		p.lanes[i].floods = overlay.NewSource(false)
	}
	return p
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

// echo takes a probe or a reply on a session, which came at some time; false is that it
// can't be.
func (p *peer) echo(at overlay.Instant, r overlay.Probe, isReply bool, s *overlay.Session) (good bool) {
	var relay *peer // by which a try came that was excused
	defer func() {
		if relay != nil {
			relay.arrived(at, 1)
		}
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.path == nil {
		return true
	}
	if o := p.out.Load(); r.Count != 0 && o != nil && o.session == s && !p.path.ToldLow(at, r, s.Sent()) {
		return false
	}
	if r.Echo >= overlay.ProbeSpecial {
		if o := p.out.Load(); r.Echo == sizeProbe && o != nil && p.mtu != nil {
			p.mtu.Acked(at, int(r.Size)+o.around)
			p.path.Arrived(at, 1)
			relay = o.relay
		}
		return true
	}
	rtt, receipt := p.path.Receive(at, r, isReply)
	p.answered(probeKey{overlay.SpaceWay, r.Echo}, rtt, receipt)
	return receipt != measure.Odd
}

// A probeKey names a probe to a peer.
type probeKey struct {
	space  overlay.Space
	number uint32
}

// answered tells who waits for it a probe's round trip. p.mu is held.
func (p *peer) answered(key probeKey, rtt time.Duration, receipt measure.Receipt) {
	if w := p.waiters[key]; w != nil && receipt == measure.Sampled {
		delete(p.waiters, key)
		w <- rtt // has room for every probe
	}
}

// await has a probe's round trip told to waiter, unless that is nil. p.mu is held.
func (p *peer) await(key probeKey, waiter chan<- time.Duration) {
	if waiter == nil {
		return
	}
	if p.waiters == nil {
		p.waiters = make(map[probeKey]chan<- time.Duration)
	}
	p.waiters[key] = waiter
}

// excuse excuses datagrams that try something, before they are sent; see measure.Path.
func (p *peer) excuse(now overlay.Instant, count int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if out := p.out.Load(); p.path != nil && out != nil {
		p.path.Excuse(now, count, out.session.Sent()+uint64(count))
	}
}

// arrived says that some of those have arrived.
func (p *peer) arrived(now overlay.Instant, count int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.path != nil {
		p.path.Arrived(now, count)
	}
}

// publish replaces the view after sessions changed.
func (n *node) publish(now overlay.Instant) {
	old := n.view.Load()
	v := &view{
		byIndex: slices.Clone(n.byIndex), sessions: make(map[uint32]*inboundSession),
		byLabel: make(map[overlay.Label]*peer, len(n.peers)), afar: &n.afar,
	}
	for _, p := range n.peers {
		if n.relaysNothing() {
			break
		}
		if _, twice := v.byLabel[p.label]; twice || p.label == n.label {
			v.byLabel[p.label] = nil
		} else {
			v.byLabel[p.label] = p
		}
	}
	current := make(map[*peer]bool)
	n.sessions.Live(func(l overlay.Live) {
		p := n.peers[l.Session.Peer()]
		if p == nil {
			return
		}
		in := old.sessions[l.Session.LocalIndex()]
		relays := p.rights.Has(discovery.RightRelay)
		if in == nil || in.session != l.Session || in.waiting != l.Waiting || in.relays != relays {
			in = &inboundSession{peer: p, session: l.Session, waiting: l.Waiting, relays: relays}
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
	n.warm.stale = false
	n.listMembers(v)
	n.chooseWatched(v.linked)
	n.meetPlaces(now, v)
	n.view.Store(v)
}

// listMembers notes in a view who is there to flood to, if that isn't everybody with a
// session: where sessions are kept with few, and where some are far.
func (n *node) listMembers(v *view) {
	if n.near() == len(n.peers) && !n.warm.sparse {
		return
	}
	v.members = []*peer{}
	for _, p := range n.peers {
		if !p.barred && !p.far && (p.out.Load() != nil || n.warm.sparse && p.state != measure.Gone) {
			v.members = append(v.members, p)
		}
	}
}

// floods returns whom frames go to that are for everybody.
func (v *view) floods() []*peer {
	if v.members != nil {
		return v.members
	}
	return v.linked
}

// attach makes a live session the one that frames to p are sent with.
func (n *node) attach(now overlay.Instant, p *peer, l overlay.Live) {
	o := p.out.Load()
	same := o != nil && o.way == l.Way
	if same && o.session == l.Session {
		return
	}
	next := &outbound{session: l.Session, way: l.Way, fragment: same && o.fragment}
	n.lead(p, next)
	p.mu.Lock()
	if !same {
		p.mtu = measure.NewMTU(now, overlay.MaxDatagram+next.around)
	}
	if o == nil || o.session != l.Session {
		if p.delivery != nil {
			p.delivery.Restart()
		}
		if p.path != nil {
			p.path.Restart()
		}
	}
	if o != nil && !same && p.path != nil {
		p.path.Moved()
	}
	next.size = p.mtu.Size() - next.around
	p.mu.Unlock()
	p.out.Store(next)
	if o == nil || o.session != l.Session {
		p.heard(now) // the handshake proved that it is there
		p.probe = now
	}
	n.release(now, p)
}
