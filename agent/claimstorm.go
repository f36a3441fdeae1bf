package agent

import (
	"sync"

	"farlan/overlay"
)

// What one agent may claim a second, and at once, of stations: who takes over a LAN claims all
// that are on it, and makes these claims again. What is beyond goes no further: claims that were
// honest are made again, or frames tell.
const (
	maxClaimRate  = 5 * claimRate
	maxClaimBurst = overlay.AgentStations + claimBurst
)

// A claimBudget is what is left to a peer. The zero one is full. Safe for concurrent use.
type claimBudget struct {
	mu   sync.Mutex
	left overlay.Bucket
}

// allow says whether that many claims are taken.
func (b *claimBudget) allow(now overlay.Instant, claims int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == (overlay.Bucket{}) {
		b.left = overlay.NewBucket(maxClaimRate, maxClaimBurst)
	}
	if b.left.Wait(now, claims) > 0 {
		return false
	}
	b.left.Take(now, claims)
	return true
}

// affords says whether a frame of a peer's claims is taken, before anything is read of it. If it
// isn't, that is told as an offence of the peer's.
func (in *inbound) affords(p *peer, frame []byte) bool {
	ok := p.claims.allow(in.now, int64(max(overlay.CountClaims(frame), 1)))
	if !ok {
		in.n.guard(in.now, overlay.DropClaimStorm, p.place(), frame)
	}
	return ok
}
