package p2p

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/quic-go/quic-go"

	"farlan/discovery"
	"farlan/overlay"
)

// feelEvery is how often connections are looked at, as a discovery.Pulse wants it.
const feelEvery = time.Second

// feel closes QUIC connections that are dead, until the node ends: what was sent on one
// is told again on the next as soon as this is noticed.
func (n *Node) feel() {
	pulses := make(map[network.Conn]*discovery.Pulse)
	for n.sleep(feelEvery) {
		now := overlay.Instant(time.Since(n.born))
		live := make(map[network.Conn]*discovery.Pulse, len(pulses))
		for _, c := range n.host.Network().Conns() {
			var q *quic.Conn
			if !c.As(&q) {
				continue // TCP, whose streams time out by themselves
			}
			p := pulses[c]
			if p == nil {
				p = new(discovery.Pulse)
			}
			live[c] = p
			if s := q.ConnectionStats(); p.Dead(now, s.PacketsSent, s.PacketsReceived, s.SmoothedRTT) {
				n.cfg.Log.Debug("connection is dead", "at", c.RemoteMultiaddr())
				_ = c.Close()
			}
		}
		pulses = live
	}
}
