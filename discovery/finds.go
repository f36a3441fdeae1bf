package discovery

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// maxFinds is how many agents that the DHT named wait to be dialled, as many as a
	// server of the DHT holds. Beyond it, one picked at random makes room for the next:
	// whoever floods the DHT can't keep out all others, as each search names them again.
	maxFinds = 16384
	// findPicks is how many are looked at to find one whose host may be dialled.
	findPicks = 64
	// maxFindAddrs is how many addresses of one are kept.
	maxFindAddrs = 8
	// findPatience is how long the record of one who was named may take to come another
	// way before it is dialled, unless this agent is alone.
	findPatience = 3 * time.Second
	// One who didn't answer is dialled again after findAgain, then twice as long, up to
	// findMost.
	findAgain = 4 * time.Second
	findMost  = 4 * time.Minute
	// A host is dialled hostBurst times at once and then each hostEvery, whoever is said
	// to be there: it may be a victim's.
	hostBurst = 4
	hostEvery = 10 * time.Second
	// maxHosts is how many hosts that were dialled are remembered; beyond it, all are
	// forgotten.
	maxHosts = 4096
)

// Finds decides whom to dial of those that the DHT named and of whom nothing else is
// known. Any member can put there what it likes, so they are taken for strangers: the
// pick is random, and bounded. Not safe for concurrent use.
type Finds struct {
	rand  *rand.Rand
	all   []find
	fresh int                     // so many of all, the first, were never dialled
	place map[overlay.AgentID]int // in all
	hosts map[netip.Addr]pace
}

type find struct {
	id    overlay.AgentID
	addrs []netip.AddrPort
	since overlay.Instant // when it was named first
	tries int
	again overlay.Instant // not to be dialled before
}

// NewFinds returns finds that know of nobody. seed makes the random choices; agents
// should use different ones.
func NewFinds(seed uint64) *Finds {
	return &Finds{
		rand: rand.New(rand.NewPCG(seed, 1)), place: make(map[overlay.AgentID]int), hosts: make(map[netip.Addr]pace),
	}
}

// Found takes an agent that the DHT named, and where it is said to be. addrs is copied.
func (f *Finds) Found(now overlay.Instant, id overlay.AgentID, addrs []netip.AddrPort) {
	addrs = slices.Clone(addrs[:min(len(addrs), maxFindAddrs)])
	if i, ok := f.place[id]; ok {
		f.all[i].addrs = addrs
		return
	}
	if len(f.all) == maxFinds {
		f.Forget(f.all[f.rand.IntN(maxFinds)].id)
	}
	f.all = append(f.all, find{id: id, addrs: addrs, since: now})
	f.place[id] = len(f.all) - 1
	f.swap(len(f.all)-1, f.fresh)
	f.fresh++
}

// swap exchanges the places of two.
func (f *Finds) swap(i, j int) {
	f.all[i], f.all[j] = f.all[j], f.all[i]
	f.place[f.all[i].id], f.place[f.all[j].id] = i, j
}

// Forget drops an agent: it is connected, or its record has come.
func (f *Finds) Forget(id overlay.AgentID) {
	i, ok := f.place[id]
	if !ok {
		return
	}
	if i < f.fresh {
		f.fresh--
		f.swap(i, f.fresh)
		i = f.fresh
	}
	last := len(f.all) - 1
	f.swap(i, last)
	delete(f.place, id)
	f.all[last] = find{}
	f.all = f.all[:last]
}

// Len returns how many wait.
func (f *Finds) Len() int { return len(f.all) }

// Next returns whom to dial now, and where; ok is false if nobody is due: one picked at
// random of those who were never dialled, then one of the others. alone says that nobody
// is connected. The caller calls Forget when the agent has answered; until then it counts
// as one that doesn't.
func (f *Finds) Next(now overlay.Instant, alone bool) (id overlay.AgentID, addrs []netip.AddrPort, ok bool) {
	for range findPicks {
		i := f.pick(now, alone)
		if i < 0 {
			break
		}
		at := &f.all[i]
		at.again = now.Add(min(findAgain<<min(at.tries, 10), findMost))
		at.tries++
		id, addrs = at.id, f.allowed(now, at.addrs)
		if i < f.fresh {
			f.fresh--
			f.swap(i, f.fresh)
		}
		if len(addrs) > 0 {
			return id, addrs, true
		}
	}
	return overlay.AgentID{}, nil, false
}

// pick returns the place of one who is due, -1 if nobody is.
func (f *Finds) pick(now overlay.Instant, alone bool) int {
	for range min(f.fresh, findPicks) {
		if i := f.rand.IntN(f.fresh); alone || now.Sub(f.all[i].since) >= findPatience {
			return i
		}
	}
	if old := len(f.all) - f.fresh; old > 0 {
		from := f.rand.IntN(old)
		for i := range old {
			if at := f.fresh + (from+i)%old; !now.Before(f.all[at].again) {
				return at
			}
		}
	}
	return -1
}

// allowed returns the addresses of hosts that may be dialled now.
func (f *Finds) allowed(now overlay.Instant, addrs []netip.AddrPort) (out []netip.AddrPort) {
	for _, a := range addrs {
		host := f.hosts[a.Addr()]
		if !host.allow(now, hostEvery, hostBurst) {
			continue
		}
		if len(f.hosts) >= maxHosts {
			clear(f.hosts)
		}
		host.pay(now, hostEvery, hostBurst)
		f.hosts[a.Addr()] = host
		out = append(out, a)
	}
	return out
}
