package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"farlan/discovery"
	"farlan/discovery/p2p"
	"farlan/overlay"
)

// A light member has all of an agent's control plane: the same node of libp2p, the same
// store, the same choice of neighbours and servers. Of the data plane it has only the
// answers to handshakes and probes, so that agents see it up; it begins no session. Many
// fit into one process.
type light struct {
	name    string
	self    overlay.AgentID
	key     ed25519.PrivateKey
	network discovery.NetworkKey
	addrs   []netip.AddrPort
	static  overlay.StaticKey
	conn    *net.UDPConn
	began   overlay.Instant

	// The loop's own.
	mail    *mailbox
	store   *discovery.Store
	node    *p2p.Node
	control control
	known   int

	// The reader's own, but for members.
	hs       *overlay.Handshaker
	members  atomic.Pointer[map[overlay.AgentID][32]byte]
	sessions map[uint32]*lightSession
	index    uint32
	from     netip.AddrPort
}

// A lightSession answers probes; overlay.Items.
type lightSession struct {
	l      *light
	sealed *overlay.Session
	unpack overlay.Unpacker
	size   int
}

// lightVariable says in the environment of this test's program that it is to run light
// members: key file, seed, address of the first, and how many.
const lightVariable = "FARLAN_LIGHT_MEMBERS"

// runLight runs light members until a signal comes.
func runLight(what string) error {
	var file, seed, first string
	var count int
	if _, err := fmt.Sscan(what, &file, &seed, &first, &count); err != nil {
		return err
	}
	network, err := readNetwork(file)
	if err != nil {
		return err
	}
	join, err := p2p.ParseSeed(seed)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	at, err := netip.ParseAddr(first)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	var failed atomic.Pointer[error]
	for i := range count {
		l, err := newLight(fmt.Sprint("light-", i), network.Root(), netip.AddrPortFrom(at, 4747))
		if err != nil {
			return err
		}
		all.Go(func() {
			if err := l.run(ctx, join); err != nil {
				failed.CompareAndSwap(nil, &err)
				stop()
			}
		})
		at = at.Next()
		time.Sleep(10 * time.Millisecond) // they don't all begin at once
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func newLight(name string, network discovery.NetworkKey, at netip.AddrPort) (*light, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	l := &light{
		name: name, self: overlay.AgentID(pub), key: key, network: network, addrs: []netip.AddrPort{at},
		began: overlay.Instant(time.Now().UnixNano()), mail: newMailbox(), sessions: make(map[uint32]*lightSession),
	}
	l.control = newControl(uint64(l.self.Label()))
	if l.static, err = overlay.NewStaticKey(rand.Reader); err != nil {
		return nil, err
	}
	l.hs = overlay.NewHandshaker(l.self, l.static, network.DoorKey(), network.SessionPSK(), overlay.HasAES())
	l.store = discovery.NewStore(l.self, network, uint64(l.self.Label()), discovery.Limits{})
	l.members.Store(&map[overlay.AgentID][32]byte{})
	l.conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	return l, err
}

func (l *light) now() overlay.Instant { return overlay.Instant(time.Now().UnixNano()) }

// run runs the member until ctx ends.
func (l *light) run(ctx context.Context, join p2p.Seed) (err error) {
	put := func(e event) { l.mail.put(e) }
	cfg := p2p.Config{
		Key: l.key, Network: l.network, Sockets: []net.PacketConn{lightConn{l.conn, l}}, Bootstrap: []p2p.Seed{join},
		Addrs: func() []netip.AddrPort { return l.addrs }, Log: slog.New(slog.DiscardHandler), Go: func(f func()) { go f() },
		Connected: func(id overlay.AgentID) {
			put(func(now overlay.Instant) { l.control.connected[id] = true; l.store.Connected(now, id) })
		},
		Disconnected: func(id overlay.AgentID) {
			put(func(now overlay.Instant) { l.control.hungUp(now, id); l.store.Disconnected(id) })
		},
		Message: func(from overlay.AgentID, msg []byte) {
			put(func(now overlay.Instant) { _ = l.store.Receive(now, from, msg) })
		},
		Found: func(overlay.AgentID, []netip.AddrPort) {},
	}
	if l.node, err = p2p.New(cfg); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- l.node.Run(ctx) }()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-l.mail.ready:
			for _, e := range l.mail.take() {
				e(l.now())
			}
		case <-tick.C:
		}
		l.step(l.now())
	}
}

// step is the control plane's part of an agent's.
func (l *light) step(now overlay.Instant) {
	l.store.Tick(now)
	if len(l.store.Changes()) > 0 {
		l.learn(now)
	}
	if !now.Before(l.control.next) {
		l.control.next = now.Add(controlEvery)
		l.steer(now)
	}
	l.store.Flush(l.node.Send)
}

