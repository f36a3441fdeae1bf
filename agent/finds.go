package agent

import (
	"context"
	"net/netip"
	"time"

	"farlan/overlay"
)

const (
	// maxFindDials is how many dials of agents that only the DHT named go on at once.
	// They don't count among maxDials: whatever somebody has put into the DHT, members
	// are dialled as soon as ever.
	maxFindDials = 16
	// findDialTime is how long such a dial may take: most who exist answer sooner, and
	// those who don't are tried again later.
	findDialTime = 1500 * time.Millisecond
)

// found takes an agent that the DHT named. Those whose record is known need no
// connection for it; the others' records are most often on their way from whoever is
// connected, so they are dialled only when they don't come: then the network is in
// pieces, and this joins them.
func (n *node) found(now overlay.Instant, id overlay.AgentID, addrs []netip.AddrPort) {
	if n.peers[id] != nil || n.isElsewhere(id) {
		return
	}
	if addrs = n.reachable(addrs); len(addrs) > 0 {
		n.control.finds.Found(now, id, addrs)
		n.seekFinds(now)
	}
}

// seekFinds dials those that the DHT named and that are due.
func (n *node) seekFinds(now overlay.Instant) {
	c := &n.control
	for c.finding < maxFindDials {
		id, addrs, ok := c.finds.Next(now, len(c.connected) == 0)
		if !ok {
			return
		}
		c.finding++
		n.spawn("dial", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, findDialTime)
			defer cancel()
			err := n.p2p.Dial(ctx, id, addrs)
			n.mail.put(func(now overlay.Instant) {
				c.finding--
				if err == nil {
					c.finds.Forget(id)
				}
				n.seekFinds(now)
			})
			return nil
		})
	}
}
