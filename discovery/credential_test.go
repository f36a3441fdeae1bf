package discovery

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"farlan/overlay"
)

// issued returns the admin's own credential for agent n, good for a day.
func issued(n int) Credential {
	c, err := IssueCredential(testAdmin(153), agentID(n), AllRights, start-60, start+86400)
	if err != nil {
		panic(err)
	}
	return c
}

// joined returns what agent n makes of a token some seconds after the start.
func joined(tok Token, n, after int) Credential {
	c, err := tok.Join(at(after), agentID(n))
	if err != nil {
		panic(err)
	}
	return c
}

// sponsored returns c with a receipt of agent n, who has the credential own.
func sponsored(c Credential, after, n int, own Credential) Credential {
	done, err := c.sponsor(at(after), testNetwork().admin, agentKey(n), own)
	if err != nil {
		panic(err)
	}
	return done
}

// receipted is sponsored without any check: hostile members don't check.
func receipted(c Credential, when overlay.Instant, key ed25519.PrivateKey, own []byte) []byte {
	b := append([]byte(nil), c.raw[:credentialInvited]...)
	b[1] = madeWithReceipt
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	for i := range 8 {
		b[credentialInvited+i] = byte(uint64(when) >> (56 - 8*i))
	}
	b = append(b, ed25519.Sign(key, receiptSaid(testNetwork().admin, &c, when))...)
	return append(b, own...)
}

func inviteKey(tok Token) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(tok.seed[:]) }

