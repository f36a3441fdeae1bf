package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/link"
)

// A NAT that takes another outside port for every destination (endpoint-dependent
// mapping, RFC 4787 section 4.1) and one that lets in only whom it has sent to keep
// two members apart: the first one's port can't be told before it has sent, and what
// it sends isn't let in. They meet by the birthday method: the first one's agent
// sends from many sockets, which are as many ports of its NAT's; the other one's
// agent, whose port is known, sends to many ports there. A datagram that finds one of
// the sockets goes through both NATs. With 256 sockets of 64,512 ports, 1,024 tries
// do so with probability 1 − (1 − 256/64512)^1024 = 98.3 %, and half of the times the
// first 174 do. (The method and its odds: D. Anderson, "How NAT traversal works",
// 2020, section "NAT notes for nerds".) Where ports are given in sequence, the first
// tries find one, as they are next to the port that others have seen.
//
// The socket that was found carries the frames to that member from then on: it is a
// byway. The other agent uses its port as ever. Which of the two an agent is it knows
// when two members see it; when one does that isn't its own port, it takes both parts.
const (
	punchSockets = 256
	punchTries   = 1024
	// Tries go out in bursts, over four fifths of a second.
	punchBurst = 64
	punchPause = 50 * time.Millisecond
	// punchFor is how long the sockets are open: the other agent needs a round trip
	// to hear of them, and as long as its tries take.
	punchFor = 2500 * time.Millisecond
	// punchPatience is how long a member must have been reached by way of another:
	// plain tries from both sides take a few round trips.
	punchPatience = 400 * time.Millisecond
	// punchNumber is the number of probes that say, by way of the member that
	// relays: I have opened sockets, try.
	punchNumber = 1<<32 - 2
	// sideIdle is how long nothing comes by a socket before it is closed.
	sideIdle = time.Minute
	// maxSides bounds the sockets that carry frames. Beyond, members stay relayed.
	maxSides = 256
	// sideBuffer is as long as what comes by such a socket may be: paths with larger
	// packets are taken for ones with smaller.
	sideBuffer = 2048
)

// punchAgain is how long after a first, second … try to meet a member the next one
// follows; the last one is for all that follow. Mappings may be full, or the NAT
// another one meanwhile.
var punchAgain = [...]time.Duration{3 * time.Second, 10 * time.Second, time.Minute, 10 * time.Minute}

// A peerPunch is what the loop knows of tries to meet a member.
type peerPunch struct {
	relayed overlay.Instant // since when it is reached by way of another, 0 it isn't
	tries   int
	next    overlay.Instant
	sprayed overlay.Instant // when this agent tried its ports last
}

// punches is what the loop knows of all of them.
type punches struct {
	looked   overlay.Instant
	hurried  overlay.Instant // when the news of how others see this agent was told at once
	opened   bool            // sockets for one member, for some time
	spraying bool            // tries for one member, for some time
	sides    []*side
}

// A side is a socket beside the port, for one member.
type side struct {
	byway
	conn  *net.UDPConn
	heard atomic.Int64 // when something came, 0 never
}

// A portMapping is what an agent knows at this moment of the ports at which others see
// it, which is what meeting them takes. What it tells of its NAT is a discovery.Mapping.
type portMapping uint8

// The port mappings.
const (
	mapUnknown portMapping = iota // one member, or none, has said how it sees this agent
	mapNone                       // as it is: there is no NAT
	mapStable                     // from one port: a cone
	mapVaried                     // from a port for every member: a symmetric NAT
)

// portMapping finds out what stands in front of this agent, by how the members see it.
// Those behind the same NAT may see it otherwise than those outside.
func (n *node) portMapping() portMapping {
	own := n.addresses()
	ports := make(map[netip.Addr][]uint16)
	most := 0
	for _, p := range n.byIndex {
		if p == nil || p.state != measure.Up || !p.byPort() {
			continue
		}
		a := p.seen.Load()
		if a == nil || !a.IsValid() || !a.Addr().Is4() || a.Addr().IsPrivate() {
			continue
		}
		if slices.Contains(own, *a) {
			return mapNone
		}
		ports[a.Addr()] = append(ports[a.Addr()], a.Port())
		most = max(most, len(ports[a.Addr()]))
	}
	kind := mapUnknown
	for _, seen := range ports {
		slices.Sort(seen)
		switch tell := len(seen); {
		case tell < most:
		case tell == 1 && seen[0] == n.port():
			kind = mapStable // a NAT that keeps a port most often does for all
		case tell > 1 && len(slices.Compact(seen)) == tell:
			return mapVaried
		case tell > 1:
			kind = mapStable
		}
	}
	return kind
}

// throughTCP returns with how many members this agent has pipes through TCP because no
// UDP passes.
func (n *node) throughTCP() (through int) {
	for _, p := range n.byIndex {
		if n.pipes.cut != 0 && p != nil && p.pipe.is != nil && p.pipe.is.opened {
			through++
		}
	}
	return through
}

// checkUDP says whether UDP passes, and what stands between this agent and the others.
func (n *node) checkUDP() healthView {
	h := healthView{Check: "udp", OK: true, Detail: "NAT: " + n.mapping.String()}
	if through := n.throughTCP(); through > 0 {
		h.OK = false
		h.Detail = fmt.Sprintf("no UDP passes: datagrams go through TCP to %d members", through)
		h.Hint = "let UDP pass from this host's port to any, and the answers: it is faster"
	}
	return h
}

