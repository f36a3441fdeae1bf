package discovery

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"farlan/overlay"
)

// keys are the keys of the agents of the tests, ascending by id.
var keys = func() []ed25519.PrivateKey {
	keys := make([]ed25519.PrivateKey, 64)
	for i := range keys {
		keys[i] = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i)}, 32))
	}
	slices.SortFunc(keys, func(a, b ed25519.PrivateKey) int { return bytes.Compare(a[32:], b[32:]) })
	return keys
}()

// moreKeys are those of the agents from 64 on, in no order.
var moreKeys = func() []ed25519.PrivateKey {
	more := make([]ed25519.PrivateKey, 192)
	for i := range more {
		more[i] = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i), 0xff}, 16))
	}
	return more
}()

func agentKey(n int) ed25519.PrivateKey {
	if n < len(keys) {
		return keys[n]
	}
	return moreKeys[n-len(keys)]
}

func agentID(n int) overlay.AgentID { return overlay.AgentID(agentKey(n)[32:]) }

// signed returns a record of agent n in network 7.
func signed(n int, kind Kind, version uint64, expires int64, body []byte) Record {
	r, err := SignRecord(agentKey(n), testKey(7), Record{Kind: kind, Version: version, Expires: expires, Body: body})
	if err != nil {
		panic(err)
	}
	return r
}

func memberBody(name string) []byte {
	b, err := Member{Name: name, Addrs: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4747")}}.Append(nil)
	if err != nil {
		panic(err)
	}
	return b
}

func TestParseRecord(t *testing.T) {
	r := signed(1, KindMember, 5, 1000, memberBody("lab"))
	change := func(at int, x byte) []byte {
		b := bytes.Clone(r.Bytes())
		b[at] ^= x
		return b
	}
	elsewhere, _ := SignRecord(agentKey(1), testKey(8), r)
	for _, c := range []struct {
		name string
		b    []byte
		is   error  // if not nil
		want string // part of the error, "" for none
	}{
		{"as signed", r.Bytes(), nil, ""},
		{"empty", nil, nil, "0 bytes"},
		{"only a header", r.Bytes()[:52], nil, "52 bytes"},
		{"one byte less", r.Bytes()[:len(r.Bytes())-1], nil, "with a body of"},
		{"one byte more", append(bytes.Clone(r.Bytes()), 0), nil, "with a body of"},
		{"later format", change(0, 2), ErrUnknownRecord, "unknown"},
		{"later kind", change(1, 0x40), ErrUnknownRecord, "unknown"},
		{"of another kind", change(1, 3), ErrSignature, "signature"},
		{"of another origin", change(2, 1), ErrSignature, "signature"},
		{"of another version", change(41, 1), ErrSignature, "signature"},
		{"of another time", change(49, 1), ErrSignature, "signature"},
		{"with another body", change(55, 1), ErrSignature, "signature"},
		{"of another network", elsewhere.Bytes(), ErrSignature, "signature"},
		{"no member", signed(1, KindMember, 5, 1000, []byte{0, 1, ' '}).Bytes(), nil, "body ends"},
		{"no links", signed(1, KindLinks, 5, 1000, []byte{0, 1}).Bytes(), nil, "body ends"},
	} {
		got, err := ParseRecord(testKey(7), c.b)
		switch {
		case c.want == "" && (err != nil || !reflect.DeepEqual(got, r)):
			t.Errorf("%s: %+v, %v", c.name, got, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is)):
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}

func TestSignRecordRefusesLongBodies(t *testing.T) {
	for kind, n := range map[Kind]int{KindMember: MaxMemberBody, KindLinks: MaxLinksBody, 0: -1, 9: -1} {
		if _, err := SignRecord(agentKey(1), testKey(7), Record{Kind: kind, Body: make([]byte, n+1)}); err == nil && n >= 0 {
			t.Errorf("%v: a body of %d bytes was signed", kind, n+1)
		}
	}
	if r := signed(1, KindLinks, 1, 1, make([]byte, MaxLinksBody)); len(r.Bytes()) != MaxRecord {
		t.Errorf("longest record has %d bytes, not %d", len(r.Bytes()), MaxRecord)
	}
}

func TestMember(t *testing.T) {
	m := Member{
		Name:       "höhle-1",
		SessionKey: [32]byte{1, 2, 3},
		Addrs:      []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4747"), netip.MustParseAddrPort("[2001:db8::1]:9")},
		Left:       true,
		LAN:        true,
	}
	b, err := m.Append([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	// Bytes that a later version appends are ignored.
	got, err := ParseMember(append(b[1:], 1, 2, 3))
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, name := range []string{"", strings.Repeat("x", 64), "a b", "a\nb", "a\u202eb", "\xff", "\u00a0"} {
		if _, err := (Member{Name: name}).Append(nil); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
	for _, addr := range []string{"0.0.0.0:1", "192.0.2.1:0", "224.0.0.1:1", "[::ffff:192.0.2.1]:1", "[fe80::1%eth0]:1", "[ff02::1]:1"} {
		if _, err := (Member{Name: "a", Addrs: []netip.AddrPort{netip.MustParseAddrPort(addr)}}).Append(nil); err == nil {
			t.Errorf("address %s was taken", addr)
		}
	}
	if _, err := (Member{Name: "a", Addrs: make([]netip.AddrPort, MaxAddrs+1)}).Append(nil); err == nil {
		t.Error("too many addresses were taken")
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add(signed(1, KindMember, 5, 1000, memberBody("lab")).Bytes())
	f.Add(signed(1, KindLinks, 5, 1000, noLinks).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeRecord(b); err == nil {
			again := signed(1, r.Kind, r.Version, r.Expires, r.Body)
			if !bytes.Equal(again.Bytes()[34:len(b)-64], b[34:len(b)-64]) {
				t.Fatalf("%x comes back as %x", b, again.Bytes())
			}
		}
		if r, err := ParseRecord(testKey(7), b); err == nil && !bytes.Equal(r.Bytes(), b) {
			t.Fatal("another record than parsed")
		}
	})
}

func FuzzParseMember(f *testing.F) {
	f.Add(memberBody("lab"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMember(b)
		if err != nil {
			return
		}
		c, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseMember(c); err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v comes back as %+v, %v", m, again, err)
		}
	})
}
