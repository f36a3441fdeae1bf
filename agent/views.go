package agent

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"farlan/measure"
	"farlan/overlay"
)

const joinPatience = 5 * time.Second // before "nobody answered" is a fault

// names returns what to call every known agent: its own name, with a suffix of
// its id where several have the same. One that is gone doesn't take the name
// from one that is there: it may be the same machine, with its state lost.
func (n *node) names() map[overlay.AgentID]string {
	here, gone := map[string]int{n.cfg.Name: 1}, make(map[string]int)
	for _, p := range n.peers {
		if p.state == measure.Gone {
			gone[p.member.Name]++
		} else {
			here[p.member.Name]++
		}
	}
	names := map[overlay.AgentID]string{n.self: n.cfg.Name}
	if here[n.cfg.Name] > 1 {
		names[n.self] += "-" + n.self.Short()
	}
	for id, p := range n.peers {
		name := p.member.Name
		if here[name] > 1 || (p.state == measure.Gone && here[name]+gone[name] > 1) {
			name += "-" + id.Short()
		}
		names[id] = name
	}
	return names
}

// find returns the peer with a name or id, nil if there is none.
func (n *node) find(name string, names map[overlay.AgentID]string) *peer {
	for id, p := range n.peers {
		if names[id] == name || id.String() == name {
			return p
		}
	}
	return nil
}

// collectDrops takes over what others count.
func (n *node) collectDrops() {
	var unread, strays uint64
	for _, p := range n.ports {
		if d, ok := p.device.(interface{ Dropped() uint64 }); ok {
			unread += d.Dropped()
		}
	}
	n.collectPorts()
	for _, s := range n.sockets {
		strays += s.Control.Strays()
	}
	n.drops[dropRead].Store(unread)
	n.drops[dropStray].Store(strays)
	control := n.p2p.Counters()
	n.drops[dropControl].Store(control.Strangers)
	n.drops[dropOutsider].Store(control.Refused)
	n.drops[dropReplay].Store(control.Replays)
	n.drops[dropUntimely].Store(control.Untimely)
	n.drops[dropPipe].Store(control.Unpiped)
	n.collectRecords()
	if n.lookout != nil {
		s := n.lookout.State()
		n.drops[dropBeacon].Store(s.Strangers)
		n.drops[dropLateBeacon].Store(s.Late)
	}
}

// collectRecords takes over how many records were refused because they make no sense, or
// aren't who says them.
func (n *node) collectRecords() {
	c := n.store.Counters()
	n.drops[dropRecord].Store(c.Malformed + c.Signature)
}

func (n *node) statusView(now overlay.Instant) statusView {
	n.collectDrops()
	v := statusView{
		Schema: schemaVersion, ID: n.self.String(), Name: n.cfg.Name, Network: n.network.ID(),
		Version: version(), Started: n.started.UTC().Truncate(time.Millisecond),
		Listen: n.multiaddrs(), Ports: []portView{}, Health: n.health(now), Drops: n.drops.views(),
		Control: len(n.control.connected), Goroutines: runtime.NumGoroutine(),
		Admission: admissionName(n.admission.network), Credential: n.credentialView(), Rotation: n.rotation(),
		TrainBytes: n.trains.sent.Load(), Agreement: n.linking.agreed, Floods: n.floodsView(), Area: n.areaView(), Refused: n.offenceViews(now),
		Reservations: n.reservedCount(),
	}
	stations := n.sw.Stations.List()
	for i, p := range n.ports {
		role := "forwarding"
		if is, _, ok := n.segmentOf(i); ok {
			role = is
		}
		if p.failure() != "" {
			role = "blocked"
		}
		here := 0
		for _, s := range stations {
			if s.Place == overlay.PortPlace(i) {
				here++
			}
		}
		v.Ports = append(v.Ports, portView{Name: p.name, Kind: p.kind, Role: role, MTU: p.MTU(), Offload: p.Offload(), Stations: here, Bridge: p.bridge, Connections: p.connections(), Tag: p.filter.vlans.Tag, Trunks: p.filter.vlans.Trunks.String()})
	}
	for _, p := range n.peers {
		if p.state == measure.Up || p.state == measure.Idle {
			v.Peers++
			if p.direct() && n.linking.shows(p.id) {
				v.Links++
			}
		}
	}
	if up := n.cfg.Uplink; up.Up != 0 {
		r := up.Reservable()
		v.Uplink = &uplinkView{up.Up.Mbit(), up.Down.Mbit(), r.Up.Mbit(), r.Down.Mbit()}
	}
	v.State = n.stateOf(v.Health)
	return v
}

