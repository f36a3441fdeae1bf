package discovery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// Limits of what an agent tells of its links.
const (
	// MaxLinks is how many links an agent tells.
	MaxLinks = 1024
	// MaxRTT is the longest round trip that is told, and taken.
	MaxRTT = time.Minute
	// MaxRate is the highest rate that is told, and taken, in bits a second.
	MaxRate = 1e13
	// minTold is the smallest MTU that is taken: what every IPv4 host must
	// reassemble (RFC 791 § 3.1).
	minTold = 576
)

// A Link is an agent that the origin of a KindLinks record exchanges datagrams
// with, directly unless it is Relayed, what the origin has measured of the way to it, and
// what it decided of it.
type Link struct {
	Peer overlay.AgentID
	measure.Pair
	Intent
}

// A Brief names an agent by the first eight bytes of its id. Nobody can make a key
// whose brief is another agent's: that takes 2^63 tries on average.
type Brief uint64

// BriefOf returns an agent's brief name. Briefs are in the order of the ids.
func BriefOf(id overlay.AgentID) Brief { return Brief(binary.BigEndian.Uint64(id[:])) }

// A Row is a Link as it is told: by the peer's brief name.
type Row struct {
	Peer Brief
	measure.Pair
	Intent
}

// Links is the body of a KindLinks record: what an agent tells of the map. It is,
// numbers big endian:
//
//	0–1   number of rows
//	2     length of a row, at least 26; what is beyond 30 is skipped
//	3     length of the agent's own facts, at least 5; what is beyond 14 is skipped
//	4     how the rates up (low half) and down (high half) are known
//	5–6   rate up; 7–8 rate down
//	9–17  what the agent relays: intent.go
//	      rows by ascending peer:
//	        0–7   peer's brief name
//	        8     flags: 1 loss is known, 2 the capacity is a lower bound, 28 how it is
//	              known (as the sources are numbered), 32 it is relayed, 64 and 128 who
//	              wants the link (intent.go)
//	        9–10  round trip
//	        11    its age
//	        12    jitter; 13 queue on the way there
//	        14    loss; 15 its lower and 16 its upper bound
//	        17–18 capacity; 19 and 20 how far below and above it may be, of 1,024
//	        21    its age
//	        22–23 available
//	        24–25 MTU
//	        26–29 what is intended with the link: intent.go
//
// Two bytes hold a squeezed number (squeeze.go) with 9 bits of mantissa, one byte one
// with 3, but for the MTU, which is plain. Times are microseconds, ages tenths of a
// second before the record was made, rates kbit/s, loss 1 of 2^20. Zero is unknown.
// Later versions append fields to rows or facts.
type Links struct {
	Facts
	Rows []Row // ascending by peer
}

const (
	linksHead   = 4
	leastFacts  = 5 // as earlier versions tell
	factsLen    = leastFacts + relayingLen
	leastRowLen = 26
	rowLen      = leastRowLen + intentLen

	rowLoss    = 1
	rowBound   = 2
	rowSources = 28
	rowRelayed = 32

	lossUnit   = 1 << 20
	marginUnit = 1 << 10
	mostMargin = 1 << 20
)

// What the limits are after they were squeezed.
var (
	topRTT  = time.Duration(expand(squeeze(uint64(MaxRTT.Microseconds()), fine), fine)) * time.Microsecond
	topAge  = time.Duration(expand(squeeze(uint64(RecordLifetime/(100*time.Millisecond)), coarse), coarse)) * 100 * time.Millisecond
	topRate = int64(expand(squeeze(MaxRate/1000, fine), fine)) * 1000
	topCost = time.Duration(expand(squeeze(uint64(MaxCost.Microseconds()), coarse), coarse)) * time.Microsecond
)

var errRow = errors.New("a row makes no sense")

