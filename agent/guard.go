package agent

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"farlan/overlay"
)

const (
	// offenceFor is how long a place's misdeed is told after it was done last.
	offenceFor = 10 * time.Minute
	// maxOffences bounds those that are remembered, one of a kind and place: with so many, that
	// of whom nothing was heard for longest is forgotten.
	maxOffences = 256
)

// An offence is what came from a place and may not, and so went no further.
type offence struct {
	what    overlay.Verdict
	at      overlay.Place
	station overlay.MAC // the last one
	several bool        // there were others
	count   uint64
	since   overlay.Instant
	last    overlay.Instant
}

// offences are those of late. Safe for concurrent use; the zero one is ready.
type offences struct {
	mu  sync.Mutex
	all []offence
}

// isOffence says whether a verdict is one over the station's sender.
func isOffence(v overlay.Verdict) bool {
	switch v {
	case overlay.DropLease, overlay.DropRouter, overlay.DropSpoof, overlay.DropPoison, overlay.DropStations, overlay.DropNoisy, overlay.DropLinkLocal, overlay.DropClaimStorm:
		return true
	}
	return false
}

// note takes a frame that came from a place and was refused.
func (o *offences) note(now overlay.Instant, v overlay.Verdict, at overlay.Place, frame []byte) {
	if len(frame) < overlay.MinFrame || !isOffence(v) || v == overlay.DropLinkLocal && !isBPDU(frame) {
		return
	}
	o.add(now, v, at, overlay.MAC(frame[6:12]))
}

func (o *offences) add(now overlay.Instant, v overlay.Verdict, at overlay.Place, station overlay.MAC) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.IndexFunc(o.all, func(x offence) bool { return x.what == v && x.at == at })
	if i < 0 {
		if len(o.all) >= maxOffences {
			oldest := slices.MinFunc(o.all, func(a, b offence) int { return cmp.Compare(a.last, b.last) })
			o.all = slices.DeleteFunc(o.all, func(x offence) bool { return x == oldest })
		}
		i = len(o.all)
		o.all = append(o.all, offence{what: v, at: at, station: station, since: now})
	}
	x := &o.all[i]
	x.count, x.last = x.count+1, now
	if x.station != station {
		x.station, x.several = station, true
	}
}

// list returns those of late, in a fixed order.
func (o *offences) list(now overlay.Instant) []offence {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = slices.DeleteFunc(o.all, func(x offence) bool { return now.Sub(x.last) >= offenceFor })
	all := slices.Clone(o.all)
	slices.SortFunc(all, func(a, b offence) int { return cmp.Or(cmp.Compare(a.what, b.what), cmp.Compare(a.at, b.at)) })
	return all
}

// isBPDU says whether a frame, which goes to the next bridge only, is one of spanning tree (IEEE
// 802.1D § 9, LLC address 0x42) or of Cisco's for each VLAN. LLDP and others are harmless.
func isBPDU(frame []byte) bool {
	to := overlay.MAC(frame[:6])
	return to == overlay.MAC{0x01, 0x80, 0xc2} || to == overlay.PVST || len(frame) > 16 && bytes.Equal(frame[14:16], []byte{0x42, 0x42})
}

// guard counts a frame from a place that was refused, and remembers by whom.
func (n *node) guard(now overlay.Instant, v overlay.Verdict, at overlay.Place, frame []byte) {
	n.drops.verdict(v)
	if isOffence(v) && !n.isLAN(at) {
		n.edge.offences.note(now, v, at, frame)
	}
}

func (n *node) isLAN(at overlay.Place) bool {
	i, here := at.Port()
	return here && i < len(n.sw.LAN) && n.sw.LAN[i]
}

// trustOf returns what may come from a member. A LAN's stations are those of the members that
// say they bridge one, and have the right to.
func (n *node) trustOf(p *peer) overlay.Trust {
	trust := overlay.TrustLeases | overlay.TrustRouters
	from := n.cfg.DHCPFrom
	if len(from) > 0 && !slices.Contains(from, p.member.Name) && !slices.Contains(from, p.id.String()) {
		trust = 0
	}
	if p.member.LAN {
		trust |= overlay.TrustStations
	}
	return trust
}

// A portEdge is what a node remembers of what its ports may say, and ask. The zero one is ready.
type portEdge struct {
	offences offences
	chatter  chatter
	aged     overlay.Instant // when the bindings were last looked at
}

// mindEdge forgets what is too old.
func (n *node) mindEdge(now overlay.Instant) {
	n.sw.Stations.Expire(now)
	if now.Sub(n.edge.aged) >= 10*time.Second {
		n.edge.aged = now
		n.sw.Bindings.Expire(now)
		n.sw.Names.Expire(now)
		n.sw.Groups.Expire(now)
	}
}

// offenceViews tells what was refused lately. It is for the loop.
func (n *node) offenceViews(now overlay.Instant) []offenceView {
	all := []offenceView{}
	names := n.names()
	for _, x := range n.edge.offences.list(now) {
		v := offenceView{
			Kind: x.what.String(), Station: x.station.String(), Several: x.several, Count: x.count,
			Since: lastSeen(now, x.since), Last: lastSeen(now, x.last),
		}
		if i, here := x.at.Port(); here {
			v.Agent, v.Port = names[n.self], new(n.ports[i].name)
		} else if p := n.view.Load().peer(x.at); p != nil {
			v.Agent = namesOf([]overlay.AgentID{p.id}, names)[0]
		}
		all = append(all, v)
	}
	return all
}

// remedies say what to do about offences.
var remedies = map[overlay.Verdict]string{
	overlay.DropLease:      "turn the DHCP server off there (libvirt's networks have one); if it is the right one, say trust=dhcp of that port, or name the agent in dhcp-from",
	overlay.DropRouter:     "turn off what advertises routes there (radvd, dnsmasq's enable-ra, Windows' connection sharing); if it is the right router, say trust=ra of that port, or name the agent in dhcp-from",
	overlay.DropSpoof:      "a machine there sends by the address of one on the home LAN: give it another MAC address, or turn it off",
	overlay.DropPoison:     "a machine there says that another one's IP address is its own: give it another one, or turn it off",
	overlay.DropStations:   "a machine there invents MAC addresses, or there are more machines than a port may have: turn it off, or spread them over several ports",
	overlay.DropNoisy:      "a machine there sends broadcasts or multicasts without end: turn it off, or see what runs on it",
	overlay.DropClaimStorm: "that agent says of more stations than a LAN has that they are behind it: see what invents addresses there (its own doctor names it), or revoke it",
	overlay.DropLinkLocal:  "harmless, they go no further: turn spanning tree off on the bridge there, as it can't find loops by way of the overlay",
}

// guardFindings tells what was refused lately.
func (n *node) guardFindings(now overlay.Instant) (all []findingView) {
	views := n.offenceViews(now)
	for i, x := range n.edge.offences.list(now) {
		v := views[i]
		where := "agent " + v.Agent
		if v.Port != nil {
			where = "port " + *v.Port
		}
		who := v.Station
		if v.Several {
			who += " and others"
		}
		kind := strings.Replace(v.Kind, "link-local", "spanning tree", 1)
		all = append(all, findingView{"guard", levelWarn, fmt.Sprintf("%s: %d frames of %s on %s went no further since %s, the last one %v ago",
			kind, v.Count, who, where, v.Since.Format(time.RFC3339), now.Sub(x.last).Round(time.Second)), remedies[x.what]})
	}
	if len(all) == 0 {
		all = append(all, fine("guard", "nothing was refused in the last %v", offenceFor))
	}
	return all
}
