package agent

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/mesh"
)

// Why links exist, beside what package decide says of this agent's own.
const (
	fewAgents = "few agents: each is linked to each"
	tooMany   = "more agents than can choose links together: each is linked to each"
	undecided = "not decided yet: until then each is linked to each"
)

// shows says whether there is a link with a peer for those who ask: as long as links aren't
// chosen there is one with each.
func (l *linking) shows(id overlay.AgentID) bool { return !l.chosen || l.link(id) != nil }

// common returns why links exist while they aren't chosen, "" when they are.
func (n *node) common() string {
	l := &n.linking
	switch {
	case l.chosen:
		return ""
	case l.crowded:
		return tooMany
	case l.agreed != nil || n.near() < measure.EverybodyUpTo:
		return fewAgents
	}
	return undecided
}

func (n *node) linksView(now overlay.Instant, own bool) linksView {
	names, common := n.names(), n.common()
	v := linksView{Schema: schemaVersion, Links: []linkView{}}
	for id, p := range n.peers {
		if p.state == measure.Gone && now.Sub(p.since) >= goneShown {
			continue
		}
		backbone := n.backboneReason(p)
		if n.linking.shows(id) && !p.far && p.state != measure.Idle || backbone != "" {
			v.Links = append(v.Links, n.ownLink(now, p, names, common))
		}
		if own {
			continue
		}
		if p.state != measure.Gone {
			v.Links = append(v.Links, n.toldBackbone(p, names)...)
		}
		links, _ := n.store.Links(id)
		for _, l := range links {
			if p.state == measure.Gone || names[l.Peer] == "" || n.linking.chosen && !l.Kept() {
				continue // what it said last isn't so any more, or it is no link
			}
			v.Links = append(v.Links, n.toldLink(p, l, names, common))
		}
	}
	slices.SortFunc(v.Links, func(a, b linkView) int {
		if c := strings.Compare(a.From, b.From); c != 0 {
			return c
		}
		return strings.Compare(a.To, b.To)
	})
	return v
}

// toldLink returns a link as the agent tells it that it begins at.
func (n *node) toldLink(p *peer, l discovery.Link, names map[overlay.AgentID]string, common string) linkView {
	v := linkView{From: names[p.id], To: names[l.Peer], State: "up", Reason: common}
	v.HeldBy = holders(l.Intent, v.From, v.To)
	if out := p.out.Load(); l.Peer == n.self && out != nil {
		by, _ := n.transportTo(out)
		v.Transport = &by
	}
	if l.RTT > 0 {
		v.RTTms = millis(l.RTT)
	}
	if common == "" {
		v.Reason = "held by " + strings.Join(v.HeldBy, " and ")
		if l.Leaving {
			v.Reason += ", which " + v.From + " gives up"
		}
	}
	return v
}

// holders returns who holds a link by what the one end says.
func holders(t discovery.Intent, from, to string) []string {
	by := []string{}
	if t.Holds || t.Leaving {
		by = append(by, from)
	}
	if t.Accepts {
		by = append(by, to)
	}
	return by
}

func (n *node) ownLink(now overlay.Instant, p *peer, names map[overlay.AgentID]string, common string) linkView {
	l := linkView{From: names[n.self], To: names[p.id], State: "down", Reason: common}
	l.HeldBy = holders(n.keeps(p.id), l.From, l.To)
	if k := n.linking.link(p.id); common == "" && k != nil {
		l.Reason = n.why(k, p, l.To)
	}
	l.Reason = joinReasons(n.linking.shows(p.id) && !p.far, l.Reason, n.backboneReason(p))
	switch p.state {
	case measure.Up:
		l.State = "up"
	case measure.Suspect:
		l.State = "probing"
	}
	if !p.direct() {
		l.State = "down"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.out.Load()
	if out == nil || p.path == nil {
		return l
	}
	by, _ := n.transportTo(out)
	l.Transport = &by
	if rtt, ok := p.path.RTT(now); ok {
		l.RTTms = millis(rtt)
	}
	return l
}

// joinReasons returns why there is a link of an area, if there is one, and why one of the
// backbone.
func joinReasons(near bool, why, backbone string) string {
	switch {
	case !near:
		return backbone
	case backbone == "":
		return why
	}
	return why + "; " + backbone
}

// why says why a link is kept that was chosen.
func (n *node) why(k *decide.Kept, p *peer, name string) string {
	var all []string
	if k.Holds || k.Leaving {
		why := n.reasonOf(k, p)
		if k.Leaving {
			why += ", to be given up for a better one"
		}
		all = append(all, why)
	}
	if k.Accepts {
		why := "held by " + name
		if k.TheyWhy != 0 {
			why += ": " + k.TheyWhy.String()
		}
		all = append(all, why)
	}
	return strings.Join(all, "; ")
}

// reasonOf says why this agent holds a link, with figures.
func (n *node) reasonOf(k *decide.Kept, p *peer) string {
	why := k.Why.String()
	switch k.Why {
	case mesh.Ring:
		why += ": with the next agent by hash, so that all hold together"
	case mesh.Bridge:
		why += ": there was no way to a part of the agents"
	case mesh.Preferred:
		why += " by the operator"
	case mesh.Traffic:
		why += fmt.Sprintf(": %.1f Mbit/s to it now", float64(p.load.rate)/1e6)
	case mesh.Gain:
		if pairs := int64(n.linking.agents) * int64(n.linking.agents-1) / 2; k.Gain > 0 && pairs > 0 {
			saves := time.Duration(k.Gain) * time.Microsecond / time.Duration(pairs)
			why += fmt.Sprintf(": saves %.3g ms of a round trip on average", float64(saves)/1e6)
		}
	}
	return why
}
