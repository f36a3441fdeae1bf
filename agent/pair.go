package agent

import (
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// availableFresh is how long what a train found is taken for what can be achieved now.
const availableFresh = time.Minute

// pair returns what this agent knows of the way to a peer that frames take.
func (p *peer) pair(now overlay.Instant) measure.Pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	var v measure.Pair
	p.times(now, &v)
	if out := p.out.Load(); out != nil && out.relay != nil {
		v.Relayed = true // what it carries may be the relay's own way to others
	} else {
		p.rates(now, &v)
	}
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

// rates fills in what the path carries. p.mu is held. What a train found counts until
// it is old or frames show something newer: the bottleneck, or more than the train.
func (p *peer) rates(now overlay.Instant, v *measure.Pair) {
	var r measure.Rate
	var passive bool
	if p.delivery != nil {
		r, passive = p.delivery.Rate(now)
		v.Available, v.AvailableBound, _ = p.delivery.Now(now)
	}
	c := p.trains.out
	trained := c.at != 0 && now.Sub(c.at) <= capacityFresh
	if passive && trained {
		newer := now.Add(-r.Age) > c.at
		trained = !newer || r.Bound && r.Value <= c.Rate+c.Rate/16
	}
	switch {
	case trained || c.at != 0 && !passive:
		v.Capacity, v.CapacityLow, v.CapacityHigh = c.Rate, c.Low, c.High
		v.CapacityBound = c.Limit != measure.ByPath
		v.CapacityAt, v.CapacitySource = c.at, measure.Train
	case passive:
		v.Capacity, v.CapacityLow, v.CapacityHigh = r.Value, r.Low, r.High
		v.CapacityBound, v.CapacityAt, v.CapacitySource = r.Bound, now.Add(-r.Age), measure.Passive
	}
	if v.CapacityBound {
		v.CapacityHigh = 0
	}
	if c.at != 0 && now.Sub(c.at) <= availableFresh && (v.Available == 0 || v.AvailableBound) && c.Rate > v.Available {
		v.Available, v.AvailableBound = c.Rate, c.Limit == measure.BySender || c.Limit == measure.ByMost
	}
}
