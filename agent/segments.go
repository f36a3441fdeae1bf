package agent

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/segment"
)

const (
	// segmentTick is how often it is looked at least what is due on the segments.
	segmentTick = 50 * time.Millisecond
	// enslavedEvery is how often it is looked which TAPs are ports of bridges.
	enslavedEvery = time.Second
	// maxHeard bounds the stations that are remembered of a segment for which another agent
	// forwards: those beyond are claimed when they speak.
	maxHeard = 4096
	// uselessAfter is how long an agent must know of no other to forward to until it leaves
	// the lease to one that does.
	uselessAfter = 5 * time.Second
)

// segments is for which LAN segments this agent forwards; see package segment. Ports to LANs
// and in bridges take part. Frames that another agent's port carries are neither read nor
// written by this one's.
type segments struct {
	guards atomic.Bool // there are ports that take part
	keys   atomic.Pointer[[]segment.Key]

	mu    sync.Mutex
	ports []*guarded // by number; nil: it doesn't take part

	returns overlay.Returns

	useful overlay.Instant // when this agent had others to forward to; the loop's own
}

// A guarded port is one that takes part.
type guarded struct {
	*segment.Port
	port     *port
	self     overlay.AgentID
	number   int
	from     overlay.MAC // of beacons
	forwards bool        // as the loop was told last
	joined   bool        // so, too: it became one segment with another one's
	leader   segment.Name
	beside   []segment.Name // that were heard while it forwarded, and still are
	asking   []asking
	circle   circle
	useful   bool
	heard    map[overlay.MAC]overlay.Instant // stations, while another agent forwards
}

// useSegmentKeys takes the keys that beacons prove, the one that all members have last.
func (n *node) useSegmentKeys(keys ...discovery.NetworkKey) {
	var all []segment.Key
	for _, k := range keys {
		all = append(all, segment.Key(k.SegmentKey()))
	}
	n.segments.keys.Store(&all)
}

// runSegments keeps the leases until ctx ends. It is a goroutine of its own, so that no work
// of the loop keeps it from renewing them.
func (n *node) runSegments(ctx context.Context) error {
	tick := time.NewTimer(0)
	defer tick.Stop()
	looked, announced := time.Time{}, false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if now := time.Now(); now.Sub(looked) >= enslavedEvery {
			looked = now
			n.enlist()
			n.mindRefusals(now)
		}
		next, settled := enslavedEvery, true
		if n.segments.guards.Load() { // few agents
			next, settled = segmentTick, n.mindSegments()
		}
		if settled && !announced {
			announced = n.mail.put(func(overlay.Instant) { n.announce() })
		}
		tick.Reset(next)
	}
}

// mindSegments does what is due. It says whether each port knows by now if it forwards: no
// frame is lost any more because the agent has just started.
func (n *node) mindSegments() (settled bool) {
	s := &n.segments
	s.mu.Lock()
	defer s.mu.Unlock()
	settled = true
	for _, g := range s.ports {
		if g != nil {
			now := bootClock()
			g.Tick(now)
			settled = settled && g.Role(now) != segment.Listening
			n.settle(g)
		}
	}
	return settled
}

// enlist has ports take part that are attached to a LAN or a bridge, and the others not.
func (n *node) enlist() {
	s := &n.segments
	shared := make([]bool, len(n.ports))
	for i, p := range n.ports {
		shared[i] = p.shared()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.ports) < len(n.ports) {
		s.ports = append(s.ports, nil)
	}
	for i, p := range n.ports {
		switch g, shared := s.ports[i], shared[i]; {
		case g == nil && shared:
			s.ports[i] = n.guarded(i, p)
			s.guards.Store(true)
			p.gate.allow(closed)
		case g != nil && !shared:
			s.ports[i] = nil
			p.gate.until.Store(0)
		}
	}
}

// shared says whether other agents' ports may be on the same LAN.
func (p *port) shared() bool {
	switch {
	case p.kind == "lan" || p.bridge != "":
		return true
	case p.kind != "tap":
		return false
	}
	link, err := netlink.LinkByName(p.Name())
	return err == nil && link.Attrs().MasterIndex != 0
}

// guarded returns a port that takes part from now on.
func (n *node) guarded(i int, p *port) *guarded {
	sum := sha256.Sum256(append(n.self[:], byte(i)))
	g := &guarded{port: p, useful: true, self: n.self, number: i, from: overlay.MAC(sum[:6]), heard: make(map[overlay.MAC]overlay.Instant)}
	g.from[0] = g.from[0]&^1 | 2 // of nobody: a bridge mustn't take them for its own
	if own, ok := p.device.(interface{ MAC() overlay.MAC }); ok && p.kind == "lan" && p.bridge == "" {
		g.from = own.MAC() // the host speaks there anyway
	}
	g.Port = segment.New(bootClock(), g.name(), p.name, uint64(n.wall()))
	return g
}

