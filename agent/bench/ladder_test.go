package bench

// A step is what happened at one rate: packets per second that were sent and
// that arrived.
type step struct {
	sent, received float64
}

// lossless says whether less than 1 % was lost.
func (s step) lossless() bool { return s.sent > 0 && s.received > 0.99*s.sent }

// The ladder's ends, in packets per second, and the ratio between its steps.
const (
	lowest  = 20_000
	highest = 800_000
	rise    = 1.2
)

// climb returns the highest rate that was really sent without loss. It stops at
// the first step that loses twice in a row: once may be the machine's fault.
// It stops too where the sender can't go faster, which is below 90 % of the
// rate that it was asked for. Zero means that the lowest step lost.
func climb(try func(rate float64) (step, error)) (best float64, err error) {
	for rate := float64(lowest); rate <= highest; rate *= rise {
		s, err := try(rate)
		if err == nil && !s.lossless() {
			s, err = try(rate)
		}
		if err != nil {
			return 0, err
		}
		if !s.lossless() {
			return best, nil
		}
		best = max(best, s.sent)
		if s.sent < 0.9*rate {
			return best, nil
		}
	}
	return best, nil
}
