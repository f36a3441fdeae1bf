package agent

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

const (
	controlDegree = 8 // control connections that an agent keeps at most
	dhtServers    = 8 // agents that serve the DHT
	serverEvery   = 5 * time.Second
	// serverAfter is how long an agent that isn't alone knows the network before
	// it may serve the DHT: every server costs every agent a connection, and
	// those who don't know all members yet would choose too many.
	serverAfter   = 15 * time.Second
	foundPatience = 3 * time.Second // with those that beacons name
	// settleTime is how long no new member must have turned up before an agent
	// decides by how many there are.
	settleTime = 2 * time.Second
	// crowdTime is how long an agent waits for that before it closes connections all the
	// same: one by which 200 agents joined at once held 120 of them open, and the memory
	// that they took didn't come back.
	crowdTime    = 4 * time.Second
	dialRetry    = 2 * time.Second
	dialRetryMax = 2 * time.Minute
	maxDials     = 16 // at once
	// shortLived is a connection that the other side closed soon after this agent had
	// opened it: the two know different members, and it would close the next one, too.
	shortLived = 45 * time.Second
)

// control is what the loop knows of the control connections.
type control struct {
	next      overlay.Instant
	connected map[overlay.AgentID]bool
	dials     map[overlay.AgentID]dial
	dialing   int
	finds     *discovery.Finds         // of the DHT, without a record
	finding   int                      // dials of these
	nearby    map[overlay.AgentID]hint // by a beacon
	met       overlay.Instant          // when a member was last met
	unsettled overlay.Instant          // since when one comes after the other, 0 none does
	server    bool                     // what the DHT was told
	chosen    overlay.Instant          // when that was decided, 0 not yet
}

// A dial is an attempt to connect to an agent, and how often it failed, or succeeded
// for a moment only.
type dial struct {
	running      bool
	fails, short int
	up           overlay.Instant // since when, 0 it isn't
	again        overlay.Instant
}

// settled says whether no new member turned up of late, and crowded that they have kept
// coming for long.
func (c *control) settled(now overlay.Instant) (settled, crowded bool) {
	switch {
	case now.Sub(c.met) >= settleTime:
		c.unsettled = 0
		return true, false
	case c.unsettled == 0:
		c.unsettled = now
	}
	return false, now.Sub(c.unsettled) >= crowdTime
}

func newControl(seed uint64) control {
	return control{
		finds:     discovery.NewFinds(seed),
		nearby:    make(map[overlay.AgentID]hint),
		connected: make(map[overlay.AgentID]bool),
		dials:     make(map[overlay.AgentID]dial),
	}
}

// ownRecords is what this agent tells of itself.
type ownRecords struct {
	member                      overlay.Instant // when told last, 0 to tell at once
	memberVersion, linksVersion uint64          // and as what
	addrs                       []netip.AddrPort
	rows                        discovery.Telling
	kept                        []overlay.AgentID // the links of those told last that are kept
	chosen                      []overlay.AgentID // whose rows are told, if there are too many
	watched                     []overlay.AgentID // who of them is probed each second
	chose                       overlay.Instant
	flows                       discovery.TrafficTelling
	flowsVersion                uint64
	left                        bool
}

// due says that the record of a kind must be told again, unless it is the one
// with the version that was told last: that is another life's, or none as the clock was
// wrong.
func (o *ownRecords) due(kind discovery.Kind, version uint64) {
	switch kind {
	case discovery.KindMember:
		if o.memberVersion != version {
			o.member = 0 // at the next look
		}
	case discovery.KindLinks:
		if o.linksVersion != version {
			o.rows.Again()
		}
	case discovery.KindTraffic:
		if o.flowsVersion != version {
			o.flows.Again()
		}
	}
}

// steer looks after the control connections and this agent's own records.
func (n *node) steer(now overlay.Instant) {
	if now.Before(n.control.next) {
		return
	}
	n.control.next = now.Add(controlEvery)
	n.lookAtPorts()
	n.tell(now)
	live := n.liveMembers()
	n.guess(now, live)
	want := discovery.Neighbours(n.self, live, discovery.Near(n.self, n.store.Links), controlDegree)
	want = n.withGateways(want, live)
	settled, crowded := n.control.settled(now)
	switch {
	case len(n.control.connected) == 0:
		want = n.likeliest(n.members()) // gone ones, too: perhaps it was us who were away
	case !settled && now.Sub(n.epoch) < serverEvery:
		want = nil // who is connected tells of the others: choose among all
	}
	for _, id := range want {
		n.dial(now, id, nil)
	}
	n.approach(now)
	n.seekFinds(now)
	if settled || crowded {
		n.p2p.Keep(want)
	}
	if settled {
		n.chooseServer(now, live)
	}
	n.complain(now)
	n.tellSystemd()
}

// chooseServer decides from time to time whether this agent serves the DHT: it
// does if it is one of those whom all agents that know the same members choose.
func (n *node) chooseServer(now overlay.Instant, live []overlay.AgentID) {
	c := &n.control
	first := n.epoch // a first agent serves at once, or newcomers find nobody
	switch {
	case len(live) > 0:
		// Not all at the same time.
		first = first.Add(serverAfter + time.Duration(n.self[0])*serverAfter/256)
	case len(n.cfg.Bootstrap) > 0:
		first = first.Add(serverEvery)
	}
	if now.Before(first) || (c.chosen != 0 && now.Sub(c.chosen) < serverEvery) {
		return
	}
	server := slices.Contains(n.dhtServers(live), n.self)
	if c.chosen == 0 || c.server != server {
		n.p2p.SetServer(server)
	}
	c.chosen, c.server = now, server
}