// AppendLinks appends what an agent tells at an instant to b. The links may be in any
// order; what is beyond a limit is told as the limit. Errors: too many links, or a
// peer twice.
func AppendLinks(b []byte, at overlay.Instant, own Facts, links []Link) ([]byte, error) {
	if len(links) > MaxLinks {
		return nil, fmt.Errorf("%d links, at most %d can be told", len(links), MaxLinks)
	}
	links = slices.SortedFunc(slices.Values(links), func(a, b Link) int { return a.Peer.Compare(b.Peer) })
	b = binary.BigEndian.AppendUint16(b, uint16(len(links)))
	b = append(b, rowLen, factsLen, byte(own.Access.UpSource&15|own.Access.DownSource<<4))
	b = binary.BigEndian.AppendUint16(b, rateCode(own.Access.Up))
	b = binary.BigEndian.AppendUint16(b, rateCode(own.Access.Down))
	b = own.appendRelaying(b)
	for i, l := range links {
		if i > 0 && BriefOf(links[i-1].Peer) == BriefOf(l.Peer) {
			return nil, fmt.Errorf("two links to %s", l.Peer.Short())
		}
		b = binary.BigEndian.AppendUint64(b, uint64(BriefOf(l.Peer)))
		flags := len(b)
		b = appendPair(b, at, l.Pair)
		b[flags] |= l.intentFlags()
		b = l.appendIntent(b)
	}
	return b, nil
}

// appendPair appends a row's fields behind the peer.
func appendPair(b []byte, at overlay.Instant, p measure.Pair) []byte {
	var loss, low, high uint16
	var flags byte
	if p.LossKnown && p.Loss >= 0 {
		flags |= rowLoss
		l := min(max(p.Loss, 0), 1)
		loss, low, high = lossCode(l), lossCode(min(max(p.LossLow, 0), l)), lossCode(max(min(p.LossHigh, 1), l))
	}
	if p.Capacity <= 0 || p.CapacitySource != measure.Passive && p.CapacitySource != measure.Train {
		p.Capacity, p.CapacityBound, p.CapacitySource = 0, false, measure.Unknown
	}
	if p.CapacityBound {
		flags |= rowBound
	}
	if p.Relayed {
		flags |= rowRelayed
	}
	flags |= byte(p.CapacitySource) << 2 & rowSources
	rtt, aged := uint16(0), uint16(0)
	if p.RTTSource == measure.Measured {
		rtt, aged = squeeze(uint64(min(max(p.RTT, time.Microsecond), MaxRTT).Microseconds()), fine), ageCode(at, p.RTTAt)
	}
	b = append(b, flags)
	b = binary.BigEndian.AppendUint16(b, rtt)
	b = append(b, byte(aged), timeCode(p.Jitter), timeCode(p.Queue), byte(loss), byte(low), byte(high))
	b = binary.BigEndian.AppendUint16(b, rateCode(p.Capacity))
	if p.Capacity > 0 {
		b = append(b, marginCode(p.Capacity-p.CapacityLow, p.Capacity), marginCode(p.CapacityHigh-p.Capacity, p.Capacity), byte(ageCode(at, p.CapacityAt)))
	} else {
		b = append(b, 0, 0, 0)
	}
	b = binary.BigEndian.AppendUint16(b, rateCode(p.Available))
	mtu := p.MTU
	if mtu < minTold {
		mtu = 0
	}
	return binary.BigEndian.AppendUint16(b, uint16(min(mtu, math.MaxUint16)))
}

func rateCode(bits int64) uint16 {
	if bits <= 0 {
		return 0
	}
	return squeeze(uint64(max((min(bits, MaxRate)+500)/1000, 1)), fine)
}

func lossCode(f float64) uint16 { return squeeze(uint64(f*lossUnit+0.5), coarse) }

func timeCode(d time.Duration) byte {
	return byte(squeeze(uint64(min(max(d, 0), MaxRTT).Microseconds()), coarse))
}

func ageCode(at, then overlay.Instant) uint16 {
	return squeeze(uint64(min(max(at.Sub(then), 0), RecordLifetime)/(100*time.Millisecond)), coarse)
}

func marginCode(by, of int64) byte {
	return byte(squeeze(uint64(min(max(float64(by), 0)*marginUnit/float64(of)+0.5, mostMargin)), coarse))
}

