package discovery

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"farlan/overlay"
)

// revoke has a store accept a statement made some seconds after the start.
func revoke(t *testing.T, s *Store, after int, st Statement) Record {
	t.Helper()
	_, newest := s.Statement()
	r := stated(after, newest, st)
	if err := s.Accept(at(after), r.Bytes()); err != nil {
		t.Fatal(err)
	}
	return r
}

// certified returns the member record of agent n with a credential.
func certified(n int, c Credential, after int) Record {
	body, err := Member{Name: "a", Credential: c.Bytes()}.Append(nil)
	if err != nil {
		panic(err)
	}
	return signedIn(n, KindMember, after, body)
}

// signedIn is like signed for the signed network.
func signedIn(n int, kind Kind, after int, body []byte) Record {
	r, err := SignRecord(agentKey(n), testNetwork().Root(), Record{Kind: kind, Version: version(after), Expires: start + int64(after) + 40*3600, Body: body})
	if err != nil {
		panic(err)
	}
	return r
}

func linksOf(n, after int, peers ...int) Record {
	var links []Link
	for _, p := range peers {
		links = append(links, Link{Peer: agentID(p)})
	}
	body, err := AppendLinks(nil, 0, Facts{}, links)
	if err != nil {
		panic(err)
	}
	return signedIn(n, KindLinks, after, body)
}

// publish has the store of agent n publish its member record.
func publish(s *Store, n int, c Credential, after int) { s.Publish(at(after), certified(n, c, after)) }

