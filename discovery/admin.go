package discovery

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
)

// An AdminKey is the private Ed25519 key that makes members of a signed network
// and excludes them: who holds it decides who belongs. No agent needs it. The
// zero AdminKey is none and must not sign.
//
// Its text form is one line: "farlan-admin-1-" and 48 characters, which hold the
// 32 bytes of the seed (RFC 8032 § 5.1.5) and a checksum with the label
// "farlan admin key 1"; see form. Printing or logging an AdminKey shows its
// public key only; Text is the one way to the secret.
type AdminKey struct{ seed *[ed25519.SeedSize]byte } // behind a pointer, which fmt doesn't follow inside other values

// An AdminPublic is the public half of an AdminKey: what members check
// credentials by. It is no secret. The zero AdminPublic means that a network has
// no admin.
//
// Its text form is "farlan-admin-pub-1-" and 48 characters; the checksum's label
// is "farlan admin public key 1".
type AdminPublic [ed25519.PublicKeySize]byte

var (
	adminForm       = form{what: "admin key", prefix: "farlan-admin-1-", label: "farlan admin key 1", size: ed25519.SeedSize}
	adminPublicForm = form{what: "admin public key", prefix: "farlan-admin-pub-1-", label: "farlan admin public key 1", size: ed25519.PublicKeySize}

	errAdminLines = errors.New("admin key: want exactly one line that is not a comment; `farlan init` makes one")
	errAdminZero  = errors.New("admin key: all its bytes are zero")
	errOtherAdmin = errors.New("the admin key is not this network's")
	errPublicZero = errors.New("admin public key: all its bytes are zero")
)

// NewAdminKey returns a new key made of 32 bytes of rand, which must be a
// cryptographic source.
func NewAdminKey(rand io.Reader) (AdminKey, error) {
	var seed [ed25519.SeedSize]byte
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return AdminKey{}, fmt.Errorf("admin key: read random bytes: %w", err)
	}
	return adminOf(seed)
}

// ParseAdminKey reads the text form. White space around it and lines that start
// with '#' are ignored. Errors say what is wrong and never show the text.
func ParseAdminKey(text []byte) (AdminKey, error) {
	lines := content(text)
	if len(lines) != 1 {
		return AdminKey{}, errAdminLines
	}
	raw, err := adminForm.parse(lines[0])
	if err != nil {
		return AdminKey{}, err
	}
	return adminOf([ed25519.SeedSize]byte(raw))
}

func adminOf(seed [ed25519.SeedSize]byte) (AdminKey, error) {
	if seed == ([ed25519.SeedSize]byte{}) {
		return AdminKey{}, errAdminZero
	}
	return AdminKey{&seed}, nil
}

// IsZero says whether k is none.
func (k AdminKey) IsZero() bool { return k.seed == nil }

// Text returns the secret text form, one line with its line feed.
func (k AdminKey) Text() []byte { return append(adminForm.text(k.seed[:]), '\n') }

// Public returns the public half; that of the zero key is zero.
func (k AdminKey) Public() AdminPublic {
	if k.IsZero() {
		return AdminPublic{}
	}
	return AdminPublic(k.private().Public().(ed25519.PublicKey))
}

func (k AdminKey) private() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(k.seed[:]) }

// String returns "AdminKey(<public key>)".
func (k AdminKey) String() string { return "AdminKey(" + k.Public().String() + ")" }

// Format prints String whatever the verb, so that no verb shows the key.
func (k AdminKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue makes a logger print String.
func (k AdminKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalJSON gives String too.
func (k AdminKey) MarshalJSON() ([]byte, error) { return json.Marshal(k.String()) }

// IsZero says whether p is no admin's.
func (p AdminPublic) IsZero() bool { return p == AdminPublic{} }

// String returns the text form without a line feed.
func (p AdminPublic) String() string { return string(adminPublicForm.text(p[:])) }

func parseAdminPublicLine(line []byte) (AdminPublic, error) {
	raw, err := adminPublicForm.parse(line)
	if err != nil {
		return AdminPublic{}, err
	}
	p := AdminPublic(raw)
	if p.IsZero() {
		return AdminPublic{}, errPublicZero
	}
	return p, nil
}

// said returns the bytes that a signature about membership covers: what kind of
// statement it is, in whose network, and the parts. A signature of one network
// or kind is none in another. Networks are told apart by their admin and not by
// their key, so that credentials outlive a change of the network key; an admin
// key is for one network only.
func (p AdminPublic) said(label string, parts ...[]byte) []byte {
	return slices.Concat(append([][]byte{[]byte(label), p[:]}, parts...)...)
}
