package agent

import (
	"fmt"
	"time"

	"farlan/discovery/p2p"
)

// watchClock says in the log when this host's clock turns out wrong, and when it is
// right again.
func (n *node) watchClock() {
	ahead, wrong := n.p2p.ClockSkew()
	switch {
	case wrong && !n.misdated:
		h := clockHealth(ahead, true, p2p.Counters{})
		n.log.Error("this host's clock is wrong", "detail", h.Detail, "hint", h.Hint)
	case !wrong && n.misdated:
		n.log.Info("this host's clock agrees with the other members'")
	}
	n.misdated = wrong
}

func (n *node) checkClock() healthView {
	ahead, wrong := n.p2p.ClockSkew()
	return clockHealth(ahead, wrong, n.p2p.Counters())
}

// clockHealth says how this host's clock does: how far it is ahead of the others' if
// that is too far, and what was not taken because of its time.
func clockHealth(ahead time.Duration, wrong bool, c p2p.Counters) healthView {
	h := healthView{Check: "clock", OK: true, Detail: fmt.Sprintf("within %v of the other members', as far as any are heard", p2p.ClockLimit)}
	if wrong {
		side := "ahead of"
		if ahead < 0 {
			side = "behind"
		}
		h = healthView{
			Check: "clock", Detail: fmt.Sprintf("%v %s the other members': at more than %v agents don't hear each other", ahead.Abs(), side, p2p.ClockLimit),
			Hint: "set this host's clock right, with 'timedatectl set-ntp true' for example",
		}
	}
	if c.Untimely > 0 {
		h.Detail += fmt.Sprintf("; %d datagrams by another clock", c.Untimely)
	}
	if c.Replays > 0 {
		h.Detail += fmt.Sprintf("; %d datagrams came again", c.Replays)
	}
	return h
}
