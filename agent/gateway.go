package agent

import (
	"slices"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/route"
)

const (
	// backboneDegree is to how many other gateways one is connected for control.
	backboneDegree = 6
	// outFor is for how many epochs an agent isn't among the gateways of its area any more
	// until it stops to be one.
	outFor = 2
	// strayGates is to how many gateways an agent is connected that has nobody else.
	strayGates = 2
)

// A gate is what a gateway knows besides: it joins its area to the others. The loop's own, but
// for links, which belong to whoever decides on links.
type gate struct {
	links   *decide.Links // with other gateways
	kept    []decide.Kept
	named   []overlay.AgentID // whom to measure for the next epoch
	telling discovery.AreaTelling
	rows    discovery.Telling
	version uint64            // of what it told of its links
	others  []discovery.Brief // the other gateways of the area
	size    int               // of the area
	tree    []discovery.Leaf
	haste   discovery.News  // how soon to tell the tree
	repeat  overlay.Instant // an ask that isn't answered
}

// A duty is what is decided of gateways in an epoch, and what is known for it. It may be used
// beside the loop.
type duty struct {
	area      uint32
	network   uint64
	beyond    *decide.Beyond
	gate      *gate
	told      discovery.Area // by this gateway
	measured  []decide.Measured
	predicted map[overlay.AgentID]int32

	set   []overlay.AgentID // who the gateways of the area are
	size  int
	tree  []discovery.Leaf
	haste discovery.News
	named []overlay.AgentID
}

// duty returns what is known of gateways; nil outside of areas.
func (n *node) duty(now overlay.Instant) *duty {
	area, _ := n.store.Area()
	if area == 0 {
		return nil
	}
	d := &duty{area: area, network: n.networkNumber() + 1, beyond: n.beyond(), gate: n.area.gate}
	if d.gate == nil {
		return d
	}
	d.told = d.gate.telling.Area
	d.measured, d.predicted = n.measuredOf(now, d.gate.named), make(map[overlay.AgentID]int32)
	for _, g := range d.beyond.Gates() {
		d.predicted[g.ID] = n.costOf(g.ID)
	}
	return d
}

// decide finds who the gateways are, by a picture of the area and what its members tell, and
// what one tells and whom it links with.
func (d *duty) decide(now overlay.Instant, epoch int64, self overlay.AgentID, picture *decide.Picture, told []decide.Told) {
	if d == nil {
		return
	}
	d.set = slices.Clone(picture.Gateways(d.beyond.Of(d.area)))
	if d.gate == nil && !slices.Contains(d.set, self) {
		return
	}
	var finder route.Finder
	graph := decide.Graph(told, nil)
	d.size, d.tree = picture.View.Agents(), decide.TreeOf(graph, self, &finder)
	if d.gate == nil {
		return
	}
	d.haste = d.beyond.Haste(graph, epoch, self, &d.told, d.tree, &finder)
	backbone, err := decide.NewBackbonePicture(d.network, epoch, self, decide.Backbone(d.beyond.Gates()))
	if err == nil && backbone.View.Index(self) >= 0 {
		d.gate.links.Step(now, epoch, backbone, d.measured, nil)
		d.named = d.gate.links.Nominees(func(id overlay.AgentID) int32 { return d.predicted[id] }, nil)
	}
}

// served takes over what was decided of gateways.
func (n *node) served(now overlay.Instant, d *duty) {
	a := &n.area
	if area, _ := n.store.Area(); d == nil || d.area != area || d.gate != a.gate {
		return
	}
	is := slices.Contains(d.set, n.self)
	switch {
	case is && a.gate == nil:
		n.log.Info("this agent is a gateway now", "area", d.area)
		a.gate = &gate{links: decide.NewBackbone(n.self)}
		n.control.next, n.spread.stirred = 0, true
	case !is && a.gate != nil:
		if a.out++; a.out >= outFor {
			n.retire()
		}
	}
	g := a.gate
	if g == nil {
		return
	}
	if is {
		a.out = 0
	}
	g.others = nil
	for _, id := range d.set {
		if id != n.self && len(g.others) < discovery.MaxGateways {
			g.others = append(g.others, discovery.BriefOf(id))
		}
	}
	slices.Sort(g.others)
	g.size, g.tree, g.haste, g.named = d.size, d.tree, d.haste, d.named
	n.agreeOnBackbone(now)
	n.meetGateways(now)
}

// agreeOnBackbone sends what is to be said to other gateways of links with them.
func (n *node) agreeOnBackbone(now overlay.Instant) {
	g := n.area.gate
	if g == nil {
		return
	}
	g.repeat = g.links.Tick(now)
	g.links.Flush(n.linking.send)
	was := g.kept
	g.kept = g.links.Kept()
	if !slices.EqualFunc(was, g.kept, func(a, b decide.Kept) bool { return a.Peer == b.Peer }) {
		n.chooseWatched(n.view.Load().linked)
	}
}

