package sim

import (
	"cmp"
	"slices"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/overlay"
)

const (
	// backboneDegree is to how many other gateways one is connected.
	backboneDegree = 6
	// outFor is for how many epochs an agent isn't among the gateways of its area any more
	// until it stops to be one.
	outFor = 2
	// maxBeyonds bounds what is kept of what gateways tell.
	maxBeyonds = 64
)

// A place is what an agent knows of its area.
type place struct {
	home   uint32 // the area that it remembers
	abode  decide.Abode
	former *meshing // its links in the area before
	gate   *gate    // nil: it is no gateway
	out    int      // for how many epochs it is one that the others don't reckon with
	told   uint64   // version of what it told of an area, 0: nothing
}

// A gate is what a gateway knows besides.
type gate struct {
	meshing // with other gateways
	telling discovery.AreaTelling
	rows    discovery.Telling
	version uint64            // of what it told of its links
	others  []discovery.Brief // the other gateways of the area
	size    int
	tree    []discovery.Leaf
	haste   discovery.News
}

// regions is what agents share of areas.
type regions struct {
	people  map[uint32][]int32 // by the area that they remember
	numbers []uint32           // of these areas, ascending
	beyonds map[[32]byte]*decide.Beyond
	briefs  map[discovery.Brief]int32 // agents by name
	states  []state
	wide    [][]byte // records of gateways, and of members by area, until all have them
	local   map[uint32][][]byte
}

// populate gives agents the areas that they would have come to: neighbouring ones by where
// they are, of five sevenths of what an area has at most. All are in area 0 of a network that
// is never divided.
func (s *Sim) populate() {
	s.regions.people = make(map[uint32][]int32)
	all := make([]int32, len(s.agents))
	for i := range all {
		all[i] = int32(i)
	}
	if s.set.Sizes.Most == 0 {
		s.regions.people[0], s.regions.numbers = all, []uint32{0}
		return
	}
	s.halve(all, s.set.Sizes.Most*5/7)
}

// halve divides agents until no part has more than so many.
func (s *Sim) halve(who []int32, most int) {
	if len(who) <= most {
		slices.Sort(who)
		area := uint32(len(s.regions.people) + 1)
		s.regions.people[area] = who
		s.regions.numbers = append(s.regions.numbers, area)
		for _, n := range who {
			s.agents[n].place.home = area
		}
		return
	}
	x := func(n int32) int64 { return s.world.spots[n].x }
	y := func(n int32) int64 { return s.world.spots[n].y }
	spread := func(by func(int32) int64) int64 {
		return by(slices.MaxFunc(who, func(a, b int32) int { return cmp.Compare(by(a), by(b)) })) -
			by(slices.MinFunc(who, func(a, b int32) int { return cmp.Compare(by(a), by(b)) }))
	}
	by := x
	if spread(y) > spread(x) {
		by = y
	}
	slices.SortFunc(who, func(a, b int32) int { return cmp.Or(cmp.Compare(by(a), by(b)), cmp.Compare(a, b)) })
	s.halve(who[:len(who)/2:len(who)/2], most)
	s.halve(who[len(who)/2:], most)
}

// settle puts an agent that starts where it was.
func (a *agent) settle() {
	a.place = place{home: a.place.home}
	a.store.Enter(a.wall(), a.place.home)
	if a.regions.states != nil && a.lives <= uint64(len(a.agents)) {
		a.recall(&a.regions.states[a.n])
	}
}

// someone returns whom to ask for others: in an area mostly one whom it remembers to be there.
func (a *agent) someone(anybody bool) int32 {
	if area, _ := a.store.Area(); anybody && area != 0 && !a.one(4) {
		if near := a.regions.people[area]; len(near) > 0 {
			return near[a.draw(uint64(len(near)))]
		}
	}
	return int32(a.draw(uint64(len(a.agents))))
}

// seeks says whether the agent looks for members of whom it knows nothing: of a network that is
// divided one knows few, and gateways do it for all.
func (a *agent) seeks() bool {
	area, _ := a.store.Area()
	return area == 0 || a.place.gate != nil
}

// near says whether an agent is in the same area.
func (a *agent) near(id overlay.AgentID) bool {
	area, moving := a.store.Area()
	m, ok := a.store.Member(id)
	return ok && (m.Area == area || moving)
}

// neighbourly says whether an agent is one to be connected to in this area.
func (a *agent) neighbourly(id overlay.AgentID) bool {
	area, moving := a.store.Area()
	if !moving {
		return true
	}
	m, _ := a.store.Member(id)
	return m.Area == area
}

// beyond returns what gateways tell.
func (a *agent) beyond() *decide.Beyond {
	r := &a.regions
	hash := a.store.WideHash()
	b := r.beyonds[hash]
	if b == nil {
		if len(r.beyonds) >= maxBeyonds || r.beyonds == nil {
			r.beyonds = make(map[[32]byte]*decide.Beyond)
		}
		b = decide.NewBeyond(decide.Gates(a.store))
		r.beyonds[hash] = b
	}
	return b
}

// dwell is what an agent decides of its area in an epoch.
func (a *agent) dwell(epoch int64, p *decide.Picture) {
	area, moving := a.store.Area()
	b := a.beyond()
	if !moving {
		a.place.former = nil
	}
	if area != 0 {
		a.serve(epoch, area, p, b)
	}
	next := a.place.abode.Step(a.set.Sizes, decide.Situation{
		Self: a.id, Area: area, Moving: moving, Picture: p, Beyond: b, Predict: a.predict,
		Gone: func(to uint32) bool {
			return slices.ContainsFunc(a.store.Origins(), func(id overlay.AgentID) bool {
				_, ok := a.store.Record(id, discovery.KindMember)
				m, _ := a.store.Member(id)
				return ok && m.Area == to
			})
		},
	})
	if next != area {
		a.move(next)
	}
}

