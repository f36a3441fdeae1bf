package p2p

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/quic-go/quic-go"
)

const (
	// Seeds are dialled again after a second, then two, up to half a minute, as
	// long as nobody is connected.
	joinFirst = time.Second
	joinMost  = 30 * time.Second
	// seedsAtOnce is how many are dialled side by side.
	seedsAtOnce = 8

	sweepEvery = 2 * time.Second
	// idleAge is how old a connection must be that Keep doesn't name. The DHT
	// uses one for some seconds; a newcomer's record takes less to spread.
	idleAge = 20 * time.Second
	// maxIdleConns is how many such connections there may be, as a server of the DHT may
	// have them with everybody. Beyond, the oldest are closed at an eighth of that age,
	// which is enough for a query.
	maxIdleConns = 12
	// spareAge is how old a second connection to a peer must be: younger ones
	// may be about to replace a first that is dead.
	spareAge = 40 * time.Second
)

// join keeps this agent in the network until the node ends: dials the seeds
// while nobody is connected, and closes what nobody needs.
func (n *Node) join() {
	wait := joinFirst
	retry := time.Now()
	for n.ctx.Err() == nil {
		next := sweepEvery
		switch {
		case n.Joined():
			wait, retry = joinFirst, time.Now()
			n.sweep(time.Now())
		case time.Now().Before(retry):
			next = time.Until(retry)
		default:
			n.dialSeeds()
			next, retry = wait, time.Now().Add(wait)
			wait = min(2*wait, joinMost)
		}
		select {
		case <-n.ctx.Done():
		case <-n.alone:
		case <-time.After(next):
		}
	}
}

// dialSeeds dials the seeds, some at a time, until anybody is connected.
func (n *Node) dialSeeds() {
	for seeds := range slices.Chunk(n.cfg.Bootstrap, seedsAtOnce) {
		each(n, seeds, func(s Seed) {
			if s.ID == n.self {
				return
			}
			err := n.dialSeed(s)
			n.mu.Lock()
			n.failed[s] = err
			n.mu.Unlock()
		})
		if n.Joined() || n.ctx.Err() != nil {
			return
		}
	}
}

func (n *Node) dialSeed(s Seed) error {
	addrs := []netip.AddrPort{s.Addr}
	if s.Host != "" {
		ctx, cancel := context.WithTimeout(n.ctx, 2*dialTimeout)
		ips, err := net.DefaultResolver.LookupNetIP(ctx, s.Family, s.Host)
		cancel()
		if err != nil {
			return err
		}
		addrs = addrs[:0]
		for _, ip := range ips {
			addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), s.Addr.Port()))
		}
	}
	return n.Dial(n.ctx, s.ID, addrs)
}

// JoinError says why no seed let this agent in, in one line for people; "" if
// somebody is connected or no seed has been tried. A wrong clock of this host
// is the reason as soon as it is known.
func (n *Node) JoinError() string {
	skew, skewed := n.ClockSkew()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.peers) > 0 {
		return ""
	}
	if skewed {
		return skewError(skew)
	}
	var out []string
	for _, s := range n.cfg.Bootstrap {
		if err := n.failed[s]; err != nil {
			where := s.Addr.String()
			if s.Host != "" {
				where = fmt.Sprintf("%s:%d", s.Host, s.Addr.Port())
			}
			// The agent is already named by the wrapping of Dial.
			out = append(out, fmt.Sprintf("%s: %v", where, err))
		}
	}
	return strings.Join(out, "; ")
}

// skewError says what is wrong if our clock is ahead of all others.
func skewError(ahead time.Duration) string {
	side := "ahead of"
	if ahead < 0 {
		side = "behind"
	}
	return fmt.Sprintf("this host's clock is %v %s the other members' (at most %v are allowed): set it right, with 'timedatectl set-ntp true' for example",
		ahead.Abs(), side, ClockLimit)
}

var (
	errClosed   = errors.New("it closed the connection")
	errNotTaken = fmt.Errorf("%w: it doesn't take this agent's credential, which may be revoked or over, or one of the two clocks is wrong", errClosed)
)

var errSilent = fmt.Errorf("no answer: is it running there, does UDP or TCP pass, does it hold the same network key, and are both clocks right to %v?", ClockLimit)

// reason returns what matters of an error of libp2p's dialling: of all addresses
// and transports, who else is there, then that there is silence, then whatever
// came first.
func reason(err error) error {
	var dial *swarm.DialError
	if errors.As(err, &dial) && len(dial.DialErrors) > 0 {
		err = dial.DialErrors[0].Cause
		for _, e := range dial.DialErrors {
			if _, ok := errors.AsType[sec.ErrPeerIDMismatch](e.Cause); ok {
				err = e.Cause
				break
			}
			if isTimeout(e.Cause) {
				err = e.Cause
			}
		}
	}
	if other, ok := errors.AsType[sec.ErrPeerIDMismatch](err); ok {
		if id, ok := agentID(other.Actual); ok {
			return fmt.Errorf("there is another agent, %s", id)
		}
	}
	if isTimeout(err) {
		return errSilent
	}
	if isAlert(err) {
		return errNotTaken
	}
	return err
}

// isAlert says whether the other side ended a TLS handshake: nothing but our
// credential can have displeased it.
func isAlert(err error) bool {
	if e, ok := errors.AsType[*quic.TransportError](err); ok {
		return e.Remote && e.ErrorCode.IsCryptoError()
	}
	e, ok := errors.AsType[*net.OpError](err)
	return ok && e.Op == "remote error" // as crypto/tls says
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// sweep closes connections that nobody needs: to peers that Keep doesn't name,
// and second ones, which come when two agents dial each other. Of the two, the
// agent of smaller id closes that by TCP, or the younger.
func (n *Node) sweep(now time.Time) {
	n.mu.Lock()
	keep := n.keep
	n.mu.Unlock()
	var idle []network.Conn // the youngest of each peer
	for _, p := range n.host.Network().Peers() {
		id, ok := agentID(p)
		conns := n.host.Network().ConnsToPeer(p)
		if !ok || len(conns) == 0 {
			continue
		}
		slices.SortFunc(conns, byWorth)
		if n.hasPipe(id) {
			continue
		}
		if keep != nil && !keep[id] {
			idle = append(idle, slices.MaxFunc(conns, byAge))
		} else if n.self.Compare(id) < 0 {
			for _, c := range conns[1:] {
				if now.Sub(c.Stat().Opened) > spareAge {
					_ = c.Close()
				}
			}
		}
	}
	n.closeIdle(now, idle)
}

// closeIdle closes the connections to peers that nobody needs any more.
func (n *Node) closeIdle(now time.Time, idle []network.Conn) {
	slices.SortFunc(idle, byAge)
	for i, c := range idle {
		most := idleAge
		if len(idle)-i > maxIdleConns {
			most /= 8
		}
		if now.Sub(c.Stat().Opened) > most {
			n.cfg.Log.Debug("connection not needed", "at", c.RemoteMultiaddr())
			_ = n.host.Network().ClosePeer(c.RemotePeer())
		}
	}
}

func byAge(a, b network.Conn) int { return a.Stat().Opened.Compare(b.Stat().Opened) }

// byWorth sorts connections by QUIC in front of those by TCP.
func byWorth(a, b network.Conn) int {
	_, first, _ := addrPort(a.RemoteMultiaddr())
	_, second, _ := addrPort(b.RemoteMultiaddr())
	return cmp.Or(cmp.Compare(first, second), byAge(a, b)) // "quic" < "tcp"
}