// meetGateways opens sessions with those gateways with whom a link could be made.
func (n *node) meetGateways(now overlay.Instant) {
	for _, id := range n.area.gate.named {
		if p := n.peers[id]; p != nil && p.out.Load() == nil && p.state == measure.Idle {
			n.demand(now, p)
			p.wanted = now.Add(candidateFor)
		}
	}
}

// onBackbone says whether this agent, a gateway, keeps a link with another one.
func (n *node) onBackbone(id overlay.AgentID) bool {
	g := n.area.gate
	return g != nil && keptLink(g.kept, id) != nil
}

// retire ends being a gateway.
func (n *node) retire() {
	g := n.area.gate
	if g == nil {
		return
	}
	n.area.gate, n.area.out = nil, 0
	n.spread.stirred = true
	if n.area.told != 0 {
		n.publishArea(discovery.Area{Member: n.memberRecord(0)})
	}
	n.log.Info("this agent is no gateway any more")
}

// tellArea publishes what a gateway says, if that is news.
func (n *node) tellArea(now overlay.Instant) {
	g := n.area.gate
	if g == nil || g.size == 0 {
		return
	}
	area, _ := n.store.Area()
	is := discovery.Area{Number: area, Size: g.size, Gateways: g.others, Member: n.memberRecord(area), Tree: g.tree}
	gates := max(len(n.beyond().Gates()), 1)
	if g.telling.Due(now, is, gates, g.haste) {
		n.publishArea(is)
		g.telling.Told(now, is, gates)
		g.haste = discovery.NoNews
	}
	rows, facts := n.backboneRows(now), n.ownFacts(now)
	if g.links.Alone(now, g.rows.At) {
		g.rows.Again()
	}
	if !g.rows.Due(now, rows, facts, gates) {
		return
	}
	if body, err := discovery.AppendLinks(nil, now, facts, rows); err != nil {
		n.log.Error("can't tell of this gateway's links", "error", err)
	} else if v, ok := n.sign(discovery.KindBackbone, body); ok {
		g.version = v
		g.rows.Told(now, rows, facts, gates)
		n.spread.stirred = true
	}
}

func (n *node) publishArea(a discovery.Area) {
	if body, err := a.Append(nil); err != nil {
		n.log.Error("can't tell of this agent's area", "error", err)
	} else if v, ok := n.sign(discovery.KindArea, body); ok {
		n.area.told = v
	}
}

// toldAgain takes it that there is a record of a gateway's of this agent that it didn't make
// in this life.
func (n *node) toldAgain(kind discovery.Kind, version uint64) {
	g := n.area.gate
	switch {
	case version == 0:
	case kind == discovery.KindBackbone && g != nil && version != g.version:
		g.rows.Again()
	case kind != discovery.KindArea || version == n.area.told:
	case g != nil:
		g.telling.Again()
	default:
		n.publishArea(discovery.Area{Member: n.memberRecord(0)})
	}
}

// backboneRows returns the links with other gateways that work, ascending.
func (n *node) backboneRows(now overlay.Instant) []discovery.Link {
	rows := []discovery.Link{}
	for _, k := range n.area.gate.kept {
		p := n.peers[k.Peer]
		if p == nil || p.state != measure.Up || p.cut || !p.direct() {
			continue
		}
		v := p.pair(now)
		i := n.intent(v, p)
		i.Holds, i.Leaving, i.Accepts = k.Holds, k.Leaving, k.Accepts
		rows = append(rows, discovery.Link{Peer: k.Peer, Pair: v, Intent: i})
	}
	return rows
}

// withGateways adds to whom this agent wants to be connected for control: as a gateway to
// others, and to some of them if it knows nobody of its area.
func (n *node) withGateways(want, live []overlay.AgentID) []overlay.AgentID {
	gates := n.beyond().Gates()
	if len(gates) == 0 {
		return want
	}
	var all []overlay.AgentID
	for _, g := range gates {
		if p := n.peers[g.ID]; p != nil && p.state != measure.Gone {
			all = append(all, g.ID)
		}
	}
	switch {
	case n.area.gate != nil:
		all = discovery.Neighbours(n.self, all, nil, backboneDegree)
	case len(live) == 0:
		area, _ := n.store.Area()
		all = n.likeliest(slices.Concat(n.beyond().Of(area), discovery.Neighbours(n.self, all, nil, backboneDegree)))
		all = slices.DeleteFunc(all, func(id overlay.AgentID) bool { return id == n.self })
		all = all[:min(len(all), strayGates)]
	default:
		return want
	}
	for _, id := range all {
		if !slices.Contains(want, id) {
			want = append(want, id)
		}
	}
	return want
}

// dhtServers returns who serve the DHT: of a divided network gateways.
func (n *node) dhtServers(live []overlay.AgentID) []overlay.AgentID {
	if gates := n.beyond().Gates(); n.divided() && len(gates) > 0 {
		live = nil
		for _, g := range gates {
			live = append(live, g.ID)
		}
	} else {
		live = append(live, n.self)
	}
	return discovery.Servers(live, dhtServers)
}
