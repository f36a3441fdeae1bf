package overlay

import "time"

const (
	// shaperBurst is for how long an idle line saves up, so that a caller who
	// wakes late loses nothing.
	shaperBurst = 2 * time.Millisecond
	// shaperRun is how long a run of a super-frame's segments keeps the line at
	// most, and so what a frame waits for that has the line next. One of 64 KB
	// would keep 20 Mbit/s for 26 ms.
	shaperRun = 1500 * time.Microsecond
	// shaperLead is how long frames of ClassDelay may keep the line before bulk
	// has had it as long.
	shaperLead = 5 * time.Millisecond

	// CoDel's parameters (RFC 8289 § 4.2, § 4.3); a target must not be less than
	// a full packet takes (RFC 8290 § 5.2.2).
	codelTarget   = 5 * time.Millisecond
	codelInterval = 100 * time.Millisecond

	// What waits of a class is as much as the line carries in shaperQueue, within
	// limits. The least is room for four super-frames, so that two flows of them
	// don't take turns in dropping each other's.
	shaperQueue    = 100 * time.Millisecond
	minShaperBytes = 4 * (MaxSuper + waitingLen)
	maxBulkBytes   = 8 << 20
	maxDelayBytes  = 1 << 20

	// At rates beyond these, times and sizes in this file lose their sense.
	minShaperRate = 64_000
	maxShaperRate = 1_000_000_000_000

	fullFrame = 1514
)

// A Shaper is what frames wait in when the way out is the bottleneck. It lets no
// more pass than the line carries, so the queue stands here, where it is short
// and fair, and not in a modem. It never makes a sender wait: what has waited too
// long, or has no room, is dropped, oldest first, and that slows senders down.
//
// Each class is an FQ-CoDel queue (RFC 8290), so flows share it evenly and those
// that send little don't wait for others. ClassDelay goes first, but while bulk
// waits it gets half the line at most. Super-frames leave in runs of whole
// segments. Flows stay in order. A Shaper is not safe for concurrent use and
// doesn't allocate while the mix of frames stays.
type Shaper struct {
	rate    int64         // bits a second
	free    Instant       // when the line is free; what has left since goes on from there
	late    time.Duration // by which the caller may be late while frames wait: what the line saves up then
	guessed int           // bytes of packets for which free was moved, since Charge
	runLen  int           // bytes of shaperRun
	lead    int           // bytes by which ClassDelay was preferred to waiting bulk
	maxLead int
	class   [Classes]fairQueue
	rooms   rooms

	guarantees []*guarantee  // nil where there is none
	spender    *guarantee    // whose rate the last frame was taken of; nil: nobody's
	waited     time.Duration // of that frame

	out   *waiting // whose bytes the caller borrows, to be recycled
	frame Frame
	head  [256]byte // the headers of a run
	body  [1][]byte
}

// NewShaper returns a shaper for a line of rate bits a second of underlay IP
// packets.
func NewShaper(rate int64) *Shaper {
	s := new(Shaper)
	s.SetRate(rate)
	return s
}

// SetRate changes the line's rate, which is 64 kbit/s at least. What there is no
// room for at a lower rate is dropped.
func (s *Shaper) SetRate(rate int64) {
	rate = min(max(rate, minShaperRate), maxShaperRate)
	if rate == s.rate {
		return
	}
	s.rate = rate
	s.runLen = s.carries(shaperRun)
	s.maxLead = max(s.carries(shaperLead), 2*wireLen(fullFrame))
	target := max(codelTarget, s.takes(wireLen(fullFrame)))
	for i := range s.class {
		q := &s.class[i]
		q.target, q.interval = target, target+codelInterval-codelTarget
	}
	queue := s.carries(shaperQueue)
	s.class[ClassBulk].limit = min(max(queue, minShaperBytes), maxBulkBytes)
	s.class[ClassDelay].limit = min(max(queue/2, minShaperBytes), maxDelayBytes)
	s.recycle()
	s.fitRooms()
}

// CatchUp says by how much a caller may be late, on a busy machine, without the line having lost
// anything: what could have left meanwhile leaves at once. A line for which nothing waited saves
// up no more than before. It is for lines behind which something else bears such a burst.
func (s *Shaper) CatchUp(late time.Duration) { s.late = late }

// empty says whether nothing waits.
func (s *Shaper) empty() bool {
	for i := range s.class {
		if s.class[i].bytes > 0 {
			return false
		}
	}
	for _, g := range s.guarantees {
		if g != nil && g.bytes > 0 {
			return false
		}
	}
	return true
}

// carries returns how many bytes the line carries in d.
func (s *Shaper) carries(d time.Duration) int {
	return int(s.rate / 8 * d.Microseconds() / 1e6)
}

// takes returns how long the line takes for n bytes.
func (s *Shaper) takes(n int) time.Duration {
	const most = 1 << 29 // no product overflows
	return time.Duration(int64(min(max(n, -most), most)) * 8 * int64(time.Second) / s.rate)
}

// wireLen guesses how many bytes of packets a frame of n bytes makes: a packet's
// headers, and one more for each full packet. Charge puts it right.
func wireLen(n int) int { return n + n/16 + 64 }

