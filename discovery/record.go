package discovery

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"farlan/overlay"
)

// Limits of a record.
const (
	// RecordLifetime is how long a record is believed without being renewed. A
	// weekend: a network that was off from Friday to Sunday still knows itself.
	RecordLifetime = 48 * time.Hour
	// MaxMemberBody is the longest body of a KindMember record, in bytes.
	MaxMemberBody = 4 << 10
	// MaxLinksBody is the longest body of a KindLinks record, in bytes.
	MaxLinksBody = 48 << 10
	// MaxAdminBody is the longest body of a KindAdmin record, in bytes.
	MaxAdminBody = 48 << 10
	// MaxRotationBody is the longest body of a KindRotation record, in bytes.
	MaxRotationBody = 1 << 10
	// MaxTrafficBody is the longest body of a KindTraffic record, in bytes.
	MaxTrafficBody = 8 << 10
	// MaxAreaBody is the longest body of a KindArea or KindBackbone record, in bytes.
	MaxAreaBody = 24 << 10
	// MaxRecord is the longest encoded record, in bytes.
	MaxRecord = recordHeaderLen + MaxLinksBody + ed25519.SignatureSize
)

// Kind tells what a record is about.
type Kind uint8

// The kinds of records. An agent has at most one newest record of each.
const (
	_            Kind = iota
	KindMember        // who the agent is and where it can be reached: Member
	KindLinks         // whom it exchanges datagrams with: Links
	KindAdmin         // what the admin of a signed network says: Statement
	KindRotation      // that the network changes its key: Rotation
	KindTraffic       // what its stations send: Traffic
	KindArea          // what a gateway tells of its area: Area
	KindBackbone      // its links with other gateways: Links
)

// maxBody returns the bound of the kind's body, 0 for an unknown kind.
func (k Kind) maxBody() int {
	switch k {
	case KindMember:
		return MaxMemberBody
	case KindLinks:
		return MaxLinksBody
	case KindAdmin:
		return MaxAdminBody
	case KindRotation:
		return MaxRotationBody
	case KindTraffic:
		return MaxTrafficBody
	case KindArea, KindBackbone:
		return MaxAreaBody
	}
	return 0
}

// wide says whether all of a divided network have such records, and not only those of
// an area.
func (k Kind) wide() bool { return k == KindArea || k == KindBackbone || k.ofAdmin() }

// ofAdmin says whether in a signed network the admin alone makes such records.
func (k Kind) ofAdmin() bool { return k == KindAdmin || k == KindRotation }

// String returns the kind's name in lower case.
func (k Kind) String() string {
	switch k {
	case KindMember:
		return "member"
	case KindLinks:
		return "links"
	case KindAdmin:
		return "admin"
	case KindRotation:
		return "rotation"
	case KindTraffic:
		return "traffic"
	case KindArea:
		return "area"
	case KindBackbone:
		return "backbone"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// A Record is a signed statement of one agent about itself. Records come from
// SignRecord and ParseRecord; both return records that verify. The encoding,
// numbers big endian:
//
//	 0       format, 1
//	 1       kind
//	 2–33    origin: the agent's Ed25519 public key
//	34–41    version
//	42–49    expires
//	50–51    length n of the body
//	52–      body, n bytes
//	52+n–    Ed25519 signature, 64 bytes, over
//	         "farlan record 1" ‖ 32 bytes derived from the network key ‖ 0 … 52+n
//
// A record is treated as a whole: other agents replicate what they can't
// change. Fields that later versions add go to the end of the body.
type Record struct {
	Origin  overlay.AgentID // who speaks
	Kind    Kind
	Version uint64 // the newest wins; Unix nanoseconds at publishing, at least one more than the last
	Expires int64  // Unix seconds at which the record is forgotten
	Body    []byte // must not be changed

	encoded []byte   // the signed encoding; Body is a part of it
	context [32]byte // of the network that it was signed for, once that is verified
}

const (
	recordFormat    = 1
	recordHeaderLen = 52
	recordLabel     = "farlan record 1"
)

// Errors of ParseRecord that callers tell apart.
var (
	// ErrUnknownRecord is a record of a format or kind that this version does
	// not know: newer agents are about. It is counted, not held against anybody.
	ErrUnknownRecord = errors.New("record of an unknown format or kind")
	// ErrSignature is a record that its origin has not signed for this network.
	ErrSignature = errors.New("record with a wrong signature")
)

// SignRecord returns the record of the key's owner with r's Kind, Version,
// Expires and Body; r.Origin is not used. Body is copied.
func SignRecord(key ed25519.PrivateKey, network NetworkKey, r Record) (Record, error) {
	if len(r.Body) > r.Kind.maxBody() {
		return Record{}, fmt.Errorf("sign record: body of %d bytes, %s takes at most %d", len(r.Body), r.Kind, r.Kind.maxBody())
	}
	r.Origin = overlay.AgentID(key.Public().(ed25519.PublicKey))
	b := make([]byte, 0, recordHeaderLen+len(r.Body)+ed25519.SignatureSize)
	b = append(b, recordFormat, byte(r.Kind))
	b = append(b, r.Origin[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Version)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Expires))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Body)))
	b = append(b, r.Body...)
	r.context = network.recordContext()
	b = append(b, ed25519.Sign(key, signedBytes(r.context, b))...)
	r.setEncoded(b)
	return r, nil
}

