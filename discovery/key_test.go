package discovery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// testKey returns the network key number n of the tests.
func testKey(n byte) NetworkKey {
	k, err := NewNetworkKey(bytes.NewReader(bytes.Repeat([]byte{n}, 32)))
	if err != nil {
		panic(err)
	}
	return k
}

func TestParseNetworkKey(t *testing.T) {
	good := strings.TrimSpace(string(testKey(7).Text()))
	typo := strings.Replace(good, "BwcH", "BwcG", 1)
	zero := strings.TrimSpace(string(NetworkKey{}.Text()))
	for _, c := range []struct{ name, text, want string }{
		{"plain", good, ""},
		{"line feed", good + "\n", ""},
		{"comments and white space", "\n# the lab\r\n  " + good + " \r\n\n# end", ""},
		{"empty", "", "nothing there"},
		{"comment only", "# farlan\n\n", "nothing there"},
		{"two keys", good + "\n" + good, "more than one line"},
		{"prefix", "farlan-token-1-abc", "must start with farlan-key-1-"},
		{"short", good[:len(good)-1], "47 characters after farlan-key-1-, want 48"},
		{"long", good + "A", "49 characters"},
		{"characters", good[:20] + "+" + good[21:], "other than A–Z"},
		{"line feed inside", good[:20] + "\r" + good[21:], "other than A–Z"},
		{"typing mistake", typo, "checksum"},
		{"zero", zero, "all its bytes are zero"},
	} {
		k, err := ParseNetworkKey([]byte(c.text))
		switch {
		case c.want == "" && (err != nil || k != testKey(7)):
			t.Errorf("%s: %v, %v", c.name, k, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		case c.want != "" && len(c.text) > 20 && strings.Contains(err.Error(), c.text[14:20]):
			t.Errorf("%s: error shows the key: %v", c.name, err)
		}
	}
}

func TestNetworkKeyIsNotShown(t *testing.T) {
	k := testKey(7)
	type config struct{ Key NetworkKey }
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "key", k)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "key", k)
	marshalled, err := json.Marshal(config{k})
	if err != nil {
		t.Error(err)
	}
	out := log.String() + string(marshalled) + fmt.Sprintf("%v %+v %#v %s %q %x %X %d %v %+v", k, k, k, k, k, k, k, k, config{k}, &config{k})
	for _, leak := range []string{"BwcH", "0707", "7 7", "7,7", "7, 7", "0x7"} {
		if strings.Contains(out, leak) {
			t.Errorf("%q is shown in %s", leak, out)
		}
	}
	if !strings.Contains(out, "NetworkKey("+k.ID()+")") {
		t.Errorf("no fingerprint in %s", out)
	}
}

// What is derived must never change: agents of different versions meet by it.
func TestDerived(t *testing.T) {
	k := testKey(7)
	door, psk, control, beacon := k.DoorKey(), k.SessionPSK(), k.ControlKey(), k.beaconKey()
	got := fmt.Sprintf("%s %x %x %x %x %s %x", k.ID(), door[:4], psk[:4], control[:4], beacon[:4], k.ProtocolPrefix(), k.Rendezvous(480000)[:4])
	const want = "3v7h-r53b-6drq-ie3u 9abbdc81 a6e9ba03 b323dc5b 783065db /farlan/3cf88e58362417c2 306b219d"
	if got != want {
		t.Errorf("derived values changed:\n got %s\nwant %s", got, want)
	}
	if bytes.Equal(k.Rendezvous(1), k.Rendezvous(2)) || k.ID() == testKey(8).ID() {
		t.Error("different inputs give equal outputs")
	}
}

func FuzzParseNetworkKey(f *testing.F) {
	f.Add(testKey(7).Text())
	f.Add([]byte("# nothing\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParseNetworkKey(text)
		if err != nil {
			if !k.IsZero() {
				t.Fatal("a key and an error")
			}
			return
		}
		if again, err := ParseNetworkKey(k.Text()); err != nil || again != k {
			t.Fatalf("%v does not come back: %v", k, err)
		}
	})
}
