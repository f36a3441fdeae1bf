package p2p

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// A secureTransport is libp2p's TLS behind the gate, for all that isn't QUIC.
// It names the stream multiplexer in the handshake, which spares a round trip.
type secureTransport struct {
	gate   *gate
	self   peer.ID
	muxers []string
	answer func(tls.ConnectionState) []byte // to who asks for a receipt
}

var _ sec.SecureTransport = (*secureTransport)(nil)

func newSecurity(g *gate, answer func(tls.ConnectionState) []byte, self peer.ID, muxers []upgrader.StreamMuxer) *secureTransport {
	t := &secureTransport{gate: g, self: self, answer: answer}
	for _, m := range muxers {
		t.muxers = append(t.muxers, string(m.ID))
	}
	return t
}

// ID implements sec.SecureTransport.
func (t *secureTransport) ID() protocol.ID { return libp2ptls.ID }

// errAnswered ends a connection on which a receipt was asked for.
var errAnswered = errors.New("the agent asked for a receipt")

// SecureInbound implements sec.SecureTransport.
func (t *secureTransport) SecureInbound(ctx context.Context, c net.Conn, p peer.ID) (sec.SecureConn, error) {
	conf, key := t.gate.config(p, true)
	conf.NextProtos = append(append([]string{}, t.muxers...), conf.NextProtos...)
	if t.gate.signed() {
		conf.NextProtos = append(conf.NextProtos, sponsorALPN)
	}
	s := tls.Server(c, conf)
	secured, err := t.secured(ctx, s, key)
	if err == nil && s.ConnectionState().NegotiatedProtocol == sponsorALPN {
		err = t.reply(s)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return secured, nil
}

// reply answers who asks for a receipt, and waits until that is read.
func (t *secureTransport) reply(c *tls.Conn) error {
	_ = c.SetDeadline(time.Now().Add(sponsorTimeout))
	_, err := c.Write(t.answer(c.ConnectionState()))
	if err = errors.Join(err, c.CloseWrite()); err != nil {
		return err
	}
	_, _ = c.Read(make([]byte, 1)) // its end
	return errAnswered
}

// SecureOutbound implements sec.SecureTransport. That it succeeds doesn't mean
// that the other side has let us in.
func (t *secureTransport) SecureOutbound(ctx context.Context, c net.Conn, p peer.ID) (sec.SecureConn, error) {
	conf, key := t.gate.config(p, false)
	conf.NextProtos = append(append([]string{}, t.muxers...), conf.NextProtos...)
	secured, err := t.secured(ctx, tls.Client(c, conf), key)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return secured, nil
}

// secured does the handshake. The other side's key is in a channel after it.
func (t *secureTransport) secured(ctx context.Context, c *tls.Conn, key <-chan crypto.PubKey) (sec.SecureConn, error) {
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	pub := <-key // libp2p's check has put it there, or closed the channel
	if pub == nil {
		return nil, errors.New("TLS: the other side has shown no key")
	}
	p, err := peer.IDFromPublicKey(pub)
	if err != nil {
		return nil, err
	}
	muxer := c.ConnectionState().NegotiatedProtocol
	if muxer == "libp2p" { // names no multiplexer
		muxer = ""
	}
	return &secureConn{Conn: c, self: t.self, peer: p, key: pub, muxer: protocol.ID(muxer)}, nil
}

// A secureConn is a connection by TLS; it implements sec.SecureConn.
type secureConn struct {
	*tls.Conn
	self, peer peer.ID
	key        crypto.PubKey
	muxer      protocol.ID
}

// LocalPeer returns this agent.
func (c *secureConn) LocalPeer() peer.ID { return c.self }

// RemotePeer returns the other one.
func (c *secureConn) RemotePeer() peer.ID { return c.peer }

// RemotePublicKey returns the other one's key.
func (c *secureConn) RemotePublicKey() crypto.PubKey { return c.key }

// ConnState says what was agreed on.
func (c *secureConn) ConnState() network.ConnectionState {
	return network.ConnectionState{StreamMultiplexer: c.muxer, UsedEarlyMuxerNegotiation: c.muxer != ""}
}
