package measure

import "time"

// Peers are probed every second as long as there are few. With more, those that are
// watched still are, and the others share what is left of probeRate probes a second, down
// to what keeps a NAT's mapping (RFC 4787 section 4.3 wants two minutes of it, home
// routers have 30 s and more): 200 agents that probed each other every second sent 40,000
// probes a second, and were too busy to find the 201st.
const (
	probeRate = 16
	probeIdle = 20 * time.Second
)

// ProbeEvery returns how often a peer is to be probed that answers, of so many, of which
// so many are watched, if it is one of these or not.
func ProbeEvery(peers, watched int, isWatched bool) time.Duration {
	if peers <= probeRate || isWatched {
		return ProbeInterval
	}
	left := max(probeRate-watched, 1)
	share := time.Duration(peers-watched) * ProbeInterval / time.Duration(left)
	return min(max(ProbeInterval, share), probeIdle)
}

// NearInRing says whether peer i of count, which are in an order that begins again after
// the last one, is one of the nearest that come before, or of as many after, a place
// between two: in front of peer next.
func NearInRing(i, next, count, nearest int) bool {
	after := ((i-next)%count + count) % count
	return after < nearest || count-after <= nearest
}
