package reserve

import (
	"fmt"
	"math/bits"
)

// A Budget is what one way out carries and what of it is granted. What may be granted is 0.7 of
// the rate; 0.2 is kept for all that isn't reserved, whatever is granted; and a tenth belongs to
// nobody, since rates are measured and measurements err. So the guarantees together are never
// more than 0.9 of the rate.
type Budget struct {
	Rate    Rate // 0: not known, and nothing can be granted
	Granted Rate // the sum of all grants
}

// Most returns what all grants together may be.
func (b Budget) Most() Rate { return Access{Up: b.Rate}.Reservable().Up }

// Rest returns what is guaranteed to all that isn't reserved.
func (b Budget) Rest() Rate { return b.Rate * 2 / 10 }

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

// Share returns what remains of a grant of r when more is granted than may be: all shrink alike.
// It is r as long as all have room, and never less than 1 kbit/s.
func (b Budget) Share(r Rate) Rate {
	if b.Granted <= b.Most() || r <= 0 {
		return r
	}
	hi, lo := bits.Mul64(uint64(r), uint64(b.Most()))
	if hi >= uint64(b.Granted) {
		return r
	}
	share, _ := bits.Div64(hi, lo, uint64(b.Granted))
	return max(Rate(share), 1)
}
