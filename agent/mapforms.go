package agent

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"farlan/agent/chart"
)

// metrics are what a matrix can show of a pair.
var metrics = map[string]func(p mapPairView) string{
	"rtt":       mapPairView.rttText,
	"loss":      func(p mapPairView) string { return scaled(p.Loss, 100) },
	"capacity":  mapPairView.capacityText,
	"available": func(p mapPairView) string { return rateText(p.AvailableMbit) },
}

var metricTitles = map[string]string{"rtt": "RTT ms", "loss": "loss %", "capacity": "capacity Mbit/s", "available": "available Mbit/s"}

func scaled(f *float64, by float64) string {
	if f == nil {
		return unknown
	}
	return fmt.Sprintf("%.1f", by**f)
}

const (
	blockColumns = 16 // of a matrix side by side
	columnName   = 8  // characters of a column's name
)

// showMatrix prints one metric of all pairs: from the agent of the row to that of the
// column. More columns than fit a screen stand below each other.
func showMatrix(w io.Writer, v mapView, metric string) {
	cells := make(map[[2]string]string, len(v.Pairs))
	for _, p := range v.Pairs {
		cells[[2]string{p.From, p.To}] = metrics[metric](p)
	}
	rows, columns := mapSides(v)
	for first := 0; first < len(columns); first += blockColumns {
		block := columns[first:min(first+blockColumns, len(columns))]
		if first > 0 {
			fmt.Fprintln(w)
		}
		matrixBlock(w, metricTitles[metric], rows, block, cells)
	}
}

// mapSides returns the agents from which and to which there are pairs, in their order.
func mapSides(v mapView) (rows, columns []string) {
	from, to := make(map[string]bool), make(map[string]bool)
	for _, p := range v.Pairs {
		from[p.From], to[p.To] = true, true
	}
	for _, a := range v.Agents {
		if from[a.Name] {
			rows = append(rows, a.Name)
		}
		if to[a.Name] {
			columns = append(columns, a.Name)
		}
	}
	return rows, columns
}

// matrixBlock prints some columns, right-aligned.
func matrixBlock(w io.Writer, title string, rows, columns []string, cells map[[2]string]string) {
	left := utf8.RuneCountInString(title)
	for _, r := range rows {
		left = max(left, utf8.RuneCountInString(r))
	}
	heads, widths := make([]string, len(columns)), make([]int, len(columns))
	for i, c := range columns {
		heads[i] = shorten(c)
		widths[i] = utf8.RuneCountInString(heads[i])
		for _, r := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(cells[[2]string{r, c}]), 1)
		}
	}
	line := func(name string, cell func(i int) string) {
		fmt.Fprintf(w, "%-*s", left, name)
		for i := range columns {
			fmt.Fprintf(w, "  %*s", widths[i], cell(i))
		}
		fmt.Fprintln(w)
	}
	line(title, func(i int) string { return heads[i] })
	for _, r := range rows {
		line(r, func(i int) string {
			if columns[i] == r {
				return "·"
			}
			return cells[[2]string{r, columns[i]}]
		})
	}
}

// shorten cuts a name to a column's width; what tells machines apart is often its end.
func shorten(name string) string {
	r := []rune(name)
	if len(r) <= columnName {
		return name
	}
	return string(r[:columnName/2-1]) + "…" + string(r[len(r)-columnName/2:])
}

// An edge is both directions of a pair: each may be nil.
type edge struct {
	a, b        int
	there, back *mapPairView
}

// edges joins the directions of the pairs, in the order of the agents.
func (v mapView) edges() []edge {
	index := make(map[string]int, len(v.Agents))
	for i, a := range v.Agents {
		index[a.Name] = i
	}
	at := make(map[[2]int]int)
	var all []edge
	for i := range v.Pairs {
		p := &v.Pairs[i]
		a, b := index[p.From], index[p.To]
		k := [2]int{min(a, b), max(a, b)}
		j, ok := at[k]
		if !ok {
			j = len(all)
			at[k] = j
			all = append(all, edge{a: k[0], b: k[1]})
		}
		if a < b {
			all[j].there = p
		} else {
			all[j].back = p
		}
	}
	return all
}

// both returns the directions that are known.
func (e edge) both() (all []*mapPairView) {
	for _, p := range []*mapPairView{e.there, e.back} {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}

// link returns the edge as it is drawn: the longer round trip of what is measured, the
// greater loss, the lesser capacity.
func (e edge) link() chart.Link {
	l := chart.Link{A: e.a, B: e.b}
	for _, p := range e.both() {
		switch measured := !p.predicted(); {
		case p.RTTms == nil || l.Measured && !measured:
		case measured && !l.Measured:
			l.RTT, l.Measured = *p.RTTms, true
		default:
			l.RTT = max(l.RTT, *p.RTTms)
		}
		if p.Loss != nil {
			l.Loss = max(l.Loss, *p.Loss)
		}
		if p.LossLow != nil {
			l.LossLow = max(l.LossLow, *p.LossLow)
		}
		l.Relayed = l.Relayed || p.Relayed
		if c := p.CapacityMbit; c != nil && p.CapacitySource != "predicted" && (l.Mbit == 0 || *c < l.Mbit) {
			l.Mbit = *c
		}
	}
	return l
}

// graph returns what a picture shows of the map.
func (v mapView) graph() chart.Graph {
	var g chart.Graph
	for _, a := range v.Agents {
		n := chart.Node{Name: a.Name}
		if a.UpMbit != nil || a.DownMbit != nil {
			n.Detail = "up " + rateText(a.UpMbit) + ", down " + rateText(a.DownMbit) + " Mbit/s"
		}
		g.Nodes = append(g.Nodes, n)
	}
	for _, e := range v.edges() {
		if l := e.link(); l.RTT > 0 {
			g.Links = append(g.Links, l)
		}
	}
	return g
}

// showDot prints the measured pairs as a graph: "dot", or better "neato", draws it.
func showDot(w io.Writer, v mapView) {
	fmt.Fprintln(w, "graph farlan {")
	fmt.Fprintln(w, "\tnode [shape=box, style=rounded];")
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	for i, a := range v.Agents {
		fmt.Fprintf(w, "\tn%d [label=\"%s\"];\n", i, quote.Replace(a.Name))
	}
	for _, e := range v.edges() {
		l := e.link()
		if !l.Measured {
			continue
		}
		label := digits(l.RTT) + " ms"
		if l.Loss > 0 {
			label += fmt.Sprintf("\\n%.1f%% lost", 100*l.Loss)
		}
		if l.Mbit > 0 {
			label += "\\n" + digits(l.Mbit) + " Mbit/s"
		}
		style := "solid"
		if l.Relayed {
			style = "dotted"
		}
		fmt.Fprintf(w, "\tn%d -- n%d [label=\"%s\", len=%.3f, style=%s];\n", l.A, l.B, label, max(l.RTT, 1)/25, style)
	}
	fmt.Fprintln(w, "}")
}
