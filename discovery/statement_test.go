package discovery

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"

	"farlan/overlay"
)

func none(Credential) bool { return false }

// stated returns the record of a statement.
func stated(after int, newest uint64, st Statement) Record {
	r, err := SignStatement(at(after), testAdmin(153), testNetwork(), newest, st)
	if err != nil {
		panic(err)
	}
	return r
}

func TestStatement(t *testing.T) {
	serial := once(6).Certificate.Serial()
	renewed, err := Statement{}.Renew(issued(3))
	if err != nil {
		t.Fatal(err)
	}
	st := renewed.Revoke(agentID(2), start+100).Revoke(agentID(1), NeverEnds).RevokeInvite(serial, start+200).Revoke(agentID(2), start+50)
	if renewed.RevokedAgent(agentID(2)) || !st.RevokedAgent(agentID(1)) || st.RevokedAgent(agentID(3)) || !st.RevokedInvite(serial) || st.RevokedInvite(Serial{}) {
		t.Error("wrong ones are revoked")
	}
	if c, ok := st.Renewal(agentID(3)); !ok || !reflect.DeepEqual(c, issued(3)) {
		t.Error("no renewal")
	}
	b, err := st.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	// The encoding must never change.
	sum := sha256.Sum256(b)
	if got := hex.EncodeToString(sum[:8]); got != "4335b92bfa04f402" || len(b) != 6+2*40+24+115 {
		t.Errorf("%d bytes of sum %s", len(b), got)
	}
	if again, err := ParseStatement(append(b, 1, 2)); err != nil || !reflect.DeepEqual(again, st) {
		t.Errorf("comes back as %+v, %v", again, err)
	}
	for i := range b {
		if _, err := ParseStatement(b[:i]); err == nil {
			t.Errorf("%d bytes of it were taken", i)
		}
	}
	if _, err := ParseStatement(bytes.Replace(b, agentKey(2)[32:], agentKey(0)[32:], 1)); err == nil {
		t.Error("a statement out of order was taken")
	}

	// What is over goes; an agent that is revoked loses its renewal, and is revoked
	// for as long as that would have lasted.
	if p := st.Prune(at(99), none); !reflect.DeepEqual(p, st) {
		t.Error("pruned too early")
	}
	if p := st.Prune(at(100), none); p.RevokedAgent(agentID(2)) || !p.RevokedAgent(agentID(1)) || !p.RevokedInvite(serial) {
		t.Error("not pruned by time")
	}
	if p := st.Prune(at(0), func(c Credential) bool { return c.Agent == agentID(3) }); len(p.renewals) != 0 {
		t.Error("a renewal that was taken is still said")
	}
	gone := st.Revoke(agentID(3), start+1).Prune(at(86399), none)
	if _, ok := gone.Renewal(agentID(3)); ok || !gone.RevokedAgent(agentID(3)) {
		t.Error("revoked, and yet renewed")
	}
	if _, err := gone.Renew(issued(3)); err == nil {
		t.Error("a revoked agent was renewed")
	}
	if _, err := (Statement{}).Renew(joined(many(5), 1, 0)); err == nil {
		t.Error("an invite's credential was taken for a renewal")
	}
}

func TestStatementIsBounded(t *testing.T) {
	st := Statement{}
	for i := range 1300 {
		id := overlay.AgentID{byte(i >> 8), byte(i)}
		st.agents = append(st.agents, revokedAgent{id, start})
	}
	if _, err := st.Append(nil); err == nil || !strings.Contains(err.Error(), "prune it") {
		t.Errorf("52,000 bytes: %v", err)
	}
	st.agents = st.agents[:1228]
	r := stated(0, 0, st)
	if len(r.Body) > MaxAdminBody {
		t.Errorf("%d bytes", len(r.Body))
	}
}

func TestSignStatement(t *testing.T) {
	r := stated(5, version(9), Statement{})
	if r.Version != version(9)+1 || r.Kind != KindAdmin || r.Origin != overlay.AgentID(testNetwork().Admin()) {
		t.Errorf("%+v", r)
	}
	if r := stated(5, 0, Statement{}); r.Version != version(5) {
		t.Errorf("%+v", r)
	}
	for _, admin := range []AdminKey{{}, testAdmin(152)} {
		if _, err := SignStatement(at(0), admin, testNetwork(), 0, Statement{}); err == nil {
			t.Errorf("%v made a statement", admin)
		}
	}
}

func FuzzParseStatement(f *testing.F) {
	st, _ := Statement{}.Revoke(agentID(2), start+100).RevokeInvite(Serial{1}, start+200).Renew(issued(3))
	b, _ := st.Append(nil)
	f.Add(b)
	f.Add(make([]byte, 6))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := ParseStatement(b)
		if err != nil {
			return
		}
		c, err := st.Append(nil)
		if len(b) <= MaxAdminBody && (err != nil || !bytes.HasPrefix(b, c)) {
			t.Fatalf("%x comes back as %x, %v", b, c, err)
		}
		st.RevokedAgent(agentID(1))
		st.Prune(at(0), none).Revoke(agentID(1), 5)
	})
}
