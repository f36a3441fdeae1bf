package agent

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"farlan/agent/decide"
	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/route"
)

type routesView struct {
	Schema int         `json:"schema_version"`
	Routes []routeView `json:"routes"`
}

type routeView struct {
	To             string     `json:"to"`
	Class          string     `json:"class"` // delay, bulk
	Path           []string   `json:"path"`  // both ends included; empty: there is none
	RTTms          *float64   `json:"rtt_ms"`
	BottleneckMbit *float64   `json:"bottleneck_mbit"` // what a sender can have of it
	Alternate      []string   `json:"alternate"`       // taken at once if the path breaks; null: none
	Since          *time.Time `json:"since"`
}

type explainView struct {
	Schema      int            `json:"schema_version"`
	To          string         `json:"to"`
	Station     *string        `json:"station"` // that was asked for, a MAC address; null: an agent was
	Class       string         `json:"class"`
	Chosen      *chosenView    `json:"chosen"` // null: there is no path
	Rejected    []rejectedView `json:"rejected"`
	WouldChange string         `json:"would_change"`
	History     []changeView   `json:"history"` // the newest first

	Reserved []reservedWhyView `json:"reserved"` // why flows to it have a reservation, or none; null: nothing is reserved at this agent
}

type chosenView struct {
	Path           []string   `json:"path"`
	RTTms          *float64   `json:"rtt_ms"`
	CostMs         *float64   `json:"cost_ms"`
	BottleneckMbit *float64   `json:"bottleneck_mbit"`
	Since          *time.Time `json:"since"`
	Alternate      []string   `json:"alternate"`
}

type rejectedView struct {
	Path           []string `json:"path"`
	Cost           *float64 `json:"cost"` // predicted, milliseconds; null: frames can't take it
	BottleneckMbit *float64 `json:"bottleneck_mbit"`
	Reason         string   `json:"reason"`
}

type changeView struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
	Why  string    `json:"why"`
}

// classNames are as the command line has them.
var classNames = [overlay.Classes]string{overlay.ClassBulk: "bulk", overlay.ClassDelay: "delay"}

// shownClasses is the order in which they are shown.
var shownClasses = [...]overlay.Class{overlay.ClassDelay, overlay.ClassBulk}

// routesView returns the ways to one peer, or to all if it is nil.
func (n *node) routesView(now overlay.Instant, only *peer) routesView {
	names := n.names()
	v := routesView{Schema: schemaVersion, Routes: []routeView{}}
	for _, p := range n.peers {
		if p.state == measure.Gone || only != nil && p != only {
			continue
		}
		for _, c := range shownClasses {
			chosen := n.chosen(now, p, c, names)
			v.Routes = append(v.Routes, routeView{
				To: names[p.id], Class: classNames[c], Path: chosen.Path, RTTms: chosen.RTTms,
				BottleneckMbit: chosen.BottleneckMbit, Alternate: chosen.Alternate, Since: chosen.Since,
			})
		}
	}
	slices.SortStableFunc(v.Routes, func(a, b routeView) int { return strings.Compare(a.To, b.To) })
	return v
}

// chosen returns the way that frames of a class to a peer take now.
func (n *node) chosen(now overlay.Instant, p *peer, c overlay.Class, names map[overlay.AgentID]string) (v chosenView) {
	way := n.routing.routes.Way(p.id, c)
	r := p.detour(c)
	v.Path = []string{}
	switch {
	case r != nil:
		v.Path = namesOf(r.ids, names)
	case p.out.Load() != nil:
		v.Path = n.pathTo(p, names)
	}
	planned := slices.Equal(v.Path, namesOf(way.Path, names)) && len(v.Path) > 0
	if planned {
		v.Since = new(lastSeen(now, way.Since))
		v.RTTms, v.CostMs = microsMs(way.Figures.RTTMicros), microsMs(way.Figures.CostMicros)
		v.BottleneckMbit = n.bottleneck(p, c, way.Figures)
	}
	if planned && way.Alternate != nil {
		v.Alternate = namesOf(way.Alternate, names)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	path := p.path
	if r != nil {
		path = p.routed[c].path
	}
	if path != nil {
		if rtt, ok := path.RTT(now); ok {
			v.RTTms = millis(rtt)
		}
	}
	return v
}

// bottleneck returns what a sender can have of a path: what is left, and what this agent
// sends there itself.
func (n *node) bottleneck(p *peer, c overlay.Class, f route.Figures) *float64 {
	if f.RateKbit == 0 || f.RateKbit == math.MaxUint32 {
		return nil
	}
	rate := int64(f.RateKbit) * 1000
	if c == overlay.ClassBulk {
		rate += p.load.rate
	}
	return megabits(rate)
}

func microsMs(us uint32) *float64 {
	if us == 0 {
		return nil
	}
	return new(float64(us) / 1000)
}

func namesOf(ids []overlay.AgentID, names map[overlay.AgentID]string) []string {
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = names[id]
		if all[i] == "" {
			all[i] = shortName(id)
		}
	}
	return all
}

