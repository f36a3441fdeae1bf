package reserve

import (
	"errors"
	"math/rand/v2"
	"testing"
)

func TestBudget(t *testing.T) {
	b := Budget{Rate: 100 * Mbit}
	if b.Most() != 70*Mbit || b.Rest() != 20*Mbit || b.Free() != 70*Mbit {
		t.Errorf("of %v may be granted %v, %v is free, %v for the rest", b.Rate, b.Most(), b.Free(), b.Rest())
	}
	for _, c := range []struct {
		rate, granted, want Rate
		err                 error
		free                Rate
	}{
		{100 * Mbit, 0, 70 * Mbit, nil, 0},
		{100 * Mbit, 0, 70*Mbit + 1, ErrFull, 70 * Mbit},
		{100 * Mbit, 60 * Mbit, 10 * Mbit, nil, 0},
		{100 * Mbit, 60 * Mbit, 11 * Mbit, ErrFull, 10 * Mbit},
		{100 * Mbit, 90 * Mbit, 1, ErrFull, 0},
		{100 * Mbit, 0, 0, ErrRefused, 0},
		{100 * Mbit, 0, -1, ErrRefused, 0},
		{maxRate, 0, maxRate + 1, ErrRefused, 0},
		{0, 0, 1, ErrFull, 0},
		{3, 0, 2, nil, 0}, // 0.7 of 3 kbit/s is 2
		{maxRate, 0, maxRate / 10 * 7, nil, 0},
	} {
		err := Budget{c.rate, c.granted}.Admit(c.want)
		var r Refusal
		if !errors.Is(err, c.err) || errors.As(err, &r) && r.Free != c.free {
			t.Errorf("%v of %v, %v of it granted: %v, want %v with %v free", c.want, c.rate, c.granted, err, c.err, c.free)
		}
	}
}

func TestBudgetShares(t *testing.T) {
	b := Budget{Rate: 50 * Mbit, Granted: 70 * Mbit}
	if got := b.Share(56 * Mbit); got != 36*Mbit || b.Rest() != 5*Mbit || b.Free() != 0 {
		t.Errorf("56 of 70 Mbit/s granted where 45 can be kept: %v, want 36 Mbit/s, and %v for the rest", got, b.Rest())
	}
	b.Rate = 80 * Mbit
	if got := b.Share(56 * Mbit); got != 56*Mbit || b.Rest() != 10*Mbit || b.Free() != 0 {
		t.Errorf("56 of 70 Mbit/s granted where 72 can be kept: %v, and %v for the rest", got, b.Rest())
	}
	if got := (Budget{Rate: 100 * Mbit, Granted: 70 * Mbit}).Share(60 * Mbit); got != 60*Mbit {
		t.Errorf("with room for all: %v", got)
	}
	if got := (Budget{Rate: 0, Granted: 70 * Mbit}).Share(60 * Mbit); got != 1 {
		t.Errorf("with room for none: %v, want 1 kbit/s", got)
	}
	if got := (Budget{Rate: maxRate, Granted: maxRate}).Share(maxRate); got != maxRate/10*9 {
		t.Errorf("of the greatest rates: %v", got)
	}
}

// Whatever is asked for and given back in whatever order, and however the rate changes between:
// what is admitted never makes the sum exceed the bound, and shares never do.
func TestBudgetNeverExceeded(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		b := Budget{Rate: 1 + Rate(r.Int64N(int64(maxRate)))}
		var grants []Rate
		for range 40 {
			switch want := 1 + Rate(r.Int64N(int64(b.Rate))); {
			case r.IntN(4) == 0 && len(grants) > 0:
				b.Granted -= grants[0]
				grants = grants[1:]
			case b.Admit(want) == nil:
				b.Granted += want
				grants = append(grants, want)
			}
			if b.Granted > b.Most() || b.Granted+b.Rest() > b.Rate/10*9+10 {
				t.Fatalf("%+v is too much", b)
			}
		}
		b.Rate = 1000 + Rate(r.Int64N(int64(b.Rate)))
		sum := Rate(0)
		for _, g := range grants {
			sum += b.Share(g)
		}
		if sum > b.Keep()+Rate(len(grants)) || sum+b.Rest() > b.Rate+Rate(len(grants)) || b.Rest() < b.Rate/10 {
			t.Fatalf("%+v: the shares are %v", b, sum)
		}
	}
}
