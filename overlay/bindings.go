package overlay

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// MaxBindings bounds the addresses whose machines are known, and stationBindings those of
	// one machine, placeBindings those at one place. What comes when there is no room isn't
	// learned: who asks for it asks all.
	MaxBindings     = 16384
	stationBindings = 16
	placeBindings   = 4096
	// bindingAge is how long is remembered where an address was said to be. It is only of
	// whom to ask.
	bindingAge = time.Hour
	// answerFor is how long after its owner said so an address is answered for, no longer than
	// machines believe it themselves (REACHABLE_TIME, RFC 4861 § 10).
	answerFor = 30 * time.Second
	// ownerTime is how long an owner that is asked may take to say where it is: then all are.
	// Machines ask again after a second (RETRANS_TIMER, RFC 4861 § 10).
	ownerTime = 800 * time.Millisecond
	// helpsFor is how long a machine doesn't ask again that was helped by an answer: they ask
	// again after a second if not, and believe it for 15 s at least if so.
	helpsFor = 10 * time.Second
	// contestTime is how long after two machines said that an address is theirs all are asked.
	contestTime = 10 * time.Second
	// maxLease is the longest that a lease is taken for one.
	maxLease = 24 * time.Hour

	// askTimes is how often all are asked for one address that nobody answers for, by all
	// machines at this agent together, and askAgain how long after that once more each time; of
	// maxAsked addresses at a time. It begins anew when nobody asked for askedFor. Machines
	// ask each second, three times: those that start say so, and are known then.
	askTimes = 2
	askAgain = 3 * time.Second
	maxAsked = 1024
	askedFor = 10 * time.Second
)

// An address is one of a VLAN.
type address struct {
	ip    netip.Addr
	vlans uint32
}

// A binding says which machine has an address, as far as it is known.
type binding struct {
	mac       MAC
	place     Place
	seen      Instant // when it said so last
	asked     Instant // when it was asked first since, 0: it wasn't
	helped    MAC     // who got the last answer here
	answered  Instant // and when
	contested Instant // when another one said last that it has it, 0 never
	leased    Instant // until when it has it by a DHCP server's word, 0: it hasn't
	router    bool    // as its advertisement said
	advert    bool    // there was one
}

// Bindings are the addresses of machines, as they and DHCP servers say. The zero Bindings is
// ready. Safe for concurrent use.
type Bindings struct {
	mu      sync.Mutex
	at      map[address]*binding
	of      map[MAC]int
	from    map[Place]int
	routers map[address]Instant // that leases name, and when last
	asked   map[address]*asked
}

type asked struct {
	times       int
	allow, last Instant // when all were asked last, and when somebody wanted it
}

// hear notes that a machine at a place has an address.
func (t *Bindings) hear(now Instant, from Place, h *Heard) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := address{h.IP, h.VLANs}
	delete(t.asked, a)
	b := t.at[a]
	switch {
	case b == nil:
		if b = t.add(a, h.MAC, from); b == nil {
			return
		}
	case b.mac != h.MAC && now.Before(b.leased):
		b.contested = now
		return
	case b.mac != h.MAC:
		t.remove(a, b)
		if b = t.add(a, h.MAC, from); b == nil {
			return
		}
		b.contested = now
	case b.place != from:
		t.from[b.place]--
		t.from[from]++
		b.place = from
	}
	b.seen, b.asked, b.helped = now, 0, MAC{}
	if h.Said == SaidNeighbour && !h.Target.IsValid() {
		b.router, b.advert = h.Router, true
	}
}

// probe notes that a machine asks who has an address whether it still is there. One that is gone,
// as it got another card, say, isn't answered for.
func (t *Bindings) probe(now Instant, owner MAC, h *Heard) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.at[address{h.Target, h.VLANs}]; b != nil && b.mac == owner && b.asked == 0 {
		b.asked = now
	}
}

// add returns a new binding, nil if there is no room.
func (t *Bindings) add(a address, m MAC, from Place) *binding {
	if t.at == nil {
		t.at, t.of, t.from = make(map[address]*binding), make(map[MAC]int), make(map[Place]int)
	}
	if len(t.at) >= MaxBindings || t.of[m] >= stationBindings || t.from[from] >= placeBindings {
		return nil
	}
	t.of[m]++
	t.from[from]++
	b := &binding{mac: m, place: from}
	t.at[a] = b
	return b
}

