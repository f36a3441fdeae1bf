package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/discovery/p2p"
	"farlan/overlay"
)

func reachNode(t testing.TB) *node {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newNode(&config{}, slog.New(slog.DiscardHandler), discovery.NewKeyring(discovery.NewNetwork(discovery.NetworkKey{1}, discovery.AdminPublic{})), identity{key: key}, discovery.Credential{})
}

// Messages of members about reaching this agent make it neither panic nor grow.
func FuzzReachMessage(f *testing.F) {
	f.Add([]byte{reachAsk, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Add([]byte{reachAnswer, 1, 2, 3, 4, 5, 6, 7, 8, 3})
	f.Add([]byte{1})
	n := reachNode(f)
	f.Fuzz(func(t *testing.T, msg []byte) {
		if taken := n.reachMessage(overlay.AgentID{1}, msg); taken != (len(msg) > 0 && (msg[0] == reachAsk || msg[0] == reachAnswer)) {
			t.Errorf("%x is taken: %v", msg, taken)
		}
		if len(n.reach.asked) != 0 || len(n.mail.take()) > 1 {
			t.Error("it grows")
		}
	})
}

// An answer counts if it is the asked member's, and once.
func TestReachAnswers(t *testing.T) {
	n := reachNode(t)
	member, token := overlay.AgentID{1}, p2p.Token{7}
	n.reach.asked = map[p2p.Token]*reachState{token: {member: member, done: make(chan struct{})}}
	answer := func(from overlay.AgentID, flags byte) {
		n.reachMessage(from, append(append([]byte{reachAnswer}, token[:]...), flags))
	}
	answer(overlay.AgentID{2}, reachTCP)
	n.reach.knocked(netip.AddrPort{}, p2p.Token{8})
	if s := n.reach.asked[token]; s.answered || s.udp {
		t.Errorf("somebody else's answer counts: %+v", s)
	}
	answer(member, reachSent)
	answer(member, reachTCP)
	n.reach.knocked(netip.MustParseAddrPort("192.0.2.1:5"), token)
	n.reach.knocked(netip.MustParseAddrPort("192.0.2.1:6"), token)
	start := time.Now()
	got := n.reached(t.Context(), []p2p.Token{token})
	if len(got) != 1 || !got[0].sent || got[0].tcp || !got[0].udp || got[0].from.Port() != 5 || time.Since(start) > reachWait/2 {
		t.Errorf("%+v after %v", got, time.Since(start))
	}
	if len(n.reach.asked) != 0 {
		t.Error("what is over is remembered")
	}
}
