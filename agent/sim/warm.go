package sim

import (
	"cmp"
	"slices"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
	links "farlan/overlay/mesh"
)

// A history is for how many epochs agents decide on their links before the beginning: at first
// without waiting for their turns, so that they have as many as they shall sooner; then with
// turns; then their links grow older, and need more of a reason to be exchanged. In the last few
// what was begun is ended. In networks that aren't divided it takes longest: they begin with a
// sketch of links, and need not have come to rest.
type history struct{ hasty, turns, older int }

// epochs returns how many that are in all.
func (h history) epochs() time.Duration {
	return time.Duration(h.hasty + h.turns + h.older + lastEpochs)
}

var (
	ofMembers  = history{0, 20, 20}
	ofGateways = history{8, 10, 20}
	ofWhole    = history{0, 2, 0}
)

// lastEpochs is for how many what was begun is ended, looking is how many candidates an agent
// looks at in an epoch before the beginning: drawn by hash, others in each.
const lastEpochs, looking = 4, 100

// So much of what may be told in a burst has been: of links all, of areas all but what is left
// for what is urgent.
const spent, spentOfAreas = 6, 4

// lead is for how long agents run before the beginning.
const lead = 5 * time.Second

// A state is what an agent has that ran before: its links, what it told, and the records of
// its area.
type state struct {
	mesh  meshing
	gate  *gate
	store *discovery.Store // shared by those of an area
	own   own
	told  uint64 // version of the area's record
}

// warm lets agents have run for long at the beginning. Before it, they decided on their links
// as always, in each area and among gateways, but heard of each other at once. They have all
// records, and the control connections that follow from these. For the last seconds they ran
// as they do later, and an agent of each area and a gateway told their records anew, by which
// the trees formed that records spread by. All that isn't counted.
func (s *Sim) warm() {
	s.prepare()
	for _, a := range s.agents {
		a.start()
		a.control.started = s.now
	}
	for _, a := range s.agents {
		a.meet()
	}
	s.Run(-lead / 2)
	for _, area := range s.regions.numbers {
		s.agents[s.regions.people[area][0]].own.rows.Again()
	}
	for _, a := range s.agents {
		if g := a.place.gate; g != nil {
			g.telling.Again()
			break
		}
	}
	s.Run(0)
	for _, a := range s.agents {
		a.control.started = s.now.Add(-time.Minute)
	}
	s.counters = counters{trace: s.trace}
}

// meet connects an agent with those with whom it wants to be connected.
func (a *agent) meet() {
	a.choose()
	for _, n := range a.control.want {
		if a.control.conn(n) == nil {
			a.connections++
			a.connect(n, a.connections)
			a.agents[n].connect(a.n, a.connections)
		}
	}
}

// prepare makes the states.
func (s *Sim) prepare() {
	s.regions.states = make([]state, len(s.agents))
	var gates []int32
	pictures := make(map[uint32]*decide.Picture)
	s.regions.local = make(map[uint32][][]byte)
	for _, area := range s.regions.numbers {
		who := s.regions.people[area]
		for _, n := range who {
			s.regions.states[n].mesh = newMeshing(decide.NewLinks(s.agents[n].id), sane)
		}
		of := ofMembers
		if area == 0 {
			of = ofWhole
			s.sketch(who, func(n int32) *meshing { return &s.regions.states[n].mesh })
		}
		p := s.converge(1, of, decide.NewPictureOfArea, who, func(n int32) *meshing { return &s.regions.states[n].mesh })
		pictures[area] = p
		for _, id := range gatewaysOf(area, p) {
			n := s.index[id]
			gates = append(gates, n)
			s.regions.states[n].gate = &gate{meshing: newMeshing(decide.NewBackbone(id), sane), size: len(who)}
		}
	}
	if len(gates) > 0 {
		s.converge(2, ofGateways, decide.NewBackbonePicture, gates, func(n int32) *meshing { return &s.regions.states[n].gate.meshing })
	}
	s.now = beginning.Add(-lead)
	for _, area := range s.regions.numbers {
		s.write(area, pictures[area], len(gates))
	}
	for _, area := range s.regions.numbers {
		s.stock(area)
	}
	s.regions.wide, s.regions.local = nil, nil
}

// gatewaysOf returns the gateways of an area, none of a network that isn't divided.
func gatewaysOf(area uint32, p *decide.Picture) []overlay.AgentID {
	if area == 0 {
		return nil
	}
	return p.Gateways(nil)
}

// A drawing draws pictures: see decide.NewPicture.
type drawing func(network uint64, epoch int64, self overlay.AgentID, told []decide.Told) (*decide.Picture, error)

