package overlay

import (
	"math"
	"time"
)

// flowQueues is how many flows can be told apart; those that share a queue
// share its part of the line (RFC 8290 § 5.2.5).
const flowQueues = 1024

// A fairQueue holds the frames of a class: FQ-CoDel, with runs of super-frames.
type fairQueue struct {
	flows            [flowQueues]flowQueue
	fresh, old       flowList
	bytes            int // of frames that wait
	held, limit      int // of memory that they take
	drops            uint64
	target, interval time.Duration

	// What longest found last stays good as long as it has so many bytes: so not
	// each frame that gives way to a flood costs a search.
	long    *flowQueue
	longFor int
}

// A flowQueue holds the frames of one flow, or of some whose hashes collide.
type flowQueue struct {
	head, tail *waiting
	next       *flowQueue // in its list
	listed     bool
	bytes      int
	deficit    int // what it may still send in this round

	// CoDel's state (RFC 8289 § 5).
	dropping         bool
	above            Instant // if frames wait too long until then, dropping begins; 0: they don't
	dropNext         Instant
	count, lastCount uint32
}

type flowList struct{ head, tail *flowQueue }

func (l *flowList) push(f *flowQueue) {
	f.next = nil
	if l.head == nil {
		l.head = f
	} else {
		l.tail.next = f
	}
	l.tail = f
}

// A waiting frame, or what has not left of it yet.
type waiting struct {
	next    *waiting
	queue   *fairQueue
	buf     []byte // all of it
	at      Instant
	to      Place
	offload Offload
	headers Headers // of a super-frame that can be cut; else zero
	sent    int     // bytes of payload that have been taken
}

// left returns how many bytes of payload have not been taken.
func (w *waiting) left() int { return len(w.buf) - w.headers.Len - w.sent }

// run returns the length of the whole segments that are at most so many bytes
// of payload, but of one at least.
func (w *waiting) run(most int) int {
	if w.headers.Len == 0 {
		return w.left()
	}
	segment := int(w.offload.Segment)
	return min(w.left(), max(most/segment, 1)*segment)
}

// push puts w behind the frames of flow f.
func (q *fairQueue) push(f *flowQueue, w *waiting) {
	w.next, w.queue = nil, q
	if f.head == nil {
		f.head = w
	} else {
		f.tail.next = w
	}
	f.tail = w
	n := w.headers.Len + w.left()
	f.bytes += n
	q.bytes += n
	q.held += roomFor(len(w.buf))
	if !f.listed {
		f.listed, f.deficit = true, fullFrame
		q.fresh.push(f)
	}
}

// pop takes the next frame, or run of at most so many bytes of payload, and
// returns its length; nil if there is none (RFC 8290 § 4.2).
func (q *fairQueue) pop(now Instant, most int, r *rooms) (*waiting, int) {
	for {
		list := &q.fresh
		if list.head == nil {
			list = &q.old
		}
		f := list.head
		if f == nil {
			return nil, 0
		}
		if f.deficit > 0 {
			q.manage(f, now, r)
			if f.head != nil {
				n := f.head.run(most)
				f.deficit -= wireLen(f.head.headers.Len + n)
				return q.take(f, n), n
			}
		}
		list.head = f.next
		switch {
		case f.deficit <= 0:
			f.deficit += fullFrame
			q.old.push(f)
		case list == &q.fresh && q.old.head != nil:
			q.old.push(f) // else a flow could stay new, and starve the others
		default:
			f.listed = false
		}
	}
}

// take takes the next n bytes of payload out of flow f.
func (q *fairQueue) take(f *flowQueue, n int) *waiting {
	w := f.head
	w.sent += n
	if w.left() == 0 {
		f.head = w.next
		n += w.headers.Len
	}
	f.bytes -= n
	q.bytes -= n
	return w
}

// drop takes the next n bytes of payload out of flow f and forgets them.
func (q *fairQueue) drop(f *flowQueue, n int, r *rooms) {
	q.drops++
	if w := f.head; w.headers.Len > 0 {
		q.drops += uint64(max(n-1, 0) / int(w.offload.Segment))
	}
	if w := q.take(f, n); w.left() == 0 {
		q.held -= r.put(w)
	}
}

