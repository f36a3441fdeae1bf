package agent

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// trafficView returns the traffic matrix: this agent's own flows as they are now, and
// those that the others tell. Each flow is told once, by the agent that sends it.
func (n *node) trafficView() trafficView {
	names := n.names()
	v := trafficView{Schema: schemaVersion, Flows: []flowView{}, Agents: []sumView{}}
	sums := make(map[[2]string]float64)
	for _, f := range n.flows.rates.Top(flowsShown) {
		if p := n.view.Load().peer(f.Place); p != nil {
			v.Flows = append(v.Flows, flowView{f.From.String(), f.To.String(), names[n.self], names[p.id], f.Rate / 1e6})
			sums[[2]string{names[n.self], names[p.id]}] += f.Rate / 1e6
		}
	}
	for id, p := range n.peers {
		told, _, ok := n.store.Traffic(id)
		if !ok || p.state == measure.Gone {
			continue
		}
		for _, f := range told.Flows {
			if to := n.nameOf(f.Agent, names); to != "" {
				v.Flows = append(v.Flows, flowView{f.From.String(), f.To.String(), names[id], to, float64(f.Rate) / 1e6})
			}
		}
		for _, s := range told.Sums {
			if to := n.nameOf(s.Agent, names); to != "" {
				sums[[2]string{names[id], to}] = float64(s.Rate) / 1e6
			}
		}
	}
	slices.SortFunc(v.Flows, func(a, b flowView) int {
		return cmp.Or(cmp.Compare(b.Mbit, a.Mbit), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	for k, mbit := range sums {
		v.Agents = append(v.Agents, sumView{k[0], k[1], mbit})
	}
	slices.SortFunc(v.Agents, func(a, b sumView) int {
		return cmp.Or(cmp.Compare(b.Mbit, a.Mbit), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	v.Pattern = measure.PatternOf(matrixOf(v.Flows))
	return v
}

// nameOf returns the name of the agent with a brief one, "" if it isn't known or gone.
func (n *node) nameOf(b discovery.Brief, names map[overlay.AgentID]string) string {
	id, ok := n.store.Find(b)
	if p := n.peers[id]; !ok || p != nil && p.state == measure.Gone {
		return ""
	}
	return names[id]
}

// matrixOf returns the rates between the busiest stations.
func matrixOf(flows []flowView) [][]float64 {
	rates := make(map[[2]string]float64, len(flows))
	for _, f := range flows {
		rates[[2]string{f.From, f.To}] += f.Mbit
	}
	return measure.Matrix(rates)
}

func newTraffic() *cobra.Command {
	cmd, _, _ := showing("traffic", "who sends to whom, as the agents infer from the frames", "/traffic", showTraffic)
	return cmd
}

func showTraffic(w io.Writer, v trafficView) {
	fmt.Fprintf(w, "pattern: %s\n", v.Pattern)
	if len(v.Flows) == 0 {
		return
	}
	t := table(w, "FROM", "TO", "Mbit/s")
	for _, a := range v.Agents {
		fmt.Fprintf(t, "%s\t%s\t%.2f\n", a.From, a.To, a.Mbit)
	}
	_ = t.Flush()
	t = table(w, "STATION", "AT", "TO STATION", "AT", "Mbit/s")
	for _, f := range v.Flows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.2f\n", f.From, f.AgentFrom, f.To, f.AgentTo, f.Mbit)
	}
	_ = t.Flush()
}
