package p2p

import (
	"bytes"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// A member's knock is heard, from a port of its own; that of others is not, nor one
// that somebody repeats.
func TestKnock(t *testing.T) {
	var mu sync.Mutex
	var came []Token
	var from netip.AddrPort
	u, l := port(t)
	a := startWith(t, testNetwork(1), 0, []net.PacketConn{u}, func(c *Config) {
		c.Listeners = []net.Listener{l}
		c.Knocked = func(f netip.AddrPort, token Token) {
			mu.Lock()
			defer mu.Unlock()
			came, from = append(came, token), f
		}
	})
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(came) }
	b := start(t, testNetwork(1), 1)
	token := Token{1, 2, 3}
	if sent, connected := b.Knock(t.Context(), a.seed.Addr, token); !sent || !connected {
		t.Errorf("sent %v, connected %v", sent, connected)
	}
	eventually(t, 5*time.Second, "the knocks are heard", func() bool { return count() == knocks })
	mu.Lock()
	if came[0] != token || from == b.seed.Addr || from.Addr() != b.seed.Addr.Addr() {
		t.Errorf("%v from %v", came[0], from)
	}
	mu.Unlock()

	strangers := a.Counters().Strangers
	stranger := start(t, testNetwork(2), 2)
	if sent, _ := stranger.Knock(t.Context(), a.seed.Addr, token); !sent {
		t.Error("a stranger could not knock")
	}
	eventually(t, 5*time.Second, "strangers are counted", func() bool { return a.Counters().Strangers >= strangers+knocks })
	raw := b.doors.door.seal(nil, doorKnock, token[:])
	for range 3 {
		if _, err := u.WriteTo(raw, net.UDPAddrFromAddrPort(a.seed.Addr)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 5*time.Second, "one of three copies is heard", func() bool { return count() == knocks+1 && a.Counters().Replays == 2 })
	for _, bad := range [][]byte{nil, {1}, bytes.Repeat([]byte{1}, 9)} {
		if _, err := u.WriteTo(b.doors.door.seal(nil, doorKnock, bad), net.UDPAddrFromAddrPort(a.seed.Addr)); err != nil {
			t.Fatal(err)
		}
	}
	if _, connected := b.Knock(t.Context(), netip.MustParseAddrPort("127.0.0.1:1"), token); connected {
		t.Error("connected to nobody")
	}
	if count() != knocks+1 {
		t.Errorf("%d knocks", count())
	}
}
