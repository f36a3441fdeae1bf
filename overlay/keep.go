package overlay

import (
	"sync"
	"sync/atomic"
	"time"
)

// Keep says why a station isn't lost to whoever sends by its address elsewhere. The values are
// on the wire.
type Keep uint8

// A station that is on a physical LAN, and was heard there in keptFor, is lost only to a place
// where there is one too, or where it announces itself, as a machine does that moves. One that
// is vital is not lost to that either, in StationAge: machines that give addresses or routes
// don't move, and whoever is taken for one hears all.
const (
	KeepLAN       Keep = 1 << iota // it is on a physical LAN
	KeepVital                      // where it gives addresses or routes
	KeepAnnounced                  // it said itself that it is there

	keeps = KeepLAN | KeepVital | KeepAnnounced
)

const keptFor = 10 * time.Second

// goesBefore says whether a station's own agent, which answers a claim, is right against one
// that has it with other.
func (k Keep) goesBefore(other Keep) bool {
	return k&KeepLAN != 0 && other&KeepLAN == 0 && (k&KeepVital != 0 || other&KeepAnnounced == 0)
}

// kept says whether the row isn't lost to frames from another place with such a trust.
func (e *station) kept(now Instant, trust Trust, announces bool) bool {
	k := Keep(e.keep.Load())
	if k&KeepLAN == 0 || trust&TrustStations != 0 {
		return false
	}
	silent := now.Sub(Instant(e.seen.Load()))
	return k&KeepVital != 0 && silent < StationAge || !announces && silent < keptFor
}

// keptFrom says whether the row isn't lost to a claim.
func (e *station) keptFrom(now Instant, c Claim) bool {
	trust := Trust(0)
	if c.Keep&KeepLAN != 0 {
		trust = TrustStations
	}
	return e.kept(now, trust, c.Keep&KeepAnnounced != 0)
}

// settle notes how the station came to place p.
func (e *station) settle(p Place, trust Trust, announces bool) {
	k := Keep(0)
	if _, here := p.Port(); here && trust&TrustStations != 0 {
		k |= KeepLAN
	}
	if announces {
		k |= KeepAnnounced
	}
	e.keep.Store(uint32(k))
}

// Keep returns why m isn't lost.
func (t *Stations) Keep(m MAC) Keep {
	if e := t.find(m); e != nil {
		return Keep(e.keep.Load())
	}
	return 0
}

// setVital notes that m gives addresses or routes, if it is on a LAN that a port of this agent
// is attached to; true if that is news.
func (t *Stations) setVital(m MAC) bool {
	e := t.find(m)
	if e == nil {
		return false
	}
	_, here := Place(e.place.Load()).Port()
	k := e.keep.Load()
	return here && Keep(k)&(KeepLAN|KeepVital) == KeepLAN && e.keep.CompareAndSwap(k, k|uint32(KeepVital))
}

// vital says whether m gives addresses or routes on a LAN, where it was heard lately.
func (t *Stations) vital(now Instant, m MAC) bool {
	e := t.find(m)
	return e != nil && Keep(e.keep.Load())&KeepVital != 0 && now.Sub(Instant(e.seen.Load())) < StationAge
}

// How many stations are remembered of each place. Of those that come when there is no room
// nothing is learned; nobody's row makes room for them, so who invents addresses harms himself.
const (
	// PortStations is of a port that isn't attached to a LAN: frames of others are dropped.
	PortStations = 1024
	// AgentStations is of a LAN, and of another agent, whatever it claims. Frames for more
	// than that are flooded.
	AgentStations = 4096
	// farStations is of all other agents together: those here always have room.
	farStations = MaxStations * 3 / 4
)

// quotas counts stations by their places. Safe for concurrent use; the zero one is ready.
type quotas struct {
	far atomic.Int64 // of all agents
	of  sync.Map     // Place → *atomic.Int64
}

func (q *quotas) at(p Place) *atomic.Int64 {
	if n, ok := q.of.Load(p); ok {
		return n.(*atomic.Int64)
	}
	n, _ := q.of.LoadOrStore(p, new(atomic.Int64))
	return n.(*atomic.Int64)
}

func (q *quotas) add(p Place, n int64) {
	if p == 0 {
		return
	}
	q.at(p).Add(n)
	if _, far := p.Agent(); far {
		q.far.Add(n)
	}
}

// room says whether there is room for another station at place p.
func (t *Stations) room(p Place, trust Trust) bool {
	most := int64(AgentStations)
	if _, here := p.Port(); here && trust&TrustStations == 0 {
		most = PortStations
	} else if !here && t.places.far.Load() >= farStations {
		return false
	}
	return t.places.at(p).Load() < most && t.count.Load() < MaxStations
}
