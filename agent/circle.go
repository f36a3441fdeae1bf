package agent

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"farlan/overlay"
)

const (
	// circleFrames is how many frames must come back to a port, each less than circlePause
	// after the one before, and for how long, until it is blocked: a port that takes over, or a
	// machine that moves, makes some.
	circleFrames = 10
	circlePause  = 2 * time.Second
	circleLeast  = time.Second // beacons are faster, if they pass
	// circleSpread is how much longer an agent may wait, by its name and how often it has: the
	// first that blocks its port ends what the others notice.
	circleSpread = 2 * time.Second
	// circleHold is how long the port stays blocked then, twice as long each time that frames
	// come back again soon, up to circleMost.
	circleHold, circleMost = 5 * time.Second, 160 * time.Second
)

// A circle is what came back to a port that takes part in a segment: what it wrote to its LAN,
// or another agent's port did whose beacons don't come here, as something on the way drops
// them. By beacons alone the two would never know of each other.
type circle struct {
	since, last overlay.Instant // of the frames that came back
	frames      int
	until       overlay.Instant // the port is blocked
	hold        time.Duration
	rounds      byte          // how often it was blocked
	patience    time.Duration // until it is next; 0: to be found out
	went        bool          // frames came back, so stations seemed to move
}

// back notes that a frame came back, and says whether the port must be blocked.
func (c *circle) back(now overlay.Instant, self overlay.AgentID) bool {
	if c.frames == 0 || now.Sub(c.last) >= circlePause {
		c.since, c.frames = now, 0
	}
	c.last = now
	c.frames++
	c.went = c.went || c.frames >= circleFrames
	if c.patience == 0 {
		sum := sha256.Sum256(append(self[:], c.rounds))
		c.patience = circleLeast + time.Duration(binary.BigEndian.Uint16(sum[:]))*circleSpread>>16
	}
	if c.frames < circleFrames || now.Sub(c.since) < c.patience {
		return false
	}
	c.rounds++
	c.patience = 0
	if c.hold *= 2; c.hold == 0 || now.Sub(c.until) >= c.hold {
		c.hold = circleHold
	}
	c.hold = min(c.hold, circleMost)
	c.until, c.frames = now.Add(c.hold), 0
	return true
}

// over says, once, that frames don't come back any more.
func (c *circle) over(now overlay.Instant) bool {
	if !c.went || now.Sub(c.last) < circlePause/2 {
		return false
	}
	c.went = false
	return true
}

// cameBack notes that a frame came from a port's LAN that came by the overlay before.
func (n *node) cameBack(port int) {
	s := &n.segments
	s.mu.Lock()
	defer s.mu.Unlock()
	if port >= len(s.ports) || s.ports[port] == nil {
		return
	}
	g := s.ports[port]
	if now := bootClock(); g.circle.back(now, n.self) {
		n.log.Warn("frames go round", "port", g.port.name, "blocked", g.circle.hold)
		g.Set(now, false, g.useful)
		n.settle(g)
	}
}
