package overlay

// Limits of the frame path.
const (
	// BatchFrames is how many frames a port reads and a peer is sent at once.
	// A batch of 64 spreads the cost of a wake-up to about a nanosecond a
	// frame and still fits the caches.
	BatchFrames = 64
	// MaxFrame is the longest Ethernet frame: an inner MTU of 9000 with its
	// header and two VLAN tags. Longer ones are dropped and counted.
	MaxFrame = 9000 + 14 + 8
	// MinFrame is the shortest: an Ethernet header.
	MinFrame = 14
)

// A Batch holds the frames of one read of a port in buffers of its own, which
// the next read overwrites: what is to outlive it must be copied. A Batch is
// used by one goroutine.
type Batch struct {
	buf    []byte
	size   int
	frames [][]byte
}

// NewBatch returns a batch of up to BatchFrames frames of up to size bytes.
func NewBatch(size int) *Batch {
	return &Batch{
		buf:    make([]byte, BatchFrames*size),
		size:   size,
		frames: make([][]byte, 0, BatchFrames),
	}
}

// Reset empties the batch.
func (b *Batch) Reset() { b.frames = b.frames[:0] }

// Slot returns the buffer for the next frame, or nil when the batch is full.
func (b *Batch) Slot() []byte {
	n := len(b.frames)
	if n == cap(b.frames) {
		return nil
	}
	return b.buf[n*b.size : (n+1)*b.size : (n+1)*b.size]
}

// Commit adds the frame that was put into the first n bytes of Slot.
func (b *Batch) Commit(n int) {
	i := len(b.frames)
	b.frames = append(b.frames, b.buf[i*b.size:i*b.size+n])
}

// Frames returns the frames; they belong to the batch.
func (b *Batch) Frames() [][]byte { return b.frames }