func TestVerify(t *testing.T) {
	admin := testNetwork().admin
	direct, invited, incomplete := issued(1), joined(many(5), 1, 0), joined(once(6), 1, 0)
	complete := sponsored(incomplete, 30, 2, issued(2))
	deep := sponsored(joined(once(7), 3, 0), 40, 1, complete)
	deepest := sponsored(joined(once(8), 4, 0), 50, 3, deep)
	byGrant := func(tok Token, g grant) Credential {
		c, err := g.byInvite(admin, &tok.Certificate, inviteKey(tok))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	parse := func(b []byte) Credential {
		c, err := ParseCredential(b)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	change := func(c Credential, at int, x byte) Credential {
		b := bytes.Clone(c.raw)
		b[at] ^= x
		return parse(b)
	}
	withReceiptOf := func(c, of Credential) Credential {
		b := append(bytes.Clone(c.raw[:credentialInvited]), of.raw[credentialInvited:]...)
		b[1] = madeWithReceipt
		return parse(b)
	}
	raw := func(c Credential, after, n int, own Credential) Credential {
		return parse(receipted(c, at(after), agentKey(n), own.raw))
	}
	foreign, _ := IssueCredential(testAdmin(152), agentID(1), AllRights, start, start+3600)
	foreignToken, _ := NewToken(bytes.NewReader(bytes.Repeat([]byte{5}, 32)), testAdmin(152), NewNetwork(testKey(7), testAdmin(152).Public()), many(5).Certificate.Terms, nil)
	other := many(6)
	short := testToken(9, Terms{Rights: RightRelay, NotAfter: start + 3600, Lifetime: 5 * time.Second})
	for _, c := range []struct {
		name  string
		c     Credential
		n     int
		after int
		is    error
		want  string
	}{
		{"the admin's", direct, 1, 0, nil, ""},
		{"an invite's", invited, 1, 0, nil, ""},
		{"a one-time invite's", complete, 1, 60, nil, ""},
		{"after two receipts", deep, 3, 60, nil, ""},
		{"after three receipts", deepest, 4, 60, nil, ""},
		{"the sponsor's is over by now", raw(joined(once(6), 1, 0), 3, 2, joined(short, 2, 0)), 1, 60, nil, ""},
		{"fewer rights", byGrant(many(5), grant{agentID(1), 0, start, start + 9}), 1, 0, nil, ""},
		{"ten minutes early", invited, 1, -600, nil, ""},
		{"none", Credential{}, 1, 0, ErrNoCredential, "there is none"},
		{"another agent's", direct, 2, 0, ErrCredential, "it is that of " + agentID(1).Short()},
		{"early", invited, 1, -601, ErrNotYet, "it begins in 10m1s by this machine's clock"},
		{"over", invited, 1, 36000 + 61, ErrLapsed, "1m1s ago"},
		{"over this second", invited, 1, 36000, ErrLapsed, "0s ago"},
		{"no receipt", incomplete, 1, 0, ErrIncomplete, ""},
		{"another admin's", foreign, 1, 0, ErrCredential, "not signed by this network's admin"},
		{"of another admin's invite", joined(foreignToken, 1, 0), 1, 0, ErrCredential, "invite is not signed by this network's admin"},
		{"changed rights", change(direct, 2, 8), 1, 0, ErrCredential, "not signed by this network's admin"},
		{"changed time", change(invited, 50, 0x20), 1, 0, ErrCredential, "not signed by its invite"},
		{"changed terms", change(invited, credentialDirect+42, 1), 1, 0, ErrCredential, "invite is not signed"},
		{"not once any more", change(incomplete, credentialDirect+1, 1), 1, 0, ErrCredential, "invite is not signed"},
		{"more rights", byGrant(many(5), grant{agentID(1), AllRights, start, start + 9}), 1, 0, ErrCredential, "it gives the rights bridge,relay,reserve, its invite has relay"},
		{"longer", byGrant(many(5), grant{agentID(1), 0, start, start + 36001}), 1, 0, ErrCredential, "longer than its invite allows"},
		{"after the invite", byGrant(many(5), grant{agentID(1), 0, start + 3601, start + 3700}), 1, 3650, ErrCredential, "after its invite ended"},
		{"certificate of another invite", parse(append(bytes.Clone(invited.raw[:credentialDirect]), other.Certificate.raw[:]...)), 1, 0, ErrCredential, "not signed by its invite"},
		{"the receipt's time changed", change(complete, credentialInvited+7, 1), 1, 60, ErrCredential, "receipt is not signed by its sponsor"},
		{"a receipt by another key", parse(receipted(incomplete, at(30), agentKey(3), issued(2).raw)), 1, 60, ErrCredential, "receipt is not signed by its sponsor"},
		{"a receipt for another agent", withReceiptOf(joined(once(6), 4, 0), complete), 4, 60, ErrCredential, "receipt is not signed by its sponsor"},
		{"a receipt for another invite", withReceiptOf(joined(once(7), 1, 0), complete), 1, 60, ErrCredential, "receipt is not signed by its sponsor"},
		{"a receipt of a stranger", raw(incomplete, 30, 2, foreignFor(2)), 1, 60, ErrCredential, "sponsor's credential is not valid: it is not signed by this network's admin"},
		{"a receipt of one without receipt", raw(incomplete, 30, 2, joined(once(7), 2, 0)), 1, 60, ErrCredential, "has itself no receipt"},
		{"a receipt of its own", raw(incomplete, 30, 1, issued(1)), 1, 60, ErrCredential, "sponsors itself"},
		{"a receipt before the sponsor's", raw(joined(once(7), 3, 0), 29, 1, complete), 3, 60, ErrCredential, "was no member yet"},
		{"a receipt after the invite", raw(incomplete, 3601, 2, issued(2)), 1, 3700, ErrCredential, "after the invite's end"},
		{"a receipt before the credential", raw(incomplete, -601, 2, issued(2)), 1, 60, ErrCredential, "not from the time of the credential of " + agentID(1).Short()},
		{"a receipt after the sponsor's time", raw(incomplete, 6, 2, joined(short, 2, 0)), 1, 60, ErrCredential, "not from the time of the credential of " + agentID(2).Short()},
		{"a receipt where none is needed", raw(invited, 30, 2, issued(2)), 1, 60, ErrCredential, "needs none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rights, err := c.c.Verify(at(c.after), admin, agentID(c.n))
			switch {
			case c.is == nil && (err != nil || rights != c.c.Rights):
				t.Errorf("%v, %v", rights, err)
			case c.is != nil && (!errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) || rights != 0):
				t.Errorf("error %v, want %v with %q", err, c.is, c.want)
			}
		})
	}
}

