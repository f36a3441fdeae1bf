package mesh

import "farlan/overlay"

// A Wish is what an agent wants done in an epoch.
type Wish struct {
	Do   Act
	Peer overlay.AgentID
	Why  Reason
	// Gain is by how much Φ falls by it, in µs; Share is the same in thousandths of the
	// agent's own part of Φ. Both are zero where they weren't the reason.
	Gain  int64
	Share int32
	// Other is the other link's peer in an exchange, zero otherwise.
	Other overlay.AgentID
}

// An Act is what is to be done with a link.
type Act uint8

// The zero Act means nothing.
const (
	_    Act = iota
	Add      // ask the peer for a link; if it refuses, call Refused
	Drop     // give the link up: it goes unless the peer holds it, too
)

// String returns "add" or "drop".
func (a Act) String() string {
	switch a {
	case Add:
		return "add"
	case Drop:
		return "drop"
	}
	return "nothing"
}

// A Reason says why a link was wished, or given up, or refused.
type Reason uint8

// The zero Reason is no reason.
const (
	_ Reason = iota

	// Why links exist.
	Full      // few agents: each has a link with each
	Ring      // the next agent in the order of hashes: keeps all in one piece
	Bridge    // the agents were in pieces
	Preferred // the operator's rule
	Traffic   // much traffic between the two
	Gain      // chosen, as it makes ways shorter

	// Why links are given up.
	Forbidden // the operator's rule
	Gone      // the peer is no member any more
	Dead      // it didn't come up, or broke
	Twice     // the peer holds it already
	Replaced  // another one makes ways shorter still
	Reverted  // others moved at the same time, and it isn't worth it any more
	Surplus   // more links than an agent shall have: this one was of least use
	Quiet     // the traffic is over

	// Why a peer refuses, besides Forbidden.
	CapReached // it has as many links as it may
)

var reasons = [...]string{
	"", "few agents", "ring", "bridge", "preferred", "traffic", "shorter ways",
	"forbidden", "peer left", "no connection", "held by the peer", "replaced", "reverted", "surplus", "quiet",
	"peer has all its links",
}

// String returns the reason in words.
func (r Reason) String() string {
	if int(r) < len(reasons) {
		return reasons[r]
	}
	return "unknown"
}

// A Held is a link that an agent holds: it wished it, and gives it up when it wishes.
type Held struct {
	Peer  overlay.AgentID
	Since int64 // epoch of the wish
	Why   Reason
	Gain  int64 // of the wish
	// Leaving links are given up in the next epoch unless others moved, too: the agent
	// says so in its facts, and nobody counts on them any more.
	Leaving bool
	Up      bool  // the facts have it
	taken   int64 // epoch of the first wish for its place, before exchanges
	missing int   // epochs in which the facts hadn't it
	traffic bool  // wanted for traffic, whatever else it is for
}
