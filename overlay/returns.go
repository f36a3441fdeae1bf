package overlay

import "sync"

const (
	// returnTime is how soon a frame that came by the overlay, and was written to a LAN, must
	// come from that LAN to have come back.
	returnTime = Instant(1e9)
	// returnBytes is how much of a frame is compared.
	returnBytes = 128
)

// Returns notices frames to groups that come by the overlay and then from a LAN: another
// agent's port is on that LAN too, and wrote them, or they went in a circle there. It is safe for
// concurrent use; the zero Returns is ready.
type Returns struct {
	mu    sync.Mutex
	slots [512]struct {
		sum uint64
		at  Instant
	}
}

// Came notes that a frame came by the overlay. Of two that fall into one slot the older is
// forgotten.
func (r *Returns) Came(now Instant, frame []byte) {
	if len(frame) < MinFrame || !MAC(frame[:6]).Group() {
		return
	}
	sum := returnSum(frame)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.slots[sum%uint64(len(r.slots))]
	s.sum, s.at = sum, now
}

// Back says whether a frame that comes from a LAN came by the overlay a moment ago.
func (r *Returns) Back(now Instant, frame []byte) bool {
	if len(frame) < MinFrame || !MAC(frame[:6]).Group() {
		return false
	}
	sum := returnSum(frame)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.slots[sum%uint64(len(r.slots))]
	return s.at != 0 && s.sum == sum && now-s.at < returnTime
}

func returnSum(frame []byte) uint64 {
	sum := uint64(14695981039346656037) // FNV-1a
	for _, b := range frame[:min(len(frame), returnBytes)] {
		sum = (sum ^ uint64(b)) * 1099511628211
	}
	return sum
}
