package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"farlan/discovery"
	"farlan/discovery/p2p"
	"farlan/overlay"
	"farlan/overlay/link"
	"farlan/overlay/qemu"
)

// runAgent starts an agent and returns when it has ended: with nil after ctx was
// cancelled, with an error if it could not start or can't go on. If it couldn't
// start, it leaves nothing behind. Before it runs, the functions in with are called.
func runAgent(ctx context.Context, c *config, log *slog.Logger, with ...func(*node)) (err error) {
	keys, warning, err := readKeys(overlay.Instant(time.Now().UnixNano()), c.KeyFile)
	if err != nil {
		return err
	}
	if warning != nil {
		log.Warn("an old network key is not taken", "error", warning)
	}
	var undo []func()
	defer func() {
		for _, u := range slices.Backward(undo) {
			u()
		}
	}()
	state, err := openState(c.StateDir)
	if err != nil {
		return err
	}
	undo = append(undo, func() {
		if err != nil {
			state.undo()
		} else {
			state.close()
		}
	})
	own, err := state.enter(c, keys.Current())
	if err != nil {
		return err
	}
	sockets, streams, err := openPort(c)
	if err != nil {
		return err
	}
	undo = append(undo, func() { closeSockets(sockets, streams) })
	listener, closeControl, err := listenControl(c.Socket)
	if err != nil {
		return err
	}
	undo = append(undo, closeControl)
	ident, err := state.identity()
	if err != nil {
		return err
	}
	ports, err := openPorts(c, ident.id())
	if err != nil {
		return err
	}
	undo = append(undo, func() { _ = closePorts(ports) })
	state.settle()
	network := keys.Current()
	if network.Signed() && own.Agent != ident.id() {
		return hintf("restore %s from a backup, or join again with a new token", filepath.Join(c.StateDir, identityFile))("network %s: the credential is another agent's, %s", network.ID(), own.Agent)
	}
	n := newNode(c, log, keys, ident, own)
	n.state, n.sockets, n.streams = state, sockets, streams
	n.setPorts(ports)
	for _, f := range with {
		f(n)
	}
	return n.run(ctx, listener)
}

// setPorts gives the node its ports, before it runs.
func (n *node) setPorts(ports []*port) {
	n.ports = ports
	for i, p := range ports {
		n.sw.LAN = append(n.sw.LAN, p.kind == "lan")
		if q, ok := p.device.(*qemu.Port); ok {
			n.setLegs(i, q)
		}
	}
	n.markOwn()
	n.meetPlaces(n.now(), n.view.Load())
	n.lookAtPorts()
	n.shake = n.sender(func(p *link.Port) *link.Writer { return p.Handshake.Writer() })
	n.ask = n.sender(func(p *link.Port) *link.Writer { return p.Probe.Writer() })
	n.openByways()
}

