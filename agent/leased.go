package agent

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// A leased says to the frame path until when a port may forward. The zero leased is open: nobody
// else forwards for what is behind the port.
type leased struct{ until atomic.Int64 } // by bootClock, 0: always

// closed is a time that has passed.
const closed overlay.Instant = 1

// allow opens it until some time.
func (g *leased) allow(until overlay.Instant) { g.until.Store(int64(max(until, closed))) }

// open says whether the port may forward, by a time that fence returned: before the batch at
// hand, however long ago that is.
func (g *leased) open(fence overlay.Instant) bool {
	until := overlay.Instant(g.until.Load())
	return until == 0 || fence != 0 && fence < until
}

// fence returns the time for leases. It is asked for each batch, after the batch was read: if
// this process was frozen meanwhile, or this machine slept, the gate is closed by then.
func (n *node) fence() overlay.Instant {
	if !n.segments.guards.Load() {
		return 0
	}
	return bootClock()
}

// bootClock returns the time since this machine was started. It goes on while that sleeps.
func bootClock() overlay.Instant {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // since Linux 2.6.39
	return overlay.Instant(time.Duration(t.Nano()))
}

// write writes one frame to a port, if that may forward.
func (n *node) write(port, lane int, fence overlay.Instant, one []overlay.Frame) {
	p := n.ports[port]
	switch {
	case !p.gate.open(fence):
		n.drops.add(dropStandby)
	case p.Write(lane, one) == 0:
		n.drops.add(dropPort)
	}
}
