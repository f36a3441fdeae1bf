package lab

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"farlan/reserve"
)

// Rate is a rate of IP packets; 0 is unlimited. As text it is "100Mbit",
// "2.5Gbit", "500kbit" or "unlimited".
type Rate reserve.Rate

// Set reads the text form.
func (r *Rate) Set(s string) error {
	if s == "unlimited" || s == "0" {
		*r = 0
		return nil
	}
	x, err := reserve.ParseRate(s)
	if err != nil {
		return fmt.Errorf("%w, or unlimited", err)
	}
	*r = Rate(x)
	return nil
}

// String returns the text form.
func (r Rate) String() string {
	if r == 0 {
		return "unlimited"
	}
	return reserve.Rate(r).String()
}

// Type names the flag's value in usage texts.
func (Rate) Type() string { return "rate" }

// MarshalText and UnmarshalText use the text form.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads the text form.
func (r *Rate) UnmarshalText(b []byte) error { return r.Set(string(b)) }

// onWire returns how long a packet of size bytes takes to send.
func (r Rate) onWire(size int) time.Duration {
	if r == 0 {
		return 0
	}
	return time.Duration(int64(size) * 8 * int64(time.Second) / reserve.Rate(r).BitsPerSecond())
}

// Loss is a probability in millionths. As text it is "0.1%" or "0.001".
type Loss int64

// Set reads the text form.
func (l *Loss) Set(s string) error {
	number, percent := strings.CutSuffix(s, "%")
	x, err := strconv.ParseFloat(number, 64)
	if percent {
		x /= 100
	}
	if err != nil || !(x >= 0 && x <= 1) {
		return fmt.Errorf("%q is not a loss (want for example 0.1%% or 0.001)", s)
	}
	*l = Loss(math.Round(x * 1e6))
	return nil
}

// String returns the text form, as a percentage.
func (l Loss) String() string {
	return strconv.FormatFloat(float64(l)/1e4, 'f', -1, 64) + "%"
}

// Type names the flag's value in usage texts.
func (Loss) Type() string { return "loss" }

// MarshalText uses the text form.
func (l Loss) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads the text form.
func (l *Loss) UnmarshalText(b []byte) error { return l.Set(string(b)) }

// Queue is how much may wait for a path's rate: a time, or a number of bytes if
// Bytes isn't 0. As text it is "50ms" or "256KB".
type Queue struct {
	Time  time.Duration
	Bytes int64
}

// Set reads the text form.
func (q *Queue) Set(s string) error {
	if number, ok := strings.CutSuffix(s, "KB"); ok {
		x, err := strconv.ParseInt(number, 10, 64)
		if err == nil && x > 0 && x <= 1<<20 {
			*q = Queue{Bytes: x * 1000}
			return nil
		}
	} else if d, err := time.ParseDuration(s); err == nil && d > 0 && d <= time.Minute {
		*q = Queue{Time: d}
		return nil
	}
	return fmt.Errorf("%q is not a queue limit (want for example 50ms or 256KB)", s)
}

// String returns the text form.
func (q Queue) String() string {
	if q.Bytes > 0 {
		return fmt.Sprintf("%dKB", q.Bytes/1000)
	}
	return q.Time.String()
}

// Type names the flag's value in usage texts.
func (Queue) Type() string { return "queue" }

// MarshalText uses the text form.
func (q Queue) MarshalText() ([]byte, error) { return []byte(q.String()), nil }

// UnmarshalText reads the text form.
func (q *Queue) UnmarshalText(b []byte) error { return q.Set(string(b)) }

// limit returns how long a packet may have to wait at rate r.
func (q Queue) limit(r Rate) time.Duration {
	if q.Bytes > 0 {
		return r.onWire(int(q.Bytes))
	}
	return q.Time
}