// Enqueue puts a copy of f, which goes to to, behind those of its class and
// flow. It returns false if f was dropped at once, which only happens if it isn't
// of MinFrame to MaxSuper bytes. When there is no room, the oldest of the longest
// flow of the class give way.
func (s *Shaper) Enqueue(now Instant, to Place, class Class, flow uint32, f *Frame) bool {
	s.recycle()
	q, n := s.queueOf(class), f.Len()
	if n < MinFrame || n > MaxSuper {
		q.drops++
		return false
	}
	if s.late > shaperBurst && s.empty() {
		s.free = max(s.free, now.Add(-shaperBurst))
	}
	q.makeRoom(roomFor(n), &s.rooms)
	w := s.rooms.get(n)
	w.at, w.to, w.offload, w.headers, w.sent = now, to, f.Offload, Headers{}, 0
	w.buf = append(w.buf[:0], f.Head...)
	for _, b := range f.Body {
		w.buf = append(w.buf, b...)
	}
	if f.Super != 0 && f.Segment != 0 {
		// One whose headers are not what it says leaves as it is.
		if h, ok := f.Parse(w.buf); ok && h.Len <= len(s.head) {
			w.headers = h
		}
	}
	q.push(&q.flows[flow%flowQueues], w)
	return true
}

// Dequeue returns the next frame that may leave now, or ok is false: then it is
// too early, or nothing waits. The frame is valid until the next call of Enqueue,
// Dequeue or SetRate.
func (s *Shaper) Dequeue(now Instant) (to Place, class Class, f *Frame, ok bool) {
	s.recycle()
	s.free = max(s.free, now.Add(-max(shaperBurst, s.late)))
	if now.Before(s.free) {
		return 0, 0, nil, false
	}
	s.spender = nil
	w, n, class := s.guaranteed(now, false)
	if w != nil {
		s.pay(wireLen(w.headers.Len + n))
	} else if w, n, class = s.ordinary(now); w == nil {
		if w, n, class = s.guaranteed(now, true); w == nil {
			return 0, 0, nil, false
		}
		s.pay(wireLen(w.headers.Len + n))
	}
	s.waited = now.Sub(w.at)
	return w.to, class, s.cut(w, n), true
}

// ordinary takes the next frame, or run, of the two classes of all frames.
func (s *Shaper) ordinary(now Instant) (*waiting, int, Class) {
	class := s.first()
	for range Classes {
		if w, n := s.class[class].pop(now, s.runLen, &s.rooms); w != nil {
			s.spend(class, wireLen(w.headers.Len+n))
			return w, n, class
		}
		class = Classes - 1 - class // the class's last frames were dropped
	}
	return nil, 0, 0
}

// first returns the class that has the line next.
func (s *Shaper) first() Class {
	if s.class[ClassDelay].bytes > 0 && (s.class[ClassBulk].bytes == 0 || s.lead < s.maxLead) {
		return ClassDelay
	}
	return ClassBulk
}

// spend takes n bytes of the line for a frame of a class.
func (s *Shaper) spend(class Class, n int) {
	if class == ClassBulk {
		s.lead = max(s.lead-n, 0)
	} else if s.class[ClassBulk].bytes > 0 {
		s.lead += n
	}
	s.pay(n)
}

// pay takes n bytes of the line.
func (s *Shaper) pay(n int) {
	s.guessed += n
	s.free = s.free.Add(s.takes(n))
}

// cut returns the frame of the last n bytes of payload that have been taken
// from w.
func (s *Shaper) cut(w *waiting, n int) *Frame {
	if w.left() == 0 {
		s.out = w
	}
	s.frame = Frame{Head: w.buf, Offload: w.offload}
	h, total := w.headers, len(w.buf)-w.headers.Len
	if n < total {
		first, last := w.sent-n, w.sent
		s.frame.Head = s.head[:copy(s.head[:], w.buf[:h.Len])]
		s.frame.Offload = w.offload.narrow(s.frame.Head, h, first, last, total)
		s.body[0] = w.buf[h.Len+first : h.Len+last]
		s.frame.Body = s.body[:]
	}
	return &s.frame
}

// recycle takes back the bytes of the frame that the caller had.
func (s *Shaper) recycle() {
	if s.out == nil {
		return
	}
	s.out.queue.held -= s.rooms.put(s.out)
	s.out = nil
}

// Charge says how many bytes of underlay IP packets the frames made that were
// dequeued since the last Charge; until then a guess counts.
func (s *Shaper) Charge(bytes int) {
	s.free = s.free.Add(s.takes(bytes - s.guessed))
	if s.spender != nil {
		s.spender.tokens.owe(int64(bytes - s.guessed))
		s.spender = nil
	}
	s.guessed = 0
}

// Next returns when Dequeue is to be called again; ok is false if nothing
// waits.
func (s *Shaper) Next(now Instant) (at Instant, ok bool) {
	if s.class[ClassBulk].bytes+s.class[ClassDelay].bytes > 0 {
		return max(now, s.free), true
	}
	return s.nextGuaranteed(now)
}

// Drops returns how many frames of each class have been dropped, each segment
// of a super-frame counted as one.
func (s *Shaper) Drops() (d [Classes]uint64) {
	for i := range s.class {
		d[i] = s.class[i].drops
	}
	return d
}

// Backlog returns how many bytes of frames of each class wait.
func (s *Shaper) Backlog() (b [Classes]int) {
	for i := range s.class {
		b[i] = s.class[i].bytes
	}
	return b
}
