package agent

import (
	"time"

	"golang.org/x/sys/unix"

	"farlan/measure"
	"farlan/overlay"
)

// mindTheGap notices that this agent didn't run for a while. After a short gap
// the peers' silence is forgiven; after a long one they have given this agent
// up, and it begins again with them.
func (n *node) mindTheGap(now overlay.Instant) {
	gap := time.Duration(0)
	if n.stepped != 0 {
		gap = now.Sub(n.stepped)
	}
	asleep := suspended()
	gap += asleep - n.asleep
	n.stepped, n.asleep = now, asleep
	if gap <= late {
		return
	}
	n.log.Warn("this agent didn't run", "missed", gap)
	n.forgive(now)
	for _, p := range n.peers {
		p.probe = now
		if gap >= measure.GoneAfter && p.state != measure.Idle {
			n.gone(now, p, "this agent was away")
		}
	}
	if gap >= measure.GoneAfter {
		n.roaming.force = now // it may have been carried about
	}
}

// suspended returns how long this machine has been suspended since it booted:
// the agent's clock stood still meanwhile.
func suspended() time.Duration {
	var boot, mono unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil {
		return 0
	}
	return time.Duration(boot.Nano() - mono.Nano()).Truncate(time.Second)
}

// forgive doesn't hold against the peers what this agent missed.
func (n *node) forgive(now overlay.Instant) {
	for _, p := range n.peers {
		p.mu.Lock()
		if p.path != nil && p.state != measure.Gone {
			p.path.Forgive(now)
		}
		p.mu.Unlock()
	}
}