// learn takes over who the members are.
func (l *light) learn(now overlay.Instant) {
	members := make(map[overlay.AgentID][32]byte)
	for _, id := range l.store.Origins() {
		if m, ok := l.store.Member(id); ok && !m.Left && id != l.self {
			members[id] = m.SessionKey
		}
	}
	if len(members) > l.known {
		l.control.met = now
	}
	l.known = len(members)
	l.members.Store(&members)
}

// steer tells of this member, and looks after its connections as an agent does.
func (l *light) steer(now overlay.Instant) {
	if l.store.OwnVersion() == 0 {
		body, err := discovery.Member{Name: l.name, SessionKey: l.static.Public, Addrs: l.addrs}.Append(nil)
		if err != nil {
			panic(err)
		}
		r, err := discovery.SignRecord(l.key, l.network, discovery.Record{
			Kind: discovery.KindMember, Version: l.store.NextVersion(now),
			Expires: now.Add(discovery.RecordLifetime).Time().Unix(), Body: body,
		})
		if err != nil {
			panic(err)
		}
		l.store.Publish(now, r)
	}
	var live []overlay.AgentID
	for id := range *l.members.Load() {
		live = append(live, id)
	}
	want := discovery.Neighbours(l.self, live, discovery.Near(l.self, l.store.Links), controlDegree)
	settled, crowded := l.control.settled(now)
	if !settled && now.Sub(l.began) < serverEvery {
		return
	}
	for _, id := range want {
		l.dial(now, id)
	}
	if settled || crowded {
		l.node.Keep(want)
	}
	if !settled {
		return
	}
	if server := slices.Contains(discovery.Servers(append(live, l.self), dhtServers), l.self); now.Sub(l.began) >= serverAfter && server != l.control.server {
		l.control.server = server
		l.node.SetServer(server)
	}
}

func (l *light) dial(now overlay.Instant, id overlay.AgentID) {
	d := l.control.dials[id]
	m, ok := l.store.Member(id)
	if !ok || l.control.connected[id] || d.running || now.Before(d.again) {
		return
	}
	d.running = true
	l.control.dials[id] = d
	go func() {
		err := l.node.Dial(context.Background(), id, m.Addrs)
		l.mail.put(func(now overlay.Instant) { l.control.dialled(now, id, err) })
	}()
}

// A lightConn is the member's port: it hands QUIC's datagrams to libp2p, and answers the
// others.
type lightConn struct {
	*net.UDPConn
	l *light
}

// ReadFrom implements net.PacketConn.
func (c lightConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return 0, nil, err
		}
		if n > 0 && b[0]&0xc0 == 0 {
			c.l.datagram(b[:n], from)
			continue
		}
		return n, net.UDPAddrFromAddrPort(from), nil
	}
}

func (l *light) datagram(d []byte, from netip.AddrPort) {
	kind, _ := overlay.ParseKind(d)
	switch kind {
	case overlay.KindInitiation:
		if !l.hs.Genuine(d) {
			return
		}
		l.index++
		session, answer, err := l.hs.Respond(l.now(), d, l.isMember, l.index, rand.Reader)
		if err != nil {
			return
		}
		l.sessions[l.index] = &lightSession{l: l, sealed: session}
		_, _ = l.conn.WriteToUDPAddrPort(answer, from)
	case overlay.KindProbe:
		s := l.sessions[overlay.ReceiverIndex(d)]
		if s == nil {
			return
		}
		s.size, l.from = len(d), from
		if body, ok := s.sealed.Open(d); ok {
			s.unpack.Unpack(body, s)
		}
	}
}

func (l *light) isMember(id overlay.AgentID, static [32]byte) bool {
	return (*l.members.Load())[id] == static
}

func (s *lightSession) Probe(p overlay.Probe) {
	r := overlay.Probe{Echo: p.Number, Size: uint16(s.size), Seen: s.l.from}
	b := overlay.AppendProbe(make([]byte, overlay.HeaderLen, probeSpace), r, true)
	if d := s.sealed.Seal(overlay.KindProbe, 0, b); d != nil {
		_, _ = s.l.conn.WriteToUDPAddrPort(d, s.l.from)
	}
}

func (s *lightSession) Frame(*overlay.Frame)     {}
func (s *lightSession) ProbeReply(overlay.Probe) {}
func (s *lightSession) Ack(overlay.Ack)          {}
func (s *lightSession) Bye()                     {}
func (s *lightSession) Notice(overlay.Notice)    {}
func (s *lightSession) Request([]byte)           {}
func (s *lightSession) Reserve([]byte)           {}
func (s *lightSession) Train(overlay.Train)      {}

// lightMain runs light members if this program was started for that.
func lightMain() {
	what, ok := os.LookupEnv(lightVariable)
	if !ok {
		return
	}
	if err := runLight(what); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
