package agent

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/link"
)

// A court is a node of a signed network that others introduce themselves to.
type court struct {
	*node
	admin discovery.AdminKey
	keys  []ed25519.PrivateKey
}

// newCourt makes one whose own credential has some rights.
func newCourt(t *testing.T, rights discovery.Rights) *court {
	t.Helper()
	key, err := discovery.NewNetworkKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := discovery.NewAdminKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	static, err := overlay.NewStaticKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &court{admin: admin}
	for i := range 4 {
		c.keys = append(c.keys, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i + 1)}, ed25519.SeedSize)))
	}
	port, err := link.Open(netip.MustParseAddrPort("127.0.0.1:0"), link.Config{Lanes: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = port.Close() })
	c.node = newNode(&config{Name: "self"}, slog.New(slog.DiscardHandler), discovery.NewKeyring(discovery.NewNetwork(key, admin.Public())), identity{c.keys[0], static}, c.issue(t, 0, rights))
	c.sockets = []*link.Port{port}
	return c
}

func (c *court) id(i int) overlay.AgentID {
	return overlay.AgentID(c.keys[i].Public().(ed25519.PublicKey))
}

func (c *court) issue(t *testing.T, i int, rights discovery.Rights) discovery.Credential {
	t.Helper()
	cred, err := discovery.IssueCredential(c.admin, c.id(i), rights, time.Now().Add(-time.Minute).Unix(), time.Now().Add(time.Hour).Unix())
	if err != nil {
		t.Fatal(err)
	}
	return cred
}

// hear has the node hear the member record of agent i.
func (c *court) hear(t *testing.T, i int, m discovery.Member) {
	t.Helper()
	m.Name = "m" + string(rune('0'+i))
	m.Addrs = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4747")}
	body, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := discovery.SignRecord(c.keys[i], c.network, discovery.Record{
		Kind: discovery.KindMember, Version: uint64(c.wall()), Expires: time.Now().Add(time.Hour).Unix(), Body: body,
	})
	if err != nil {
		t.Fatal(err)
	}
	if bad := c.store.Load(c.wall(), [][]byte{r.Bytes()}); bad != 0 {
		t.Fatal("the record isn't taken")
	}
	for _, change := range c.store.Changes() {
		c.recordChanged(c.now(), change)
	}
}

// handshakes says how many are under way.
func (c *court) handshakes() (n int) {
	c.sessions.Tick(c.now().Add(5 * time.Second))
	c.sessions.Flush(func(overlay.AgentID, overlay.Way, []byte) { n++ })
	return n
}

// Who says that it bridges a LAN without the right isn't talked with; the others
// are, and it is as soon as it has the right, or stops saying so.
func TestLANClaim(t *testing.T) {
	const others = discovery.RightRelay | discovery.RightReserve
	for _, step := range []struct {
		rights discovery.Rights
		lan    bool
		talks  bool
	}{
		{others, false, true},
		{others, true, false},
		{discovery.RightBridge, true, true},
		{0, true, false},
		{0, false, true},
	} {
		c := newCourt(t, discovery.AllRights)
		c.hear(t, 1, discovery.Member{Credential: c.issue(t, 1, discovery.AllRights).Bytes(), LAN: true, SessionKey: [32]byte{9}})
		p := c.peers[c.id(1)]
		c.sw.Stations.Learn(c.now(), overlay.MAC{2, 1}, p.place())
		if c.handshakes() == 0 {
			t.Fatal("a member isn't talked with")
		}
		c.hear(t, 1, discovery.Member{Credential: c.issue(t, 1, step.rights).Bytes(), LAN: step.lan, SessionKey: [32]byte{11}})
		stations := len(c.sw.Stations.List())
		if talks := c.handshakes() > 0; talks != step.talks || (p.state == measure.Gone) == step.talks || stations > 0 != step.talks {
			t.Errorf("rights %v, LAN %v: talked with: %v, %v, %d stations", step.rights, step.lan, talks, p.state, stations)
		}
	}
}

// Who may not relay isn't chosen to, and an agent that may not relay passes
// nothing on.
func TestRelayRight(t *testing.T) {
	for _, rights := range []discovery.Rights{discovery.AllRights, discovery.RightBridge} {
		c := newCourt(t, rights)
		for i := 1; i < 4; i++ {
			may := discovery.AllRights
			if i == 2 {
				may = discovery.RightBridge
			}
			c.hear(t, i, discovery.Member{Credential: c.issue(t, i, may).Bytes(), SessionKey: [32]byte{8 + byte(i)}})
		}
		for _, p := range c.peers {
			p.heard(c.now())
			p.state = measure.Up
			p.out.Store(&outbound{way: overlay.Direct(netip.MustParseAddrPort("192.0.2.1:4747"))})
		}
		relays := c.relaysTo(c.peers[c.id(3)], c.relayers(c.now(), len(c.byIndex)))
		if len(relays) != 1 || relays[0] != c.id(1) {
			t.Errorf("relays to agent 3: %v", relays)
		}
		c.publish(c.now())
		if n := len(c.view.Load().byLabel); (n == 3) != rights.Has(discovery.RightRelay) || n != 0 && n != 3 {
			t.Errorf("with the rights %v it passes on to %d agents", rights, n)
		}
	}
}
