package overlay

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Who listens to which IP multicast group is heard from what machines tell routers, by IGMP
// and MLD, as it passes (RFC 4541): so data goes to those places only where somebody listens,
// or where a multicast router is. This is done on a LAN only where somebody asks who listens,
// a querier, as otherwise nobody says so again; and only with a place that was there when it
// asked twice. Data of a group to which nobody has listened yet goes everywhere.
const (
	// listenerAge is for how long who reported listens, and querierAge for how long a querier
	// is there, unless it is heard of again: RFC 3376 § 8.4 and § 8.5 with the defaults for
	// queriers, 2 × 125 s and 10 s or half of that; and a little more.
	listenerAge = 262 * time.Second
	querierAge  = 257 * time.Second
	// answerSlack is how long answers may take on their way, beside what the querier gives them,
	// and leaveSlack so where it asks of one group whether anybody listens still: it does twice.
	answerSlack = time.Second
	leaveSlack  = 500 * time.Millisecond

	// lowerAgain is how often at most who listens to a group is taken to be asked.
	lowerAgain = 200 * time.Millisecond

	// What is remembered at most: LANs, of which that without VLANs always has room; routers of
	// one; groups, and listeners, of all LANs; listeners of one place. Data of groups that there is
	// no room for, or for all listeners of which there isn't, and of a LAN with more routers, goes
	// everywhere.
	maxGroupNets      = 512
	maxGroupRouters   = 64
	maxGroups         = 4096
	maxListeners      = 8192
	maxPlaceListeners = 2048
)

// Groups says who listens to which groups. The zero one is ready. Safe for concurrent use.
type Groups struct {
	mu        sync.RWMutex
	met       []metPlace // in the order in which they came
	nets      map[groupNet]*groupLAN
	groups    int
	listeners int
	at        map[Place]int // listeners there
	stations  map[MAC]int   // how often they listen, or are routers
}

// A metPlace is one that was there at a time.
type metPlace struct {
	place Place
	since Instant
}

// A listener is a station that was heard at a place. If it speaks elsewhere, too, it is two.
type listener struct {
	place Place
	mac   MAC
}

// A groupLAN is what is known of one LAN.
type groupLAN struct {
	queried Instant // when somebody asked for all groups last
	// A round is a query and its answers: when the last two began that are over, and the one
	// that is going on, 0 none, and when that will be over.
	before, last, began, over Instant

	routers map[listener]Instant
	full    Instant // until when there are others
	groups  map[groupAddress]*group
}

// A group is who listens to it.
type group struct {
	listeners map[listener]Instant // until when
	places    []Place              // where they are; as of the last settle
	next      Instant              // when the first of them is to be forgotten
	full      Instant              // until when there are others who aren't remembered
	asked     Instant              // when it was asked last who listens
	used      atomic.Int64         // when something was sent to it, or somebody listened, last
}

// A Reach is to whom a multicast frame goes.
type Reach uint8

// To whom.
const (
	ReachAll     Reach = iota // to all places
	ReachRouters              // to all agents, who learn from it, and at ports where routers are
	ReachPlaces               // where somebody listens, or a router is
)

// Take learns from a frame that came from a place and is to be flooded, and says to whom it
// goes. The places, of those that count, are appended to places. news says that somebody listens
// who didn't, or was about to be forgotten.
func (g *Groups) Take(now Instant, from Place, frame []byte, places []Place) (to []Place, r Reach, news bool) {
	if len(frame) < MinFrame || !ipGroup(MAC(frame)) {
		return places, ReachAll, false
	}
	m, data := parseGroups(frame)
	switch {
	case data:
		to, r = g.reach(now, &m, places)
	case m.speaks == speaksReport:
		news = g.report(now, from, MAC(frame[6:12]), &m)
		to, r = g.routers(now, &m, places)
	case m.speaks != speaksNothing:
		g.router(now, listener{from, MAC(frame[6:12])}, &m)
		return places, ReachAll, false
	default:
		return places, ReachAll, false
	}
	return to, r, news
}

// reach says where data of a group goes.
func (g *Groups) reach(now Instant, m *membership, places []Place) ([]Place, Reach) {
	g.mu.RLock()
	lan := g.nets[m.net]
	if lan == nil || !lan.asked(now) || now.Before(lan.full) {
		g.mu.RUnlock()
		return places, ReachAll
	}
	x := lan.groups[m.group]
	if x != nil && now >= x.next && len(x.listeners) > 0 {
		g.mu.RUnlock()
		g.settle(now, m)
		g.mu.RLock()
		x = lan.groups[m.group]
	}
	defer g.mu.RUnlock()
	known := lan.known(now)
	if x == nil || known == 0 || now.Before(x.full) {
		return places, ReachAll
	}
	if now.Sub(Instant(x.used.Load())) >= time.Second {
		x.used.Store(int64(now))
	}
	places = append(places, x.places...)
	places = lan.appendRouters(now, places)
	for i := len(g.met) - 1; i >= 0 && !g.met[i].since.Before(known); i-- {
		places = appendPlace(places, g.met[i].place)
	}
	return places, ReachPlaces
}

// routers says where a report goes: not to where other listeners are, who of the old versions
// would keep quiet then (RFC 4541 § 2.1.1).
func (g *Groups) routers(now Instant, m *membership, places []Place) ([]Place, Reach) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	lan := g.nets[m.net]
	if lan == nil || !lan.asked(now) || now.Before(lan.full) {
		return places, ReachAll
	}
	return lan.appendRouters(now, places), ReachRouters
}

