package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/discovery/p2p"
	"farlan/measure"
	"farlan/overlay"
)

// An agent whose clock is not the others' says so itself: in the log, and in its
// health, with what to do. The other one here lives an hour ago.
func TestClockIsWrong(t *testing.T) {
	key := newKeyFile(t)
	a := startAgent(t, key, "a")
	v, err := a.status()
	eventually(t, 10*time.Second, func() error { v, err = a.status(); return err })
	if h := find(v, "clock"); !h.OK {
		t.Errorf("the clock is wrong though nobody is there: %+v", h)
	}
	defer past(t, key, a.bootstrap())()
	took := eventually(t, 10*time.Second, func() error {
		if v, err = a.status(); err == nil && find(v, "clock").OK {
			err = errors.New("the clock is said to be right")
		}
		return err
	})
	h := find(v, "clock")
	t.Logf("noticed after %v: %s", took, h.Detail)
	if !strings.HasPrefix(h.Detail, "1h0m0s ahead of") && !strings.HasPrefix(h.Detail, "59m59s ahead of") || !strings.Contains(h.Hint, "set-ntp") || v.State != "degraded" {
		t.Errorf("state %s, health %+v", v.State, h)
	}
	if !strings.Contains(fmt.Sprint(v.Drops), "control datagram by another clock") {
		t.Errorf("drops: %v", v.Drops)
	}
	eventually(t, 5*time.Second, func() error {
		if said := a.said(); !strings.Contains(said, "level=ERROR msg=\"this host's clock is wrong\"") {
			return fmt.Errorf("the log doesn't say so:\n%s", said)
		}
		return nil
	})
}

// past runs a member that lives an hour ago and calls an agent, until stop is called.
func past(t *testing.T, key, at string) (stop func()) {
	t.Helper()
	network, err := readNetwork(key)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := p2p.ParseSeed(at)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	ignore := func(overlay.AgentID) {}
	other, err := p2p.New(p2p.Config{
		Key: ed25519.NewKeyFromSeed(make([]byte, 32)), Network: network.Root(), Sockets: []net.PacketConn{socket},
		Bootstrap: []p2p.Seed{seed}, Clock: func() time.Time { return time.Now().Add(-time.Hour) },
		Addrs: func() []netip.AddrPort { return nil }, Log: slog.New(slog.DiscardHandler), Go: func(f func()) { tasks.Go(f) },
		Connected: ignore, Disconnected: ignore,
		Message: func(overlay.AgentID, []byte) {}, Found: func(overlay.AgentID, []netip.AddrPort) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(context.Background())
	tasks.Go(func() { _ = other.Run(ctx) })
	return func() { leave(); tasks.Wait() }
}

// find returns the health of one check.
func find(v statusView, check string) healthView {
	for _, h := range v.Health {
		if h.Check == check {
			return h
		}
	}
	return healthView{Check: "no check " + check}
}

// An agent whose machine was suspended, so that the clock of the world has run on and
// its own hasn't, notices at its next turn: after a short time it holds nobody's silence
// against them, after a long one it begins again with all, and looks where it is.
func TestClockJump(t *testing.T) {
	for jump, want := range map[time.Duration]struct{ probes, again bool }{
		0:                      {false, false},
		3 * time.Second:        {true, false},
		measure.GoneAfter:      {true, true},
		time.Minute:            {true, true},
		30 * 24 * time.Hour:    {true, true},
		900 * time.Millisecond: {false, false},
	} {
		c := newCourt(t, discovery.AllRights)
		c.hear(t, 1, discovery.Member{Credential: c.issue(t, 1, discovery.AllRights).Bytes(), SessionKey: [32]byte{9}})
		p, now := c.peers[c.id(1)], c.now()
		p.heard(now.Add(-9 * time.Second)) // almost gone
		p.path.Probe(now.Add(-8900 * time.Millisecond))
		p.state, p.probe = measure.Up, now.Add(time.Hour)
		c.stepped = now.Add(-tick / 2)
		c.asleep -= jump
		c.mindTheGap(now)
		probes, again := p.probe == now, p.state == measure.Gone
		if probes != want.probes || again != want.again || (c.roaming.force != 0) != want.again {
			t.Errorf("after %v: probes %v, begins again %v, looks where it is %v", jump, probes, again, c.roaming.force != 0)
		}
		if forgiven := p.path.State(now.Add(2*time.Second)) == measure.Up; forgiven != want.probes {
			t.Errorf("after %v: the silence is forgiven: %v", jump, forgiven)
		}
		if want.again && c.handshakes() == 0 {
			t.Errorf("after %v: no handshake begins", jump)
		}
		p.state, p.probe, c.roaming.force = measure.Up, now.Add(time.Hour), 0
		c.mindTheGap(now.Add(tick / 2))
		if p.state != measure.Up || p.probe != now.Add(time.Hour) || c.roaming.force != 0 {
			t.Errorf("%v are noticed twice", jump)
		}
	}
}

func TestClockHealth(t *testing.T) {
	for _, c := range []struct {
		ahead time.Duration
		wrong bool
		count p2p.Counters
		want  string
	}{
		{0, false, p2p.Counters{}, "within 2m0s of the other members', as far as any are heard"},
		{0, false, p2p.Counters{Replays: 2, Untimely: 3}, "within 2m0s of the other members', as far as any are heard; 3 datagrams by another clock; 2 datagrams came again"},
		{-3 * time.Minute, true, p2p.Counters{}, "3m0s behind the other members': at more than 2m0s agents don't hear each other"},
		{3 * time.Hour, true, p2p.Counters{Untimely: 1}, "3h0m0s ahead of the other members': at more than 2m0s agents don't hear each other; 1 datagrams by another clock"},
	} {
		if h := clockHealth(c.ahead, c.wrong, c.count); h.Detail != c.want || h.OK == c.wrong || (h.Hint == "") == c.wrong {
			t.Errorf("%+v\nwant %q", h, c.want)
		}
	}
}