// converge lets agents decide on their links for some epochs up to the beginning.
func (s *Sim) converge(network uint64, h history, draw drawing, who []int32, mesh func(int32) *meshing) *decide.Picture {
	s.now = beginning.Add(-h.epochs() * decide.Epoch)
	var last *decide.Picture
	picture := func() *decide.Picture {
		p, err := draw(network, decide.EpochOf(s.now), s.agents[who[0]].id, s.toldBy(who, mesh))
		if err != nil {
			panic(err)
		}
		if last != nil {
			p.View.Like([]*links.View{last.View})
		}
		last = p
		return p
	}
	for i := range h.hasty + h.turns + lastEpochs {
		if i == h.hasty+h.turns {
			s.now = s.now.Add(time.Duration(h.older) * decide.Epoch)
		}
		p := picture()
		for _, n := range who {
			m := mesh(n)
			m.links.Careless(i < h.hasty, false)
			s.rehearse(s.agents[n], m, p, i < h.hasty+h.turns-1)
		}
		s.agree(who, mesh)
		s.now = s.now.Add(decide.Epoch)
	}
	s.now = beginning
	return picture()
}

// rehearse is an epoch of an agent; looks says whether it looks for others for the next one.
func (s *Sim) rehearse(a *agent, m *meshing, p *decide.Picture, looks bool) {
	var all []decide.Measured
	for _, id := range m.named {
		all = append(all, decide.Measured{Peer: id, Cost: decide.CandidateCost(a.measure(s.index[id]))})
	}
	epoch := decide.EpochOf(s.now)
	m.links.Step(s.now, epoch, p, all, nil)
	if m.named = nil; !looks {
		return
	}
	few := uint64(p.View.Agents()/looking + 1)
	m.named = m.links.Nominees(func(id overlay.AgentID) int32 {
		if mix(mix(uint64(a.n), uint64(s.index[id])), uint64(epoch))%few != 0 {
			return 0
		}
		return a.predict(id)
	}, nil)
}

// agree lets agents send each other what they ask for, and answer, until all is said.
func (s *Sim) agree(who []int32, mesh func(int32) *meshing) {
	for sent := true; sent; {
		sent = false
		for _, n := range who {
			mesh(n).links.Flush(func(to overlay.AgentID, msg []byte) {
				sent = true
				if err := mesh(s.index[to]).links.Receive(s.now, s.agents[n].id, msg); err != nil {
					panic(err)
				}
			})
		}
	}
}

// sketch gives agents links to begin with, as if they had held them before: each two with the
// nearest that have room. To choose among a thousand from nothing takes minutes.
func (s *Sim) sketch(who []int32, mesh func(int32) *meshing) {
	const each, most = 2, 8
	s.now = beginning.Add(-(ofWhole.epochs() + 1) * decide.Epoch)
	told, degree := make([]decide.Told, len(who)), make([]int, len(who))
	for i, n := range who {
		told[i] = decide.Told{ID: s.agents[n].id, At: s.now}
	}
	hold := func(from, to int, is discovery.Intent) {
		a, b := s.agents[who[from]], s.agents[who[to]]
		r := discovery.Row{Peer: discovery.BriefOf(b.id), Intent: is}
		r.RTT, r.RTTSource, r.RTTAt = a.measure(b.n), measure.Measured, s.now
		told[from].Rows = append(told[from].Rows, r)
		degree[from]++
	}
	for i, n := range who {
		near := make([]int, 0, len(who))
		for k := range who {
			linked := slices.ContainsFunc(told[i].Rows, func(r discovery.Row) bool { return r.Peer == discovery.BriefOf(told[k].ID) })
			if k != i && degree[k] < most && !linked && s.world.micros(n, who[k]) > 0 {
				near = append(near, k)
			}
		}
		slices.SortFunc(near, func(x, y int) int {
			return cmp.Or(cmp.Compare(s.world.micros(n, who[x]), s.world.micros(n, who[y])), cmp.Compare(x, y))
		})
		for _, k := range near[:min(len(near), each)] {
			hold(i, k, discovery.Intent{Holds: true})
			hold(k, i, discovery.Intent{Accepts: true})
		}
	}
	for _, t := range told {
		slices.SortFunc(t.Rows, func(x, y discovery.Row) int { return cmp.Compare(x.Peer, y.Peer) })
	}
	epoch := decide.EpochOf(s.now)
	p, err := decide.NewPicture(1, epoch, s.agents[who[0]].id, sorted(told))
	if err != nil {
		panic(err)
	}
	for _, n := range who {
		mesh(n).links.Step(s.now, epoch, p, nil, nil)
	}
	s.agree(who, mesh)
}