func appendPlace(all []Place, p Place) []Place {
	if slices.Contains(all, p) {
		return all
	}
	return append(all, p)
}

func (l *groupLAN) appendRouters(now Instant, places []Place) []Place {
	for r, until := range l.routers {
		if now.Before(until) {
			places = appendPlace(places, r.place)
		}
	}
	return places
}

// asked says whether somebody asks who listens.
func (l *groupLAN) asked(now Instant) bool { return l.queried != 0 && now.Sub(l.queried) < querierAge }

// known returns who was there before has been asked twice, and has had the time to answer;
// 0 is nobody.
func (l *groupLAN) known(now Instant) Instant {
	if l.began != 0 && !now.Before(l.over) {
		return l.last
	}
	return l.before
}

// lan returns what is known of a LAN, which from now on is something; nil if there is no room.
func (g *Groups) lan(net groupNet) *groupLAN {
	l := g.nets[net]
	switch {
	case l != nil:
		return l
	case len(g.nets) >= maxGroupNets && net.vlans != 0:
		return nil
	case g.nets == nil:
		g.nets, g.at, g.stations = make(map[groupNet]*groupLAN), make(map[Place]int), make(map[MAC]int)
	}
	l = &groupLAN{routers: make(map[listener]Instant), groups: make(map[groupAddress]*group)}
	g.nets[net] = l
	return l
}

// router takes what a router says.
func (g *Groups) router(now Instant, from listener, m *membership) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lan(m.net)
	if l == nil {
		return
	}
	g.addRouter(l, from, now.Add(querierAge))
	if m.speaks != speaksQuery {
		return
	}
	if m.specific {
		if x := l.groups[m.group]; x != nil && m.lowers {
			x.ask(now, time.Duration(m.robust)*m.wait+leaveSlack)
		}
		return
	}
	if !l.asked(now) {
		l.before, l.last, l.began = 0, 0, 0
	}
	l.queried = now
	switch {
	case l.began != 0 && now.Before(l.over):
		return
	case l.began != 0:
		l.before, l.last = l.last, l.began
	}
	l.began, l.over = now, now.Add(m.wait+answerSlack)
}

// addRouter notes that somebody is a router until some time.
func (g *Groups) addRouter(l *groupLAN, who listener, until Instant) {
	if _, known := l.routers[who]; !known && len(l.routers) >= maxGroupRouters || !g.join(l.routers, who, until) {
		l.full = max(l.full, until)
	}
}

// join notes that somebody listens, or is a router, until some time, and says whether that is
// so; false is that there is no room.
func (g *Groups) join(all map[listener]Instant, who listener, until Instant) bool {
	old, known := all[who]
	if !known {
		if !g.room(who.place) {
			return false
		}
		g.listeners++
		g.at[who.place]++
		g.stations[who.mac]++
	}
	all[who] = max(old, until)
	return true
}

// room says whether there is room for another listener at place p.
func (g *Groups) room(p Place) bool {
	return g.listeners < maxListeners && g.at[p] < maxPlaceListeners
}

// leave forgets a listener or router.
func (g *Groups) leave(all map[listener]Instant, who listener) {
	delete(all, who)
	g.listeners--
	if g.at[who.place]--; g.at[who.place] == 0 {
		delete(g.at, who.place)
	}
	if g.stations[who.mac]--; g.stations[who.mac] == 0 {
		delete(g.stations, who.mac)
	}
}

// report takes a report of a station at a place, and says whether that is news.
func (g *Groups) report(now Instant, from Place, src MAC, m *membership) (news bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lan(m.net)
	if l == nil {
		return false
	}
	m.each(func(a groupAddress) {
		x := l.groups[a]
		if x == nil {
			if g.groups >= maxGroups || !g.room(from) {
				return
			}
			x = &group{listeners: make(map[listener]Instant)}
			l.groups[a] = x
			g.groups++
		}
		news = news || x.listeners[listener{from, src}].Sub(now) < listenerAge/4
		g.listen(now, x, listener{from, src}, now.Add(listenerAge))
	})
	return news
}

// listen notes that somebody listens to a group until some time.
func (g *Groups) listen(now Instant, x *group, who listener, until Instant) {
	x.used.Store(int64(now))
	if !g.join(x.listeners, who, until) {
		x.full = max(x.full, until)
		return
	}
	if x.next = min(x.next, until); len(x.listeners) == 1 {
		x.next = until
	}
	x.places = appendPlace(x.places, who.place)
}

// ask notes that those who listen are asked whether they do: who doesn't answer in time doesn't.
func (x *group) ask(now Instant, within time.Duration) {
	if x.asked != 0 && now.Sub(x.asked) < lowerAgain {
		return
	}
	x.asked = now
	for who, until := range x.listeners {
		x.listeners[who] = min(until, now.Add(within))
	}
	x.next = min(x.next, now.Add(within))
}

// settle forgets those listeners of a group whose time is over.
func (g *Groups) settle(now Instant, m *membership) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.nets[m.net]; l != nil && l.groups[m.group] != nil {
		g.sweep(now, l.groups[m.group])
	}
}

func (g *Groups) sweep(now Instant, x *group) {
	x.places, x.next = x.places[:0], now.Add(listenerAge)
	for who, until := range x.listeners {
		if !now.Before(until) {
			g.leave(x.listeners, who)
			continue
		}
		x.next = min(x.next, until)
		x.places = appendPlace(x.places, who.place)
	}
	slices.Sort(x.places)
}
