// Package p2p connects agents through libp2p and finds them through a private
// Kademlia DHT. It carries the control plane only: signed records and what
// agents agree on; frames have their own sockets. It is the only importer of
// libp2p, whose interfaces change often.
//
//   - door.go, fresh.go, sockets.go: every datagram proves the network key, and
//     that it is new
//   - config.go, keys.go: what a node is told; the network key, which can be changed
//   - lobby.go: so does every TCP connection
//   - host.go, quic.go, tcp.go: a libp2p host with QUIC and TCP on our sockets
//   - gate.go, secure.go: in a signed network, members only
//   - sponsor.go: how an agent with a one-time invite becomes one
//   - join.go: the seeds, and connections that nobody needs
//   - find.go: the DHT
//   - knock.go: whether a member can be reached that has called nobody
//   - peers.go, stream.go: who is connected, and messages to and from them
//   - pulse.go: connections that are dead
//   - pipe.go: the data plane's datagrams, where no UDP passes
package p2p

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/quic-go/quic-go"

	"farlan/overlay"
)

// A Node is this agent's part in the control plane. Its methods are safe for
// concurrent use.
type Node struct {
	cfg      Config
	self     overlay.AgentID
	doors    doors
	gate     *gate
	host     host.Host
	identify identify.IDService            // the host's
	tables   atomic.Pointer[[]table]       // the DHTs, one a key
	records  atomic.Pointer[[]protocol.ID] // the records protocol's names, one a key
	events   event.Subscription
	reach    event.Emitter

	ctx     context.Context // ends when Run does
	cancel  context.CancelFunc
	tasks   sync.WaitGroup // what runs for the Node
	search  chan struct{}  // asks for a search in the DHT soon
	alone   chan struct{}  // tells that the last peer is gone
	lost    atomic.Uint64  // messages that were not sent
	unpiped atomic.Uint64  // datagrams that a pipe didn't take
	piping  atomic.Int32   // pipes that are being opened
	born    time.Time

	quic       *quicreuse.ConnManager
	receptions []quicreuse.Listener // for newcomers, in a signed network
	sponsoring chan struct{}        // as many as are being answered
	completing sync.Mutex           // held while this agent takes a receipt

	turn   sync.Mutex // held over a change of a peer's state and its callback
	keying sync.Mutex // held by SetKeys

	mu     sync.Mutex
	closed bool
	server bool
	peers  map[overlay.AgentID]*sender
	keep   map[overlay.AgentID]bool // nil: everybody
	failed map[Seed]error           // seeds that did not answer, and why
	pipes  map[overlay.AgentID]*Pipe
}

// New makes a node that accepts connections from now on. Run must follow; it
// also frees what New takes, even with a context that has ended.
func New(cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("p2p: %w", err)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	n := &Node{
		cfg:    cfg,
		self:   overlay.AgentID(cfg.Key.Public().(ed25519.PublicKey)),
		search: make(chan struct{}, 1),
		alone:  make(chan struct{}, 1),
		peers:  make(map[overlay.AgentID]*sender),
		failed: make(map[Seed]error),
		pipes:  make(map[overlay.AgentID]*Pipe),
		born:   time.Now(),

		sponsoring: make(chan struct{}, maxSponsored),
	}
	n.records.Store(&[]protocol.ID{recordsOf(cfg.Network)})
	n.tables.Store(&[]table{})
	var err error
	if n.doors, err = openDoors(cfg, n.spawn); err != nil {
		for _, s := range cfg.Sockets {
			_ = s.Close()
		}
		for _, l := range cfg.Listeners {
			_ = l.Close()
		}
		return nil, fmt.Errorf("p2p: %w", err)
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if n.gate, err = newGate(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("p2p: %w", err), n.close())
	}
	if err := n.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("p2p: %w", err), n.close())
	}
	return n, nil
}

