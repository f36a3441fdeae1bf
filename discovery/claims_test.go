package discovery

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// claiming returns the credential of agent n for the one-time invite of a
// number, with a receipt that agent 0 gave some seconds after the start.
func claiming(invite byte, n, after int) Credential {
	return sponsored(joined(once(invite), n, after), after, 0, issued(0))
}

func TestClaims(t *testing.T) {
	serial := once(6).Certificate.Serial()
	claims := NewClaims(2)
	for _, step := range []struct {
		name   string
		c      Credential
		after  int
		has    bool
		err    error
		holder int
	}{
		{"the first", claiming(6, 1, 30), 40, true, nil, 1},
		{"again", claiming(6, 1, 30), 40, true, nil, 1},
		{"somebody later", claiming(6, 2, 31), 40, false, nil, 1},
		{"the same later", claiming(6, 1, 35), 40, true, nil, 1},
		{"somebody between the two", claiming(6, 2, 33), 40, false, nil, 1},
		{"what claims nothing", issued(5), 40, true, nil, 1},
		{"somebody earlier", claiming(6, 3, 20), 41, true, nil, 3},
		{"the first once more", claiming(6, 1, 30), 41, false, nil, 3},
		{"it in turn has been there earlier still", claiming(6, 1, 10), 42, true, nil, 1},
		{"another invite", claiming(7, 2, 10), 42, true, nil, 1},
		{"a third invite", claiming(8, 2, 10), 42, false, errClaimsFull, 1},
		{"an earlier one again", claiming(6, 4, 9), 43, true, nil, 4},
		{"and again", claiming(6, 5, 8), 43, true, nil, 5},
		{"too often", claiming(6, 6, 7), 44, false, errClaimLimited, 5},
		{"later it is heard", claiming(6, 6, 7), 44 + 60, true, nil, 6},
		{"a third invite when the others are over", claiming(8, 2, 10), 3600 + 36000, true, nil, -1},
	} {
		has, err := claims.Take(at(step.after), step.c)
		if has != step.has || !errors.Is(err, step.err) {
			t.Errorf("%s: %v, %v", step.name, has, err)
		}
		id, ok := claims.Holder(serial)
		if ok != (step.holder >= 0) || ok && number(id) != step.holder {
			t.Errorf("%s: %d has it, want %d", step.name, number(id), step.holder)
		}
		if evidence, _ := claims.Evidence(serial); evidence.Agent != id {
			t.Errorf("%s: the evidence is of %v", step.name, evidence.Agent)
		}
	}
}

// Whatever the order in which claims are heard, the same agent has the invite;
// also when clocks say that all came at one time.
func TestClaimsDoNotDependOnOrder(t *testing.T) {
	all := []Credential{claiming(6, 1, 30), claiming(6, 2, 30), claiming(6, 3, 30), claiming(6, 4, 31), claiming(6, 1, 33)}
	r := rand.New(rand.NewPCG(1, 1))
	var first [][]byte
	for range 200 {
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		claims := NewClaims(1)
		now := at(40)
		for _, c := range all {
			now = now.Add(time.Hour) // so that the rate doesn't matter
			if _, err := claims.Take(now, c); err != nil {
				t.Fatal(err)
			}
		}
		if first == nil {
			first = claims.dump()
		} else if !reflect.DeepEqual(claims.dump(), first) {
			t.Fatal("the order makes a difference")
		}
	}
	c, err := ParseCredential(first[0])
	if err != nil || c.receipt.at != at(30) || c.Agent == agentID(4) {
		t.Errorf("%v has it, %v", number(c.Agent), err)
	}
}
