package p2p

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"farlan/discovery"
)

// A network changes its key: connections live on, members with either key get
// in for the time that was set, and afterwards those with the new one only.
func TestSetKeys(t *testing.T) {
	var mu sync.Mutex
	var later time.Duration
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(later) }
	at := func(network discovery.NetworkKey, i int, seeds ...Seed) *agent {
		return startWith(t, network, i, []net.PacketConn{udp(t)}, func(c *Config) { c.Clock, c.Bootstrap = clock, seeds })
	}
	older, newer := testNetwork(1), testNetwork(2)
	a := at(older, 0)
	b := at(older, 1, a.seed)
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	say := func(what string) {
		t.Helper()
		a.Send(b.self, []byte("to b "+what))
		b.Send(a.self, []byte("to a "+what))
		eventually(t, 5*time.Second, "messages pass "+what, func() bool {
			return b.got(a.self.Short()+": to b "+what) && a.got(b.self.Short()+": to a "+what)
		})
	}
	set := func(x *agent, keys ...Key) {
		t.Helper()
		if err := x.SetKeys(keys...); err != nil {
			t.Fatal(err)
		}
	}
	say("before")
	until := time.Now().Add(30 * time.Second)
	set(a, Key{Network: older}, Key{Network: newer})
	say("while one knows the new key")
	set(b, Key{Network: older}, Key{Network: newer})
	set(a, Key{Network: newer}, Key{Network: older, Until: until})
	say("while one seals with it")
	set(b, Key{Network: newer}, Key{Network: older, Until: until})
	say("when both do")

	// Those who know the new one only, or both, as after a start.
	c := at(newer, 2, a.seed)
	d := at(older, 3)
	set(d, Key{Network: newer}, Key{Network: older})
	if err := d.Dial(t.Context(), a.self, []netip.AddrPort{a.seed.Addr}); err != nil {
		t.Error(err)
	}
	eventually(t, 5*time.Second, "members with the new key are in", func() bool { return c.Joined() && d.Joined() && a.was("+"+c.self.Short()) })
	c.Send(a.self, []byte("new here"))
	a.Send(c.self, []byte("welcome"))
	eventually(t, 5*time.Second, "they are heard, and hear", func() bool {
		return a.got(c.self.Short()+": new here") && c.got(a.self.Short()+": welcome")
	})
	// Those who know the old one only are answered by it, and called by it.
	e := at(older, 4, a.seed)
	f := at(older, 5)
	if err := a.Dial(t.Context(), f.self, []netip.AddrPort{f.seed.Addr}); err != nil {
		t.Error(err)
	}
	eventually(t, 5*time.Second, "members with the old key are in", func() bool { return e.Joined() && f.Joined() && a.was("+"+e.self.Short()) })
	e.Send(a.self, []byte("late"))
	a.Send(e.self, []byte("still welcome"))
	eventually(t, 5*time.Second, "they are heard, and hear", func() bool {
		return a.got(e.self.Short()+": late") && e.got(a.self.Short()+": still welcome")
	})
	mu.Lock()
	later = 40 * time.Second
	mu.Unlock()
	set(a, Key{Network: newer})
	set(b, Key{Network: newer})
	g := at(older, 6)
	strangers := a.Counters().Strangers
	if err := g.Dial(context.Background(), a.self, []netip.AddrPort{a.seed.Addr}); err == nil {
		t.Error("the old key still lets in")
	}
	if a.Counters().Strangers == strangers || g.Counters().Strangers != 0 {
		t.Errorf("%d strangers, and %d there", a.Counters().Strangers-strangers, g.Counters().Strangers)
	}
	if err := a.Dial(context.Background(), g.self, []netip.AddrPort{g.seed.Addr}); err == nil {
		t.Error("who knows the old key only is called by it")
	}
	say("afterwards")
	if !a.was("+"+b.self.Short()) || a.was("-"+b.self.Short()) || b.was("-"+a.self.Short()) {
		t.Error("the connection was lost")
	}
}