// causes returns a store's changes with why agents are no members any more.
func causes(s *Store) string {
	var out []string
	for _, c := range s.Changes() {
		text := key{c.Origin, c.Kind}.name()
		if c.Gone {
			text += " gone"
		}
		for _, cause := range []error{ErrRevoked, ErrSuperseded, ErrLapsed} {
			if errors.Is(c.Cause, cause) {
				text += ": " + strings.Fields(cause.Error())[len(strings.Fields(cause.Error()))-1]
			}
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// A store of a signed network takes records of members only, says why it
// refuses others, and drops who is a member no more.
func TestSignedStoreSteps(t *testing.T) {
	s := testNetwork().NewStore(agentID(0), 1, Limits{})
	s.Connected(at(0), agentID(9))
	adminID := overlay.AgentID(testNetwork().Admin())
	byAdmin, err := SignRecord(testAdmin(153).private(), testNetwork().Root(), certified(1, issued(1), 0))
	if err != nil {
		t.Fatal(err)
	}
	forged := signedIn(1, KindAdmin, 5, stated(5, 0, Statement{}.Revoke(agentID(0), NeverEnds)).Body)
	unsigned := certified(2, issued(2), 7)
	unsigned.encoded = append(bytes.Clone(unsigned.encoded[:len(unsigned.encoded)-1]), 0)
	first := stated(6, 0, Statement{}.Revoke(agentID(2), NeverEnds).RevokeInvite(many(5).Certificate.Serial(), NeverEnds))
	second := stated(8, version(6), Statement{}.Revoke(agentID(2), NeverEnds))
	brief, _ := IssueCredential(testAdmin(153), agentID(4), RightBridge, start, start+60)
	late, _ := IssueCredential(testAdmin(153), agentID(5), RightBridge, start+700, start+800)
	for _, step := range []struct {
		name    string
		after   int
		own     bool // published, not received
		r       Record
		fails   string
		count   func(*Counters) *uint64 // the counter that rises, nil if none
		changes string
	}{
		{"publish without a credential", 0, true, signedIn(0, KindMember, 0, memberBody("a")), "", func(c *Counters) *uint64 { return &c.Uncertified }, ""},
		{"publish links only", 0, true, linksOf(0, 0, 1), "", func(c *Counters) *uint64 { return &c.Memberless }, ""},
		{"publish", 0, true, certified(0, issued(0), 0), "", nil, "0.member"},
		{"publish links", 0, true, linksOf(0, 0, 1), "", nil, "0.links"},
		{"links of nobody", 1, false, linksOf(1, 1, 0), "", func(c *Counters) *uint64 { return &c.Memberless }, ""},
		{"no credential", 1, false, signedIn(1, KindMember, 1, memberBody("a")), "there is none", func(c *Counters) *uint64 { return &c.Uncertified }, ""},
		{"another's credential", 1, false, certified(1, issued(2), 1), "it is that of", func(c *Counters) *uint64 { return &c.Uncertified }, ""},
		{"another admin's", 1, false, certified(1, foreignFor(1), 1), "not signed by this network's admin", func(c *Counters) *uint64 { return &c.Uncertified }, ""},
		{"of the simple network", 1, false, member(1, 1), "wrong signature", func(c *Counters) *uint64 { return &c.Signature }, ""},
		{"no receipt", 1, false, certified(1, joined(once(6), 1, 0), 1), "", func(c *Counters) *uint64 { return &c.Incomplete }, ""},
		{"too early", 1, false, certified(5, late, 1), "", func(c *Counters) *uint64 { return &c.NotYet }, ""},
		{"a member", 2, false, certified(1, claiming(6, 1, 1), 2), "", nil, "1.member"},
		{"its links", 2, false, linksOf(1, 2, 0, 2), "", nil, "1.links"},
		{"its news", 3, false, certified(1, claiming(6, 1, 1), 3), "", nil, "1.member"},
		{"it leaves its credential out", 3, false, signedIn(1, KindMember, 4, memberBody("a")), "there is none", func(c *Counters) *uint64 { return &c.Uncertified }, ""},
		{"another with its invite", 3, false, certified(3, claiming(6, 3, 2), 3), "", func(c *Counters) *uint64 { return &c.Superseded }, ""},
		{"another member", 3, false, certified(2, joined(many(5), 2, 0), 3), "", nil, "2.member"},
		{"its links", 3, false, linksOf(2, 3, 0), "", nil, "2.links"},
		{"a third", 3, false, certified(3, joined(many(5), 3, 0), 3), "", nil, "3.member"},
		{"one for a minute", 3, false, certified(4, brief, 3), "", nil, "4.member"},
		{"its links", 3, false, linksOf(4, 3, 0), "", nil, "4.links"},
		{"a member makes a statement", 5, false, forged, "only the admin", func(c *Counters) *uint64 { return &c.Uncertified }, ""},
		{"the admin is no agent", 5, false, byAdmin, "only the admin makes statements, and nothing else", func(c *Counters) *uint64 { return &c.Uncertified }, ""},
		{"a revocation", 6, false, first, "", nil, "-1.admin 2.member gone: revoked 2.links gone: revoked 3.member gone: revoked"},
		{"the revoked agent again", 7, false, certified(2, joined(many(5), 2, 7), 7), "", func(c *Counters) *uint64 { return &c.Revoked }, ""},
		{"the revoked agent, forged", 7, false, unsigned, "", func(c *Counters) *uint64 { return &c.Revoked }, ""},
		{"one by the revoked invite", 7, false, certified(3, joined(many(5), 3, 7), 7), "", func(c *Counters) *uint64 { return &c.Revoked }, ""},
		{"the revoked agent with another credential", 7, false, certified(2, issued(2), 7), "", func(c *Counters) *uint64 { return &c.Revoked }, ""},
		{"one by another invite again", 7, false, certified(3, joined(many(7), 3, 7), 7), "", nil, "3.member"},
		{"a newer statement", 8, false, second, "", nil, "-1.admin"},
		{"the old one replayed", 9, false, first, "", func(c *Counters) *uint64 { return &c.Stale }, ""},
		{"the revoked agent still", 9, false, certified(2, issued(2), 9), "", func(c *Counters) *uint64 { return &c.Revoked }, ""},
		{"by the invite that isn't revoked any more", 9, false, certified(7, joined(many(5), 7, 7), 9), "", nil, "7.member"},
		{"its time is over", 60, false, certified(4, brief, 60), "", func(c *Counters) *uint64 { return &c.Lapsed }, "4.member gone: expired 4.links gone: expired"},
		{"and now that it's gone", 60, false, certified(4, brief, 60), "", func(c *Counters) *uint64 { return &c.Lapsed }, ""},
	} {
		before := s.Counters()
		s.Admission()
		err := error(nil)
		if step.own {
			s.Publish(at(step.after), step.r)
		} else {
			err = s.Receive(at(step.after), agentID(9), records(step.r))
		}
		s.Tick(at(step.after))
		if step.fails == "" && err != nil || step.fails != "" && (err == nil || !strings.Contains(err.Error(), step.fails)) {
			t.Errorf("%s: error %v, want %q", step.name, err, step.fails)
		}
		if step.count != nil {
			*step.count(&before)++
		}
		if got := s.Counters(); got != before {
			t.Errorf("%s: counted %+v, want %+v", step.name, got, before)
		}
		if got := causes(s); got != step.changes {
			t.Errorf("%s: changed %q, want %q", step.name, got, step.changes)
		}
	}
	for n, want := range map[int]Rights{0: AllRights, 1: RightRelay, 3: RightRelay} {
		if got, ok := s.Rights(agentID(n)); !ok || got != want {
			t.Errorf("agent %d has the rights %v", n, got)
		}
	}
	for _, id := range []overlay.AgentID{agentID(2), agentID(4), adminID} {
		if _, ok := s.Rights(id); ok {
			t.Errorf("%s has rights", id)
		}
	}
	for n, want := range map[int]error{1: nil, 3: ErrSuperseded} {
		if _, err := s.Admission().Verify(at(60), agentID(n), claiming(6, n, 1)); !errors.Is(err, want) {
			t.Errorf("agent %d is let in by its invite: %v", n, err)
		}
	}
	if n := len(s.Origins()); n != 4 {
		t.Errorf("%d origins", n)
	}
	// A statement never expires; all else does.
	s.Tick(at(41 * 3600))
	if _, ok := s.Record(adminID, KindAdmin); !ok || len(s.Dump()) != 1 {
		t.Errorf("%d records are left", len(s.Dump()))
	}
	if next := s.Tick(at(50 * 3600)); next <= at(50*3600) {
		t.Errorf("wants to be called at %v", next.Time())
	}
}

// The end of a credential is the end of its records; a statement has none,
// whatever it says.
func TestSignedTick(t *testing.T) {
	s := testNetwork().NewStore(agentID(0), 1, Limits{})
	brief, _ := IssueCredential(testAdmin(153), agentID(4), RightBridge, start, start+60)
	s.Load(at(0), [][]byte{certified(4, brief, 0).Bytes()})
	if next := s.Tick(at(0)); next != at(60) {
		t.Errorf("wants to be called at %v", next.Time())
	}
	body, _ := Statement{}.Append(nil)
	r, err := SignRecord(testAdmin(153).private(), testNetwork().Root(), Record{Kind: KindAdmin, Version: 1, Expires: start + 100, Body: body})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Accept(at(0), r.Bytes()); err != nil {
		t.Fatal(err)
	}
	s.Tick(at(60))
	if next := s.Tick(at(101)); next != 0 || len(s.Dump()) != 1 || s.Dump()[0][1] != byte(KindAdmin) {
		t.Errorf("%d records, wants to be called at %v", len(s.Dump()), next.Time())
	}
}

// What a store was told comes back from the disk, in whatever order, and is
// checked again.
func TestSignedDump(t *testing.T) {
	s := testNetwork().NewStore(agentID(0), 1, Limits{})
	publish(s, 0, issued(0), 0)
	s.Load(at(0), [][]byte{
		certified(1, claiming(6, 1, 1), 0).Bytes(), linksOf(1, 0, 0).Bytes(),
		certified(2, issued(2), 0).Bytes(), stated(0, 0, Statement{}.Revoke(agentID(2), NeverEnds)).Bytes(),
	})
	if n := len(s.Dump()); n != 4 {
		t.Errorf("%d records", n)
	}
	again := testNetwork().NewStore(agentID(0), 2, Limits{})
	if bad := again.Load(at(0), s.Dump(KindMember, KindAdmin)) + again.LoadClaims(at(0), s.DumpClaims()); bad != 0 || len(again.Dump()) != 3 {
		t.Errorf("%d bad, %d records", bad, len(again.Dump()))
	}
	if bad := again.Load(at(0), [][]byte{certified(5, foreignFor(5), 0).Bytes(), member(5, 0).Bytes()}); bad != 2 {
		t.Errorf("%d of 2 are bad", bad)
	}
	if bad := again.LoadClaims(at(0), [][]byte{issued(1).raw, {1}, claiming(6, 2, 0).raw[:300]}); bad != 3 {
		t.Errorf("%d of 3 claims are bad", bad)
	}
	if holder, _ := again.members.claims.Holder(once(6).Certificate.Serial()); holder != agentID(1) {
		t.Error("the claim is forgotten")
	}

	// A simple network takes none of it.
	simple := NewStore(agentID(0), testKey(7), 1, Limits{})
	if bad := simple.Load(at(0), s.Dump()); bad != 4 {
		t.Errorf("%d of 4 are bad", bad)
	}
	if simple.Accept(at(0), stated(0, 0, Statement{}).Bytes()) == nil || simple.LoadClaims(at(0), s.DumpClaims()) != 1 || simple.DumpClaims() != nil {
		t.Error("a simple network takes statements or claims")
	}
}

// In a simple network nothing of this exists.
func TestSimpleNetworkKnowsNoAdmin(t *testing.T) {
	s := NewStore(agentID(0), testKey(7), 1, Limits{})
	s.Connected(at(0), agentID(1))
	(bench{s}).flush()
	body, _ := Statement{}.Append(nil)
	r := signed(1, KindAdmin, version(0), start+100, body)
	for _, msg := range [][]byte{records(r), message(sectionClaim, claiming(6, 1, 1).raw)} {
		if err := s.Receive(at(0), agentID(1), msg); err != nil {
			t.Error(err)
		}
	}
	if err := s.Receive(at(0), agentID(1), message(sectionOffer, stampOf(signed(1, KindMember, version(0), start+100, memberBody("a"))).append(nil))); err != nil {
		t.Error(err)
	}
	offer := stamp{key: key{agentID(1), KindAdmin}, version: version(0)}
	if err := s.Receive(at(0), agentID(1), message(sectionOffer, offer.append(nil))); err != nil {
		t.Error(err)
	}
	if got := (bench{s}).flush(); got != "→1 request 1.member" {
		t.Errorf("sent %q", got)
	}
	if c := s.Counters(); c != (Counters{Unknown: 2}) || len(s.Dump()) != 0 {
		t.Errorf("counted %+v", c)
	}
	if bad := s.Load(at(0), [][]byte{r.Bytes()}); bad != 1 {
		t.Errorf("%d bad", bad)
	}
	_ = s.Receive(at(1), agentID(1), records(member(1, 1)))
	if rights, ok := s.Rights(agentID(1)); !ok || rights != AllRights {
		t.Errorf("rights %v", rights)
	}
	if rights, err := s.Admission().Verify(at(0), agentID(1), Credential{}); err != nil || rights != AllRights {
		t.Errorf("admission %v, %v", rights, err)
	}
	// A credential is ignored, and not there in what is encoded without one.
	c := issued(1)
	b, err := Member{Name: "a", Credential: c.raw}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	plain, _ := Member{Name: "a"}.Append(nil)
	if !bytes.Equal(b[:len(plain)], plain) || len(b) != len(plain)+2+len(c.raw) {
		t.Error("a credential changes the encoding before it")
	}
	if m, err := ParseMember(b); err != nil || !bytes.Equal(m.Credential, c.raw) {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := (Member{Name: "a", Credential: make([]byte, MaxCredential+1)}).Append(nil); err == nil {
		t.Error("a long credential was taken")
	}
}

func TestAccept(t *testing.T) {
	s := testNetwork().NewStore(agentID(0), 1, Limits{Bytes: 1, Origins: 1})
	s.Connected(at(0), agentID(1))
	(bench{s}).flush()
	r := revoke(t, s, 5, Statement{})
	if got := (bench{s}).flush(); got != "→1 record -1.admin" {
		t.Errorf("sent %q", got)
	}
	if st, v := s.Statement(); v != version(5) || len(st.agents) != 0 {
		t.Errorf("version %d", v)
	}
	forged := bytes.Clone(stated(7, 0, Statement{}).Bytes())
	forged[len(forged)-1] ^= 1
	for name, b := range map[string][]byte{
		"the same": r.Bytes(), "an older one": stated(4, 0, Statement{}).Bytes(), "another's": signedIn(1, KindAdmin, 9, r.Body).Bytes(),
		"a member record": certified(1, issued(1), 0).Bytes(), "nothing": nil, "forged": forged, "from the future": stated(700, 0, Statement{}).Bytes(),
	} {
		if err := s.Accept(at(5), b); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// A newcomer learns a signed network as fast as a simple one: links are asked
// for together with the member records that they need.
func TestSignedNewcomer(t *testing.T) {
	old := testNetwork().NewStore(agentID(1), 1, Limits{})
	publish(old, 1, issued(1), 0)
	for n := 2; n < 40; n++ {
		old.Load(at(1), [][]byte{certified(n, issued(n), 0).Bytes(), linksOf(n, 0, 1).Bytes()})
	}
	revoke(t, old, 2, Statement{}.Revoke(agentID(5), NeverEnds))
	young := testNetwork().NewStore(agentID(0), 2, Limits{})
	publish(young, 0, issued(0), 0)
	messages, _ := converse(at(3), young, old)
	if young.Hash() != old.Hash() || messages > 8 {
		t.Errorf("no agreement after %d messages", messages)
	}
	if c := young.Counters(); c != (Counters{}) {
		t.Errorf("counted %+v", c)
	}
}

func TestSponsor(t *testing.T) {
	s := testNetwork().NewStore(agentID(0), 1, Limits{})
	sponsor := func(after int, c Credential) (Credential, error) {
		return s.Sponsor(at(after), agentKey(0), c)
	}
	if _, err := sponsor(1, joined(once(6), 1, 0)); err == nil {
		t.Error("a store without a member record sponsors")
	}
	publish(s, 0, issued(0), 0)
	done, err := sponsor(1, joined(once(6), 1, 0))
	if err != nil {
		t.Fatal(err)
	}
	if rights, err := s.Admission().Verify(at(2), agentID(1), done); err != nil || rights != RightRelay {
		t.Errorf("%v, %v", rights, err)
	}
	if again, err := sponsor(3, joined(once(6), 1, 2)); err != nil || again.receipt.at != at(3) {
		t.Errorf("an agent that lost its receipt: %v", err)
	}
	if _, err := sponsor(4, joined(once(6), 2, 0)); !errors.Is(err, ErrSuperseded) {
		t.Errorf("another agent's: %v", err)
	}
	if _, err := s.Admission().Verify(at(4), agentID(2), joined(once(6), 2, 0)); !errors.Is(err, ErrSuperseded) {
		t.Errorf("another agent in a handshake: %v", err)
	}
	if _, err := s.Admission().Verify(at(4), agentID(2), joined(once(7), 2, 0)); !errors.Is(err, ErrIncomplete) {
		t.Errorf("a newcomer in a handshake: %v", err)
	}
	for name, c := range map[string]Credential{
		"one that needs none": joined(many(5), 2, 0), "the admin's": issued(2), "none": {},
		"one of another admin": foreignFor(2),
	} {
		if _, err := sponsor(4, c); err == nil {
			t.Errorf("%s was sponsored", name)
		}
	}
	if _, err := sponsor(3601, joined(once(8), 2, 3600)); err == nil {
		t.Error("sponsored after the invite's end")
	}
	if _, err := sponsor(86400, joined(once(8), 2, 3600)); !errors.Is(err, ErrLapsed) {
		t.Errorf("sponsored by one whose credential is over: %v", err)
	}
	revoke(t, s, 5, Statement{}.RevokeInvite(once(7).Certificate.Serial(), NeverEnds))
	if _, err := sponsor(6, joined(once(7), 2, 0)); !errors.Is(err, ErrRevoked) {
		t.Errorf("a revoked invite: %v", err)
	}
	if _, err := NewStore(agentID(0), testKey(7), 1, Limits{}).Sponsor(at(0), agentKey(0), joined(once(6), 1, 0)); err == nil {
		t.Error("a simple network sponsors")
	}
}

func FuzzReceiveSigned(f *testing.F) {
	f.Add(records(certified(1, claiming(6, 1, 1), 0), linksOf(1, 0, 2)))
	f.Add(records(certified(3, claiming(6, 3, 2), 0)))
	f.Add(records(stated(0, 0, Statement{}.Revoke(agentID(3), NeverEnds))))
	f.Add(message(sectionClaim, claiming(6, 4, 1).raw))
	f.Add(message(sectionOffer, stampOf(member(1, 1)).append(nil)))
	f.Fuzz(func(t *testing.T, msg []byte) {
		s := testNetwork().NewStore(agentID(2), 1, Limits{Origins: 2})
		publish(s, 2, issued(2), 0)
		s.Load(at(0), [][]byte{certified(3, claiming(6, 3, 1), 0).Bytes()})
		s.Connected(at(0), agentID(1))
		_ = s.Receive(at(2), agentID(1), msg)
		s.Tick(at(3))
		s.Flush(func(_ overlay.AgentID, m []byte) {
			if len(m) > MaxMessage || strings.Contains(describe(m), errMalformed.Error()) {
				t.Fatalf("sent a message of %d bytes", len(m))
			}
		})
		if s.shelf.len() != len(s.shelf.names) || len(s.Origins()) > 3 || len(s.members.claims.bySerial) > 3 {
			t.Fatal("grew")
		}
		for _, k := range s.shelf.keys() {
			if s.entry(key{k.origin, KindMember}) == nil && k.kind != KindAdmin {
				t.Fatal(fmt.Sprint("a record of nobody: ", k.name()))
			}
		}
	})
}