// ParseLinks reads the encoding of Links that was made at an instant. Errors: what can't
// be, as a rate of a petabit, more loss than all, or rows out of order; the whole is
// refused then.
func ParseLinks(b []byte, at overlay.Instant) (Links, error) {
	if len(b) < linksHead {
		return Links{}, errShort
	}
	n, row, facts := int(binary.BigEndian.Uint16(b)), int(b[2]), int(b[3])
	b = b[linksHead:]
	switch {
	case n > MaxLinks:
		return Links{}, fmt.Errorf("%d links, at most %d are taken", n, MaxLinks)
	case row < leastRowLen || facts < leastFacts || len(b) < facts+n*row:
		return Links{}, errShort
	}
	l := Links{Rows: make([]Row, 0, n)}
	var ok bool
	if l.Access, ok = parseAccess(b); !ok {
		return Links{}, errors.New("rates of the agent's own that can't be")
	}
	if facts >= factsLen && !l.parseRelaying(b[leastFacts:]) {
		return Links{}, errors.New("rates of its relaying that can't be")
	}
	for b = b[facts:]; len(l.Rows) < n; b = b[row:] {
		r := Row{Peer: Brief(binary.BigEndian.Uint64(b))}
		if len(l.Rows) > 0 && l.Rows[len(l.Rows)-1].Peer >= r.Peer {
			return Links{}, errors.New("links are not in ascending order")
		}
		if r.Pair, ok = parsePair(b[8:], at); !ok {
			return Links{}, errRow
		}
		if row >= rowLen {
			if r.Intent, ok = parseIntent(b[8], b[leastRowLen:]); !ok {
				return Links{}, errRow
			}
		}
		l.Rows = append(l.Rows, r)
	}
	return l, nil
}

func parseAccess(b []byte) (a measure.Access, ok bool) {
	a.UpSource, a.DownSource = measure.Source(b[0]&15), measure.Source(b[0]>>4)
	a.Up, a.Down = parseRate(b[1:]), parseRate(b[3:])
	good := func(s measure.Source, rate int64) bool {
		known := s == measure.Measured || s == measure.Configured
		return (known || s == measure.Unknown) && rate <= topRate && known == (rate > 0)
	}
	return a, good(a.UpSource, a.Up) && good(a.DownSource, a.Down)
}

// parsePair reads what appendPair wrote.
func parsePair(b []byte, at overlay.Instant) (p measure.Pair, ok bool) {
	flags := b[0]
	if rtt := expand(binary.BigEndian.Uint16(b[1:]), fine); rtt > 0 {
		p.RTT, p.RTTSource = time.Duration(min(rtt, math.MaxInt32*4))*time.Microsecond, measure.Measured
		p.RTTAt = at.Add(-parseAge(b[3]))
	}
	p.Jitter, p.Queue = parseTime(b[4]), parseTime(b[5])
	p.LossKnown, p.Relayed = flags&rowLoss != 0, flags&rowRelayed != 0
	p.Loss, p.LossLow, p.LossHigh = parseLoss(b[6]), parseLoss(b[7]), parseLoss(b[8])
	p.CapacitySource, p.CapacityBound = measure.Source(flags&rowSources>>2), flags&rowBound != 0
	p.Capacity = parseRate(b[9:])
	if p.Capacity > 0 {
		unit := float64(p.Capacity) / marginUnit
		p.CapacityLow = max(p.Capacity-parseMargin(b[11], unit), 0)
		p.CapacityHigh = p.Capacity + parseMargin(b[12], unit)
		p.CapacityAt = at.Add(-parseAge(b[13]))
	}
	p.Available = parseRate(b[14:])
	p.MTU = int(binary.BigEndian.Uint16(b[16:]))

	rated := p.CapacitySource == measure.Passive || p.CapacitySource == measure.Train
	switch {
	case p.RTT > topRTT || p.RTT == 0 && b[3] != 0, p.Jitter > MaxRTT, p.Queue > MaxRTT:
	case p.LossLow > p.Loss || p.Loss > p.LossHigh || p.LossHigh > 1 || !p.LossKnown && p.LossHigh > 0:
	case p.Capacity > topRate || p.Available > topRate || rated != (p.Capacity > 0):
	case !rated && (p.CapacityBound || p.CapacitySource != measure.Unknown || b[11]|b[12]|b[13] != 0):
	case p.MTU != 0 && p.MTU < minTold:
	default:
		return p, true
	}
	return p, false
}

// parseRate returns a rate in bits a second, beyond MaxRate if the code is none.
func parseRate(b []byte) int64 {
	return int64(min(expand(binary.BigEndian.Uint16(b), fine), 1<<50)) * 1000
}

func parseTime(code byte) time.Duration {
	return time.Duration(min(expand(uint16(code), coarse), 1<<40)) * time.Microsecond
}

func parseAge(code byte) time.Duration {
	return min(time.Duration(min(expand(uint16(code), coarse), 1<<30))*100*time.Millisecond, topAge)
}

func parseMargin(code byte, unit float64) int64 {
	return int64(unit*float64(min(expand(uint16(code), coarse), mostMargin)) + 0.5)
}

func parseLoss(code byte) float64 { return float64(expand(uint16(code), coarse)) / lossUnit }
