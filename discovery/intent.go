package discovery

import (
	"encoding/binary"
	"time"

	"farlan/measure"
)

// MaxCost is the most that an operator can add to what a link or an agent costs.
const MaxCost = 10 * time.Second

// Facts are what an agent tells of itself in its Links. Rates are bits of underlay IP
// packets a second; 0 is unknown.
type Facts struct {
	Access           measure.Access
	NoTransit        bool          // it relays nothing
	TransitLimit     int64         // what is left for relaying of the most that it shall carry, 0: no limit
	Cost             time.Duration // what relaying by it shall cost more
	LeftUp, LeftDown int64         // of its access link, beside what flows now
}

// An Intent is what an agent has decided of a link, and what its operator wants of it.
type Intent struct {
	// Left is what can still be sent on the link beside what flows now, bits of underlay IP
	// packets a second; 0 is unknown, and 1 kbit/s is told for nothing.
	Left int64
	// Cost is added to the link's, by the operator's wish.
	Cost           time.Duration
	Prefer, Forbid bool // the operator's wishes
	// Holds says that the link is one of the agent's own choice, Leaving that it will be
	// given up, Accepts that the peer may hold it, too: a link of which both ends say
	// something of this is one that they keep.
	Holds, Leaving, Accepts bool
}

// Kept says whether the agent keeps the link, for itself or for its peer.
func (t Intent) Kept() bool { return t.Holds || t.Leaving || t.Accepts }

// In Links the own facts continue with
//
//	0    flags: 1 relays nothing; the others are ignored
//	1–2  what is left for relaying; 3–4 cost; 5–6 left up; 7–8 left down
//
// and a row with
//
//	0–1  left
//	2    cost
//	3    flags: 1 preferred, 2 forbidden, 4 the link is accepted; the others are ignored
const (
	relayingLen = 9
	intentLen   = 4

	factNoTransit = 1
	rowHolds      = 64
	rowLeaving    = 128
	intentPrefer  = 1
	intentForbid  = 2
	intentAccepts = 4
)

func (f *Facts) appendRelaying(b []byte) []byte {
	var flags byte
	if f.NoTransit {
		flags |= factNoTransit
	}
	b = append(b, flags)
	b = binary.BigEndian.AppendUint16(b, rateCode(f.TransitLimit))
	b = binary.BigEndian.AppendUint16(b, squeeze(uint64(min(max(f.Cost, 0), MaxCost).Microseconds()), fine))
	b = binary.BigEndian.AppendUint16(b, rateCode(f.LeftUp))
	return binary.BigEndian.AppendUint16(b, rateCode(f.LeftDown))
}

func (f *Facts) parseRelaying(b []byte) (ok bool) {
	f.NoTransit = b[0]&factNoTransit != 0
	f.TransitLimit, f.LeftUp, f.LeftDown = parseRate(b[1:]), parseRate(b[5:]), parseRate(b[7:])
	f.Cost = time.Duration(min(expand(binary.BigEndian.Uint16(b[3:]), fine), 1<<40)) * time.Microsecond
	return f.TransitLimit <= topRate && f.LeftUp <= topRate && f.LeftDown <= topRate && f.Cost <= topCost
}

// intentFlags returns those of the row's flags that are the intent's.
func (t Intent) intentFlags() (b byte) {
	if t.Holds {
		b |= rowHolds
	}
	if t.Leaving {
		b |= rowLeaving
	}
	return b
}

func (t Intent) appendIntent(b []byte) []byte {
	var flags byte
	if t.Prefer {
		flags |= intentPrefer
	}
	if t.Forbid {
		flags |= intentForbid
	}
	if t.Accepts {
		flags |= intentAccepts
	}
	b = binary.BigEndian.AppendUint16(b, rateCode(t.Left))
	return append(b, byte(squeeze(uint64(min(max(t.Cost, 0), MaxCost).Microseconds()), coarse)), flags)
}

// parseIntent reads a row's intent; flags are the row's.
func parseIntent(flags byte, b []byte) (t Intent, ok bool) {
	t.Holds, t.Leaving = flags&rowHolds != 0, flags&rowLeaving != 0
	t.Left, t.Cost = parseRate(b), parseTime(b[2])
	t.Prefer, t.Forbid, t.Accepts = b[3]&intentPrefer != 0, b[3]&intentForbid != 0, b[3]&intentAccepts != 0
	return t, t.Left <= topRate && t.Cost <= topCost
}
