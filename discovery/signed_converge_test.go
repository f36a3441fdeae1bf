package discovery

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"farlan/overlay"
)

// newSignedCluster is like newCluster for the signed network of the tests. All
// have joined by one invite but agent 0, which has a credential of the admin's.
func newSignedCluster(n int, seed uint64, loss float64) *cluster {
	c := newCluster(n, seed, loss)
	for i := range c.stores {
		c.stores[i] = testNetwork().NewStore(agentID(i), seed*1000+uint64(i), Limits{})
	}
	return c
}

// tell publishes the member record and the links of agent i.
func (c *cluster) tell(i int, credential Credential) {
	after := int(c.now.Sub(at(0)) / time.Second)
	publish(c.stores[i], i, credential, after)
	c.stores[i].Publish(c.now, linksOf(i, after, (i+1)%len(c.stores)))
}

// settle runs until the stores of some agents agree, two minutes at most.
func (c *cluster) settle(t *testing.T, agents ...int) {
	t.Helper()
	quiet := c.now
	for {
		c.step(t)
		first := c.stores[agents[0]].Hash()
		if !slices.ContainsFunc(agents, func(i int) bool { return c.stores[i].Hash() != first }) {
			return
		}
		if c.now.Sub(quiet) > 2*time.Minute {
			t.Fatal("no agreement after two quiet minutes")
		}
	}
}

func upTo(from, to int) (all []int) {
	for i := from; i < to; i++ {
		all = append(all, i)
	}
	return all
}

// A revocation that one agent is told reaches fifty on a random graph that loses
// a fifth of all messages, also one that was cut off at first; all drop the
// agent's records, and the agent itself learns of it too.
func TestRevocationReachesAll(t *testing.T) {
	const n, gone, cut = 50, 17, 33
	c := newSignedCluster(n, 3, 0.2)
	invite := many(5)
	for i := range n {
		c.connect(i, (i+1)%n)
		c.connect(i, c.rand.IntN(n))
		c.tell(i, joined(invite, i, 0))
	}
	c.settle(t, upTo(0, n)...)
	for _, s := range c.stores {
		if s.Changes(); len(s.Dump()) != 2*n {
			t.Fatalf("%d records before", len(s.Dump()))
		}
	}
	c.disconnect(cut)
	member, _ := c.stores[0].Member(agentID(gone))
	credential, err := ParseCredential(member.Credential)
	if err != nil {
		t.Fatal(err)
	}
	after := int(c.now.Sub(at(0))/time.Second) + 1
	revoke(t, c.stores[3], after, Statement{}.Revoke(agentID(gone), credential.Ends()))
	c.settle(t, append(upTo(0, cut), upTo(cut+1, n)...)...)
	c.connect(cut, 3)
	c.settle(t, upTo(0, n)...)
	for i, s := range c.stores {
		if _, ok := s.Rights(agentID(gone)); ok || len(s.Dump()) != 2*(n-1)+1 {
			t.Errorf("store %d: %d records", i, len(s.Dump()))
		}
		told := slices.ContainsFunc(s.Changes(), func(x Change) bool {
			return x.Origin == agentID(gone) && x.Gone && errors.Is(x.Cause, ErrRevoked)
		})
		if !told {
			t.Errorf("store %d does not report it", i)
		}
		if _, err := s.Admission().Verify(c.now, agentID(gone), joined(invite, gone, 9)); !errors.Is(err, ErrRevoked) {
			t.Errorf("store %d lets it in: %v", i, err)
		}
	}
}

// A network falls in two, and a one-time invite is used in both parts. When it is
// whole again all agree on the agent that was sponsored first.
func TestInviteUsedTwice(t *testing.T) {
	const n, half, early, late = 20, 10, 15, 5
	for seed := range uint64(2) {
		c := newSignedCluster(n, seed, 0.2)
		invite, others := once(6), many(5)
		for i := range n {
			c.connect(i, i/half*half+(i+1)%half)
			c.connect(i, i/half*half+c.rand.IntN(half))
			if i != early && i != late {
				c.tell(i, joined(others, i, 0))
			}
		}
		join := func(newcomer, sponsor int) {
			done, err := c.stores[sponsor].Sponsor(c.now, agentKey(sponsor), joined(invite, newcomer, 0))
			if err != nil {
				t.Fatal(err)
			}
			c.tell(newcomer, done)
		}
		c.settle(t, upTo(0, half)...)
		c.settle(t, upTo(half, n)...)
		join(early, 12)
		c.step(t)
		join(late, 3)
		c.settle(t, upTo(0, half)...)
		c.settle(t, upTo(half, n)...)
		for i, s := range c.stores {
			want := []int{late, early}[i/half]
			if _, ok := s.Rights(agentID(want)); !ok {
				t.Fatalf("seed %d: store %d does not know agent %d", seed, i, want)
			}
			s.Changes()
		}
		c.connect(2, 18)
		c.connect(7, 11)
		c.settle(t, upTo(0, n)...)
		for i, s := range c.stores {
			_, won := s.Rights(agentID(early))
			_, lost := s.Rights(agentID(late))
			if holder, _ := s.members.claims.Holder(invite.Certificate.Serial()); !won || lost || holder != agentID(early) || len(s.Dump()) != 2*(n-1) {
				t.Errorf("seed %d: store %d: %v, %v, %d records", seed, i, won, lost, len(s.Dump()))
			}
			told := slices.ContainsFunc(s.Changes(), func(x Change) bool {
				return x.Origin == agentID(late) && errors.Is(x.Cause, ErrSuperseded)
			})
			if told != (i < half) {
				t.Errorf("seed %d: store %d reports it: %v", seed, i, told)
			}
		}
	}
}

