// Package decide joins what agents tell of each other (discovery) with what decides by it
// (overlay/route, overlay/mesh): it is the same in the agent and in the simulator, and pure.
//
// Facts become a graph (facts.go). On it Routes keeps an agent's own paths to all others,
// for each class one and an alternate (routes.go, bulk.go), with what changed and why. Broadcasts
// spread by another graph, of what hardly ever changes (trees.go).
//
// Facts become a picture of all links, too (picture.go), by which Links decides once in an
// epoch which ones this agent wants (links.go), and agrees on them with its peers
// (asking.go, request.go):
//
//	links.Step(now, decide.EpochOf(wall), picture, measured, rates) // once in an epoch
//	links.Receive(now, peer, msg)                                   // a request of a peer
//	next := links.Tick(now)
//	links.Flush(send)
//	for _, k := range links.Kept() {…}                              // to keep warm, and to tell
//	ids := links.Nominees(predict, busy)                            // to measure for the next epoch
//
// Networks of more than about a thousand agents are divided into areas of about a hundred. In
// which one an agent is an Abode says once in an epoch (area.go). Each area has four gateways
// (gates.go), which decide on links with each other as all do on others, by a picture of the
// Backbone. An agent has Routes to those of its area and to all gateways, by what is Joined, and
// by a Lookout paths to everybody else, by the trees that gateways tell (beyond.go).
package decide

import (
	"slices"
	"time"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/route"
)

// A Told is what a member tells.
type Told struct {
	ID overlay.AgentID
	At overlay.Instant // when, by its clock
	discovery.Links
}

// A Hop is a link in one direction.
type Hop struct{ From, To overlay.AgentID }

// Graph makes a graph of what members tell, each once. broken says which links somebody
// couldn't use of late, nil: none.
func Graph(told []Told, broken func(h Hop, told overlay.Instant) bool) *route.Graph {
	nodes, links := facts(told, broken)
	return route.New(nodes, links)
}

func facts(told []Told, broken func(h Hop, told overlay.Instant) bool) (nodes []route.Node, links []route.Link) {
	byBrief := make(map[discovery.Brief]overlay.AgentID, len(told))
	rows := 0
	for i := range told {
		byBrief[discovery.BriefOf(told[i].ID)] = told[i].ID
		nodes = append(nodes, nodeOf(told[i].ID, told[i].Facts))
		rows += len(told[i].Rows)
	}
	links = make([]route.Link, 0, rows)
	for i := range told {
		for _, r := range told[i].Rows {
			to, ok := byBrief[r.Peer]
			if h := (Hop{told[i].ID, to}); ok && (broken == nil || !broken(h, told[i].At)) {
				links = append(links, linkOf(told[i].ID, discovery.Link{Peer: to, Pair: r.Pair, Intent: r.Intent}))
			}
		}
	}
	return nodes, links
}

func nodeOf(id overlay.AgentID, f discovery.Facts) route.Node {
	return route.Node{
		ID: id, NoTransit: f.NoTransit, TransitKbit: kbit(f.TransitLimit),
		UpKbit: kbit(f.LeftUp), DownKbit: kbit(f.LeftDown), CostMicros: micros(f.Cost),
	}
}

// linkOf returns a link as routes reckon with it. Of what is lost the least counts that is
// sure: a single probe that is lost of few is no reason to leave a path.
func linkOf(from overlay.AgentID, l discovery.Link) route.Link {
	x := route.Link{
		From: from, To: l.Peer, RTTMicros: micros(l.RTT), QueueMicros: micros(l.Queue), RateKbit: kbit(l.Left),
		CostMicros: micros(l.Cost), Up: !l.Forbid, Relayed: l.Relayed,
	}
	if l.LossKnown {
		x.Loss = uint32(min(max(l.LossLow, 0), 1) * route.LossUnit)
	}
	return x
}

func micros(d time.Duration) uint32 { return uint32(min(max(d.Microseconds(), 0), 1<<31)) }

// kbit returns a rate in kbit/s: what is known isn't 0.
func kbit(bits int64) uint32 {
	if bits <= 0 {
		return 0
	}
	return uint32(min(max(bits/1000, 1), 1<<32-1))
}

// without returns told without what one member says.
func without(told []Told, id overlay.AgentID) []Told {
	return slices.DeleteFunc(slices.Clone(told), func(t Told) bool { return t.ID == id })
}
