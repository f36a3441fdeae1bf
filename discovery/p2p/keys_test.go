package p2p

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

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
	eventually(t, 5*time.Second, "members with the new key are in", func() bool { return c.Joined() && d.Joined() })
	c.Send(a.self, []byte("new here"))
	a.Send(c.self, []byte("welcome"))
	eventually(t, 5*time.Second, "they are heard, and hear", func() bool {
		return a.got(c.self.Short()+": new here") && c.got(a.self.Short()+": welcome")
	})
	// The old one opens, so its holder is answered, but by the new one, which it
	// doesn't know.
	e := at(older, 4)
	strangers := a.Counters().Strangers
	if err := e.Dial(context.Background(), a.self, []netip.AddrPort{a.seed.Addr}); err == nil {
		t.Error("who doesn't know the new key is in")
	}
	if a.Counters().Strangers != strangers || e.Counters().Strangers == 0 {
		t.Errorf("%d strangers, and %d there", a.Counters().Strangers-strangers, e.Counters().Strangers)
	}
	mu.Lock()
	later = 40 * time.Second
	mu.Unlock()
	if err := e.Dial(context.Background(), a.self, []netip.AddrPort{a.seed.Addr}); err == nil {
		t.Error("the old key still lets in")
	}
	if a.Counters().Strangers == strangers {
		t.Error("the old key still opens")
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
