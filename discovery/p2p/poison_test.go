package p2p

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"farlan/discovery"
	"farlan/overlay"
)

// A hunter dials whom the DHT names as the agent does: as discovery.Finds says, sixteen
// at once.
type hunter struct {
	mu    sync.Mutex
	finds *discovery.Finds
	born  time.Time
	slots chan struct{}
	dials atomic.Int64
}

func (h *hunter) now() overlay.Instant { return overlay.Instant(time.Since(h.born)) }

func (h *hunter) found(id overlay.AgentID, addrs []netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.finds.Found(h.now(), id, addrs)
}

func (h *hunter) run(ctx context.Context, a *agent) {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for ctx.Err() == nil {
		h.mu.Lock()
		id, addrs, ok := h.finds.Next(h.now(), false)
		h.mu.Unlock()
		if !ok {
			<-look.C
			continue
		}
		h.slots <- struct{}{}
		h.dials.Add(1)
		a.tasks.Go(func() {
			defer func() { <-h.slots }()
			once, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
			defer cancel()
			if a.Dial(once, id, addrs) == nil {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.finds.Forget(id)
			}
		})
	}
}

// A member that serves the DHT fills it with agents who don't exist (10,000 with
// FARLAN_LONG), and with false addresses of one who does. A newcomer that knows nobody
// else finds that one all the same, connects to nobody else, and what it sends to the
// addresses of strangers is little, and sealed.
func TestPoisonedDHT(t *testing.T) {
	lies, limit := 200, time.Minute
	if os.Getenv("FARLAN_LONG") != "" {
		lies, limit = 10_000, time.Hour
	}
	network := testNetwork(1)
	idle := func(seeds ...Seed) func(*Config) { // dials nobody by itself
		return func(c *Config) {
			c.Bootstrap = seeds
			c.Found = func(overlay.AgentID, []netip.AddrPort) {}
		}
	}
	evil := startWith(t, network, 0, []net.PacketConn{udp(t)}, idle())
	evil.SetServer(true)
	member := startWith(t, network, 1, []net.PacketConn{udp(t)}, idle(evil.seed))
	eventually(t, 5*time.Second, "both are connected", member.Joined)

	watched, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 3)}) // where some of them are said to be
	if err != nil {
		t.Fatal(err)
	}
	defer watched.Close()
	at := watched.LocalAddr().(*net.UDPAddr).AddrPort()
	now := time.Now()
	provided := 0
	eventually(t, 20*time.Second, "the one who exists is in the DHT", func() bool {
		c, err := rendezvous(network, hours(now)[0])
		if err != nil {
			t.Fatal(err)
		}
		all, err := (*evil.tables.Load())[0].dht.ProviderStore().GetProviders(t.Context(), c.Hash())
		provided = len(all)
		return err == nil && provided > 0
	})
	for _, hour := range hours(now) {
		c, err := rendezvous(network, hour)
		if err != nil {
			t.Fatal(err)
		}
		tell := func(id overlay.AgentID, to netip.AddrPort) {
			p, err := peerID(id)
			if err != nil {
				t.Fatal(err)
			}
			m, err := multiaddr(to, QUIC)
			if err != nil {
				t.Fatal(err)
			}
			if err := (*evil.tables.Load())[0].dht.ProviderStore().AddProvider(t.Context(), c.Hash(), peer.AddrInfo{ID: p, Addrs: []ma.Multiaddr{m}}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range lies {
			to := at
			if i%20 != 0 {
				to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 9, byte(i >> 8), byte(i)}), 9)
			}
			tell(overlay.AgentID(testKey(1000 + i)[32:]), to)
		}
		tell(member.self, at)
	}

	h := &hunter{finds: discovery.NewFinds(1), born: time.Now(), slots: make(chan struct{}, 16)}
	newcomer := startWith(t, network, 2, []net.PacketConn{udp(t)}, func(c *Config) {
		c.Bootstrap = []Seed{evil.seed}
		c.Found = h.found
	})
	began := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	newcomer.tasks.Go(func() { h.run(ctx, newcomer) })
	eventually(t, limit, "it finds the one who exists", func() bool { return slices.Contains(newcomer.Connections(), member.self) })
	took := time.Since(began)
	stop()
	if got := newcomer.Connections(); len(got) != 2 {
		t.Errorf("connected to %v", got)
	}

	door, err := newDoor(network.ControlKey(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	got, b := 0, make([]byte, 2000)
	_ = watched.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	for ; ; got++ {
		n, err := watched.Read(b)
		if err != nil {
			break
		}
		if _, ok := door.open(nil, doorUDP, b[:n], new([sealHead]byte)); !ok || b[0] != doorUDP {
			t.Fatalf("a stranger's address got what isn't sealed: %x…", binary.BigEndian.Uint64(b))
		}
	}
	t.Logf("among %d lies the one who exists was found after %v and %d dials; the address of %d of them got %d datagrams, all sealed",
		lies, took.Round(time.Millisecond), h.dials.Load(), lies/20, got)
	// A host is dialled four times and once each ten seconds. A dial begins with two
	// datagrams, and QUIC repeats them three times until it is given up.
	if most := 8 * (5 + int(took.Seconds())/10); got == 0 || got > most {
		t.Errorf("it got %d datagrams, at most %d are right", got, most)
	}
}
