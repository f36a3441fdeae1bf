package agent

import (
	"cmp"
	"fmt"
	"slices"

	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/segment"
)

// aliveFor is how long ago an agent that fell silent on a LAN may have been heard over the wide
// area, if it is alive: less than the time since, less what frames may take.
const aliveFor = segment.Promise - 3*segment.Every

// there says whether a peer answers, or would if it were asked.
func (p *peer) there() bool {
	return p != nil && (p.state == measure.Up || p.state == measure.Idle)
}

// takeOver has a port of this agent's speak for its LAN from now on: it claims the stations
// there for all other agents, and tells the LAN's switches that the far ones are behind it.
// The port was led by another one before; released says that this one leaves it to us.
func (n *node) takeOver(now overlay.Instant, g *guarded, was segment.Name, released bool) {
	if was == (segment.Name{}) || was.Agent == n.self {
		return // it had nobody before it, or paused
	}
	here, elsewhere := n.overheard(now, g, was, released)
	n.askFor(g, elsewhere)
	place := overlay.PortPlace(g.number)
	var far []overlay.Frame
	for _, s := range n.sw.Stations.List() {
		if s.Place != place && !slices.Contains(here, s.MAC) && !n.at(s.Place, was.Agent) {
			far = append(far, overlay.Frame{Head: segment.AppendLearn(nil, s.MAC)})
		}
	}
	g.port.Write(0, far)
	var claims []overlay.Claim
	for _, m := range here {
		if c, ok := n.sw.Stations.Seize(now, m, place, g.port.trust); ok {
			claims = append(claims, c)
			n.sw.Groups.Follow(now, m, place)
			n.claimLater(now, m, 0)
		}
	}
	o := n.loopOut(now)
	for part := range slices.Chunk(claims, overlay.MaxClaims) {
		o.claim(n.view.Load(), part...)
	}
	o.flush()
	n.log.Info("took over", "port", g.port.name, "from", n.portOf(was), "stations", len(claims), "far", len(far))
}

// yield has the stations of a port be where another agent forwards for its LAN.
func (n *node) yield(now overlay.Instant, g *guarded, to segment.Name) {
	place := overlay.PortPlace(g.number)
	switch p := n.peers[to.Agent]; {
	case to.Agent == n.self:
		n.sw.Stations.Yield(now, place, overlay.PortPlace(int(to.Port)))
		n.sw.Groups.Hand(now, place, overlay.PortPlace(int(to.Port)))
	case p != nil:
		n.sw.Stations.Yield(now, place, p.place())
		n.sw.Groups.Hand(now, place, p.place())
	default:
		n.sw.Forget(place)
	}
}

// overheard returns the stations that were heard on a port's LAN while another one forwarded:
// those that nobody has, or that one's agent. If that agent is alive, and hasn't released the
// LAN, it was cut in two: those are here that were heard since, and the others may be elsewhere.
func (n *node) overheard(now overlay.Instant, g *guarded, was segment.Name, released bool) (all, elsewhere []overlay.MAC) {
	s := &n.segments
	s.mu.Lock()
	defer s.mu.Unlock()
	p := n.peers[was.Agent]
	cut := p != nil && !released && p.there() && now.Sub(p.lastHeard()) < aliveFor
	for m, at := range g.heard {
		to, known := n.sw.Stations.Lookup(now, m)
		switch {
		case known && !n.at(to, was.Agent):
		case cut && bootClock().Sub(at) >= segment.Promise-2*segment.Every:
			elsewhere = append(elsewhere, m)
		default:
			all = append(all, m)
		}
	}
	clear(g.heard)
	slices.SortFunc(all, overlay.MAC.Compare)
	slices.SortFunc(elsewhere, overlay.MAC.Compare)
	return all, elsewhere
}

// askTimes is how often stations are asked for, once a second: for that long a frame of one
// that spoke elsewhere a moment ago is taken for an echo.
const askTimes = 3

// asking is for the stations of an agent, so many times yet.
type asking struct {
	agent overlay.AgentID
	times int
}

// askAll asks for stations that are to be asked for.
func (n *node) askAll(g *guarded, all []asking) {
	for _, a := range all {
		if p := n.peers[a.agent]; p != nil {
			n.askFor(g, n.stationsAt(p.place()))
		}
	}
}

// welcome has a port that forwards ask for the stations of agents that it hears again: if their
// half of the LAN had another one that forwarded, these are here now.
func (g *guarded) welcome(forwards bool, others []segment.Other) {
	var names []segment.Name
	for _, o := range others {
		was := slices.Contains(g.beside, o.Name)
		if was || forwards { // else it is welcome when this port forwards
			names = append(names, o.Name)
		}
		if forwards && !was {
			g.asking = append(g.asking, asking{o.Agent, askTimes})
		}
	}
	g.beside = names
}

// stationsAt returns the stations at a place, ascending.
func (n *node) stationsAt(place overlay.Place) (all []overlay.MAC) {
	for _, s := range n.sw.Stations.List() {
		if s.Place == place {
			all = append(all, s.MAC)
		}
	}
	return all
}

// maxAskedFor bounds the stations that are asked for at once; others are claimed when they speak.
const maxAskedFor = 256

