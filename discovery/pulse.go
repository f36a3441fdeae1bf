package discovery

import (
	"time"

	"farlan/overlay"
)

const (
	// pulseMissed is how many packets in a row go unanswered on a connection that is
	// dead: at most two acknowledge what came before, and when nothing comes back QUIC
	// repeats what it sent, twice at a time (RFC 9002 § 6.2).
	pulseMissed = 4
	// pulseAfter is how long they go unanswered, and pulseTrips as round trips: above
	// what a host that is short of time, or a long way, takes.
	pulseAfter = 3 * time.Second
	pulseTrips = 6
	// pulseGap is how long the watch itself may pause; after more, it begins anew.
	pulseGap = 2 * time.Second
)

// A Pulse tells that a connection is dead, by counts of packets, long before QUIC does
// after half a minute of silence. What is sent on a dead connection is lost, and a new one
// begins with a comparison of the stores. The zero Pulse is ready.
type Pulse struct {
	sent, received uint64 // when something came last
	since          overlay.Instant
	looked         overlay.Instant
}

// Dead takes how many packets were sent and received since the connection began, and its
// smoothed round trip. It wants to be called each second.
func (p *Pulse) Dead(now overlay.Instant, sent, received uint64, rtt time.Duration) bool {
	late := now.Sub(p.looked) > pulseGap || now.Before(p.looked)
	p.looked = now
	if late || received != p.received || sent == p.sent {
		p.sent, p.received, p.since = sent, received, now
		return false
	}
	return sent-p.sent >= pulseMissed && now.Sub(p.since) >= max(pulseAfter, pulseTrips*rtt)
}
