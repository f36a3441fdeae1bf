package discovery

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"farlan/overlay"
)

// In a signed network a store takes records of members only: the member record
// brings the credential, the other kinds are taken while there is a member
// record. What is no record of a member never enters, so an honest neighbour
// sends it only because it doesn't know yet what we know; it is then told.

// A neighbour may send refusedBurst records that are refused for their
// credential at once and then one each refusedEvery; beyond, records of origins
// that the store doesn't know are dropped unseen, because each can cost the time
// of ten signatures. Comparisons bring what was dropped.
const (
	refusedBurst = 20
	refusedEvery = 500 * time.Millisecond
	// maxEvidence is how many claims wait to be told to one neighbour. More are
	// told when it sends the wrong records again.
	maxEvidence = 64
)

// knows says whether the store takes records of a kind from anybody.
func (s *Store) knows(k Kind) bool {
	return k.maxBody() != 0 && (k != KindAdmin || s.members != nil)
}

// wants says whether the record of k would be taken as far as its name tells, or
// when the member record comes that was asked for.
func (s *Store) wants(k key) bool {
	m := s.members
	switch {
	case m == nil || !s.knows(k.kind):
		return s.knows(k.kind)
	case m.isAdmin(k.origin) || k.kind.ofAdmin():
		return m.isAdmin(k.origin) && k.kind.ofAdmin()
	case m.statement.RevokedAgent(k.origin):
		return false
	case k.kind == KindMember || k.kind == KindArea:
		return true
	}
	member := key{k.origin, KindMember}
	if k.kind.wide() {
		member.kind = KindArea
	}
	_, asked := s.asked.get(member)
	return asked || s.vouched(k)
}

// vouched says whether there is the record with the credential by which one of k is taken.
func (s *Store) vouched(k key) bool {
	return s.entry(key{k.origin, KindMember}) != nil || k.kind.wide() && s.entry(key{k.origin, KindArea}) != nil
}

// suspect returns the counter of the reason to refuse a record of k before
// looking at its signature, nil if there is none.
func (s *Store) suspect(now overlay.Instant, n *neighbour, k key) *uint64 {
	m := s.members
	switch {
	case m == nil || k.kind.ofAdmin() && m.isAdmin(k.origin):
		return nil
	case m.statement.RevokedAgent(k.origin):
		return &s.counters.Revoked
	case n != nil && !s.known(k.origin) && !n.refused.allow(now, refusedEvery, refusedBurst):
		return &s.counters.Limited
	case k.kind != KindMember && k.kind != KindArea && !k.kind.ofAdmin() && !s.vouched(k):
		return &s.counters.Memberless
	}
	return nil
}

// admit decides whether the verified record r is one of a member, and counts it
// if not. from is the neighbour that sent it, nil if none did. An error wraps
// ErrCredential: no honest neighbour passes such a record on.
func (s *Store) admit(now overlay.Instant, from *neighbour, r Record) (ok bool, err error) {
	m := s.members
	switch {
	case m == nil:
		return true, nil
	case m.isAdmin(r.Origin) != r.Kind.ofAdmin():
		err = fmt.Errorf("%w: only the admin makes statements, and nothing else", ErrCredential)
	case r.Kind != KindMember && r.Kind != KindArea:
		return true, nil
	default:
		err = s.admitMember(now, from, r)
	}
	if err == nil {
		return true, nil
	}
	*s.counterOf(err)++
	if from != nil {
		from.refused.pay(now, refusedEvery, refusedBurst)
	}
	if errors.Is(err, ErrCredential) {
		return false, fmt.Errorf("%s of %s: %w", r.Kind, r.Origin.Short(), err)
	}
	return false, nil
}

// counterOf returns the counter of a refusal.
func (s *Store) counterOf(err error) *uint64 {
	for _, c := range []struct {
		is    error
		count *uint64
	}{
		{ErrNotYet, &s.counters.NotYet},
		{ErrLapsed, &s.counters.Lapsed},
		{ErrIncomplete, &s.counters.Incomplete},
		{ErrRevoked, &s.counters.Revoked},
		{ErrSuperseded, &s.counters.Superseded},
		{errClaimsFull, &s.counters.Full},
		{errClaimLimited, &s.counters.Limited},
	} {
		if errors.Is(err, c.is) {
			return c.count
		}
	}
	return &s.counters.Uncertified
}

// admitMember checks the credential of a member record and takes the claim that
// it makes.
func (s *Store) admitMember(now overlay.Instant, from *neighbour, r Record) error {
	var body Member
	var err error
	if r.Kind == KindMember {
		body, err = ParseMember(r.Body)
	} else {
		var a Area
		a, err = ParseArea(r.Body)
		body = a.Member
	}
	if err != nil {
		return err
	}
	c, err := ParseCredential(body.Credential)
	if err != nil {
		return err
	}
	// The signatures of a credential that is there already were checked.
	if e := s.entry(key{r.Origin, r.Kind}); e != nil && bytes.Equal(e.credential.raw, c.raw) {
		err = c.timely(now)
	} else {
		_, err = c.Verify(now, s.members.admin, r.Origin)
	}
	if err != nil {
		return err
	}
	if err := s.members.statement.revokes(&c); err != nil {
		return err
	}
	return s.claim(now, from, c)
}

