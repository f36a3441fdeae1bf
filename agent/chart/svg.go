package chart

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// A canvas is how large a picture is, in its own units: those of the text's size.
type canvas struct{ w, h, legend float64 }

const (
	margin       = 90
	legendHeight = 64
	// crowded is with how many agents a picture begins to grow, up to largest times:
	// then there is room for 500 and half of their names.
	crowded = 60
	largest = 2.8

	// mostLinks bounds what is drawn: with more, those that lose most, then each
	// agent's shortest.
	mostLinks = 1100
	mostLossy = 150
	// allLinks is up to how many agents all links are drawn.
	allLinks = 24
	shortest = 4 // links of each agent's are drawn then; half as many in a crowd
)

// A class is how a link is drawn.
type class struct {
	name, label, light, dark string
	upTo                     float64 // milliseconds
}

func canvasOf(agents int) canvas {
	f := min(max(math.Sqrt(float64(agents)/crowded), 1), largest)
	c := canvas{w: math.Round(1200 * f), h: math.Round(800*f) + legendHeight}
	c.legend = c.h - legendHeight
	return c
}

// classes go from near to far; the colours are told apart with any kind of sight, on
// light and on dark ground.
var classes = []class{
	{"r0", "under 10 ms", "#1a9850", "#4fd28a", 10},
	{"r1", "10 – 40", "#2b83ba", "#5ab4f0", 40},
	{"r2", "40 – 100", "#5e4fa2", "#a394ee", 100},
	{"r3", "100 – 200", "#b07aa1", "#d9a3cb", 200},
	{"r4", "over 200 ms", "#8c8c8c", "#9a9a9a", math.Inf(1)},
}

// lossy is from what loss on a link is drawn as one that loses, if that is sure: of few
// datagrams one lost says little.
const lossy = 0.005

// How lines are dashed.
const (
	losing  = ` stroke-dasharray="7 5"`
	relayed = ` stroke-dasharray="1 6"`
)

// SVG draws a map. The picture is at most about 400 kB for 500 agents.
func SVG(g Graph) []byte {
	var b bytes.Buffer
	c := canvasOf(len(g.Nodes))
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]g %[2]g" width="%[1]g" height="%[2]g" role="img" aria-label="peer map of %[3]d agents">`+"\n",
		c.w, c.h, len(g.Nodes))
	style(&b)
	fmt.Fprintf(&b, `<rect class="ground" width="%g" height="%g"/>`+"\n", c.w, c.h)
	at, unit := place(g, c)
	links := drawn(g)
	for _, l := range links {
		drawLink(&b, g, l, at)
	}
	radius := nodeRadius(len(g.Nodes))
	for i, n := range g.Nodes {
		title := escape(n.Name)
		if n.Detail != "" {
			title += ": " + escape(n.Detail)
		}
		fmt.Fprintf(&b, `<circle class="node" cx="%.1f" cy="%.1f" r="%.1f"><title>%s</title></circle>`+"\n", at[i].x, at[i].y, radius, title)
	}
	drawNames(&b, g, c, at, radius, links)
	legend(&b, g, c, unit, len(links))
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func style(b *bytes.Buffer) {
	b.WriteString("<style>\ntext{font-family:system-ui,'DejaVu Sans',sans-serif}\n")
	b.WriteString(".ground{fill:#fcfcfa}.node{fill:#22303c;stroke:#fcfcfa;stroke-width:1.5}.name{fill:#22303c;paint-order:stroke;stroke:#fcfcfa;stroke-width:3px;stroke-linejoin:round}.note{fill:#5a6872;font-size:13px}.link{fill:none;stroke-linecap:round}.loss{stroke:#d7301f}.scale{stroke:#5a6872}\n")
	for _, c := range classes {
		fmt.Fprintf(b, ".%s{stroke:%s}", c.name, c.light)
	}
	b.WriteString("\n@media (prefers-color-scheme:dark){.ground{fill:#14181c}.node{fill:#e6e9ec;stroke:#14181c}.name{fill:#e6e9ec;stroke:#14181c}.note{fill:#a3adb5}.loss{stroke:#ff6b57}.scale{stroke:#a3adb5}")
	for _, c := range classes {
		fmt.Fprintf(b, ".%s{stroke:%s}", c.name, c.dark)
	}
	b.WriteString("}\n</style>\n")
}

