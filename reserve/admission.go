package reserve

import "farlan/overlay"

// Of what an egress carries, reservations may be given up to newShare thousandths, and keep up
// to mostShare when the egress turns out to carry less than it did: in between nothing is
// admitted, and beyond it the newest are given back. The rest is for ordinary traffic, and for
// what reserves: messages, probes, the control connections.
const (
	newShare  = 700
	mostShare = 900
)

// A Quota is how much one owner, peer or station may have at one egress.
type Quota struct {
	Count int  // of segments
	Rate  Rate // of all of them; 0: no less than the egress has
}

// Quotas are those of each owner, peer and station. Owners and stations are as the peer names
// them that asks, so those of two peers never count together: nobody can use up another's.
type Quotas struct {
	Owner, Peer, Station Quota
}

var defaultQuotas = Quotas{Owner: Quota{Count: 32}, Peer: Quota{Count: 32}, Station: Quota{Count: 8}}

// orDefault fills in the counts that aren't set.
func (q Quotas) orDefault() Quotas {
	for _, x := range []struct{ is, or *Quota }{
		{&q.Owner, &defaultQuotas.Owner}, {&q.Peer, &defaultQuotas.Peer}, {&q.Station, &defaultQuotas.Station},
	} {
		if x.is.Count <= 0 {
			x.is.Count = x.or.Count
		}
	}
	return q
}

// A share is what one segment takes, or would take, of an egress.
type share struct {
	egress   string // "": it isn't known which, so it counts at each
	peer     overlay.AgentID
	owner    string
	stations [2]overlay.MAC
	rate     Rate
}

// Reservable returns how much new reservations may take all together of what an egress carries.
func Reservable(capacity Rate) Rate { return capacity * newShare / 1000 }

// room returns how much of want may be had beside what is held, at an egress that carries so
// much. If that is less than is wanted, why says what stands in the way.
func (q Quotas) room(capacity Rate, held []share, want share) (free Rate, why Why) {
	free, why = Reservable(capacity), Full
	var owner, peer, total use
	var station [2]use
	for _, h := range held {
		if h.egress != want.egress && h.egress != "" {
			continue
		}
		total.add(h.rate)
		if h.peer != want.peer {
			continue
		}
		peer.add(h.rate)
		if h.owner == want.owner {
			owner.add(h.rate)
		}
		for i, m := range want.stations {
			if m != (overlay.MAC{}) && (h.stations[0] == m || h.stations[1] == m) {
				station[i].add(h.rate)
			}
		}
	}
	free = max(free-total.rate, 0)
	limit := func(u use, by Quota) {
		left := free
		if by.Rate > 0 {
			left = max(by.Rate-u.rate, 0)
		}
		if u.count >= by.Count {
			left = 0
		}
		if left < free {
			free, why = left, OverQuota
		}
	}
	limit(owner, q.Owner)
	limit(peer, q.Peer)
	for i, m := range want.stations {
		if m != (overlay.MAC{}) {
			limit(station[i], q.Station)
		}
	}
	if free >= want.rate {
		return free, Nothing
	}
	return free, why
}

type use struct {
	count int
	rate  Rate
}

func (u *use) add(r Rate) { u.count, u.rate = u.count+1, u.rate+r }

// headers is what a datagram of underlay packets spends on headers, for the larger IPv6 and
// one small frame's start, and datagram what it is counted on: paths carry 1,280 to 1,500.
const (
	headers  = 40 + 8 + overlay.HeaderLen + overlay.TagLen + 16
	datagram = 1400
)

// Outer returns what frames of a rate of inner Ethernet bits take of the underlay by a path
// with some relays, in bits of IP packets: a little more than full frames need.
func Outer(inner Rate, relays int) Rate {
	return (inner*datagram + room(relays) - 1) / room(relays)
}

// Inner returns what rate of frames passes where the underlay carries so much.
func Inner(outer Rate, relays int) Rate { return outer * room(relays) / datagram }

func room(relays int) Rate {
	spent := headers
	if relays > 0 {
		spent += overlay.RelayOverhead(min(relays+2, overlay.MaxLabels))
	}
	return Rate(datagram - spent)
}
