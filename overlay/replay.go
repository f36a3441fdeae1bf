package overlay

// A window holds the counters of a session's newest datagrams, so that none is
// accepted twice, in whatever order they come. Each word of the ring holds the
// bits of 64 counters in a row; a new highest counter clears the words that it
// passes and nothing is ever shifted (RFC 6479). The zero window has seen
// nothing. It is not safe for concurrent use.
type window struct {
	top uint64 // the highest accepted counter; meaningless until one was
	few [fewWords]uint64
	all *[windowWords]uint64 // instead of few, once a counter is too high for that
}

const (
	// windowWords makes 8 KB a session. Datagrams of both classes share a
	// session's counter but travel by different routes, so the window must
	// cover the difference of their delays: at 5 Gbit/s, 65,472 datagrams of
	// 1,400 bytes are 146 ms.
	windowWords = 1024
	// windowSize is how far a counter may lie behind the highest one: the word
	// of the highest one is only partly in use.
	windowSize = (windowWords - 1) * 64
	// fewWords are enough for sessions that carry little but probes, as most do in
	// a large network.
	fewWords = 16
)

// word returns the word of a counter that is at most the highest accepted one, or that
// has been made room for.
func (w *window) word(counter uint64) *uint64 {
	if w.all == nil {
		return &w.few[counter/64%fewWords]
	}
	return &w.all[counter/64%windowWords]
}

// check says whether accept would accept counter.
func (w *window) check(counter uint64) bool {
	if counter > w.top {
		return true
	}
	return w.top-counter < windowSize && *w.word(counter)&(1<<(counter%64)) == 0
}

// accept notes counter and says true if it is neither noted yet nor too old.
// It is to be called with authenticated counters only: a forged high one would
// shut out the true ones below it.
func (w *window) accept(counter uint64) bool {
	if !w.check(counter) {
		return false
	}
	if w.all == nil && counter >= fewWords*64 {
		w.all = new([windowWords]uint64)
		copy(w.all[:], w.few[:])
	}
	if counter > w.top {
		for i := range min(counter/64-w.top/64, windowWords) {
			*w.word(w.top + (1+i)*64) = 0
		}
		w.top = counter
	}
	*w.word(counter) |= 1 << (counter % 64)
	return true
}

// seenInitiations is how many initiations a SeenCache remembers. An agent that
// restarts with a thousand peers is called by each of them a few times.
const seenInitiations = 4096

// A SeenCache remembers the newest initiations by their MACs, so that one that
// was captured and is sent again costs no answer and no session. When it is
// full the oldest is forgotten: a replay of that one gets an answer again, and
// a session that can't be confirmed. The zero SeenCache is ready; it is not
// safe for concurrent use.
type SeenCache struct {
	seen map[[MACLen]byte]struct{}
	ring [seenInitiations][MACLen]byte
	next int // where in ring the next one goes
}

// Seen says whether mac was seen before, and remembers it. Only the MACs of
// Genuine datagrams are worth remembering: others would flush the cache.
func (c *SeenCache) Seen(mac [MACLen]byte) bool {
	if _, ok := c.seen[mac]; ok {
		return true
	}
	if c.seen == nil {
		c.seen = make(map[[MACLen]byte]struct{})
	}
	if len(c.seen) == len(c.ring) {
		delete(c.seen, c.ring[c.next])
	}
	c.seen[mac] = struct{}{}
	c.ring[c.next] = mac
	c.next = (c.next + 1) % len(c.ring)
	return false
}
