package overlay

import (
	"bytes"
	"encoding/binary"
	"sync"
	"time"
)

// A Handover tells another agent of a station that is about to move. Handovers travel as
// frames of the EtherType of claims, from agent to agent, and end there:
//
//	0–5    broadcast
//	6–11   the station
//	12–13  EtherType 0x88b5 (IEEE 802, local experimental 1)
//	14     2, the version
//	15     HandoverKind
//	16–17  the lease in seconds, big endian
//
// Padding may follow.
type Handover struct {
	Kind  HandoverKind
	MAC   MAC
	Lease time.Duration // of HandoverPrepare: for how long; whole seconds, MaxLease at most
}

// A HandoverKind is what a Handover says.
type HandoverKind byte

// The kinds of Handovers. Prepare goes either way: who has the station takes it for a station
// that leaves to the sender, and who knows that the sender has it for one that comes.
const (
	_ HandoverKind = iota
	HandoverPrepare
	HandoverReady   // the answer to it
	HandoverRefused // or that: the station isn't at either, or there are too many
	HandoverAbort
	handoverKinds
)

// MaxLease is the longest lease of a Handover.
const MaxLease = time.Hour

const (
	handoverVersion = 2
	handoverLen     = MinFrame + 4
)

// AppendHandover appends the frame of a handover to b.
func AppendHandover(b []byte, h Handover) []byte {
	b = append(append(b, Broadcast[:]...), h.MAC[:]...)
	b = binary.BigEndian.AppendUint16(b, etherClaims)
	return binary.BigEndian.AppendUint16(append(b, handoverVersion, byte(h.Kind)), uint16(h.Lease/time.Second))
}

// IsHandover says whether a frame is one of a Handover.
func IsHandover(frame []byte) bool {
	return len(frame) >= handoverLen && IsClaims(frame) && frame[MinFrame] == handoverVersion
}

// ParseHandover returns what a frame says for which IsHandover holds; it is false if that makes
// no sense.
func ParseHandover(frame []byte) (h Handover, ok bool) {
	h.Kind, h.MAC = HandoverKind(frame[MinFrame+1]), MAC(frame[6:12])
	h.Lease = time.Duration(binary.BigEndian.Uint16(frame[MinFrame+2:])) * time.Second
	return h, h.Kind > 0 && h.Kind < handoverKinds && !h.MAC.Group() && h.MAC != MAC{} && h.Lease <= MaxLease
}

// What is kept for a station at most; then the oldest is dropped. It is what 80 Mbit/s bring
// in a hypervisor's down time of 100 ms.
const (
	keptBytes  = 1 << 20
	keptFrames = 2048
)

// promptly is how soon after it was written a frame is read by a hypervisor that runs.
const promptly = 5 * time.Millisecond

// Kept are copies of frames for a station that moves, oldest first: at the agent that it
// leaves those that may not have reached it any more, at the other one those that wait for it.
// The zero Kept is ready; it is safe for concurrent use.
//
// What reached a station can only be known from who reads its frames. The kernel counts how
// many frames a hypervisor has read from a TAP, of all that were written there, but not which.
// What it may have read isn't given out again, so a station gets nothing twice:
//   - A frame is kept before it is written, and Sample is called often. What was kept before
//     the count rose may have been read: it is dropped.
//   - But a QEMU that has stopped its guest still reads one frame more a queue, and loses it, at any
//     time until it ends. So when the count rises by one, for the first time since all frames
//     that were kept had been read, only the oldest frame is dropped, as the queue is in order,
//     and those that were written promptly before: where the host drops some frames on their
//     way, these may be what was read.
//
// What a station misses is the one that QEMU loses, and what was written in the moment before
// its count was seen to rise last. Something comes twice only if the host drops frames on their
// way, reads a later one not promptly, and never another one after that.
type Kept struct {
	mu      sync.Mutex
	frames  []keptFrame
	bytes   int
	reads   uint64
	sampled bool
	rose    bool // since there were no frames
}

type keptFrame struct {
	at    Instant
	frame Frame
}

// Keep keeps a copy of a frame, and returns how many older ones it drops for that.
func (k *Kept) Keep(now Instant, f *Frame) (dropped int) {
	own := Frame{Head: bytes.Clone(f.Head), Offload: f.Offload}
	for _, b := range f.Body {
		own.Body = append(own.Body, bytes.Clone(b))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.frames, k.bytes = append(k.frames, keptFrame{now, own}), k.bytes+own.Len()
	for k.bytes > keptBytes || len(k.frames) > keptFrames {
		k.drop()
		dropped++
	}
	return dropped
}

// drop drops the oldest frame.
func (k *Kept) drop() {
	k.bytes -= k.frames[0].frame.Len()
	k.frames[0] = keptFrame{}
	k.frames = k.frames[1:]
}

// Sample drops what may have been read. read returns how many frames ever were; while it
// returns false, that isn't known.
func (k *Kept) Sample(now Instant, read func() (uint64, bool)) {
	n, ok := read()
	k.mu.Lock()
	defer k.mu.Unlock()
	rise := n - k.reads
	switch {
	case !ok || k.sampled && rise == 0:
		return
	case !k.sampled || rise > 1 || k.rose || len(k.frames) == 0:
		k.clear()
	default:
		k.drop()
		for i := len(k.frames) - 1; i >= 0 && now.Sub(k.frames[i].at) <= promptly; i-- {
			k.bytes -= k.frames[i].frame.Len()
			k.frames = k.frames[:i]
		}
		k.rose = len(k.frames) > 0
	}
	k.reads, k.sampled = n, true
}

func (k *Kept) clear() { k.frames, k.bytes, k.rose = nil, 0, false }

// Take returns the frames, and keeps them no longer.
func (k *Kept) Take() []Frame {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make([]Frame, len(k.frames))
	for i, f := range k.frames {
		all[i] = f.frame
	}
	k.clear()
	return all
}

// HeardLast returns when m was heard last, 0 if never.
func (t *Stations) HeardLast(m MAC) Instant {
	_, seen := t.last(m)
	return seen
}
