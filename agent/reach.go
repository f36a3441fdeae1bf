package agent

import (
	"context"
	"crypto/rand"
	"net/netip"
	"slices"
	"sync"
	"time"

	"farlan/discovery/p2p"
	"farlan/measure"
	"farlan/overlay"
)

// Whether this agent can be reached from outside only others can tell. An agent asks a
// member, over the control connection, to try; the member knocks at the addresses that
// the asking one tells in its record and that it also sees it at, so that nobody can
// make others knock elsewhere, and answers:
//
//	0    reachAsk, or reachAnswer. Messages of stores begin with another byte, and
//	     agents that don't know these count and drop them
//	1–8  token, by which knocks and answers are told apart
//	9    of an answer: flags, 1 datagrams were sent, 2 TCP connected
const (
	reachAsk    = 0x80
	reachAnswer = 0x81

	reachSent, reachTCP = 1, 2

	reachWait    = 4 * time.Second // for an answer and knocks
	reachMembers = 3               // are asked at once
	reachAddrs   = 2               // are knocked at
	// reachRate is how often a second this agent knocks for others, at most.
	reachRate  = 1
	maxReaches = 16 // may be under way
)

// reach is what is under way of this. Safe for concurrent use.
type reach struct {
	mu      sync.Mutex
	asked   map[p2p.Token]*reachState
	knocks  overlay.Bucket
	started bool
}

// A reachState is what is known of an attempt to reach this agent.
type reachState struct {
	member   overlay.AgentID
	answered bool
	sent     bool // datagrams, by the member
	tcp      bool
	udp      bool           // one came
	from     netip.AddrPort // where it came from
	done     chan struct{}  // closed when all that can come has
}

// knocked notes that somebody's knock came.
func (r *reach) knocked(from netip.AddrPort, token p2p.Token) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.asked[token]; s != nil && !s.udp {
		s.udp, s.from = true, from
		s.finish()
	}
}

// finish ends an attempt if nothing more can come. The caller holds the lock.
func (s *reachState) finish() {
	if s.answered && (s.udp || !s.sent) {
		select {
		case <-s.done:
		default:
			close(s.done)
		}
	}
}

// reachMessage takes a message about this; false is that it is another one.
func (n *node) reachMessage(from overlay.AgentID, msg []byte) bool {
	if len(msg) == 0 || msg[0] != reachAsk && msg[0] != reachAnswer {
		return false
	}
	const head = 1 + len(p2p.Token{})
	switch {
	case msg[0] == reachAsk && len(msg) >= head:
		n.mail.offer(func(now overlay.Instant) { n.knockFor(now, from, p2p.Token(msg[1:head])) })
	case msg[0] == reachAnswer && len(msg) > head:
		n.reach.mu.Lock()
		defer n.reach.mu.Unlock()
		if s := n.reach.asked[p2p.Token(msg[1:head])]; s != nil && s.member == from && !s.answered {
			s.answered, s.sent, s.tcp = true, msg[head]&reachSent != 0, msg[head]&reachTCP != 0
			s.finish()
		}
	}
	return true
}

// knockFor knocks at a member that asks for it.
func (n *node) knockFor(now overlay.Instant, id overlay.AgentID, token p2p.Token) {
	if !n.reach.started {
		n.reach.knocks, n.reach.started = overlay.NewBucket(reachRate, 2*reachMembers), true
	}
	m, ok := n.store.Member(id)
	seen, connected := n.p2p.RemoteAddr(id)
	if !ok || !connected || !n.reach.knocks.Allow(now) {
		return
	}
	addrs := slices.DeleteFunc(n.reachable(m.Addrs), func(a netip.AddrPort) bool { return a.Addr().Unmap() != seen.Addr().Unmap() })
	addrs = addrs[:min(len(addrs), reachAddrs)]
	n.spawn("knock", func(ctx context.Context) error {
		var flags byte
		for _, a := range addrs {
			sent, tcp := n.p2p.Knock(ctx, a, token)
			if sent {
				flags |= reachSent
			}
			if tcp {
				flags |= reachTCP
			}
		}
		n.p2p.Send(id, append(append([]byte{reachAnswer}, token[:]...), flags))
		return nil
	})
}

// askReach asks members to reach this agent, those first that see it from outside of
// the NAT in front of it. It is for the loop.
func (n *node) askReach() []p2p.Token {
	own := n.addresses()
	inside := func(id overlay.AgentID) int {
		p := n.peers[id]
		if p == nil || p.state != measure.Up {
			return 2
		}
		if a := p.seen.Load(); a != nil && slices.Contains(own, *a) {
			return 1
		}
		return 0
	}
	members := n.p2p.Connections()
	slices.SortStableFunc(members, func(a, b overlay.AgentID) int { return inside(a) - inside(b) })
	n.reach.mu.Lock()
	defer n.reach.mu.Unlock()
	if n.reach.asked == nil {
		n.reach.asked = make(map[p2p.Token]*reachState)
	}
	var tokens []p2p.Token
	for _, id := range members[:min(len(members), reachMembers)] {
		if len(n.reach.asked) >= maxReaches {
			break
		}
		var token p2p.Token
		_, _ = rand.Read(token[:]) // doesn't fail
		n.reach.asked[token] = &reachState{member: id, done: make(chan struct{})}
		tokens = append(tokens, token)
		n.p2p.Send(id, append([]byte{reachAsk}, token[:]...))
	}
	return tokens
}

// reached waits for what askReach began, and returns what came of it.
func (n *node) reached(ctx context.Context, tokens []p2p.Token) (states []reachState) {
	ctx, cancel := context.WithTimeout(ctx, reachWait)
	defer cancel()
	for _, token := range tokens {
		n.reach.mu.Lock()
		s := n.reach.asked[token]
		n.reach.mu.Unlock()
		select {
		case <-s.done:
		case <-ctx.Done():
		}
		n.reach.mu.Lock()
		delete(n.reach.asked, token)
		states = append(states, *s)
		n.reach.mu.Unlock()
	}
	return states
}
