package p2p

import (
	"errors"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/x/rate"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/quic-go/quic-go"
)

const (
	// dialTimeout is how long a dial may take: several round trips around the
	// world, but a dead seed must not hold up those behind it.
	dialTimeout = 2 * time.Second

	// Limits of connections. libp2p's own (8 connections of one IPv4 address,
	// 64 to 128 in all) are too low for agents behind one address, and for a
	// server of the DHT. A connection costs about 100 KB.
	maxConns        = 1024
	maxConnsPerAddr = 256 // of one IPv4 address or IPv6 /56
	maxConnsPerSite = 512 // of one IPv6 /48
	// newConnsPerSecond is how many connections a second one address may open,
	// after a burst of maxConnsPerAddr.
	newConnsPerSecond = 10

	// maxRecordStreams is how many incoming streams of records a peer may have:
	// one, and another one while the first is being replaced.
	maxRecordStreams = 4
)

// newHost makes a libp2p host that speaks QUIC and TCP through the doors, and
// nothing else: no relay, no autonat, no hole punching, no mDNS, no ping, no metrics.
// libp2p.New isn't used: it links every transport that libp2p has, which makes an
// agent's program a fifth larger and its memory by 6 MB.
func (n *Node) newHost() (host.Host, error) {
	limits, err := newResourceManager(recordsOf(n.cfg.Network))
	if err != nil {
		return nil, err
	}
	bus := eventbus.NewBus()
	sw, err := n.newSwarm(bus, limits)
	if err != nil {
		return nil, errors.Join(err, limits.Close())
	}
	basic, err := basichost.NewHost(sw, &basichost.HostOpts{
		EventBus:        bus,
		AddrsFactory:    func([]ma.Multiaddr) []ma.Multiaddr { return n.cfg.multiaddrs(n.cfg.Addrs()) },
		ConnManager:     connmgr.NullConnMgr{}, // Node.sweep does it
		UserAgent:       "farlan",
		ProtocolVersion: n.cfg.Network.ProtocolPrefix(),
	})
	if err != nil {
		return nil, errors.Join(err, sw.Close(), sw.Peerstore().Close(), limits.Close())
	}
	n.identify = basic.IDService()
	h := &closingHost{BasicHost: basic}
	if err = n.listen(h, sw, limits); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	basic.Start()
	return h, nil
}

// newSwarm makes libp2p's set of connections, which has no transports yet.
func (n *Node) newSwarm(bus event.Bus, limits network.ResourceManager) (*swarm.Swarm, error) {
	self, err := peer.IDFromPrivateKey(n.gate.key)
	if err != nil {
		return nil, err
	}
	known, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, err
	}
	if err = errors.Join(known.AddPrivKey(self, n.gate.key), known.AddPubKey(self, n.gate.key.GetPublic())); err != nil {
		return nil, errors.Join(err, known.Close())
	}
	sw, err := swarm.NewSwarm(self, known, bus,
		swarm.WithConnectionGater(gater{n.cfg.usable}),
		swarm.WithResourceManager(limits),
		swarm.WithDialTimeout(dialTimeout),
		swarm.WithDialRanker(n.rank),
		// These would take a hundred dead addresses as proof that no UDP
		// passes, and then dial TCP only.
		swarm.WithUDPBlackHoleSuccessCounter(nil),
		swarm.WithIPv6BlackHoleSuccessCounter(nil),
	)
	if err != nil {
		return nil, errors.Join(err, known.Close())
	}
	return sw, nil
}

// listen makes a host speak QUIC and TCP, and accept connections.
func (n *Node) listen(h *closingHost, sw *swarm.Swarm, limits network.ResourceManager) (err error) {
	gate := gater{n.cfg.usable}
	if n.quic, h.then, err = newReuse(n.doors, n.gate, limits); err != nil {
		return err
	}
	byQUIC, err := libp2pquic.NewTransport(n.gate.key, n.quic, nil, gate, limits)
	if err != nil {
		return err
	}
	byTCP, err := newTCP(n.doors, n.gate, n.answer, sw.LocalPeer(), gate, limits)
	if err != nil {
		return err
	}
	if err = errors.Join(sw.AddTransport(byQUIC), sw.AddTransport(byTCP)); err != nil {
		return err
	}
	listen, err := n.doors.multiaddrs()
	if err != nil {
		return err
	}
	return sw.Listen(listen...)
}

// A closingHost closes the QUIC transports of its connections after these.
type closingHost struct {
	*basichost.BasicHost
	then func() error // nil: there are none
}

// Close implements host.Host.
func (h *closingHost) Close() error {
	err := h.BasicHost.Close()
	if h.then != nil {
		err = errors.Join(err, h.then())
	}
	return err
}