// foreignFor returns a credential of another admin for agent n.
func foreignFor(n int) Credential {
	c, err := IssueCredential(testAdmin(152), agentID(n), AllRights, start-60, start+86400)
	if err != nil {
		panic(err)
	}
	return c
}

// A credential holds as many receipts as MaxCredential has room for.
func TestSponsorsAreBounded(t *testing.T) {
	own := issued(0)
	for n := 1; ; n++ {
		c, err := joined(once(byte(n)), n, n).sponsor(at(n), testNetwork().admin, agentKey(n-1), own)
		if err != nil {
			if n != 4 || !errors.Is(err, errFar) {
				t.Errorf("receipt %d: %v", n, err)
			}
			return
		}
		if len(c.raw) > MaxCredential || n > 3 {
			t.Fatalf("receipt %d: %d bytes", n, len(c.raw))
		}
		own = c
	}
}

// The encodings must never change: agents of different versions check each
// other's credentials. The sums of this test and its like were made by another
// program from the comments alone.
func TestCredentialEncoding(t *testing.T) {
	complete := sponsored(joined(once(6), 1, 0), 30, 2, issued(2))
	for _, c := range []struct {
		name string
		c    Credential
		n    int
		want string
	}{
		{"direct", issued(1), 115, "b920d95563d1d20c"},
		{"invited", joined(many(5), 1, 0), 226, "3330d74bac90890d"},
		{"complete", complete, 413, "673092bbbb4b417b"},
	} {
		sum := sha256.Sum256(c.c.Bytes())
		if got := hex.EncodeToString(sum[:8]); got != c.want || len(c.c.Bytes()) != c.n {
			t.Errorf("%s: %d bytes of sum %s, want %d of %s", c.name, len(c.c.Bytes()), got, c.n, c.want)
		}
		if again, err := ParseCredential(c.c.Bytes()); err != nil || !reflect.DeepEqual(again, c.c) {
			t.Errorf("%s: comes back as %+v, %v", c.name, again, err)
		}
	}
	head := "010107" + hex.EncodeToString(agentKey(1)[32:]) + "000000006b49d1c4" + "000000006b4b2380"
	if got := hex.EncodeToString(issued(1).Bytes()[:credentialHead]); got != head {
		t.Errorf("head %s, want %s", got, head)
	}
	for _, b := range [][]byte{nil, {1}, complete.raw[:300], complete.raw[:225], append(bytes.Clone(issued(1).raw), 0), make([]byte, MaxCredential+1)} {
		if c, err := ParseCredential(b); !errors.Is(err, ErrCredential) || c.raw != nil {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}

func TestRightsString(t *testing.T) {
	for r, want := range map[Rights]string{0: "none", RightBridge: "bridge", AllRights: "bridge,relay,reserve", 0x84: "reserve,bit 7"} {
		if got := r.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func FuzzParseCredential(f *testing.F) {
	complete := sponsored(joined(once(6), 1, 0), 30, 2, issued(2))
	f.Add(issued(1).raw)
	f.Add(joined(many(5), 1, 0).raw)
	f.Add(complete.raw)
	f.Add(sponsored(joined(once(7), 3, 0), 40, 1, complete).raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCredential(b)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Bytes(), b) || len(b) > MaxCredential {
			t.Fatal("another credential than parsed")
		}
		g := grant{c.Agent, c.Rights, c.NotBefore, c.NotAfter}
		if !bytes.Equal(g.append(b[1]), b[:credentialHead]) {
			t.Fatalf("%x comes back as %x", b[:credentialHead], g.append(b[1]))
		}
		if c.receipt != nil {
			again := receipted(c, c.receipt.at, agentKey(1), c.receipt.sponsor.raw)
			copy(again[credentialInvited+8:], c.receipt.signature)
			if !bytes.Equal(again, b) {
				t.Fatalf("%x comes back as %x", b, again)
			}
		}
		_, _ = c.Verify(at(0), testNetwork().admin, c.Agent)
		_ = c.Ends()
	})
}
