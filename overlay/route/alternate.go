package route

import "slices"

// Alternate returns the path that shares as few links with p as possible, then as few
// relays, then is the shortest, from its first node to its last; and how many links it
// shares. There is none (nil) if p isn't a path, or is the only one. It is for both
// classes: it carries frames from when p breaks until there are new facts. The work is
// that of one search, which ends early for near goals.
func (f *Finder) Alternate(g *Graph, p Path) (other Path, shared int) {
	if len(p) < 2 || len(p) > MaxHops+1 {
		return nil, 0
	}
	for i, v := range p {
		if !g.has(v) || slices.Contains(p[:i], v) {
			return nil, 0
		}
	}
	w := f.copyWeights(g)
	for i, v := range p[1:] {
		u := p[i]
		for _, e := range [...][2]int32{{u, v}, {v, u}} {
			if link, ok := g.link(e[0], e[1]); ok {
				w.link[link] += sharedLink
			}
		}
		if i > 0 && w.transit[u] != barred {
			w.transit[u] += sharedRelay
		}
	}
	from, to := p[0], p[len(p)-1]
	f.search(g, w, from, to, MaxHops)
	if f.best[to] == none {
		return nil, 0
	}
	if other = f.path(nil, to); slices.Equal(other, p) {
		return nil, 0
	}
	return other, int(f.steps[f.best[to]].weight / sharedLink)
}