// complain says once that nobody answers, and once that somebody does.
func (n *node) complain(now overlay.Instant) {
	h := n.checkJoin(now)
	if !h.OK && !n.lonely {
		n.log.Error("nobody answered", "detail", h.Detail, "hint", h.Hint)
	} else if h.OK && n.lonely {
		n.log.Info("a member answered")
	}
	n.lonely = !h.OK
}

// members returns the other members that have not left.
func (n *node) members() []overlay.AgentID {
	var all []overlay.AgentID
	for _, p := range n.byIndex {
		if p != nil && !p.member.Left {
			all = append(all, p.id)
		}
	}
	slices.SortFunc(all, overlay.AgentID.Compare)
	return all
}

// likeliest sorts agents by how likely a dial reaches them: those whose frame path
// answers, which is tried at the same addresses and sooner, then those that were tried
// least often.
func (n *node) likeliest(ids []overlay.AgentID) []overlay.AgentID {
	rank := func(id overlay.AgentID) int {
		if p := n.peers[id]; p != nil && p.state == measure.Up {
			return -1
		}
		return n.control.dials[id].fails
	}
	slices.SortStableFunc(ids, func(a, b overlay.AgentID) int { return cmp.Compare(rank(a), rank(b)) })
	return ids
}

// liveMembers returns the other members that are not known to be gone.
func (n *node) liveMembers() []overlay.AgentID {
	var live []overlay.AgentID
	for _, p := range n.byIndex {
		if p != nil && p.state != measure.Gone && !p.far {
			live = append(live, p.id)
		}
	}
	slices.SortFunc(live, overlay.AgentID.Compare)
	return live
}

// dial opens a control connection unless there is one, or an attempt is under
// way or failed a moment ago. Beside addrs it uses those that a beacon told, and
// those of the member's record.
func (n *node) dial(now overlay.Instant, id overlay.AgentID, addrs []netip.AddrPort) {
	c := &n.control
	d := c.dials[id]
	if id == n.self || c.connected[id] || d.running || now.Before(d.again) || c.dialing >= maxDials {
		return
	}
	addrs = append(slices.Clone(addrs), c.nearby[id].addrs...)
	if m, ok := n.store.Member(id); ok {
		addrs = append(addrs, m.Addrs...)
	}
	if addrs = n.reachable(addrs); len(addrs) == 0 {
		return
	}
	d.running = true
	c.dials[id] = d
	c.dialing++
	n.spawn("dial", func(ctx context.Context) error {
		err := n.p2p.Dial(ctx, id, addrs)
		n.mail.put(func(now overlay.Instant) {
			c.dialing--
			c.dialled(now, id, err)
			if err != nil {
				n.log.Debug("dial failed", "id", id, "error", err)
			}
		})
		return nil
	})
}

// dialled notes how a dial ended.
func (c *control) dialled(now overlay.Instant, id overlay.AgentID, err error) {
	d := c.dials[id]
	d.running = false
	if err == nil {
		d.fails, d.up = 0, now
	} else {
		d.again = now.Add(min(dialRetry<<min(d.fails, 10), dialRetryMax))
		d.fails++
	}
	c.dials[id] = d
	if len(c.dials) > overlay.MaxContacts { // strangers, perhaps
		delete(c.dials, id)
	}
}

// hungUp notes that an agent isn't connected any more.
func (c *control) hungUp(now overlay.Instant, id overlay.AgentID) {
	delete(c.connected, id)
	d, ok := c.dials[id]
	switch {
	case !ok || d.running || d.up == 0:
	case now.Sub(d.up) >= shortLived:
		delete(c.dials, id)
	default:
		d.again = now.Add(min(dialRetry<<min(d.short, 10), dialRetryMax))
		d.short++
		d.up = 0
		c.dials[id] = d
	}
}

// tell publishes what this agent says of itself, if that is news.
func (n *node) tell(now overlay.Instant) {
	addrs := n.underlay()
	if len(addrs) == 0 && n.own.member != 0 {
		addrs = n.own.addrs // nobody could hear of it
	}
	if n.own.member == 0 || !slices.Equal(addrs, n.own.addrs) || now.Sub(n.own.member) >= renewEvery {
		area, _ := n.store.Area()
		m := n.memberRecord(area)
		m.Addrs = addrs
		if body, err := m.Append(nil); err != nil {
			n.log.Error("can't tell of this agent", "error", err)
		} else if v, ok := n.sign(discovery.KindMember, body); ok {
			n.own.member, n.own.memberVersion, n.own.addrs = now, v, addrs
		}
	}
	n.tellLinks(now)
	n.tellFlows(now)
	n.tellArea(now)
}

// memberRecord returns what this agent tells of itself, as one of an area.
func (n *node) memberRecord(area uint32) discovery.Member {
	return discovery.Member{
		Name: n.cfg.Name, SessionKey: n.ident.static.Public, Addrs: n.own.addrs, Left: n.own.left,
		LAN: len(n.cfg.LANs) > 0, Mapping: n.mapping, Credential: n.admission.own.Bytes(), Area: area,
	}
}

// sign publishes a record of this agent and returns its version.
func (n *node) sign(kind discovery.Kind, body []byte) (version uint64, ok bool) {
	now := n.wall()
	r, err := discovery.SignRecord(n.ident.key, n.network, discovery.Record{
		Kind: kind, Version: n.store.NextVersion(now),
		Expires: now.Add(discovery.RecordLifetime).Time().Unix(), Body: body,
	})
	if err != nil {
		n.log.Error("can't sign a record", "kind", kind, "error", err)
		return 0, false
	}
	n.store.Publish(now, r)
	return r.Version, true
}
