package discovery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// testAdmin returns the admin key number n of the tests.
func testAdmin(n byte) AdminKey {
	k, err := NewAdminKey(bytes.NewReader(bytes.Repeat([]byte{n}, 32)))
	if err != nil {
		panic(err)
	}
	return k
}

// testNetwork is the signed network of the tests, of network key 7 and admin 153: one whose
// key is no agent's.
func testNetwork() Network { return NewNetwork(testKey(7), testAdmin(153).Public()) }

func TestParseNetwork(t *testing.T) {
	key := strings.TrimSpace(string(testKey(7).Text()))
	admin := testAdmin(153).Public().String()
	simple := NewNetwork(testKey(7), AdminPublic{})
	for _, c := range []struct {
		name, text string
		want       Network
		fails      string
	}{
		{"simple", key, simple, ""},
		{"signed", key + "\n" + admin, testNetwork(), ""},
		{"with comments", "# lab\n\n " + key + "\r\n# admin\n" + admin + "  \n", testNetwork(), ""},
		{"empty", "# nothing\n", Network{}, "nothing there"},
		{"three lines", key + "\n" + admin + "\n" + admin, Network{}, "more than two lines"},
		{"only the admin", admin, Network{}, "must start with farlan-key-1-"},
		{"two keys", key + "\n" + key, Network{}, "must start with farlan-admin-pub-1-"},
		{"the admin's private key", key + "\n" + string(testAdmin(153).Text()), Network{}, "must start with farlan-admin-pub-1-"},
		{"a wrong character", key + "\n" + admin[:30] + "0" + admin[31:], Network{}, "admin public key: the checksum"},
		{"cut off", key + "\n" + admin[:40], Network{}, "characters after farlan-admin-pub-1-, want 48"},
		{"no admin", key + "\n" + AdminPublic{}.String(), Network{}, "all its bytes are zero"},
	} {
		got, err := ParseNetwork([]byte(c.text))
		switch {
		case c.fails == "" && (err != nil || got != c.want):
			t.Errorf("%s: %v, %v", c.name, got, err)
		case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails) || !got.IsZero()):
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.fails)
		case c.fails != "" && strings.Contains(err.Error(), key[14:24]):
			t.Errorf("%s: error shows the key: %v", c.name, err)
		}
	}
	if _, err := ParseNetworkKey(testNetwork().Text()); err == nil {
		t.Error("the key file of a signed network was taken for that of a simple one")
	}
}

// A simple network is what it was: its key file, its secrets. A signed one
// shares nothing with the simple one of its key, or with one of another admin.
func TestRoot(t *testing.T) {
	simple := NewNetwork(testKey(7), AdminPublic{})
	if simple.Root() != testKey(7) || !bytes.Equal(simple.Text(), testKey(7).Text()) || simple.Signed() {
		t.Error("a simple network is more than its key")
	}
	other := NewNetwork(testKey(7), testAdmin(152).Public())
	ids := map[string]bool{simple.ID(): true, testNetwork().ID(): true, other.ID(): true}
	if len(ids) != 3 {
		t.Errorf("networks share names: %v", ids)
	}
	r := member(1, 0)
	if _, err := ParseRecord(testNetwork().Root(), r.Bytes()); err == nil {
		t.Error("a record of the simple network is one of the signed one")
	}
	// What is derived must never change.
	psk := testNetwork().Root().SessionPSK()
	got := fmt.Sprintf("%s %x %s %s", testNetwork().ID(), psk[:4], testAdmin(153).Public(), bytes.TrimSpace(testAdmin(153).Text()))
	const want = "eo4i-gkck-o4yh-cw5b 9e9ed094 " +
		"farlan-admin-pub-1-My6-jSfLcyOzpAHBwTtd1kvMwOEOzaHCtdEaA3eaheVnQAsR " +
		"farlan-admin-1-mZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmfcjHl"
	if got != want {
		t.Errorf("derived values changed:\n got %s\nwant %s", got, want)
	}
}

func TestParseAdminKey(t *testing.T) {
	good := string(testAdmin(153).Text())
	if k, err := ParseAdminKey([]byte("# keep\n" + good)); err != nil || k.Public() != testAdmin(153).Public() {
		t.Errorf("%v, %v", k, err)
	}
	for _, text := range []string{"", good + good, testAdmin(153).Public().String(), good[:40], strings.Replace(good, "mZmZ", "mZmY", 1), string(adminForm.text(make([]byte, 32)))} {
		if k, err := ParseAdminKey([]byte(text)); err == nil || !k.IsZero() || strings.Contains(err.Error(), "mZmZmZ") {
			t.Errorf("%.30q gives %v, %v", text, k, err)
		}
	}
	if _, err := NewAdminKey(strings.NewReader("short")); err == nil {
		t.Error("a key of 5 random bytes")
	}
}

// Neither printing nor logging shows what is secret, wherever the value stands.
func TestSecretsAreNotShown(t *testing.T) {
	type hidden struct{ k AdminKey } // fmt can't call methods of unexported fields
	type shown struct {
		Admin   AdminKey
		Network Network
		Token   Token
	}
	v := shown{testAdmin(153), testNetwork(), testToken(5, Terms{Lifetime: hour, NotAfter: start}, "/ip4/192.0.2.1")}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "a", v.Admin, "n", v.Network, "t", v.Token)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "a", v.Admin, "n", v.Network, "t", v.Token, "v", v)
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb+verb+verb+"\n", v, &v, v.Admin, v.Network, v.Token)
	}
	fmt.Fprintf(&out, "%v %+v %#v", hidden{v.Admin}, hidden{v.Admin}, hidden{v.Admin})
	for _, leak := range []string{"BwcH", "0707", "7 7", "7, 7", "0x7, ", "mZmZ", "9999", "153 153", "153, 153", "0x99, ", "BQUF", "0505", "5 5", "5, 5", "0x5, "} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("%q is shown in %s", leak, out.String())
		}
	}
	for _, name := range []string{v.Admin.String(), v.Network.String(), v.Token.String()} {
		if !strings.Contains(out.String(), name) {
			t.Errorf("%q is not shown", name)
		}
	}
}

func FuzzParseNetwork(f *testing.F) {
	f.Add(testNetwork().Text())
	f.Add(testKey(7).Text())
	f.Add(testAdmin(153).Text())
	f.Fuzz(func(t *testing.T, text []byte) {
		if k, err := ParseAdminKey(text); err == nil {
			if again, err := ParseAdminKey(k.Text()); err != nil || again.Public() != k.Public() {
				t.Fatalf("%v does not come back: %v", k, err)
			}
		}
		n, err := ParseNetwork(text)
		if err != nil {
			return
		}
		if again, err := ParseNetwork(n.Text()); err != nil || again != n {
			t.Fatalf("%v does not come back: %v", n, err)
		}
	})
}