// move takes the agent to another area. The links that it has stay for as long as it is
// moving.
func (a *agent) move(area uint32) {
	a.moves++
	former := a.meshing
	a.place.former = &former
	a.meshing = newMeshing(decide.NewLinks(a.id), a.set.mutant)
	a.retire()
	a.store.Enter(a.wall(), area)
	a.place.home = area
	a.control.changed = true
	a.tell()
}

// with adds the links in the area before to those of now.
func (a *agent) with(rows []discovery.Link) []discovery.Link {
	if a.place.former == nil {
		return rows
	}
	for _, l := range a.rowsOf(a.place.former) {
		i, ok := slices.BinarySearchFunc(rows, l.Peer, func(l discovery.Link, id overlay.AgentID) int { return l.Peer.Compare(id) })
		if !ok {
			rows = slices.Insert(rows, i, l)
		}
	}
	return rows
}

// meshes returns those in which the agent has links: that of its area, that of the one before,
// and the backbone.
func (a *agent) meshes() []*meshing {
	all := []*meshing{&a.meshing}
	if a.place.former != nil {
		all = append(all, a.place.former)
	}
	if a.place.gate != nil {
		all = append(all, &a.place.gate.meshing)
	}
	return all
}

// has says whether there is a link with a peer.
func (m *meshing) has(peer overlay.AgentID) bool {
	return slices.ContainsFunc(m.links.Kept(), func(k decide.Kept) bool { return k.Peer == peer })
}

// serve makes a gateway of the agent if it ought to be one, and decides on the backbone.
func (a *agent) serve(epoch int64, area uint32, p *decide.Picture, b *decide.Beyond) {
	set := p.Gateways(b.Of(area))
	is := slices.Contains(set, a.id)
	g := a.place.gate
	switch {
	case is && g == nil:
		g = &gate{meshing: newMeshing(decide.NewBackbone(a.id), a.set.mutant)}
		a.place.gate = g
	case !is && g != nil:
		if a.place.out++; a.place.out >= outFor {
			a.retire()
			return
		}
	}
	if g == nil {
		return
	}
	if is {
		a.place.out = 0
	}
	g.others = g.others[:0:0]
	for _, id := range set {
		if id != a.id {
			g.others = append(g.others, discovery.BriefOf(id))
		}
	}
	graph := a.local().graph()
	g.size, g.tree = p.View.Agents(), decide.TreeOf(graph, a.id, &a.atlas.finder)
	g.haste = b.Haste(graph, epoch, a.id, &g.telling.Area, g.tree, &a.atlas.finder)
	picture, err := a.draws(epoch, scene{a.store.WideHash(), backbone}, func() []decide.Told { return decide.Backbone(b.Gates()) })
	if err == nil {
		g.step(a, epoch, picture, nil, nil)
	}
}

// retire ends being a gateway.
func (a *agent) retire() {
	g := a.place.gate
	if g == nil {
		return
	}
	a.place.gate, a.place.out = nil, 0
	if a.place.told != 0 {
		a.publishArea(discovery.Area{Member: a.member(0)})
	}
}

// tellArea publishes what a gateway says, if that is news.
func (a *agent) tellArea() {
	g := a.place.gate
	if g == nil || g.size == 0 {
		return
	}
	area, _ := a.store.Area()
	is := discovery.Area{Number: area, Size: g.size, Gateways: g.others, Member: a.member(area), Tree: g.tree}
	slices.Sort(is.Gateways)
	gates := len(a.beyond().Gates())
	if g.telling.Due(a.steady(), is, gates, g.haste) {
		a.publishArea(is)
		g.telling.Told(a.steady(), is, gates)
		g.haste = discovery.NoNews
	}
	rows, facts := a.rowsOf(&g.meshing), a.facts()
	if g.links.Alone(a.steady(), g.rows.At) {
		g.rows.Again()
	}
	if g.rows.Due(a.steady(), rows, facts, gates) {
		body, err := discovery.AppendLinks(nil, a.steady(), facts, rows)
		if err != nil {
			panic(err)
		}
		g.version = a.publish(discovery.KindBackbone, body)
		g.rows.Told(a.steady(), rows, facts, gates)
		a.backboneTold++
	}
}

func (a *agent) publishArea(is discovery.Area) {
	body, err := is.Append(nil)
	if err != nil {
		panic(err)
	}
	a.place.told = a.publish(discovery.KindArea, body)
	a.areasTold++
}

// toldAgain takes it that there is a record of the agent's area that it didn't make in this
// life.
func (a *agent) toldAgain(r discovery.Record) {
	g := a.place.gate
	switch {
	case r.Version == 0 || r.Version == a.place.told:
	case g == nil:
		a.publishArea(discovery.Area{Member: a.member(0)})
	default:
		g.telling.Again()
	}
}

// chooseBackbone adds to whom a gateway wants to be connected.
func (a *agent) chooseBackbone() {
	g := a.place.gate
	if g == nil {
		return
	}
	var live []overlay.AgentID
	for _, x := range a.beyond().Gates() {
		if x.ID != a.id && a.reaches(a.index[x.ID]) {
			live = append(live, x.ID)
		}
	}
	for _, id := range discovery.Neighbours(a.id, live, nil, backboneDegree) {
		if n := a.index[id]; !slices.Contains(a.control.want, n) {
			a.control.want = append(a.control.want, n)
		}
	}
}

// member returns what the agent tells of itself.
func (a *agent) member(area uint32) discovery.Member {
	return discovery.Member{Name: a.name(), SessionKey: [32]byte(a.id), Addrs: a.addrs(), Area: area}
}
