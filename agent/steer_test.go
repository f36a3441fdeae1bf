package agent

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// Who closes a new connection at once is dialled again ever more rarely; one that lasted
// is dialled again at once.
func TestShortLivedConnections(t *testing.T) {
	c, id := newControl(1), overlay.AgentID{1}
	start := overlay.Instant(time.Now().UnixNano())
	at := func(seconds int) overlay.Instant { return start.Add(time.Duration(seconds) * time.Second) }
	for _, step := range []struct {
		after int
		do    func(now overlay.Instant)
		again int // when it may be dialled
	}{
		{0, func(now overlay.Instant) { c.dialled(now, id, nil) }, 0},
		{10, func(now overlay.Instant) { c.hungUp(now, id) }, 12},
		{12, func(now overlay.Instant) { c.dialled(now, id, nil) }, 12},
		{20, func(now overlay.Instant) { c.hungUp(now, id) }, 24},
		{24, func(now overlay.Instant) { c.dialled(now, id, errors.New("no")) }, 26},
		{26, func(now overlay.Instant) { c.dialled(now, id, nil) }, 26},
		{30, func(now overlay.Instant) { c.hungUp(now, id) }, 38},
		{31, func(now overlay.Instant) { c.hungUp(now, id) }, 38}, // the other side had come
		{38, func(now overlay.Instant) { c.dialled(now, id, nil) }, 38},
		{90, func(now overlay.Instant) { c.hungUp(now, id) }, 0},
		{90, func(now overlay.Instant) { c.dialled(now, id, nil) }, 0},
		{95, func(now overlay.Instant) { c.hungUp(now, id) }, 97},
	} {
		step.do(at(step.after))
		if again := c.dials[id].again; step.again == 0 && at(step.after).Before(again) || step.again > 0 && again != at(step.again) {
			t.Errorf("after %d s it may be dialled %v later", step.after, again.Sub(at(step.after)))
		}
	}
}

// An agent tells some of its links, the same ones as long as they are there.
func TestTellsFewLinks(t *testing.T) {
	key, err := discovery.NewNetworkKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	static, err := overlay.NewStaticKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	n := newNode(&config{Name: "self"}, slog.New(slog.DiscardHandler), discovery.NewKeyring(discovery.NewNetwork(key, discovery.AdminPublic{})), identity{own, static}, discovery.Credential{})
	var up []*peer
	for i := range 3 * linksTold {
		p := n.meet(n.now(), overlay.AgentID{byte(i), 1})
		p.heard(n.now())
		p.state = measure.Up
		p.out.Store(&outbound{way: overlay.Direct(netip.MustParseAddrPort("192.0.2.1:4747"))})
		up = append(up, p)
	}
	now := n.epoch
	tell := func(linked []*peer) []discovery.Row {
		n.view.Store(&view{linked: linked})
		now = now.Add(neighboursEvery / 4)
		n.tellLinks(now)
		told, _, _ := n.store.Told(n.self)
		return told.Rows
	}
	few := tell(up[:4])
	all := tell(up)
	again := tell(up)
	if len(few) != 4 || len(all) != linksTold || !slices.Equal(all, again) {
		t.Errorf("told %d, %d and then %d links", len(few), len(all), len(again))
	}
	for _, l := range few {
		if !slices.Contains(all, l) {
			t.Error("a link isn't told any more")
		}
	}
	version := n.own.linksVersion
	gone := slices.DeleteFunc(slices.Clone(up), func(p *peer) bool { return discovery.BriefOf(p.id) == all[0].Peer })
	rest := tell(gone)
	if len(rest) != linksTold || slices.ContainsFunc(rest, func(r discovery.Row) bool { return r.Peer == all[0].Peer }) || n.own.linksVersion <= version {
		t.Error("a link that is gone is still told, or no other one instead")
	}
}
