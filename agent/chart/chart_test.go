package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// plane makes up agents on a plane, the round trips their distances.
func plane(n int, known float64) (Graph, []point) {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	var g Graph
	var at []point
	for i := range n {
		g.Nodes = append(g.Nodes, Node{Name: fmt.Sprint("agent-", i)})
		at = append(at, point{200 * r.Float64(), 120 * r.Float64()})
	}
	for i := range n {
		for j := range i {
			if r.Float64() < known {
				g.Links = append(g.Links, Link{A: i, B: j, RTT: max(at[i].sub(at[j]).length(), 0.1), Measured: true, Loss: 0.02 * float64(i%7/6), Mbit: float64(int(10) << (i % 10))})
			}
		}
	}
	return g, at
}

// Agents that could lie on a plane are drawn as they lie, also when half of the pairs
// aren't known.
func TestDistancesFollowRTT(t *testing.T) {
	for _, known := range []float64{1, 0.5} {
		g, _ := plane(30, known)
		at := layout(g)
		worst, sum := 0.0, 0.0
		for _, l := range g.Links {
			off := math.Abs(at[l.A].sub(at[l.B]).length()-l.RTT) / max(l.RTT, 10)
			worst, sum = max(worst, off), sum+off
		}
		mean := sum / float64(len(g.Links))
		t.Logf("%.0f %% of the pairs known: off by %.2f %% on average, %.1f %% at most", 100*known, 100*mean, 100*worst)
		if mean > 0.05 || worst > 0.5 {
			t.Error("too much")
		}
	}
}

// The picture is well-formed, the same each time, bounded, and done soon, whatever is in it.
func TestPictures(t *testing.T) {
	apart, _ := plane(20, 0)
	same := Graph{Nodes: make([]Node, 9)}
	for i := range same.Nodes {
		same.Nodes[i].Name = `<&"'>` + strings.Repeat("long", 20)
		for j := range i {
			same.Links = append(same.Links, Link{A: i, B: j, RTT: 0.05, Measured: true})
		}
	}
	few, _ := plane(12, 1)
	many, _ := plane(300, 0.3)
	for name, g := range map[string]Graph{
		"nobody": {}, "one": {Nodes: []Node{{Name: "a"}}}, "apart": apart, "together": same, "few": few, "many": many,
		"two": {Nodes: []Node{{Name: "a"}, {Name: "b"}}, Links: []Link{{B: 1, RTT: 30, Measured: true}}},
	} {
		began := time.Now()
		picture := SVG(g)
		t.Logf("%s: %d bytes in %v", name, len(picture), time.Since(began).Round(time.Millisecond))
		if !bytes.Equal(picture, SVG(g)) {
			t.Errorf("%s: not the same each time", name)
		}
		if len(picture) > 400<<10 {
			t.Errorf("%s: %d bytes", name, len(picture))
		}
		if strings.Contains(string(picture), "NaN") || strings.Contains(string(picture), "Inf") {
			t.Errorf("%s: not all are numbers", name)
		}
		d := xml.NewDecoder(bytes.NewReader(picture))
		nodes := 0
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if e, ok := token.(xml.StartElement); ok && e.Name.Local == "circle" {
				nodes++
			}
		}
		if nodes != len(g.Nodes) {
			t.Errorf("%s: %d of %d agents are drawn", name, nodes, len(g.Nodes))
		}
	}
}

// No two agents cover each other, and none is outside.
func TestAgentsApart(t *testing.T) {
	for _, n := range []int{2, 30, 300} {
		g, _ := plane(n, 1)
		c := canvasOf(n)
		at, _ := place(g, c)
		for i, p := range at {
			if p.x < 0 || p.x > c.w || p.y < 0 || p.y > c.legend {
				t.Errorf("agent %d of %d is at %v", i, n, p)
			}
			for j := range i {
				if d := p.sub(at[j]).length(); d < 1.5*nodeRadius(n) {
					t.Errorf("of %d agents two are %.1f apart", n, d)
				}
			}
		}
	}
}

// A link that loses is drawn as such, whatever its length; and of many the lossy ones are
// drawn.
func TestLossIsSeen(t *testing.T) {
	g, _ := plane(100, 1)
	for i := range g.Links {
		g.Links[i].Loss, g.Links[i].LossLow = 0.02, 0.001 // one of fifty says little
	}
	longest := 0
	for i, l := range g.Links {
		if l.RTT > g.Links[longest].RTT {
			longest = i
		}
	}
	g.Links[longest].Loss, g.Links[longest].LossLow = 0.08, 0.03
	if got := strings.Count(string(SVG(g)), `class="link loss"`); got != 2 { // and in the legend
		t.Errorf("%d lossy links", got)
	}
}

// A name stands where the fewest lines pass; a link by way of another agent is dotted, and
// the legend says so.
func TestNamesBesideLines(t *testing.T) {
	near := box{10, 10, 20, 8}
	for _, c := range []struct {
		p, q point
		want bool
	}{
		{point{0, 0}, point{40, 28}, true},
		{point{0, 14}, point{100, 14}, true},
		{point{20, 0}, point{20, 100}, true},
		{point{12, 12}, point{13, 13}, true},
		{point{0, 14}, point{9, 14}, false},
		{point{0, 5}, point{100, 5}, false},
		{point{0, 20}, point{20, 40}, false},
	} {
		if got := near.crossed(c.p, c.q); got != c.want {
			t.Errorf("%v to %v: %v", c.p, c.q, got)
		}
	}
	g := Graph{
		Nodes: []Node{{Name: "left"}, {Name: "right"}},
		Links: []Link{{A: 0, B: 1, RTT: 30, Measured: true}},
	}
	picture := string(SVG(g))
	if strings.Contains(picture, relayed) || strings.Count(picture, `text-anchor="start"`)+strings.Count(picture, `text-anchor="end"`) < 2 {
		t.Error(picture)
	}
	c := canvasOf(2)
	at, _ := place(g, c)
	for i, p := range at {
		name, anchor := g.Nodes[i].Name, "end"
		if p.x > at[1-i].x {
			anchor = "start"
		}
		if !strings.Contains(picture, `text-anchor="`+anchor+`">`+name+"<") {
			t.Errorf("the line passes through %s", name)
		}
	}
	g.Links[0].Relayed = true
	if picture := string(SVG(g)); strings.Count(picture, relayed) != 2 || !strings.Contains(picture, "by way of another agent") {
		t.Error("it isn't drawn as relayed")
	}
}