func (t *Bindings) remove(a address, b *binding) {
	delete(t.at, a)
	if t.of[b.mac]--; t.of[b.mac] <= 0 {
		delete(t.of, b.mac)
	}
	if t.from[b.place]--; t.from[b.place] <= 0 {
		delete(t.from, b.place)
	}
}

// lease notes what a DHCP server that may has given, at a place with such a trust.
func (t *Bindings) lease(now Instant, h *Heard, trust Trust) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := h.Lease
	if l.Router.IsValid() && trust&TrustStations != 0 {
		t.noteRouter(now, address{l.Router, h.VLANs})
	}
	a := address{l.IP, h.VLANs}
	b := t.at[a]
	if b != nil && b.mac != l.Client {
		t.remove(a, b)
		b = nil
	}
	if b == nil {
		if b = t.add(a, l.Client, 0); b == nil {
			return
		}
	}
	b.leased = now.Add(min(time.Duration(l.Seconds)*time.Second, maxLease))
}

// maxRouters is how many routers leases of a LAN may name.
const maxRouters = 64

func (t *Bindings) noteRouter(now Instant, a address) {
	if t.routers == nil {
		t.routers = make(map[address]Instant)
	}
	if _, ok := t.routers[a]; ok || len(t.routers) < maxRouters {
		t.routers[a] = now
	}
}

// isRouter says whether leases name the address that h says as a router's.
func (t *Bindings) isRouter(h *Heard) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.routers[address{h.IP, h.VLANs}]
	return ok
}

// contradicts says whether h, which doesn't come from a LAN, says of an address that it is
// another machine's than the one that has it by a lease, or that gives addresses or routes on a
// LAN; or that it has the address that leases of a LAN name as the router's. Others' addresses
// may move.
func (t *Bindings) contradicts(now Instant, h *Heard, stations *Stations) bool {
	if !h.IP.IsValid() {
		return false
	}
	t.mu.Lock()
	a := address{h.IP, h.VLANs}
	b := t.at[a]
	_, router := t.routers[a]
	if router || b == nil || b.mac == h.MAC {
		t.mu.Unlock()
		return router && (b == nil || b.mac != h.MAC)
	}
	leased, owner := now.Before(b.leased), b.mac
	t.mu.Unlock()
	return leased || stations.vital(now, owner)
}

// Forget forgets where addresses at a place are: an agent that is gone.
func (t *Bindings) Forget(p Place) {
	t.removeAll(func(_ Instant, b *binding) bool { return b.place == p && b.leased == 0 }, 0)
}

// Expire forgets what is too old.
func (t *Bindings) Expire(now Instant) {
	t.removeAll(func(now Instant, b *binding) bool { return now.Sub(b.seen) >= bindingAge && !now.Before(b.leased) }, now)
	t.mu.Lock()
	defer t.mu.Unlock()
	for a, seen := range t.routers {
		if now.Sub(seen) >= maxLease {
			delete(t.routers, a)
		}
	}
	t.expireAsked(now)
}

func (t *Bindings) expireAsked(now Instant) {
	for a, q := range t.asked {
		if now.Sub(q.last) >= askedFor {
			delete(t.asked, a)
		}
	}
}

func (t *Bindings) removeAll(gone func(now Instant, b *binding) bool, now Instant) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for a, b := range t.at {
		if gone(now, b) {
			t.remove(a, b)
		}
	}
}

// Len returns how many addresses are known.
func (t *Bindings) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.at)
}

// mayAskAll says whether all may be asked for an address again.
func (t *Bindings) mayAskAll(now Instant, a address) bool {
	q := t.asked[a]
	if q == nil {
		if len(t.asked) >= maxAsked {
			t.expireAsked(now)
			if len(t.asked) >= maxAsked {
				return true // floods have bounds of their own
			}
		}
		if t.asked == nil {
			t.asked = make(map[address]*asked)
		}
		q = new(asked)
		t.asked[a] = q
	}
	if now.Sub(q.last) >= askedFor {
		q.times = 0
	}
	q.last = now
	if q.times >= askTimes && now.Sub(q.allow) < askAgain {
		return false
	}
	q.times, q.allow = q.times+1, now
	return true
}
