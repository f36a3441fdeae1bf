package p2p

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/quic-go/quic-go"
)

const (
	// keepAlive is after how long a silent connection is asked for a sign of life. Below
	// it, two agents that have nothing to tell each other are silent: each sends one
	// packet then. NATs forget after two minutes (RFC 4787 § 4.3), some after half a
	// one (RFC 9000 § 10.1.2).
	keepAlive = 25 * time.Second
	// maxIdle is after how long of silence a connection is given up. A Pulse notices
	// sooner, once the sign of life doesn't come.
	maxIdle = 60 * time.Second

	// What the other side may have sent before it is read: a connection carries at
	// most about a message of records in each direction of a round trip, if both
	// stores are the same. A Flush of a store is 1 MB.
	firstWindow  = 64 << 10
	streamWindow = 1 << 20
	connWindow   = 2 << 20
	// maxStreams is how many streams the other side may have open: one of records,
	// those of identify, and the queries of one DHT.
	maxStreams = 32
)

// tuned returns libp2p's configuration with the times and windows of a control
// connection: there are few, they last, and most of the time nothing passes.
func tuned(q *quic.Config) *quic.Config {
	q = q.Clone()
	q.KeepAlivePeriod, q.MaxIdleTimeout = keepAlive, maxIdle
	q.InitialStreamReceiveWindow, q.InitialConnectionReceiveWindow = firstWindow, 2*firstWindow
	q.MaxStreamReceiveWindow, q.MaxConnectionReceiveWindow = streamWindow, connWindow
	q.MaxIncomingStreams = maxStreams
	q.EnableDatagrams = false
	return q
}

// A quicTransport is quic-go's on one of our sockets, behind the gate: whatever
// libp2p has in its TLS configurations, the gate adds its part.
type quicTransport struct {
	*quic.Transport
	gate *gate
}

var _ quicreuse.QUICTransport = (*quicTransport)(nil)

// Listen implements quicreuse.QUICTransport.
func (t *quicTransport) Listen(conf *tls.Config, q *quic.Config) (quicreuse.QUICListener, error) {
	conf = conf.Clone()
	choose := conf.GetConfigForClient // quicreuse's, by the protocol that the client names
	conf.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c, err := choose(hello)
		if err != nil {
			return nil, err
		}
		c = c.Clone()
		t.gate.guard(c, true)
		return c, nil
	}
	return t.Transport.Listen(conf, tuned(q))
}

// Dial implements quicreuse.QUICTransport.
func (t *quicTransport) Dial(ctx context.Context, to net.Addr, conf *tls.Config, q *quic.Config) (*quic.Conn, error) {
	conf = conf.Clone()
	t.gate.guard(conf, false)
	return t.Transport.Dial(ctx, to, conf, tuned(q))
}

// anywhere is a socket that seems to be bound to no address: libp2p lends others
// only such.
type anywhere struct{ *doorConn }

func (a anywhere) LocalAddr() net.Addr {
	u := *a.doorConn.LocalAddr().(*net.UDPAddr)
	if u.IP = net.IPv6unspecified; a.doorConn.LocalAddr().(*net.UDPAddr).IP.To4() != nil {
		u.IP = net.IPv4zero
	}
	return &u
}

// newReuse makes libp2p's QUIC on our sockets, and on no others. Like libp2p's own, it
// hands connections to the resource manager before their handshake. closeAll is for
// when the host is closed.
func newReuse(ds doors, g *gate, limits network.ResourceManager) (_ *quicreuse.ConnManager, closeAll func() error, err error) {
	var reset quic.StatelessResetKey
	var token quic.TokenGeneratorKey
	if err = errors.Join(derive(g.key, "farlan quic reset", reset[:]), derive(g.key, "farlan quic token", token[:])); err != nil {
		return nil, nil, err
	}
	m, err := quicreuse.NewConnManager(reset, token,
		// It is asked for a socket when a dial finds none of its family.
		quicreuse.OverrideListenUDP(func(network string, _ *net.UDPAddr) (net.PacketConn, error) {
			return nil, noSocket(network)
		}))
	if err != nil {
		return nil, nil, err
	}
	closers := []func() error{m.Close}
	closeAll = func() error {
		var errs []error
		for _, c := range closers {
			errs = append(errs, c())
		}
		return errors.Join(errs...)
	}
	for _, c := range ds.all() {
		t := &quicTransport{&quic.Transport{
			Conn: c, StatelessResetKey: &reset, TokenGeneratorKey: &token,
			ConnContext: counted(limits), VerifySourceAddress: limits.VerifySourceAddress,
		}, g}
		closers = append(closers, t.Close)
		if _, err := m.LendTransport(c.family(), t, anywhere{c}); err != nil {
			return nil, nil, errors.Join(err, closeAll())
		}
	}
	return m, closeAll, nil
}

// derive fills b with what only the holder of a key can make of it, and makes again
// after a restart: then connections of before are told that they are over.
func derive(key crypto.PrivKey, label string, b []byte) error {
	raw, err := key.Raw()
	if err != nil {
		return err
	}
	made, err := hkdf.Key(sha256.New, raw, nil, label, len(b))
	copy(b, made)
	return err
}

// counted returns what hands connections to the resource manager.
func counted(limits network.ResourceManager) func(context.Context, *quic.ClientInfo) (context.Context, error) {
	return func(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
		addr, err := quicreuse.ToQuicMultiaddr(info.RemoteAddr, quic.Version1)
		if err != nil {
			addr = nil // the resource manager decides
		}
		scope, err := limits.OpenConnection(network.DirInbound, false, addr)
		if err != nil {
			return ctx, err
		}
		ctx = network.WithConnManagementScope(ctx, scope)
		context.AfterFunc(ctx, scope.Done)
		return ctx, nil
	}
}
