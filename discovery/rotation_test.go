package discovery

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"farlan/overlay"
)

// order returns the order of an agent to go from one key to another.
func order(t testing.TB, now overlay.Instant, by byte, from Network, to NetworkKey, overlap time.Duration) Record {
	t.Helper()
	r, err := SignRotation(now, rotationAgent(by), from, uint64(now), overlap, to)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func rotationAgent(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func simple(n byte) Network { return NewNetwork(testKey(n), AdminPublic{}) }

const rotationNow = overlay.Instant(1_750_000_000 * time.Second)

func TestKeyringSteps(t *testing.T) {
	at := func(d time.Duration) overlay.Instant { return rotationNow.Add(d) }
	first := order(t, at(0), 1, simple(1), testKey(2), time.Hour)
	second := order(t, at(time.Second), 2, simple(1), testKey(3), time.Hour)
	tie := order(t, at(0), 3, simple(1), testKey(4), time.Hour)
	chain := order(t, at(time.Minute), 1, simple(2), testKey(5), 2*time.Hour)
	foreign := order(t, at(-time.Hour), 1, simple(9), testKey(8), 2*time.Hour)
	winner := byte(2)
	if first.Origin.Compare(tie.Origin) > 0 {
		winner = 4
	}
	for _, step := range []struct {
		name   string
		old    []byte // keys that are good beside 1's successor, the first that it replaced
		key    byte
		now    time.Duration
		orders []Record
		want   byte
		good   []byte
	}{
		{"nothing", nil, 1, 0, nil, 1, nil},
		{"an order", nil, 1, 0, []Record{first}, 2, []byte{1}},
		{"that is over", nil, 1, time.Hour, []Record{first}, 1, nil},
		{"of another network", nil, 1, 0, []Record{foreign}, 1, nil},
		{"again", []byte{1}, 2, 0, []Record{first}, 2, []byte{1}},
		{"sent again after the change", nil, 2, 0, []Record{first}, 2, nil},
		{"a later one loses", []byte{1}, 2, 0, []Record{first, second}, 2, []byte{1}},
		{"an earlier one wins", []byte{1}, 3, 0, []Record{second, first}, 2, []byte{1, 3}},
		{"at one time", nil, 1, 0, []Record{first, tie}, winner, []byte{1}},
		{"at one time, heard otherwise", []byte{1}, 6 - winner, 0, []Record{tie, first}, winner, []byte{1, 6 - winner}},
		{"the next one waits", []byte{1}, 2, time.Minute, []Record{first, chain}, 2, []byte{1}},
		{"and comes", nil, 2, time.Hour, []Record{first, chain}, 5, []byte{2}},
		{"all change places", []byte{1, 3, 4}, 6, 0, []Record{first}, 2, []byte{1, 6, 3}},
	} {
		var old []OldKey
		for _, k := range step.old {
			old = append(old, OldKey{testKey(k), unix(at(time.Hour))})
		}
		k := NewKeyring(simple(step.key), old...)
		next, changed := k.Take(at(step.now), step.orders)
		if changed != (step.want != step.key) || next.Current().ID() != simple(step.want).ID() {
			t.Errorf("%s: it goes by %v (changed %v)", step.name, next.Current(), changed)
		}
		var good []byte
		for _, o := range next.Old() {
			for n := byte(1); n < 10; n++ {
				if o.Key == testKey(n) {
					good = append(good, n)
				}
			}
			if o.Until > unix(at(2*time.Hour+time.Minute)) {
				t.Errorf("%s: an old key is good until %v", step.name, o.Until)
			}
		}
		if !slices.Equal(good, step.good) {
			t.Errorf("%s: good are %v, want %v", step.name, good, step.good)
		}
		if again, changed := next.Take(at(step.now), step.orders); changed {
			t.Errorf("%s: a second look changes it to %v", step.name, again.Current())
		}
	}
}

func TestKeyringExpires(t *testing.T) {
	k, _ := NewKeyring(simple(1)).Take(rotationNow, []Record{order(t, rotationNow, 1, simple(1), testKey(2), time.Minute)})
	if from, until, ok := k.From(); !ok || from != simple(1) || until.Unix() != unix(rotationNow)+60 {
		t.Errorf("from %v until %v: %v", from, until, ok)
	}
	if _, changed := k.Expire(rotationNow.Add(59 * time.Second)); changed {
		t.Error("it is over too early")
	}
	k, changed := k.Expire(rotationNow.Add(time.Minute))
	if _, _, ok := k.From(); !changed || ok || !slices.Equal(k.Keys(), []NetworkKey{testKey(2)}) {
		t.Errorf("keys %v after the end", k.Keys())
	}
}

func TestOldText(t *testing.T) {
	k := NewKeyring(simple(2), OldKey{testKey(1), unix(rotationNow) + 60}, OldKey{testKey(3), unix(rotationNow) + 30})
	text := k.OldText()
	got, err := NewKeyring(simple(2)).AddOld(rotationNow, text)
	if err != nil || !slices.Equal(got.Old(), k.Old()) {
		t.Errorf("%v, %v", got.Old(), err)
	}
	if got, err := NewKeyring(simple(2)).AddOld(rotationNow.Add(40*time.Second), text); err != nil || len(got.Old()) != 1 {
		t.Errorf("later: %v, %v", got.Old(), err)
	}
	if got, err := NewKeyring(simple(4)).AddOld(rotationNow, text); err != nil || len(got.Old()) != 0 {
		t.Errorf("of another network: %v, %v", got.Old(), err)
	}
	far := NewKeyring(simple(2), OldKey{testKey(1), 1 << 60}).OldText()
	if got, err := NewKeyring(simple(2)).AddOld(rotationNow, far); err != nil || got.Old()[0].Until > unix(rotationNow.Add(MaxOverlap)) {
		t.Errorf("for ever: %v, %v", got.Old(), err)
	}
	for _, bad := range []string{"", "x", "of", string(bytes.Replace(text, []byte(" "), []byte("x"), 20)), string(text) + "what 7\n", string(text[:len(text)-20])} {
		if k, err := NewKeyring(simple(2)).AddOld(rotationNow, []byte(bad)); err == nil && len(k.Old()) > 1 {
			t.Errorf("%q is taken", bad)
		} else if err != nil && strings.Contains(err.Error(), "farlan-key-1-M") {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
}

func FuzzOldText(f *testing.F) {
	f.Add(NewKeyring(simple(2), OldKey{testKey(1), unix(rotationNow) + 60}).OldText())
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := NewKeyring(simple(2)).AddOld(rotationNow, text)
		if err != nil {
			return
		}
		again, err := NewKeyring(simple(2)).AddOld(rotationNow, k.OldText())
		if err != nil || !slices.Equal(again.Old(), k.Old()) || len(k.Old()) >= MaxKeys {
			t.Errorf("%v, then %v, %v", k.Old(), again.Old(), err)
		}
	})
}

func FuzzRotation(f *testing.F) {
	f.Add(order(f, rotationNow, 1, simple(1), testKey(2), time.Hour).Body)
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRotation(b); err == nil && (!bytes.Equal(b[:10], r.From[:]) || !bytes.Equal(b[10:42], r.To[:])) {
			t.Errorf("%x is read as %+v", b, r)
		}
	})
}

func TestSignWrongRotations(t *testing.T) {
	admin := AdminKey{&[32]byte{1}}
	signed := NewNetwork(testKey(1), admin.Public())
	sign := func(n Network, overlap time.Duration, to NetworkKey) error {
		_, err := SignRotation(rotationNow, rotationAgent(1), n, 1, overlap, to)
		return err
	}
	for want, err := range map[string]error{
		"want 10s to 48h":    sign(simple(1), 9*time.Second, testKey(2)),
		"overlap of 48h0m1s": sign(simple(1), 48*time.Hour+time.Second, testKey(2)),
		"zeros":              sign(simple(1), time.Hour, NetworkKey{}),
		"that it ends":       sign(simple(1), time.Hour, testKey(1)),
		"admin must sign":    sign(signed, time.Hour, testKey(2)),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if _, err := SignAdminRotation(rotationNow, AdminKey{&[32]byte{2}}, signed, 1, time.Hour, testKey(2)); !errors.Is(err, errOtherAdmin) {
		t.Errorf("signed by another admin: %v", err)
	}
}

// A line of stores, connected each to the next: two agents change the key at once,
// records follow, and all agree; then the old key's are gone. One that was away
// learns it when it is back, and what is captured is worth nothing later.
func TestRotationSpreads(t *testing.T) {
	for seed := range uint64(10) {
		n := newRotationNet(seed, 6)
		n.connect(0, 1, 2, 3, 4) // 5 is away
		n.run(t, 10*time.Second)
		n.rotate(t, 0, 2)
		n.rotate(t, 4, 3)
		n.run(t, 10*time.Second)
		want := n.agents[0].ring.Current().ID()
		for i, a := range n.agents[:5] {
			if a.ring.Current().ID() != want || want == simple(1).ID() {
				t.Fatalf("seed %d: agent %d goes by %s, want %s", seed, i, a.ring.Current().ID(), want)
			}
			for j, b := range n.agents[:5] {
				if !a.store.SignedFor(b.id, n.agents[0].ring.Current().Root()) {
					t.Errorf("seed %d: agent %d doesn't know that %d goes by the new key", seed, i, j)
				}
			}
			if len(a.ring.Keys()) > 3 {
				t.Errorf("%d keys", len(a.ring.Keys()))
			}
		}
		captured := n.agents[0].store.Rotations()
		n.connect(4, 5)
		n.run(t, 10*time.Second)
		if got := n.agents[5].ring.Current().ID(); got != want {
			t.Fatalf("seed %d: who was away goes by %s", seed, got)
		}
		n.run(t, time.Hour)
		for i, a := range n.agents {
			if len(a.ring.Old()) != 0 || len(a.store.Rotations()) != 0 || len(a.store.Origins()) != 6 {
				t.Errorf("seed %d: afterwards agent %d has %d old keys, %d orders, knows %d", seed, i, len(a.ring.Old()), len(a.store.Rotations()), len(a.store.Origins()))
			}
			// Who recorded it all sends it again.
			for _, r := range captured {
				if _, changed := a.ring.Take(n.now, []Record{r}); changed {
					t.Error("an old order counts again")
				}
				if bad := a.store.Load(n.now, [][]byte{r.Bytes()}); bad > 0 || len(a.store.Rotations()) != 0 {
					t.Errorf("an old order is in the store again (%d)", bad)
				}
			}
		}
	}
}

// Records of a key that is over are none.
func TestOldRecordsEnd(t *testing.T) {
	n := newRotationNet(1, 2)
	s := n.agents[0].store
	sign := func(k byte) [][]byte {
		r, err := SignRecord(n.agents[1].key, testKey(k), Record{Kind: KindMember, Version: uint64(n.now), Expires: unix(n.now) + 3600, Body: n.member(t)})
		if err != nil {
			t.Fatal(err)
		}
		return [][]byte{r.Bytes()}
	}
	s.SetKeys(n.now, testKey(2), testKey(1))
	if bad := s.Load(n.now, sign(1)); bad != 0 || !s.SignedFor(n.agents[1].id, testKey(1)) {
		t.Errorf("%d records of the old key are bad while it is good", bad)
	}
	s.Changes()
	s.SetKeys(n.now, testKey(2))
	if _, ok := s.Member(n.agents[1].id); ok {
		t.Error("the record of the old key is still there")
	}
	if c := s.Changes(); len(c) != 1 || !c[0].Gone {
		t.Errorf("changes: %v", c)
	}
	if bad := s.Load(n.now, sign(1)); bad != 1 {
		t.Error("a record of the old key is taken")
	}
	if bad := s.Load(n.now, sign(2)); bad != 0 {
		t.Error("a record of the new key is not taken")
	}
}

// However many orders come, records are taken for a bounded number of keys.
func TestRotationsAreBounded(t *testing.T) {
	n := newRotationNet(1, 1)
	s := n.agents[0].store
	for i := range 50 {
		r := order(t, n.now, byte(100+i), simple(1), testKey(byte(50+i)), time.Hour)
		s.Load(n.now, [][]byte{r.Bytes()})
	}
	if len(s.Rotations()) != 50 || len(s.contexts) > maxContexts {
		t.Errorf("%d orders, %d contexts", len(s.Rotations()), len(s.contexts))
	}
	if k, _ := n.agents[0].ring.Take(n.now, s.Rotations()); len(k.Keys()) != 2 {
		t.Errorf("%d keys", len(k.Keys()))
	}
}

// In a signed network the admin alone orders a change, and its statement outlives it.
func TestAdminRotates(t *testing.T) {
	network, to := testNetwork(), testKey(8)
	next := NewNetwork(to, network.Admin())
	s := network.NewStore(agentID(0), 1, Limits{})
	s.Connected(at(0), agentID(1))
	publish(s, 0, mustIssue(t, 0), 0)
	s.Load(at(0), [][]byte{certified(1, mustIssue(t, 1), 0).Bytes()})
	revoke(t, s, 1, Statement{}.Revoke(agentID(5), NeverEnds))
	body, from := order(t, at(2), 1, simple(1), to, time.Hour).Body, network.Root().fingerprint()
	member := signedIn(1, KindRotation, 2, append(slices.Clone(from[:]), body[fingerprintLen:]...))
	if err := s.Receive(at(2), agentID(1), recordMessage(member)); err == nil || len(s.Rotations()) != 0 {
		t.Fatalf("a member's order is taken: %v", err)
	}
	if err := s.Accept(at(2), member.Bytes()); err == nil {
		t.Error("a member's order is accepted as the admin's")
	}
	r, err := SignAdminRotation(at(2), testAdmin(153), network, version(2), time.Hour, to)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Accept(at(2), r.Bytes()); err != nil {
		t.Fatal(err)
	}
	ring, changed := NewKeyring(network).Take(at(2), s.Rotations())
	if !changed || ring.Current() != next || ring.Keys()[0] != next.Root() || ring.Keys()[1] != network.Root() {
		t.Fatalf("it goes by %v, keys %v", ring.Current(), ring.Keys())
	}
	s.SetKeys(at(2), ring.Keys()...)
	_, newest := s.Statement()
	statement, err := SignStatement(at(3), testAdmin(153), next, newest, Statement{}.Revoke(agentID(6), NeverEnds))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []NetworkKey{network.Root(), next.Root()} { // the new one at last
		s.SetKeys(at(3), key)
		if got, _ := s.Statement(); !got.RevokedAgent(agentID(5)) {
			t.Errorf("with the key of %v nobody is revoked", key.ID())
		}
	}
	if err := s.Accept(at(3), statement.Bytes()); err != nil {
		t.Errorf("the statement for the new network: %v", err)
	}
	if ids := s.Origins(); slices.Contains(ids, agentID(1)) {
		t.Errorf("members by the old key are still there: %v", ids)
	}
}

func mustIssue(t *testing.T, n int) Credential {
	t.Helper()
	c, err := IssueCredential(testAdmin(153), agentID(n), AllRights, start-60, start+86400)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// recordMessage is what a neighbour sends with a record.
func recordMessage(r Record) (msg []byte) {
	p := packer{send: func(b []byte) { msg = b }}
	p.begin(sectionRecord, len(r.Bytes()))
	p.buf = append(p.buf, r.Bytes()...)
	p.flush()
	return msg
}

// A rotationNet is a network of stores whose agents follow orders.
type rotationNet struct {
	now    overlay.Instant
	agents []*rotationMember
	links  map[[2]int]bool
	rand   *rand.Rand
}

type rotationMember struct {
	key   ed25519.PrivateKey
	id    overlay.AgentID
	store *Store
	ring  Keyring
	stale bool
}

func newRotationNet(seed uint64, count int) *rotationNet {
	n := &rotationNet{now: rotationNow, links: make(map[[2]int]bool), rand: rand.New(rand.NewPCG(seed, 1))}
	for i := range count {
		key := rotationAgent(byte(i + 1))
		id := overlay.AgentID(key.Public().(ed25519.PublicKey))
		n.agents = append(n.agents, &rotationMember{
			key: key, id: id, ring: NewKeyring(simple(1)), stale: true,
			store: NewStore(id, testKey(1), seed+uint64(i), Limits{}),
		})
	}
	return n
}

func (n *rotationNet) member(t *testing.T) []byte {
	body, err := Member{Name: "x"}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// connect joins agents in a line.
func (n *rotationNet) connect(line ...int) {
	for i := 1; i < len(line); i++ {
		a, b := line[i-1], line[i]
		n.links[[2]int{a, b}], n.links[[2]int{b, a}] = true, true
		n.agents[a].store.Connected(n.now, n.agents[b].id)
		n.agents[b].store.Connected(n.now, n.agents[a].id)
	}
}

// rotate lets an agent order a change of the key.
func (n *rotationNet) rotate(t *testing.T, i int, to byte) {
	t.Helper()
	a := n.agents[i]
	r, err := SignRotation(n.now, a.key, a.ring.Current(), a.store.NextVersion(n.now), 30*time.Minute, testKey(to))
	if err != nil {
		t.Fatal(err)
	}
	a.store.Publish(n.now, r)
}

// run lets time pass. Each agent does as the daemon: follows orders at once, and
// signs its record again a second later at the earliest.
func (n *rotationNet) run(t *testing.T, d time.Duration) {
	t.Helper()
	step := max(d/600, 50*time.Millisecond)
	for end := n.now.Add(d); n.now.Before(end); n.now = n.now.Add(step) {
		for _, i := range n.rand.Perm(len(n.agents)) {
			a := n.agents[i]
			a.store.Tick(n.now)
			ring, over := a.ring.Expire(n.now)
			ring, changed := ring.Take(n.now, a.store.Rotations())
			if a.ring = ring; changed || over {
				a.store.SetKeys(n.now, ring.Keys()...)
				a.stale = a.stale || changed
			} else if a.stale && n.rand.IntN(20) == 0 {
				r, err := SignRecord(a.key, ring.Current().Root(), Record{
					Kind: KindMember, Version: a.store.NextVersion(n.now), Expires: unix(n.now) + 40*3600, Body: n.member(t),
				})
				if err != nil {
					t.Fatal(err)
				}
				a.store.Publish(n.now, r)
				a.stale = false
			}
			a.store.Flush(func(to overlay.AgentID, msg []byte) {
				for j, b := range n.agents {
					if b.id == to && n.links[[2]int{i, j}] {
						if err := b.store.Receive(n.now, a.id, msg); err != nil {
							t.Errorf("agent %d refuses what %d sent: %v", j, i, err)
						}
					}
				}
			})
		}
	}
}