// run starts every goroutine of the agent, and joins them.
func (n *node) run(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	// What must end the agent, and what goes on until the loop has said goodbye.
	start := func(ctx context.Context, name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	after, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	n.spawn = func(name string, f func(context.Context) error) { start(ctx, name, f) }
	lanes, err := n.openLanes()
	if err != nil {
		return err
	}
	if err = n.startP2P(start, after); err != nil {
		return errors.Join(err, closeLanes(lanes))
	}
	n.enlist()
	for _, l := range lanes {
		start(ctx, "lane", l.run)
	}
	start(ctx, "segments", n.runSegments)
	answerers, err := n.startAnswerers(start, ctx)
	if err != nil {
		cancel(err)
	}
	server := n.server(listener)
	start(ctx, "control socket", server.serve)
	if n.openBeacon(); n.lookout != nil {
		n.lookout.SetKeys(n.keys.ring.Keys()...)
		start(ctx, "beacon", n.runBeacon)
	}
	n.startAside(start, ctx)
	n.startReserving(start, after)
	w := n.startWatcher(start, ctx)
	looped := make(chan struct{})
	start(ctx, "loop", func(ctx context.Context) error { defer close(looped); return n.loop(ctx) })

	<-looped
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	server.stop()
	stop() // libp2p: sends what is queued, and closes
	for _, l := range lanes {
		l.stop()
	}
	for _, a := range answerers {
		_ = a.file.Close()
	}
	w.stop()
	wg.Wait()
	n.closeDrivers()
	_ = closeLanes(lanes)
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// startAnswerers starts one for each socket, up to one that fails.
func (n *node) startAnswerers(start func(context.Context, string, func(context.Context) error), ctx context.Context) (all []*answerer, err error) {
	for _, s := range n.sockets {
		a, err := newAnswerer(n, s)
		if err != nil {
			return all, err
		}
		all = append(all, a)
		start(ctx, "probes", a.run)
	}
	return all, nil
}

// startAside starts what nothing else depends on.
func (n *node) startAside(start func(context.Context, string, func(context.Context) error), ctx context.Context) {
	n.startPortMapping(start, ctx)
	start(ctx, "trains", n.runTrains)
	start(ctx, "arriving trains", n.takeTrains)
}

// openLanes makes the lanes.
func (n *node) openLanes() (lanes []*lane, err error) {
	for i := range n.lanes {
		l, err := newLane(n, i)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lane: %w", err), closeLanes(lanes))
		}
		lanes = append(lanes, l)
	}
	return lanes, nil
}

// startP2P makes the libp2p node and runs it.
func (n *node) startP2P(start func(context.Context, string, func(context.Context) error), ctx context.Context) error {
	var sockets []net.PacketConn
	for _, s := range n.sockets {
		sockets = append(sockets, s.Control)
	}
	must := func(e event) {
		if !n.mail.put(e) {
			n.drops.add(dropBusy)
		}
	}
	cfg := p2p.Config{
		Key: n.ident.key, Network: n.network, Sockets: sockets, Listeners: n.streams, Bootstrap: n.cfg.Bootstrap, Log: n.log,
		Addrs:  n.advertised,
		Usable: n.usable,
		Go: func(f func()) {
			start(ctx, "libp2p", func(context.Context) error { f(); return nil })
		},
		Connected: func(id overlay.AgentID) {
			must(func(overlay.Instant) {
				n.control.connected[id] = true
				n.store.Connected(n.wall(), id)
				n.connectedTo(id)
			})
		},
		Disconnected: func(id overlay.AgentID) {
			must(func(now overlay.Instant) { n.control.hungUp(now, id); n.store.Disconnected(id) })
		},
		Knocked: n.reach.knocked,
		Message: func(from overlay.AgentID, msg []byte) {
			if n.reachMessage(from, msg) {
				return
			}
			if !n.mail.offer(func(overlay.Instant) {
				if err := n.store.Receive(n.wall(), from, msg); err != nil {
					n.log.Debug("record refused", "from", from, "error", err)
				}
			}) {
				n.drops.add(dropBusy)
			}
		},
		Found: func(id overlay.AgentID, addrs []netip.AddrPort) {
			n.mail.offer(func(now overlay.Instant) { n.found(now, id, addrs) })
		},
		PipeUp: n.pipeUp, PipeDown: n.pipeDown, Piped: n.fromPipe,
	}
	n.useKeys()
	n.recall()
	n.certify(&cfg)
	node, err := p2p.New(cfg)
	if err != nil {
		return fmt.Errorf("libp2p: %w", err)
	}
	n.p2p = node
	n.useControlKeys()
	start(ctx, "libp2p", node.Run)
	return nil
}

// recall loads the peers remembered from before.
func (n *node) recall() {
	var names []string
	for _, k := range n.keys.ring.Keys() {
		names = append(names, k.ID())
	}
	known, err := n.state.load(n.started, names...)
	if err != nil {
		n.log.Warn("starting without remembered peers", "error", err)
	}
	n.store.Enter(n.wall(), known.Area)
	bad := n.store.Load(n.wall(), slices.Concat(known.Records, known.Links))
	if n.admission.network.Signed() {
		bad += n.store.LoadClaims(n.wall(), known.Claims)
		n.admission.now.Store(n.store.Admission())
	}
	if bad > 0 {
		n.log.Warn("some remembered records are damaged", "count", bad)
	}
}

// announce says that the agent is ready; the loop's own.
func (n *node) announce() {
	n.ready = true
	n.log.Info("ready", "name", n.cfg.Name, "id", n.self, "network", n.network.ID(), "listen", n.multiaddrs())
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
}

// tellSystemd keeps the line up to date that systemctl status shows.
func (n *node) tellSystemd() {
	text := fmt.Sprintf("STATUS=%s: %s", n.cfg.Name, n.whoAnswers())
	if text != n.told && n.ready {
		n.told = text
		_, _ = daemon.SdNotify(false, text)
	}
}

// multiaddrs returns what another agent can take as --bootstrap.
func (n *node) multiaddrs() []string {
	all := []string{}
	for _, a := range n.underlay() {
		all = append(all, p2p.Multiaddr(n.self, a))
	}
	return all
}

// openPort binds the port, UDP and TCP. Port 0 is any that is free for both.
func openPort(c *config) (sockets []*link.Port, streams []net.Listener, err error) {
	for range 16 {
		if sockets, err = openSockets(c); err != nil {
			return nil, nil, err
		}
		if streams, err = openStreams(c, sockets); err == nil {
			return sockets, streams, nil
		}
		closeSockets(sockets, nil)
		if c.Listen.Port() != 0 || !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return nil, nil, err
}

// openSockets binds the UDP port, on both families if the address is not given.
func openSockets(c *config) ([]*link.Port, error) {
	first, err := link.Open(c.Listen, link.Config{Lanes: c.Lanes})
	if err != nil {
		return nil, socketError(c, "UDP", err)
	}
	sockets := []*link.Port{first}
	if !c.Dual {
		return sockets, nil
	}
	six := netip.AddrPortFrom(netip.IPv6Unspecified(), first.Delay.LocalAddr().Port())
	second, err := link.Open(six, link.Config{Lanes: c.Lanes})
	switch {
	case err == nil:
		sockets = append(sockets, second)
	case !errors.Is(err, syscall.EAFNOSUPPORT) && !errors.Is(err, syscall.EADDRNOTAVAIL): // this host has IPv6
		closeSockets(sockets, nil)
		return nil, socketError(c, "UDP", err)
	}
	return sockets, nil
}

// openStreams binds the TCP ports of the same addresses.
func openStreams(c *config, sockets []*link.Port) ([]net.Listener, error) {
	var streams []net.Listener
	for _, s := range sockets {
		at := s.Delay.LocalAddr()
		network := "tcp6"
		if at.Addr().Is4() {
			network = "tcp4"
		}
		l, err := new(net.ListenConfig).Listen(context.Background(), network, at.String())
		if err != nil {
			closeSockets(nil, streams)
			return nil, socketError(c, "TCP", err)
		}
		streams = append(streams, l)
	}
	return streams, nil
}

// socketError says why the port can't be bound for a protocol, UDP or TCP.
func socketError(c *config, protocol string, err error) error {
	port := c.Listen.Port()
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return hintf("another farlan or another program has it ('ss -%clpn sport = :%d' tells which): stop that one, or choose another port with --listen", protocol[0]|0x20, port)(
			"--listen: %s port %d is in use: %w", protocol, port, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return hintf("'ip addr' lists this host's addresses")("--listen: this host doesn't have the address %v: %w", c.Listen.Addr(), err)
	case errors.Is(err, os.ErrPermission):
		return hintf("choose a port above 1023, or run as root")("--listen: not allowed to use port %d: %w", port, err)
	}
	return fmt.Errorf("--listen: %w", err)
}

func closeSockets(sockets []*link.Port, streams []net.Listener) {
	for _, s := range sockets {
		_ = s.Close()
	}
	for _, l := range streams {
		_ = l.Close()
	}
}

// readNetwork reads a key file that nobody else may read.
func readNetwork(path string) (discovery.Network, error) {
	fail := hintf("'farlan init' makes a network and 'farlan join' enters one; or make a key with 'farlan key new %s' and copy that file to the others", path)
	info, err := os.Stat(path)
	if err != nil && !errors.Is(err, os.ErrPermission) {
		return discovery.Network{}, fail("network key: %w", err)
	}
	denied := hintf("give it to the user that runs this with 'chown', or run as root")
	if err != nil {
		return discovery.Network{}, denied("network key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return discovery.Network{}, hintf("make it private with 'chmod 600 %s'; if others may have read it, make a new key", path)(
			"network key %s: others can read it (mode %04o)", path, info.Mode().Perm())
	}
	b, err := readBounded(path)
	if err != nil {
		return discovery.Network{}, denied("network key: %w", err)
	}
	network, err := discovery.ParseNetwork(b)
	if err != nil {
		return discovery.Network{}, hintf("copy the file again from another agent, unchanged")("network key %s: %w", path, err)
	}
	return network, nil
}
