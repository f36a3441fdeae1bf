package p2p

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"farlan/discovery"
	"farlan/overlay"
)

// Config says how a Node works. All functions are called from several
// goroutines and must not block; Addrs, Usable and Go may be called at any time,
// the others only while Run runs. They may call the Node's methods.
type Config struct {
	Key     ed25519.PrivateKey // the agent's identity
	Network discovery.NetworkKey
	// Sockets are the control plane's bound UDP sockets, at most one of each
	// address family. ReadFrom returns one datagram and a *net.UDPAddr. The Node
	// owns them from New on and closes them.
	Sockets []net.PacketConn
	// Listeners are bound TCP listeners on the same port, if there are any, at
	// most one of each address family. Their Addr is a *net.TCPAddr. The Node owns
	// them too.
	Listeners []net.Listener
	Addrs     func() []netip.AddrPort // where this agent can be reached now
	Usable    func(netip.Addr) bool   // false for addresses of the overlay itself; nil allows all
	Bootstrap []Seed
	Clock     func() time.Time // tells the time of day; nil is time.Now
	Log       *slog.Logger
	Go        func(func()) // starts a goroutine; the Node starts none otherwise

	// Admission says who is a member of a signed network now; nil in a simple one,
	// for which what follows is of no use either. Credential is this agent's. Sponsor
	// completes that of a newcomer, as Store.Sponsor does, and may wait until ctx
	// ends; Completed tells that this agent's own has been completed.
	Admission  func() *discovery.Admission
	Credential discovery.Credential
	Sponsor    func(ctx context.Context, c discovery.Credential) (discovery.Credential, error)
	Completed  func(c discovery.Credential)

	// Connected tells that the first connection with a member that speaks our
	// records protocol is up, Disconnected that the last one is gone. For one
	// agent they alternate.
	Connected, Disconnected func(overlay.AgentID)
	// Message takes a message, between Connected and Disconnected save for
	// those that a disconnection overtakes. msg belongs to the callee.
	Message func(from overlay.AgentID, msg []byte)
	// Found tells of somebody who isn't connected, found through the DHT, and
	// where it may be. It is told again as long as it isn't connected.
	Found func(id overlay.AgentID, addrs []netip.AddrPort)
	// Knocked, if it isn't nil, tells of a member's knock: see Knock.
	Knocked func(from netip.AddrPort, token Token)

	// PipeUp tells that a pipe is there, which this agent or the other one opened,
	// PipeDown that it has ended; between them Piped takes datagrams that came
	// together, which are its own for the call. A new pipe to a member replaces an
	// old one, and may be told before that one's end. Without PipeUp there are no
	// pipes; Piped may block.
	PipeUp, PipeDown func(*Pipe)
	Piped            func(from *Pipe, ds [][]byte)
}

// Validate reports all that is missing or wrong.
func (c Config) Validate() error {
	var errs []error
	if len(c.Key) != ed25519.PrivateKeySize {
		errs = append(errs, errors.New("no agent key"))
	}
	if c.Network.IsZero() {
		errs = append(errs, errors.New("no network key"))
	}
	if len(c.Sockets) == 0 {
		errs = append(errs, errors.New("no socket"))
	}
	if c.Addrs == nil || c.Go == nil || c.Connected == nil || c.Disconnected == nil || c.Message == nil || c.Found == nil || c.Log == nil {
		errs = append(errs, errors.New("a function or the logger is missing"))
	}
	if c.Admission != nil && (c.Sponsor == nil || c.Completed == nil) {
		errs = append(errs, errors.New("a function of signed networks is missing"))
	}
	return errors.Join(errs...)
}

func (c Config) usable(a netip.Addr) bool { return c.Usable == nil || c.Usable(a) }

// multiaddrs returns those of addrs that libp2p can use: one port is UDP and TCP.
func (c Config) multiaddrs(addrs []netip.AddrPort) []ma.Multiaddr {
	out := make([]ma.Multiaddr, 0, 2*len(addrs))
	for _, by := range []string{QUIC, TCP} {
		for _, a := range addrs {
			if m, err := multiaddr(a, by); err == nil && c.usable(a.Addr().Unmap()) {
				out = append(out, m)
			}
		}
	}
	return out
}

// addrPorts returns those of multiaddrs that are usable, each once.
func (c Config) addrPorts(addrs []ma.Multiaddr) []netip.AddrPort {
	var out []netip.AddrPort
	for _, m := range addrs {
		a, _, ok := addrPort(m)
		if ok && a.Port() != 0 && !a.Addr().IsUnspecified() && c.usable(a.Addr()) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}
