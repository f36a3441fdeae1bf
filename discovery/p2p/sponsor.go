package p2p

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/multiformats/go-multistream"
	"github.com/quic-go/quic-go"

	"farlan/discovery"
)

// An agent that joins by a one-time invite is no member until another one, its
// sponsor, gives it a receipt. It asks in a connection of its own, by QUIC or TCP,
// which libp2p has no part in: its protocol in the TLS handshake (ALPN) is
// sponsorALPN. The gate lets a credential that lacks nothing but the receipt
// through there and nowhere else. The certificate says all that there is to ask, so
// only the sponsor speaks, on a stream that it opens or, by TCP, the connection:
//
//	0   1 done; 2 another agent has the invite; 3 revoked; 4 not now
//	1–  the credential, complete, if done
const (
	sponsorALPN = "farlan-sponsor/1"

	sponsorDone       = 1
	sponsorSuperseded = 2
	sponsorRevoked    = 3
	sponsorNotNow     = 4

	// sponsorTimeout bounds both sides' part.
	sponsorTimeout = 2 * dialTimeout
	// maxSponsored is how many agents are answered at once; others are turned
	// away, and ask again.
	maxSponsored = 16
)

var (
	// ErrRefused is that an agent can't be a member: it is told so by others.
	ErrRefused   = errors.New("the invite is of no use any more")
	errNotNow    = errors.New("it can't give a receipt now")
	errNoReceipt = errors.New("it sent no receipt")
)

// listenSponsor accepts those who ask for receipts by QUIC.
func (n *Node) listenSponsor() error {
	for _, c := range n.doors.all() {
		at, err := quicreuse.ToQuicMultiaddr(anywhere{c}.LocalAddr(), quic.Version1)
		if err != nil {
			return err
		}
		conf := &tls.Config{
			NextProtos: []string{sponsorALPN},
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				return n.sponsorConfig("", true), nil
			},
		}
		l, err := n.quic.ListenQUIC(at, conf, func(*quic.Conn, uint64) bool { return false })
		if err != nil {
			return fmt.Errorf("listen for newcomers: %w", err)
		}
		n.receptions = append(n.receptions, l)
		n.spawn(func() { n.receive(l) })
	}
	return nil
}

// sponsorConfig returns how to do a handshake about a receipt.
func (n *Node) sponsorConfig(p peer.ID, server bool) *tls.Config {
	conf, _ := n.gate.config(p, server)
	conf.NextProtos = []string{sponsorALPN}
	return conf
}

// receive answers those who ask by QUIC, until l is closed.
func (n *Node) receive(l quicreuse.Listener) {
	for {
		c, err := l.Accept(n.ctx)
		if err != nil {
			return
		}
		if !n.spawn(func() { n.answerByQUIC(c) }) {
			_ = c.CloseWithError(0, "")
		}
	}
}

func (n *Node) answerByQUIC(c *quic.Conn) {
	ctx, cancel := context.WithTimeout(n.ctx, sponsorTimeout)
	defer cancel()
	defer func() { _ = c.CloseWithError(0, "") }()
	s, err := c.OpenUniStreamSync(ctx)
	if err != nil {
		return
	}
	_ = s.SetWriteDeadline(time.Now().Add(sponsorTimeout))
	if _, err := s.Write(n.answer(c.ConnectionState().TLS)); err != nil || s.Close() != nil {
		return
	}
	select { // the other side closes when it has it
	case <-c.Context().Done():
	case <-ctx.Done():
	}
}

// answer sponsors the agent at the other end of a connection.
func (n *Node) answer(s tls.ConnectionState) []byte {
	select {
	case n.sponsoring <- struct{}{}:
		defer func() { <-n.sponsoring }()
	default:
		return []byte{sponsorNotNow}
	}
	id, c, err := shownIn(s)
	if err == nil {
		ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
		defer cancel()
		c, err = n.cfg.Sponsor(ctx, c)
	}
	n.cfg.Log.Info("newcomer by a one-time invite", "id", id, "error", err)
	switch {
	case err == nil:
		return append([]byte{sponsorDone}, c.Bytes()...)
	case errors.Is(err, discovery.ErrSuperseded):
		return []byte{sponsorSuperseded}
	case errors.Is(err, discovery.ErrRevoked):
		return []byte{sponsorRevoked}
	}
	return []byte{sponsorNotNow}
}

