package discovery

import (
	"bytes"
	"fmt"
	"slices"

	"farlan/overlay"
)

// What an admin does with members, as the next statement after s. members are the
// credentials that are known of agents, each agent once; now is the admin's wall
// clock. All leave out what is over and the renewals that their agents have taken.

// Next returns s without what need not be said any more.
func (s Statement) Next(now overlay.Instant, members []Credential) Statement {
	return s.Prune(now, func(c Credential) bool {
		return slices.ContainsFunc(members, func(m Credential) bool { return bytes.Equal(m.raw, c.raw) })
	})
}

// Exclude revokes an agent for as long as it could have any credential: for ever
// if none is known. It also revokes the invite that the agent came by, whose token
// it may have kept, and renews the other members of that invite, with their rights
// and times; if those are more than a statement can say, the invite stays as it is:
// see RevokedInvite. Errors: a credential can't be made.
func (s Statement) Exclude(now overlay.Instant, admin AdminKey, members []Credential, id overlay.AgentID) (Statement, error) {
	s = s.Next(now, members)
	i := slices.IndexFunc(members, func(c Credential) bool { return c.Agent == id })
	if i < 0 {
		return s.Revoke(id, NeverEnds), nil
	}
	out := members[i]
	s = s.Revoke(id, out.Ends())
	serial, ok := out.Invite()
	if !ok {
		return s, nil
	}
	alone := s
	for _, c := range members {
		if by, ok := c.Invite(); !ok || by != serial || s.RevokedAgent(c.Agent) || c.timely(now) != nil {
			continue
		}
		if known, ok := s.Renewal(c.Agent); ok && known.NotAfter >= c.NotAfter {
			continue
		}
		var err error
		if s, err = s.Grant(now, admin, c.Agent, c.Rights, c.NotAfter); err != nil {
			return Statement{}, err
		}
	}
	if s = s.RevokeInvite(serial, out.cert.Ends()); s.length() > MaxAdminBody {
		return alone, nil
	}
	return s, nil
}

// Grant gives an agent a new credential with some rights, from now until a time in
// Unix seconds. Errors: it is revoked, or the time is over.
func (s Statement) Grant(now overlay.Instant, admin AdminKey, id overlay.AgentID, rights Rights, until int64) (Statement, error) {
	c, err := IssueCredential(admin, id, rights, unix(now), until)
	if err != nil {
		return Statement{}, fmt.Errorf("renew %s: %w", id.Short(), err)
	}
	return s.Renew(c)
}
