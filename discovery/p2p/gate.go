package p2p

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"

	"farlan/discovery"
	"farlan/overlay"
)

// In a signed network both sides of a connection, QUIC or TCP, show their
// credentials in the TLS handshake: in an extension of the certificate, which is
// as libp2p wants it otherwise, encoded as discovery.Credential says. Who is
// refused gets no further than that: no protocol is named to it, no stream
// opened. As TLS 1.3 has it, a dialler that is refused learns so a moment after
// it took itself for connected.

// credentialOID names the extension. It lies in the arc of ITU-T X.667, with a
// random number: nobody else is to read these certificates.
var credentialOID = asn1.ObjectIdentifier{2, 25, 1342957041}

// maxShown is how many agents' credentials are remembered. Beyond, those that
// come are let in but not looked at again while they are connected: there are
// never as many.
const maxShown = 4 * maxConns

var errOutsider = errors.New("not a member")

// A gate checks credentials. It is safe for concurrent use. In a simple network
// it lets everybody in.
type gate struct {
	key       crypto.PrivKey
	clock     func() time.Time
	log       *slog.Logger
	admission func() *discovery.Admission // nil in a simple network
	own       atomic.Pointer[shownIdentity]
	refused   atomic.Uint64 // connections

	mu    sync.Mutex
	shown map[overlay.AgentID]discovery.Credential // by those who were let in
}

// A shownIdentity is what this agent shows: its credential, in the certificate.
type shownIdentity struct {
	*libp2ptls.Identity
	credential  discovery.Credential
	certificate tls.Certificate
}

func newGate(cfg Config) (*gate, error) {
	key, err := crypto.UnmarshalEd25519PrivateKey(cfg.Key)
	if err != nil {
		return nil, err
	}
	g := &gate{key: key, clock: cfg.Clock, log: cfg.Log, admission: cfg.Admission, shown: make(map[overlay.AgentID]discovery.Credential)}
	return g, g.show(cfg.Credential)
}

func (g *gate) signed() bool { return g.admission != nil }

// show makes c the credential that this agent shows from the next handshake on.
func (g *gate) show(c discovery.Credential) error {
	var options []libp2ptls.IdentityOption
	if g.signed() {
		options = append(options, libp2ptls.WithCertTemplate(template(g.clock(), c)))
	}
	identity, err := libp2ptls.NewIdentity(g.key, options...)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	conf, _ := identity.ConfigForPeer("")
	g.own.Store(&shownIdentity{identity, c, conf.Certificates[0]})
	return nil
}

// template returns what libp2p's own certificates say, and the credential. They
// never end: the credential does.
func template(now time.Time, c discovery.Credential) *x509.Certificate {
	var serial [8]byte
	_, _ = rand.Read(serial[:]) // never fails
	t := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[:]),
		Subject:      pkix.Name{SerialNumber: new(big.Int).SetBytes(serial[:]).String()},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(100, 0, 0),
	}
	if b := c.Bytes(); b != nil {
		t.ExtraExtensions = []pkix.Extension{{Id: credentialOID, Value: b}}
	}
	return t
}

// shownBy returns the credential in a certificate.
func shownBy(cert *x509.Certificate) (discovery.Credential, error) {
	for _, e := range cert.Extensions {
		if e.Id.Equal(credentialOID) {
			return discovery.ParseCredential(e.Value)
		}
	}
	return discovery.Credential{}, discovery.ErrNoCredential
}

// config returns how to do one handshake with an agent, as a server or client.
func (g *gate) config(p peer.ID, server bool) (*tls.Config, <-chan crypto.PubKey) {
	conf, key := g.own.Load().ConfigForPeer(p)
	g.guard(conf, server)
	return conf, key
}

// guard makes the handshake that conf is for show the newest credential, and
// check the other side's. conf is for one handshake, in which libp2p has its own
// check of who the other side is.
func (g *gate) guard(conf *tls.Config, server bool) {
	if !g.signed() {
		return
	}
	conf.Certificates = []tls.Certificate{g.own.Load().certificate}
	conf.VerifyConnection = func(s tls.ConnectionState) error {
		id, c, err := shownIn(s)
		if err == nil {
			err = g.verify(id, c)
		}
		switch {
		case err == nil:
			g.remember(id, c)
		case server && s.NegotiatedProtocol == sponsorALPN && mayAsk(c, err):
		default:
			g.refused.Add(1)
			g.log.Debug("agent refused", "id", id, "error", err)
			if server {
				return errOutsider // it would be told what we return
			}
			return err
		}
		return nil
	}
}

// mayAsk says whether one who is refused may ask for a receipt all the same: it
// has an invite of the admin's. If that is of no use any more, it is told so.
func mayAsk(c discovery.Credential, refused error) bool {
	return !c.Complete() && (errors.Is(refused, discovery.ErrIncomplete) ||
		errors.Is(refused, discovery.ErrSuperseded) || errors.Is(refused, discovery.ErrRevoked))
}

// shownIn returns who is at the other end, and its credential, which isn't checked.
func shownIn(s tls.ConnectionState) (id overlay.AgentID, c discovery.Credential, err error) {
	pub, err := libp2ptls.PubKeyFromCertChain(s.PeerCertificates)
	if err != nil {
		return id, c, err
	}
	p, err := peer.IDFromPublicKey(pub)
	if err != nil {
		return id, c, err
	}
	id, ok := agentID(p)
	if !ok {
		return id, c, fmt.Errorf("%w: no agent has a key like that", discovery.ErrCredential)
	}
	c, err = shownBy(s.PeerCertificates[0])
	return id, c, err
}

func (g *gate) verify(id overlay.AgentID, c discovery.Credential) error {
	_, err := g.admission().Verify(overlay.Instant(g.clock().UnixNano()), id, c)
	return err
}

func (g *gate) remember(id overlay.AgentID, c discovery.Credential) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, again := g.shown[id]; again || len(g.shown) < maxShown {
		g.shown[id] = c
	}
}

// outsiders returns those of the connected agents that are no members any more,
// and forgets what others showed. As an agent may have renewed its credential,
// what newest knows of it counts, too.
func (g *gate) outsiders(connected []overlay.AgentID, newest func(overlay.AgentID) (discovery.Credential, bool)) (out []overlay.AgentID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	here := make(map[overlay.AgentID]discovery.Credential, len(connected))
	for _, id := range connected {
		c, ok := g.shown[id]
		if !ok {
			continue // it was let in a moment ago, or there are too many
		}
		here[id] = c
		if g.verify(id, c) == nil {
			continue
		}
		if renewed, ok := newest(id); !ok || g.verify(id, renewed) != nil {
			out = append(out, id)
		}
	}
	g.shown = here
	return out
}

// SetCredential makes this agent show another credential from now on.
// Connections that are up go on.
func (n *Node) SetCredential(c discovery.Credential) error {
	if err := n.gate.show(c); err != nil {
		return fmt.Errorf("p2p: set the credential: %w", err)
	}
	return nil
}

// Expel closes the connections of all who are no members any more. newest tells
// an agent's credential if another one than it showed is known.
func (n *Node) Expel(newest func(overlay.AgentID) (discovery.Credential, bool)) {
	var connected []overlay.AgentID
	for _, p := range n.host.Network().Peers() {
		if id, ok := agentID(p); ok {
			connected = append(connected, id)
		}
	}
	for _, id := range n.gate.outsiders(connected, newest) {
		n.cfg.Log.Debug("connection of an outsider ends", "peer", id.Short())
		n.spawn(func() { n.Disconnect(id) })
	}
}
