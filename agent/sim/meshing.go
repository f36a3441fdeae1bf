package sim

import (
	"slices"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/mesh"
)

const (
	// firstStep is how long an agent runs until it decides on links: by then it knows
	// what it told in an earlier life.
	firstStep = 8 * time.Second
	// upAfter is how long probes are answered until a path counts as up, downAfter how
	// long they aren't until it is down.
	upAfter, downAfter = time.Second, 3 * time.Second
)

// meshing is what an agent knows of its links.
type meshing struct {
	links *decide.Links
	warm  map[int32]*path   // of the links that it keeps
	named []overlay.AgentID // whom it measures
	tried []overlay.AgentID // whom it measured for this epoch
}

// A path is what probes tell of the way to a peer.
type path struct {
	up            bool
	since         overlay.Instant // when it changed to answering or to not answering
	answers, kept bool
}

func newMeshing(links *decide.Links, m mutant) meshing {
	links.Careless(m == noTurns, m == noHysteresis)
	return meshing{links: links, warm: make(map[int32]*path)}
}

// An album holds the pictures of an epoch that agents with the same records share.
type album struct {
	epoch    int64 // by true time
	pictures map[sight]*decide.Picture
	last     map[uint32][]*mesh.View // by area: with distances, by which others' are found
	measured []*mesh.View            // those with distances, as they came to have them
}

const (
	// mostMeasured is of how many pairs of agents distances are kept, 4 bytes each: they are
	// much of the memory.
	mostMeasured = 16 << 20
	// mostAlike is how many pictures of an area are looked at for one that is alike.
	mostAlike = 24
)

// A sight is a scene in an epoch by an agent's clock.
type sight struct {
	scene
	epoch int64
}

// turn goes on to the next epoch. Agents keep pictures, but hardly measure on them any more.
func (x *album) turn(now overlay.Instant) {
	epoch := decide.EpochOf(now)
	if x.epoch == epoch && x.pictures != nil {
		return
	}
	for _, p := range x.pictures {
		p.View.Forget()
	}
	*x = album{epoch: epoch, pictures: make(map[sight]*decide.Picture), last: make(map[uint32][]*mesh.View)}
}

// used notes that an agent decided by a picture.
func (x *album) used(p *decide.Picture, area uint32) {
	v := p.View
	if !v.Known() || slices.Contains(x.last[area], v) {
		return
	}
	if len(x.last[area]) >= mostAlike {
		x.last[area] = slices.Delete(x.last[area], 0, 1)
	}
	x.last[area] = append(x.last[area], v)
	if slices.Contains(x.measured, v) {
		return
	}
	x.measured = append(x.measured, v)
	if n := v.Agents(); len(x.measured)*n*n > mostMeasured {
		x.measured[0].Forget()
		x.measured = slices.Delete(x.measured, 0, 1)
	}
}

// find returns the picture of a sight, nil if there is none that an agent is in.
func (x *album) find(at sight, id overlay.AgentID) *decide.Picture {
	p := x.pictures[at]
	if p == nil || !p.Shows(id) {
		return nil
	}
	x.like(p, at.area)
	return p
}

// like lets a picture's distances be found from those of others.
func (x *album) like(p *decide.Picture, area uint32) { p.View.Like(x.last[area]) }

// A scene is what a picture is drawn of: the records of an area, or what has a number that no
// area has.
type scene struct {
	records [32]byte
	area    uint32
}

const (
	backbone = 1<<32 - 1
	all      = 1<<32 - 2 // records of several areas
)

// picture returns what an agent sees.
func (a *agent) picture(epoch int64) (*decide.Picture, error) {
	area, _ := a.store.Area()
	return a.draws(epoch, scene{a.store.LocalHash(), area}, func() []decide.Told {
		return decide.Of(a.store, decide.All(a.store), area)
	})
}

// draws returns the picture of a scene in an epoch.
func (a *agent) draws(epoch int64, of scene, told func() []decide.Told) (*decide.Picture, error) {
	a.album.turn(a.now)
	at := sight{of, epoch}
	if p := a.album.find(at, a.id); p != nil {
		return p, nil
	}
	draw, network := decide.NewPictureOfArea, uint64(1)
	if of.area == backbone {
		draw, network = decide.NewBackbonePicture, 2
	}
	p, err := draw(network, epoch, a.id, told())
	if err == nil {
		a.drawn++
		a.album.pictures[at] = p
		a.album.like(p, of.area)
	}
	return p, err
}

// decide is an epoch.
func (a *agent) decide() {
	wall := a.wall()
	epoch := decide.EpochOf(wall)
	next := overlay.Instant(epoch+1) * overlay.Instant(decide.Epoch)
	a.push(event{at: a.now.Add(next.Sub(wall) + time.Millisecond), what: decides, to: a.n, id: a.life})
	if a.fluid != nil || a.now.Sub(a.control.started) < firstStep || a.control.started == 0 {
		return
	}
	p, err := a.picture(epoch)
	if err != nil {
		panic(err)
	}
	rates, busy := a.traded()
	a.meshing.step(a, epoch, p, rates, busy)
	area, _ := a.store.Area()
	a.album.used(p, area)
	if a.set.Sizes.Whole > 0 {
		a.dwell(epoch, p)
	}
}

