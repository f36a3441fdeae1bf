package discovery

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"farlan/overlay"
)

// MaxFlows is how many flows an agent tells, and to how many agents it tells what it
// sends.
const MaxFlows = 64

// A Flow is what a station behind the origin of a KindTraffic record sends to one
// behind another agent.
type Flow struct {
	From, To overlay.MAC
	Agent    Brief
	Rate     int64 // bits of Ethernet frames a second
}

// A Sum is what an agent sends to another in all.
type Sum struct {
	Agent Brief
	Rate  int64
}

// Traffic is the body of a KindTraffic record: what an agent's stations send, most of
// it. Each flow is told by the sending agent alone. It is:
//
//	0     number of flows
//	1     length of a flow, at least 22; what is beyond is skipped
//	2     number of sums
//	3     length of a sum, at least 10; what is beyond is skipped
//	4–    flows, ascending by stations: from, 6 bytes; to, 6; agent's brief name, 8; rate,
//	      2, as in Links
//	      sums, ascending by agent: brief name, 8 bytes; rate, 2
//	      anything further is ignored: later versions append fields here
type Traffic struct {
	Flows []Flow
	Sums  []Sum
}

const (
	trafficHead = 4
	flowRowLen  = 22
	sumRowLen   = 10
)

// Append appends t's encoding to b. What is told, at most MaxFlows of each, may be in
// any order; of equal ones all but one are left out.
func (t Traffic) Append(b []byte) ([]byte, error) {
	flows := slices.SortedFunc(slices.Values(t.Flows), Flow.compare)
	flows = slices.CompactFunc(flows, func(a, b Flow) bool { return a.compare(b) == 0 })
	sums := slices.SortedFunc(slices.Values(t.Sums), func(a, b Sum) int { return cmp.Compare(a.Agent, b.Agent) })
	sums = slices.CompactFunc(sums, func(a, b Sum) bool { return a.Agent == b.Agent })
	if len(flows) > MaxFlows || len(sums) > MaxFlows {
		return nil, fmt.Errorf("%d flows to %d agents, at most %d of each can be told", len(flows), len(sums), MaxFlows)
	}
	b = append(b, byte(len(flows)), flowRowLen, byte(len(sums)), sumRowLen)
	for _, f := range flows {
		b = append(append(b, f.From[:]...), f.To[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(f.Agent))
		b = binary.BigEndian.AppendUint16(b, max(rateCode(f.Rate), 1))
	}
	for _, s := range sums {
		b = binary.BigEndian.AppendUint64(b, uint64(s.Agent))
		b = binary.BigEndian.AppendUint16(b, max(rateCode(s.Rate), 1))
	}
	return b, nil
}

func (f Flow) compare(o Flow) int { return cmp.Or(f.From.Compare(o.From), f.To.Compare(o.To)) }

// ParseTraffic reads the encoding of Traffic. Errors: what can't be, as a flow to a
// group of stations, a rate beyond MaxRate, or flows out of order.
func ParseTraffic(b []byte) (t Traffic, err error) {
	if len(b) < trafficHead {
		return t, errShort
	}
	flows, flow, sums, sum := int(b[0]), int(b[1]), int(b[2]), int(b[3])
	b = b[trafficHead:]
	switch {
	case flows > MaxFlows || sums > MaxFlows:
		return t, fmt.Errorf("%d flows to %d agents, at most %d of each are taken", flows, sums, MaxFlows)
	case flow < flowRowLen || sum < sumRowLen || len(b) < flows*flow+sums*sum:
		return t, errShort
	}
	for ; len(t.Flows) < flows; b = b[flow:] {
		f := Flow{overlay.MAC(b[:6]), overlay.MAC(b[6:12]), Brief(binary.BigEndian.Uint64(b[12:])), parseRate(b[20:])}
		last := len(t.Flows) - 1
		if f.From.Group() || f.To.Group() || f.Rate == 0 || f.Rate > topRate || last >= 0 && t.Flows[last].compare(f) >= 0 {
			return Traffic{}, errors.New("a flow makes no sense")
		}
		t.Flows = append(t.Flows, f)
	}
	for ; len(t.Sums) < sums; b = b[sum:] {
		s := Sum{Brief(binary.BigEndian.Uint64(b)), parseRate(b[8:])}
		last := len(t.Sums) - 1
		if s.Rate == 0 || s.Rate > topRate || last >= 0 && t.Sums[last].Agent >= s.Agent {
			return Traffic{}, errors.New("a sum of flows makes no sense")
		}
		t.Sums = append(t.Sums, s)
	}
	return t, nil
}

// names says whether t tells of traffic to an agent.
func (t Traffic) names(b Brief) bool {
	return slices.ContainsFunc(t.Flows, func(f Flow) bool { return f.Agent == b }) ||
		slices.ContainsFunc(t.Sums, func(s Sum) bool { return s.Agent == b })
}

// A TrafficTelling decides when an agent tells its traffic anew. The zero value has told
// that there is none. Not safe for concurrent use.
type TrafficTelling struct {
	Told  Traffic
	At    overlay.Instant // then; 0: never
	paid  pace
	again bool
}

const (
	trafficGap   = 5 * time.Second
	trafficBurst = 3
	awayFlow     = 4       // 1 of it
	leastFlow    = 200_000 // bits a second: less isn't worth a record
)

// Due says whether to tell t now; agents is how many tell, this one included.
func (k *TrafficTelling) Due(now overlay.Instant, t Traffic, agents int) bool {
	switch {
	case k.again:
		return true
	case now.Sub(k.At) < trafficGap || !k.paid.allow(now, max(time.Duration(agents)*tellShare, trafficGap), trafficBurst):
		return false
	case len(k.Told.Flows) > 0 && now.Sub(k.At) >= max(tellRenew, time.Duration(agents)*tellShare*5):
		return true
	}
	is, was := make(map[Flow]int64), make(map[Flow]int64)
	for _, f := range t.Flows {
		is[Flow{From: f.From, To: f.To, Agent: f.Agent}] = f.Rate
	}
	for _, f := range k.Told.Flows {
		was[Flow{From: f.From, To: f.To, Agent: f.Agent}] = f.Rate
		if off(is[Flow{From: f.From, To: f.To, Agent: f.Agent}], f.Rate) {
			return true
		}
	}
	for f, rate := range is {
		if off(rate, was[f]) {
			return true
		}
	}
	return false
}

// off says whether two rates of a flow differ by what is worth telling.
func off(a, b int64) bool { return max(a-b, b-a) >= leastFlow && apart(a, b, awayFlow) }

// Tell notes what is told now.
func (k *TrafficTelling) Tell(now overlay.Instant, t Traffic, agents int) {
	k.Told, k.At, k.again = t, now, false
	k.paid.pay(now, max(time.Duration(agents)*tellShare, trafficGap), trafficBurst)
}

// Again says that what is must be told again, also if it is nothing.
func (k *TrafficTelling) Again() { k.again = true }

// Traffic returns what an agent tells of its stations' traffic, and when by its clock.
func (s *Store) Traffic(id overlay.AgentID) (t Traffic, at overlay.Instant, ok bool) {
	e := s.entry(key{id, KindTraffic})
	if e == nil {
		return Traffic{}, 0, false
	}
	t, err := ParseTraffic(e.record.Body)
	return t, e.record.made(), err == nil
}
