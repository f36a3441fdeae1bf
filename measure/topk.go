package measure

import (
	"encoding/binary"
	"math/bits"
	"time"

	"farlan/overlay"
)

// MaxFlows is how many flows a Top counts. A flow that has more than 1 of MaxFlows of
// all bytes is always among them.
const MaxFlows = 256

// A StationPair names a flow: the addresses of its frames as they begin, the receiver's
// and then the sender's.
type StationPair [12]byte

// From returns the station that sends.
func (p *StationPair) From() overlay.MAC { return overlay.MAC(p[6:]) }

// To returns the station that receives.
func (p *StationPair) To() overlay.MAC { return overlay.MAC(p[:6]) }

// A Flow is what one station has sent to another.
type Flow struct {
	StationPair
	Place overlay.Place // where the receiver is
	Bytes uint64        // of Ethernet frames
	// Over is by how much Bytes may be too large: what the flow's place in the table
	// had counted for others before.
	Over uint64
	// Waited is how long a frame of it has waited at most, and Waiting how many bytes have stood
	// before it, if that was noted.
	Waited  time.Duration
	Waiting int64
}

// A Top counts the bytes of the flows that have the most, in constant space and time a
// frame: space-saving of Metwally, Agrawal and El Abbadi, "Efficient computation of
// frequent and top-k elements in data streams", ICDT 2005, with weights. A flow that
// isn't counted when the table is full takes the place of the one with the fewest bytes,
// and its bytes. The heap that finds that one is put in order only when it is asked, so
// counting a known flow is one look-up. The zero Top is ready. Not safe for concurrent
// use.
type Top struct {
	flows [MaxFlows]Flow
	used  int
	last  uint8           // the flow that was counted last
	slots [topSlots]int16 // where a flow is, by its hash: index + 1; linear probing

	heap [MaxFlows]int16  // indices of flows, the one of least key first
	key  [MaxFlows]uint64 // of each flow: its bytes when the heap was last put in order
}

const topSlots = 4 * MaxFlows

// Count adds bytes to the flow between two stations.
func (t *Top) Count(pair *StationPair, place overlay.Place, bytes int) {
	f := &t.flows[t.last]
	if f.StationPair != *pair || t.used == 0 {
		f = t.find(pair)
	}
	f.Bytes += uint64(bytes)
	f.Place = place
}

// Wait notes that a frame of the flow between two stations, which was counted, has waited.
func (t *Top) Wait(pair *StationPair, waited time.Duration) {
	f := &t.flows[t.last]
	if f.StationPair != *pair || t.used == 0 {
		f = t.find(pair)
	}
	f.Waited = max(f.Waited, waited)
}

// find returns the place of a flow in the table, made if it must be.
func (t *Top) find(pair *StationPair) *Flow {
	slot := pair.slot()
	for ; t.slots[slot] != 0; slot = (slot + 1) % topSlots {
		i := t.slots[slot] - 1
		if f := &t.flows[i]; f.StationPair == *pair {
			t.last = uint8(i)
			return f
		}
	}
	var i int16
	if t.used < MaxFlows {
		i = int16(t.used)
		t.used++
		t.flows[i] = Flow{StationPair: *pair}
		t.heap[i], t.key[i] = i, 0
		t.up(int(i))
	} else {
		i = t.least()
		t.forget(i)
		f := &t.flows[i]
		*f = Flow{StationPair: *pair, Bytes: f.Bytes, Over: f.Bytes}
		for slot = pair.slot(); t.slots[slot] != 0; slot = (slot + 1) % topSlots { //nolint:revive // finds a free one
		}
	}
	t.slots[slot] = i + 1
	t.last = uint8(i)
	return &t.flows[i]
}

// least returns the flow with the fewest bytes: the heap's first, once that is where it
// belongs.
func (t *Top) least() int16 {
	for {
		i := t.heap[0]
		if t.key[i] == t.flows[i].Bytes {
			return i
		}
		t.key[i] = t.flows[i].Bytes
		t.down()
	}
}

// up moves the heap's element at where it belongs.
func (t *Top) up(at int) {
	for at > 0 {
		parent := (at - 1) / 2
		if t.key[t.heap[parent]] <= t.key[t.heap[at]] {
			return
		}
		t.heap[parent], t.heap[at] = t.heap[at], t.heap[parent]
		at = parent
	}
}

// down moves the heap's first element where it belongs.
func (t *Top) down() {
	for at := 0; ; {
		child := 2*at + 1
		if child+1 < t.used && t.key[t.heap[child+1]] < t.key[t.heap[child]] {
			child++
		}
		if child >= t.used || t.key[t.heap[at]] <= t.key[t.heap[child]] {
			return
		}
		t.heap[at], t.heap[child] = t.heap[child], t.heap[at]
		at = child
	}
}

// forget takes a flow out of the slots, and moves those behind it up (Knuth, The Art of
// Computer Programming, 6.4, algorithm R).
func (t *Top) forget(i int16) {
	slot := t.flows[i].slot()
	for t.slots[slot] != i+1 {
		slot = (slot + 1) % topSlots
	}
	t.slots[slot] = 0
	for next := (slot + 1) % topSlots; t.slots[next] != 0; next = (next + 1) % topSlots {
		f := &t.flows[t.slots[next]-1]
		if home := f.slot(); (next-home)%topSlots >= (next-slot)%topSlots {
			t.slots[slot], t.slots[next] = t.slots[next], 0
			slot = next
		}
	}
}

// Take appends the flows to into and begins anew.
func (t *Top) Take(into []Flow) []Flow {
	into = append(into, t.flows[:t.used]...)
	if t.used > 0 {
		clear(t.slots[:])
		t.used, t.last = 0, 0
	}
	return into
}

// slot returns where a pair's search begins: a multiplicative hash.
func (p *StationPair) slot() uint {
	a, b := binary.LittleEndian.Uint64(p[:8]), uint64(binary.LittleEndian.Uint32(p[8:]))
	high, low := bits.Mul64(a^0x9e3779b97f4a7c15, b^0xd1b54a32d192ed03)
	return uint((high^low)*0x9e3779b97f4a7c15>>32) % topSlots
}
