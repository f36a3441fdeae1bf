package discovery

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"farlan/overlay"
)

// MaxCredential is the longest encoded credential, in bytes. It bounds how many
// receipts lie between a member and the admin: three.
const MaxCredential = 1024

// A Credential makes an agent a member of a signed network. It goes back to the
// admin in one of two ways: the admin signed it, or the key of an invite did
// that the admin signed. Who has the admin's public key can check it with nothing
// else, also without any record. The encoding, numbers big endian:
//
//	 0       format, 1
//	 1       made by: 1 the admin; 2 an invite; 3 an invite, and there is a receipt
//	 2       rights
//	 3–34    agent
//	35–42    not before, Unix seconds
//	43–50    not after, Unix seconds
//	51–114   signature
//	115–225  certificate of the invite, if made by one: see Certificate
//
// The signature of the admin is over "farlan credential 1" ‖ admin's public key ‖
// 2–50, that of the invite over "farlan grant 1" ‖ admin's public key ‖
// certificate ‖ 2–50. A receipt follows the certificate:
//
//	226–233  time, Unix nanoseconds
//	234–297  the sponsor's signature over "farlan receipt 1" ‖ admin's public key ‖
//	         serial ‖ agent ‖ time
//	298–     credential of the sponsor, to the end
//
// The credential of a one-time invite is complete only with a receipt, in which
// another member, the sponsor, says when the agent claimed the invite; Claims
// says what for. The sponsor's own credential stands in the receipt, as it was at
// that time, with the receipt that it needs itself: so a newcomer can check it
// although the sponsor, or the sponsor's sponsor, is gone for good. A sponsor
// whose credential leaves no room can't sponsor; the admin makes it one of its
// own (see Statement.Renew), which is short.
//
// That a sponsor is revoked later voids none of its receipts: those whom it
// sponsored were invited by the admin, not by it.
//
// Credentials come from IssueCredential, Token.Join and ParseCredential and must
// not be changed; the zero Credential is none.
type Credential struct {
	Agent     overlay.AgentID
	Rights    Rights
	NotBefore int64 // Unix seconds
	NotAfter  int64 // Unix seconds

	cert    *Certificate // of the invite that made it, nil if the admin did
	receipt *receipt     // nil if there is none
	raw     []byte
}

// A receipt tells when an agent claimed a one-time invite, as its sponsor says.
type receipt struct {
	at        overlay.Instant
	signature []byte
	sponsor   Credential
}

const (
	credentialFormat  = 1
	credentialHead    = 51
	credentialDirect  = credentialHead + ed25519.SignatureSize
	credentialInvited = credentialDirect + certificateLen
	receiptHead       = 8 + ed25519.SignatureSize

	credentialLabel = "farlan credential 1"
	grantLabel      = "farlan grant 1"
	receiptLabel    = "farlan receipt 1"
)

const (
	_ = iota
	madeByAdmin
	madeByInvite
	madeWithReceipt
)

// The ways in which a credential makes nobody a member. Errors of this package
// wrap one of them and say more.
var (
	// ErrCredential is a credential that isn't this agent's or doesn't go back to
	// the network's admin. No honest agent tells it, or passes it on.
	ErrCredential = errors.New("credential is not valid")
	// ErrNoCredential is that there is none.
	ErrNoCredential = fmt.Errorf("%w: there is none", ErrCredential)
	// ErrNotYet is a credential that begins in the future.
	ErrNotYet = errors.New("credential is not valid yet")
	// ErrLapsed is a credential that is over.
	ErrLapsed = errors.New("credential has expired")
	// ErrIncomplete is a credential of a one-time invite without a receipt. Its
	// agent may ask a member to sponsor it, and nothing else.
	ErrIncomplete = errors.New("credential of a one-time invite without a member's receipt")
	// ErrRevoked is a credential that the admin has revoked.
	ErrRevoked = errors.New("credential is revoked")
	// ErrSuperseded is a credential of a one-time invite that another agent
	// claimed earlier.
	ErrSuperseded = errors.New("one-time invite is another agent's")
)

