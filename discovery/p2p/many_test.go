package p2p

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"farlan/overlay"
)

// Of connections that nobody needs no more stay than maxIdleConns once they are old
// enough for a query, and the kept ones don't count.
func TestIdleConnectionsAreBounded(t *testing.T) {
	hub := start(t, testNetwork(1), 0)
	var others []*agent
	for i := range maxIdleConns + 4 {
		x := start(t, testNetwork(1), i+1)
		if err := x.Dial(context.Background(), hub.self, []netip.AddrPort{hub.seed.Addr}); err != nil {
			t.Fatal(err)
		}
		others = append(others, x)
	}
	count := func() int { return len(hub.Connections()) }
	eventually(t, 20*time.Second, "all are connected", func() bool { return count() == len(others) })
	hub.Keep([]overlay.AgentID{others[0].self})
	young := time.Now() // of the first it may be more than that already
	hub.sweep(young.Add(idleAge/4 + time.Second))
	eventually(t, 5*time.Second, "as many are left as may", func() bool { return count() == maxIdleConns+1 })
	hub.sweep(young.Add(2 * idleAge))
	eventually(t, 5*time.Second, "the kept one is left", func() bool { return count() == 1 })
}

// A countedConn counts what goes through it.
type countedConn struct {
	net.PacketConn
	sent *atomic.Int64
}

func (c countedConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.sent.Add(1)
	return c.PacketConn.WriteTo(b, to)
}

// Servers of the DHT that know each other leave each other alone, also if they are more
// than fit into a bucket of a small Kademlia.
func TestServersRest(t *testing.T) {
	const servers = 12
	var sent atomic.Int64
	var agents []*agent
	for i := range servers {
		var seeds []Seed
		if i > 0 {
			seeds = []Seed{agents[0].seed}
		}
		a := startOn(t, testNetwork(1), i, []net.PacketConn{countedConn{udp(t), &sent}}, seeds...)
		a.SetServer(true)
		agents = append(agents, a)
	}
	eventually(t, 20*time.Second, "everybody is connected to everybody", everybodyKnows(agents))
	// Searches go on for a while, some seconds apart; between them there is silence.
	quiet := func() bool {
		before := sent.Load()
		time.Sleep(time.Second)
		return sent.Load()-before < servers
	}
	eventually(t, 20*time.Second, "a second of silence", quiet)
	for _, a := range agents {
		if n := (*a.tables.Load())[0].dht.RoutingTable().Size(); n != servers-1 {
			t.Errorf("a server knows %d others, not %d", n, servers-1)
		}
	}
}
