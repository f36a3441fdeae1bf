// Package chart draws the peer map as a picture: agents so that their distance follows
// the round trips between them. It is pure, needs nothing but itself, and draws the
// same picture of the same map.
package chart

import "math"

// A Node is an agent.
type Node struct {
	Name   string
	Detail string // what is shown on pointing at it, "" nothing more
}

// A Link is a pair of agents, by their indices, of which something is known.
type Link struct {
	A, B     int
	RTT      float64 // milliseconds, over 0
	Measured bool    // else it is predicted
	Loss     float64 // 0 to 1
	LossLow  float64 // it is so much at least
	Mbit     float64 // 0 unknown
	Relayed  bool    // by way of another agent
}

// A Graph is what is drawn.
type Graph struct {
	Nodes []Node
	Links []Link
}

const (
	rounds    = 60   // of stress majorisation, when the picture has long settled
	nearest   = 0.25 // milliseconds: shorter round trips are drawn as this
	powerSize = 30   // iterations for an axis
)

// A point is where a node is, in milliseconds.
type point struct{ x, y float64 }

func (p point) sub(q point) point             { return point{p.x - q.x, p.y - q.y} }
func (p point) plus(q point, f float64) point { return point{p.x + f*q.x, p.y + f*q.y} }
func (p point) length() float64               { return math.Hypot(p.x, p.y) }

// layout places the nodes so that their distances are the round trips as nearly as a
// plane allows: classical scaling (Torgerson 1952) to begin with, then stress
// majorisation (Gansner, Koren, North, "Graph drawing by stress majorization", GD 2004),
// where a short distance counts more than a long one.
func layout(g Graph) []point {
	n := len(g.Nodes)
	far, direct := distances(g)
	at := scale(far)
	for range rounds {
		next := make([]point, n)
		for i := range n {
			var sum point
			weights := 0.0
			for j := range n {
				if i == j {
					continue
				}
				d := far[i][j]
				w := 1 / (d * d)
				if !direct[i][j] {
					w /= 10 // made up
				}
				apart := at[i].sub(at[j])
				length := apart.length()
				if length < 1e-9 {
					turn := 2.399963 * float64(i-j) // the golden angle
					apart, length = point{math.Cos(turn), math.Sin(turn)}, 1
				}
				sum = sum.plus(at[j].plus(apart, d/length), w)
				weights += w
			}
			next[i] = at[i]
			if weights > 0 {
				next[i] = point{sum.x / weights, sum.y / weights}
			}
		}
		at = next
	}
	return at
}

// distances returns how far each pair is apart, and whether that is known: else it is
// the shortest way by others, or more than everything if there is none.
func distances(g Graph) (far [][]float64, direct [][]bool) {
	n := len(g.Nodes)
	far, direct = make([][]float64, n), make([][]bool, n)
	longest := nearest
	for i := range n {
		far[i], direct[i] = make([]float64, n), make([]bool, n)
		for j := range far[i] {
			if i != j {
				far[i][j] = math.Inf(1)
			}
		}
	}
	for _, l := range g.Links {
		d := max(l.RTT, nearest)
		longest = max(longest, d)
		far[l.A][l.B], far[l.B][l.A] = d, d
		direct[l.A][l.B], direct[l.B][l.A] = true, true
	}
	for k := range n { // Floyd and Warshall
		for i := range n {
			for j := range n {
				if d := far[i][k] + far[k][j]; d < far[i][j] && !direct[i][j] {
					far[i][j] = d
				}
			}
		}
	}
	for i := range n {
		for j := range n {
			if math.IsInf(far[i][j], 1) {
				far[i][j] = 1.3 * longest
			}
		}
	}
	return far, direct
}

// scale returns coordinates by the two largest eigenvectors of the doubly centred
// squared distances, found by power iteration.
func scale(far [][]float64) []point {
	n := len(far)
	b := make([][]float64, n)
	mean, all := make([]float64, n), 0.0
	for i := range n {
		b[i] = make([]float64, n)
		for j := range n {
			b[i][j] = -far[i][j] * far[i][j] / 2
			mean[i] += b[i][j] / float64(n)
		}
		all += mean[i] / float64(n)
	}
	for i := range n {
		for j := range n {
			b[i][j] += all - mean[i] - mean[j]
		}
	}
	x := axis(b, 0)
	for i := range n {
		for j := range n {
			b[i][j] -= x[i] * x[j]
		}
	}
	y := axis(b, 1)
	at := make([]point, n)
	for i := range at {
		at[i] = point{x[i], y[i]}
	}
	return at
}

// axis returns the largest eigenvector of b, scaled by the root of its value.
func axis(b [][]float64, which int) []float64 {
	n := len(b)
	v := make([]float64, n)
	for i := range v {
		v[i] = math.Cos(float64(i*(which+1)) + float64(which)) // anything that isn't special
	}
	value := 0.0
	for range powerSize {
		next, norm := make([]float64, n), 0.0
		for i := range n {
			for j := range n {
				next[i] += b[i][j] * v[j]
			}
			norm += next[i] * next[i]
		}
		norm = math.Sqrt(norm)
		if norm < 1e-12 {
			return make([]float64, n)
		}
		for i := range next {
			next[i] /= norm
		}
		v, value = next, norm
	}
	for i := range v {
		v[i] *= math.Sqrt(value)
	}
	return v
}
