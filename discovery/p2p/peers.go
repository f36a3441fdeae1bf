package p2p

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"farlan/overlay"
)

// Connections returns the connected agents in ascending order.
func (n *Node) Connections() []overlay.AgentID {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.SortedFunc(maps.Keys(n.peers), overlay.AgentID.Compare)
}

// Joined says whether any other member is connected.
func (n *Node) Joined() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.peers) > 0
}

// watch follows who is connected. A connection counts once the two sides told
// each other their protocols: a dialler that the other side denies is connected
// for some milliseconds too.
func (n *Node) watch() {
	for {
		select {
		case <-n.ctx.Done():
			return
		case e, ok := <-n.events.Out():
			if !ok {
				return
			}
			switch e := e.(type) {
			case event.EvtPeerIdentificationCompleted:
				if n.speaks(e.Protocols) {
					if n.supersede(e.Conn) {
						n.down(e.Peer)
					}
					n.up(e.Peer)
				}
			case event.EvtPeerConnectednessChanged:
				if e.Connectedness == network.NotConnected {
					n.down(e.Peer)
				}
			}
		}
	}
}

// supersede closes the older connections to a peer that has dialled us again,
// and says whether there were any. Nobody dials who is connected, so the peer
// has lost them: it was started again, or cut off. QUIC would notice only after
// 30 seconds, and what we send until then would go nowhere. Two agents that
// dial each other at once do so within a dial's time; one that dials twice has lost
// the first.
func (n *Node) supersede(c network.Conn) (found bool) {
	if c.Stat().Direction != network.DirInbound {
		return false
	}
	for _, old := range n.host.Network().ConnsToPeer(c.RemotePeer()) {
		age := c.Stat().Opened.Sub(old.Stat().Opened)
		if age > dialTimeout || age > 0 && old.Stat().Direction == network.DirInbound {
			found = true
			_ = old.Close()
		}
	}
	return found
}

// up makes p a peer if it is connected and isn't one yet, and returns what sends to
// it, nil if it isn't connected.
func (n *Node) up(p peer.ID) *sender {
	id, ok := agentID(p)
	if !ok {
		return nil
	}
	n.turn.Lock()
	defer n.turn.Unlock()
	n.mu.Lock()
	s := n.peers[id]
	if s != nil || n.closed || n.host.Network().Connectedness(p) != network.Connected {
		n.mu.Unlock()
		return s
	}
	s = newSender(n.ctx, p)
	first := len(n.peers) == 0
	n.peers[id] = s
	n.mu.Unlock()

	n.cfg.Log.Debug("connected", "peer", id.Short())
	n.cfg.Connected(id)
	n.welcome(first)
	return s
}

// down ends a peer.
func (n *Node) down(p peer.ID) {
	id, ok := agentID(p)
	if !ok {
		return
	}
	n.turn.Lock()
	defer n.turn.Unlock()
	n.mu.Lock()
	s := n.peers[id]
	delete(n.peers, id)
	last := len(n.peers) == 0
	n.mu.Unlock()
	if s == nil {
		return
	}
	s.end()
	n.cfg.Log.Debug("disconnected", "peer", id.Short())
	n.cfg.Disconnected(id)
	if last {
		nudge(n.alone)
	}
}

// nudge sends on a channel of capacity one; one nudge is as good as many.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// taken says whether an agent that was connected a moment ago stays so: it may say no
// after the handshake of TLS 1.3 has succeeded here, and then tells nothing of itself on
// that connection, though it may have on one before. A connection that is closed says so
// a moment after its streams do.
func (n *Node) taken(ctx context.Context, p peer.ID) bool {
	const moment = 5 * time.Millisecond
	for _, c := range n.host.Network().ConnsToPeer(p) {
		select {
		case <-n.identify.IdentifyWait(c):
		case <-ctx.Done():
			return false
		}
		if known, err := n.host.Peerstore().GetProtocols(p); err != nil || len(known) == 0 {
			continue
		}
		if n.sleep(moment) && !c.IsClosed() {
			return true
		}
	}
	return false
}