func TestSetWrongKeys(t *testing.T) {
	a := start(t, testNetwork(1), 0)
	good := Key{Network: testNetwork(1)}
	for want, keys := range map[string][]Key{
		"0 network keys":        {},
		"5 network keys":        {good, good, good, good, good},
		"is zero":               {good, {}},
		"first network key has": {{Network: testNetwork(1), Until: time.Now().Add(time.Hour)}},
	} {
		if err := a.SetKeys(keys...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	b := start(t, testNetwork(1), 1, a.seed)
	eventually(t, 5*time.Second, "the key is as before", b.Joined)
	a.stop(t)
	if err := a.SetKeys(good); err == nil {
		t.Error("set after the end")
	}
}

// Keys may be replaced while datagrams come and go.
func TestSetKeysRace(t *testing.T) {
	d, e := testDoor(1), testDoor(1)
	both := []Key{{Network: testNetwork(1)}, {Network: testNetwork(2)}}
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			var plain [sealHead]byte
			for range 2000 {
				if _, ok := e.open(nil, doorUDP, d.seal(nil, doorUDP, []byte("hello")), &plain); !ok {
					t.Error("it doesn't open")
				}
			}
		})
		x := []*door{d, e}[i]
		if err := x.setKeys(both); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		if err := d.setKeys([]Key{both[i%2], both[(i+1)%2]}); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

// By TCP it is the same, and connections that the old key opened end with it.
func TestSetKeysTCP(t *testing.T) {
	older, newer := testNetwork(1), testNetwork(2)
	a := startTCP(t, older, 0, true)
	b := startTCP(t, older, 1, true, a.seed)
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	until := time.Now().Add(time.Hour)
	for _, x := range []*agent{a, b} {
		if err := x.SetKeys(Key{Network: newer}, Key{Network: older, Until: until}); err != nil {
			t.Fatal(err)
		}
	}
	c := startTCP(t, newer, 2, true, a.seed)
	d := startTCP(t, older, 3, true, a.seed)
	e := startTCP(t, older, 4, true)
	eventually(t, 10*time.Second, "those who know one key are in", func() bool {
		_ = a.Dial(t.Context(), e.self, []netip.AddrPort{e.seed.Addr}) // each other time by the old key
		return c.Joined() && d.Joined() && e.Joined()
	})
	if a.was("-"+b.self.Short()) || b.was("-"+a.self.Short()) {
		t.Error("the connection was lost")
	}
	var old []network.Conn
	for _, conn := range a.host.Network().Conns() {
		if conn.RemotePeer() != c.host.ID() {
			old = append(old, conn)
		}
	}
	if len(old) < 3 {
		t.Fatalf("%d connections by the old key", len(old))
	}
	if err := a.SetKeys(Key{Network: newer}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "connections by the old key are closed", func() bool {
		return !slices.ContainsFunc(old, func(conn network.Conn) bool { return !conn.IsClosed() }) // b may be back already
	})
	if a.was("-" + c.self.Short()) {
		t.Error("a connection by the new key is closed")
	}
	eventually(t, 5*time.Second, "the other end is told", func() bool { return d.was("-" + a.self.Short()) })
	for i := range 4 {
		if err := d.Dial(t.Context(), a.self, []netip.AddrPort{a.seed.Addr}); err == nil {
			t.Fatalf("the old key lets in, at dial %d", i)
		}
	}
	eventually(t, 10*time.Second, "who knows both is in again", func() bool {
		_ = b.Dial(t.Context(), a.self, []netip.AddrPort{a.seed.Addr})
		return b.Transport(a.self) == TCP
	})
}

// The DHT goes by the new key, too: agents that know of each other by nothing else
// find each other under it.
func TestSetKeysDHT(t *testing.T) {
	older, newer := testNetwork(1), testNetwork(2)
	a := start(t, older, 0)
	a.SetServer(true)
	b := start(t, older, 1, a.seed)
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	for _, x := range []*agent{a, b} {
		if err := x.SetKeys(Key{Network: newer}, Key{Network: older, Until: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	c := start(t, newer, 2, a.seed)
	d := start(t, older, 3, a.seed)
	eventually(t, 20*time.Second, "found by the new key", func() bool { return slices.Contains(c.Connections(), b.self) })
	eventually(t, 20*time.Second, "found by the old key", func() bool { return slices.Contains(d.Connections(), b.self) })
	if err := a.SetKeys(Key{Network: newer}); err != nil {
		t.Fatal(err)
	}
	if tables := *a.tables.Load(); len(tables) != 1 || tables[0].network != newer {
		t.Errorf("%d DHTs", len(tables))
	}
}

// A door remembers of a bounded number of addresses by which key they were heard.
func TestHeardIsBounded(t *testing.T) {
	d := testDoor(1)
	both := []Key{{Network: testNetwork(2)}, {Network: testNetwork(1)}}
	if err := d.setKeys(both); err != nil {
		t.Fatal(err)
	}
	old := (*d.keys.Load())[1].doorKey
	at := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1+uint16(i>>16))
	}
	for i := range maxHeard + 100 {
		d.note(at(i), old)
	}
	if len(d.heard) != maxHeard {
		t.Errorf("%d addresses", len(d.heard))
	}
	if k := d.keysTo(net.UDPAddrFromAddrPort(at(0))); len(k) != 1 || k[0].doorKey != old {
		t.Errorf("%d keys to one that was heard", len(k))
	}
	if k := d.keysTo(net.UDPAddrFromAddrPort(at(maxHeard + 1))); len(k) != 2 {
		t.Errorf("%d keys to one that was not", len(k))
	}
	if err := d.setKeys(both[:1]); err != nil || len(d.heard) != 0 {
		t.Errorf("%d addresses afterwards, %v", len(d.heard), err)
	}
}