// open starts libp2p. What it made before an error is closed by close.
func (n *Node) open() (err error) {
	if n.host, err = n.newHost(); err != nil {
		return err
	}
	if n.gate.signed() {
		if err = n.listenSponsor(); err != nil {
			return err
		}
	}
	bus := n.host.EventBus()
	n.events, err = bus.Subscribe([]any{
		new(event.EvtPeerIdentificationCompleted),
		new(event.EvtPeerConnectednessChanged),
	}, eventbus.BufSize(256), eventbus.Name("farlan"))
	if err != nil {
		return err
	}
	first, err := newDHT(n.host, n.cfg, n.cfg.Network)
	if err != nil {
		return err
	}
	n.tables.Store(&[]table{{n.cfg.Network, first}})
	if n.reach, err = bus.Emitter(new(event.EvtLocalReachabilityChanged), eventbus.Stateful); err != nil {
		return err
	}
	n.host.SetStreamHandler(recordsOf(n.cfg.Network), n.accept)
	n.host.SetStreamHandler(pipeProtocol, n.acceptPipe)
	for _, l := range n.doors.lobbies {
		n.spawn(l.run)
	}
	return nil
}

// close closes all and waits for all that runs for the node.
func (n *Node) close() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.cancel()
	var errs []error
	if n.reach != nil {
		errs = append(errs, n.reach.Close())
	}
	n.keying.Lock()
	for _, t := range *n.tables.Load() {
		errs = append(errs, t.dht.Close())
	}
	n.tables.Store(&[]table{})
	n.keying.Unlock()
	if n.events != nil {
		errs = append(errs, n.events.Close())
	}
	for _, l := range n.receptions {
		errs = append(errs, l.Close())
	}
	if n.host != nil {
		errs = append(errs, n.host.Close())
	}
	errs = append(errs, n.doors.close())
	n.tasks.Wait()
	return errors.Join(errs...)
}

// Run joins the network and stays in it until ctx ends; then it closes all,
// sockets included, and returns when everything that it started has ended. No
// function of the Config is called afterwards.
func (n *Node) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, n.cancel)()
	n.spawn(n.watch)
	n.spawn(n.seek)
	n.spawn(n.feel)
	n.join()
	if err := n.close(); err != nil {
		return fmt.Errorf("p2p: close: %w", err)
	}
	return nil
}

// begin counts a task, unless the node is closed. The task calls n.tasks.Done.
func (n *Node) begin() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.tasks.Add(1)
	}
	return !n.closed
}

// spawn runs f in a goroutine, unless the node is closed.
func (n *Node) spawn(f func()) bool {
	if !n.begin() {
		return false
	}
	n.cfg.Go(func() {
		defer n.tasks.Done()
		f()
	})
	return true
}

// each runs f for every item in a goroutine of its own and waits for all.
func each[T any](n *Node, items []T, f func(T)) {
	var all sync.WaitGroup
	for _, item := range items {
		all.Add(1)
		if !n.spawn(func() { defer all.Done(); f(item) }) {
			all.Done()
		}
	}
	all.Wait()
}

