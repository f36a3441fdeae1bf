//go:build linux

package tc

import (
	"math"
	"time"

	"farlan/reserve"
)

const (
	// quantumTime is what a class that borrows sends before the next one has its turn. It is
	// about as long as the runs of whole segments that senders make.
	quantumTime = time.Millisecond
	// burstTime is for how long a class saves up, so that a timer that fires late loses
	// nothing; grantBurst is that of grants, whose senders may stop for a moment.
	burstTime  = 2 * time.Millisecond
	grantBurst = 5 * time.Millisecond
	// queueTime is how much waits in a class that has no fq_codel: at least a full aggregate
	// of datagrams with the headers that it will have, which would never pass otherwise.
	queueTime = 25 * time.Millisecond
	minQueue  = 80 << 10
	maxQueue  = 8 << 20

	maxAggregate = 64 << 10
	etherHeader  = 14
	defaultMTU   = 1500
)

// A shape is what HTB is told of a class.
type shape struct {
	rate, ceil    uint64 // bytes a second, with link layer headers
	prio          uint32 // 0 comes before 1
	quantum       uint32 // bytes
	burst, cburst uint32 // as HTB wants them: ticks of 64 ns at the rate, and at the ceiling
	queue         uint32 // bytes that wait at most, where it is a plain queue
	target        uint32 // µs that packets wait as a rule, where it is fq_codel
}

// line is what shapes of an interface's classes depend on.
type line struct {
	rate        reserve.Rate // IP packets
	mtu, header int
	kept        reserve.Rate // of rate, for all that isn't reserved
}

// shape returns the shape of a class of an interface: of rate, with a burst of d.
func (l line) shape(rate reserve.Rate, burst time.Duration) shape {
	s := shape{rate: l.wire(rate), ceil: l.wire(l.rate), prio: 1}
	full := uint64(l.packet() + l.header)
	// A quantum below a full packet would let classes with larger packets have more.
	s.quantum = uint32(max(min(carries(s.ceil, quantumTime), maxAggregate), full))
	s.burst = ticks(s.rate, max(carries(s.rate, burst), full))
	s.cburst = ticks(s.ceil, max(carries(s.ceil, burstTime), full))
	s.queue = uint32(min(max(carries(s.rate, queueTime), minQueue, 2*full), maxQueue))
	// A target must not be less than a full packet takes (RFC 8290 § 5.2.2).
	s.target = uint32(min(max(5000, full*1_500_000/s.rate), 1_000_000))
	return s
}

// fixed returns the shapes of the classes that there are besides the grants': of all, of what is
// urgent, and of the rest.
func (l line) fixed() (all, urgent, rest shape) {
	all = l.shape(l.rate, burstTime)
	urgent, rest = l.shape(l.kept/4, burstTime), l.shape(l.kept-l.kept/4, burstTime)
	// Before all others, but never more than half of all.
	urgent.prio, urgent.ceil = 0, max(all.ceil/2, urgent.rate)
	// The rest's queue is for what it has as a rule.
	rest.queue, rest.target = all.queue, all.target
	return all, urgent, rest
}

// packet returns how long a full IP packet is.
func (l line) packet() int {
	if l.mtu < 68 { // some devices tell of none
		return defaultMTU
	}
	return l.mtu
}

// wire returns what a rate of IP packets is with link layer headers, in bytes a second, if the
// packets are full ones. It is 1 at least, and never a multiple of 2³²: of those the kernel's
// older attribute would be 0, which it refuses.
func (l line) wire(r reserve.Rate) uint64 {
	mtu := uint64(l.packet())
	b := max(uint64(max(r, 0))*125*(mtu+uint64(l.header))/mtu, 1)
	if uint32(b) == 0 {
		b++
	}
	return b
}

// packets is wire's inverse, to the nearest kbit/s.
func (l line) packets(wire uint64) reserve.Rate {
	const most = 10_000 * uint64(reserve.Gbit) * 125
	mtu := uint64(l.packet())
	per := 125 * (mtu + uint64(l.header))
	return reserve.Rate((min(wire, 2*most)*mtu + per/2) / per)
}

// carries returns how many bytes pass in d at a rate in bytes a second.
func carries(rate uint64, d time.Duration) uint64 {
	return rate * uint64(d/time.Microsecond) / 1e6
}

// ticks returns how long n bytes take at a rate, in the kernel's ticks of 64 ns (since Linux
// 2.6.31), one at least.
func ticks(rate, n uint64) uint32 {
	return uint32(min(max(n*(1e9/64)/rate, 1), math.MaxUint32))
}
