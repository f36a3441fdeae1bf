package gcm

import (
	"crypto/cipher"
	"crypto/subtle"
	"errors"

	"golang.org/x/sys/cpu"
)

// wide says whether this processor, and the operating system, let us use four
// blocks a register.
var wide = cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ && cpu.X86.HasBMI2 &&
	cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL &&
	cpu.X86.HasAVX512VAES && cpu.X86.HasAVX512VPCLMULQDQ

const (
	nonceLen      = 12
	tagLen        = 16
	additionalLen = 16      // a datagram's header
	maxLen        = 1 << 16 // no datagram is longer
)

var errOpen = errors.New("gcm: message authentication failed")

// A widened does datagrams itself and leaves the rest to Go's AEAD.
type widened struct {
	cipher.AEAD
	keys keys
}

// keys is what the assembly reads: the fifteen round keys, each four times, then
// H^17 … H times x, reversed, and fifteen blocks of zeroes, so that four
// registers can be loaded from every power on.
type keys [15*64 + (17+15)*16]byte

func widen(a cipher.AEAD, key *[32]byte) cipher.AEAD {
	w := &widened{AEAD: a}
	expand(&w.keys, key)
	return w
}

// ours says whether a call with n bytes of text is for the assembly: it is a
// datagram's, and room bytes are enough for need.
func ours(nonce, additional []byte, n, room, need int) bool {
	return len(nonce) == nonceLen && len(additional) == additionalLen && 0 < n && n <= maxLen && room >= need
}

// Seal is cipher.AEAD's.
func (w *widened) Seal(dst, nonce, plaintext, additional []byte) []byte {
	n, start := len(plaintext), len(dst)
	if !ours(nonce, additional, n, cap(dst)-start, n+tagLen) {
		return w.AEAD.Seal(dst, nonce, plaintext, additional)
	}
	out := dst[start : start+n+tagLen]
	seal(&w.keys, (*[nonceLen]byte)(nonce), (*[additionalLen]byte)(additional),
		&out[0], &plaintext[0], n, (*[tagLen]byte)(out[n:]))
	return dst[:start+len(out)]
}

// Open is cipher.AEAD's.
func (w *widened) Open(dst, nonce, ciphertext, additional []byte) ([]byte, error) {
	n, start := len(ciphertext)-tagLen, len(dst)
	if !ours(nonce, additional, n, cap(dst)-start, n) {
		return w.AEAD.Open(dst, nonce, ciphertext, additional)
	}
	out := dst[start : start+n]
	var tag [tagLen]byte
	open(&w.keys, (*[nonceLen]byte)(nonce), (*[additionalLen]byte)(additional),
		&out[0], &ciphertext[0], n, &tag)
	if subtle.ConstantTimeCompare(tag[:], ciphertext[n:]) == 0 {
		clear(out)
		return nil, errOpen
	}
	return dst[:start+n], nil
}

// expand makes the keys of a key.
//
//go:noescape
func expand(k *keys, key *[32]byte)

// seal encrypts n bytes, and makes the tag. src and dst are the same or don't
// overlap. tag may follow dst.
//
//go:noescape
func seal(k *keys, nonce *[nonceLen]byte, ad *[additionalLen]byte, dst, src *byte, n int, tag *[tagLen]byte)

// open decrypts n bytes, and makes the tag that they should have.
//
//go:noescape
func open(k *keys, nonce *[nonceLen]byte, ad *[additionalLen]byte, dst, src *byte, n int, tag *[tagLen]byte)
