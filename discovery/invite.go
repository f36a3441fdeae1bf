package discovery

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"farlan/overlay"
)

// Rights are what a member of a signed network may do besides exchanging frames
// of its own TAPs. Bits that this version doesn't know are carried and compared
// like the others.
type Rights uint8

// The rights. In a simple network everybody has AllRights.
const (
	RightBridge  Rights = 1 << iota // attach a LAN: speak for stations that are not its own
	RightRelay                      // forward others' frames
	RightReserve                    // ask for reservations
	AllRights    = RightBridge | RightRelay | RightReserve
)

var rightNames = [...]string{"bridge", "relay", "reserve"}

// Has says whether r holds all of the rights in want.
func (r Rights) Has(want Rights) bool { return r&want == want }

// String returns the names of the rights with commas, "none" if there are none.
func (r Rights) String() string {
	var names []string
	for i := range 8 {
		switch {
		case r&(1<<i) == 0:
		case i < len(rightNames):
			names = append(names, rightNames[i])
		default:
			names = append(names, fmt.Sprintf("bit %d", i))
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ",")
}

// A Serial names an invite: the first 16 bytes of the SHA-256 of its public key.
// As that key is random and made for one invite, so is the serial; and nobody
// can make another invite of the same serial.
type Serial [16]byte

// String returns 32 hexadecimal digits.
func (s Serial) String() string { return hex.EncodeToString(s[:]) }

// ParseSerial reads what String returns.
func ParseSerial(text string) (Serial, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(Serial{}) {
		return Serial{}, fmt.Errorf("invite %q: want 32 hexadecimal digits", text)
	}
	return Serial(b), nil
}

// Terms are what an invite offers.
type Terms struct {
	Rights   Rights        // the most that members made by it may do
	NotAfter int64         // Unix seconds until which it makes members
	Lifetime time.Duration // of their credentials, whole seconds, at least one
	Once     bool          // it makes one member: see Claims
}

// A Certificate is the admin's signed word that whoever holds the private key of
// an invite may make members on its terms. The encoding, numbers big endian:
//
//	 0      format, 1
//	 1      flags: 1 once; the other bits are ignored
//	 2      rights
//	 3–34   the invite's Ed25519 public key
//	35–42   not after, Unix seconds
//	43–46   lifetime, seconds
//	47–110  the admin's signature over "farlan invite 1" ‖ admin's public key ‖ 0–46
//
// NotAfter binds honest holders only: one who keeps the token of an invite that
// isn't for once can make a credential later and date it back. It ends when an
// honest one would at the latest, NotAfter and Lifetime. To be sure earlier,
// revoke the invite. A one-time invite isn't open to this: the receipt that it
// needs bears a member's time.
//
// Certificates come from NewToken and parsing; the zero Certificate is none.
type Certificate struct {
	Terms
	key [ed25519.PublicKeySize]byte
	raw [certificateLen]byte
}

const (
	certificateFormat = 1
	certificateLen    = 111
	certificateSigned = certificateLen - ed25519.SignatureSize
	certificateOnce   = 1
	certificateLabel  = "farlan invite 1"

	// maxUnix is the last second of times in what is parsed, in the year 2262:
	// the last that fits an overlay.Instant.
	maxUnix = (1<<63 - 1) / int64(time.Second)
)

var (
	errTime         = errors.New("a time is out of range")
	errCertificate  = errors.New("invite certificate can't be read")
	errForeignAdmin = errors.New("the invite is not signed by this network's admin")
)

// sign returns the certificate of an invite key.
func (t Terms) sign(admin AdminKey, invite [ed25519.PublicKeySize]byte) (Certificate, error) {
	seconds := int64(t.Lifetime / time.Second)
	switch {
	case t.NotAfter <= 0 || t.NotAfter > maxUnix:
		return Certificate{}, fmt.Errorf("invite: %w", errTime)
	case seconds < 1 || seconds > 1<<32-1 || t.Lifetime%time.Second != 0:
		return Certificate{}, fmt.Errorf("invite: credentials of %v: want whole seconds, at most 136 years", t.Lifetime)
	}
	var flags byte
	if t.Once {
		flags |= certificateOnce
	}
	b := append(make([]byte, 0, certificateLen), certificateFormat, flags, byte(t.Rights))
	b = append(b, invite[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(t.NotAfter))
	b = binary.BigEndian.AppendUint32(b, uint32(seconds))
	b = append(b, ed25519.Sign(admin.private(), admin.Public().said(certificateLabel, b))...)
	return parseCertificate(b)
}

// parseCertificate reads the encoding, of exactly certificateLen bytes. The
// signature is not checked.
func parseCertificate(b []byte) (Certificate, error) {
	if len(b) != certificateLen || b[0] != certificateFormat {
		return Certificate{}, errCertificate
	}
	c := Certificate{
		Terms: Terms{
			Rights:   Rights(b[2]),
			NotAfter: int64(binary.BigEndian.Uint64(b[35:])),
			Lifetime: time.Duration(binary.BigEndian.Uint32(b[43:])) * time.Second,
			Once:     b[1]&certificateOnce != 0,
		},
		key: [ed25519.PublicKeySize]byte(b[3:]),
		raw: [certificateLen]byte(b),
	}
	if c.NotAfter <= 0 || c.NotAfter > maxUnix || c.Lifetime == 0 {
		return Certificate{}, fmt.Errorf("%w: %w", errCertificate, errTime)
	}
	return c, nil
}

// verify checks the admin's signature.
func (c Certificate) verify(admin AdminPublic) error {
	if !ed25519.Verify(admin[:], admin.said(certificateLabel, c.raw[:certificateSigned]), c.raw[certificateSigned:]) {
		return errForeignAdmin
	}
	return nil
}

// Serial returns the invite's name.
func (c Certificate) Serial() Serial {
	h := sha256.Sum256(c.key[:])
	return Serial(h[:16])
}

// Ends returns when no credential made by the invite can be valid any more, in
// Unix seconds.
func (c Certificate) Ends() int64 { return c.NotAfter + int64(c.Lifetime/time.Second) }

// unix returns the whole seconds of now since the Unix epoch.
func unix(now overlay.Instant) int64 { return int64(now) / int64(time.Second) }