// A goal is what somebody asks about: an agent, perhaps because a station is behind it.
type goal struct {
	peer    *peer // nil: this agent
	station *overlay.MAC
}

// goal finds an agent by name or id, or that of a station by MAC or IP address.
func (n *node) goal(name string, names map[overlay.AgentID]string) (goal, *failure) {
	if name == names[n.self] || name == n.self.String() {
		return goal{}, nil
	}
	if p := n.find(name, names); p != nil {
		return goal{peer: p}, nil
	}
	mac, notMAC := overlay.ParseMAC(name)
	ip, notIP := netip.ParseAddr(name)
	for _, s := range n.sw.Stations.List() {
		if (notMAC != nil || s.MAC != mac) && (notIP != nil || !slices.Contains(s.IPs, ip)) {
			continue
		}
		if _, local := s.Place.Port(); local {
			return goal{station: &s.MAC}, nil
		}
		if p := n.view.Load().peer(s.Place); p != nil {
			return goal{peer: p, station: &s.MAC}, nil
		}
	}
	return goal{}, &failure{
		err: fmt.Errorf("%s: no such agent or station", name), code: exitNoPeer,
		hint: "'farlan peers' lists the agents, 'farlan stations' the stations that sent something of late",
	}
}

// explainView says why frames of a class take the way that they take.
func (n *node) explainView(now overlay.Instant, g goal, c overlay.Class, names map[overlay.AgentID]string) explainView {
	v := explainView{Schema: schemaVersion, Class: classNames[c], Rejected: []rejectedView{}, History: []changeView{}}
	if g.station != nil {
		v.Station = new(g.station.String())
	}
	if g.peer == nil {
		v.To, v.Chosen = names[n.self], &chosenView{Path: []string{names[n.self]}}
		v.WouldChange = "nothing: it is here"
		return v
	}
	p := g.peer
	v.To = names[p.id]
	if chosen := n.chosen(now, p, c, names); len(chosen.Path) > 0 {
		v.Chosen = &chosen
	}
	routes := n.routing.routes
	for _, h := range slices.Backward(routes.History(p.id)) {
		if h.Class == c {
			v.History = append(v.History, changeView{lastSeen(now, h.At), whatChanged(h, names), h.Why.String()})
		}
	}
	if why := n.explainFar(p, &v, names); why != "" {
		v.WouldChange = why
		return v
	}
	x, ok := routes.Explain(p.id, c)
	if !ok {
		v.WouldChange = "that another agent tells of a link to it"
		return v
	}
	way := func(path route.Path) []string {
		all := make([]string, len(path))
		for i, at := range path {
			all[i] = names[routes.Agent(at)]
		}
		return all
	}
	v.Rejected = rejected(x, v.Chosen, way)
	v.WouldChange = wouldChange(x, way)
	return v
}