// multiaddrs returns where libp2p listens.
func (ds doors) multiaddrs() ([]ma.Multiaddr, error) {
	var all []ma.Multiaddr
	for _, c := range ds.all() {
		m, err := quicreuse.ToQuicMultiaddr(anywhere{c}.LocalAddr(), quic.Version1)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	for _, l := range ds.lobbies {
		all = append(all, l.at)
	}
	return all, nil
}

// newResourceManager bounds what others can make libp2p hold. The records
// protocol of a later key has libp2p's own limits, 64 incoming streams a peer.
func newResourceManager(records protocol.ID) (network.ResourceManager, error) {
	limits := rcmgr.DefaultLimits
	// As libp2p bounds its identify protocol by default.
	bound := rcmgr.BaseLimit{StreamsInbound: 64, StreamsOutbound: 64, Streams: 128, Memory: 4 << 20}
	perPeer := rcmgr.BaseLimit{StreamsInbound: 16, StreamsOutbound: 16, Streams: 32, Memory: 1 << 20}
	limits.AddServiceLimit(identify.ServiceName, bound, rcmgr.BaseLimitIncrease{})
	limits.AddServicePeerLimit(identify.ServiceName, perPeer, rcmgr.BaseLimitIncrease{})
	for _, id := range []protocol.ID{identify.ID, identify.IDPush} {
		limits.AddProtocolLimit(id, bound, rcmgr.BaseLimitIncrease{})
		limits.AddProtocolPeerLimit(id, perPeer, rcmgr.BaseLimitIncrease{})
	}
	limits.SystemBaseLimit = rcmgr.BaseLimit{
		Conns: maxConns, ConnsInbound: maxConns, ConnsOutbound: maxConns,
		Streams: 16 * maxConns, StreamsInbound: 8 * maxConns, StreamsOutbound: 8 * maxConns,
		FD: maxConns, Memory: 256 << 20,
	}
	limits.TransientBaseLimit = rcmgr.BaseLimit{
		Conns: 256, ConnsInbound: 256, ConnsOutbound: 256,
		Streams: 512, StreamsInbound: 512, StreamsOutbound: 512,
		FD: 256, Memory: 64 << 20,
	}
	limits.SystemLimitIncrease, limits.TransientLimitIncrease = rcmgr.BaseLimitIncrease{}, rcmgr.BaseLimitIncrease{}
	limits.AddProtocolLimit(records, rcmgr.BaseLimit{
		Streams: 4 * maxConns, StreamsInbound: 2 * maxConns, StreamsOutbound: 2 * maxConns, Memory: 256 << 20,
	}, rcmgr.BaseLimitIncrease{})
	limits.AddProtocolPeerLimit(records, rcmgr.BaseLimit{
		Streams: 2 * maxRecordStreams, StreamsInbound: maxRecordStreams, StreamsOutbound: maxRecordStreams, Memory: 16 << 20,
	}, rcmgr.BaseLimitIncrease{})

	perAddr := rate.Limit{RPS: newConnsPerSecond, Burst: maxConnsPerAddr}
	return rcmgr.NewResourceManager(
		// What isn't set above is what libp2p takes on a host of 8 GB.
		rcmgr.NewFixedLimiter(limits.Scale(1<<30, 1<<10)),
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: maxConnsPerAddr}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: maxConnsPerAddr}, {PrefixLength: 48, ConnCount: maxConnsPerSite}},
		),
		rcmgr.WithConnRateLimiters(&rate.Limiter{
			NetworkPrefixLimits: []rate.PrefixLimit{ // none on this host
				{Prefix: netip.MustParsePrefix("127.0.0.0/8")},
				{Prefix: netip.MustParsePrefix("::1/128")},
			},
			SubnetRateLimiter: rate.SubnetLimiter{
				IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: perAddr}},
				IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: perAddr}},
				GracePeriod:      time.Minute,
			},
		}),
	)
}

// A gater refuses connections over the overlay itself, which would carry the
// overlay in the overlay, and peers that can't be agents.
type gater struct{ usable func(netip.Addr) bool }

var _ connmgr.ConnectionGater = gater{}

// InterceptPeerDial allows every agent.
func (gater) InterceptPeerDial(p peer.ID) bool { _, ok := agentID(p); return ok }

// InterceptAddrDial allows usable addresses.
func (g gater) InterceptAddrDial(_ peer.ID, m ma.Multiaddr) bool { return g.allows(m) }

// InterceptAccept allows usable addresses.
func (g gater) InterceptAccept(c network.ConnMultiaddrs) bool { return g.allows(c.RemoteMultiaddr()) }

// InterceptSecured allows every agent.
func (gater) InterceptSecured(_ network.Direction, p peer.ID, _ network.ConnMultiaddrs) bool {
	_, ok := agentID(p)
	return ok
}

// InterceptUpgraded allows everything.
func (gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

func (g gater) allows(m ma.Multiaddr) bool {
	ip, err := manet.ToIP(m)
	if err != nil {
		return false
	}
	addr, ok := netip.AddrFromSlice(ip)
	return ok && g.usable(addr.Unmap())
}
