package discovery

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"farlan/overlay"
)

const hour = time.Hour

// testToken returns invite number n of the tests' network.
func testToken(n byte, terms Terms, addrs ...string) Token {
	t, err := NewToken(bytes.NewReader(bytes.Repeat([]byte{n}, 32)), testAdmin(153), testNetwork(), terms, addrs)
	if err != nil {
		panic(err)
	}
	return t
}

// once returns the one-time invite number n: it lasts for an hour and gives
// credentials of ten.
func once(n byte) Token {
	return testToken(n, Terms{Rights: RightRelay, NotAfter: start + 3600, Lifetime: 10 * hour, Once: true})
}

// many is like once but makes as many members as one likes.
func many(n byte) Token {
	return testToken(n, Terms{Rights: RightRelay, NotAfter: start + 3600, Lifetime: 10 * hour})
}

func TestToken(t *testing.T) {
	terms := Terms{Rights: AllRights, NotAfter: start + 86400, Lifetime: 720 * hour, Once: true}
	addrs := []string{"/ip4/192.0.2.1/udp/4747/quic-v1", "/dns/lab.example/tcp/4747"}
	tok := testToken(5, terms, addrs...)
	got, err := ParseToken(append([]byte("# for the lab\n\n  "), tok.Text()...))
	if err != nil || !reflect.DeepEqual(got, tok) || got.Certificate.Terms != terms || !slices.Equal(got.Addrs, addrs) || got.Network != testNetwork() {
		t.Errorf("%v, %v", got, err)
	}
	// The encoding must never change: tokens outlive versions.
	sum := sha256.Sum256(tok.Text())
	if got := hex.EncodeToString(sum[:8]) + " " + tok.Certificate.Serial().String(); got != "c653d303b814329c 7599776c3085e3f9da0d13071eb0b4ab" {
		t.Errorf("the token's encoding or serial changed: %s", got)
	}
	const cert = "0101076e7a1cdd29b0b78fd13af4c5598feff4ef2a97166e3ca6f2e4fbfccd80505bf1000000006b4b238000278d00" +
		"d050e236febabbfc4047681c4c5d12a4f711fb5334a05fe67218099dcad8454317b4fadc92990926ace8c25274ae83c9431d6a744957ab9d1fa2e83780396e01"
	if got := hex.EncodeToString(tok.Certificate.raw[:]); got != cert {
		t.Errorf("the certificate's encoding changed: %s", got)
	}
	if serial, err := ParseSerial(tok.Certificate.Serial().String()); err != nil || serial != tok.Certificate.Serial() {
		t.Errorf("serial %v, %v", serial, err)
	}
	full := testToken(6, terms, slices.Repeat([]string{strings.Repeat("a", MaxTokenAddr)}, MaxTokenAddrs)...)
	if again, err := ParseToken(full.Text()); err != nil || !reflect.DeepEqual(again, full) {
		t.Errorf("the longest token: %v", err)
	}
}

