package p2p

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"farlan/discovery"
	"farlan/overlay"
)

// A realm is a signed network of the tests.
type realm struct {
	discovery.Network
	admin discovery.AdminKey
}

func newRealm(n byte) realm {
	admin, err := discovery.NewAdminKey(bytes.NewReader(bytes.Repeat([]byte{200 + n}, 32)))
	if err != nil {
		panic(err)
	}
	return realm{discovery.NewNetwork(testNetwork(n), admin.Public()), admin}
}

func testID(i int) overlay.AgentID { return overlay.AgentID(testKey(i).Public().(ed25519.PublicKey)) }

// issue returns the admin's credential for agent i, from an hour ago.
func (r realm) issue(i int, valid time.Duration) discovery.Credential {
	c, err := discovery.IssueCredential(r.admin, testID(i), discovery.AllRights, time.Now().Add(-time.Hour).Unix(), time.Now().Add(valid).Unix())
	if err != nil {
		panic(err)
	}
	return c
}

// once returns a one-time invite.
func (r realm) once(t *testing.T, seed byte) discovery.Token {
	t.Helper()
	tok, err := discovery.NewToken(bytes.NewReader(bytes.Repeat([]byte{seed}, 32)), r.admin, r.Network,
		discovery.Terms{Rights: discovery.AllRights, NotAfter: time.Now().Add(time.Hour).Unix(), Lifetime: time.Hour, Once: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// A memberAgent is an agent of a signed network, with what it knows of members.
type memberAgent struct {
	*agent
	r     realm
	i     int
	mu    sync.Mutex
	store *discovery.Store
	done  []discovery.Credential // told by Completed
}

// startMember runs agent i with a credential; dead makes its UDP dead.
func startMember(t *testing.T, r realm, i int, dead bool, c discovery.Credential, seeds ...Seed) *memberAgent {
	t.Helper()
	u, l := port(t)
	if dead {
		u = deadConn{u}
	}
	m := &memberAgent{r: r, i: i, store: r.NewStore(testID(i), uint64(i), discovery.Limits{})}
	if c.Complete() {
		m.publish(t, c)
	}
	m.agent = startWith(t, r.Root(), i, []net.PacketConn{u}, func(cfg *Config) {
		cfg.Listeners, cfg.Bootstrap, cfg.Credential = []net.Listener{l}, seeds, c
		cfg.Admission = func() *discovery.Admission {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.store.Admission()
		}
		cfg.Sponsor = func(_ context.Context, c discovery.Credential) (discovery.Credential, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.store.Sponsor(now(), testKey(i), c)
		}
		cfg.Completed = func(c discovery.Credential) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.done = append(m.done, c)
		}
	})
	return m
}

func now() overlay.Instant { return overlay.Instant(time.Now().UnixNano()) }

// publish makes the agent a member in its own store.
func (m *memberAgent) publish(t *testing.T, c discovery.Credential) {
	t.Helper()
	body, err := discovery.Member{Name: "a", Credential: c.Bytes()}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	record, err := discovery.SignRecord(testKey(m.i), m.r.Root(), discovery.Record{
		Kind: discovery.KindMember, Version: uint64(now()), Expires: time.Now().Add(time.Hour).Unix(), Body: body,
	})
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store.Publish(now(), record)
}

// hears has the agent hear what the admin says.
func (m *memberAgent) hears(t *testing.T, s discovery.Statement) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	_, newest := m.store.Statement()
	record, err := discovery.SignStatement(now(), m.r.admin, m.r.Network, newest, s)
	if err == nil {
		err = m.store.Accept(now(), record.Bytes())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// shownBy returns what an agent has shown.
func (m *memberAgent) shownBy(id overlay.AgentID) discovery.Credential {
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	return m.gate.shown[id]
}

// knowsNothingOf checks that m got nothing from another agent but its address.
func (m *memberAgent) knowsNothingOf(t *testing.T, o *memberAgent) {
	t.Helper()
	p, err := peerID(o.self)
	if err != nil {
		t.Fatal(err)
	}
	if protocols, _ := m.host.Peerstore().GetProtocols(p); len(protocols) > 0 {
		t.Errorf("protocols are negotiated: %v", protocols)
	}
	if v, _ := m.host.Peerstore().Get(p, "AgentVersion"); v != nil {
		t.Errorf("it has introduced itself: %v", v)
	}
	m.agent.mu.Lock()
	defer m.agent.mu.Unlock()
	if len(m.told)+len(m.inbox) > 0 || (*m.tables.Load())[0].dht.RoutingTable().Size() > 0 {
		t.Errorf("told %v, messages %q, %d in the DHT's table", m.told, m.inbox, (*m.tables.Load())[0].dht.RoutingTable().Size())
	}
}

var byEither = map[string]bool{QUIC: false, TCP: true} // whether UDP is dead

// Members meet, by QUIC and by TCP.
func TestMembersMeet(t *testing.T) {
	for by, dead := range byEither {
		t.Run(by, func(t *testing.T) {
			r := newRealm(1)
			a := startMember(t, r, 0, dead, r.issue(0, time.Hour))
			began := time.Now()
			b := startMember(t, r, 1, dead, r.issue(1, time.Hour), a.seed)
			eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
			t.Logf("joined after %v", time.Since(began).Round(time.Millisecond))
			b.Send(a.self, []byte("hello"))
			eventually(t, 5*time.Second, "messages pass", func() bool { return a.got(b.self.Short() + ": hello") })
			if a.Transport(b.self) != by {
				t.Errorf("by %q", a.Transport(b.self))
			}
			if a.Counters().Refused+b.Counters().Refused != 0 {
				t.Error("members were refused")
			}
		})
	}
}

// Who has the network key but no good credential gets nothing: no protocol, no
// peer, no record; whoever dials, by QUIC and by TCP.
func TestLeakedKey(t *testing.T) {
	r := newRealm(1)
	stranger := realm{r.Network, newRealm(2).admin}
	incomplete, err := r.once(t, 9).Join(now(), testID(1))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]discovery.Credential{
		"none": {}, "of another admin": stranger.issue(1, time.Hour), "of another agent": r.issue(2, time.Hour),
		"over": r.issue(1, -time.Minute), "without a receipt": incomplete, "revoked": r.issue(1, time.Hour),
	} {
		for by, dead := range byEither {
			t.Run(name+" by "+by, func(t *testing.T) {
				t.Parallel()
				a := startMember(t, r, 0, dead, r.issue(0, time.Hour))
				if name == "without a receipt" {
					for range maxSponsored {
						a.sponsoring <- struct{}{} // it has no time for receipts
					}
				}
				a.hears(t, discovery.Statement{}.Revoke(testID(3), discovery.NeverEnds))
				if name == "revoked" {
					a.hears(t, discovery.Statement{}.Revoke(testID(1), discovery.NeverEnds))
				}
				thief := startMember(t, r, 1, dead, c)
				if err := thief.Dial(t.Context(), a.self, []netip.AddrPort{a.seed.Addr}); err == nil {
					t.Error("the thief is let in")
				}
				if err := a.Dial(t.Context(), thief.self, []netip.AddrPort{thief.seed.Addr}); err == nil {
					t.Error("the thief is called in")
				}
				if a.Counters().Refused < 1 {
					t.Error("nothing was counted")
				}
				p, _ := peerID(a.self)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if s, err := thief.host.NewStream(network.WithNoDial(ctx, "test"), p, recordsOf(r.Root())); err == nil {
					_ = s.SetDeadline(time.Now().Add(time.Second))
					if _, err := s.Write([]byte("x")); err == nil {
						if n, err := s.Read(make([]byte, 1)); n > 0 || err == nil {
							t.Error("a stream is open")
						}
					}
				}
				thief.knowsNothingOf(t, a)
				a.knowsNothingOf(t, thief)
			})
		}
	}
}

// Who is excluded loses its connection, and gets no other.
func TestExpel(t *testing.T) {
	for by, dead := range byEither {
		t.Run(by, func(t *testing.T) {
			r := newRealm(1)
			a := startMember(t, r, 0, dead, r.issue(0, time.Hour))
			b := startMember(t, r, 1, dead, r.issue(1, time.Hour), a.seed)
			c := startMember(t, r, 2, dead, r.issue(2, time.Hour), a.seed)
			eventually(t, 5*time.Second, "connected", func() bool { return len(a.Connections()) == 2 && b.Joined() && c.Joined() })
			none := func(overlay.AgentID) (discovery.Credential, bool) { return discovery.Credential{}, false }
			a.Expel(none)
			if len(a.Connections()) != 2 {
				t.Error("a member is expelled")
			}
			a.hears(t, discovery.Statement{}.Revoke(b.self, discovery.NeverEnds))
			began := time.Now()
			a.Expel(none)
			eventually(t, 2*time.Second, "expelled", func() bool { return len(a.Connections()) == 1 && !slices.Contains(b.Connections(), a.self) })
			t.Logf("expelled after %v", time.Since(began).Round(time.Millisecond))
			eventually(t, 2*time.Second, "the excluded one hears that it is", func() bool {
				err := b.Dial(t.Context(), a.self, []netip.AddrPort{a.seed.Addr})
				return err != nil && strings.Contains(err.Error(), "credential")
			})
			if slices.Contains(a.Connections(), b.self) {
				t.Error("the excluded one is connected")
			}
			if !slices.Contains(a.Connections(), c.self) {
				t.Error("another member is expelled, too")
			}
		})
	}
}

// A renewed credential is shown from the next handshake on; what is connected
// stays, also when what it showed is over.
func TestSetCredential(t *testing.T) {
	r := newRealm(1)
	a := startMember(t, r, 0, false, r.issue(0, time.Hour))
	b := startMember(t, r, 1, false, r.issue(1, 6*time.Second), a.seed)
	eventually(t, 6*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	renewed := r.issue(1, time.Hour)
	if err := b.SetCredential(renewed); err != nil {
		t.Fatal(err)
	}
	newest := func(id overlay.AgentID) (discovery.Credential, bool) { return renewed, id == b.self }
	eventually(t, 10*time.Second, "the first credential is over", func() bool {
		return errors.Is(a.gate.verify(b.self, a.shownBy(b.self)), discovery.ErrLapsed)
	})
	a.Expel(newest)
	if !a.Joined() || a.was("-"+b.self.Short()) {
		t.Fatal("a renewed member is expelled")
	}
	b.Disconnect(a.self)
	eventually(t, 5*time.Second, "disconnected", func() bool { return !a.Joined() })
	eventually(t, 5*time.Second, "connected again", func() bool { return a.Joined() && b.Joined() })
	if c := a.shownBy(b.self); !bytes.Equal(c.Bytes(), renewed.Bytes()) {
		t.Error("the old credential is shown")
	}
}

// A one-time invite makes one member, by QUIC and by TCP.
func TestSponsor(t *testing.T) {
	for by, dead := range byEither {
		t.Run(by, func(t *testing.T) {
			r := newRealm(1)
			a := startMember(t, r, 0, dead, r.issue(0, time.Hour))
			tok := r.once(t, 9)
			join := func(i int) (*memberAgent, time.Duration) {
				c, err := tok.Join(now(), testID(i))
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				m := startMember(t, r, i, dead, c, a.seed)
				eventually(t, 10*time.Second, "joined or refused", func() bool { return m.Joined() || m.JoinError() != "" })
				return m, time.Since(began)
			}
			b, took := join(1)
			t.Logf("sponsored and joined after %v", took.Round(time.Millisecond))
			b.mu.Lock()
			if !b.Joined() || len(b.done) != 1 || !b.done[0].Complete() {
				t.Errorf("joined %v, %d credentials: %s", b.Joined(), len(b.done), b.JoinError())
			}
			b.mu.Unlock()
			eventually(t, 5*time.Second, "connected", func() bool { return slices.Contains(a.Connections(), b.self) })
			c, _ := join(2)
			if c.Joined() || !strings.Contains(c.JoinError(), "another one has joined by it") {
				t.Errorf("used twice: joined %v, %q", c.Joined(), c.JoinError())
			}
			c.knowsNothingOf(t, a)
			if err := c.Dial(t.Context(), a.self, []netip.AddrPort{a.seed.Addr}); !errors.Is(err, ErrRefused) {
				t.Errorf("used twice: %v", err)
			}
		})
	}
}

// Only so many are answered at once, and whatever an answer says is checked.
func TestSponsorIsBounded(t *testing.T) {
	r := newRealm(1)
	a := startMember(t, r, 0, false, r.issue(0, time.Hour))
	for range maxSponsored {
		a.sponsoring <- struct{}{}
	}
	c, _ := r.once(t, 9).Join(now(), testID(1))
	b := startMember(t, r, 1, false, c)
	if err := b.Dial(t.Context(), a.self, []netip.AddrPort{a.seed.Addr}); !errors.Is(err, errNotNow) {
		t.Errorf("a busy sponsor: %v", err)
	}
	for range maxSponsored {
		<-a.sponsoring
	}
	for name, answer := range map[string][]byte{
		"nothing": {}, "unknown": {99}, "no credential": {sponsorDone}, "another's": append([]byte{sponsorDone}, r.issue(0, time.Hour).Bytes()...),
		"another admin's": append([]byte{sponsorDone}, realm{r.Network, newRealm(3).admin}.issue(1, time.Hour).Bytes()...),
		"incomplete":      append([]byte{sponsorDone}, c.Bytes()...), "refused": {sponsorRevoked},
	} {
		if err := b.take(answer, nil); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if err := b.Dial(t.Context(), a.self, []netip.AddrPort{a.seed.Addr}); err != nil {
		t.Errorf("a sponsor that has time: %v", err)
	}
}

// The gate remembers no more than it must.
func TestShownIsBounded(t *testing.T) {
	r := newRealm(1)
	a := startMember(t, r, 0, false, r.issue(0, time.Hour))
	c := r.issue(1, time.Hour)
	for i := range maxShown + 10 {
		a.gate.remember(overlay.AgentID{byte(i), byte(i >> 8), 1}, c)
	}
	if len(a.gate.shown) != maxShown {
		t.Errorf("%d are remembered", len(a.gate.shown))
	}
	a.Expel(func(overlay.AgentID) (discovery.Credential, bool) { return c, true })
	if len(a.gate.shown) != 0 {
		t.Errorf("%d are remembered that aren't connected", len(a.gate.shown))
	}
}
