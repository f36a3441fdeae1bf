package agent

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"farlan/overlay"
)

const (
	// sideIdle is how long nothing comes by a socket before it is closed.
	sideIdle = time.Minute
	// maxSides bounds the sockets that carry frames, sidesPerPeer those of one member:
	// the one that is used and one to fall back to, so nobody can take all. Beyond,
	// members stay relayed.
	maxSides     = 256
	sidesPerPeer = 2
	// sideBuffer is as long as what comes by such a socket may be: paths with larger
	// packets are taken for ones with smaller.
	sideBuffer = 2048
)

// A side is a socket beside the port, for one member.
type side struct {
	byway
	conn  *net.UDPConn
	heard atomic.Int64 // when something came, 0 never
}

// openSides opens sockets and sends datagram d from each. Each is read until it is
// closed, or ctx ends.
func (n *node) openSides(ctx context.Context, id overlay.AgentID, to netip.AddrPort, d []byte) (sides []*side) {
	at := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	if listen := n.cfg.Listen.Addr(); listen.Is4() {
		at = net.UDPAddrFromAddrPort(netip.AddrPortFrom(listen, 0))
	}
	for range punchSockets {
		c, err := net.ListenUDP("udp4", at)
		if err != nil {
			n.log.Debug("no more sockets", "error", err)
			break
		}
		s := &side{conn: c, byway: byway{peer: id, remote: to}}
		s.send = s.write
		s.close = func() { _ = c.Close() }
		n.byways.add(&s.byway, socketByway)
		sides = append(sides, s)
		_, _ = c.WriteToUDPAddrPort(d, to)
		n.spawn("socket", func(context.Context) error {
			stop := context.AfterFunc(ctx, s.close)
			defer stop()
			n.read(s)
			return nil
		})
	}
	return sides
}

// keepSides closes those of the sockets to a member that needn't be kept, and returns the
// others: of those that heard something, the one that out goes by and the last ones.
// With keep false it closes all.
func keepSides(sides []*side, out *outbound, keep bool) []*side {
	slices.SortStableFunc(sides, func(a, b *side) int {
		used := func(s *side) int {
			if out != nil && out.way.Addr == s.addr {
				return 1
			}
			return 0
		}
		return cmp.Or(used(b)-used(a), cmp.Compare(b.heard.Load(), a.heard.Load()))
	})
	for i, s := range sides {
		if !keep || i >= sidesPerPeer || s.heard.Load() == 0 {
			_ = s.conn.Close()
			sides[i] = nil
		}
	}
	return slices.DeleteFunc(sides, func(s *side) bool { return s == nil })
}

// read takes what comes by a side until it is closed.
func (n *node) read(s *side) {
	defer n.byways.remove(&s.byway)
	b := make([]byte, sideBuffer)
	for {
		size, from, err := s.conn.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && from == s.remote {
			s.heard.Store(int64(n.now()))
			n.byways.take(&s.byway, [][]byte{b[:size]})
		}
	}
}

// write sends datagrams.
func (s *side) write(_ netip.AddrPort, b []byte, segment int) (err error) {
	if segment <= 0 {
		segment = max(len(b), 1)
	}
	for len(b) > 0 && err == nil {
		d := b[:min(segment, len(b))]
		b = b[len(d):]
		_, err = s.conn.WriteToUDPAddrPort(d, s.remote)
	}
	return err
}
