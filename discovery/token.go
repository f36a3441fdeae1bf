package discovery

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"farlan/overlay"
)

// Limits of a token.
const (
	// MaxTokenAddrs is how many addresses to join by a token holds.
	MaxTokenAddrs = 8
	// MaxTokenAddr is the longest of them, in bytes: a multiaddr with a DNS name
	// and a peer id is shorter.
	MaxTokenAddr = 255
	// MaxTokenText is the longest text form, in characters.
	MaxTokenText = 4096
)

// A Token is an invite as it is handed over: all that a machine needs to become
// a member of a signed network while no admin is about. Who holds it can, so it
// is a secret; printing or logging it shows the network's fingerprint and the
// invite's serial only. The zero Token is none.
//
// The text form is one line: "farlan-join-1-" and a checksummed encoding (see
// form) with the label "farlan join token 1" of
//
//	  0–31   network key
//	 32–63   the admin's public key
//	 64–95   seed of the invite's private key
//	 96–206  certificate, see Certificate
//	207      number of addresses
//	208–     addresses: length, 1 byte; visible ASCII
//
// Nothing may follow: a token that holds more has another prefix.
type Token struct {
	Network     Network
	Certificate Certificate
	Addrs       []string // multiaddrs to join by, best first, at most MaxTokenAddrs
	seed        *[ed25519.SeedSize]byte
}

var (
	tokenForm = form{what: "join token", prefix: "farlan-join-1-", label: "farlan join token 1"}

	errTokenLines = errors.New("join token: want exactly one line; copy it whole, without breaks")
	errTokenLong  = fmt.Errorf("join token: longer than %d characters", MaxTokenText)
	errTokenShort = errors.New("join token: it ends too early")
	errTokenRest  = errors.New("join token: something follows its end")
	errTokenKey   = errors.New("join token: its key is not that of its certificate")
	errTokenAddrs = fmt.Errorf("join token: want at most %d addresses of 1 to %d visible ASCII characters", MaxTokenAddrs, MaxTokenAddr)
)

const tokenHead = 32 + 32 + ed25519.SeedSize + certificateLen + 1

// NewToken makes an invite by 32 bytes of rand, which must be a cryptographic
// source, and the admin's key, which must be the network's. addrs are copied.
func NewToken(rand io.Reader, admin AdminKey, network Network, terms Terms, addrs []string) (Token, error) {
	switch {
	case network.IsZero():
		return Token{}, errNoNetwork
	case !network.Signed() || admin.IsZero():
		return Token{}, errNotSigned
	case admin.Public() != network.admin:
		return Token{}, errOtherAdmin
	}
	var seed [ed25519.SeedSize]byte
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return Token{}, fmt.Errorf("invite: read random bytes: %w", err)
	}
	cert, err := terms.sign(admin, publicOf(seed))
	if err != nil {
		return Token{}, err
	}
	t := Token{Network: network, Certificate: cert, Addrs: append([]string(nil), addrs...), seed: &seed}
	if !t.tellable() {
		return Token{}, errTokenAddrs
	}
	return t, nil
}

func publicOf(seed [ed25519.SeedSize]byte) [ed25519.PublicKeySize]byte {
	return [ed25519.PublicKeySize]byte(ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey))
}

// tellable says whether the addresses have an encoding.
func (t *Token) tellable() bool {
	for _, a := range t.Addrs {
		if len(a) == 0 || len(a) > MaxTokenAddr {
			return false
		}
		for _, c := range []byte(a) {
			if c <= ' ' || c > '~' {
				return false
			}
		}
	}
	return len(t.Addrs) <= MaxTokenAddrs
}

// ParseToken reads the text form and checks the certificate's signature; whether
// the invite is over is for Join to say. White space around the token and lines
// that start with '#' are ignored. Errors never show the text.
func ParseToken(text []byte) (Token, error) {
	if len(text) > MaxTokenText {
		return Token{}, errTokenLong
	}
	lines := content(text)
	if len(lines) != 1 {
		return Token{}, errTokenLines
	}
	b, err := tokenForm.parse(lines[0])
	if err != nil {
		return Token{}, err
	}
	if len(b) < tokenHead {
		return Token{}, errTokenShort
	}
	t := Token{Network: Network{NetworkKey(b[:32]), AdminPublic(b[32:64])}, seed: new([ed25519.SeedSize]byte)}
	copy(t.seed[:], b[64:])
	if t.Network.IsZero() || !t.Network.Signed() {
		return Token{}, errNoNetwork
	}
	if t.Certificate, err = parseCertificate(b[96 : 96+certificateLen]); err != nil {
		return Token{}, fmt.Errorf("join token: %w", err)
	}
	if publicOf(*t.seed) != t.Certificate.key {
		return Token{}, errTokenKey
	}
	if err = t.Certificate.verify(t.Network.admin); err != nil {
		return Token{}, fmt.Errorf("join token: %w", err)
	}
	if t.Addrs, err = parseTokenAddrs(int(b[tokenHead-1]), b[tokenHead:]); err != nil {
		return Token{}, err
	}
	if !t.tellable() {
		return Token{}, errTokenAddrs
	}
	return t, nil
}

func parseTokenAddrs(n int, b []byte) (addrs []string, err error) {
	for range n {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return nil, errTokenShort
		}
		addrs = append(addrs, string(b[1:1+int(b[0])]))
		b = b[1+int(b[0]):]
	}
	if len(b) > 0 {
		return nil, errTokenRest
	}
	return addrs, nil
}

// Text returns the secret text form, one line with its line feed.
func (t Token) Text() []byte {
	b := append(t.Network.key[:len(t.Network.key):len(t.Network.key)], t.Network.admin[:]...)
	b = append(b, t.seed[:]...)
	b = append(b, t.Certificate.raw[:]...)
	b = append(b, byte(len(t.Addrs)))
	for _, a := range t.Addrs {
		b = append(append(b, byte(len(a))), a...)
	}
	return append(tokenForm.text(b), '\n')
}

// Check says whether the invite makes members at a time by this machine's clock.
func (t Token) Check(now overlay.Instant) error {
	if over := unix(now) - t.Certificate.NotAfter; over > 0 {
		return fmt.Errorf("join token: it ended %v ago by this machine's clock; ask for a new one", time.Duration(min(over, maxUnix))*time.Second)
	}
	return nil
}

// Join makes the credential of the agent id, which lasts from now for the
// invite's lifetime and has all its rights. That of a one-time invite is
// complete only with a member's receipt: see Credential. An agent that keeps the
// token may join again until the invite ends.
func (t Token) Join(now overlay.Instant, id overlay.AgentID) (Credential, error) {
	at := unix(now)
	if err := t.Check(now); err != nil {
		return Credential{}, err
	}
	g := grant{agent: id, rights: t.Certificate.Rights, notBefore: at, notAfter: at + int64(t.Certificate.Lifetime/time.Second)}
	return g.byInvite(t.Network.admin, &t.Certificate, ed25519.NewKeyFromSeed(t.seed[:]))
}

// String returns "Token(<network's fingerprint>, invite <serial>)".
func (t Token) String() string {
	return "Token(" + t.Network.ID() + ", invite " + t.Certificate.Serial().String() + ")"
}

// Format prints String whatever the verb, so that no verb shows the secrets.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// LogValue makes a logger print String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalJSON gives String too.
func (t Token) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }
