package measure

import (
	"time"

	"farlan/overlay"
)

const (
	// BaseMTU is the packet size that is used before any is confirmed: every
	// IPv6 path carries it (RFC 8200 § 5), and nearly every IPv4 path does.
	// RFC 8899 § 5.1.2 recommends 1200.
	BaseMTU = 1280
	// MaxMTU is the largest packet that is looked for: that of jumbo frames.
	MaxMTU = 9000
	// MTUProbes is how many probes one search takes at most.
	MTUProbes = 12

	// raiseProbes is how many of them a search for something larger takes if
	// none is answered: such searches go on for ever, and mostly in vain.
	raiseProbes = 3
	raiseAfter  = 600 * time.Second // PMTU_RAISE_TIMER (RFC 8899 § 5.1.1)
	// retryAfter is when a search follows one that confirmed nothing; it
	// doubles up to raiseAfter. An outage is so followed by a search about as
	// long after its end as it lasted.
	retryAfter = 5 * time.Second
	// restartAfter lies between the beginnings of two searches, whatever
	// happens, so that there are never more than MTUProbes a second.
	restartAfter = time.Second
	confirmEvery = time.Second
	// mtuLosses is how many probes of the base or of the size in use go
	// unanswered before it is given up (MAX_PROBES, RFC 8899 § 5.1.2). Other
	// sizes get as many at most: see oddsShift.
	mtuLosses = 3
	// probeWait is the least time that a probe is waited for.
	probeWait = 200 * time.Millisecond
	// unknownRTT is assumed until the caller knows better, and maxRTT bounds
	// what it says.
	unknownRTT = 300 * time.Millisecond
	maxRTT     = 2 * time.Second
	// oddsShift makes each unanswered probe count 32 to 1 against its size and
	// those above: the odds at 3 % of loss.
	oddsShift = 5
	// enoughGain, in 1/64 byte: a search ends when the next probe can't be
	// expected to gain more. With four times as much, sizes that aren't common
	// are missed by up to 14 bytes instead of 5.
	enoughGain = 4
)

// firstSizes are sent at once when a search begins, and the limit with them.
// Between two of them lie the other sizes that are common: see odds.
var firstSizes = [...]int{BaseMTU, 1400, 1440, 1480, 1492, 1500}

// An MTUState says how far the search for a path's MTU is.
type MTUState uint8

// The states of a search (RFC 8899 § 5.2).
const (
	_            MTUState = iota
	MTUSearching          // larger sizes may be confirmed soon
	MTUFound              // the size is the largest that the path seems to carry
	MTUFailed             // not even the base was confirmed: packets may be fragmented or lost
)

// String returns the state's name in the command line's output.
func (s MTUState) String() string {
	return [...]string{"", "searching", "found", "failed"}[s]
}

// An MTU is the search for the largest packet that the path to a peer carries,
// after RFC 8899 (datagram packetisation layer path MTU discovery). Sizes are
// those of IP packets with their headers, in bytes.
//
// A search sends the well-known sizes at once, so the largest of them that
// passes is in use after one round trip. What is left of MTUProbes goes out one
// after another, each at the size that promises the most: the bytes it would
// gain times the odds that it passes. The odds are those of odds, divided by 32
// for every probe of that size or a smaller one that is unanswered. So sizes in
// the gap are bisected, and a loss is mistrusted where a common size is at
// stake. A probe is given up after a quarter more than the round trip, which is
// sooner than RFC 8899's timers; an answer that comes later still counts.
//
// A search lasts at most seven such waits: 2.7 s at a round trip of 300 ms and
// 4.4 s at 500 ms. Without loss it finds common sizes exactly and any other up
// to 1500 to 5 bytes; sizes above are only searched with the probes that are
// left, which finds them to 300 bytes from 1800 on. With loss the size may be
// smaller, never larger, until the next search.
//
// The caller calls Probe whenever Next has come or an answer came, and only
// while the peer answers. When the peer's address changes, it takes a new MTU.
// The zero value is not ready: use NewMTU. Not safe for concurrent use.
type MTU struct {
	limit   int // of the local interface, at most MaxMTU
	ceiling int // the limit, or less after the kernel refused a packet
	acked   int // largest confirmed size, at most ceiling; 0 if none is
	state   MTUState
	rtt     time.Duration

	probes [MTUProbes]mtuProbe // of the newest search
	sent   int                 // how many of them were
	budget int                 // how many may be
	first  int                 // of firstSizes, how many were sent or passed over
	begin  overlay.Instant     // of the newest search
	again  overlay.Instant     // when the next one begins, unless one is on
	retry  time.Duration       // until that one if nothing is confirmed

	check  mtuProbe // of the size in use
	misses int      // of check, in a row
	used   bool     // a packet of about that size was sent since
}

