package overlay

import (
	"crypto/ecdh"
	"crypto/subtle"
	"io"

	"github.com/flynn/noise"
)

// A dh25519 is X25519 (RFC 7748 § 5) for one handshake. It keeps the two private keys that
// a handshake uses, its ephemeral and the agent's static one, as Go's library has them: to
// make one of those from its bytes costs a multiplication, as much as to use it, and Noise
// hands over bytes at each of its four agreements.
type dh25519 struct {
	static    *ecdh.PrivateKey
	ephemeral *ecdh.PrivateKey // nil: none yet
}

func (k *dh25519) GenerateKeypair(random io.Reader) (noise.DHKey, error) {
	var private [32]byte
	if _, err := io.ReadFull(random, private[:]); err != nil {
		return noise.DHKey{}, err
	}
	key, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		return noise.DHKey{}, err
	}
	k.ephemeral = key
	return noise.DHKey{Private: private[:], Public: key.PublicKey().Bytes()}, nil
}

// DH refuses public keys of low order, as Go's library does.
func (k *dh25519) DH(private, public []byte) ([]byte, error) {
	to, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	for _, own := range []*ecdh.PrivateKey{k.static, k.ephemeral} {
		if own != nil && subtle.ConstantTimeCompare(own.Bytes(), private) == 1 {
			return own.ECDH(to)
		}
	}
	own, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		return nil, err
	}
	return own.ECDH(to)
}

func (k *dh25519) DHLen() int { return 32 }

func (k *dh25519) DHName() string { return "25519" }
