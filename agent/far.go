package agent

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// Far agents are looked for when something is to be sent to one, or one begins a session: who
// is in which area gateways tell by brief names, and each gateway tells who asks the records
// of its area's members. A session is opened then as with others: directly if datagrams pass,
// else along a path by gateways, which both ends choose for themselves. Who isn't used any
// more is forgotten with its session.
const (
	// maxFar is how many far agents there are at most, gateways not counted; beyond, no
	// others are looked for.
	maxFar = 256
	// maxQuests is how many are looked for at once, for questFor, asking each questEvery.
	maxQuests  = 64
	questFor   = 8 * time.Second
	questEvery = time.Second
	// farIdle is how long after it was last of use a far agent without a session is
	// forgotten.
	farIdle = time.Minute
	// shunFor is for how long no path is taken by a gateway by which one failed, twice as
	// long after each further one, up to shunMost. So one that says that it reaches what it
	// doesn't costs little.
	shunFor, shunMost = 15 * time.Second, 10 * time.Minute
	// wayPatience is how long a path is given until the agent must be up.
	wayPatience = 1500 * time.Millisecond
	// sampledAreas is how many areas' gateways a newcomer measures to choose one.
	sampledAreas = 16
)

// seeking is what the loop keeps of whom it looks for.
type seeking struct {
	dial   func(now overlay.Instant, gateway overlay.AgentID)
	quests map[discovery.Brief]*quest
	looked overlay.Instant
	failed map[overlay.AgentID]shunned // gateways by which a path failed
}

// A shunned gateway isn't taken until some time.
type shunned struct {
	until overlay.Instant
	last  time.Duration // for how long
}

// A quest is a search for the record of a far agent.
type quest struct {
	since, asked overlay.Instant
	tries        int
}

// A farWay is the path to a far agent that isn't reached directly.
type farWay struct {
	gateway overlay.AgentID   // by whose tree it leads
	since   overlay.Instant   // when it was chosen
	between []overlay.AgentID // the agents on it but its ends; some by an alias
}

func newSeeking(n *node) seeking {
	return seeking{
		dial:   func(now overlay.Instant, gateway overlay.AgentID) { n.dial(now, gateway, nil) },
		quests: make(map[discovery.Brief]*quest), failed: make(map[overlay.AgentID]shunned),
	}
}

// aliasMark is between what an alias begins and ends with: no key has it, but by a chance of
// 2^-160.
var aliasMark = [20]byte([]byte("farlan alias of one "))

// An alias stands for the id of an agent of whom only gateways tell: its brief name, a mark,
// and its label.
func aliasOf(b discovery.Brief, l overlay.Label) (id overlay.AgentID) {
	binary.BigEndian.PutUint64(id[:], uint64(b))
	copy(id[8:], aliasMark[:])
	binary.BigEndian.PutUint32(id[len(id)-4:], uint32(l))
	return id
}

func isAlias(id overlay.AgentID) bool { return [20]byte(id[8:28]) == aliasMark }

// labelOf returns the label of an agent, which may be named by an alias.
func labelOf(id overlay.AgentID) overlay.Label {
	if isAlias(id) {
		return overlay.Label(binary.BigEndian.Uint32(id[len(id)-4:]))
	}
	return id.Label()
}

// shortName returns what to call an agent whose name isn't known.
func shortName(id overlay.AgentID) string {
	if isAlias(id) {
		return "agent " + hex.EncodeToString(id[:4])
	}
	return id.Short()
}

// isElsewhere says whether an agent is in another area by what gateways tell: then it needn't
// be looked for as one that got lost. Where none tells of it only gateways look, for all.
func (n *node) isElsewhere(id overlay.AgentID) bool {
	if !n.divided() {
		return false
	}
	_, known := n.beyond().Area(discovery.BriefOf(id))
	return known || n.area.gate == nil && n.near() > 0 && len(n.control.connected) > 0
}

// seek looks for an agent of another area.
func (n *node) seek(now overlay.Instant, name discovery.Brief) {
	f := &n.far
	if f.quests[name] != nil || len(f.quests) >= maxQuests || n.farUsed() >= maxFar {
		return
	}
	if id, ok := n.store.Find(name); ok && n.peers[id] != nil {
		n.foundFar(now, id)
		return
	}
	if len(n.beyond().Tellers(name)) == 0 {
		return
	}
	q := &quest{since: now}
	f.quests[name] = q
	n.askGateway(now, name, q)
}

// farUsed returns how many far agents there are besides gateways.
func (n *node) farUsed() (count int) {
	for id, p := range n.peers {
		if _, _, gateway := n.store.Gateway(id); p.far && !gateway {
			count++
		}
	}
	return count
}

// askGateway asks one of those gateways for an agent's record that tell of it, in each try the next
// one: one that lies is no more than one of them. If it isn't connected it is asked when it is.
func (n *node) askGateway(now overlay.Instant, name discovery.Brief, q *quest) {
	q.asked = now
	gates := n.beyond().Tellers(name)
	if len(gates) == 0 {
		return
	}
	id := gates[(int(uint64(n.label)%uint64(len(gates)))+q.tries)%len(gates)]
	q.tries++
	if n.control.connected[id] {
		n.store.Seek(n.wall(), id, name)
	} else {
		n.far.dial(now, id)
	}
}

// connectedTo asks a gateway that is connected since for those who are looked for.
func (n *node) connectedTo(id overlay.AgentID) {
	for name := range n.far.quests {
		if slices.Contains(n.beyond().Tellers(name), id) {
			n.store.Seek(n.wall(), id, name)
		}
	}
}