type mtuProbe struct {
	size   int
	sent   overlay.Instant
	acked  bool
	silent bool // nothing passed when it was sent: its loss says nothing
}

// NewMTU returns a search that begins now, for packets of at most limit bytes:
// the MTU of the local interface, or MaxMTU if that isn't known.
func NewMTU(now overlay.Instant, limit int) *MTU {
	m := &MTU{limit: min(max(limit, minIPv4), MaxMTU), retry: retryAfter, rtt: unknownRTT}
	m.ceiling = m.limit
	m.search(now)
	return m
}

// minIPv4 is the packet that every IPv4 host takes (RFC 791 § 3.2): no limit is
// smaller.
const minIPv4 = 576

// base returns the size that needs no confirmation.
func (m *MTU) base() int { return min(BaseMTU, m.limit) }

// Size returns the packet size to use now: the largest confirmed one, or
// BaseMTU (the limit if that is smaller) before any is.
func (m *MTU) Size() int { return max(m.acked, m.base()) }

// State says how far the search is.
func (m *MTU) State() MTUState { return m.state }

// search begins one from nothing.
func (m *MTU) search(now overlay.Instant) {
	m.acked, m.first = 0, 0
	m.resume(now, MTUProbes)
}

// resume begins a search for sizes above the confirmed one.
func (m *MTU) resume(now overlay.Instant, budget int) {
	if m.begin != 0 {
		now = max(now, m.begin.Add(restartAfter))
	}
	m.state, m.begin, m.budget = MTUSearching, now, budget
	m.sent = 0
	m.check, m.misses, m.used = mtuProbe{}, 0, false
}

// Probe returns the size of a probe that is to be sent now, if one is due: a
// datagram that is padded to an IP packet of size bytes, must not be
// fragmented, and is answered by a small one that tells its size. rtt is the
// smoothed round trip, 0 if it isn't known. Call again until ok is false.
func (m *MTU) Probe(now overlay.Instant, rtt time.Duration) (size int, ok bool) {
	if rtt <= 0 {
		rtt = unknownRTT
	}
	m.rtt = min(rtt, maxRTT)
	if m.state != MTUSearching {
		if now.Before(m.again) {
			return m.confirm(now)
		}
		m.ceiling = m.limit
		if m.acked == 0 {
			m.search(now)
		} else {
			m.resume(now, raiseProbes)
		}
	}
	if now.Before(m.begin) {
		return 0, false
	}
	size, ok = m.next(now)
	if !ok {
		return 0, false
	}
	m.probes[m.sent] = mtuProbe{size: size, sent: now}
	m.sent++
	return size, true
}

// next returns the size that the search sends now, and ends the search when
// there is none left.
func (m *MTU) next(now overlay.Instant) (size int, ok bool) {
	for m.first <= len(firstSizes) {
		size = m.limit
		if m.first < len(firstSizes) {
			size = firstSizes[m.first]
		}
		m.first++
		if size <= m.ceiling && !m.flown(size) {
			return size, true
		}
	}
	if now.Before(m.decided()) {
		return 0, false
	}
	if m.sent < m.budget {
		if size = m.best(); size != 0 {
			return size, true
		}
	}
	if m.acked == 0 {
		m.fail(now)
		return 0, false
	}
	m.state, m.again, m.retry = MTUFound, now.Add(raiseAfter), retryAfter
	return 0, false
}

// flown says whether a probe of size was sent in this search.
func (m *MTU) flown(size int) bool {
	for _, p := range m.probes[:m.sent] {
		if p.size == size {
			return true
		}
	}
	return false
}

// fail ends a search that confirmed nothing.
func (m *MTU) fail(now overlay.Instant) {
	m.state, m.acked, m.again = MTUFailed, 0, now.Add(m.retry)
	m.retry = min(2*m.retry, raiseAfter)
}

// decided returns when it is known of all probes that matter whether they are
// lost, if no further answer comes.
func (m *MTU) decided() (at overlay.Instant) {
	wait := max(probeWait, m.rtt+m.rtt/4)
	for _, p := range m.probes[:m.sent] {
		if !p.acked && p.size > m.acked && p.size <= m.ceiling {
			at = max(at, p.sent.Add(wait))
		}
	}
	return at
}

