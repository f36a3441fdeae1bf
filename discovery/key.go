// Package discovery knows who is in the network and how to reach them: the
// network key and what is derived from it, the credentials that make members of a
// signed network, the records in which members describe themselves, and the
// replication of those records over control connections. It is pure: time, randomness and messages are arguments, nothing
// starts a goroutine, and equal inputs give equal outcomes. The connections
// themselves are in discovery/p2p.
package discovery

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// A NetworkKey is the secret that all members of a network hold; who holds it
// is a member, in a simple network: see Network. The zero NetworkKey is no network's and is never parsed.
//
// Its text form is one line: "farlan-key-1-" and 48 characters, which hold the
// key's bytes and a checksum with the label "farlan network key 1"; see form.
//
// Printing or logging a NetworkKey shows its fingerprint only; Text is the one
// way to the secret.
type NetworkKey [32]byte

const (
	keyPrefix = "farlan-key-1-"
	keyLabel  = "farlan network key 1"
)

var keyForm = form{what: "network key", prefix: keyPrefix, label: keyLabel, size: len(NetworkKey{})}

// The ways in which a text is not a network key, besides those of form.
var (
	errKeyEmpty = errors.New("network key: nothing there but white space and comments; `farlan key new` makes one")
	errKeyMany  = errors.New("network key: more than one line that is not a comment; want exactly one key")
	errKeyZero  = errors.New("network key: all its bytes are zero; `farlan key new` makes a proper one")
)

// NewNetworkKey returns a new key made of 32 bytes of rand, which must be a
// cryptographic source.
func NewNetworkKey(rand io.Reader) (NetworkKey, error) {
	var k NetworkKey
	if _, err := io.ReadFull(rand, k[:]); err != nil {
		return NetworkKey{}, fmt.Errorf("network key: read random bytes: %w", err)
	}
	if k.IsZero() {
		return NetworkKey{}, errKeyZero
	}
	return k, nil
}

// ParseNetworkKey reads the text form of a key. White space around it and lines
// that start with '#' are ignored. Errors say what is wrong and never show the
// text.
func ParseNetworkKey(text []byte) (NetworkKey, error) {
	switch lines := content(text); len(lines) {
	case 0:
		return NetworkKey{}, errKeyEmpty
	case 1:
		return parseNetworkKeyLine(lines[0])
	}
	return NetworkKey{}, errKeyMany
}

func parseNetworkKeyLine(line []byte) (NetworkKey, error) {
	raw, err := keyForm.parse(line)
	if err != nil {
		return NetworkKey{}, err
	}
	k := NetworkKey(raw)
	if k.IsZero() {
		return NetworkKey{}, errKeyZero
	}
	return k, nil
}

// Text returns the secret text form, one line with its line feed.
func (k NetworkKey) Text() []byte { return append(keyForm.text(k[:]), '\n') }

// IsZero says whether k is no network's key.
func (k NetworkKey) IsZero() bool { return k == NetworkKey{} }

// ID returns the key's public fingerprint, 80 bits as four groups of base32
// such as "abcd-2345-wxyz-67ab". It is safe to show and tells nothing about the
// key.
func (k NetworkKey) ID() string { return k.fingerprint().String() }

// String returns the fingerprint's text.
func (f Fingerprint) String() string {
	s := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(f[:])
	b := make([]byte, 0, len(s)+3)
	for i, c := range []byte(s) {
		if i > 0 && i%4 == 0 {
			b = append(b, '-')
		}
		if c >= 'A' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return string(b)
}

func (k NetworkKey) fingerprint() Fingerprint {
	return Fingerprint(k.derive("fingerprint", fingerprintLen))
}

// String returns "NetworkKey(<fingerprint>)".
func (k NetworkKey) String() string { return "NetworkKey(" + k.ID() + ")" }

// Format prints String whatever the verb, so that no verb shows the key.
func (k NetworkKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue makes a logger print String.
func (k NetworkKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalJSON gives String too.
func (k NetworkKey) MarshalJSON() ([]byte, error) { return json.Marshal(k.String()) }

// DoorKey returns the secret of the data plane's door: handshakes of sessions
// prove it in their first bytes.
func (k NetworkKey) DoorKey() [32]byte { return [32]byte(k.derive("door", 32)) }

// SessionPSK returns the pre-shared part of the keys of every session.
func (k NetworkKey) SessionPSK() [32]byte { return [32]byte(k.derive("session psk", 32)) }

// ControlKey returns the key that seals every datagram of the control plane.
func (k NetworkKey) ControlKey() [32]byte { return [32]byte(k.derive("control", 32)) }

// beaconKey returns the key that seals beacons.
func (k NetworkKey) beaconKey() [32]byte { return [32]byte(k.derive("beacon", 32)) }

// SegmentKey returns the key that proves the frames by which agents on one LAN agree on who
// forwards.
func (k NetworkKey) SegmentKey() [32]byte { return [32]byte(k.derive("segment", 32)) }

// ProtocolPrefix returns the prefix of the names of all libp2p protocols of the
// network, "/farlan/" and 16 hexadecimal digits.
func (k NetworkKey) ProtocolPrefix() string {
	return "/farlan/" + hex.EncodeToString(k.derive("protocol prefix", 8))
}

// Rendezvous returns the 32 bytes under which members of the network find each
// other in the DHT during the given hour (hours since the Unix epoch). It
// changes by the hour because what a DHT stores can't be withdrawn.
func (k NetworkKey) Rendezvous(hour int64) []byte {
	h := hmac.New(sha256.New, k.derive("rendezvous", 32))
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(hour))
	h.Write(b[:])
	return h.Sum(nil)
}

// recordContext is what signatures of records are bound to, so that a record of
// one network is none in another.
func (k NetworkKey) recordContext() [32]byte { return [32]byte(k.derive("record", 32)) }

// derive returns n bytes of HKDF-SHA256 (RFC 5869) for a purpose.
func (k NetworkKey) derive(purpose string, n int) []byte {
	b, err := hkdf.Key(sha256.New, k[:], []byte(keyLabel), "farlan/1 "+purpose, n)
	if err != nil {
		panic("discovery: HKDF of a constant length failed: " + err.Error())
	}
	return b
}
