package route

import "math/bits"

const (
	// LossUnit is all datagrams: a loss of 1 % is LossUnit/100.
	LossUnit = 1 << 20

	// hopMicros is what a link costs beyond its delay: a relay handles each datagram
	// twice, and each link is one more thing to break. Ways that gain less than
	// this aren't worth a relay.
	hopMicros = 500
	// lossMicros is what a loss costs, λ: what a sender waits before it sends again
	// when nothing else tells it (RFC 6298 § 2.4).
	lossMicros = 1_000_000
	// unknownRTT is the round trip of a link that neither end has measured yet: it is
	// taken only where no other way is.
	unknownRTT = 1_000_000
	// maxMicros is the most that a link, or relaying by an agent, costs: a minute.
	maxMicros = 1<<26 - 1
)

// The weight of a path is the sum of those of its links and of its relays, and the least
// one wins. From the highest bit, so that sums of MaxHops links don't mix:
//
//	4 bits   links shared with another path     (only alternates have these)
//	4 bits   relays shared with it
//	30 bits  microseconds
//	26 bits  ties: a hash of each link, the same in both directions
//
// So of paths of the same cost one wins everywhere, and it is the same back and forth
// if the costs are. A tree's paths may be longer and need two bits more, which it has as
// it shares nothing.
const (
	tieBits     = 26
	linkTie     = 1<<21 - 1 // 32 of them fit in tieBits
	sharedRelay = 1 << 56
	sharedLink  = 1 << 60
	barred      = 1<<64 - 1 // not to be used
)

// linkMicros returns what a link costs in one direction, by what both ends tell of it,
// and its round trip:
// half the round trip + queue + hop + λ·(−ln(1−loss)) + what was added.
func linkMicros(there, back *Link) (cost uint64, rtt uint32) {
	rtt = max(there.RTTMicros, back.RTTMicros)
	if rtt == 0 {
		rtt = unknownRTT
	}
	return micros(uint64(rtt)/2 + uint64(there.QueueMicros) + hopMicros + lossCost(there.Loss) +
		uint64(there.CostMicros) + uint64(back.CostMicros)), rtt
}

// Cost returns what a link costs in one direction, in µs, by what both ends tell of it:
// half the round trip, queues, a hop, losses, and what was added.
func (l Link) Cost(back Link) uint32 {
	if l.Loss >= LossUnit {
		return maxMicros
	}
	cost, _ := linkMicros(&l, &back)
	return uint32(cost)
}

// micros returns a cost within what weights can hold.
func micros(c uint64) uint64 { return min(c, maxMicros) }

// lossCost returns λ·(−ln(1−loss)) in microseconds, for a loss below LossUnit: so the
// cost of two links is that of both losses in a row. It is made of integers: log2 bit by
// bit, squaring (Knuth, The Art of Computer Programming, vol. 1, § 1.2.2, exercise 25).
func lossCost(loss uint32) uint64 {
	if loss == 0 {
		return 0
	}
	const fraction = 24 // bits
	passed := uint64(LossUnit - loss)
	whole := bits.Len64(passed) - 1
	log, m := uint64(whole), passed<<(31-whole) // m is 2^31 to 2^32, for 1 to 2
	for range fraction {
		m = m * m >> 31
		log <<= 1
		if m >= 1<<32 {
			m >>= 1
			log |= 1
		}
	}
	const unit, ln2 = 20 << fraction, lossMicros * 693_147 / 1_000_000
	return (unit - log) * ln2 >> fraction
}

// tie returns the hash of a link, the same in both directions.
func (g *Graph) tie(a, b int32) uint64 {
	return mix(g.keys[a]^g.keys[b], g.keys[a]+g.keys[b]) & linkTie
}
