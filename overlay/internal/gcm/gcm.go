// Package gcm is AES-256-GCM (NIST SP 800-38D) for datagrams.
//
// On processors that have VAES and VPCLMULQDQ for registers of 512 bits (AMD
// since Zen 4, Intel's servers since Ice Lake) it is an implementation of our
// own, because a third of all processor time of a bulk transfer goes into this
// one function, and Go's, which works on one block a register, takes 2.1 to 2.6
// times as long for one datagram. Everywhere else, and for every call that
// isn't a datagram's, it is Go's. The bytes are the same: the tests compare the
// two at every length, and a fuzz target goes on with that.
//
// Neither branches nor addresses depend on keys, text or tags, only on lengths.
package gcm

import (
	"crypto/aes"
	"crypto/cipher"
)

// New returns AES-256-GCM with a key of 32 bytes, nonces of 12 and tags of 16.
// It is safe for concurrent use. As with every cipher.AEAD, what is written and
// what is read must be the same memory or not overlap.
func New(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil || !wide || len(key) != 32 {
		return aead, err
	}
	return widen(aead, (*[32]byte)(key)), nil
}
