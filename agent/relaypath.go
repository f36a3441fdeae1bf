package agent

import (
	"slices"

	"farlan/discovery"
	"farlan/overlay"
)

// What one member relays to another goes from this agent to it and on by its own session
// with that one. Among many agents it may have none: then the datagrams take the links of
// several, as the routes know them.

// relayPath returns the agents between this one and p on the way by a relay, the first of
// whom is reached directly: the relay alone, if it is said to have a link to p or nothing
// better is known.
func (n *node) relayPath(relay overlay.AgentID, p *peer) []overlay.AgentID {
	if len(p.way.between) > 0 {
		return p.way.between
	}
	if n.tellsOf(relay, p.id) || n.tellsOf(p.id, relay) {
		return []overlay.AgentID{relay}
	}
	if between := n.routeTo(p); len(between) > 0 {
		return between
	}
	return []overlay.AgentID{relay}
}

// routeTo returns the agents between this one and p on the route of urgent frames, nil if
// there are none, or not all of them are known.
func (n *node) routeTo(p *peer) []overlay.AgentID {
	if len(p.way.between) > 0 {
		return p.way.between
	}
	path := n.routing.routes.Way(p.id, overlay.ClassDelay).Path
	if len(path) < 3 {
		return nil
	}
	between := path[1 : len(path)-1]
	if first := n.peers[between[0]]; first == nil || !first.direct() {
		return nil
	}
	for _, id := range between {
		if n.peers[id] == nil {
			return nil
		}
	}
	return between
}

// tellsOf says whether an agent tells that it reaches another one directly.
func (n *node) tellsOf(id, other overlay.AgentID) bool {
	rows := n.routing.told[id].Rows
	i, ok := slices.BinarySearchFunc(rows, discovery.BriefOf(other), compareRow)
	return ok && !rows[i].Relayed
}

func compareRow(r discovery.Row, b discovery.Brief) int {
	if r.Peer < b {
		return -1
	} else if r.Peer > b {
		return 1
	}
	return 0
}
