package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"farlan/discovery"
	"farlan/discovery/p2p"
	"farlan/measure"
	"farlan/overlay"
)

const (
	// stationsLook is how long stations are watched for addresses that two have, and
	// stationsEvery how often they are looked at. Two machines that both send are
	// learned in turns.
	stationsLook  = 2 * time.Second
	stationsEvery = 100 * time.Millisecond
	// twiceMoves is how many moves in that time are too many for one machine.
	twiceMoves = 3
	// maxNamed is how many of anything a finding names.
	maxNamed = 5
	// mtuSlack is how much below the truth the found MTU may be.
	mtuSlack = 8
)

// port returns the port that others must reach.
func (n *node) port() uint16 { return n.sockets[0].Delay.LocalAddr().Port() }

// offloads says which ports take frames unfinished.
func (n *node) offloads() (all []findingView) {
	for _, p := range n.ports {
		check := "offload " + p.name
		switch {
		case p.Offload():
			all = append(all, fine(check, "frames of up to 64 KB pass in one piece"))
		case p.kind == "tap":
			all = append(all, findingView{check, levelWarn, "frames pass one by one, several times slower", "leave out offload=off of --tap; if it isn't there, this kernel's TAPs have none"})
		case p.kind == "qemu":
			all = append(all, fine(check, "frames pass one by one, as QEMU's sockets have none: a VM is faster by --tap"))
		default:
			all = append(all, findingView{check, levelWarn, "frames pass one by one, several times slower", "this interface's driver can't: use a bridge (--lan IFACE,bridge=BR) or another interface"})
		}
	}
	return all
}

// natFacts is what is known of what stands in front of this host.
type natFacts struct {
	mapping discovery.Mapping
	told    int            // members that tell where they see this host from
	port    uint16         // this agent's
	mapped  netip.AddrPort // by the router, if asked; not valid: none
	cut     bool           // no UDP passes
	tried   bool           // members have tried to reach it from ports that it never sent to
	let     bool           // and something came, by UDP
}

func (n *node) natFacts() natFacts {
	f := natFacts{mapping: n.mapping, told: len(n.seenByOthers()), port: n.port(), cut: n.throughTCP() > 0}
	f.mapped, _ = n.mappedAddress()
	return f
}

// natFinding says what the NAT or firewall in front of this host does (RFC 4787 § 4.1
// and § 5), with the names that people use. Whether a cone takes something from hosts
// that were never sent to can't be known: members were.
func natFinding(f natFacts) findingView {
	const check = "NAT"
	switch m := f.mapping; {
	case f.cut:
		return findingView{
			check, levelWarn, "not known: no UDP passes, datagrams go through TCP",
			fmt.Sprintf("let UDP pass from port %d of this host to any, and the answers", f.port),
		}
	case m == discovery.MappingNone && f.mapped.IsValid():
		return fine(check, "there is one, and its router hands on to this host what comes to %v", f.mapped)
	case m == discovery.MappingNone && f.tried && !f.let:
		return fine(check, "none: members see this host at an address of its own; but a firewall lets nothing in that it didn't ask for")
	case m == discovery.MappingNone:
		return fine(check, "none: members see this host at an address of its own")
	case m == discovery.MappingSame && f.let:
		return fine(check, "a full cone, or a restricted one: the same mapping for all, and open to other ports of hosts that were sent to")
	case m == discovery.MappingSame && f.tried:
		return fine(check, "a port-restricted cone: the same mapping for all, and open to those only that were sent to: members reach this host as soon as it calls them")
	case m == discovery.MappingSame:
		return fine(check, "a cone: the same mapping for all: members reach this host as soon as it calls them")
	case m == discovery.MappingByDestination:
		return findingView{
			check, levelWarn, "symmetric: it maps by destination: members behind such NATs or strict firewalls reach this host only by way of others",
			fmt.Sprintf("forward port %d, UDP and TCP, on the router and give its address with --advertise; or set its NAT to 'endpoint-independent' ('full cone')", f.port),
		}
	}
	return fine(check, "unknown: %d members told where they see this host from, it takes two outside of its own networks", f.told)
}

