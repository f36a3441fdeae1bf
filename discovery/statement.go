package discovery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"farlan/overlay"
)

// A Statement is what the admin of a signed network says to all members: the
// body of a record of KindAdmin, whose origin is the admin's public key. The
// newest one holds and replaces the others, so it must say again what still
// matters. It never expires as a record does; its parts end by themselves. The
// body, numbers big endian:
//
//	0–1  number of revoked agents
//	     revoked agents, ascending: id, 32 bytes; until, Unix seconds, 8 bytes
//	     number of revoked invites, 2 bytes
//	     revoked invites, ascending: serial, 16 bytes; until, 8 bytes
//	     number of renewals, 2 bytes
//	     renewals, ascending by agent: credentials made by the admin, 115 bytes each
//	     anything further is ignored: later versions append fields here
//
// MaxAdminBody bounds it to about 1,200 revoked agents or 400 renewals; what is
// over must be pruned before more is said.
//
// A revocation lasts until what it revokes ends anyway, so that the list stays
// short; Credential.Ends tells when. For an agent of which no credential is known
// it must last for ever: until NeverEnds.
//
// An agent that was away learns the newest statement with the first comparison.
// A member that hides it from a newcomer is found out as soon as the newcomer has
// one honest neighbour.
//
// The functions that change a Statement change nothing that others share. The
// zero Statement says nothing.
type Statement struct {
	agents   []revokedAgent
	invites  []revokedInvite
	renewals []Credential
}

type revokedAgent struct {
	id    overlay.AgentID
	until int64
}

type revokedInvite struct {
	serial Serial
	until  int64
}

// NeverEnds is the time of a revocation that lasts for ever.
const NeverEnds = math.MaxInt64

var (
	errRenewal = errors.New("a renewal can't be read")
	errAscend  = errors.New("statement is not in ascending order")
)

// Revoke excludes an agent until a time in Unix seconds, or until the end of a
// renewal that is said here if that's later, and takes such a renewal back.
// An invite that isn't for once and whose token the agent kept lets it come back
// under another id: revoke that too, and renew those of its members that may
// stay.
func (s Statement) Revoke(id overlay.AgentID, until int64) Statement {
	s.renewals = slices.DeleteFunc(slices.Clone(s.renewals), func(c Credential) bool {
		if c.Agent == id {
			until = max(until, c.NotAfter)
		}
		return c.Agent == id
	})
	i, found := s.agentAt(id)
	s.agents = slices.Clone(s.agents)
	if found {
		s.agents[i].until = max(until, s.agents[i].until)
	} else {
		s.agents = slices.Insert(s.agents, i, revokedAgent{id, until})
	}
	return s
}

// RevokeInvite excludes all whom an invite made members, until a time in Unix
// seconds: Certificate.Ends. Who has a credential of the admin's own stays, and
// so does whom the statement renews for at least as long as its credential from
// the invite lasts: it needs the one to fetch the other.
func (s Statement) RevokeInvite(serial Serial, until int64) Statement {
	i, found := s.inviteAt(serial)
	s.invites = slices.Clone(s.invites)
	if found {
		s.invites[i].until = max(until, s.invites[i].until)
	} else {
		s.invites = slices.Insert(s.invites, i, revokedInvite{serial, until})
	}
	return s
}

// Renew hands a credential made by IssueCredential to its agent, which takes it
// when it learns of the statement. Errors: another kind of credential, or an
// agent that is revoked.
func (s Statement) Renew(c Credential) (Statement, error) {
	if len(c.raw) != credentialDirect {
		return s, errors.New("renew: the admin must have made the credential itself")
	}
	if s.RevokedAgent(c.Agent) {
		return s, fmt.Errorf("renew: %s is revoked", c.Agent.Short())
	}
	i, found := s.renewalAt(c.Agent)
	s.renewals = slices.Clone(s.renewals)
	if found {
		s.renewals[i] = c
	} else {
		s.renewals = slices.Insert(s.renewals, i, c)
	}
	return s, nil
}

// Prune leaves out what is over, and the renewals for which taken says that
// their agents have them. Who revokes such an agent later must still count the
// renewal's end.
func (s Statement) Prune(now overlay.Instant, taken func(Credential) bool) Statement {
	at := unix(now)
	s.agents = slices.DeleteFunc(slices.Clone(s.agents), func(r revokedAgent) bool { return r.until <= at })
	s.invites = slices.DeleteFunc(slices.Clone(s.invites), func(r revokedInvite) bool { return r.until <= at })
	s.renewals = slices.DeleteFunc(slices.Clone(s.renewals), func(c Credential) bool { return c.NotAfter <= at || taken(c) })
	return s
}

// RevokedAgent says whether an agent is revoked.
func (s Statement) RevokedAgent(id overlay.AgentID) bool {
	_, found := s.agentAt(id)
	return found
}

// RevokedInvite says whether an invite is revoked.
func (s Statement) RevokedInvite(serial Serial) bool {
	_, found := s.inviteAt(serial)
	return found
}