// place returns where the nodes are in the picture, and how long a millisecond is.
func place(g Graph, c canvas) (at []point, unit float64) {
	at = layout(g)
	if len(at) == 0 {
		return at, 0
	}
	low, high := at[0], at[0]
	for _, p := range at {
		low = point{min(low.x, p.x), min(low.y, p.y)}
		high = point{max(high.x, p.x), max(high.y, p.y)}
	}
	size := high.sub(low)
	if size.y > size.x { // the picture is wider than high
		for i, p := range at {
			at[i] = point{p.y, p.x}
		}
		low, high, size = point{low.y, low.x}, point{high.y, high.x}, point{size.y, size.x}
	}
	across, down := c.w-2*margin, c.legend-2*margin
	unit = min(across/max(size.x, 1e-9), down/max(size.y, 1e-9))
	if size.length() < 1e-9 {
		unit = 1
	}
	middle := low.plus(size, 0.5)
	for i, p := range at {
		at[i] = point{c.w / 2, c.legend / 2}.plus(p.sub(middle), unit)
	}
	spread(at, c, 2.6*nodeRadius(len(at)))
	return at, unit
}

// spread moves nodes apart that would cover each other, and keeps them in the picture.
func spread(at []point, c canvas, least float64) {
	for range 40 {
		moved := false
		for i := range at {
			for j := range i {
				apart := at[i].sub(at[j])
				d := apart.length()
				if d >= least {
					continue
				}
				moved = true
				if d < 1e-6 {
					turn := 2.399963 * float64(i)
					apart, d = point{math.Cos(turn), math.Sin(turn)}, 1
				}
				push := (least - min(d, least)) / 2 / d
				if d == 1 {
					push = least / 2
				}
				at[i], at[j] = at[i].plus(apart, push), at[j].plus(apart, -push)
			}
		}
		for i, p := range at {
			at[i] = point{min(max(p.x, margin/2), c.w-margin/2), min(max(p.y, margin/2), c.legend-margin/3)}
		}
		if !moved {
			return
		}
	}
}

func nodeRadius(n int) float64 { return max(4, min(9, 60/math.Sqrt(float64(max(n, 1))))) }

// drawn returns the links that are drawn, the shortest last, so that they lie on top.
func drawn(g Graph) []Link {
	links := slices.DeleteFunc(slices.Clone(g.Links), func(l Link) bool { return !l.Measured })
	slices.SortFunc(links, func(a, b Link) int {
		return cmp.Or(cmp.Compare(a.RTT, b.RTT), cmp.Compare(a.A, b.A), cmp.Compare(a.B, b.B))
	})
	if len(g.Nodes) > allLinks {
		has, most := make([]int, len(g.Nodes)), shortest
		if len(g.Nodes) > 2*crowded {
			most = shortest / 2
		}
		near := slices.DeleteFunc(slices.Clone(links), func(l Link) bool {
			has[l.A]++
			has[l.B]++
			return l.LossLow >= lossy || has[l.A] > most && has[l.B] > most
		})
		bad := slices.DeleteFunc(links, func(l Link) bool { return l.LossLow < lossy })
		slices.SortStableFunc(bad, func(a, b Link) int { return cmp.Compare(b.LossLow, a.LossLow) })
		bad = bad[:min(len(bad), mostLossy)]
		links = append(bad, near[:min(len(near), mostLinks-len(bad))]...)
		slices.SortStableFunc(links, func(a, b Link) int { return cmp.Compare(a.RTT, b.RTT) })
	}
	slices.Reverse(links)
	return links
}

