package discovery

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"time"

	"farlan/overlay"
)

// Claims decides who has a one-time invite. Each complete credential of such an
// invite is a claim: an agent's, since the time of its receipt. Of two agents the
// earlier has the invite, of two at one time the one of less hash; what an agent
// claims twice counts by its earlier receipt. The outcome depends on which claims
// are known and not on their order, so all who know the same agree, and a store
// that learns of an earlier claim changes its mind.
//
// No controller is asked, so the invite can be used twice while nobody knows
// both: two agents that ask two sponsors at once are both members until the
// claims meet, a few round trips of the control connections later, also in a network that
// is divided into areas; in a network that is split, until it heals. Then the loser is refused by all. Clocks decide
// between them, to as much as sponsors' clocks differ. A member that holds a copy
// of the token, or helps somebody who does, can date a receipt back and so take
// the invite from whoever has it: the invite then still makes one member at a
// time, and the admin ends it by revoking the thief and renewing the credential
// of the other. An agent that left or is revoked keeps its invite: once is once.
//
// A claim is kept as long as any credential of its invite could last. There are
// at most as many as the limit; those that are over make room, then further
// invites are refused. Only the admin makes invites, so no member can fill the
// table. Claims isn't safe for concurrent use.
type Claims struct {
	max      int
	bySerial map[Serial]*claim
}

// A claim is the best that is known for an invite.
type claim struct {
	credential Credential
	hash       [32]byte
	changes    pace // to other agents
}

// A member that helps the holder of a token can make ever earlier claims for
// ever new agents. Each invite changes hands claimBurst times at once and then
// each claimEvery; what comes more often is refused and tried again as stores
// compare themselves.
const (
	claimBurst = 4
	claimEvery = time.Minute
)

var (
	errClaimsFull   = errors.New("too many one-time invites are in use")
	errClaimLimited = errors.New("one-time invite changes hands too often")
)

// NewClaims returns an empty table of at most so many invites.
func NewClaims(most int) *Claims { return &Claims{most, make(map[Serial]*claim)} }

// earlier says whether a has the invite rather than b.
func (a *claim) earlier(b *claim) bool {
	return cmp.Or(cmp.Compare(a.credential.receipt.at, b.credential.receipt.at), bytes.Compare(a.hash[:], b.hash[:])) < 0
}

// claimOf returns what an authentic credential claims, false if it is nothing.
func claimOf(c Credential) (*claim, bool) {
	if c.receipt == nil {
		return nil, false
	}
	serial := c.cert.Serial()
	hash := sha256.Sum256(slices.Concat([]byte("farlan claim 1"), serial[:], c.Agent[:]))
	return &claim{credential: c, hash: hash}, true
}

// Take hears of a credential that is authentic, and says whether its agent has
// the invite from now on. A credential that claims nothing has what it needs.
// Errors: the table is full, or the invite changes hands too often; then nothing
// changed.
func (t *Claims) Take(now overlay.Instant, c Credential) (has bool, err error) {
	x, ok := claimOf(c)
	if !ok {
		return true, nil
	}
	serial := c.cert.Serial()
	old := t.bySerial[serial]
	switch {
	case old == nil:
		if len(t.bySerial) >= t.max {
			if t.Expire(now); len(t.bySerial) >= t.max {
				return false, errClaimsFull
			}
		}
		t.bySerial[serial] = x
		return true, nil
	case old.credential.Agent == c.Agent:
		if x.earlier(old) {
			old.credential = c
		}
		return true, nil
	case old.earlier(x):
		return false, nil
	case !old.changes.allow(now, claimEvery, claimBurst):
		return false, errClaimLimited
	}
	x.changes = old.changes
	x.changes.pay(now, claimEvery, claimBurst)
	t.bySerial[serial] = x
	return true, nil
}

// Holder returns the agent that has an invite, as far as is known.
func (t *Claims) Holder(s Serial) (overlay.AgentID, bool) {
	c, ok := t.bySerial[s]
	if !ok {
		return overlay.AgentID{}, false
	}
	return c.credential.Agent, true
}

// Evidence returns the credential by which an invite's holder has it.
func (t *Claims) Evidence(s Serial) (Credential, bool) {
	c, ok := t.bySerial[s]
	if !ok {
		return Credential{}, false
	}
	return c.credential, true
}

// Expire forgets the claims of invites of which no credential can be left.
func (t *Claims) Expire(now overlay.Instant) {
	maps.DeleteFunc(t.bySerial, func(_ Serial, c *claim) bool { return c.credential.cert.Ends() <= unix(now) })
}

// holders returns who has which invite.
func (t *Claims) holders() map[Serial]overlay.AgentID {
	out := make(map[Serial]overlay.AgentID, len(t.bySerial))
	for s, c := range t.bySerial {
		out[s] = c.credential.Agent
	}
	return out
}

// dump returns the evidence of all claims, ascending by serial.
func (t *Claims) dump() [][]byte {
	out := make([][]byte, 0, len(t.bySerial))
	for _, s := range slices.SortedFunc(maps.Keys(t.bySerial), compareSerials) {
		out = append(out, t.bySerial[s].credential.raw)
	}
	return out
}

func compareSerials(a, b Serial) int { return bytes.Compare(a[:], b[:]) }