// step decides on links, and whom to measure for the next step: rates are those of traffic,
// busy with whom there is most.
func (m *meshing) step(a *agent, epoch int64, p *decide.Picture, rates []mesh.Rate, busy []overlay.AgentID) {
	m.links.Step(a.steady(), epoch, p, a.measured(m), rates)
	m.tried, m.named = m.named, m.links.Nominees(a.predict, busy)
}

// measured returns what the agent measured of those whom it chose to.
func (a *agent) measured(m *meshing) (all []decide.Measured) {
	for _, id := range m.named {
		if n := a.index[id]; a.reaches(n) {
			all = append(all, decide.Measured{Peer: id, Cost: decide.CandidateCost(a.measure(n))})
		}
	}
	return all
}

// measure returns a round trip as measured in this epoch.
func (a *agent) measure(n int32) time.Duration {
	rtt := int64(a.world.micros(a.n, n))
	rtt += rtt * a.noise(mix(uint64(a.n)<<32|uint64(n), uint64(a.now)/uint64(decide.Epoch))) / 1000
	return time.Duration(rtt) * time.Microsecond
}

// noise returns by how many thousandths something is measured wrong: set.Noise at most.
func (s *Sim) noise(of uint64) int64 {
	return int64(mix(of, s.set.Seed)%uint64(2*s.set.Noise+1)) - int64(s.set.Noise)
}

// predict returns what costs coordinates predict, in µs: wrong by 8 % in the median and by
// 40 % at the ninth decile, as those of measure/predict are on PlanetLab.
func (a *agent) predict(id overlay.AgentID) int32 {
	n := a.index[id]
	rtt := int64(a.world.micros(a.n, n))
	h := mix(uint64(min(a.n, n))<<32|uint64(max(a.n, n)), a.set.Seed)
	wrong := int64(h>>8%160) - 80 // thousandths
	if h&3 == 0 {
		wrong *= 6
	}
	return int32(rtt + rtt*max(wrong, -900)/1000 + 1000)
}

// reaches says whether datagrams go to and fro.
func (a *agent) reaches(n int32) bool {
	peer := a.agents[n]
	return peer.runs() && a.now >= peer.awake && a.world.passes(a.now, a.n, n) && a.world.passes(a.now, n, a.n)
}

// probe looks at the paths to those with whom the agent keeps links.
func (a *agent) probe(m *meshing) {
	for _, w := range m.warm {
		w.kept = false
	}
	for _, k := range m.links.Kept() {
		n := a.index[k.Peer]
		w := m.warm[n]
		if w == nil {
			w = &path{since: a.now}
			if slices.Contains(m.tried, k.Peer) && a.reaches(n) { // it was measured before
				w.answers, w.up = true, true
			}
			m.warm[n] = w
		}
		w.kept = true
		if answers := a.reaches(n); answers != w.answers {
			w.answers, w.since = answers, a.now
		}
		switch since := a.now.Sub(w.since); {
		case w.answers && since >= upAfter:
			w.up = true
		case !w.answers && since >= downAfter:
			w.up = false
		}
	}
	for n, w := range m.warm {
		if !w.kept {
			delete(m.warm, n)
		}
	}
}

// rows returns what the agent tells of its paths, ascending: its links, as far as they work.
func (a *agent) rows() []discovery.Link {
	if a.fluid != nil {
		return a.fixed()
	}
	return a.with(a.rowsOf(&a.meshing))
}

// rowsOf returns the links of a mesh that work, ascending.
func (a *agent) rowsOf(m *meshing) []discovery.Link {
	a.probe(m)
	rows := []discovery.Link{}
	for _, k := range m.links.Kept() {
		n := a.index[k.Peer]
		if !m.warm[n].up {
			continue
		}
		rows = append(rows, a.timed(discovery.Link{Peer: k.Peer, Intent: k.Intent}, n))
	}
	return rows
}

// timed adds the round trip to a row.
func (a *agent) timed(l discovery.Link, n int32) discovery.Link {
	l.RTT, l.RTTSource, l.RTTAt = a.measure(n), measure.Measured, a.steady()
	return l
}

// request sends a request for a link, as a datagram.
func (a *agent) request(to overlay.AgentID, msg []byte) {
	if n, ok := a.index[to]; ok {
		a.datagram(a.n, n, msg)
	}
}

// asked takes one.
func (a *agent) asked(e event) {
	links := a.meshing.links
	if decide.OfBackbone(e.msg) {
		if a.place.gate == nil {
			return
		}
		links = a.place.gate.links
	}
	if err := links.Receive(a.steady(), a.agents[e.from].id, e.msg); err != nil {
		a.refused++
	}
}