// claim takes the claim of an authentic credential. A neighbour that sent a
// losing one is told who has the invite; when another agent loses the invite, its
// records go.
func (s *Store) claim(now overlay.Instant, from *neighbour, c Credential) error {
	if c.receipt == nil {
		return nil
	}
	serial := c.cert.Serial()
	before, known := s.members.claims.Holder(serial)
	has, err := s.members.claims.Take(now, c)
	switch {
	case err != nil:
		return err
	case !has:
		from.tell(serial)
		return fmt.Errorf("%w: %s has it", ErrSuperseded, before.Short())
	case !known:
		s.members.admission = nil
		s.tellOf(serial, func(n *neighbour) bool { return n != from && !s.shares(n) })
	case before != c.Agent:
		s.members.admission = nil
		s.expire(now)
	}
	return nil
}

// tellOf has neighbours told who has an invite. In a divided network those of other areas are
// told of each new claim, as they don't get the record that it came with, and pass it on: so
// an invite that is used in two areas is found.
func (s *Store) tellOf(serial Serial, whom func(*neighbour) bool) {
	for _, n := range s.neighbours {
		if whom(n) {
			n.tell(serial)
		}
	}
}

// tell has the neighbour told who has an invite. Nil is nobody.
func (n *neighbour) tell(serial Serial) {
	if n != nil && len(n.evidence) < maxEvidence && !slices.Contains(n.evidence, serial) {
		n.evidence = append(n.evidence, serial)
	}
}

// receiveClaim takes the evidence of who has a one-time invite. It comes in
// answer to a record or evidence of another agent, and from other areas.
func (s *Store) receiveClaim(now overlay.Instant, n *neighbour, body []byte) error {
	m := s.members
	if m == nil {
		s.counters.Unknown++
		return nil
	}
	c, err := ParseCredential(body)
	if err == nil && c.receipt == nil {
		err = fmt.Errorf("%w: it claims nothing", ErrCredential)
	}
	if err != nil {
		s.counters.Uncertified++
		return err
	}
	serial := c.cert.Serial()
	if best, ok := m.claims.Evidence(serial); ok && bytes.Equal(best.raw, c.raw) {
		s.counters.Duplicate++
		return nil
	}
	if !n.refused.allow(now, refusedEvery, refusedBurst) {
		s.counters.Limited++
		return nil
	}
	if err := c.authentic(m.admin); err != nil {
		s.counters.Uncertified++
		return err
	}
	n.refused.pay(now, refusedEvery, refusedBurst)
	before, known := m.claims.Holder(serial)
	if err := s.claim(now, n, c); err != nil {
		*s.counterOf(err)++
		return nil
	}
	if known && before != c.Agent || !known && !s.plain() {
		s.tellOf(serial, func(o *neighbour) bool { return o != n })
	}
	return nil
}

// enact does what a record that was just put says about membership.
func (s *Store) enact(now overlay.Instant, e *entry) {
	if e.record.Kind == KindRotation {
		r, _ := ParseRotation(e.record.Body) // verified
		s.expect(r)
	}
	m := s.members
	switch {
	case m == nil:
	case e.record.Kind == KindMember || e.record.Kind == KindArea:
		e.credential, _ = ParseCredential(e.member.Credential) // admitted
		s.nextExpiry = min(s.nextExpiry, e.credential.end())
	case e.record.Kind == KindAdmin:
		m.statement, _ = ParseStatement(e.record.Body) // verified
		m.admission = nil
		s.expire(now)
	}
}

// end returns when the credential is over.
func (c *Credential) end() overlay.Instant { return overlay.Instant(c.NotAfter * int64(time.Second)) }

// lasts returns until when the record of k stays. If that is over before the
// record's own end, cause says why its origin is no member any more.
func (s *Store) lasts(now overlay.Instant, k key, e *entry) (until overlay.Instant, cause error) {
	until = min(expiry(e.record), s.leaves(k, e))
	switch {
	case k.kind == KindAdmin:
		return math.MaxInt64, nil
	case !s.expects(e.record.context): // its key is over
		return math.MinInt64, nil
	case s.members == nil, k.kind == KindRotation:
	case k.kind != KindMember && k.kind != KindArea:
		if !s.vouched(k) {
			return math.MinInt64, nil
		}
	case e.credential.end() <= now && until > now:
		return math.MinInt64, ErrLapsed
	default:
		if cause = s.members.standing(&e.credential); cause != nil {
			return math.MinInt64, cause
		}
		until = min(until, e.credential.end())
	}
	return until, cause
}

// DumpClaims returns what shows who has which one-time invite, for remembering
// beside Dump's records: those of agents that are gone are nowhere else. The
// slices must not be changed.
func (s *Store) DumpClaims() [][]byte {
	if s.members == nil {
		return nil
	}
	return s.members.claims.dump()
}

// LoadClaims takes what DumpClaims returned and says how many of them are none
// of this network.
func (s *Store) LoadClaims(now overlay.Instant, raw [][]byte) (bad int) {
	if s.members == nil {
		return len(raw)
	}
	for _, b := range raw {
		c, err := ParseCredential(b)
		if err != nil || c.receipt == nil || c.authentic(s.members.admin) != nil {
			bad++
			continue
		}
		if err := s.claim(now, nil, c); err != nil {
			*s.counterOf(err)++
		}
	}
	return bad
}
