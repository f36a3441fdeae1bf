package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"farlan/discovery"
	"farlan/overlay"
)

const (
	// maxAskedAreas is in how many areas at most one is looked for by name: nobody tells in which
	// of them it is.
	maxAskedAreas = 64
	// namesakePatience is how long after the first one that has a name others are waited for.
	namesakePatience = time.Second
)

// lookFor looks for an agent of another area by its id or name, and waits for its record, but
// not for long; nil if there is none. Names are what agents say themselves: it fails if
// several agents answer to one.
func (n *node) lookFor(ctx context.Context, name string) (p *peer, refused *failure) {
	id, err := overlay.ParseAgentID(name)
	if err != nil {
		return n.lookForName(ctx, name)
	}
	look := time.NewTicker(summonEvery)
	defer look.Stop()
	for end := time.Now().Add(summonFor); p == nil && time.Now().Before(end); {
		known := true
		if n.do(ctx, func(now overlay.Instant) {
			if p = n.peers[id]; p == nil && n.divided() {
				n.seek(now, discovery.BriefOf(id))
				known = n.far.quests[discovery.BriefOf(id)] != nil
			} else if p == nil {
				known = false
			}
		}) != nil || !known {
			return p, nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return p, nil
		}
	}
	return p, nil
}

// lookForName looks for an agent of another area by its name.
func (n *node) lookForName(ctx context.Context, name string) (p *peer, refused *failure) {
	look := time.NewTicker(summonEvery)
	defer look.Stop()
	var asked, found time.Time
	tries := 0
	for begin := time.Now(); ; {
		var ids []overlay.AgentID
		divided, now := false, time.Now()
		end := now.Sub(begin) >= summonFor || !found.IsZero() && now.Sub(found) >= namesakePatience
		if n.do(ctx, func(at overlay.Instant) {
			if divided = n.divided(); divided && now.Sub(asked) >= questEvery {
				n.askForName(at, name, tries)
				asked = now
				tries++
			}
			if ids = n.store.Named(name); end {
				p, refused = n.meetNamed(at, name, ids)
			}
		}) != nil || end || !divided {
			return p, refused
		}
		if len(ids) > 0 && found.IsZero() {
			found = now
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// askForName asks a gateway of each other area for who has a name: one to which this agent is
// connected, or else it connects to another one in each try.
func (n *node) askForName(now overlay.Instant, name string, tries int) {
	b := n.beyond()
	own, _ := n.store.Area()
	areas := make([]uint32, 0, len(b.Sizes()))
	for area := range b.Sizes() {
		if area != own {
			areas = append(areas, area)
		}
	}
	slices.Sort(areas)
	for _, area := range areas[:min(len(areas), maxAskedAreas)] {
		gates := b.Of(area)
		id := gates[(int(uint64(n.label)%uint64(len(gates)))+tries)%len(gates)]
		if i := slices.IndexFunc(gates, func(g overlay.AgentID) bool { return n.control.connected[g] }); i >= 0 && !n.control.connected[id] {
			id = gates[i]
		}
		if n.control.connected[id] {
			n.store.SeekName(n.wall(), id, name)
		} else {
			n.far.dial(now, id)
		}
	}
}

// meetNamed makes peers of those who have a name, and returns the only one.
func (n *node) meetNamed(now overlay.Instant, name string, ids []overlay.AgentID) (p *peer, refused *failure) {
	var all []string
	for _, id := range ids {
		m, ok := n.store.Member(id)
		if !ok || m.Left || n.peers[id] == nil && n.farUsed() >= maxFar {
			continue
		}
		n.memberChanged(now, id)
		n.foundFar(now, id)
		p = n.peers[id]
		all = append(all, id.String())
	}
	if len(all) > 1 {
		return nil, &failure{
			err:  fmt.Errorf("%s: several agents of other areas say that this is their name: %s", name, strings.Join(all, ", ")),
			hint: "give the id of the one that is meant", code: exitNoPeer,
		}
	}
	return p, nil
}

// reachFar looks for what is asked about if it isn't known here, as it may be an agent of another
// area, and opens a session with it. It fails if there are several.
func (n *node) reachFar(ctx context.Context, what string) (refused *failure) {
	_, notMAC := overlay.ParseMAC(what)
	_, notIP := netip.ParseAddr(what)
	look := false
	if what == "" || notMAC == nil || notIP == nil || n.do(ctx, func(overlay.Instant) {
		_, unknown := n.goal(what, n.names())
		look = unknown != nil && n.divided()
	}) != nil || !look {
		return nil
	}
	_, refused = n.reachPeer(ctx, what)
	return refused
}