// complete sees that this agent's credential is complete: if it lacks a receipt,
// it asks the agent p for one.
func (n *Node) complete(ctx context.Context, p peer.ID, addrs []netip.AddrPort) error {
	if !n.gate.signed() || n.gate.own.Load().credential.Complete() {
		return nil
	}
	if len(addrs) == 0 {
		return errors.New("no address to ask for a receipt at")
	}
	ctx, cancel := context.WithTimeout(ctx, sponsorTimeout)
	defer cancel()
	answers := make(chan error, 2*len(addrs)) // the goroutines never wait
	asked := 0
	for _, a := range addrs[:min(len(addrs), quicFirst)] {
		for _, ask := range []func(context.Context, peer.ID, netip.AddrPort) ([]byte, error){n.askByQUIC, n.askByTCP} {
			if n.spawn(func() { answers <- n.take(ask(ctx, p, a)) }) {
				asked++
			}
		}
	}
	var failed error
	for range asked {
		switch err := <-answers; {
		case err == nil || n.gate.own.Load().credential.Complete():
			return nil
		case failed == nil || errors.Is(err, ErrRefused):
			failed = err
		}
	}
	return fmt.Errorf("ask for a receipt: %w", failed)
}

// take takes an answer.
func (n *Node) take(answer []byte, err error) error {
	switch {
	case err != nil:
		return err
	case len(answer) == 0:
		return errNoReceipt
	}
	switch answer[0] {
	case sponsorDone:
	case sponsorSuperseded:
		return fmt.Errorf("%w: it is for one agent, and another one has joined by it", ErrRefused)
	case sponsorRevoked:
		return fmt.Errorf("%w: it is revoked", ErrRefused)
	default:
		return errNotNow
	}
	c, err := discovery.ParseCredential(answer[1:])
	if err == nil {
		err = n.gate.verify(n.self, c)
	}
	if err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	n.completing.Lock()
	defer n.completing.Unlock()
	if n.gate.own.Load().credential.Complete() {
		return nil // another one was as quick
	}
	if err := n.gate.show(c); err != nil {
		return err
	}
	n.cfg.Completed(c)
	return nil
}

func (n *Node) askByQUIC(ctx context.Context, p peer.ID, a netip.AddrPort) ([]byte, error) {
	to, err := multiaddr(a, QUIC)
	if err != nil {
		return nil, err
	}
	c, err := n.quic.DialQUIC(ctx, to, n.sponsorConfig(p, false), func(*quic.Conn, uint64) bool { return false })
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.CloseWithError(0, "") }()
	s, err := c.AcceptUniStream(ctx)
	if err != nil {
		return nil, err
	}
	_ = s.SetReadDeadline(time.Now().Add(sponsorTimeout))
	return io.ReadAll(io.LimitReader(s, 1+discovery.MaxCredential))
}

// askByTCP waits as a dial does: UDP is tried first.
func (n *Node) askByTCP(ctx context.Context, p peer.ID, a netip.AddrPort) ([]byte, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(headStart):
	}
	if n.gate.own.Load().credential.Complete() {
		return nil, errNotNow // QUIC was quicker
	}
	network := "tcp6"
	if a.Addr().Unmap().Is4() {
		network = "tcp4"
	}
	c, err := proofDialer{n.doors}.DialContext(ctx, network, a.String())
	if err != nil {
		return nil, err
	}
	defer reset(c)
	_ = c.SetDeadline(time.Now().Add(sponsorTimeout))
	if _, err := multistream.SelectOneOf([]protocol.ID{libp2ptls.ID}, c); err != nil {
		return nil, err
	}
	s := tls.Client(c, n.sponsorConfig(p, false))
	if err := s.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(s, 1+discovery.MaxCredential))
}
