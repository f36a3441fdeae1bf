package overlay

import (
	"math"
	"slices"
)

// Meet notes which places there are: all ports of this agent, and the agents that get what is
// flooded. Those that are new are taken to listen to everything until they were asked.
func (g *Groups) Meet(now Instant, places []Place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	is := make(map[Place]bool, len(places))
	for _, p := range places {
		is[p] = true
	}
	kept := g.met[:0]
	for _, x := range g.met {
		if is[x.place] {
			kept = append(kept, metPlace{x.place, min(x.since, now)})
			delete(is, x.place)
		}
	}
	g.met = kept
	for _, p := range places {
		if is[p] {
			g.met = append(g.met, metPlace{p, now})
			delete(is, p)
		}
	}
}

// Doubt notes that what place p said may have been lost until now: it is taken for a new one.
func (g *Groups) Doubt(now Instant, p Place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.met, func(x metPlace) bool { return x.place == p })
	if i < 0 || g.met[i].since >= now {
		return
	}
	g.met = slices.Delete(g.met, i, i+1)
	for i < len(g.met) && g.met[i].since <= now {
		i++
	}
	g.met = slices.Insert(g.met, i, metPlace{p, now})
}

// Follow notes that a station speaks at a place now: what it listens to, it listens to there.
// Where it was it may not have been the only one, of which that isn't known.
func (g *Groups) Follow(now Instant, m MAC, to Place) {
	g.mu.RLock()
	listens := g.stations[m] > 0
	g.mu.RUnlock()
	if listens {
		g.copy(now, to, func(who listener) bool { return who.mac == m })
	}
}

// Hand notes that what was at one place is at another one.
func (g *Groups) Hand(now Instant, from, to Place) {
	g.copy(now, to, func(who listener) bool { return who.place == from })
}

// copy has those that are chosen listen at place to, too.
func (g *Groups) copy(now Instant, to Place, chosen func(listener) bool) {
	type row struct {
		who   listener
		until Instant
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	choose := func(from map[listener]Instant) (all []row) {
		for who, until := range from {
			if who.place != to && chosen(who) && now.Before(until) {
				all = append(all, row{listener{to, who.mac}, until})
			}
		}
		return all
	}
	for _, l := range g.nets {
		for _, r := range choose(l.routers) {
			g.addRouter(l, r.who, r.until)
		}
		for _, x := range l.groups {
			for _, r := range choose(x.listeners) {
				g.listen(now, x, r.who, r.until)
			}
		}
	}
}

// Forget forgets who listens at place p.
func (g *Groups) Forget(p Place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.IndexFunc(g.met, func(x metPlace) bool { return x.place == p }); i >= 0 {
		g.met = append(slices.Delete(g.met, i, i+1), metPlace{p, math.MaxInt64}) // until it is met again
	}
	for _, l := range g.nets {
		g.drop(l.routers, p)
		for _, x := range l.groups {
			g.drop(x.listeners, p)
			x.places = slices.DeleteFunc(x.places, func(at Place) bool { return at == p })
		}
	}
}

func (g *Groups) drop(all map[listener]Instant, p Place) {
	for who := range all {
		if who.place == p {
			g.leave(all, who)
		}
	}
}

// Expire forgets what is too old. A group to which nobody listens any more is remembered as
// long as something is sent to it: that goes to routers.
func (g *Groups) Expire(now Instant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for net, l := range g.nets {
		for who, until := range l.routers {
			if !now.Before(until) {
				g.leave(l.routers, who)
			}
		}
		for a, x := range l.groups {
			if now >= x.next {
				g.sweep(now, x)
			}
			if len(x.listeners) == 0 && !now.Before(x.full) && now.Sub(Instant(x.used.Load())) >= listenerAge {
				delete(l.groups, a)
				g.groups--
			}
		}
		if len(l.groups) == 0 && len(l.routers) == 0 && !l.asked(now) {
			delete(g.nets, net)
		}
	}
}

// A GroupCount is what is known of who listens.
type GroupCount struct {
	Groups    int // to which somebody listens
	Listeners int // stations, once for each group
	Restricts int // LANs where data goes to listeners only
}

// Count returns how much is known.
func (g *Groups) Count(now Instant) (c GroupCount) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	for _, l := range g.nets {
		if l.asked(now) && l.known(now) != 0 {
			c.Restricts++
		}
		for _, x := range l.groups {
			c.Groups += min(len(x.listeners), 1)
			c.Listeners += len(x.listeners)
		}
	}
	return c
}