// Renewal returns the credential that the admin has for an agent. Verify it
// before use.
func (s Statement) Renewal(id overlay.AgentID) (Credential, bool) {
	i, found := s.renewalAt(id)
	if !found {
		return Credential{}, false
	}
	return s.renewals[i], true
}

// revokes returns ErrRevoked if s revokes the credential.
func (s Statement) revokes(c *Credential) error {
	switch {
	case s.RevokedAgent(c.Agent):
		return ErrRevoked
	case c.cert != nil && s.RevokedInvite(c.cert.Serial()) && !s.vouches(c):
		return fmt.Errorf("%w: its invite is", ErrRevoked)
	}
	return nil
}

// vouches says whether s renews the agent of c, for as long as c lasts.
func (s Statement) vouches(c *Credential) bool {
	own, ok := s.Renewal(c.Agent)
	return ok && own.NotAfter >= c.NotAfter
}

func (s Statement) agentAt(id overlay.AgentID) (int, bool) {
	return slices.BinarySearchFunc(s.agents, id, func(r revokedAgent, id overlay.AgentID) int { return r.id.Compare(id) })
}

func (s Statement) inviteAt(serial Serial) (int, bool) {
	return slices.BinarySearchFunc(s.invites, serial, func(r revokedInvite, s Serial) int { return compareSerials(r.serial, s) })
}

func (s Statement) renewalAt(id overlay.AgentID) (int, bool) {
	return slices.BinarySearchFunc(s.renewals, id, func(c Credential, id overlay.AgentID) int { return c.Agent.Compare(id) })
}

// length returns how many bytes the encoding takes.
func (s Statement) length() int {
	return 6 + len(s.agents)*40 + len(s.invites)*24 + len(s.renewals)*credentialDirect
}

// Append appends the encoding to b. Errors: it is longer than MaxAdminBody.
func (s Statement) Append(b []byte) ([]byte, error) {
	if n := s.length(); n > MaxAdminBody {
		return nil, fmt.Errorf("statement of %d bytes, at most %d can be said: prune it, or renew fewer at once", n, MaxAdminBody)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.agents)))
	for _, r := range s.agents {
		b = binary.BigEndian.AppendUint64(append(b, r.id[:]...), uint64(r.until))
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.invites)))
	for _, r := range s.invites {
		b = binary.BigEndian.AppendUint64(append(b, r.serial[:]...), uint64(r.until))
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.renewals)))
	for _, c := range s.renewals {
		b = append(b, c.raw...)
	}
	return b, nil
}

// ParseStatement reads the encoding, of which it keeps nothing. No credential's
// signature is checked.
func ParseStatement(b []byte) (Statement, error) {
	var s Statement
	agents, b, err := cutItems(b, 40)
	if err != nil {
		return s, err
	}
	invites, b, err := cutItems(b, 24)
	if err != nil {
		return s, err
	}
	renewals, _, err := cutItems(b, credentialDirect)
	if err != nil {
		return s, err
	}
	for _, r := range agents {
		s.agents = append(s.agents, revokedAgent{overlay.AgentID(r), int64(binary.BigEndian.Uint64(r[32:]))})
	}
	for _, r := range invites {
		s.invites = append(s.invites, revokedInvite{Serial(r), int64(binary.BigEndian.Uint64(r[16:]))})
	}
	for _, r := range renewals {
		c, err := ParseCredential(r)
		if err != nil {
			return Statement{}, errRenewal
		}
		s.renewals = append(s.renewals, c)
	}
	if !s.ascends() {
		return Statement{}, errAscend
	}
	return s, nil
}

// cutItems reads a number and as many items of size bytes, and returns what
// follows them.
func cutItems(b []byte, size int) (items [][]byte, rest []byte, err error) {
	if len(b) < 2 {
		return nil, nil, errShort
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if len(b) < n*size {
		return nil, nil, errShort
	}
	for i := range n {
		items = append(items, b[i*size:(i+1)*size])
	}
	return items, b[n*size:], nil
}

func (s Statement) ascends() bool {
	return ascends(s.agents, func(a, b revokedAgent) int { return a.id.Compare(b.id) }) &&
		ascends(s.invites, func(a, b revokedInvite) int { return compareSerials(a.serial, b.serial) }) &&
		ascends(s.renewals, func(a, b Credential) int { return a.Agent.Compare(b.Agent) })
}

func ascends[T any](items []T, compare func(a, b T) int) bool {
	for i := 1; i < len(items); i++ {
		if compare(items[i-1], items[i]) >= 0 {
			return false
		}
	}
	return true
}

// SignStatement returns the record of s that follows the one of version newest
// (0 if there is none), to be given to Store.Accept of any member.
func SignStatement(now overlay.Instant, admin AdminKey, network Network, newest uint64, s Statement) (Record, error) {
	if admin.IsZero() || admin.Public() != network.admin {
		return Record{}, errOtherAdmin
	}
	body, err := s.Append(nil)
	if err != nil {
		return Record{}, err
	}
	return SignRecord(admin.private(), network.Root(), Record{
		Kind: KindAdmin, Version: max(uint64(max(now, 0)), newest+1), Expires: NeverEnds, Body: body,
	})
}
