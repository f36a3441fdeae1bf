package discovery

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"farlan/overlay"
)

// A Rotation is the order to change a network's key, the body of a record of
// KindRotation. Whoever takes it goes by the new key at once, and takes the old
// one for as good until the record expires. Afterwards the old one opens nothing.
//
// The record is signed, as all are, by its origin and for the old key's network:
// by any member in a simple network, by the admin in a signed one. So it means
// nothing to who doesn't hold the old key; nothing once its time is over, however
// often it is sent again; and nothing to agents that have changed already, whose
// key isn't the one that it ends. Of several orders that end one key that of the
// lowest version counts, then that of the lowest origin: see Keyring.
//
// The body:
//
//	0–9    fingerprint of the network whose key it ends, the bytes of ID
//	10–41  the new network key
//	       anything further is ignored: later versions append fields here
//
// It is a secret as the key in it is. It travels, as all records, by connections
// that are encrypted between members.
type Rotation struct {
	From Fingerprint
	To   NetworkKey
}

// Bounds of the time that two keys are good side by side.
const (
	// MinOverlap is little, for a key that a stranger has got hold of: who isn't
	// connected at that moment must be given the new key by hand.
	MinOverlap = 10 * time.Second
	// MaxOverlap is as long as any record lives.
	MaxOverlap = RecordLifetime

	rotationLen = fingerprintLen + 32
)

var (
	errRotationAdmin = errors.New("rotation: in a signed network the admin must sign it")
	errRotationZero  = errors.New("rotation: to a key of zeros")
	errRotationSame  = errors.New("rotation: to the key that it ends")
)

// SignRotation returns the record that orders a simple network to go by another
// key, signed by a member, to be given to Store.Publish. newest is what
// Store.NextVersion says.
func SignRotation(now overlay.Instant, by ed25519.PrivateKey, network Network, version uint64, overlap time.Duration, to NetworkKey) (Record, error) {
	if network.Signed() {
		return Record{}, errRotationAdmin
	}
	return signRotation(now, by, network, version, overlap, to)
}

// SignAdminRotation returns the record that orders a signed network to go by
// another key, to be given to Store.Accept of any member. version is above that of
// the admin's last rotation. The admin's statement must be signed again for the
// new network, and be given to a member that has changed: agents that start after
// the overlap don't take it otherwise.
func SignAdminRotation(now overlay.Instant, admin AdminKey, network Network, version uint64, overlap time.Duration, to NetworkKey) (Record, error) {
	if admin.IsZero() || admin.Public() != network.admin {
		return Record{}, errOtherAdmin
	}
	return signRotation(now, admin.private(), network, version, overlap, to)
}

func signRotation(now overlay.Instant, by ed25519.PrivateKey, network Network, version uint64, overlap time.Duration, to NetworkKey) (Record, error) {
	switch {
	case overlap < MinOverlap || overlap > MaxOverlap:
		return Record{}, fmt.Errorf("rotation: overlap of %v, want %v to %v", overlap, MinOverlap, MaxOverlap)
	case to.IsZero():
		return Record{}, errRotationZero
	case to == network.key:
		return Record{}, errRotationSame
	}
	from := network.Root().fingerprint()
	body := append(append(make([]byte, 0, rotationLen), from[:]...), to[:]...)
	return SignRecord(by, network.Root(), Record{
		Kind: KindRotation, Version: version, Expires: unix(now.Add(overlap)), Body: body,
	})
}

// ParseRotation reads a body.
func ParseRotation(b []byte) (Rotation, error) {
	if len(b) < rotationLen {
		return Rotation{}, errShort
	}
	r := Rotation{Fingerprint(b), NetworkKey(b[fingerprintLen:rotationLen])}
	if r.To.IsZero() {
		return Rotation{}, errRotationZero
	}
	return r, nil
}

// Rotations returns the orders that there are, ascending by origin. In a signed
// network there is the admin's at most.
func (s *Store) Rotations() []Record {
	var all []Record
	for _, e := range s.shelf.entries {
		if e.record.Kind == KindRotation {
			all = append(all, e.record)
		}
	}
	return all
}

// SetKeys says by which keys the network goes: records are taken that were signed
// for any of them, or for a key that an order for any of them names. Records that were signed for others are dropped, save for the
// admin's statement: who is revoked stays so.
func (s *Store) SetKeys(now overlay.Instant, keys ...NetworkKey) {
	s.contexts = s.contexts[:0]
	for _, k := range keys {
		s.contexts = append(s.contexts, k.recordContext())
	}
	for _, r := range s.Rotations() {
		if o, err := ParseRotation(r.Body); err == nil && s.expects(r.context) {
			s.expect(o)
		}
	}
	s.expire(now)
}

// SignedFor says whether an agent's newest member record was signed for a key: it
// goes by it.
func (s *Store) SignedFor(id overlay.AgentID, network NetworkKey) bool {
	e := s.introduction(id)
	return e != nil && e.record.context == network.recordContext()
}

// maxContexts is for how many keys records can be signed at once: those of a
// Keyring, and those of orders that came a moment ago.
const maxContexts = 2 * MaxKeys

// expect lets records pass that are signed for the key of an order: those of
// whoever took it come right behind. Beyond maxContexts they are refused, until
// SetKeys says which ones count, and come again by comparisons.
func (s *Store) expect(r Rotation) {
	network := NewNetwork(r.To, AdminPublic{})
	if s.members != nil {
		network.admin = s.members.admin
	}
	if c := network.Root().recordContext(); len(s.contexts) < maxContexts && !s.expects(c) {
		s.contexts = append(s.contexts, c)
	}
}

func (s *Store) expects(context [32]byte) bool { return slices.Contains(s.contexts, context) }

// verify checks r's signature, for any of the keys, and the body's form.
func (s *Store) verify(r *Record) error {
	err := ErrSignature
	for _, c := range s.contexts {
		if err = r.verify(c); !errors.Is(err, ErrSignature) {
			return err
		}
	}
	return err
}

// A Fingerprint is what ID shows of a key.
type Fingerprint [fingerprintLen]byte

const fingerprintLen = 10