// ParseCredential reads the encoding, which it copies. It checks the form, no
// signature: see Verify.
func ParseCredential(b []byte) (Credential, error) {
	if len(b) > MaxCredential {
		return Credential{}, fmt.Errorf("%w: %d bytes", ErrCredential, len(b))
	}
	return parseCredential(bytes.Clone(b))
}

// parseCredential keeps b. It calls itself for the sponsor, at most three times
// because each credential with a receipt is longer than MaxCredential/4.
func parseCredential(b []byte) (Credential, error) {
	if len(b) == 0 {
		return Credential{}, ErrNoCredential
	}
	if len(b) < credentialDirect || b[0] != credentialFormat {
		return Credential{}, fmt.Errorf("%w: %d bytes of format %d", ErrCredential, len(b), b[0])
	}
	c := Credential{
		Rights:    Rights(b[2]),
		Agent:     overlay.AgentID(b[3:35]),
		NotBefore: int64(binary.BigEndian.Uint64(b[35:])),
		NotAfter:  int64(binary.BigEndian.Uint64(b[43:])),
		raw:       b,
	}
	if c.NotBefore < 0 || c.NotBefore >= c.NotAfter || c.NotAfter > maxUnix {
		return Credential{}, fmt.Errorf("%w: %w", ErrCredential, errTime)
	}
	least, exact := credentialInvited, true
	switch b[1] {
	case madeByAdmin:
		least = credentialDirect
	case madeByInvite:
	case madeWithReceipt:
		least, exact = credentialInvited+receiptHead, false
	default:
		return Credential{}, fmt.Errorf("%w: made in way %d", ErrCredential, b[1])
	}
	if len(b) < least || exact && len(b) != least {
		return Credential{}, fmt.Errorf("%w: %d bytes made in way %d", ErrCredential, len(b), b[1])
	}
	if err := c.parseRest(); err != nil {
		return Credential{}, err
	}
	return c, nil
}

// parseRest reads the certificate and the receipt.
func (c *Credential) parseRest() error {
	b := c.raw
	if b[1] == madeByAdmin {
		return nil
	}
	cert, err := parseCertificate(b[credentialDirect:credentialInvited])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCredential, err)
	}
	c.cert = &cert
	if b[1] == madeByInvite {
		return nil
	}
	b = b[credentialInvited:]
	at := overlay.Instant(binary.BigEndian.Uint64(b))
	if at < 0 {
		return fmt.Errorf("%w: receipt: %w", ErrCredential, errTime)
	}
	sponsor, err := parseCredential(b[receiptHead:])
	if err != nil {
		return fmt.Errorf("sponsor's %w", err)
	}
	c.receipt = &receipt{at, b[8:receiptHead], sponsor}
	return nil
}

// Bytes returns the encoding, which must not be changed; nil of the zero
// Credential.
func (c Credential) Bytes() []byte { return c.raw }

// Invite returns the serial of the invite that made c; false if the admin did.
func (c Credential) Invite() (Serial, bool) {
	if c.cert == nil {
		return Serial{}, false
	}
	return c.cert.Serial(), true
}

// Complete says whether c needs no receipt, or has it.
func (c Credential) Complete() bool { return c.cert == nil || !c.cert.Once || c.receipt != nil }

// Ends returns until when the agent could have any credential from where it has
// this one, in Unix seconds: NotAfter or, as an invite's holder may sign again,
// the end of all that the invite makes. So long must a revocation last.
func (c Credential) Ends() int64 {
	if c.cert == nil {
		return c.NotAfter
	}
	return max(c.NotAfter, c.cert.Ends())
}

// Verify says which rights c gives to the agent id now in the network of an
// admin. It knows nothing of revocations and claims: see Admission. Errors: one
// of ErrCredential, ErrNotYet, ErrLapsed, ErrIncomplete with what is wrong.
func (c Credential) Verify(now overlay.Instant, admin AdminPublic, id overlay.AgentID) (Rights, error) {
	if c.raw == nil {
		return 0, ErrNoCredential
	}
	if c.Agent != id {
		return 0, fmt.Errorf("%w: it is that of %s, not of %s", ErrCredential, c.Agent.Short(), id.Short())
	}
	if err := c.timely(now); err != nil {
		return 0, err
	}
	if err := c.authentic(admin); err != nil {
		return 0, err
	}
	if !c.Complete() {
		return 0, ErrIncomplete
	}
	return c.Rights, nil
}

