package p2p

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"

	"farlan/discovery"
	"farlan/overlay"
)

func testNetwork(n byte) discovery.NetworkKey {
	k, err := discovery.NewNetworkKey(bytes.NewReader(bytes.Repeat([]byte{n}, 32)))
	if err != nil {
		panic(err)
	}
	return k
}

func testKey(n int) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(binary.BigEndian.AppendUint64(make([]byte, 24), uint64(n)+1))
}

// An agent is a node that dials whom it finds and remembers what it was told.
type agent struct {
	*Node
	seed  Seed
	leave context.CancelFunc
	ended chan error

	mu    sync.Mutex
	told  []string // "+id" connected, "-id" disconnected
	inbox []string // "id: message"
	tasks sync.WaitGroup
}

// start runs agent number i of a network on the loopback.
func start(t *testing.T, network discovery.NetworkKey, i int, seeds ...Seed) *agent {
	t.Helper()
	return startOn(t, network, i, []net.PacketConn{udp(t)}, seeds...)
}

// startOn runs it on some sockets.
func startOn(t *testing.T, network discovery.NetworkKey, i int, sockets []net.PacketConn, seeds ...Seed) *agent {
	t.Helper()
	return startWith(t, network, i, sockets, func(c *Config) { c.Bootstrap = seeds })
}

// startWith changes its configuration before.
func startWith(t *testing.T, network discovery.NetworkKey, i int, sockets []net.PacketConn, change func(*Config)) *agent {
	t.Helper()
	var addrs []netip.AddrPort
	for _, s := range sockets {
		addrs = append(addrs, s.LocalAddr().(*net.UDPAddr).AddrPort())
	}
	var err error
	ctx, cancel := context.WithCancel(context.Background())
	a := &agent{leave: cancel, ended: make(chan error, 1)}
	cfg := Config{
		Key:          testKey(i),
		Network:      network,
		Sockets:      sockets,
		Addrs:        func() []netip.AddrPort { return addrs },
		Log:          slog.New(slog.NewTextHandler(t.Output(), nil)).With("agent", i),
		Go:           func(f func()) { a.tasks.Go(f) },
		Connected:    func(id overlay.AgentID) { a.tell("+" + id.Short()) },
		Disconnected: func(id overlay.AgentID) { a.tell("-" + id.Short()) },
		Message: func(from overlay.AgentID, msg []byte) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.inbox = append(a.inbox, from.Short()+": "+string(msg))
		},
		Found: func(id overlay.AgentID, addrs []netip.AddrPort) {
			a.tasks.Go(func() { _ = a.Dial(ctx, id, addrs) })
		},
	}
	change(&cfg)
	a.Node, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a.seed = Seed{ID: a.self, Addr: addrs[0]}
	a.tasks.Go(func() { a.ended <- a.Run(ctx) })
	t.Cleanup(func() { a.stop(t) })
	return a
}

// stop ends the agent and checks that all it started has ended.
func (a *agent) stop(t *testing.T) {
	a.leave()
	a.tasks.Wait()
	select {
	case err := <-a.ended:
		if err != nil {
			t.Errorf("agent ended: %v", err)
		}
	default: // stopped before
	}
}

func (a *agent) tell(s string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told = append(a.told, s)
}

func (a *agent) was(s string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains(a.told, s)
}

func (a *agent) got(s string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains(a.inbox, s)
}

// eventually waits for a condition.
func eventually(t *testing.T, limit time.Duration, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(limit); !is(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not after %v: %s", limit, what)
		}
	}
}

func everybodyKnows(agents []*agent) func() bool {
	return func() bool {
		return !slices.ContainsFunc(agents, func(a *agent) bool { return len(a.Connections()) != len(agents)-1 })
	}
}