// stateOf returns the agent's state, with what health says.
func (n *node) stateOf(health []healthView) string {
	switch {
	case !n.ready:
		return "starting"
	case slices.ContainsFunc(health, func(h healthView) bool { return !h.OK }):
		return "degraded"
	}
	return "ready"
}

// health checks what can be wrong.
func (n *node) health(now overlay.Instant) []healthView {
	checks := []healthView{n.checkJoin(now), n.checkClock()}
	for _, p := range n.ports {
		h := healthView{Check: "port " + p.name, OK: true, Detail: p.kind + " carries frames"}
		if f := p.failure(); f != "" {
			h = healthView{Check: h.Check, Detail: f, Hint: "mend the interface, then start farlan again"}
		} else if p.warn != "" {
			h = healthView{Check: h.Check, Detail: p.warn, Hint: "use a wired interface or a bridge"}
		}
		checks = append(checks, h)
	}
	checks = append(checks, n.checkLANs()...)
	if h, ok := n.checkCredential(); ok {
		checks = append(checks, h)
	}
	if h, ok := n.checkKey(); ok {
		checks = append(checks, h)
	}
	if h, ok := n.checkBeacon(); ok {
		checks = append(checks, h)
	}
	if h, ok := n.checkPortMapping(); ok {
		checks = append(checks, h)
	}
	checks = append(checks, n.checkUDP())
	if len(n.underlay()) == 0 {
		checks = append(checks, healthView{
			Check: "address", Detail: "this host has no address that others could reach it at (those for one link alone, fe80:: and 169.254.0.0/16, are none)",
			Hint: "give one with --advertise; if the host's only address is on the bridge of a --tap, use --lan IFACE,bridge=BR instead",
		})
	}
	loops := n.loops.now
	h := healthView{Check: "loop", OK: loops < loopFault, Detail: fmt.Sprintf("%d frames came around in the last minute", loops)}
	if !h.OK {
		h.Hint = "two agents bridge the same LAN, or a cable or bridge joins two sites: keep one of them"
	}
	return append(checks, h)
}

// loopFault is how many frames a minute may be dropped because they came around,
// or were a storm, before that is a fault: some are one machine that moved.
const loopFault = 100

// A rate counts what happens a minute.
type rate struct {
	total, now uint64
	since      overlay.Instant
}

// watchLoops takes the count of frames that were dropped as echoes or storms.
func (n *node) watchLoops(now overlay.Instant) {
	total := n.drops.count(overlay.DropEcho) + n.drops.count(overlay.DropStorm)
	if r := &n.loops; now.Sub(r.since) >= time.Minute {
		r.now, r.total, r.since = total-r.total, total, now
	} else {
		r.now = max(r.now, total-r.total)
	}
}

func (n *node) checkJoin(now overlay.Instant) healthView {
	h := healthView{Check: "members", OK: true, Detail: n.whoAnswers()}
	lonely := n.inState(measure.Up) == 0 && len(n.control.connected) == 0
	switch {
	case lonely && len(n.cfg.Bootstrap) == 0 && len(n.peers) == 0:
		h.Detail = "no other member is known yet"
	case lonely && now.Sub(n.epoch) > joinPatience:
		h.OK = false
		h.Detail = "nobody answered"
		if why := n.p2p.JoinError(); why != "" {
			h.Detail = why
		}
		h.Hint = joinHint
	}
	return h
}