// timely says whether now is within the credential's time; clocks may differ by
// maxAhead at its begin.
func (c *Credential) timely(now overlay.Instant) error {
	if early := c.NotBefore - unix(now); early > int64(maxAhead/time.Second) {
		return fmt.Errorf("%w: it begins in %v by this machine's clock: one of the two clocks is wrong", ErrNotYet, time.Duration(early)*time.Second)
	}
	if late := unix(now) - c.NotAfter; late >= 0 {
		return fmt.Errorf("%w: %v ago", ErrLapsed, time.Duration(late)*time.Second)
	}
	return nil
}

// authentic checks what holds or doesn't for ever: signatures, and that nobody
// gave more than he had. A credential that lacks a receipt can be authentic.
func (c *Credential) authentic(admin AdminPublic) error {
	body, signature := c.raw[2:credentialHead], c.raw[credentialHead:credentialDirect]
	if c.cert == nil {
		if !ed25519.Verify(admin[:], admin.said(credentialLabel, body), signature) {
			return fmt.Errorf("%w: it is not signed by this network's admin", ErrCredential)
		}
		return nil
	}
	if err := c.withinTerms(); err != nil {
		return err
	}
	if c.receipt != nil {
		if err := c.receiptFits(); err != nil {
			return err
		}
	}
	if err := c.cert.verify(admin); err != nil {
		return fmt.Errorf("%w: %w", ErrCredential, err)
	}
	if !ed25519.Verify(c.cert.key[:], admin.said(grantLabel, c.cert.raw[:], body), signature) {
		return fmt.Errorf("%w: it is not signed by its invite", ErrCredential)
	}
	if r := c.receipt; r != nil {
		if !ed25519.Verify(r.sponsor.Agent[:], receiptSaid(admin, c, r.at), r.signature) {
			return fmt.Errorf("%w: the receipt is not signed by its sponsor %s", ErrCredential, r.sponsor.Agent.Short())
		}
		if err := r.sponsor.authentic(admin); err != nil {
			return fmt.Errorf("sponsor's %w", err)
		}
	}
	return nil
}

// withinTerms checks that the invite could give what c says.
func (c *Credential) withinTerms() error {
	switch t := c.cert.Terms; {
	case !t.Rights.Has(c.Rights):
		return fmt.Errorf("%w: it gives the rights %v, its invite has %v", ErrCredential, c.Rights, t.Rights)
	case c.NotBefore > t.NotAfter:
		return fmt.Errorf("%w: it was made after its invite ended", ErrCredential)
	case c.NotAfter-c.NotBefore > int64(t.Lifetime/time.Second):
		return fmt.Errorf("%w: it lasts longer than its invite allows", ErrCredential)
	}
	return nil
}

// receiptFits checks all of the receipt but signatures: it is from when both
// credentials and the invite were good, and the sponsor was complete by then.
func (c *Credential) receiptFits() error {
	r := c.receipt
	s := &r.sponsor
	switch {
	case !c.cert.Once:
		return fmt.Errorf("%w: a receipt for an invite that needs none", ErrCredential)
	case s.Agent == c.Agent:
		return fmt.Errorf("%w: the agent sponsors itself", ErrCredential)
	case !s.Complete():
		return fmt.Errorf("%w: the sponsor %s has itself no receipt", ErrCredential, s.Agent.Short())
	case s.receipt != nil && s.receipt.at > r.at:
		return fmt.Errorf("%w: the sponsor %s was no member yet", ErrCredential, s.Agent.Short())
	case unix(r.at) > c.cert.NotAfter:
		return fmt.Errorf("%w: the receipt is from after the invite's end", ErrCredential)
	}
	for _, x := range []*Credential{c, s} {
		if x.timely(r.at) != nil {
			return fmt.Errorf("%w: the receipt is not from the time of the credential of %s", ErrCredential, x.Agent.Short())
		}
	}
	return nil
}

func receiptSaid(admin AdminPublic, c *Credential, at overlay.Instant) []byte {
	serial := c.cert.Serial()
	return admin.said(receiptLabel, serial[:], c.Agent[:], binary.BigEndian.AppendUint64(nil, uint64(at)))
}
