package discovery

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"farlan/overlay"
)

// An Admission says who is a member of a signed network, as a Store knew it at
// one time. It never changes and is safe for concurrent use, so handshakes can
// ask it. The nil Admission is that of a simple network: everybody who got so
// far is a member.
type Admission struct {
	admin     AdminPublic
	statement Statement
	holders   map[Serial]overlay.AgentID // of one-time invites
}

// Verify says which rights an agent has by a credential. Errors: ErrRevoked,
// ErrSuperseded, or as Credential.Verify says. Somebody refused as ErrIncomplete
// may be let in as far as to ask for a receipt (Store.Sponsor), no further.
func (a *Admission) Verify(now overlay.Instant, id overlay.AgentID, c Credential) (Rights, error) {
	if a == nil {
		return AllRights, nil
	}
	rights, err := c.Verify(now, a.admin, id)
	if err != nil && !errors.Is(err, ErrIncomplete) {
		return 0, err
	}
	holder := func(s Serial) (overlay.AgentID, bool) { id, ok := a.holders[s]; return id, ok }
	if out := standing(a.statement, holder, &c); out != nil {
		return 0, out
	}
	return rights, err
}

// standing returns why an authentic credential makes nobody a member all the
// same: ErrRevoked, ErrSuperseded or nil.
func standing(s Statement, holder func(Serial) (overlay.AgentID, bool), c *Credential) error {
	if err := s.revokes(c); err != nil {
		return err
	}
	if c.cert == nil || !c.cert.Once {
		return nil
	}
	if id, ok := holder(c.cert.Serial()); ok && id != c.Agent {
		return fmt.Errorf("%w: %s has it", ErrSuperseded, id.Short())
	}
	return nil
}

// A membership is what the store of a signed network knows of who belongs.
type membership struct {
	admin     AdminPublic
	statement Statement // the newest
	claims    *Claims
	admission *Admission // nil if it has to be made anew
}

func newMembership(admin AdminPublic, invites int) *membership {
	return &membership{admin: admin, claims: NewClaims(invites)}
}

func (m *membership) standing(c *Credential) error { return standing(m.statement, m.claims.Holder, c) }

// isAdmin says whether id is the admin, who is no agent.
func (m *membership) isAdmin(id overlay.AgentID) bool {
	return m != nil && id == overlay.AgentID(m.admin)
}

// NewStore is like the function NewStore; the store of a signed network takes
// records of members only.
func (n Network) NewStore(self overlay.AgentID, seed uint64, limits Limits) *Store {
	s := NewStore(self, n.Root(), seed, limits)
	if n.Signed() {
		s.members = newMembership(n.admin, s.limits.Origins+1)
	}
	return s
}

// Admission returns who is a member now; nil in a simple network. It is another
// one only after a statement or a claim came.
func (s *Store) Admission() *Admission {
	m := s.members
	if m == nil {
		return nil
	}
	if m.admission == nil {
		m.admission = &Admission{m.admin, m.statement, m.claims.holders()}
	}
	return m.admission
}

// Rights returns what an agent may do, false if there is no member record of it
// or its credential is over. In a simple network members have AllRights.
func (s *Store) Rights(id overlay.AgentID) (Rights, bool) {
	e := s.introduction(id)
	switch {
	case e == nil:
		return 0, false
	case s.members == nil:
		return AllRights, true
	}
	return e.credential.Rights, true
}

// Credential returns the credential of which an agent is a member; false if there
// is no member record of it, or in a simple network.
func (s *Store) Credential(id overlay.AgentID) (Credential, bool) {
	e := s.introduction(id)
	if e == nil || s.members == nil {
		return Credential{}, false
	}
	return e.credential, true
}

// Statement returns what the admin said last, and the version of its record: 0
// if nothing is known.
func (s *Store) Statement() (Statement, uint64) {
	if s.members == nil {
		return Statement{}, 0
	}
	r, _ := s.Record(overlay.AgentID(s.members.admin), KindAdmin)
	return s.members.statement, r.Version
}

// Accept takes a statement of the admin, or its order to change the key, from the
// admin itself and tells all neighbours. Errors say why not: it isn't the admin's, or isn't newer than what
// is known.
func (s *Store) Accept(now overlay.Instant, raw []byte) error {
	if s.members == nil {
		return errNotSigned
	}
	r, err := decodeRecord(append([]byte(nil), raw...))
	if err != nil {
		return fmt.Errorf("statement: %w", err)
	}
	k := key{r.Origin, r.Kind}
	if !s.members.isAdmin(r.Origin) || !r.Kind.ofAdmin() {
		return fmt.Errorf("statement: %w", errOtherAdmin)
	}
	if old := s.entry(k); old != nil && !newer(r, old.record) {
		return errors.New("statement: the network has one at least as new: build the next one on that")
	}
	if s.refusal(now, r, false) != nil {
		return errors.New("statement: it is from more than ten minutes in the future: one of the two clocks is wrong")
	}
	if err := s.verify(&r); err != nil {
		return err
	}
	s.put(now, k, newEntry(r))
	s.spread(k, nil, false)
	return nil
}

// Sponsor completes the credential c, of a one-time invite, of another agent by
// a receipt of this one, the owner of key. From then on the store knows the
// claim and sponsors no other agent by it. Errors: ErrSuperseded if another
// agent claimed the invite, ErrRevoked, c isn't good or needs no receipt, or this
// agent can't sponsor: it has no member record in force, or its credential leaves
// no room.
func (s *Store) Sponsor(now overlay.Instant, key ed25519.PrivateKey, c Credential) (Credential, error) {
	m := s.members
	if m == nil {
		return Credential{}, errNotSigned
	}
	own, err := s.ownCredential(now)
	if err != nil {
		return Credential{}, err
	}
	_, err = s.Admission().Verify(now, c.Agent, c)
	switch {
	case err == nil:
		return Credential{}, errors.New("sponsor: the credential needs no receipt")
	case !errors.Is(err, ErrIncomplete):
		return Credential{}, fmt.Errorf("sponsor: %w", err)
	}
	done, err := c.sponsor(now, m.admin, key, own)
	if err != nil {
		return Credential{}, err
	}
	if _, err := m.claims.Take(now, done); err != nil {
		return Credential{}, fmt.Errorf("sponsor: %w", err)
	}
	m.admission = nil
	return done, nil
}

// ownCredential returns the credential that self's member record tells.
func (s *Store) ownCredential(now overlay.Instant) (Credential, error) {
	e := s.entry(key{s.self, KindMember})
	if e == nil {
		return Credential{}, errors.New("sponsor: this agent is itself no member yet")
	}
	if err := e.credential.timely(now); err != nil {
		return Credential{}, fmt.Errorf("sponsor: this agent's %w", err)
	}
	return e.credential, nil
}
