package agent

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"farlan/overlay"
)

const (
	// claimRate and claimBurst are how many stations an agent claims a second and at once.
	// Those of a large LAN that wakes up, and what sends from ever other addresses, wait.
	claimRate, claimBurst = 200, 1000
	// maxClaiming bounds the claims that are to be made again; others aren't: who missed one
	// learns by frames where the station is.
	maxClaiming = 4096
)

// claimAgain is after how long claims are made again: whoever missed one believes the next.
var claimAgain = []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second}

// claiming is how this agent's claims are made. The zero claiming is ready.
type claiming struct {
	mu     sync.Mutex
	budget overlay.Bucket // of claims that lanes make at once

	due []dueClaim // in no order; the loop's own
}

// A dueClaim is a claim that is to be made again.
type dueClaim struct {
	mac  overlay.MAC
	at   overlay.Instant
	made int // how often it was
}

// claimed notes what the last frame of a port told of its station: what is new here is
// claimed, in front of that frame, so that all know where the station is when they answer.
func (o *outgoing) claimed(view *view, learned overlay.Learned, m overlay.MAC) {
	n := o.n
	if learned != overlay.LearnedNew && learned != overlay.LearnedMove {
		return
	}
	if n.claiming.allow(o.now) {
		if seq := n.sw.Stations.Claim(m); seq != 0 {
			o.claim(view, overlay.Claim{MAC: m, Sequence: seq})
		}
	}
	n.mail.offer(func(now overlay.Instant) { n.claimLater(now, m, 0) })
}

func (c *claiming) allow(now overlay.Instant) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.budget == (overlay.Bucket{}) {
		c.budget = overlay.NewBucket(claimRate, claimBurst)
	}
	return c.budget.Allow(now)
}

// claim floods claims.
func (o *outgoing) claim(view *view, claims ...overlay.Claim) {
	o.n.alike(claims, func(some []overlay.Claim) {
		o.claims = overlay.AppendClaims(o.claims[:0], some, false)
		o.flood(view, &overlay.Frame{Head: o.claims})
	})
}

// alike says of claims why their stations aren't lost, and hands them on by that.
func (n *node) alike(claims []overlay.Claim, do func(some []overlay.Claim)) {
	for i := range claims {
		claims[i].Keep = n.sw.Stations.Keep(claims[i].MAC)
	}
	slices.SortStableFunc(claims, func(a, b overlay.Claim) int { return cmp.Compare(a.Keep, b.Keep) })
	for len(claims) > 0 {
		k := 1
		for k < len(claims) && claims[k].Keep == claims[0].Keep {
			k++
		}
		do(claims[:k])
		claims = claims[k:]
	}
}

// claimLater notes that a station, whose claim was made so often, is to be claimed again.
func (n *node) claimLater(now overlay.Instant, m overlay.MAC, made int) {
	c := &n.claiming
	if made >= len(claimAgain) || len(c.due) >= maxClaiming {
		return
	}
	if i := slices.IndexFunc(c.due, func(d dueClaim) bool { return d.mac == m }); i >= 0 {
		c.due[i] = dueClaim{m, now.Add(claimAgain[made]), made}
		return
	}
	c.due = append(c.due, dueClaim{m, now.Add(claimAgain[made]), made})
}

// mindClaims makes claims again that are due, a frame of them at a time.
func (n *node) mindClaims(now overlay.Instant) {
	c := &n.claiming
	if len(c.due) == 0 {
		return
	}
	var claims []overlay.Claim
	var again []dueClaim
	c.due = slices.DeleteFunc(c.due, func(d dueClaim) bool {
		if now.Before(d.at) || len(claims) == overlay.MaxClaims {
			return false
		}
		seq := n.sw.Stations.Claimed(d.mac)
		if seq == 0 { // there was no budget for it
			seq = n.sw.Stations.Claim(d.mac)
		}
		if seq != 0 {
			claims = append(claims, overlay.Claim{MAC: d.mac, Sequence: seq})
			again = append(again, dueClaim{d.mac, d.at, d.made + 1})
		}
		return true
	})
	for _, d := range again {
		n.claimLater(now, d.mac, d.made)
	}
	if len(claims) > 0 {
		o := n.loopOut(now)
		o.claim(n.view.Load(), claims...)
		o.flush()
	}
}

// takeClaims takes a frame of a peer's claims, or of its answers to ours.
func (in *inbound) takeClaims(p *peer, frame []byte) {
	claims, answer, ok := overlay.ParseClaims(frame, in.claims[:0])
	if in.claims = claims; !ok {
		in.n.drops.add(dropMalformed)
		return
	}
	n, at := in.n, p.place()
	first := func(other overlay.Place) bool {
		is := n.self
		if i, ok := other.Agent(); ok {
			if o := in.view.peer(overlay.AgentPlace(i)); o != nil {
				is = o.id
			}
		}
		return p.id.Compare(is) < 0
	}
	var older []overlay.Claim
	trust := overlay.Trust(p.trust.Load())
	for _, c := range claims {
		if trust&overlay.TrustStations == 0 {
			c.Keep &= overlay.KeepAnnounced
		}
		switch n.sw.Stations.TakeClaim(in.now, c, at, answer, first) {
		case overlay.LearnedOlder:
			if !answer { // else two would answer each other for ever
				older = append(older, overlay.Claim{MAC: c.MAC, Sequence: n.sw.Stations.Claimed(c.MAC)})
			}
		case overlay.LearnedSpoof:
			n.drops.verdict(overlay.DropSpoof)
			n.edge.offences.add(in.now, overlay.DropSpoof, at, c.MAC)
			n.mail.offer(func(now overlay.Instant) { n.claimNow(now, c.MAC) })
		case overlay.LearnedMove:
			n.sw.Groups.Follow(in.now, c.MAC, at)
		case overlay.LearnedAgain:
			n.mail.offer(func(now overlay.Instant) { n.claimNow(now, c.MAC) })
		}
	}
	if len(older) > 0 {
		n.mail.offer(func(now overlay.Instant) { n.answerClaims(now, p, older) })
	}
}

// claimNow claims a station with a number above the one that an answer told.
func (n *node) claimNow(now overlay.Instant, m overlay.MAC) {
	if seq := n.sw.Stations.Claim(m); seq != 0 && n.claiming.allow(now) {
		o := n.loopOut(now)
		o.claim(n.view.Load(), overlay.Claim{MAC: m, Sequence: seq})
		o.flush()
		n.claimLater(now, m, 0)
	}
}

// answerClaims tells a peer that this agent has claimed stations with higher numbers.
func (n *node) answerClaims(now overlay.Instant, p *peer, claims []overlay.Claim) {
	if p.out.Load() == nil || !n.claiming.allow(now) {
		return
	}
	o := n.loopOut(now)
	n.alike(claims, func(some []overlay.Claim) {
		o.queue(p, &overlay.Frame{Head: overlay.AppendClaims(nil, some, true)})
	})
	o.flush()
}
