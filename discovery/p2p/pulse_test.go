package p2p

import (
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// A mutedConn is a socket whose datagrams get lost for a while, unnoticed.
type mutedConn struct {
	net.PacketConn
	mute atomic.Bool
}

func (c *mutedConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.mute.Load() {
		return len(b), nil
	}
	return c.PacketConn.WriteTo(b, to)
}

// A connection on which nothing passes any more ends soon after something was sent, not
// only after QUIC's half a minute; one that is idle, or slow for a moment, doesn't end.
func TestDeadConnection(t *testing.T) {
	sockets := []*mutedConn{{PacketConn: udp(t)}, {PacketConn: udp(t)}}
	a := startOn(t, testNetwork(1), 0, []net.PacketConn{sockets[0]})
	b := startOn(t, testNetwork(1), 1, []net.PacketConn{sockets[1]})
	if err := a.Dial(t.Context(), b.self, []netip.AddrPort{b.seed.Addr}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	mute := func(on bool) {
		for _, s := range sockets {
			s.mute.Store(on)
		}
	}
	told := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.inbox)
	}
	mute(true)
	a.Send(b.self, []byte("late"))
	<-time.After(1500 * time.Millisecond)
	mute(false)
	eventually(t, 5*time.Second, "what was sent meanwhile comes", func() bool { return told() == 1 })
	a.mu.Lock()
	ended := slices.Contains(a.told, "-"+b.self.Short())
	a.mu.Unlock()
	if !a.Joined() || ended {
		t.Error("a short silence ended the connection")
	}
	mute(true)
	a.Send(b.self, []byte("lost"))
	began := time.Now()
	eventually(t, 10*time.Second, "the connection ends", func() bool { return !a.Joined() })
	t.Logf("ended %v after the first that was lost", time.Since(began).Round(time.Millisecond))
	mute(false)
	if err := a.Dial(t.Context(), b.self, []netip.AddrPort{b.seed.Addr}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "connected again", func() bool { return a.Joined() && b.Joined() })
	a.Send(b.self, []byte("again"))
	eventually(t, 5*time.Second, "what is sent then comes", func() bool { return told() >= 2 })
}