// inState returns how many peers are in a state.
func (n *node) inState(s measure.State) (count int) {
	for _, p := range n.peers {
		if p.state == s {
			count++
		}
	}
	return count
}

// whoAnswers says how many members answer, and of how many that isn't asked now.
func (n *node) whoAnswers() string {
	text := fmt.Sprintf("%d of %d other members answer", n.inState(measure.Up), len(n.peers))
	if idle := n.inState(measure.Idle); idle > 0 {
		text += fmt.Sprintf(", %d are idle: sessions with them are opened when needed", idle)
	}
	return text
}

const joinHint = "check that the address and port are a member's and that UDP or TCP passes, and that 'farlan key id' says the same there and here"

func (n *node) peersView(now overlay.Instant) peersView {
	names := n.names()
	v := peersView{Schema: schemaVersion, Peers: []peerView{{
		ID: n.self.String(), Name: names[n.self], State: "up", Path: "self", Via: []string{},
		LastSeen: new(lastSeen(now, now)),
	}}}
	for _, p := range n.peers {
		if p.state != measure.Gone || now.Sub(p.since) < goneShown {
			row := n.peerView(now, p, names)
			row.Reason = n.reason(now, p, row)
			v.Peers = append(v.Peers, row)
		}
	}
	slices.SortFunc(v.Peers, func(a, b peerView) int { return strings.Compare(a.Name, b.Name) })
	return v
}

// lastSeen returns an instant as the wall clock shows it now.
func lastSeen(now, at overlay.Instant) time.Time {
	return time.Now().Add(-now.Sub(at)).UTC().Truncate(time.Millisecond)
}

func (n *node) peerView(now overlay.Instant, p *peer, names map[overlay.AgentID]string) peerView {
	v := peerView{ID: p.id.String(), Name: names[p.id], State: p.state.String(), Path: "none", Via: []string{}, Area: n.areaOf(p)}
	pair := p.pair(now)
	v.CapacityMbit, v.AvailableMbit = megabits(pair.Capacity), megabits(pair.Available)
	v.CapacitySource, v.CapacityBound = pair.CapacitySource.String(), pair.CapacityBound
	heard := p.lastHeard()
	if heard != 0 {
		v.LastSeen = new(lastSeen(now, heard))
	}
	out := p.out.Load()
	if out == nil || heard == 0 {
		return v
	}
	by, addr := n.transportTo(out)
	v.Path, v.Transport = "direct", &by
	if addr.IsValid() {
		v.Address = new(addr.String())
	}
	if out.relay != nil {
		v.Path, v.Via = "relayed", namesOf(out.between, names)
	}
	if pair.RTTSource == measure.Measured {
		v.RTTms, v.JitterMs = millis(pair.RTT), millis(pair.Jitter)
	}
	if pair.LossKnown {
		v.Loss, v.LossLow, v.LossHigh = &pair.Loss, &pair.LossLow, &pair.LossHigh
	}
	v.MTU = new(out.size + out.around)
	return v
}

func (n *node) stationsView(now overlay.Instant) stationsView {
	names := n.names()
	v := stationsView{Schema: schemaVersion, Stations: []stationView{}}
	for _, s := range n.sw.Stations.List() {
		row := stationView{
			MAC: s.MAC.String(), IPs: []string{}, Sequence: uint64(s.Sequence),
			AgeS: now.Sub(s.Seen).Round(time.Millisecond).Seconds(),
		}
		for _, ip := range s.IPs {
			row.IPs = append(row.IPs, ip.String())
		}
		if i, ok := s.Place.Port(); ok {
			row.Agent, row.Port, row.Local = names[n.self], new(n.ports[i].name), true
		} else if p := n.view.Load().peer(s.Place); p != nil {
			row.Agent = namesOf([]overlay.AgentID{p.id}, names)[0]
		} else {
			continue
		}
		v.Stations = append(v.Stations, row)
	}
	return v
}