// ParseRecord reads a record of the network and verifies everything: lengths,
// the signature, and that the body is one of its kind. It copies b.
func ParseRecord(network NetworkKey, b []byte) (Record, error) {
	r, err := decodeRecord(b)
	if err != nil {
		return Record{}, err
	}
	if err := r.verify(network.recordContext()); err != nil {
		return Record{}, err
	}
	r.setEncoded(bytes.Clone(b))
	return r, nil
}

// Bytes returns the signed encoding, which must not be changed; nil if the
// record was made by hand.
func (r Record) Bytes() []byte { return r.encoded }

func (r *Record) setEncoded(b []byte) {
	r.encoded = b
	r.Body = b[recordHeaderLen : len(b)-ed25519.SignatureSize]
}

// decodeRecord reads the fields of b, which the record keeps, and checks the
// lengths but nothing that costs time.
func decodeRecord(b []byte) (Record, error) {
	if len(b) < 2 {
		return Record{}, fmt.Errorf("record of %d bytes", len(b))
	}
	kind := Kind(b[1])
	if b[0] != recordFormat || kind.maxBody() == 0 {
		return Record{}, fmt.Errorf("%w: format %d, %s", ErrUnknownRecord, b[0], kind)
	}
	if len(b) < recordHeaderLen+ed25519.SignatureSize {
		return Record{}, fmt.Errorf("record of %d bytes", len(b))
	}
	n := int(binary.BigEndian.Uint16(b[50:]))
	if n > kind.maxBody() || len(b) != recordHeaderLen+n+ed25519.SignatureSize {
		return Record{}, fmt.Errorf("%s record of %d bytes with a body of %d", kind, len(b), n)
	}
	r := Record{
		Origin:  overlay.AgentID(b[2:34]),
		Kind:    kind,
		Version: binary.BigEndian.Uint64(b[34:]),
		Expires: int64(binary.BigEndian.Uint64(b[42:])),
	}
	r.setEncoded(b)
	return r, nil
}

// verify checks the signature in a network's context and the body's form.
func (r *Record) verify(context [32]byte) error {
	n := len(r.encoded) - ed25519.SignatureSize
	if !ed25519.Verify(r.Origin[:], signedBytes(context, r.encoded[:n]), r.encoded[n:]) {
		return fmt.Errorf("%w: %s of %s", ErrSignature, r.Kind, r.Origin.Short())
	}
	r.context = context
	var err error
	switch r.Kind {
	case KindMember:
		_, err = ParseMember(r.Body)
	case KindLinks, KindBackbone:
		err = r.verifyLinks()
	case KindAdmin:
		_, err = ParseStatement(r.Body)
	case KindRotation:
		_, err = ParseRotation(r.Body)
	case KindTraffic:
		var t Traffic
		if t, err = ParseTraffic(r.Body); err == nil && t.names(BriefOf(r.Origin)) {
			err = errors.New("traffic to itself")
		}
	case KindArea:
		err = r.verifyArea()
	}
	if err != nil {
		return fmt.Errorf("%s of %s: %w", r.Kind, r.Origin.Short(), err)
	}
	return nil
}

// verifyLinks checks that the rows are of pairs from the origin to others.
func (r *Record) verifyLinks() error {
	l, err := ParseLinks(r.Body, r.made())
	own := func(x Row) bool { return x.Peer == BriefOf(r.Origin) }
	if err == nil && slices.ContainsFunc(l.Rows, own) {
		err = errors.New("a link to itself")
	}
	return err
}

// verifyArea checks that the gateway is in the area that it tells of, and not in its own
// tree.
func (r *Record) verifyArea() error {
	a, err := ParseArea(r.Body)
	own := BriefOf(r.Origin)
	switch {
	case err != nil:
		return err
	case a.Number != a.Member.Area:
		return errors.New("the gateway is in another area")
	case slices.ContainsFunc(a.Tree, func(l Leaf) bool { return l.Agent == own }), slices.Contains(a.Gateways, own):
		return errors.New("the gateway tells of itself as of another")
	}
	return nil
}

// made returns when the record was made, by the clock of its origin.
func (r *Record) made() overlay.Instant { return overlay.Instant(min(r.Version, math.MaxInt64)) }

func signedBytes(context [32]byte, b []byte) []byte {
	m := make([]byte, 0, len(recordLabel)+len(context)+len(b))
	m = append(m, recordLabel...)
	m = append(m, context[:]...)
	return append(m, b...)
}