// Agents that know nobody but the first find each other through the DHT alone.
func TestFind(t *testing.T) {
	for _, c := range []struct{ agents, servers int }{{3, 1}, {10, 1}, {10, 10}} {
		t.Run(fmt.Sprintf("%d agents, %d servers", c.agents, c.servers), func(t *testing.T) {
			goroutines, memory := runtime.NumGoroutine(), heap()
			began := time.Now()
			first := start(t, testNetwork(1), 0)
			first.SetServer(true)
			agents := []*agent{first}
			for i := 1; i < c.agents; i++ {
				a := start(t, testNetwork(1), i, first.seed)
				a.SetServer(i < c.servers)
				agents = append(agents, a)
			}
			eventually(t, 20*time.Second, "everybody is connected to everybody", everybodyKnows(agents))
			n := len(agents)
			t.Logf("found after %v; %d goroutines and %d kB of heap an agent", time.Since(began).Round(time.Millisecond),
				(runtime.NumGoroutine()-goroutines)/n, (int(heap())-int(memory))/n>>10)
			for _, a := range agents {
				if a.JoinError() != "" || !a.Joined() {
					t.Errorf("joined %v, error %q", a.Joined(), a.JoinError())
				}
			}
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// What a stranger sends is dropped without an answer.
func TestDoorIsSilent(t *testing.T) {
	a := start(t, testNetwork(1), 0)
	a.SetServer(true)
	stranger, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(a.seed.Addr))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	wrong := testDoor(2)
	initial := append([]byte{0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0x9e}, make([]byte, 1262)...)
	version := slices.Clone(initial)
	version[4] = 0x77 // an unknown version asks for a list of the known ones
	packets := [][]byte{
		{},
		{0xc1},
		{0xc1, 2, 3},
		[]byte("hello"), initial, version,
		append([]byte{0x40, 1, 2, 3, 4}, make([]byte, 1200)...), // short header, for which QUIC sends stateless resets
		wrong.seal(nil, doorUDP, initial),
		wrong.seal(nil, doorUDP, version),
		append([]byte{doorUDP}, make([]byte, 1300)...),
		make([]byte, 4000),
	}
	for range 3 {
		for _, p := range packets {
			if _, err := stranger.Write(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, 5*time.Second, "all packets are dropped", func() bool {
		return a.Counters().Strangers == uint64(3*len(packets))
	})
	// A member gets in meanwhile, so the agent is alive; the stranger hears
	// nothing in that time and the next.
	b := start(t, testNetwork(1), 1, a.seed)
	eventually(t, 5*time.Second, "a member is let in", b.Joined)
	silent(t, stranger)
}

// silent checks that nothing has come, and nothing comes for a while.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var buf [2048]byte
	if n, err := c.Read(buf[:]); n > 0 {
		t.Errorf("%v was answered %d bytes: %x, %v", c.LocalAddr(), n, buf[:min(n, 32)], err)
	}
}

// An agent with another network key gets nowhere and can say why.
func TestWrongNetwork(t *testing.T) {
	a := start(t, testNetwork(1), 0)
	x := start(t, testNetwork(2), 1, a.seed)
	err := x.Dial(context.Background(), a.self, []netip.AddrPort{a.seed.Addr})
	if err == nil || !strings.Contains(err.Error(), "same network key") {
		t.Errorf("dial: %v", err)
	}
	eventually(t, 5*time.Second, "the error is told", func() bool { return x.JoinError() != "" })
	if want := a.seed.Addr.String() + ": dial " + a.self.Short() + ": no answer"; !strings.Contains(x.JoinError(), want) {
		t.Errorf("join error %q, want %q", x.JoinError(), want)
	}
	if x.Joined() || a.Joined() || a.Counters().Strangers == 0 {
		t.Errorf("joined %v and %v, %d strangers", x.Joined(), a.Joined(), a.Counters().Strangers)
	}
}

// A seed of a wrong id, and one at a port where nobody is.
func TestWrongSeed(t *testing.T) {
	a := start(t, testNetwork(1), 0)
	other := Seed{ID: overlay.AgentID(testKey(7).Public().(ed25519.PublicKey)), Addr: a.seed.Addr}
	x := start(t, testNetwork(1), 1, other)
	eventually(t, 5*time.Second, "the error is told", func() bool { return x.JoinError() != "" })
	if want := "there is another agent, " + a.self.String(); !strings.Contains(x.JoinError(), want) {
		t.Errorf("join error %q, want %q", x.JoinError(), want)
	}
}

func TestMessages(t *testing.T) {
	a := start(t, testNetwork(1), 0)
	b := start(t, testNetwork(1), 1, a.seed)
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	big := strings.Repeat("x", discovery.MaxMessage)
	for i := range 20 {
		a.Send(b.self, fmt.Appendf(nil, "to b %d", i))
		b.Send(a.self, fmt.Appendf(nil, "to a %d", i))
	}
	a.Send(b.self, []byte(big))
	a.Send(b.self, append([]byte(big), 'y')) // too long
	a.Send(b.self, nil)
	a.Send(overlay.AgentID{1}, []byte("nobody"))
	eventually(t, 5*time.Second, "all messages are there", func() bool {
		return b.got(a.self.Short()+": to b 19") && a.got(b.self.Short()+": to a 19") && b.got(a.self.Short()+": "+big)
	})
	b.mu.Lock()
	for i, m := range b.inbox[:20] {
		if want := fmt.Sprintf("%s: to b %d", a.self.Short(), i); m != want {
			t.Errorf("message %d is %q", i, m)
		}
	}
	b.mu.Unlock()
	if lost := a.Counters().Lost; lost != 3 {
		t.Errorf("%d messages are lost, want 3", lost)
	}
	if from, ok := b.RemoteAddr(a.self); !ok || from != a.seed.Addr {
		t.Errorf("connected from %v, want %v", from, a.seed.Addr)
	}
}

// A stream with a wrong length is reset; the connection and later streams live.
func TestWrongLength(t *testing.T) {
	a := start(t, testNetwork(1), 0)
	b := start(t, testNetwork(1), 1, a.seed)
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	p, err := peerID(a.self)
	if err != nil {
		t.Fatal(err)
	}
	for _, head := range [][]byte{{0, 0, 0, 0}, {0, 1, 0, 1}, {0xff, 0xff, 0xff, 0xff}} {
		s, err := b.host.NewStream(t.Context(), p, recordsOf(testNetwork(1)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write(head); err != nil {
			t.Fatal(err)
		}
		_ = s.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := s.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "deadline") {
			t.Errorf("after %x: %v", head, err)
		}
	}
	b.Send(a.self, []byte("still here"))
	eventually(t, 5*time.Second, "a message passes", func() bool { return a.got(b.self.Short() + ": still here") })
}

func TestDisconnect(t *testing.T) {
	a := start(t, testNetwork(1), 0)
	b := start(t, testNetwork(1), 1, a.seed)
	both := func() bool { return a.was("+"+b.self.Short()) && b.was("+"+a.self.Short()) }
	eventually(t, 5*time.Second, "both are told", both)
	a.Disconnect(b.self)
	eventually(t, 5*time.Second, "both are told", func() bool { return a.was("-"+b.self.Short()) && b.was("-"+a.self.Short()) })
	// It joins again by its seed, and leaving is told at once.
	eventually(t, 5*time.Second, "joined again", func() bool { return a.Joined() && b.Joined() })
	b.stop(t)
	eventually(t, 5*time.Second, "the end is told", func() bool { return !a.Joined() })
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, s := range a.told {
		if want := "+-"[i%2 : i%2+1]; s[:1] != want {
			t.Errorf("told %v", a.told)
		}
	}
}

// An agent that fell down without a word and is started again is heard at once.
func TestRestart(t *testing.T) {
	a := start(t, testNetwork(1), 0)
	b := start(t, testNetwork(1), 1, a.seed)
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	a.Send(b.self, []byte("before"))
	eventually(t, 5*time.Second, "a message passes", func() bool { return b.got(a.self.Short() + ": before") })
	eventually(t, 5*time.Second, "the connection isn't new", func() bool {
		return time.Since(a.host.Network().Conns()[0].Stat().Opened) > dialTimeout
	})
	_ = b.doors.udp4.Close()
	again := start(t, testNetwork(1), 1, a.seed)
	eventually(t, 5*time.Second, "both ends are told", func() bool { return again.Joined() && a.was("-"+b.self.Short()) && a.Joined() })
	a.Send(b.self, []byte("after"))
	eventually(t, 5*time.Second, "a message passes", func() bool { return again.got(a.self.Short() + ": after") })
}

// Agents with sockets of one family or both, bound to all addresses or one.
func TestFamilies(t *testing.T) {
	listen := func(network, addr string) net.PacketConn {
		c, err := net.ListenPacket(network, addr)
		if err != nil {
			t.Skipf("no %s here: %v", network, err)
		}
		return c
	}
	a := startOn(t, testNetwork(1), 0, []net.PacketConn{listen("udp4", "0.0.0.0:0"), listen("udp6", "[::]:0")})
	port := func(i int) uint16 { return a.cfg.Addrs()[i].Port() }
	at4 := Seed{ID: a.self, Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port(0))}
	at6 := Seed{ID: a.self, Addr: netip.AddrPortFrom(netip.IPv6Loopback(), port(1))}
	b := startOn(t, testNetwork(1), 1, []net.PacketConn{listen("udp4", "127.0.0.1:0")}, at6, at4)
	c := startOn(t, testNetwork(1), 2, []net.PacketConn{listen("udp6", "[::1]:0")}, at4, at6)
	eventually(t, 5*time.Second, "joined", func() bool { return b.Joined() && c.Joined() })
	for x, want := range map[*agent]netip.AddrPort{b: at4.Addr, c: at6.Addr} {
		if got, ok := x.RemoteAddr(a.self); !ok || got != want {
			t.Errorf("connected to %v, want %v", got, want)
		}
	}
	// And the other way: from a socket for all addresses to one.
	d := start(t, testNetwork(1), 3)
	if err := a.Dial(t.Context(), d.self, []netip.AddrPort{d.seed.Addr}); err != nil {
		t.Error(err)
	}
}

func TestSetServer(t *testing.T) {
	a := start(t, testNetwork(1), 0)
	serves := func() bool {
		return slices.Contains(a.host.Mux().Protocols(), protocol.ID(testNetwork(1).ProtocolPrefix()+"/kad/1.0.0"))
	}
	if serves() {
		t.Error("it serves at first")
	}
	a.SetServer(true)
	eventually(t, 5*time.Second, "serves", serves)
	a.SetServer(false)
	eventually(t, 5*time.Second, "doesn't", func() bool { return !serves() })
}

// Connections that aren't to be kept are closed, and second ones too.
func TestKeep(t *testing.T) {
	a := start(t, testNetwork(1), 0)
	b, c := start(t, testNetwork(1), 1), start(t, testNetwork(1), 2)
	var dials sync.WaitGroup
	for _, x := range []*agent{b, c} { // both sides at once
		dials.Go(func() { _ = x.Dial(context.Background(), a.self, []netip.AddrPort{a.seed.Addr}) })
		dials.Go(func() { _ = a.Dial(context.Background(), x.self, []netip.AddrPort{x.seed.Addr}) })
	}
	dials.Wait()
	eventually(t, 5*time.Second, "connected", func() bool { return len(a.Connections()) == 2 && b.Joined() && c.Joined() })
	a.Keep([]overlay.AgentID{b.self})
	a.sweep(time.Now())
	if !slices.Contains(a.Connections(), c.self) {
		t.Error("a new connection was closed")
	}
	for _, x := range []*agent{a, b} {
		x.sweep(time.Now().Add(2 * idleAge))
	}
	eventually(t, 5*time.Second, "closed", func() bool {
		return slices.Equal(a.Connections(), []overlay.AgentID{b.self}) && len(a.host.Network().Conns()) == 1
	})
	if !b.Joined() {
		t.Error("the kept connection is closed too")
	}
}

// Addresses of the overlay are neither dialled nor told nor accepted.
func TestUsable(t *testing.T) {
	inside := netip.MustParsePrefix("10.9.0.0/16")
	cfg := Config{
		Addrs: func() []netip.AddrPort {
			return []netip.AddrPort{netip.MustParseAddrPort("10.9.1.1:1"), netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("[fe80::1%eth0]:1")}
		},
		Usable: func(a netip.Addr) bool { return !inside.Contains(a) },
	}
	all := cfg.multiaddrs(cfg.Addrs())
	if fmt.Sprint(all) != "[/ip4/192.0.2.1/udp/1/quic-v1 /ip4/192.0.2.1/tcp/1]" {
		t.Errorf("told are %v", all)
	}
	g := gater{cfg.usable}
	for i, by := range []string{QUIC, TCP} {
		bad, err := multiaddr(netip.MustParseAddrPort("10.9.1.1:1"), by)
		if err != nil {
			t.Fatal(err)
		}
		if g.allows(bad) || !g.allows(all[i]) || len(cfg.addrPorts(append(all, bad))) != 1 {
			t.Errorf("%s: an address of the overlay is used, or another isn't", by)
		}
	}
}

// A seed may be a name.
func TestSeedByName(t *testing.T) {
	a := start(t, testNetwork(1), 0)
	b := start(t, testNetwork(1), 1, Seed{ID: a.self, Addr: netip.AddrPortFrom(netip.Addr{}, a.seed.Addr.Port()), Host: "localhost", Family: "ip4"})
	eventually(t, 5*time.Second, "joined", func() bool { return b.Joined() || b.JoinError() != "" })
	if b.JoinError() != "" {
		t.Error(b.JoinError())
	}
}

func TestValidate(t *testing.T) {
	_, err := New(Config{})
	for _, want := range []string{"no agent key", "no network key", "no socket", "missing"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// Run returns when its context ends, and nothing is left.
func TestEnd(t *testing.T) {
	before := runtime.NumGoroutine()
	a := start(t, testNetwork(1), 0)
	b := start(t, testNetwork(1), 1, a.seed)
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	a.stop(t)
	b.stop(t)
	eventually(t, 5*time.Second, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
	// The node is dead but safe.
	a.Send(b.self, []byte("x"))
	a.SetServer(true)
	if err := a.Dial(context.Background(), b.self, []netip.AddrPort{b.seed.Addr}); err == nil {
		t.Error("dialled after the end")
	}
}
