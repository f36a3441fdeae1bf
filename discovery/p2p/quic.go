package p2p

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/quic-go/quic-go"
	"go.uber.org/fx"
)

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
	return t.Transport.Listen(conf, q)
}

// Dial implements quicreuse.QUICTransport.
func (t *quicTransport) Dial(ctx context.Context, to net.Addr, conf *tls.Config, q *quic.Config) (*quic.Conn, error) {
	conf = conf.Clone()
	t.gate.guard(conf, false)
	return t.Transport.Dial(ctx, to, conf, q)
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

// reuse returns the constructor of libp2p's QUIC sockets: always ours. Like
// libp2p's own constructor, which it replaces, it hands connections to the
// resource manager before their handshake, and closes with the host. made is
// told what was made.
func reuse(ds doors, g *gate, made func(*quicreuse.ConnManager)) any {
	return func(reset quic.StatelessResetKey, token quic.TokenGeneratorKey, limits network.ResourceManager, lifecycle fx.Lifecycle) (*quicreuse.ConnManager, error) {
		m, err := quicreuse.NewConnManager(reset, token,
			// It is asked for a socket when a dial finds none of its family.
			quicreuse.OverrideListenUDP(func(network string, _ *net.UDPAddr) (net.PacketConn, error) {
				return nil, noSocket(network)
			}))
		if err != nil {
			return nil, err
		}
		for _, c := range ds.all() {
			t := &quicTransport{&quic.Transport{
				Conn: c, StatelessResetKey: &reset, TokenGeneratorKey: &token,
				ConnContext: counted(limits), VerifySourceAddress: limits.VerifySourceAddress,
			}, g}
			if _, err := m.LendTransport(c.family(), t, anywhere{c}); err != nil {
				return nil, err
			}
			lifecycle.Append(fx.StopHook(t.Close)) // after m has: hooks run backwards
		}
		lifecycle.Append(fx.StopHook(m.Close))
		made(m)
		return m, nil
	}
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