func TestNewTokenRefuses(t *testing.T) {
	good := Terms{NotAfter: start, Lifetime: hour}
	simple := NewNetwork(testKey(7), AdminPublic{})
	for _, c := range []struct {
		name    string
		admin   AdminKey
		network Network
		terms   Terms
		addrs   []string
		want    string
	}{
		{"a simple network", testAdmin(153), simple, good, nil, "no admin key"},
		{"no admin", AdminKey{}, testNetwork(), good, nil, "no admin key"},
		{"another admin", testAdmin(152), testNetwork(), good, nil, "not this network's"},
		{"no network", testAdmin(153), Network{}, good, nil, "no key"},
		{"no end", testAdmin(153), testNetwork(), Terms{Lifetime: hour}, nil, "out of range"},
		{"no lifetime", testAdmin(153), testNetwork(), Terms{NotAfter: start}, nil, "whole seconds"},
		{"a lifetime of 200 years", testAdmin(153), testNetwork(), Terms{NotAfter: start, Lifetime: 200 * 366 * 24 * hour}, nil, "136 years"},
		{"nine addresses", testAdmin(153), testNetwork(), good, slices.Repeat([]string{"a"}, 9), "at most 8 addresses"},
		{"a long address", testAdmin(153), testNetwork(), good, []string{strings.Repeat("a", 256)}, "at most 8 addresses"},
		{"an empty address", testAdmin(153), testNetwork(), good, []string{""}, "at most 8 addresses"},
		{"an address of two lines", testAdmin(153), testNetwork(), good, []string{"a\nb"}, "visible ASCII"},
	} {
		if _, err := NewToken(bytes.NewReader(make([]byte, 99)), c.admin, c.network, c.terms, c.addrs); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
	if _, err := NewToken(strings.NewReader("short"), testAdmin(153), testNetwork(), good, nil); err == nil {
		t.Error("a token of 5 random bytes")
	}
}

func TestParseTokenRefuses(t *testing.T) {
	tok := testToken(5, Terms{Rights: 1, NotAfter: start, Lifetime: hour}, "/a")
	text := string(tok.Text())
	raw, err := tokenForm.parse(bytes.TrimSpace(tok.Text()))
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, x byte) string {
		b := bytes.Clone(raw)
		b[at] ^= x
		return string(tokenForm.text(b))
	}
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "# no\n", "exactly one line"},
		{"a broken line", text[:60] + "\n" + text[60:], "exactly one line"},
		{"a network key", string(testKey(7).Text()), "must start with farlan-join-1-"},
		{"a wrong character", text[:50] + "*" + text[51:], "characters other than"},
		{"a typing mistake", text[:50] + string(text[50]^1) + text[51:], "join token: "},
		{"cut off", text[:80], "join token: "},
		{"only a prefix", tokenForm.prefix, "only 0 characters"},
		{"too long", strings.Repeat("a", MaxTokenText+1), "longer than"},
		{"no body", string(tokenForm.text(nil)), "ends too early"},
		{"no network key", string(tokenForm.text(slices.Concat(make([]byte, 32), raw[32:]))), "no key"},
		{"another admin", change(40, 1), "not signed by this network's admin"},
		{"another invite key", change(70, 1), "key is not that of its certificate"},
		{"more rights", change(96+2, 2), "not signed by this network's admin"},
		{"not once", change(96+1, 1), "not signed by this network's admin"},
		{"another lifetime", change(96+43, 2), "not signed by this network's admin"},
		{"a later format", change(96, 3), "can't be read"},
		{"too many addresses", change(207, 2), "ends too early"},
		{"too few addresses", change(207, 1), "follows its end"},
		{"a blank address", change(209, '/'^' '), "visible ASCII"},
		{"something behind", string(tokenForm.text(append(bytes.Clone(raw), 0))), "follows its end"},
	} {
		got, err := ParseToken([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || got.seed != nil {
			t.Errorf("%s: %v, %v, want an error with %q", c.name, got, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "BwcHBw") {
			t.Errorf("%s: error shows the token: %v", c.name, err)
		}
	}
}

func TestJoin(t *testing.T) {
	tok := many(5)
	c, err := tok.Join(at(60), agentID(1))
	if err != nil || c.Agent != agentID(1) || c.NotBefore != start+60 || c.NotAfter != start+60+36000 || c.Rights != RightRelay || c.Ends() != start+3600+36000 {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := tok.Join(at(3600), agentID(1)); err != nil {
		t.Errorf("at the end: %v", err)
	}
	if _, err := tok.Join(at(3661), agentID(1)); err == nil || !strings.Contains(err.Error(), "it ended 1m1s ago") {
		t.Errorf("after the end: %v", err)
	}
	if _, err := tok.Join(overlay.Instant(-5), agentID(1)); err != nil && !errors.Is(err, ErrCredential) {
		t.Errorf("before 1970: %v", err)
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(testToken(5, Terms{Rights: 7, NotAfter: start, Lifetime: hour, Once: true}, "/ip4/192.0.2.1/udp/4747").Text())
	f.Add(many(5).Text())
	f.Add(testKey(7).Text())
	f.Fuzz(func(t *testing.T, text []byte) {
		// The checksum stops nearly all inputs, so the rest is fuzzed behind it too.
		for _, b := range [][]byte{text, tokenForm.text(text)} {
			tok, err := ParseToken(b)
			if err != nil {
				continue
			}
			if again, err := ParseToken(tok.Text()); err != nil || !reflect.DeepEqual(again, tok) {
				t.Fatalf("%v does not come back: %v", tok, err)
			}
		}
		if c, err := parseCertificate(text); err == nil && !bytes.Equal(c.raw[:], text) {
			t.Fatal("another certificate than parsed")
		}
	})
}
