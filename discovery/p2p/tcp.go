package p2p

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	// headStart is how long a dial tries QUIC alone: time for it to answer from
	// the other side of the world, or from nearer after a loss, which QUIC
	// repairs after 200 ms.
	headStart = 500 * time.Millisecond
	// quicFirst is how many of an agent's addresses QUIC tries in that time.
	// libp2p tries eight at once, and TCP must be among them.
	quicFirst = 4
)

// A tcpTransport is libp2p's TCP behind the door: it listens in our lobbies, and
// dials with a proof.
type tcpTransport struct {
	*tcp.TcpTransport
	upgrader transport.Upgrader
	lobbies  []*lobby
}

// newTCP returns the TCP transport. Its connections are secured by the gate.
func newTCP(ds doors, g *gate, answer func(tls.ConnectionState) []byte, self peer.ID, gater connmgr.ConnectionGater, limits network.ResourceManager) (*tcpTransport, error) {
	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}
	u, err := upgrader.New([]sec.SecureTransport{newSecurity(g, answer, self, muxers)}, muxers, nil, limits, gater)
	if err != nil {
		return nil, err
	}
	t, err := tcp.NewTCPTransport(u, limits, nil, tcp.WithConnectionTimeout(dialTimeout),
		tcp.WithDialerForAddr(func(ma.Multiaddr) (tcp.ContextDialer, error) { return proofDialer{ds}, nil }))
	return &tcpTransport{t, u, ds.lobbies}, err
}

// Listen returns the listener behind the lobby at an address. As libp2p's own,
// it asks the gater and the resource manager about every connection.
func (t *tcpTransport) Listen(at ma.Multiaddr) (transport.Listener, error) {
	i := slices.IndexFunc(t.lobbies, func(l *lobby) bool { return l.at.Equal(at) })
	if i < 0 {
		return nil, fmt.Errorf("no TCP listener at %v", at)
	}
	return t.upgrader.UpgradeGatedMaListener(t, t.upgrader.GateMaListener(t.lobbies[i])), nil
}

// A proofDialer connects and proves the network key.
type proofDialer struct{ doors doors }

// DialContext dials from the address of our UDP socket of the family, so that
// an agent that is to use one address uses it for TCP too.
func (d proofDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	socket, err := d.doors.of(strings.Replace(network, "tcp", "udp", 1))
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	if ip := socket.LocalAddr().(*net.UDPAddr).IP; !ip.IsUnspecified() {
		dialer.LocalAddr = &net.TCPAddr{IP: ip}
	}
	c, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	hurry(c)
	by := d.doors.door.keyOut()
	if _, err = c.Write(d.doors.door.proofBy(by)); err == nil && !d.doors.door.bind(c, by) { // there is room in a new socket
		err = errors.New("the network's key has just changed")
	}
	if err != nil {
		reset(c)
		return nil, err
	}
	return c, nil
}

// rank says when to dial an agent's addresses. Where no UDP passes there is no time to
// lose.
func (n *Node) rank(addrs []ma.Multiaddr) []network.AddrDelay {
	if n.piping.Load() > 0 {
		return rank(addrs, 0)
	}
	return rank(addrs, headStart)
}

// rank ranks QUIC as libp2p would, and TCP after a head start, or as soon as all that
// QUIC tried has failed.
func rank(addrs []ma.Multiaddr, headStart time.Duration) []network.AddrDelay {
	var quic, stream []ma.Multiaddr
	for _, m := range addrs {
		if _, by, _ := addrPort(m); by == TCP {
			stream = append(stream, m)
		} else {
			quic = append(quic, m)
		}
	}
	first := swarm.DefaultDialRanker(quic)
	second := swarm.DefaultDialRanker(stream)
	if len(quic) == 0 {
		return second
	}
	for i := range second {
		second[i].Delay += headStart
	}
	for i := quicFirst; i < len(first) && len(second) > 0; i++ {
		first[i].Delay += 2 * headStart
	}
	return append(first, second...)
}
