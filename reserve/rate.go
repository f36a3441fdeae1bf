package reserve

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A Rate is kilobits a second (of 1000 bits); 0 means unknown.
type Rate int64

// The units of rates.
const (
	Kbit Rate = 1
	Mbit      = 1000 * Kbit
	Gbit      = 1000 * Mbit

	maxRate = 10_000 * Gbit
)

var units = []struct {
	suffix string
	rate   Rate
}{{"Gbit", Gbit}, {"Mbit", Mbit}, {"kbit", Kbit}}

var errRate = errors.New("want a rate as 100Mbit, 2.5Gbit or 512kbit")

// ParseRate reads a rate such as "100Mbit", "2.5Gbit" or "512kbit"; case
// doesn't matter.
func ParseRate(s string) (Rate, error) {
	low := strings.ToLower(strings.TrimSpace(s))
	for _, u := range units {
		number, ok := strings.CutSuffix(low, strings.ToLower(u.suffix))
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(number, 64)
		r := f * float64(u.rate)
		if err != nil || math.IsNaN(r) || r < 1 || r > float64(maxRate) {
			return 0, fmt.Errorf("rate %q: %w (1 kbit to 10 Tbit a second)", s, errRate)
		}
		return Rate(math.Round(r)), nil
	}
	return 0, fmt.Errorf("rate %q: %w", s, errRate)
}

// Mbit returns the rate in megabits a second.
func (r Rate) Mbit() float64 { return float64(r) / float64(Mbit) }

// BitsPerSecond returns the rate in bits a second.
func (r Rate) BitsPerSecond() int64 { return int64(r) * 1000 }

// String returns the rate in the largest unit of which it is one at least.
func (r Rate) String() string {
	for _, u := range units {
		if r >= u.rate {
			return strconv.FormatFloat(float64(r)/float64(u.rate), 'f', -1, 64) + u.suffix
		}
	}
	return strconv.FormatInt(int64(r), 10) + "kbit"
}

// An Access is what an agent's own way out and in carries. It is a fact of the
// agent, shared by all its paths, so no plan may spend it twice.
type Access struct{ Up, Down Rate }

// ParseAccess reads "RATE" (both ways) or "UP/DOWN".
func ParseAccess(s string) (Access, error) {
	up, down, both := strings.Cut(s, "/")
	u, err := ParseRate(up)
	if err != nil || !both {
		return Access{u, u}, err
	}
	d, err := ParseRate(down)
	if err != nil {
		return Access{}, err
	}
	return Access{u, d}, nil
}

// Reservable returns the most that all reservations together may hold of an
// access link: 0.7 of it, so that ordinary traffic always keeps a way.
func (a Access) Reservable() Access { return Access{a.Up * 7 / 10, a.Down * 7 / 10} }