// toldBy returns what agents tell of their links, ascending by id.
func (s *Sim) toldBy(who []int32, mesh func(int32) *meshing) []decide.Told {
	all := make([]decide.Told, 0, len(who))
	for _, n := range who {
		t := decide.Told{ID: s.agents[n].id, At: s.now}
		for _, l := range s.agents[n].keeps(mesh(n)) {
			t.Rows = append(t.Rows, discovery.Row{Peer: discovery.BriefOf(l.Peer), Pair: l.Pair, Intent: l.Intent})
		}
		all = append(all, t)
	}
	return sorted(all)
}

// keeps returns the rows of all links of a mesh.
func (a *agent) keeps(m *meshing) []discovery.Link {
	rows := []discovery.Link{}
	for _, k := range m.links.Kept() {
		l := discovery.Link{Peer: k.Peer, Intent: k.Intent}
		l.RTT, l.RTTSource, l.RTTAt = a.measure(a.index[k.Peer]), measure.Measured, a.now
		rows = append(rows, l)
	}
	return rows
}

// write makes the records of an area.
func (s *Sim) write(area uint32, p *decide.Picture, gates int) {
	who := s.regions.people[area]
	graph := decide.Graph(s.toldBy(who, func(n int32) *meshing { return &s.regions.states[n].mesh }), nil)
	set := gatewaysOf(area, p)
	for _, n := range who {
		a, x := s.agents[n], &s.regions.states[n]
		a.port = 1 // as it will have
		version := uint64(s.now.Add(-time.Second))
		put := func(kind discovery.Kind, body []byte, err error) {
			if err != nil {
				panic(err)
			}
			raw := a.sign(discovery.Record{Kind: kind, Version: version, Body: body}).Bytes()
			if kind == discovery.KindArea || kind == discovery.KindBackbone {
				s.regions.wide = append(s.regions.wide, raw)
			} else {
				s.regions.local[area] = append(s.regions.local[area], raw)
			}
		}
		body, err := a.member(area).Append(nil)
		put(discovery.KindMember, body, err)
		rows := a.keeps(&x.mesh)
		body, err = discovery.AppendLinks(nil, s.now, a.facts(), rows)
		put(discovery.KindLinks, body, err)
		x.own = own{member: 1, area: area, memberVersion: version, rowsVersion: version}
		for range spent {
			x.own.rows.Told(s.now, rows, a.facts(), len(who))
		}
		if g := x.gate; g != nil {
			for _, id := range set {
				if id != a.id {
					g.others = append(g.others, discovery.BriefOf(id))
				}
			}
			g.tree = decide.TreeOf(graph, a.id, &s.atlas.finder)
			is := discovery.Area{Number: area, Size: g.size, Gateways: g.others, Member: a.member(area), Tree: g.tree}
			body, err = is.Append(nil)
			put(discovery.KindArea, body, err)
			rows = a.keeps(&g.meshing)
			body, err = discovery.AppendLinks(nil, s.now, a.facts(), rows)
			put(discovery.KindBackbone, body, err)
			for range spentOfAreas { // not by all at once
				g.telling.Told(s.now.Add(-time.Duration(mix(s.set.Seed, uint64(n))%uint64(gates))*time.Second), is, gates)
			}
			for range spent {
				g.rows.Told(s.now, rows, a.facts(), gates)
			}
			g.version, x.told = version, version
		}
		a.port = 0
	}
}

// stock fills a store with the records of an area, for all agents there.
func (s *Sim) stock(area uint32) {
	who := s.regions.people[area]
	store := discovery.NewStore(overlay.AgentID{}, s.network, 0, discovery.Limits{})
	store.Share(&s.archive)
	store.Enter(s.now, area)
	if bad := store.Load(s.now, s.regions.local[area]) + store.Load(s.now, s.regions.wide); bad > 0 {
		panic("a record that isn't one")
	}
	for _, n := range who {
		s.regions.states[n].store = store
	}
}

// recall takes up an agent's state.
func (a *agent) recall(x *state) {
	a.store.Mirror(x.store)
	for _, n := range a.regions.people[a.place.home] {
		a.control.members = append(a.control.members, member{n: n})
	}
	a.control.changed = true
	a.meshing, a.own, a.place.gate, a.place.told = x.mesh, x.own, x.gate, x.told
	for _, m := range a.meshes() {
		for _, k := range m.links.Kept() {
			m.warm[a.index[k.Peer]] = &path{up: true, answers: true, since: a.now.Add(-time.Minute), kept: true}
		}
	}
	*x = state{}
}

// sorted returns told ascending by id.
func sorted(all []decide.Told) []decide.Told {
	slices.SortFunc(all, func(a, b decide.Told) int { return a.ID.Compare(b.ID) })
	return all
}