// rejected returns the paths of an explanation that aren't taken, the best first.
func rejected(x route.Explanation, chosen *chosenView, way func(route.Path) []string) []rejectedView {
	all := []rejectedView{}
	add := func(o route.Option, reason string) {
		path := way(o.Path)
		if chosen != nil && slices.Equal(path, chosen.Path) {
			return
		}
		r := rejectedView{Path: path, Cost: microsMs(o.Figures.CostMicros), Reason: reason}
		if f := o.Figures.RateKbit; f != 0 && f != math.MaxUint32 {
			r.BottleneckMbit = megabits(int64(f) * 1000)
		}
		if o.At >= 0 {
			r.Reason += " (" + strings.Join(way(route.Path{o.At}), "") + ")"
		}
		all = append(all, r)
	}
	if x.Chosen.Path != nil { // unless it is what is taken: the best, but by too little
		add(x.Chosen, route.TooLittle.String())
	}
	for _, o := range x.Rejected {
		add(o, o.Reason.String())
	}
	return all
}

// wouldChange says what would make frames take another path.
func wouldChange(x route.Explanation, way func(route.Path) []string) string {
	var all []string
	for _, c := range x.Changes {
		ends := way(route.Path{c.From, c.To})
		link := ends[0] + " to " + ends[1]
		switch {
		case c.Instead == nil:
			all = append(all, fmt.Sprintf("without %s there is no path", link))
		case x.Class == overlay.ClassDelay:
			all = append(all, fmt.Sprintf("if %s costs %.1f ms more: %s", link, float64(c.Micros)/1000, strings.Join(way(c.Instead), " – ")))
		case c.Kbit > 0:
			all = append(all, fmt.Sprintf("if no more than %.2f Mbit/s is left of %s: %s", float64(c.Kbit)/1000, link, strings.Join(way(c.Instead), " – ")))
		default:
			all = append(all, fmt.Sprintf("without %s: %s", link, strings.Join(way(c.Instead), " – ")))
		}
	}
	if len(all) == 0 {
		return "that a link to it comes up"
	}
	return strings.Join(all, "; ")
}

func whatChanged(h decide.Change, names map[overlay.AgentID]string) string {
	from, to := strings.Join(namesOf(h.From, names), " – "), strings.Join(namesOf(h.To, names), " – ")
	switch {
	case from == "":
		return to
	case to == "":
		return "no path instead of " + from
	}
	return to + " instead of " + from
}

// serveRoutes answers with the routes, to one agent or station if that is asked.
func (n *node) serveRoutes(w http.ResponseWriter, r *http.Request) {
	n.answerAbout(w, r, func(now overlay.Instant, g goal, _ map[overlay.AgentID]string) any {
		return n.routesView(now, g.peer)
	})
}

// serveExplain answers why frames go to an agent or station as they do.
func (n *node) serveExplain(w http.ResponseWriter, r *http.Request) {
	class := overlay.Class(slices.Index(classNames[:], r.FormValue("class")))
	if r.FormValue("class") == "" {
		class = overlay.ClassDelay
	}
	if int(class) >= len(classNames) {
		refuse(w, http.StatusBadRequest, &failure{err: errors.New("--class: want delay or bulk"), code: exitUsage})
		return
	}
	n.answerAbout(w, r, func(now overlay.Instant, g goal, names map[overlay.AgentID]string) any {
		v := n.explainView(now, g, class, names)
		v.Reserved = n.reservedWhy(g, names)
		return v
	})
}

// answerAbout answers a question about an agent or station, or about all.
func (n *node) answerAbout(w http.ResponseWriter, r *http.Request, view func(overlay.Instant, goal, map[overlay.AgentID]string) any) {
	if far := n.reachFar(r.Context(), r.FormValue("to")); far != nil {
		refuse(w, http.StatusNotFound, far)
		return
	}
	var v any
	var refused *failure
	err := n.do(r.Context(), func(now overlay.Instant) {
		names := n.names()
		var g goal
		if to := r.FormValue("to"); to != "" {
			g, refused = n.goal(to, names)
		}
		if refused == nil {
			v = view(now, g, names)
		}
	})
	switch {
	case err != nil:
		refuse(w, http.StatusServiceUnavailable, &failure{err: err, code: exitNoAgent})
	case refused != nil:
		refuse(w, http.StatusNotFound, refused)
	default:
		reply(w, v)
	}
}
