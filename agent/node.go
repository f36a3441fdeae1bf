package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/discovery/beacon"
	"farlan/discovery/p2p"
	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/link"
)

const (
	// tick is how often the loop looks at the clock when nothing happens. The
	// shortest deadline of any core is several times longer.
	tick = 100 * time.Millisecond
	// late is when the loop was kept from running, as in a suspended or
	// overloaded machine: answers may have been missed.
	late = time.Second
	// controlEvery is how often the control connections, the addresses of this
	// host, and what it tells of itself are looked at.
	controlEvery = time.Second
	// goneShown is how long a peer that is gone stays listed.
	goneShown = 10 * time.Minute
	// linksTold is how many links an agent tells at most. What it tells is sent to
	// everybody, so with all links of all a network of 200 would have 1.5 MB to tell
	// each newcomer, and each newcomer's coming would cost everybody as much.
	linksTold = 32
	// renewEvery is how long before its end an agent renews its own record.
	renewEvery = discovery.RecordLifetime / 4
)

// A node is an agent at work: the cores of all packages, joined. Its loop alone
// touches what is not safe for concurrent use; others put events into its mail.
type node struct {
	cfg     *config
	log     *slog.Logger
	started time.Time
	epoch   overlay.Instant // of started
	ident   identity
	self    overlay.AgentID
	label   overlay.Label
	network discovery.NetworkKey
	state   *state
	sockets []*link.Port
	streams []net.Listener  // TCP, on the same port
	lanes   int             // that carry frames
	flowKey overlay.FlowKey // keeps from strangers which flows share a queue
	ports   []*port
	tops    []*laneTop // of each lane: what it sends most
	mail    *mailbox

	// Shared with the frame path.
	hs       *overlay.Handshaker
	sw       overlay.Switch
	view     atomic.Pointer[view]
	overlays atomic.Pointer[[]netip.Prefix]
	seenAt   atomic.Pointer[[]netip.AddrPort] // what reflexive returned last
	mapped   atomic.Pointer[netip.AddrPort]   // where the router takes what it hands on
	drops    drops
	edge     portEdge
	reach    reach
	byways   byways
	trains   *trains
	held     held         // frames that wait for a session
	afar     afar         // origins of floods in other areas
	reserved reservations // partly the loop's own

	// The loop's own.
	admission admission

	store     *discovery.Store
	sessions  *overlay.Sessions
	p2p       *p2p.Node
	lookout   *beacon.Lookout // nil: off
	unlit     string          // why there are no beacons, though they aren't off
	peers     map[overlay.AgentID]*peer
	byIndex   []*peer
	shake     sendFunc // handshakes, which may be fragmented
	ask       sendFunc // probes
	relayed   []byte   // scratch
	control   control
	moving    handovers
	own       ownRecords
	flows     flows
	backlogs  backlogs
	reserving reserving
	predict   predictor // nil: nothing is predicted
	guesser   *guesser  // that predicts
	keys      keys
	stale     overlay.Instant // since when the remembered peers differ from the disk's, 0 not
	saved     overlay.Instant
	saving    time.Duration   // what that took
	aged      overlay.Instant // when the stations were last looked at
	trimmed   overlay.Instant // when memory was given back
	stepped   overlay.Instant // when step ran last
	roaming   roaming
	router    routerPort
	relaying  relaying
	routing   routing
	spread    spreads // partly shared with the frame path
	linking   linking
	area      place
	far       seeking
	stun      stun
	warm      warming
	late      *outgoing // see loopOut, nil: nothing was sent yet
	claiming  claiming
	grouping  grouping // partly shared with the frame path
	segments  segments
	pipes     pipes
	punches   punches
	ready     bool // said that it is
	lonely    bool // said that nobody answers
	misdated  bool // said that this host's clock is wrong
	mapping   discovery.Mapping
	mappedAt  overlay.Instant // when this host had moved last
	told      string          // to systemd
	loops     rate
	asleep    time.Duration  // how long this machine has been suspended
	fathoms   overlay.Bucket // searches for a path's MTU that may begin
	asks      overlay.Bucket // silent members that may be asked
	spawn     func(name string, f func(context.Context) error)
}

// now reads the agent's clock: the wall clock at the start, and the time since
// by a clock that doesn't jump.
func (n *node) now() overlay.Instant { return n.epoch.Add(time.Since(n.started)) }

// wall reads the wall clock, for the records: their times must mean the same at
// all agents, also after this machine was suspended or its clock was set.
func (n *node) wall() overlay.Instant { return overlay.Instant(time.Now().UnixNano()) }