// A one-time invite is used in two areas, whose members don't have each other's records: all
// agree nevertheless on the agent that was sponsored first.
func TestInviteUsedInTwoAreas(t *testing.T) {
	const n, late, early = 8, 2, 6
	c := newSignedCluster(n, 1, 0)
	invite, others := once(6), many(5)
	area := func(i int) uint32 { return []uint32{7, 9}[i/4] }
	live := func(i int, x Credential) {
		after := int(c.now.Sub(at(0)) / time.Second)
		body, err := Member{Name: "a", Area: area(i), Credential: x.Bytes()}.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		c.stores[i].Publish(c.now, signedIn(i, KindMember, after, body))
	}
	join := func(i, sponsor int) {
		after := int(c.now.Sub(at(0)) / time.Second)
		own, _ := c.stores[sponsor].Member(agentID(sponsor))
		credential, err := ParseCredential(own.Credential)
		if err != nil {
			t.Fatal(err)
		}
		live(i, sponsored(joined(invite, i, after), after, sponsor, credential))
	}
	for i := range n {
		c.stores[i].Enter(c.now, area(i))
	}
	c.connect(0, 4)
	for i := range n {
		c.connect(i, i/4*4+(i+1)%4)
		if i != early && i != late {
			live(i, joined(others, i, 0))
		}
	}
	c.run(t, 10*time.Second)
	join(early, 5)
	c.run(t, 2*time.Second)
	join(late, 1)
	c.run(t, 10*time.Second)
	for i, s := range c.stores {
		_, won := s.Rights(agentID(early))
		_, lost := s.Rights(agentID(late))
		if holder, _ := s.members.claims.Holder(invite.Certificate.Serial()); holder != agentID(early) || lost || won != (i/4 == early/4) {
			t.Errorf("store %d: %s has it, %v, %v", i, holder.Short(), won, lost)
		}
	}
}

// The one that has an invite is gone, its record forgotten. A newcomer that met
// the other user of the invite first is told by those who remember, and passes
// it on.
func TestEvidence(t *testing.T) {
	c := newSignedCluster(3, 1, 0)
	c.tell(0, issued(0))
	c.tell(1, issued(1))
	c.tell(2, issued(2))
	if bad := c.stores[0].LoadClaims(c.now, [][]byte{claiming(6, 8, 1).raw}); bad != 0 {
		t.Fatal("no evidence")
	}
	loser := [][]byte{certified(9, claiming(6, 9, 2), 0).Bytes()}
	c.stores[1].Load(c.now, loser)
	c.stores[2].Load(c.now, loser)
	if len(c.stores[2].Origins()) != 2 {
		t.Fatal("the other was not believed in the first place")
	}
	c.connect(0, 1)
	c.connect(1, 2)
	c.settle(t, 0, 1, 2)
	if took := c.now.Sub(at(0)); took > gossipEvery/2 { // it doesn't wait for the next comparison
		t.Errorf("it took %v", took)
	}
	for i, s := range c.stores {
		if holder, _ := s.members.claims.Holder(once(6).Certificate.Serial()); holder != agentID(8) || !reflect.DeepEqual(s.Origins(), []overlay.AgentID{agentID(0), agentID(1), agentID(2)}) {
			t.Errorf("store %d: agent %d has it, %d origins", i, number(holder), len(s.Origins()))
		}
	}
	if got := c.stores[0].Counters().Superseded; got == 0 {
		t.Error("the loser's record never came")
	}
}

