package reserve

import (
	"fmt"
	"math/bits"
)

// A Budget is what one way out carries and what of it is granted. Up to 0.7 of the rate may be
// granted. When the rate falls, what is granted stays as it is up to 0.9 of it, while nothing
// more is granted; beyond that all grants shrink. What isn't reserved keeps 0.2 of the rate, or
// what is left by grants that are as many as that: a tenth at least.
type Budget struct {
	Rate    Rate // 0: not known, and nothing can be granted
	Granted Rate // the sum of all grants
}

// Most returns what all grants together may be.
func (b Budget) Most() Rate { return Access{Up: b.Rate}.Reservable().Up }

// Keep returns what all grants together may be when the rate has fallen.
func (b Budget) Keep() Rate { return b.Rate * 9 / 10 }

// Rest returns what is guaranteed to all that isn't reserved. With the grants it is never more
// than the rate.
func (b Budget) Rest() Rate { return min(b.Rate*2/10, b.Rate-min(b.Granted, b.Keep())) }

// Free returns what can be granted yet; it is 0 if more is granted than may be, as after the
// rate fell.
func (b Budget) Free() Rate { return max(b.Most()-b.Granted, 0) }

// Admit answers whether a grant of r fits: nil, a Refusal that says what does, or ErrRefused if
// r is no rate. Of a change in place, the grant's former rate is not to be in Granted.
func (b Budget) Admit(r Rate) error {
	if r <= 0 || r > maxRate {
		return fmt.Errorf("%w: %d kbit/s is no rate", ErrRefused, int64(r))
	}
	if r > b.Free() {
		return Refusal{Free: b.Free()}
	}
	return nil
}

// Share returns what remains of a grant of r when more is granted than can be kept: all shrink
// alike. It is r as long as all have room, and never less than 1 kbit/s.
func (b Budget) Share(r Rate) Rate {
	if b.Granted <= b.Keep() || r <= 0 {
		return r
	}
	hi, lo := bits.Mul64(uint64(r), uint64(b.Keep()))
	if hi >= uint64(b.Granted) {
		return r
	}
	share, _ := bits.Div64(hi, lo, uint64(b.Granted))
	return max(Rate(share), 1)
}