// makeRoom drops the oldest frames of the longest flows until there is room for
// so many bytes of memory.
func (q *fairQueue) makeRoom(memory int, r *rooms) {
	for q.held+memory > q.limit && q.bytes > 0 {
		f := q.longest()
		q.drop(f, f.head.left(), r)
	}
}

// longest returns the flow with the most bytes, or almost; there must be one.
func (q *fairQueue) longest() *flowQueue {
	if q.long == nil || q.long.bytes < q.longFor {
		q.long = nil
		for _, l := range [...]flowList{q.fresh, q.old} {
			for f := l.head; f != nil; f = f.next {
				if q.long == nil || f.bytes > q.long.bytes {
					q.long = f
				}
			}
		}
		q.longFor = q.long.bytes - q.long.bytes/4
	}
	return q.long
}

// late says whether the frames of f have waited too long for too long.
func (q *fairQueue) late(f *flowQueue, now Instant) bool {
	if f.head == nil || now.Sub(f.head.at) < q.target || f.bytes <= fullFrame {
		f.above = 0
		return false
	}
	if f.above == 0 {
		f.above = now.Add(q.interval)
		return false
	}
	return !now.Before(f.above)
}

// manage drops what CoDel drops before the next frame of f leaves (RFC 8289
// § 5.5). Of super-frames those are single segments: that tells the sender as
// much as a run of them would.
func (q *fairQueue) manage(f *flowQueue, now Instant, r *rooms) {
	late := q.late(f, now)
	if !f.dropping && late {
		q.drop(f, f.head.run(1), r)
		q.late(f, now)
		f.dropping = true
		delta := f.count - f.lastCount
		f.count = 1
		if delta > 1 && now.Sub(f.dropNext) < 16*q.interval {
			f.count = delta // it was in this state just now
		}
		f.lastCount = f.count
		f.dropNext = now.Add(q.spacing(f.count))
		return
	}
	f.dropping = late
	for f.dropping && !now.Before(f.dropNext) {
		q.drop(f, f.head.run(1), r)
		f.count++
		f.dropping = q.late(f, now)
		f.dropNext = f.dropNext.Add(q.spacing(f.count))
	}
}

// spacing returns the time between the drop number count and the next. The
// root and the quotient are exactly what IEEE 754 says, on every processor.
func (q *fairQueue) spacing(count uint32) time.Duration {
	return time.Duration(float64(q.interval) / math.Sqrt(float64(count)))
}

// roomSizes are what waiting frames take of memory.
var roomSizes = [...]int{128, 256, 512, 1024, 1536, 4096, 9216, 16384, 32768, MaxSuper}

const waitingLen = 128 // what a waiting has beside its bytes

// rooms keeps the memory of frames that have left for those to come. It takes
// the memory of both classes' limits at most.
type rooms struct {
	idle                   [len(roomSizes)]*waiting
	idleBytes, used, limit int
}

// roomSize returns the index of the smallest room for n bytes.
func roomSize(n int) int {
	i := 0
	for roomSizes[i] < n {
		i++
	}
	return i
}

// roomFor returns how much memory a frame of n bytes takes.
func roomFor(n int) int { return roomSizes[roomSize(n)] + waitingLen }

// get returns memory for n bytes.
func (r *rooms) get(n int) *waiting {
	i := roomSize(n)
	memory := roomSizes[i] + waitingLen
	r.used += memory
	if w := r.idle[i]; w != nil {
		r.idle[i] = w.next
		r.idleBytes -= memory
		return w
	}
	if r.used+r.idleBytes > r.limit {
		clear(r.idle[:]) // frames of other sizes come now
		r.idleBytes = 0
	}
	return &waiting{buf: make([]byte, 0, roomSizes[i])}
}

// put takes w back and returns how much memory it took.
func (r *rooms) put(w *waiting) int {
	i := roomSize(cap(w.buf))
	memory := roomSizes[i] + waitingLen
	r.used -= memory
	if r.used+r.idleBytes+memory <= r.limit {
		w.next, r.idle[i] = r.idle[i], w
		r.idleBytes += memory
	}
	return memory
}
