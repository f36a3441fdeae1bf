package overlay

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/flynn/noise"
)

// It agrees with the library's own X25519, by whichever key, and refuses what that does.
func TestDH(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	static, err := NewStaticKey(random)
	if err != nil {
		t.Fatal(err)
	}
	ours := &dh25519{static: NewHandshaker(AgentID{1}, static, [32]byte{}, [32]byte{}, true).private}
	if ours.DHLen() != noise.DH25519.DHLen() || ours.DHName() != noise.DH25519.DHName() {
		t.Errorf("another algorithm: %s, %d", ours.DHName(), ours.DHLen())
	}
	seed := bytes.Repeat([]byte{7}, 32)
	pair, err := ours.GenerateKeypair(bytes.NewReader(seed))
	if err != nil {
		t.Fatal(err)
	}
	want, err := noise.DH25519.GenerateKeypair(bytes.NewReader(seed))
	if err != nil || !bytes.Equal(pair.Private, want.Private) || !bytes.Equal(pair.Public, want.Public) {
		t.Errorf("another ephemeral key: %x, %v", pair.Public, err)
	}
	other, err := noise.DH25519.GenerateKeypair(random)
	if err != nil {
		t.Fatal(err)
	}
	for name, private := range map[string][]byte{"static": static.Private[:], "ephemeral": pair.Private, "neither": seed[:31:31]} {
		private = append(private, make([]byte, 32-len(private))...)
		for range 3 {
			got, err := ours.DH(private, other.Public)
			want, wrong := noise.DH25519.DH(private, other.Public)
			if err != nil || wrong != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %x, %v, want %x", name, got, err, want)
			}
		}
		for _, bad := range [][]byte{make([]byte, 32), {}, make([]byte, 33)} {
			if _, err := ours.DH(private, bad); err == nil {
				t.Errorf("%s: agreed with %x", name, bad)
			}
		}
	}
	if _, err := ours.GenerateKeypair(bytes.NewReader(seed[:31])); err == nil {
		t.Error("a key of too little randomness")
	}
}
