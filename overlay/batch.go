package overlay

// Limits of the frame path.
const (
	// BatchFrames is how many frames a port reads at once. A batch of 64 spreads
	// the cost of a wake-up to about a nanosecond a frame and still fits the
	// caches.
	BatchFrames = 64
	// MaxFrame is the longest Ethernet frame that isn't a super-frame: an inner
	// MTU of 9000 with its header and two VLAN tags. Longer ones are dropped and
	// counted.
	MaxFrame = 9000 + 14 + 8
	// MinFrame is the shortest: an Ethernet header.
	MinFrame = 14
	// SlotLen is what Slot has room for: the longest super-frame, and a byte by
	// which a longer one shows.
	SlotLen = MaxSuper + 1

	batchBytes = 2 * slotStep // two super-frames, or 64 frames of 2 KB
	slotStep   = (SlotLen + frameAlign - 1) / frameAlign * frameAlign
	frameAlign = 64 // a cache line
)

// A Batch holds the frames of one read of a port in buffers of its own, which
// the next read overwrites: what is to outlive it must be copied. A Batch is
// used by one goroutine.
type Batch struct {
	buf    []byte
	used   int
	lead   int // bytes that are left free in front of the next frames
	frames []Frame
	starts [BatchFrames]int // of frames, in buf
}

// NewBatch returns an empty batch.
func NewBatch() *Batch {
	return &Batch{buf: make([]byte, batchBytes), frames: make([]Frame, 0, BatchFrames)}
}

// Reset empties the batch.
func (b *Batch) Reset() { b.used, b.frames = 0, b.frames[:0] }

// Slot returns SlotLen bytes for the next frame, or nil when the batch is full.
func (b *Batch) Slot() []byte {
	at := b.used + b.lead
	if len(b.frames) == cap(b.frames) || len(b.buf)-at < SlotLen {
		return nil
	}
	return b.buf[at : at+SlotLen : at+SlotLen]
}

// Commit adds the frame that was put into the first n bytes of Slot.
func (b *Batch) Commit(n int, o Offload) {
	at := b.used + b.lead
	b.starts[len(b.frames)] = at
	b.frames = append(b.frames, Frame{Head: b.buf[at : at+n : at+n], Offload: o})
	b.used += (b.lead + n + frameAlign - 1) / frameAlign * frameAlign
}

// Frames returns the frames, each all Head; they belong to the batch.
func (b *Batch) Frames() []Frame { return b.frames }
