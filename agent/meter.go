package agent

import (
	"sync/atomic"
	"time"

	"farlan/overlay"
)

// A meter tells how much goes somewhere. Lanes add, the node's loop looks. The zero meter is
// ready.
type meter struct {
	bytes atomic.Int64

	// The loop's own.
	rate int64 // bits a second, smoothed
	at   overlay.Instant
}

// meterEvery is how often a meter is looked at, at most: its rate follows a change by half in
// each such time.
const meterEvery = time.Second

func (m *meter) add(bytes int) { m.bytes.Add(int64(bytes)) }

// look brings the rate up to date.
func (m *meter) look(now overlay.Instant) {
	past := now.Sub(m.at)
	if past < meterEvery {
		return
	}
	bits := 8 * m.bytes.Swap(0)
	if m.at != 0 {
		m.rate = (m.rate + int64(float64(bits)/past.Seconds())) / 2
	}
	m.at = now
}