// sleep waits, and says whether the node is still running.
func (n *Node) sleep(d time.Duration) bool {
	select {
	case <-n.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// Dial connects to an agent at any of some addresses, or at those known from
// before if there are none, by QUIC or, half a second later, by TCP on the same
// port. It returns when the connection is up, which proves that the other one
// holds the network key and is who it should be, or after two and a half
// seconds. Connected to the agent already, it returns nil at once. If this
// agent's credential lacks a receipt, the other one is asked for it before, which
// may take four seconds more; ErrRefused is that there is no hope of one.
func (n *Node) Dial(ctx context.Context, id overlay.AgentID, addrs []netip.AddrPort) error {
	p, err := peerID(id)
	if err != nil {
		return fmt.Errorf("dial %s: %w", id.Short(), err)
	}
	if err = n.complete(ctx, p, addrs); err != nil {
		return fmt.Errorf("dial %s: %w", id.Short(), reason(err))
	}
	ctx, cancel := context.WithTimeout(ctx, headStart+dialTimeout)
	defer cancel()
	if s, ok := n.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(p) // the caller knows when to try again
	}
	err = n.host.Connect(ctx, peer.AddrInfo{ID: p, Addrs: n.cfg.multiaddrs(addrs)})
	if err == nil && !n.taken(ctx, p) {
		err = errClosed
		if n.gate.signed() {
			err = errNotTaken
		}
	}
	if err != nil {
		return fmt.Errorf("dial %s: %w", id.Short(), reason(err))
	}
	return nil
}

// Disconnect closes all connections to an agent.
func (n *Node) Disconnect(id overlay.AgentID) {
	if p, err := peerID(id); err == nil {
		_ = n.host.Network().ClosePeer(p)
	}
}

// Moved says that this host has lost an address. QUIC lets only who opened a
// connection move with it, and TCP nobody, so those that others opened and those by TCP
// end, and whoever needs one dials again; the others follow with their next packet.
func (n *Node) Moved() {
	for _, c := range n.host.Network().Conns() {
		var q *quic.Conn
		if c.Stat().Direction == network.DirInbound || !c.As(&q) {
			n.spawn(func() { _ = c.Close() })
		}
	}
	n.searchSoon()
}

// Keep says which connections to keep. Others, which the DHT or other agents
// opened, are closed when they are 20 seconds old, sooner if there are many. Before
// the first call all are kept.
func (n *Node) Keep(ids []overlay.AgentID) {
	keep := make(map[overlay.AgentID]bool, len(ids))
	for _, id := range ids {
		keep[id] = true
	}
	n.mu.Lock()
	n.keep = keep
	n.mu.Unlock()
}

// SetServer says whether this agent answers queries of the DHT; at first it
// doesn't. A lone agent must, or newcomers find nobody through it.
func (n *Node) SetServer(on bool) {
	n.mu.Lock()
	same := n.server == on || n.closed
	n.server = on
	n.mu.Unlock()
	if same {
		return
	}
	// The DHT takes its mode from this event of libp2p's autonat, which is off.
	reachability := network.ReachabilityPrivate
	if on {
		reachability = network.ReachabilityPublic
	}
	if err := n.reach.Emit(event.EvtLocalReachabilityChanged{Reachability: reachability}); err != nil {
		n.cfg.Log.Error("cannot switch the DHT's mode", "server", on, "error", err)
	}
	n.searchSoon()
}

// standing says whether this agent serves the DHT, and whether Keep was called.
func (n *Node) standing() (server, settled bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.server, n.keep != nil
}

// RemoteAddr returns from where an agent is connected. That of a TCP connection
// is where it can be dialled only if we dialled.
func (n *Node) RemoteAddr(id overlay.AgentID) (netip.AddrPort, bool) {
	a, _, ok := n.connection(id)
	return a, ok
}

// Transport returns by what an agent is connected, QUIC or TCP; "" if it isn't.
// If it is by both, that is QUIC.
func (n *Node) Transport(id overlay.AgentID) string {
	_, by, _ := n.connection(id)
	return by
}

// connection returns the address and transport of a connection to an agent.
func (n *Node) connection(id overlay.AgentID) (addr netip.AddrPort, by string, ok bool) {
	p, err := peerID(id)
	if err != nil {
		return addr, "", false
	}
	for _, c := range n.host.Network().ConnsToPeer(p) {
		if a, t, known := addrPort(c.RemoteMultiaddr()); known && !c.IsClosed() && by != QUIC {
			addr, by, ok = a, t, true
		}
	}
	return addr, by, ok
}

// Counters counts what was thrown away.
type Counters struct {
	Strangers uint64 // datagrams and TCP connections that don't prove the network key
	Replays   uint64 // that do, but came before
	Untimely  uint64 // that do, but were sent more than two minutes ago, or will be
	Lost      uint64 // messages that were not sent: queue full, not connected
	Refused   uint64 // handshakes with agents that are no members of the signed network
	Unpiped   uint64 // datagrams that waited too long for a pipe
}

// Counters returns what was thrown away so far.
func (n *Node) Counters() Counters {
	c := Counters{
		Strangers: n.doors.door.strangers.Load(), Lost: n.lost.Load(), Refused: n.gate.refused.Load(), Unpiped: n.unpiped.Load(),
	}
	c.Replays, c.Untimely = n.doors.door.fresh.dropped()
	return c
}

// ClockSkew says by how much this host's clock is ahead of the other members'
// (negative: behind) if that is more than two minutes, the most at which they
// hear each other. ok is false as long as some of them agree with it, or nobody
// is heard: an agent whose clock is wrong gets no answer, so only those that
// call it on their own can tell it. Whoever has old datagrams of members can
// pretend to be one, as long as nobody else is heard.
func (n *Node) ClockSkew() (ahead time.Duration, ok bool) { return n.doors.door.fresh.skewed() }
