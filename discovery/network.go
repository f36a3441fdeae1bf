package discovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// A Network is what an agent must hold to belong somewhere: a network key and,
// in a signed network, the public key of the admin, whose signature members need
// besides (see Credential). The zero Network is none. It is a secret as its key
// is, and printed as its fingerprint only.
//
// The text form, a key file, holds the text form of the network key and, if the
// network is signed, that of the admin's public key in the next line. Agents
// that know of no admin refuse such a file.
type Network struct {
	key   NetworkKey
	admin AdminPublic
}

var (
	errNetworkMany = errors.New("network key: more than two lines that are not comments; want the key and, in a signed network, the admin's public key")
	errNoNetwork   = errors.New("network: it has no key")
	errNotSigned   = errors.New("network: it has no admin key: members are those who hold the network key")
)

// NewNetwork returns the network of a key; admin is zero if holding the key is
// all that membership takes.
func NewNetwork(key NetworkKey, admin AdminPublic) Network { return Network{key, admin} }

// ParseNetwork reads a key file. White space around lines and lines that start
// with '#' are ignored. Errors say what is wrong and never show the text.
func ParseNetwork(text []byte) (Network, error) {
	lines := content(text)
	switch len(lines) {
	case 0:
		return Network{}, errKeyEmpty
	case 1, 2:
	default:
		return Network{}, errNetworkMany
	}
	n := Network{}
	var err error
	if n.key, err = parseNetworkKeyLine(lines[0]); err != nil {
		return Network{}, err
	}
	if len(lines) == 2 {
		if n.admin, err = parseAdminPublicLine(lines[1]); err != nil {
			return Network{}, err
		}
	}
	return n, nil
}

// Text returns the secret text form.
func (n Network) Text() []byte {
	b := n.key.Text()
	if n.Signed() {
		b = append(append(b, n.admin.String()...), '\n')
	}
	return b
}

// IsZero says whether n is no network.
func (n Network) IsZero() bool { return n.key.IsZero() }

// Signed says whether members need a credential.
func (n Network) Signed() bool { return !n.admin.IsZero() }

// Admin returns the admin's public key, zero if the network is not signed.
func (n Network) Admin() AdminPublic { return n.admin }

// Root returns the key that all other secrets and names of the network are
// derived from: the network key itself or, in a signed network, one that depends
// on the admin too. So an agent that lost the admin's line of its key file, or
// has another there, is in another network: it passes no door, and nothing that
// anybody signed there means anything here.
func (n Network) Root() NetworkKey {
	if !n.Signed() {
		return n.key
	}
	return NetworkKey(n.key.derive("signed network "+string(n.admin[:]), len(NetworkKey{})))
}

// ID returns the network's public fingerprint.
func (n Network) ID() string { return n.Root().ID() }

// String returns "Network(<fingerprint>)".
func (n Network) String() string { return "Network(" + n.ID() + ")" }

// Format prints String whatever the verb, so that no verb shows the key.
func (n Network) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, n.String()) }

// LogValue makes a logger print String.
func (n Network) LogValue() slog.Value { return slog.StringValue(n.String()) }

// MarshalJSON gives String too.
func (n Network) MarshalJSON() ([]byte, error) { return json.Marshal(n.String()) }
