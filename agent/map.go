package agent

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// maxMap is of how many agents all pairs are told: they are a quarter of a million then.
const maxMap = 500

// A mapAgent is an agent as the map shows it.
type mapAgent struct {
	id     overlay.AgentID
	name   string
	access measure.Access
}

// A mapPair is a directed pair of the map, by indices of its agents.
type mapPair struct {
	from, to int
	measure.Pair
	by  float64 // the relative error of a predicted round trip
	via string  // the name of the member that relays, if this agent knows it
}

// A peerMap is the map as an agent knows it: what it measured itself, what the others
// tell of theirs, and of the rest what is predicted. Who is gone isn't in it, nor is what
// was told of him or by him.
type peerMap struct {
	now    overlay.Instant // instants of the pairs are on this clock
	agents []mapAgent      // by name
	pairs  []mapPair       // by from and to
}

// mapFacts are what the map is made of, as the loop knows it at one time. Nothing in them
// changes, so that the map can be made of them elsewhere: all pairs of 500 agents take
// seconds.
type mapFacts struct {
	now, wall overlay.Instant
	self      overlay.AgentID
	own       map[discovery.Brief]measure.Pair    // what this agent measured
	told      map[overlay.AgentID]discovery.Links // what the others tell
	names     map[overlay.AgentID]string
	via       map[overlay.AgentID]overlay.AgentID // who relays to whom
	access    measure.Access                      // this agent's
	predict   predictor
}

// mapFacts gathers them.
func (n *node) mapFacts(now overlay.Instant) mapFacts {
	f := mapFacts{
		now: now, wall: n.wall(), self: n.self, own: n.ownRows(now), names: n.names(), access: n.access(now),
		told: make(map[overlay.AgentID]discovery.Links, len(n.peers)), via: make(map[overlay.AgentID]overlay.AgentID),
	}
	for id, p := range n.peers {
		if p.state == measure.Gone || p.member.Left {
			continue
		}
		told, _, ok := n.store.Told(id)
		if !ok && p.far {
			told, _, _ = n.store.Backbone(id)
		}
		f.told[id] = told
		if via := p.via(); via != (overlay.AgentID{}) {
			f.via[id] = via
		}
	}
	if n.predict != nil {
		f.predict = n.predict.frozen()
	}
	return f
}

// rows returns what an agent says of its pairs, by this agent's clock.
func (f *mapFacts) rows(id overlay.AgentID) map[discovery.Brief]measure.Pair {
	if id == f.self {
		return f.own
	}
	rows := make(map[discovery.Brief]measure.Pair, len(f.told[id].Rows))
	for _, r := range f.told[id].Rows {
		// Ages count from when it was told, by its clock and ours.
		r.RTTAt, r.CapacityAt = f.now.Add(-f.wall.Sub(r.RTTAt)), f.now.Add(-f.wall.Sub(r.CapacityAt))
		rows[r.Peer] = r.Pair
	}
	return rows
}

// peerMap returns the pairs that keep wants; nil: all.
func (f *mapFacts) peerMap(keep func(from, to string) bool) peerMap {
	m := peerMap{now: f.now, agents: []mapAgent{{f.self, f.names[f.self], f.access}}}
	for id, told := range f.told {
		m.agents = append(m.agents, mapAgent{id, f.names[id], told.Access})
	}
	slices.SortFunc(m.agents, func(a, b mapAgent) int { return cmp.Or(strings.Compare(a.name, b.name), a.id.Compare(b.id)) })
	for i, a := range m.agents {
		rows := f.rows(a.id)
		for j, b := range m.agents {
			if i != j && (keep == nil || keep(a.name, b.name)) {
				pair := mapPair{from: i, to: j, Pair: rows[discovery.BriefOf(b.id)]}
				f.predictPair(a.id, b.id, &pair)
				if a.id == f.self {
					pair.via = f.names[f.via[b.id]]
				}
				m.pairs = append(m.pairs, pair)
			}
		}
	}
	return m
}

// ownRows returns what this agent has measured of those whom it reaches.
func (n *node) ownRows(now overlay.Instant) map[discovery.Brief]measure.Pair {
	rows := make(map[discovery.Brief]measure.Pair)
	for _, p := range n.view.Load().linked {
		if p.state != measure.Gone && p.out.Load() != nil {
			rows[discovery.BriefOf(p.id)] = p.pair(now)
		}
	}
	return rows
}