// A way is a path of the underlay to another agent.
type way struct {
	name  string
	addr  netip.Addr
	inUse bool // by datagrams to it, directly
	mtu   int  // that was found; 0: not yet
	none  bool // not even the least passes in one piece
}

// ways returns the ways to all peers that aren't gone: those in use, and to all other
// addresses that they tell.
func (n *node) ways() (all []way) {
	names := n.names()
	for _, p := range n.byIndex {
		if p == nil || p.state == measure.Gone || p.barred {
			continue
		}
		var used netip.Addr
		if out := p.out.Load(); out != nil && out.byPort() {
			used = out.way.Addr.Addr().Unmap()
			w := way{name: names[p.id], addr: used, inUse: true, none: out.fragment}
			p.mu.Lock()
			if p.mtu != nil && p.mtu.State() == measure.MTUFound {
				w.mtu = out.size + out.around
			}
			p.mu.Unlock()
			all = append(all, w)
		}
		for _, a := range n.reachable(p.member.Addrs) {
			if a.Addr().Unmap() != used {
				all = append(all, way{name: names[p.id], addr: a.Addr().Unmap()})
			}
		}
	}
	return all
}

// route returns the interface by which this host sends to an address, and what the
// kernel takes for the path's MTU: 0 if nobody told it one.
func routeTo(to netip.Addr) (*net.Interface, int, error) {
	routes, err := netlink.RouteGet(to.AsSlice())
	if err != nil || len(routes) == 0 {
		return nil, 0, fmt.Errorf("no route to %v: %w", to, err)
	}
	i, err := net.InterfaceByIndex(routes[0].LinkIndex)
	return i, routes[0].MTU, err
}

// nested looks for ways of the underlay that lead through the overlay itself: each
// datagram would be wrapped again and again.
func (n *node) nested(ways []way) findingView {
	const check = "nested tunnel"
	var bad []string
	fix := ""
	for _, w := range ways {
		i, _, err := routeTo(w.addr)
		if err != nil || n.underlayInterface(*i) {
			continue
		}
		bad = append(bad, fmt.Sprintf("%s at %v by %s", w.name, w.addr, i.Name))
		if fix == "" {
			fix = fmt.Sprintf("give this host a route to %v by the interface that leads there in truth: 'ip route replace %v via ROUTER'", w.addr, w.addr)
		}
	}
	if len(bad) == 0 {
		return fine(check, "no way to a member leads through the overlay")
	}
	return findingView{check, levelFail, "this host would send to members through the overlay's own port: " + named(bad), fix}
}

// blackHoles looks for paths that swallow long packets without a word.
func blackHoles(ways []way) (all []findingView) {
	const check = "path MTU"
	var holes, narrow []string
	measured := 0
	for _, w := range ways {
		if !w.inUse {
			continue
		}
		i, told, err := routeTo(w.addr)
		switch {
		case w.none:
			narrow = append(narrow, w.name)
		case err != nil || w.mtu == 0:
		case w.mtu < min(i.MTU, measure.MaxMTU)-mtuSlack && (told == 0 || told > w.mtu+mtuSlack):
			holes = append(holes, fmt.Sprintf("%s (%d of %d bytes)", w.name, w.mtu, i.MTU))
			measured++
		default:
			measured++
		}
	}
	if len(narrow) > 0 {
		all = append(all, findingView{
			check, levelWarn, fmt.Sprintf("not even packets of %d bytes pass in one piece to %s: they are cut, which is slow and loses more", measure.BaseMTU, named(narrow)),
			fmt.Sprintf("raise the MTU on the path (a tunnel in a tunnel?) to %d at least", measure.BaseMTU),
		})
	}
	if len(holes) > 0 {
		all = append(all, findingView{
			check, levelWarn, "long packets vanish, and no router says so, to " + named(holes) + ": farlan found what passes, but other programs' connections may hang",
			"let ICMP 'fragmentation needed' and 'packet too big' pass on the way, or set the MTU of this host's interface to what passes",
		})
	}
	if len(all) == 0 {
		all = append(all, fine(check, "no black hole on the paths to %d members that are measured", measured))
	}
	return all
}

