package discovery

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"farlan/overlay"
)

// A grant is what a credential says before it is signed.
type grant struct {
	agent               overlay.AgentID
	rights              Rights
	notBefore, notAfter int64 // Unix seconds
}

// errFar is that a sponsor has no room in the credential for its own.
var errFar = errors.New("sponsor: there are too many receipts between this member and the admin; another member must do it, or the admin renew this one's credential")

// IssueCredential makes a credential signed by the admin itself, for one agent
// that is known already: the first one of a network, or one whose credential is
// to be renewed.
func IssueCredential(admin AdminKey, agent overlay.AgentID, rights Rights, notBefore, notAfter int64) (Credential, error) {
	if admin.IsZero() {
		return Credential{}, errNotSigned
	}
	g := grant{agent, rights, notBefore, notAfter}
	b := g.append(madeByAdmin)
	return parseCredential(append(b, ed25519.Sign(admin.private(), admin.Public().said(credentialLabel, b[2:]))...))
}

// byInvite returns the credential signed by an invite's private key.
func (g grant) byInvite(admin AdminPublic, cert *Certificate, key ed25519.PrivateKey) (Credential, error) {
	b := g.append(madeByInvite)
	b = append(b, ed25519.Sign(key, admin.said(grantLabel, cert.raw[:], b[2:]))...)
	return parseCredential(append(b, cert.raw[:]...))
}

// append returns the head of the encoding.
func (g grant) append(made byte) []byte {
	b := append(make([]byte, 0, credentialInvited), credentialFormat, made, byte(g.rights))
	b = append(b, g.agent[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(g.notBefore))
	return binary.BigEndian.AppendUint64(b, uint64(g.notAfter))
}

// sponsor returns c completed by a receipt of the owner of key and of the
// credential own. It checks that the result is one; whether the sponsor may is
// for Store.Sponsor to say.
func (c Credential) sponsor(at overlay.Instant, admin AdminPublic, key ed25519.PrivateKey, own Credential) (Credential, error) {
	if len(c.raw) < credentialInvited {
		return Credential{}, fmt.Errorf("sponsor: %w: it is of no invite", ErrCredential)
	}
	if credentialInvited+receiptHead+len(own.raw) > MaxCredential {
		return Credential{}, errFar
	}
	b := slices.Clone(c.raw[:credentialInvited])
	b[1] = madeWithReceipt
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = append(b, ed25519.Sign(key, receiptSaid(admin, &c, at))...)
	done, err := parseCredential(append(b, own.raw...))
	if err != nil {
		return Credential{}, fmt.Errorf("sponsor: %w", err)
	}
	if err := done.authentic(admin); err != nil {
		return Credential{}, fmt.Errorf("sponsor: %w", err)
	}
	return done, nil
}