// A member that helps somebody with a token makes ever earlier claims for ever
// new agents. The store holds one of them, does little for it, and hears others
// all the while.
func TestFloodOfClaims(t *testing.T) {
	s := testNetwork().NewStore(agentID(0), 1, Limits{})
	publish(s, 0, issued(0), 0)
	s.Connected(at(0), agentID(1))
	s.Connected(at(0), agentID(2))
	claimer := func(i, receipt int) Record {
		k := ed25519.NewKeyFromSeed(append(bytes.Repeat([]byte{200}, 31), byte(i)))
		c, err := once(6).Join(at(0), overlay.AgentID(k[32:]))
		if err != nil {
			t.Fatal(err)
		}
		done := sponsored(c, receipt, 1, issued(1))
		body, _ := Member{Name: "x", Credential: done.raw}.Append(nil)
		r, err := SignRecord(k, testNetwork().Root(), Record{Kind: KindMember, Version: version(0), Expires: start + 3600, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for i := range 100 {
		if err := s.Receive(at(200), agentID(1), records(claimer(i, 150-i))); err != nil {
			t.Fatal(err)
		}
	}
	c := s.Counters()
	if len(s.Origins()) != 2 || len(s.members.claims.bySerial) != 1 || c.Limited != 100-1-claimBurst {
		t.Errorf("%d origins, %d claims, counted %+v", len(s.Origins()), len(s.members.claims.bySerial), c)
	}
	if n := len(s.neighbours[1].evidence); n > maxEvidence {
		t.Errorf("%d evidences wait", n)
	}
	if err := s.Receive(at(200), agentID(2), records(certified(2, issued(2), 200))); err != nil || len(s.Origins()) != 3 {
		t.Errorf("an honest neighbour isn't heard: %v, %+v", err, s.Counters())
	}
	if err := s.Receive(at(201), agentID(1), records(claimer(200, 1))); err != nil || s.Counters().Limited != c.Limited+1 {
		t.Errorf("a second later: %v, %+v", err, s.Counters())
	}
	// Once it rests, what it says is heard again.
	if err := s.Receive(at(400), agentID(1), records(certified(3, issued(3), 200))); err != nil || len(s.Origins()) != 4 {
		t.Errorf("%v, %d origins", err, len(s.Origins()))
	}

	// Records of strangers without end are not even looked at after a while.
	for i := range 60 {
		k := ed25519.NewKeyFromSeed(append(bytes.Repeat([]byte{201}, 31), byte(i)))
		r, _ := SignRecord(k, testNetwork().Root(), Record{Kind: KindMember, Version: version(400), Expires: start + 3600, Body: memberBody("x")})
		_ = s.Receive(at(400), agentID(2), records(r))
	}
	if got := s.Counters(); got.Uncertified != refusedBurst || got.Limited != c.Limited+1+60-refusedBurst {
		t.Errorf("counted %+v", got)
	}
}

// A hostile member's evidence changes nothing.
func TestForgedClaims(t *testing.T) {
	s := testNetwork().NewStore(agentID(0), 1, Limits{})
	publish(s, 0, issued(0), 0)
	s.Admission()
	s.Load(at(1), [][]byte{certified(5, claiming(6, 5, 30), 1).Bytes()})
	if _, err := s.Admission().Verify(at(40), agentID(6), claiming(6, 6, 20)); !errors.Is(err, ErrSuperseded) {
		t.Errorf("another agent is let in: %v", err)
	}
	s.Connected(at(1), agentID(1))
	incomplete := joined(once(6), 6, 0)
	flipped := bytes.Clone(claiming(6, 6, 20).raw)
	flipped[credentialInvited+20] ^= 1
	for name, b := range map[string][]byte{
		"a stranger's receipt":      receipted(incomplete, at(20), agentKey(3), foreignFor(3).raw),
		"another key's receipt":     receipted(incomplete, at(20), agentKey(4), issued(3).raw),
		"a receipt of its own":      receipted(incomplete, at(20), agentKey(6), incomplete.raw),
		"of one without a receipt":  receipted(incomplete, at(20), agentKey(7), joined(once(7), 7, 0).raw),
		"a wrong signature":         flipped,
		"no receipt":                incomplete.raw,
		"the admin's own":           issued(6).raw,
		"nothing":                   nil,
		"a receipt from before all": receipted(incomplete, at(-1000), agentKey(3), issued(3).raw),
	} {
		if err := s.Receive(at(40), agentID(1), message(sectionClaim, b)); !errors.Is(err, ErrCredential) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if holder, _ := s.members.claims.Holder(once(6).Certificate.Serial()); holder != agentID(5) || s.Counters().Uncertified != 9 {
		t.Errorf("agent %d has it; counted %+v", number(holder), s.Counters())
	}
	(bench{s}).flush()
	// A later claim is answered by ours, an equal one isn't.
	for _, step := range []struct {
		c    Credential
		want string
	}{{claiming(6, 6, 31), "→1 "}, {claiming(6, 5, 30), ""}} {
		if err := s.Receive(at(40), agentID(1), message(sectionClaim, step.c.raw)); err != nil {
			t.Error(err)
		}
		if got := (bench{s}).flush(); got != step.want {
			t.Errorf("answered %q, want %q", got, step.want)
		}
	}
}