// examineReach asks members to reach this agent, and notes for its NAT what came.
func (n *node) examineReach(ctx context.Context, front *natFacts) (findingView, error) {
	var names map[overlay.AgentID]string
	var tokens []p2p.Token
	if err := n.do(ctx, func(overlay.Instant) { names, tokens = n.names(), n.askReach() }); err != nil {
		return findingView{}, err
	}
	states := n.reached(ctx, tokens)
	for _, s := range states {
		front.tried = front.tried || s.answered && s.sent
		front.let = front.let || s.udp
	}
	return reachFinding(states, names, n.port()), nil
}

// reachFinding says what came of members' attempts to reach this agent.
func reachFinding(states []reachState, names map[overlay.AgentID]string, port uint16) findingView {
	const check = "reachable"
	var udp, tcp, tried []string
	for _, s := range states {
		if s.udp {
			udp = append(udp, names[s.member])
		}
		if s.tcp {
			tcp = append(tcp, names[s.member])
		}
		if s.answered && (s.sent || s.tcp) {
			tried = append(tried, names[s.member])
		}
	}
	fix := fmt.Sprintf("forward port %d, UDP and TCP, on the router (and open it in this host's firewall), and give the router's address with --advertise", port)
	switch {
	case len(udp) > 0 && len(tcp) > 0:
		return fine(check, "port %d: TCP from %s, and UDP from a port that this host never sent to, from %s", port, named(tcp), named(udp))
	case len(udp) > 0:
		return findingView{check, levelWarn, fmt.Sprintf("UDP port %d takes what comes from other ports of hosts that were sent to (%s), but TCP doesn't: members whose UDP is blocked can't call this host", port, named(udp)), fix}
	case len(tcp) > 0:
		return findingView{check, levelWarn, fmt.Sprintf("TCP port %d can be called, from %s, but UDP only answers: members call this host while it calls them", port, named(tcp)), fix}
	case len(tried) > 0:
		return findingView{check, levelWarn, fmt.Sprintf("port %d takes nothing that this host didn't ask for, by TCP or UDP (tried by %s): newcomers can't join by it", port, named(tried)), fix}
	}
	return fine(check, "unknown: none of %d connected members could try", len(states))
}

// A moves counts how often stations moved while they are watched.
type moves struct {
	first, last map[overlay.MAC]overlay.Station
}

func newMoves() *moves {
	return &moves{make(map[overlay.MAC]overlay.Station), make(map[overlay.MAC]overlay.Station)}
}

func (m *moves) note(all []overlay.Station) {
	for _, s := range all {
		if _, ok := m.first[s.MAC]; !ok {
			m.first[s.MAC] = s
		}
		m.last[s.MAC] = s
	}
}

// twice returns those that moved too often for one machine, ascending.
func (m *moves) twice() (all []overlay.MAC) {
	for mac, s := range m.last {
		if s.Moves >= m.first[mac].Moves+twiceMoves {
			all = append(all, mac)
		}
	}
	slices.SortFunc(all, overlay.MAC.Compare)
	return all
}

// examineStations looks for addresses that two machines have.
func (n *node) examineStations(ctx context.Context, m *moves) (findingView, error) {
	look := time.NewTicker(stationsEvery)
	defer look.Stop()
	for range int(stationsLook / stationsEvery) {
		select {
		case <-ctx.Done():
			return findingView{}, ctx.Err()
		case <-look.C:
			m.note(n.sw.Stations.List())
		}
	}
	const check = "duplicate MAC"
	twice := m.twice()
	if len(twice) == 0 {
		return fine(check, "none of %d stations is in two places", len(m.last)), nil
	}
	var bad []string
	for _, mac := range twice {
		bad = append(bad, fmt.Sprintf("%v (%d moves in %v)", mac, m.last[mac].Moves-m.first[mac].Moves, stationsLook))
	}
	return findingView{
		check, levelFail, "frames of one address come from two places: " + named(bad),
		"give one of the two machines another MAC address (a copied VM, most often); if it is all machines of a site, a cable or bridge joins two sites",
	}, nil
}

// named lists some of many.
func named(all []string) string {
	if len(all) > maxNamed {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:maxNamed], ", "), len(all)-maxNamed)
	}
	return strings.Join(all, ", ")
}
