package agent

import (
	"fmt"
	"strings"

	"farlan/overlay"
)

// A dhcpServer is a station that hands out addresses.
type dhcpServer struct {
	station overlay.Station
	behind  string // whose port it is at: "home's eth0", or an agent
	home    bool   // that is a LAN, whose own server is right
}

func (s dhcpServer) String() string {
	if len(s.station.IPs) > 0 {
		return fmt.Sprintf("%v (%v) behind %s", s.station.IPs[0], s.station.MAC, s.behind)
	}
	return fmt.Sprintf("%v behind %s", s.station.MAC, s.behind)
}

// dhcpServers returns the stations that answered as DHCP servers, of those that are
// still heard; and whether any agent has a LAN. It is for the loop.
func (n *node) dhcpServers() (all []dhcpServer, lan bool) {
	names := n.names()
	lan = len(n.cfg.LANs) > 0
	for _, p := range n.byIndex {
		lan = lan || p != nil && p.member.LAN && !p.barred
	}
	for _, s := range n.sw.Stations.List() {
		if s.Leases == 0 {
			continue
		}
		if i, ok := s.Place.Port(); ok {
			all = append(all, dhcpServer{s, n.cfg.Name + "'s " + n.ports[i].name, n.ports[i].kind == "lan"})
		} else if i, _ := s.Place.Agent(); i < len(n.byIndex) && n.byIndex[i] != nil {
			p := n.byIndex[i]
			all = append(all, dhcpServer{s, names[p.id], p.member.LAN})
		}
	}
	return all, lan
}

// severalHomes says whether there are DHCP servers on the LANs of more than one agent. Two
// proxies of one LAN are no such: its stations are behind the one that forwards.
func severalHomes(all []dhcpServer) bool {
	behind := ""
	for _, s := range all {
		if s.home && behind != "" && s.behind != behind {
			return true
		} else if s.home {
			behind = s.behind
		}
	}
	return false
}

// dhcpFinding looks for DHCP servers beside the home LAN's own: a machine that asks takes
// the first offer, and is in another network then.
func dhcpFinding(all []dhcpServer, lan bool) findingView {
	const check = "rogue DHCP"
	const fix = "turn it off there; if it is the host's own, of the bridge that its VMs are on (libvirt's 'default' network has one), give --tap a bridge without"
	var home, others []string
	for _, s := range all {
		if s.home {
			home = append(home, s.String())
		} else {
			others = append(others, s.String())
		}
	}
	switch {
	case len(home) > 0 && len(others) > 0:
		return findingView{check, levelFail, fmt.Sprintf("machines get their addresses from whichever answers first: beside the LAN's own, %s, so does %s", named(home), named(others)), fix}
	case severalHomes(all):
		return findingView{
			check, levelFail, fmt.Sprintf("home LANs with a DHCP server each are in one network, and machines get their addresses from whichever answers first: %s", named(home)),
			"have one of them answer only: turn the other off, or keep its answers on its own LAN",
		}
	case len(others) > 1:
		return findingView{check, levelFail, "machines get their addresses from whichever answers first: " + strings.Join(others[:min(len(others), maxNamed)], ", "), fix}
	case len(others) == 1 && lan:
		return findingView{check, levelWarn, fmt.Sprintf("%s answers, which isn't on a LAN that an agent bridges; none there was heard in the last %v", others[0], overlay.StationAge), fix}
	case len(all) == 0:
		return fine(check, "no DHCP server was heard in the last %v", overlay.StationAge)
	}
	return fine(check, "only %s answers", named(append(home, others...)))
}