// predictPair fills in what nobody measured, of pairs that nothing is said of: of one that
// is relayed it would be another way than frames take.
func (f *mapFacts) predictPair(from, to overlay.AgentID, p *mapPair) {
	if f.predict == nil || p.Relayed {
		return
	}
	if p.RTTSource == measure.Unknown {
		if rtt, by, ok := f.predict.RTT(from, to); ok {
			p.RTT, p.RTTSource, p.RTTAt, p.by = rtt, measure.Predicted, 0, by
		}
	}
	if p.CapacitySource == measure.Unknown {
		if rate, by, ok := f.predict.Capacity(from, to); ok {
			p.Capacity, p.CapacitySource, p.CapacityAt = rate, measure.Predicted, 0
			p.CapacityLow, p.CapacityHigh = rate-int64(by*float64(rate)), rate+int64(by*float64(rate))
		}
	}
}

// serveMap answers with the map. The loop only gathers what it is made of.
func (n *node) serveMap(w http.ResponseWriter, r *http.Request) {
	from, to := r.FormValue("from"), r.FormValue("to")
	var facts mapFacts
	var refused *failure
	err := n.do(r.Context(), func(now overlay.Instant) {
		names := n.names()
		if r.FormValue("own") != "" {
			from = names[n.self]
		}
		for _, name := range []*string{&from, &to} {
			if refused == nil {
				refused = n.resolve(name, names)
			}
		}
		if refused == nil && from == "" && to == "" && len(n.peers) >= maxMap {
			refused = &failure{
				err: errTooMany, hint: "ask for a part of it with --own, --from AGENT or --to AGENT", code: exitFailed,
			}
		}
		if refused == nil {
			facts = n.mapFacts(now)
		}
	})
	switch {
	case err != nil:
		refuse(w, http.StatusServiceUnavailable, &failure{err: err, code: exitNoAgent})
	case refused != nil:
		refuse(w, http.StatusNotFound, refused)
	default:
		m := facts.peerMap(func(a, b string) bool { return (from == "" || a == from) && (to == "" || b == to) })
		reply(w, m.view())
	}
}

// resolve turns an agent's name or id into its name.
func (n *node) resolve(name *string, names map[overlay.AgentID]string) *failure {
	if *name == "" || *name == names[n.self] {
		return nil
	}
	if *name == n.self.String() {
		*name = names[n.self]
		return nil
	}
	p := n.find(*name, names)
	if p == nil || p.state == measure.Gone {
		return &failure{err: errNoAgentCalled(*name), hint: "'farlan peers' lists them", code: exitNoPeer}
	}
	*name = names[p.id]
	return nil
}

// view puts the map into words.
func (m peerMap) view() mapView {
	v := mapView{Schema: schemaVersion, Agents: []mapAgentView{}, Pairs: make([]mapPairView, 0, len(m.pairs))}
	for _, a := range m.agents {
		v.Agents = append(v.Agents, mapAgentView{
			ID: a.id.String(), Name: a.name, UpMbit: megabits(a.access.Up), DownMbit: megabits(a.access.Down),
			UpSource: a.access.UpSource.String(), DownSource: a.access.DownSource.String(),
		})
	}
	for _, p := range m.pairs {
		v.Pairs = append(v.Pairs, m.pairView(p))
	}
	return v
}

func (m peerMap) pairView(p mapPair) mapPairView {
	v := mapPairView{From: m.agents[p.from].name, To: m.agents[p.to].name, CapacitySource: p.CapacitySource.String(), Relayed: p.Relayed}
	if p.via != "" {
		v.Via = &p.via
	}
	if p.RTTSource != measure.Unknown {
		v.RTTms, v.RTTSource = millis(p.RTT), new(p.RTTSource.String())
	}
	switch p.RTTSource {
	case measure.Measured:
		v.RTTAgeS, v.JitterMs, v.QueueMs = m.age(p.RTTAt), millis(p.Jitter), millis(p.Queue)
	case measure.Predicted:
		v.RTTError = &p.by
	}
	if p.LossKnown {
		v.Loss, v.LossLow, v.LossHigh = &p.Loss, &p.LossLow, &p.LossHigh
	}
	if p.CapacitySource != measure.Unknown {
		v.CapacityMbit, v.CapacityIsLowerBound = megabits(p.Capacity), p.CapacityBound
		v.CapacityLowMbit, v.CapacityHighMbit = megabits(p.CapacityLow), megabits(p.CapacityHigh)
		if p.CapacitySource != measure.Predicted {
			v.CapacityAgeS = m.age(p.CapacityAt)
		}
	}
	v.AvailableMbit = megabits(p.Available)
	if p.MTU > 0 {
		v.MTU = &p.MTU
	}
	return v
}

// age returns how long ago an instant was, in seconds. The clocks of others may be a
// little ahead.
func (m peerMap) age(at overlay.Instant) *float64 {
	return new(max(m.now.Sub(at), 0).Round(100 * time.Millisecond).Seconds())
}
