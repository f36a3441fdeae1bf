package discovery

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
)

// A form is how keys and tokens are written as one line of text: a prefix that
// tells what it is, and unpadded base64url of the bytes and of the first 4 bytes
// of SHA-256(label ‖ bytes), so that a typing mistake is found.
type form struct {
	what   string // begins errors
	prefix string
	label  string
	size   int // number of bytes without the checksum, 0 for any
}

const sumLen = 4

// text returns the line of raw, without a line feed.
func (f form) text(raw []byte) []byte {
	sum := f.sum(raw)
	all := append(bytes.Clone(raw), sum[:]...)
	return base64.RawURLEncoding.AppendEncode([]byte(f.prefix), all)
}

// parse reads a line. Errors never quote it: it may be nearly a secret.
func (f form) parse(line []byte) ([]byte, error) {
	body, ok := bytes.CutPrefix(line, []byte(f.prefix))
	if !ok {
		return nil, fmt.Errorf("%s: it must start with %s", f.what, f.prefix)
	}
	if want := base64.RawURLEncoding.EncodedLen(f.size + sumLen); f.size > 0 && len(body) != want {
		return nil, fmt.Errorf("%s: %d characters after %s, want %d", f.what, len(body), f.prefix, want)
	}
	raw := make([]byte, base64.RawURLEncoding.DecodedLen(len(body)))
	n, err := base64.RawURLEncoding.Strict().Decode(raw, body)
	if err != nil || n != len(raw) {
		return nil, fmt.Errorf("%s: it has characters other than A–Z, a–z, 0–9, - and _, or was cut off", f.what)
	}
	if n < sumLen {
		return nil, fmt.Errorf("%s: only %d characters after %s", f.what, len(body), f.prefix)
	}
	raw, got := raw[:n-sumLen], raw[n-sumLen:]
	if sum := f.sum(raw); subtle.ConstantTimeCompare(sum[:], got) == 0 {
		return nil, fmt.Errorf("%s: the checksum does not match: a character is wrong; copy it again", f.what)
	}
	return raw, nil
}

func (f form) sum(raw []byte) [sumLen]byte {
	h := sha256.Sum256(append([]byte(f.label), raw...))
	return [sumLen]byte(h[:])
}

// content returns the lines of text that are neither blank nor comments (which
// start with '#'), without the white space around them.
func content(text []byte) [][]byte {
	var out [][]byte
	for l := range bytes.Lines(text) {
		if l = bytes.TrimSpace(l); len(l) > 0 && l[0] != '#' {
			out = append(out, l)
		}
	}
	return out
}