// thickness returns a link's, by its capacity: from 10 Mbit/s to 10 Gbit/s and beyond.
func thickness(mbit float64, agents int) float64 {
	least := 1.2
	if agents > allLinks {
		least = 0.8
	}
	if mbit <= 0 {
		return least
	}
	return least + min(max(math.Log10(mbit)-1, 0), 3)*1.8
}

func drawLink(b *bytes.Buffer, g Graph, l Link, at []point) {
	name, more := classes[len(classes)-1].name, ""
	for _, c := range classes {
		if l.RTT < c.upTo {
			name = c.name
			break
		}
	}
	if l.Relayed {
		more = relayed
	}
	if l.LossLow >= lossy {
		name = "loss"
		if !l.Relayed {
			more = losing
		}
	}
	opacity := 0.9
	if len(g.Nodes) > allLinks {
		opacity = 0.55
	}
	p, q := at[l.A], at[l.B]
	title := fmt.Sprintf("%s – %s: %.1f ms", g.Nodes[l.A].Name, g.Nodes[l.B].Name, l.RTT)
	if l.Relayed {
		title += " by way of another agent"
	}
	if l.Loss > 0 {
		title += fmt.Sprintf(", %.1f %% lost", 100*l.Loss)
	}
	if l.Mbit > 0 {
		title += fmt.Sprintf(", %.3g Mbit/s", l.Mbit)
	}
	fmt.Fprintf(b, `<line class="link %s" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke-width="%.1f" stroke-opacity="%.2f"%s><title>%s</title></line>`+"\n",
		name, p.x, p.y, q.x, q.y, thickness(l.Mbit, len(g.Nodes)), opacity, more, escape(title))
}

// A box is where a text is.
type box struct{ x, y, w, h float64 }

func (a box) hits(b box) bool {
	return a.x < b.x+b.w && b.x < a.x+a.w && a.y < b.y+b.h && b.y < a.y+a.h
}

// crossed says whether the line from p to q passes through the box (Liang and Barsky, "A
// new concept and method for line clipping", ACM TOG 3, 1984).
func (a box) crossed(p, q point) bool {
	d, from, to := q.sub(p), 0.0, 1.0
	for _, side := range [4][2]float64{{-d.x, p.x - a.x}, {d.x, a.x + a.w - p.x}, {-d.y, p.y - a.y}, {d.y, a.y + a.h - p.y}} {
		switch t := side[1] / side[0]; {
		case side[0] == 0 && side[1] < 0:
			return false
		case side[0] < 0:
			from = max(from, t)
		case side[0] > 0:
			to = min(to, t)
		}
	}
	return from <= to
}

// A caption is where a name may stand.
type caption struct {
	box
	x, y   float64
	anchor string
}

// captions returns the places of a name of a width: right of its agent, left, below, above.
func captions(p point, gap, w, size float64) []caption {
	height := func(y float64) float64 { return y - 0.8*size }
	side, below, above := p.y+size/3, p.y+gap+0.8*size, p.y-gap
	return []caption{
		{box{p.x + gap, height(side), w, size}, p.x + gap, side, "start"},
		{box{p.x - gap - w, height(side), w, size}, p.x - gap, side, "end"},
		{box{p.x - w/2, height(below), w, size}, p.x, below, "middle"},
		{box{p.x - w/2, height(above), w, size}, p.x, above, "middle"},
	}
}