// mindPunches begins to meet members that can be reached only by way of others, one
// at a time, and closes sockets that nothing comes by.
func (n *node) mindPunches(now overlay.Instant) {
	u := &n.punches
	if now.Sub(u.looked) < tick {
		return
	}
	u.looked = now
	u.sides = slices.DeleteFunc(u.sides, func(s *side) bool {
		idle := now.Sub(overlay.Instant(s.heard.Load())) >= sideIdle
		if idle {
			_ = s.conn.Close()
		}
		return idle
	})
	for _, p := range n.byIndex {
		if p == nil {
			continue
		}
		q := &p.punch
		out := p.out.Load()
		switch {
		case out == nil || p.barred || p.state != measure.Up || n.pipes.cut != 0:
			q.relayed = 0
		case out.relay == nil:
			q.relayed, q.tries = 0, min(q.tries, 1)
		case q.relayed == 0:
			q.relayed = now
		case now.Sub(q.relayed) >= punchPatience && !now.Before(q.next) && !u.opened:
			q.next = now.Add(punchAgain[min(q.tries, len(punchAgain)-1)])
			q.tries++
			n.punch(now, p, out)
		}
	}
}

// public returns those of a member's addresses that may be its NAT's.
func (n *node) public(p *peer) (all []netip.AddrPort) {
	for _, a := range n.reachable(p.member.Addrs) {
		if a.Addr().Is4() && !a.Addr().IsPrivate() && len(all) < maxReflexive {
			all = append(all, a)
		}
	}
	return all
}

// punch opens sockets to a member, if this agent's port may be another one for
// everybody, and tells the member.
func (n *node) punch(now overlay.Instant, p *peer, out *outbound) {
	to := n.public(p)
	if m := n.portMapping(); len(to) == 0 || m == mapNone || m == mapStable || len(n.punches.sides) >= maxSides {
		return
	}
	d := n.sealProbe(now, out, directProbe)
	if d == nil {
		return
	}
	n.punches.opened = true
	n.log.Debug("meeting a member from many sockets", "name", p.member.Name)
	n.spawn("punch", func(ctx context.Context) error {
		sides := n.openSides(ctx, p.id, to[0], d)
		n.mail.put(func(now overlay.Instant) {
			if out := p.out.Load(); out != nil && len(sides) > 0 {
				_ = n.probe(now, out, punchNumber, 0)
			}
		})
		select {
		case <-ctx.Done():
		case <-time.After(punchFor):
		}
		var lucky []*side
		for _, s := range sides {
			if ctx.Err() == nil && s.heard.Load() != 0 {
				lucky = append(lucky, s)
			} else {
				_ = s.conn.Close()
			}
		}
		if !n.mail.put(func(overlay.Instant) {
			n.punches.opened = false
			n.punches.sides = append(n.punches.sides, lucky...)
		}) {
			for _, s := range lucky {
				_ = s.conn.Close()
			}
		}
		return nil
	})
}

// sealProbe returns a probe as a datagram, nil if the session is over.
func (n *node) sealProbe(now overlay.Instant, out *outbound, number uint32) []byte {
	b := overlay.AppendProbe(make([]byte, overlay.HeaderLen, 128), overlay.Probe{Number: number, Sent: now}, false)
	return out.session.Seal(overlay.KindProbe, 0, b)
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

// spray tries to find one of the sockets that a member has opened to this agent.
func (n *node) spray(now overlay.Instant, p *peer) {
	out := p.out.Load()
	if out == nil || out.byPort() || n.punches.spraying || n.portMapping() == mapVaried {
		return
	}
	to := n.public(p)
	if len(to) == 0 || now.Sub(p.punch.sprayed) < punchFor {
		return
	}
	p.punch.sprayed = now
	n.punches.spraying = true
	n.spawn("spray", func(ctx context.Context) error {
		send := n.sender(func(s *link.Port) *link.Writer { return s.Probe.Writer() })
		for ports := range slices.Chunk(guesses(to), punchBurst) {
			if out = p.out.Load(); out == nil || out.byPort() || ctx.Err() != nil {
				break
			}
			d := n.sealProbe(n.now(), out, directProbe)
			for _, a := range ports {
				if d != nil {
					_ = send(a, d, len(d))
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(punchPause):
			}
		}
		n.mail.put(func(overlay.Instant) { n.punches.spraying = false })
		return nil
	})
}

// guesses returns punchTries endpoints where a NAT may have put the sockets of somebody
// that others see at some addresses of one: behind the ports that they see, where
// ports are given in sequence, and then any.
func guesses(seen []netip.AddrPort) []netip.AddrPort {
	const first, ports = 1024, 1<<16 - 1024 // RFC 4787 REQ-3 leaves out the well-known
	all := make([]netip.AddrPort, 0, punchTries)
	had := make(map[netip.AddrPort]bool)
	add := func(a netip.Addr, port int) {
		g := netip.AddrPortFrom(a, uint16(first+(port-first)%ports))
		if !had[g] && len(all) < punchTries {
			had[g] = true
			all = append(all, g)
		}
	}
	for _, a := range seen {
		for i := 1; i <= 32; i++ { // the next ports
			add(a.Addr(), max(int(a.Port()), first)+i)
		}
		for i := 2; i <= 32; i++ { // 256 sockets in a row, further on
			add(a.Addr(), max(int(a.Port()), first)+i*32)
		}
	}
	for len(all) < punchTries {
		add(seen[rand.IntN(len(seen))].Addr(), first+rand.IntN(ports))
	}
	return all
}

// readdressed tries the new addresses of a member at once: they are as others see
// it, perhaps, and while it tries ours each opens its NAT for the other.
func (n *node) readdressed(now overlay.Instant, p *peer) {
	switch out := p.out.Load(); {
	case out == nil:
		n.sessions.Renew(now, p.id)
	case !out.byPort():
		n.tryDirectly(now, p, 0)
	}
}