func (g *guarded) name() segment.Name { return segment.Name{Agent: g.self, Port: uint8(g.number)} }

// settle sends the beacon that is due, opens or closes the port's gate, and tells the loop.
// The segments are locked.
func (n *node) settle(g *guarded) {
	now := bootClock()
	if b, ok := g.Beacon(now, n.wall()); ok {
		keys := *n.segments.keys.Load()
		for i := range keys { // while the network's key changes, some hear but one of them
			frame := [1]overlay.Frame{{Head: b.Append(nil, g.from, &keys[i])}}
			g.port.Write(0, frame[:])
		}
	}
	g.port.gate.allow(g.Until())
	forwards := now.Before(g.Until())
	leader, led := g.Leader()
	if !led || !forwards && leader == g.name() {
		leader = g.leader // it is found out yet
	}
	others := g.Others()
	joined := slices.ContainsFunc(others, func(o segment.Other) bool { return o.Joined })
	g.welcome(forwards, others)
	if forwards == g.forwards && leader == g.leader && joined == g.joined {
		return
	}
	was, looped := g.leader, joined != g.joined
	g.forwards, g.leader, g.joined = forwards, leader, joined
	released := slices.ContainsFunc(others, func(o segment.Other) bool { return o.Name == was })
	n.mail.put(func(at overlay.Instant) {
		if looped {
			n.sw.Stations.Calm()
		}
		if forwards {
			n.takeOver(at, g, was, released)
		} else if leader != g.name() {
			n.yield(at, g, leader)
		}
		n.markOwn()
		n.log.Info("segment changed", "port", g.port.name, "forwards", forwards, "leader", n.portOf(leader))
	})
}

// takeBeacon takes a frame from a port by which agents find each other; ours is false if it
// is another network's.
func (n *node) takeBeacon(port int, frame []byte) (ours bool) {
	if segment.IsLearn(frame) {
		return true
	}
	b, ok := segment.Parse(frame, *n.segments.keys.Load()...)
	if !ok {
		return false
	}
	s := &n.segments
	s.mu.Lock()
	defer s.mu.Unlock()
	if port < 0 || port >= len(s.ports) || s.ports[port] == nil || b.Agent == n.self && int(b.Port) == port {
		return true
	}
	g := s.ports[port]
	g.Receive(bootClock(), n.wall(), b)
	n.settle(g)
	return true
}

// overhear takes frames of a port that another agent's forwards for: it notes who is there.
func (n *node) overhear(port int, frames []overlay.Frame) {
	s := &n.segments
	now := bootClock()
	for i := range frames {
		f := frames[i].Head
		if overlay.IsSegment(f) {
			n.takeBeacon(port, f)
			continue
		}
		if n.drops.add(dropStandby); len(f) < overlay.MinFrame || f[6]&1 != 0 {
			continue
		}
		s.mu.Lock()
		if g := s.ports[port]; g != nil {
			g.hear(now, overlay.MAC(f[6:12]))
		}
		s.mu.Unlock()
	}
}

func (g *guarded) hear(now overlay.Instant, m overlay.MAC) {
	if _, ok := g.heard[m]; ok || len(g.heard) < maxHeard {
		g.heard[m] = now
	}
}

// leaveSegments leaves the leases to others.
func (n *node) leaveSegments() {
	s := &n.segments
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.ports {
		if g != nil {
			g.Set(bootClock(), false, false)
			n.settle(g)
		}
	}
}

// mindUse has the segments know which ports work, and whether this agent has others to
// forward to, beside those on the same segment.
func (n *node) mindUse(now overlay.Instant) {
	s := &n.segments
	s.mu.Lock()
	defer s.mu.Unlock()
	var beside []overlay.AgentID
	for _, g := range s.ports {
		if g != nil {
			for _, o := range g.Others() {
				beside = append(beside, o.Agent)
			}
		}
	}
	if s.useful == 0 || slices.ContainsFunc(n.byIndex, func(p *peer) bool { return p.there() && !slices.Contains(beside, p.id) }) {
		s.useful = now
	}
	for _, g := range s.ports {
		if g != nil {
			if g.circle.over(bootClock()) {
				n.sw.Stations.Calm()
			}
			g.useful = now.Sub(s.useful) < uselessAfter
			g.Set(bootClock(), g.port.failure() == "" && !bootClock().Before(g.circle.until), g.useful)
			if g.forwards && len(g.asking) > 0 {
				all := slices.Clone(g.asking)
				n.mail.offer(func(overlay.Instant) { n.askAll(g, all) })
			}
			for i := range g.asking {
				g.asking[i].times--
			}
			g.asking = slices.DeleteFunc(g.asking, func(a asking) bool { return a.times <= 0 })
			for m, at := range g.heard {
				if bootClock().Sub(at) >= overlay.StationAge {
					delete(g.heard, m)
				}
			}
		}
	}
}