// mindFar goes on with searches, and forgets far agents that aren't of use any more.
func (n *node) mindFar(now overlay.Instant) {
	f := &n.far
	for name, q := range f.quests {
		id, ok := n.store.Sought(name)
		switch {
		case ok:
			delete(f.quests, name)
			n.memberChanged(now, id)
			n.foundFar(now, id)
		case now.Sub(q.since) >= questFor:
			delete(f.quests, name)
			n.dropHeld(n.held.take(n.afar.stand(name)))
		case now.Sub(q.asked) >= questEvery:
			n.askGateway(now, name, q)
		}
	}
	if len(n.beyond().Gates()) > 0 {
		for _, id := range n.sessions.Strangers(now) {
			n.seek(now, discovery.BriefOf(id))
		}
	}
	if now.Sub(f.looked) < time.Second {
		return
	}
	f.looked = now
	for id, x := range f.failed {
		if now.Sub(x.until) >= 2*x.last {
			delete(f.failed, id)
		}
	}
	n.afar.expire(now, n.sw.Stations.Forget)
	n.meetAreas(now)
	if !n.divided() && n.near() == len(n.peers) {
		return
	}
	for id, p := range n.peers {
		if p.far && !n.hasRecord(id) && !n.keepsFar(id) {
			n.forget(id)
			n.store.Dismiss(discovery.BriefOf(id))
		}
	}
}

// hasRecord says whether the store has a record of an agent by itself: then that is forgotten
// when the record goes.
func (n *node) hasRecord(id overlay.AgentID) bool {
	_, member := n.store.Record(id, discovery.KindMember)
	_, gateway := n.store.Record(id, discovery.KindArea)
	return member || gateway
}

// foundFar has what waits for an agent sent to it, now that its record is there.
func (n *node) foundFar(now overlay.Instant, id overlay.AgentID) {
	p := n.peers[id]
	if p == nil || p.barred {
		return
	}
	name := discovery.BriefOf(id)
	if stand := n.afar.stand(name); stand != nil {
		n.held.hand(stand, p)
	}
	n.afar.found(name, p)
	n.leadFar(now)
	n.demand(now, p)
}

// forgetFar forgets a far agent that is no member any more.
func (n *node) forgetFar(id overlay.AgentID) {
	if p := n.peers[id]; p != nil && p.far {
		n.forget(id)
		n.store.Dismiss(discovery.BriefOf(id))
	}
}

// expelFar forgets those far agents that are no members of a signed network any more: of most
// there is no record that the store would drop.
func (n *node) expelFar(admits *discovery.Admission) {
	for id, p := range n.peers {
		if !p.far {
			continue
		}
		c, err := discovery.ParseCredential(p.member.Credential)
		if err == nil {
			_, err = admits.Verify(n.wall(), id, c)
		}
		if err != nil {
			n.forgetFar(id)
		}
	}
}

// keepsFar says whether a far agent is of use: there is a session with it, it is being opened
// or it was asked for a moment ago.
func (n *node) keepsFar(id overlay.AgentID) bool {
	p := n.peers[id]
	if p == nil || p.barred || !n.divided() {
		return false
	}
	n.setFar(p, true)
	return p.out.Load() != nil || p.usedSince(n.now().Add(-farIdle)) || n.now().Sub(max(p.wanted, p.known)) < farIdle
}

// meetAreas has a newcomer to a divided network measure how far gateways are, one of each of
// some areas: so it chooses where to go.
func (n *node) meetAreas(now overlay.Instant) {
	b := n.beyond()
	if area, moving := n.store.Area(); area != 0 || moving || len(b.Gates()) == 0 || n.near() >= n.area.sizes.Least {
		return
	}
	var areas []uint32
	for area := range b.Sizes() {
		areas = append(areas, area)
	}
	key := func(area uint32) uint32 { return (area ^ uint32(n.label)) * 2654435761 }
	slices.SortFunc(areas, func(x, y uint32) int { return cmp.Or(cmp.Compare(key(x), key(y)), cmp.Compare(x, y)) })
	for _, area := range areas[:min(len(areas), sampledAreas)] {
		gates := b.Of(area)
		p := n.peers[gates[int(uint64(n.label)%uint64(len(gates)))]]
		if p != nil && p.out.Load() == nil && p.state != measure.Gone {
			n.demand(now, p)
		}
	}
}

// joined returns what routes go by: what members tell, ascending, and what gateways do that
// aren't gone.
func (n *node) joined(told []decide.Told) []decide.Told {
	gates := n.beyond().Gates()
	if len(gates) == 0 || !n.divided() {
		return told
	}
	gates = slices.DeleteFunc(slices.Clone(gates), func(g decide.Gate) bool {
		p := n.peers[g.ID]
		return g.ID != n.self && (p == nil || p.barred || p.state == measure.Gone)
	})
	return decide.Joined(told, gates)
}

// shun has paths take other gateways for a while, if there are.
func (n *node) shun(now overlay.Instant, gateway overlay.AgentID) {
	if x := n.far.failed[gateway]; now >= x.until {
		x.last = min(max(2*x.last, shunFor), shunMost)
		x.until = now.Add(x.last)
		n.far.failed[gateway] = x
	}
}

func (n *node) shuns(now overlay.Instant, gateway overlay.AgentID) bool {
	return now < n.far.failed[gateway].until
}

// named returns how to name a leaf: by its id, if that is known.
func (n *node) named(l discovery.Leaf) overlay.AgentID {
	if id, ok := n.store.Find(l.Agent); ok {
		return id
	}
	return aliasOf(l.Agent, l.Label)
}

func (n *node) briefly(b discovery.Brief) *peer {
	id, ok := n.store.Find(b)
	if !ok {
		return nil
	}
	return n.peers[id]
}
