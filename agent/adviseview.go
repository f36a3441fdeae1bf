package agent

import (
	"fmt"
	"io"
	"math"

	"github.com/spf13/cobra"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/overlay/route"
)

type adviseView struct {
	Schema int          `json:"schema_version"`
	Moves  []moveAdvice `json:"moves"` // those that save most first
}

// A moveAdvice is what moving a station from one agent's host to another's would change. What
// its frames need to get where they go is the mean over them.
type moveAdvice struct {
	Station            string   `json:"station"`
	From               string   `json:"from"`
	To                 string   `json:"to"`
	Mbit               float64  `json:"mbit"`    // that it exchanges with others
	WasMs              *float64 `json:"was_ms"`  // null: some of them aren't reached
	WillMs             *float64 `json:"will_ms"` // then
	WasBottleneckMbit  *float64 `json:"was_bottleneck_mbit"`
	WillBottleneckMbit *float64 `json:"will_bottleneck_mbit"`
	Unless             *string  `json:"unless"` // another station: if that is moved as advised, this doesn't hold any more
}

// A placement is where stations are, and what they send to each other.
type placement struct {
	stations []route.Station
	names    []string
	flows    []route.Flow
	kbit     []uint64 // by station
	hosts    []int32
}

// adviseView says which stations would gain by which moves, by the traffic and the links that
// all agents tell.
func (n *node) adviseView() adviseView {
	v := adviseView{Schema: schemaVersion, Moves: []moveAdvice{}}
	g := decide.Graph(n.allTold(), nil)
	x := n.placement(g)
	var f route.Finder
	names := n.names()
	for _, a := range f.Advise(g, x.hosts, x.stations, x.flows) {
		total := x.kbit[a.Station]
		m := moveAdvice{
			Station: x.names[a.Station], From: names[g.ID(a.From)], To: names[g.ID(a.To)], Mbit: float64(total) / 1000,
			WasMs: meanMs(a.Was, total), WillMs: meanMs(a.Will, total),
			WasBottleneckMbit: knownMbit(a.WasKbit), WillBottleneckMbit: knownMbit(a.WillKbit),
		}
		if a.Unless >= 0 {
			m.Unless = &v.Moves[a.Unless].Station
		}
		v.Moves = append(v.Moves, m)
	}
	return v
}

// meanMs returns what frames need on average whose rates times delays are a sum; nil if some
// never arrive.
func meanMs(sum, kbit uint64) *float64 {
	const never = 10_000 // milliseconds: who isn't reached counts as a minute
	ms := float64(sum) / float64(max(kbit, 1)) / 1000
	if ms >= never {
		return nil
	}
	return &ms
}

func knownMbit(kbit uint32) *float64 {
	if kbit == 0 || kbit == math.MaxUint32 {
		return nil
	}
	return megabits(int64(kbit) * 1000)
}

// allTold returns what all members tell that aren't gone, this one included.
func (n *node) allTold() []decide.Told {
	now := n.now()
	own := decide.Told{ID: n.self}
	own.Facts = n.ownFacts(now)
	for _, l := range n.linksNow(now) {
		own.Rows = append(own.Rows, discovery.Row{Peer: discovery.BriefOf(l.Peer), Pair: l.Pair, Intent: l.Intent})
	}
	return append(n.toldLinks(), own)
}

// placement returns where stations are and what they send to each other.
func (n *node) placement(g *route.Graph) (x placement) {
	byName := make(map[string]int32)
	for id, name := range n.names() {
		if i, ok := g.Index(id); ok {
			byName[name] = i
			lan := id == n.self && len(n.cfg.LANs) > 0
			if p := n.peers[id]; p != nil {
				lan = p.member.LAN
			}
			if !lan {
				x.hosts = append(x.hosts, i)
			}
		}
	}
	isHost := make(map[int32]bool)
	for _, h := range x.hosts {
		isHost[h] = true
	}
	index := make(map[string]int)
	station := func(mac, agent string) (int, bool) {
		at, ok := byName[agent]
		if i, known := index[mac]; known || !ok {
			return i, known
		}
		index[mac] = len(x.stations)
		x.stations = append(x.stations, route.Station{Agent: at, Fixed: !isHost[at]})
		x.names, x.kbit = append(x.names, mac), append(x.kbit, 0)
		return index[mac], true
	}
	for _, f := range n.trafficView().Flows {
		from, ok := station(f.From, f.AgentFrom)
		to, known := station(f.To, f.AgentTo)
		if kbit := uint32(min(f.Mbit*1000, math.MaxUint32)); ok && known && from != to {
			x.flows = append(x.flows, route.Flow{From: from, To: to, Kbit: kbit})
			x.kbit[from] += uint64(kbit)
			x.kbit[to] += uint64(kbit)
		}
	}
	return x
}

func newAdvise() *cobra.Command {
	cmd, _, _ := showing("advise", "which virtual machine would gain by which move, and by how much", "/advise", showAdvise)
	cmd.Long = "advise says which stations had better run on which other agent's host, by what they send and the paths between the agents. It moves nothing. Stations on a physical LAN can't move, nor can one move there."
	return cmd
}

func showAdvise(w io.Writer, v adviseView) {
	if len(v.Moves) == 0 {
		fmt.Fprintln(w, "no move would gain a tenth")
		return
	}
	t := table(w, "STATION", "FROM", "TO", "Mbit/s", "NOW ms", "THEN ms", "NOW Mbit/s", "THEN Mbit/s", "UNLESS")
	for _, m := range v.Moves {
		fmt.Fprintf(t, "%s\t%s\t%s\t%.2f\t%s\t%s\t%s\t%s\t%s\n", m.Station, m.From, m.To, m.Mbit, known(m.WasMs, "%.1f"), known(m.WillMs, "%.1f"),
			known(m.WasBottleneckMbit, "%.1f"), known(m.WillBottleneckMbit, "%.1f"), text(m.Unless))
	}
	_ = t.Flush()
}