// best returns the size whose probe promises to gain the most, 0 if none
// promises enough. All probes that were sent are answered or lost.
func (m *MTU) best() int {
	if m.acked == 0 {
		// First the base: until it passes, other losses say nothing of sizes.
		lost := 0
		for i := range m.probes[:m.sent] {
			if m.probes[i].silent = true; m.probes[i].size == m.base() {
				lost++
			}
		}
		if lost < mtuLosses {
			return m.base()
		}
		return 0
	}
	var at [MaxMTU + 1]uint8 // losses by size
	lost := 0                // those of s and of smaller sizes, which speak against s
	for _, p := range m.probes[:m.sent] {
		if !p.acked && !p.silent && p.size > m.acked && p.size <= m.ceiling {
			at[p.size]++
			lost++
		}
	}
	var weight, gain uint64 // of the MTUs from s up; at most 2^34, and 2^13 times that
	size := 0
	for s := m.ceiling; s > m.acked; s-- {
		weight += m.odds(s) << 16 >> min(oddsShift*lost, 63)
		if g := weight * uint64(s-m.acked); g > gain {
			size, gain = s, g
		}
		lost -= int(at[s])
	}
	weight += m.odds(m.acked) << 16
	if gain <= weight/64*enoughGain {
		return 0
	}
	return size
}

// odds returns how common paths with an MTU of size are, relative to other
// sizes. Only the orders of magnitude matter.
func (m *MTU) odds(size int) uint64 {
	switch size {
	case 1500, m.limit: // Ethernet, and what the interface is set to
		return 65536
	case 1492, 1420, 1400, BaseMTU: // PPPoE, WireGuard, IPsec, the least
		return 8192
	case 1480, 1460, 1450, 1440: // 6in4, Google's cloud, VXLAN, WireGuard over PPPoE
		return 4096
	case 1476, 1472, 1454, 1452, 1430: // GRE, L2TP, NTT's PPPoE, 6in4 over PPPoE, mobile
		return 1024
	case 8896, 8500, 4000: // Google's cloud, Amazon's gateways, Azure's
		return 1024
	}
	if size > 1500 {
		return 2
	}
	return 32
}

// confirm returns the probe of the size in use, if it is time for one: black
// holes are noticed so (RFC 8899 § 4.3). The base needs none, for there is
// nothing to fall back to.
func (m *MTU) confirm(now overlay.Instant) (size int, ok bool) {
	if m.acked <= m.base() {
		return 0, false
	}
	c := &m.check
	switch {
	case c.sent == 0 || c.acked:
		if !m.used || now.Before(c.sent.Add(confirmEvery)) {
			return 0, false
		}
	case now.Before(c.sent.Add(m.patience())):
		return 0, false
	default:
		m.misses++
		if m.misses == mtuLosses {
			m.ceiling = m.limit
			m.search(now)
			return m.Probe(now, m.rtt)
		}
	}
	*c, m.used = mtuProbe{size: m.acked, sent: now}, false
	return c.size, true
}

// patience is how long a probe of the size in use is waited for: longer than in
// a search, since falling back costs more than a probe.
func (m *MTU) patience() time.Duration { return max(probeWait, 3*m.rtt) }

// Used says that a packet of about Size was sent: data flows, so it matters
// whether it arrives.
func (m *MTU) Used() { m.used = true }

// Acked says that a probe of size bytes was answered. Sizes that weren't probed
// in the newest search are ignored, as are those that the kernel refuses.
func (m *MTU) Acked(now overlay.Instant, size int) {
	if c := &m.check; c.sent != 0 && c.size == size {
		c.acked, m.misses = true, 0
	}
	if size > m.ceiling || !m.flown(size) {
		return
	}
	for i := range m.probes[:m.sent] {
		if p := &m.probes[i]; p.size == size {
			p.acked = true
		}
	}
	if size <= m.acked {
		return
	}
	m.acked, m.budget = size, MTUProbes
	m.check, m.misses = mtuProbe{size: size, sent: now, acked: true}, 0
	if m.state != MTUSearching { // an answer that came late
		m.state, m.again = MTUSearching, now
	}
}

// TooBig says that the kernel refused to send a packet of size bytes (EMSGSIZE):
// from now on packets are smaller. Refusals are forgotten when a later search
// begins.
func (m *MTU) TooBig(now overlay.Instant, size int) {
	if size <= 0 || size > m.ceiling {
		return
	}
	m.ceiling = max(size-1, m.base())
	switch {
	case size <= m.base():
		if m.state != MTUFailed {
			m.fail(now)
		}
	case size <= m.acked:
		m.search(now)
	}
}

// Next returns when Probe is to be called again, if nothing happens until then.
// A time that has passed means at once.
func (m *MTU) Next() overlay.Instant {
	if m.state == MTUSearching {
		return max(m.begin, m.decided())
	}
	if m.acked <= m.base() {
		return m.again
	}
	switch c := m.check; {
	case c.sent != 0 && !c.acked:
		return min(m.again, c.sent.Add(m.patience()))
	case m.used:
		return min(m.again, c.sent.Add(confirmEvery))
	}
	return m.again
}
