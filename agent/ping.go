package agent

import (
	"context"
	"slices"
	"time"

	"farlan/overlay"
)

// pingWait is how long a reply is waited for after the last probe.
const pingWait = time.Second

// ping sends count probes to p and notes the round trips in view.
func (n *node) ping(ctx context.Context, p *peer, count int, interval time.Duration, view *pingView) {
	replies := make(chan time.Duration, count)
	var numbers []probeKey
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, i := range numbers {
			delete(p.waiters, i)
		}
	}()
	next := time.NewTicker(interval)
	defer next.Stop()
	var rtts []time.Duration
	for view.Sent < count {
		if number, ok := n.pingOnce(ctx, p, replies); ok {
			numbers = append(numbers, number)
		}
		view.Sent++
		if view.Sent == count {
			break
		}
		select {
		case <-next.C:
		case <-ctx.Done():
			return
		}
	}
	late := time.NewTimer(pingWait)
	defer late.Stop()
wait:
	for len(rtts) < len(numbers) {
		select {
		case rtt := <-replies:
			rtts = append(rtts, rtt)
		case <-late.C:
			break wait
		case <-ctx.Done():
			return
		}
	}
	view.Received = len(rtts)
	if len(rtts) == 0 {
		return
	}
	slices.Sort(rtts)
	view.MinMs = millis(rtts[0])
	view.P50Ms = millis(rtts[len(rtts)/2])
	view.P99Ms = millis(rtts[(len(rtts)-1)*99/100])
}

// pingOnce sends a probe the way that urgent frames take, whose round trip goes to replies;
// ok is false if there is no session with p.
func (n *node) pingOnce(ctx context.Context, p *peer, replies chan<- time.Duration) (number probeKey, ok bool) {
	err := n.do(ctx, func(now overlay.Instant) {
		out := p.out.Load()
		if out == nil {
			return
		}
		if d := p.detour(overlay.ClassDelay); d != nil {
			number, ok = n.askDetour(p, d, replies)
			return
		}
		number, ok = probeKey{overlay.SpaceWay, n.askPeer(p, out, replies)}, true
	})
	return number, ok && err == nil
}