// drawNames writes the agents' names where there is room and the fewest lines pass. A name
// for which there is none is shown on pointing at its agent only.
func drawNames(b *bytes.Buffer, g Graph, c canvas, at []point, radius float64, links []Link) {
	size := 15.0
	if len(g.Nodes) > 2*allLinks {
		size = 11
	}
	taken := make([]box, 0, 2*len(at))
	for _, p := range at {
		taken = append(taken, box{p.x - radius, p.y - radius, 2 * radius, 2 * radius})
	}
	for i, n := range g.Nodes {
		name := cut(n.Name)
		best, fewest := caption{}, math.MaxInt
		for _, o := range captions(at[i], radius+3, 0.6*size*float64(utf8.RuneCountInString(name)), size) {
			outside := o.box.x < 4 || o.box.x+o.w > c.w-4 || o.box.y < 4 || o.box.y+o.h > c.legend
			if outside || slices.ContainsFunc(taken, o.hits) {
				continue
			}
			lines := 0
			for _, l := range links {
				if o.crossed(at[l.A], at[l.B]) {
					lines++
				}
			}
			if lines < fewest {
				best, fewest = o, lines
			}
		}
		if fewest == math.MaxInt {
			continue
		}
		taken = append(taken, best.box)
		fmt.Fprintf(b, `<text class="name" x="%.1f" y="%.1f" font-size="%.0f" text-anchor="%s">%s</text>`+"\n", best.x, best.y, size, best.anchor, escape(name))
	}
}

// cut shortens a name to what a picture has room for.
func cut(name string) string {
	const most = 18
	if r := []rune(name); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return name
}

// legend says what the colours, the widths and the distances are.
func legend(b *bytes.Buffer, g Graph, c canvas, unit float64, links int) {
	x, y := 40.0, c.legend+22
	entry := func(name, more, label string, thick, gap float64) {
		fmt.Fprintf(b, `<line class="link %s" x1="%.0f" y1="%.0f" x2="%.0f" y2="%.0f" stroke-width="%.1f"%s/>`, name, x, y-4, x+26, y-4, thick, more)
		fmt.Fprintf(b, `<text class="note" x="%.0f" y="%.0f">%s</text>`+"\n", x+33, y, label)
		x += gap
	}
	for _, class := range classes {
		entry(class.name, "", class.label, 3, 130)
	}
	entry("loss", losing, "loses 0.5 % or more", 3, 190)
	if slices.ContainsFunc(g.Links, func(l Link) bool { return l.Relayed }) {
		entry("scale", relayed, "by way of another agent", 3, 0)
	}
	x, y = 40, y+26
	for _, mbit := range []float64{0, 100, 1000, 10_000} {
		label := fmt.Sprintf("%.0f Mbit/s", mbit)
		switch {
		case mbit == 0:
			label = "capacity unknown"
		case mbit >= 1000:
			label = fmt.Sprintf("%.0f Gbit/s", mbit/1000)
		}
		entry("scale", "", label, thickness(mbit, len(g.Nodes)), 40+7.5*float64(len(label)))
	}
	if ms := round(140 / max(unit, 1e-9)); unit > 0 && len(g.Links) > 0 {
		fmt.Fprintf(b, `<path class="scale" stroke-width="1.5" fill="none" d="M%.1f %.1fv8M%.1f %.1fh%.1fm0 -4v8"/>`, x+20, y-8, x+20, y-4, ms*unit)
		fmt.Fprintf(b, `<text class="note" x="%.0f" y="%.0f">%g ms</text>`+"\n", x+28+ms*unit, y, ms)
		x += 120 + ms*unit
	}
	note := fmt.Sprintf("%d agents", len(g.Nodes))
	if all := measured(g); links < all {
		note += fmt.Sprintf(", %d of %d links drawn", links, all)
	}
	fmt.Fprintf(b, `<text class="note" x="%.0f" y="%.0f" text-anchor="end">%s</text>`+"\n", c.w-40, y, note)
}

func measured(g Graph) (n int) {
	for _, l := range g.Links {
		if l.Measured {
			n++
		}
	}
	return n
}

// round returns the largest of 1, 2 and 5 times a power of ten that is at most f.
func round(f float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(f)))
	for _, m := range []float64{5, 2} {
		if m*power <= f {
			return m * power
		}
	}
	return power
}

var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;")

func escape(s string) string { return escaper.Replace(s) }