// newNode joins the cores; it touches nothing.
func newNode(c *config, log *slog.Logger, keys discovery.Keyring, ident identity, own discovery.Credential) *node {
	belongs := keys.Current()
	started, network := time.Now(), belongs.Root()
	n := &node{
		cfg: c, log: log, started: started, epoch: overlay.Instant(started.UnixNano()),
		ident: ident, self: ident.id(), label: ident.id().Label(), network: network,
		mail: newMailbox(), trains: newTrains(), peers: make(map[overlay.AgentID]*peer),
		control: newControl(uint64(started.UnixNano())), asleep: suspended(), lanes: max(c.Lanes, 1),
		fathoms: overlay.NewBucket(fathomRate, fathomBurst), asks: overlay.NewBucket(askRate, askBurst),
	}
	var key [16]byte
	_, _ = rand.Read(key[:]) // doesn't fail
	n.flowKey = overlay.FlowKey{binary.NativeEndian.Uint64(key[:]), binary.NativeEndian.Uint64(key[8:])}
	n.hs = overlay.NewHandshaker(n.self, ident.static, network.DoorKey(), network.SessionPSK(), overlay.HasAES())
	n.sessions = overlay.NewSessions(n.self, n.hs, rand.Reader)
	n.store = belongs.NewStore(n.self, uint64(n.epoch), discovery.Limits{})
	n.admission.network, n.admission.own = belongs, own
	n.admission.now.Store(n.store.Admission())
	n.keys.ring = keys
	n.useSegmentKeys(keys.Keys()...)
	n.routing = newRouting(n.self)
	n.linking = linking{links: decide.NewLinks(n.self), send: n.sendRequest}
	n.warm = newWarming()
	n.area.sizes = areaSizes()
	n.far = newSeeking(n)
	n.afar.lanes = func() int { return n.lanes + len(n.sockets) + 1 }
	n.spread.numbers.Store(uint64(n.epoch) / uint64(time.Microsecond))
	n.view.Store(&view{})
	return n
}

// loop runs the node until ctx ends.
func (n *node) loop(ctx context.Context) error {
	timer := time.NewTicker(tick)
	defer timer.Stop()
	n.step(n.now())
	for {
		select {
		case <-ctx.Done():
			n.leaveReserving(n.now())
			n.leave(n.now())
			for _, e := range n.mail.close() {
				e(n.now())
			}
			return nil
		case <-n.mail.ready:
			// What came meanwhile belongs to sessions that may be over.
			n.mindTheGap(n.now())
			for _, e := range n.mail.take() {
				e(n.now())
			}
		case <-timer.C:
		}
		n.step(n.now())
	}
}

// step is where the parts meet: after whatever happened, every core does what
// is due and says what changed, and the others are told.
func (n *node) step(now overlay.Instant) {
	n.mindTheGap(now)
	n.roam(now)
	n.store.Tick(n.wall())
	for _, c := range n.store.Changes() {
		n.recordChanged(now, c)
	}
	n.turnKeys(now)
	n.admit(now)
	n.sessions.Tick(now)
	if n.sessions.Changed() {
		n.publish(now) // before the answer goes out that the next datagram follows
	}
	n.sessions.Flush(n.handshake)
	for _, p := range n.byIndex {
		if p != nil {
			n.watch(now, p)
		}
	}
	n.mindStun(now)
	n.mindArea(now)
	n.mindFar(now)
	n.keepWarm(now)
	n.reroute(now)
	n.mindLinks(now)
	n.mindSpread(now)
	n.mindClaims(now)
	n.mindGroups(now)
	n.steer(now)
	n.lookForRelays(now)
	n.mindPipes(now)
	n.mindPunches(now)
	n.lookAtBacklogs(now)
	n.watchReserved(now)
	n.turnReserving(now)
	n.store.Flush(n.p2p.Send)
	n.remember(now)
	if now.Sub(n.aged) >= time.Second {
		n.aged = now
		n.mindEdge(now)
		n.mindUse(now)
		n.watchLoops(now)
		n.watchClock()
		n.watchMapping()
		n.watchWays(now)
		n.flows.collect(now, n.tops, &n.backlogs)
		n.mindReserved(now)
		n.mindReserving(now)
		n.trim(now)
	}
}