// askFor has stations that may be on a port's LAN speak, by ARP probes for their addresses: by
// that they are claimed if they are there.
func (n *node) askFor(g *guarded, stations []overlay.MAC) {
	var frames []overlay.Frame
	for _, s := range n.sw.Stations.List() {
		if _, found := slices.BinarySearchFunc(stations, s.MAC, overlay.MAC.Compare); !found {
			continue
		}
		for _, ip := range s.IPs {
			if ip.Is4() && len(frames) < maxAskedFor {
				frames = append(frames, overlay.Frame{Head: appendProbe(nil, n.probeMAC(g.number), ip)})
			}
		}
	}
	g.port.Write(0, frames)
}

// markOwn has the switch know which addresses of this host's are behind it: where another
// agent forwards for the LAN, this host's frames come by that one's.
func (n *node) markOwn() {
	var all []overlay.MAC
	for i, p := range n.ports {
		own, ok := p.device.(interface{ MAC() overlay.MAC })
		if ok && p.kind == "lan" && p.bridge == "" && n.forwards(i) {
			all = append(all, own.MAC())
		}
	}
	n.sw.Own.Store(&all)
}

// forwards says whether a port takes no part in a segment, or leads it.
func (n *node) forwards(i int) bool {
	s := &n.segments
	s.mu.Lock()
	defer s.mu.Unlock()
	return i >= len(s.ports) || s.ports[i] == nil || s.ports[i].forwards
}

// at says whether a place is that agent.
func (n *node) at(place overlay.Place, id overlay.AgentID) bool {
	i, ok := place.Agent()
	return ok && i < len(n.byIndex) && n.byIndex[i] != nil && n.byIndex[i].id == id
}

// portOf says which port of which agent is meant.
func (n *node) portOf(name segment.Name) string {
	if name == (segment.Name{}) {
		return "nobody"
	}
	label := fmt.Sprint("port ", name.Port)
	if name.Agent == n.self && int(name.Port) < len(n.ports) {
		label = n.ports[name.Port].name
	}
	agent := n.names()[name.Agent]
	if agent == "" {
		agent = name.Agent.Short()
	}
	return agent + "'s " + label
}

// segmentOf returns how a port takes part in its segment: its role, and what is to be said of
// that; ok is false if it doesn't take part.
func (n *node) segmentOf(i int) (role string, h healthView, ok bool) {
	s := &n.segments
	s.mu.Lock()
	defer s.mu.Unlock()
	if i >= len(s.ports) || s.ports[i] == nil {
		return "", h, false
	}
	g := s.ports[i]
	is := g.Role(bootClock())
	h = healthView{Check: "segment " + g.port.name, OK: true, Detail: "no other agent is on this LAN"}
	var beside, joined []string
	for _, o := range g.Others() {
		beside = append(beside, n.labelOf(o))
		if o.Joined {
			joined = append(joined, n.labelOf(o))
		}
	}
	leader := "another one"
	for _, o := range g.Others() {
		if l, _ := g.Leader(); l == o.Name {
			leader = n.labelOf(o)
		}
	}
	switch {
	case bootClock().Before(g.circle.until):
		h.OK = false
		h.Detail = "blocked to cut a loop: frames of other agents come back from this LAN, by a cable, a bridge or another agent's port on it, though no beacons do"
		h.Hint = "find what joins this LAN with another site's, or let frames of type 0x88b6 pass there; the port is tried again by itself"
		return "blocked", h, true
	case is == segment.Blocked:
		h.OK = false
		h.Detail = fmt.Sprintf("blocked to cut a loop: a cable or bridge joins this LAN with %s, and %s forwards for both", named(joined), leader)
		h.Hint = joinedHint
	case len(joined) > 0:
		h.OK = false
		h.Detail = fmt.Sprintf("a loop was cut: a cable or bridge joins this LAN with %s, which is blocked; this port forwards for both", named(joined))
		h.Hint = joinedHint
	case is == segment.Standby:
		h.Detail = leader + " forwards for this LAN; this port stands by"
	case is == segment.Listening:
		h.Detail = "listens whether another agent forwards for this LAN"
	case len(beside) > 0:
		h.Detail = fmt.Sprintf("forwards for this LAN; %s %s by", named(beside), verb(len(beside), "stands", "stand"))
	}
	return cmp.Or(map[segment.Role]string{segment.Forwarding: "forwarding", segment.Blocked: "blocked"}[is], "standby"), h, true
}

const joinedHint = "pull the cable, or take one of the two out of the bridge, and the port forwards again by itself; if they are to be one LAN, start one of the agents again: it stands by then"

func verb(count int, one, many string) string {
	if count == 1 {
		return one
	}
	return many
}

func (n *node) labelOf(o segment.Other) string {
	agent := n.names()[o.Agent]
	if agent == "" {
		agent = o.Agent.Short()
	}
	return agent + "'s " + o.Label
}

// checkLANs checks what is behind the ports.
func (n *node) checkLANs() (all []healthView) {
	for i, p := range n.ports {
		if _, h, ok := n.segmentOf(i); ok {
			all = append(all, h)
		}
		if h, ok := p.checkRefusal(); ok {
			all = append(all, h)
		}
		if h, ok := p.checkHost(); ok {
			all = append(all, h)
		}
	}
	return all
}
