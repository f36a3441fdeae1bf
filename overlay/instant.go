package overlay

import "time"

// An Instant is a point in time as the deciding code sees it: nanoseconds
// since the Unix epoch on a clock that never jumps (the wall clock at the
// agent's start plus the monotonic time since then). The zero Instant means
// "never".
type Instant int64

// Add returns the instant d after t.
func (t Instant) Add(d time.Duration) Instant { return t + Instant(d) }

// Sub returns the time from u to t.
func (t Instant) Sub(u Instant) time.Duration { return time.Duration(t - u) }

// Before says whether t comes before u.
func (t Instant) Before(u Instant) bool { return t < u }

// Time returns t as a wall-clock time, for people and records.
func (t Instant) Time() time.Time { return time.Unix(0, int64(t)).UTC() }