// watch follows one peer: probes it, and notes when it falls silent or is back.
func (n *node) watch(now overlay.Instant, p *peer) {
	out := p.out.Load()
	if out == nil {
		n.watchAbsent(now, p)
		return
	}
	p.mu.Lock()
	if at := overlay.Instant(p.heardAt.Swap(0)); at != 0 {
		p.path.Heard(at)
	}
	state := p.path.State(now)
	silence := p.path.Silent(now, overlay.Instant(p.sentAt.Load()))
	due := p.path.Due(now, n.probeEvery(now, p), n.self.Compare(p.id) < 0)
	p.mu.Unlock()
	if due || p.probe != 0 && !now.Before(p.probe) {
		p.probe = 0
		n.askPeer(p, out, nil)
	}
	n.mindSilence(now, p, out, silence)
	n.watchDetours(now, p)
	if state == measure.Up && now.Sub(p.fathomed) >= fathomEvery {
		p.fathomed = now
		if p.fathom = p.fathom || p.used.Load() || p.warmth == steady && n.fathoms.Allow(now); p.fathom {
			n.fathom(now, p, out)
		}
	}
	switch {
	case state == measure.Gone:
		n.gone(now, p, "silent")
	case state != p.state:
		n.become(now, p, state)
	}
	n.markSilence(p)
}

func (n *node) become(now overlay.Instant, p *peer, s measure.State) {
	level := slog.LevelInfo
	if s == measure.Idle || p.state == measure.Idle { // as ever, among many
		level = slog.LevelDebug
	}
	if s == measure.Up && p.state == measure.Suspect {
		n.sw.Groups.Doubt(now, p.place())
	}
	n.log.Log(context.Background(), level, "peer changed", "name", p.member.Name, "state", s.String(), "was", p.state.String())
	if s == measure.Up && p.state != measure.Idle { // it may have missed what was flooded
		n.sw.Names.Renew(now)
	}
	p.state, p.since = s, now
	if s != measure.Up {
		n.routing.broke = true
	}
}

// gone ends the sessions with a peer and forgets its stations: frames to them
// are flooded until they turn up elsewhere.
func (n *node) gone(now overlay.Instant, p *peer, why string) {
	if p.state == measure.Gone {
		return
	}
	n.log.Info("peer changed", "name", p.member.Name, "state", "gone", "why", why)
	p.state, p.since, p.goneAt, p.wanted, p.missed = measure.Gone, now, n.wall(), 0, 0
	n.dropHeld(n.held.take(p))
	n.sessions.Lost(now, p.id)
	n.sw.Forget(p.place())
	n.publish(now)
}

// leave says goodbye: to the other agents' frame paths, and to their stores.
func (n *node) leave(now overlay.Instant) {
	n.leaveSegments()
	n.own.left = true
	n.own.member = 0
	n.retire()
	n.tell(now)
	n.store.Flush(n.p2p.Send)
	for _, p := range n.view.Load().linked {
		out := p.out.Load()
		if out == nil {
			continue
		}
		b := overlay.AppendBye(make([]byte, overlay.HeaderLen, 64))
		if d := out.session.Seal(overlay.KindProbe, 0, b); d != nil {
			_ = n.post(n.ask, out, d, len(d))
		}
	}
	n.stale = now
	n.saved = 0
	n.remember(now)
}

// remember writes what is known of the members to the disk, some time after it
// changed: the longer after, the longer the disk takes, as the loop waits for it.
func (n *node) remember(now overlay.Instant) {
	if n.stale == 0 || (n.saved != 0 && now.Sub(n.saved) < rememberEvery(n.saving)) {
		return
	}
	n.stale, n.saved = 0, now
	began := n.now()
	defer func() { n.saving = n.now().Sub(began) }()
	r := remembered{
		Network: n.network.ID(), Claims: n.store.DumpClaims(),
		Records: n.store.Dump(discovery.KindMember, discovery.KindAdmin, discovery.KindRotation, discovery.KindArea),
	}
	r.Area, _ = n.store.Area()
	if own, ok := n.store.Record(n.self, discovery.KindLinks); ok {
		r.Links = [][]byte{own.Bytes()}
	}
	if err := n.state.save(r); err != nil {
		n.log.Error("peers can't be remembered", "error", err)
	}
}

// rememberEvery is how often the members are written at most when that takes so long:
// half a second, or a twentieth of the loop's time, but every five seconds in any case.
func rememberEvery(took time.Duration) time.Duration {
	return min(max(20*took, 500*time.Millisecond), 5*time.Second)
}

// do runs f in the node's loop and waits for it.
func (n *node) do(ctx context.Context, f event) error {
	done := make(chan struct{})
	if !n.mail.put(func(now overlay.Instant) { f(now); close(done) }) {
		return errStopping
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errStopping = errors.New("the agent is too busy, or stopping")
