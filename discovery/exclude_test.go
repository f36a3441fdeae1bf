package discovery

import (
	"errors"
	"fmt"
	"testing"

	"farlan/overlay"
)

// Who is excluded is out with all that it could come back by; the others of its
// invite stay members, before and after they take what the admin gives them.
func TestExclude(t *testing.T) {
	invite, other := many(5), many(7)
	members := []Credential{joined(invite, 1, 0), joined(invite, 2, 0), joined(other, 3, 0), issued(4), claiming(6, 5, 1)}
	st, err := Statement{}.Exclude(at(10), testAdmin(153), members, agentID(1))
	if err != nil {
		t.Fatal(err)
	}
	s := testNetwork().NewStore(agentID(0), 1, Limits{})
	revoke(t, s, 10, st)
	verify := func(c Credential) error {
		_, err := s.Admission().Verify(at(20), c.Agent, c)
		return err
	}
	renewal, ok := st.Renewal(agentID(2))
	if !ok || renewal.Rights != members[1].Rights || renewal.NotAfter != members[1].NotAfter {
		t.Fatalf("the other member of the invite is given %+v, %v", renewal, ok)
	}
	for name, c := range map[string]struct {
		c    Credential
		want error
	}{
		"the excluded one":                 {members[0], ErrRevoked},
		"the excluded one, again":          {joined(invite, 1, 15), ErrRevoked},
		"the excluded one, by the admin":   {issued(1), ErrRevoked},
		"its token, for another agent":     {joined(invite, 8, 15), ErrRevoked},
		"the other member of its invite":   {members[1], nil},
		"that one, renewed":                {renewal, nil},
		"that one, who joined again later": {joined(invite, 2, 15), ErrRevoked}, // lasts longer than the admin says
		"one of another invite":            {members[2], nil},
		"the admin's own":                  {members[3], nil},
		"one of a one-time invite":         {members[4], nil},
	} {
		if err := verify(c.c); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	// What was taken need not be said again; nobody is renewed twice.
	members[1] = renewal
	next, err := st.Exclude(at(30), testAdmin(153), members, agentID(5))
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := members[4].Invite()
	if _, ok := next.Renewal(agentID(2)); ok || !next.RevokedInvite(serial) || !next.RevokedAgent(agentID(1)) {
		t.Errorf("the next statement: %+v", next)
	}
	// Of whom nothing is known, nothing else need be revoked, and for ever.
	st, err = Statement{}.Exclude(at(30), testAdmin(153), members, agentID(9))
	if err != nil || fmt.Sprint(st.agents) != fmt.Sprint([]revokedAgent{{agentID(9), NeverEnds}}) || len(st.invites) != 0 {
		t.Errorf("%+v, %v", st, err)
	}
}

// Even an invite that made more members than a statement can renew doesn't keep one
// of them in.
func TestExcludeOneOfMany(t *testing.T) {
	var members []Credential
	for n := range MaxAdminBody/credentialDirect + 2 {
		c, err := many(5).Join(at(0), overlay.AgentID{byte(n), byte(n >> 8), 1})
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, c)
	}
	serial, _ := members[0].Invite()
	for _, c := range []struct {
		members int
		whole   bool
	}{{300, true}, {len(members), false}} {
		st, err := Statement{}.Exclude(at(10), testAdmin(153), members[:c.members], members[1].Agent)
		if err != nil || !st.RevokedAgent(members[1].Agent) || st.RevokedInvite(serial) != c.whole {
			t.Errorf("of %d: %v, invite revoked: %v", c.members, err, st.RevokedInvite(serial))
		}
		if _, err := st.Append(nil); err != nil {
			t.Error(err)
		}
	}
}

func TestGrant(t *testing.T) {
	st, err := Statement{}.Grant(at(10), testAdmin(153), agentID(1), RightRelay, start+100)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := st.Renewal(agentID(1))
	if r, err := c.Verify(at(20), testNetwork().Admin(), agentID(1)); err != nil || r != RightRelay {
		t.Errorf("%v, %v", r, err)
	}
	for name, fails := range map[string]func() (Statement, error){
		"revoked": func() (Statement, error) {
			return Statement{}.Revoke(agentID(1), NeverEnds).Grant(at(0), testAdmin(153), agentID(1), 0, start+9)
		},
		"over":          func() (Statement, error) { return Statement{}.Grant(at(10), testAdmin(153), agentID(1), 0, start+10) },
		"without a key": func() (Statement, error) { return Statement{}.Grant(at(0), AdminKey{}, agentID(1), 0, start+9) },
	} {
		if _, err := fails(); err == nil {
			t.Errorf("%s: a credential was made", name)
		}
	}
	if next := st.Next(at(10), []Credential{c}); len(next.renewals) != 0 {
		t.Error("what was taken is said again")
	}
	if next := st.Next(at(10), []Credential{issued(1)}); len(next.renewals) != 1 {
		t.Error("what wasn't taken is left out")
	}
}
