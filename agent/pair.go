package agent

import (
	"farlan/measure"
	"farlan/overlay"
)

// pair returns what this agent knows of the path to a peer.
func (p *peer) pair(now overlay.Instant) measure.Pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	var v measure.Pair
	p.times(now, &v)
	p.rates(now, &v)
	if p.mtu != nil {
		v.MTU = p.mtu.Size()
	}
	return v
}

// times fills in latency and loss. p.mu is held.
func (p *peer) times(now overlay.Instant, v *measure.Pair) {
	if p.path == nil {
		return
	}
	if rtt, ok := p.path.RTT(now); ok {
		v.RTT, v.RTTAt, v.RTTSource = rtt, p.path.Sampled(), measure.Measured
	}
	v.Floor, _ = p.path.Floor(now)
	v.Smoothed, v.Jitter, _ = p.path.Smoothed()
	v.Queue, v.QueueBack = p.path.Queues()
	v.Loss, v.LossLow, v.LossHigh, v.LossKnown = p.path.Loss(now)
}

// rates fills in what the path carries. p.mu is held.
func (p *peer) rates(now overlay.Instant, v *measure.Pair) {
	if p.delivery == nil {
		return
	}
	rate, bound, age, ok := p.delivery.Rate(now)
	if !ok {
		return
	}
	v.Capacity, v.CapacityLow, v.CapacityHigh = rate, rate, rate
	v.CapacityBound, v.CapacityAt, v.CapacitySource = bound, now.Add(-age), measure.Passive
}
