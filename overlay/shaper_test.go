package overlay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

const mbit = 1_000_000

// A source is a flow of TCP4 frames, which say what they are: its number is in
// the address, where their payload starts in the sequence number.
type source struct {
	number       uint32
	class        Class
	payload      int // of a frame
	template     []byte
	sent         uint32 // bytes of payload
	offered      int    // segments
	next         uint32 // the sequence number that may come next
	segments     int    // that came
	got          int    // bytes of payload that came
	late         time.Duration
	sentAt       map[uint32]Instant
	every        time.Duration // between frames; 0: always some wait
	due          Instant
	atOnce       int // frames
	backlogBytes int
	carried      int // bytes of packets
}

const segment = 1448

func (s *source) frame(t testing.TB) Frame {
	if s.template == nil {
		s.template = packet{protocol: tcp, from: 1000, to: 80, payload: s.payload}.frame(t)[:14+20+20+s.payload]
	}
	b := s.template
	binary.BigEndian.PutUint32(b[14+12:], s.number)
	binary.BigEndian.PutUint32(b[14+20+4:], s.sent)
	f := Frame{Head: b}
	if s.payload > segment {
		f.Offload = Offload{Super: SuperTCP4, Segment: segment, Start: 34, Offset: 16}
	}
	return f
}

// A line is a shaper and what carries its packets: no faster than its rate.
type line struct {
	t       testing.TB
	s       *Shaper
	rate    int64
	now     Instant
	free    Instant
	carried int // bytes of packets
	sources []*source
}

func newLine(t testing.TB, rate int64, sources ...*source) *line {
	l := &line{t: t, s: NewShaper(rate), rate: rate, now: Instant(time.Hour), sources: sources}
	for i, s := range sources {
		s.number, s.sentAt = uint32(i), make(map[uint32]Instant)
		s.due = l.now.Add(time.Duration(i) * 37 * time.Microsecond)
	}
	return l
}

// offer lets s send what it sends now.
func (l *line) offer(s *source) {
	for s.every > 0 && s.due <= l.now {
		for range max(s.atOnce, 1) {
			l.enqueue(s)
		}
		s.due = s.due.Add(s.every)
	}
	q := &l.s.queueOf(s.class).flows[s.number]
	for range 4 {
		if s.every == 0 && q.bytes < max(s.backlogBytes, s.payload) {
			l.enqueue(s)
		}
	}
}

func (l *line) enqueue(s *source) {
	f := s.frame(l.t)
	s.sentAt[s.sent] = l.now
	s.sent += uint32(s.payload)
	s.offered += (s.payload + segment - 1) / segment
	if !l.s.Enqueue(l.now, AgentPlace(int(s.number)), s.class, s.number, &f) {
		l.t.Fatal("dropped at once")
	}
	l.checkMemory()
}

func (l *line) checkMemory() {
	l.t.Helper()
	for c, q := range l.s.queues() {
		if q.held > q.limit || q.bytes > q.held {
			l.t.Fatalf("class %d: %d bytes in %d of memory: want at most %d", c, q.bytes, q.held, q.limit)
		}
	}
	if r := &l.s.rooms; r.used+r.idleBytes > r.limit {
		l.t.Fatalf("%d bytes used, %d idle: want at most %d", r.used, r.idleBytes, r.limit)
	}
}

// run lets d pass.
func (l *line) run(d time.Duration) {
	for end := l.now.Add(d); l.now < end; {
		next := end
		for _, s := range l.sources {
			l.offer(s)
			if s.every > 0 {
				next = min(next, s.due)
			}
		}
		to, class, f, ok := l.s.Dequeue(l.now)
		if ok {
			l.carry(to, class, f)
			continue
		}
		at, waits := l.s.Next(l.now)
		if waits && at <= l.now {
			l.t.Fatal("nothing leaves when Next says that it does")
		}
		if waits {
			next = min(next, at)
		}
		l.now = next
	}
}

// carry brings the frame to the far end, in packets as the overlay makes them.
func (l *line) carry(to Place, class Class, f *Frame) {
	packets := (f.Len() + 1399) / 1400
	n := f.Len() + packets*(28+HeaderLen+TagLen+itemHeaderLen+chunkHeaderLen)
	l.s.Charge(n)
	l.carried += n
	l.free = max(l.free, l.now).Add(time.Duration(int64(n) * 8e9 / l.rate))
	b := make([]byte, f.Len())
	f.copy(b, 0)
	s := l.sources[binary.BigEndian.Uint32(b[14+12:])]
	seq, payload := binary.BigEndian.Uint32(b[14+20+4:]), len(b)-54
	if to != AgentPlace(int(s.number)) || class != s.class || seq < s.next {
		l.t.Fatalf("a frame of flow %d at %d for %v, class %d: out of order, or astray", s.number, seq, to, class)
	}
	s.next = seq + uint32(payload)
	s.carried += n
	s.got += payload
	s.segments += (payload + segment - 1) / segment
	if at, ok := s.sentAt[seq]; ok {
		s.late = max(s.late, l.free.Sub(at))
		delete(s.sentAt, seq)
	}
}

// queues returns those of all classes.
func (s *Shaper) queues() (all []*fairQueue) {
	for c := range s.class {
		all = append(all, &s.class[c])
	}
	for _, g := range s.guarantees {
		if g != nil {
			all = append(all, &g.fairQueue)
		}
	}
	return all
}

// waiting returns the segments that wait.
func (s *Shaper) segments() (n int) {
	for _, q := range s.queues() {
		for i := range q.flows {
			for w := q.flows[i].head; w != nil; w = w.next {
				if w.headers.Len == 0 {
					n++
				} else {
					n += (w.left() + int(w.offload.Segment) - 1) / int(w.offload.Segment)
				}
			}
		}
	}
	return n
}

// conserved checks that each segment left, was dropped, or waits.
func (l *line) conserved() {
	l.t.Helper()
	offered, came := 0, 0
	for _, s := range l.sources {
		offered += s.offered
		came += s.segments
	}
	if dropped := int(l.s.Lost()); offered != came+dropped+l.s.segments() {
		l.t.Fatalf("%d segments in, %d out, %d dropped, %d wait", offered, came, dropped, l.s.segments())
	}
}

func greedy() *source { return &source{payload: 44 * segment, class: ClassBulk} }
func ping() *source   { return &source{payload: 60, class: ClassDelay, every: 10 * time.Millisecond} }

func sparse() *source { return &source{payload: 200, class: ClassBulk, every: 31 * time.Millisecond} }

// Whatever the rate: the line is full, and neither a ping nor a flow that sends
// little waits for two that send all they can, which share evenly.
func TestShaperKeepsDelayShort(t *testing.T) {
	for _, rate := range []int64{1 * mbit, 5 * mbit, 20 * mbit, 100 * mbit, 1000 * mbit} {
		t.Run(fmt.Sprint(rate/mbit, "Mbit"), func(t *testing.T) {
			a, b, p, s := greedy(), greedy(), ping(), sparse()
			l := newLine(t, rate, a, b, p, s)
			d := 10 * time.Second / time.Duration(1+rate/(50*mbit))
			l.run(d)
			l.conserved()
			full := time.Duration(1700 * 8e9 / rate) // a frame that can't be cut is on the line
			t.Logf("ping %v, sparse %v, drops %v, full %.3f", p.late, s.late, l.s.Drops(), float64(l.carried)*8/float64(rate)/d.Seconds())
			if limit := 5*time.Millisecond + full; p.late > limit {
				t.Errorf("a ping waited %v: want at most %v", p.late, limit)
			}
			if limit := 10*time.Millisecond + 3*full; s.late > limit {
				t.Errorf("the sparse flow waited %v: want at most %v", s.late, limit)
			}
			if got := float64(l.carried) * 8 / d.Seconds(); got < 0.95*float64(rate) || got > 1.01*float64(rate) {
				t.Errorf("%.1f Mbit/s of %d passed", got/mbit, rate/mbit)
			}
			if diff := float64(a.got-b.got) / float64(a.got+b.got); diff < -0.025 || diff > 0.025 {
				t.Errorf("shares are %d and %d", a.got, b.got)
			}
			if p.segments < p.offered-1 || s.segments < s.offered-1 {
				t.Errorf("%d of %d pings and %d of %d sparse frames came", p.segments, p.offered, s.segments, s.offered)
			}
		})
	}
}

// Flows share bytes, whatever their frames are.
func TestShaperShares(t *testing.T) {
	big, full, small := greedy(), &source{payload: segment, backlogBytes: 50000}, &source{payload: 100, backlogBytes: 50000}
	l := newLine(t, 50*mbit, big, full, small)
	l.run(5 * time.Second)
	l.conserved()
	for _, s := range l.sources {
		bytes := s.got + s.segments*54
		if s == small {
			bytes = s.segments * wireLen(154) // mostly packet
		}
		if got := float64(bytes) / float64(l.carried); got < 0.27 || got > 0.38 {
			t.Errorf("frames of %d bytes: %.2f of the line: want a third", s.payload, got)
		}
	}
}

// A flood that claims to be urgent gets half the line while bulk waits, all of
// it when none does; and a ping passes it too, as it is another flow.
func TestShaperBoundsDelayClass(t *testing.T) {
	for _, rate := range []int64{2 * mbit, 100 * mbit} {
		bulk, s, p := greedy(), sparse(), ping()
		flood := &source{payload: 1400, class: ClassDelay, every: time.Duration(1400 * 8e9 / rate)}
		l := newLine(t, rate, flood, p, bulk, s)
		l.run(3 * time.Second)
		l.conserved()
		share := float64(flood.got+p.got) / float64(flood.got+bulk.got+p.got+s.got)
		full := time.Duration(1700 * 8e9 / rate)
		t.Logf("share %.3f, ping %v, sparse %v", share, p.late, s.late)
		if share < 0.45 || share > 0.55 {
			t.Errorf("the flood got %.2f of the line: want half", share)
		}
		if p.late > 5*time.Millisecond+3*full || s.late > 10*time.Millisecond+8*full {
			t.Errorf("a ping waited %v, the sparse flow %v", p.late, s.late)
		}
		alone := newLine(t, rate, &source{payload: 1400, class: ClassDelay, every: time.Duration(1400 * 8e9 / rate)})
		alone.run(3 * time.Second)
		if got := float64(alone.carried) * 8 / 3; got < 0.95*float64(rate) {
			t.Errorf("alone it got %.1f Mbit/s of %d", got/mbit, rate/mbit)
		}
	}
}

// CoDel keeps what one flow has waiting short if it heeds drops: its window is
// halved by one, and grows by a segment a round trip.
func TestShaperTellsSenders(t *testing.T) {
	const rtt = 20 * time.Millisecond
	s := &source{payload: 4 * segment, backlogBytes: 1}
	l := newLine(t, 20*mbit, s)
	window, drops, sum, rounds := 10*segment, uint64(0), 0, 0
	for range 1500 {
		s.backlogBytes = max(window-20*mbit/8/50, 1) // what doesn't fit the path
		l.run(rtt)
		if d := l.s.Drops()[ClassBulk]; d > drops {
			drops, window = d, max(window/2, 4*segment)
		} else {
			window += segment
		}
		sum, rounds = sum+l.s.Backlog()[ClassBulk], rounds+1
	}
	l.conserved()
	mean := time.Duration(sum / rounds * 8e9 / (20 * mbit))
	t.Logf("mean queue %v, %d drops", mean, drops)
	if mean > 4*codelTarget || drops == 0 || drops > 300 {
		t.Errorf("the queue was %v long on average, with %d drops", mean, drops)
	}
}

// A hundred thousand flows take no more memory than one, and don't keep an
// honest one from its share.
func TestShaperUnderAttack(t *testing.T) {
	for _, payload := range []int{1, 200, 1400} {
		s := &source{payload: 60, every: 40 * time.Millisecond}
		l := newLine(t, 100*mbit, s)
		r := rand.New(rand.NewPCG(1, uint64(payload)))
		b := packet{protocol: udp, from: 1, to: 2, payload: payload}.frame(t)
		came := 0
		for i := range 100_000 {
			flow := 1 + r.Uint32N(1<<20)*flowQueues + r.Uint32N(flowQueues-1) // never the honest one's queue
			binary.BigEndian.PutUint32(b[14+12:], 1)
			l.s.Enqueue(l.now, AgentPlace(0), Class(i%2), flow, &Frame{Head: b})
			l.checkMemory()
			l.offer(s)
			for {
				_, _, f, ok := l.s.Dequeue(l.now)
				if !ok {
					break
				}
				if binary.BigEndian.Uint32(f.Head[14+12:]) == 0 {
					came++
				}
			}
			l.now += 10_000
		}
		waits := l.s.class[ClassBulk].flows[0].bytes / len(s.template)
		if came+waits < s.offered-1 || waits > s.offered/4 {
			t.Errorf("frames of %d bytes: %d of the honest %d came, %d wait", len(b), came, s.offered, waits)
		}
	}
}

// What leaves in runs is, cut for a wire, what the super-frame is.
func TestShaperRuns(t *testing.T) {
	for _, rate := range []int64{64_000, 10 * mbit, 40 * mbit, 1000 * mbit} {
		for i, c := range cutCases {
			f, want := superOf(t, c)
			s := NewShaper(rate)
			s.class[ClassBulk].target = time.Hour // or CoDel drops some of it
			original := bytes.Clone(f.Head)
			s.Enqueue(1, AgentPlace(1), ClassBulk, 7, &Frame{Head: f.Head[:60], Body: [][]byte{f.Head[60:]}, Offload: f.Offload})
			var got [][]byte
			runs, most := 0, 0
			for now := Instant(1); s.Backlog() != [Classes]int{}; now += Instant(time.Second) {
				if _, _, run, ok := s.Dequeue(now); ok {
					var cutter Cutter
					wires, ok := cutAll(&cutter, run, 9000, MaxFrame)
					if !ok {
						t.Fatalf("case %d: a run can't be cut", i)
					}
					if c.payload > c.segment && (run.Super != 0) != (len(wires) > 1) {
						t.Errorf("case %d: a run of %d segments is of kind %d", i, len(wires), run.Super)
					}
					got, runs, most = append(got, wires...), runs+1, max(most, run.Len())
				}
			}
			if !equalFrames(got, want) {
				t.Errorf("case %d in %d runs: %d segments, or not the same: want %d", i, runs, len(got), len(want))
			}
			if limit := max(int(rate/8*15/10000), c.segment) + 200; most > limit {
				t.Errorf("case %d: a run of %d bytes at %d bit/s: want at most %d", i, most, rate, limit)
			}
			if !bytes.Equal(f.Head, original) {
				t.Errorf("case %d: the caller's frame was changed", i)
			}
		}
	}
}

// One whose headers are not what it says leaves as it came.
func TestShaperLeavesUnknownWhole(t *testing.T) {
	f := Frame{Head: make([]byte, 60000), Offload: Offload{Super: SuperTCP4, Segment: 1000}}
	s := NewShaper(10 * mbit)
	s.Enqueue(1, 5, ClassBulk, 7, &f)
	if to, _, got, ok := s.Dequeue(1); !ok || to != 5 || got.Len() != f.Len() || got.Offload != f.Offload {
		t.Fatal("changed")
	}
	for _, n := range []int{0, MinFrame - 1, MaxSuper + 1} {
		if s.Enqueue(1, 5, ClassDelay, 7, &Frame{Head: make([]byte, n)}) {
			t.Errorf("took a frame of %d bytes", n)
		}
	}
	if s.Drops()[ClassDelay] != 3 {
		t.Error("not counted")
	}
}

func TestShaperRate(t *testing.T) {
	s := NewShaper(8 * mbit) // a byte is a microsecond
	if _, ok := s.Next(5); ok {
		t.Error("there is a next frame of none")
	}
	f := Frame{Head: make([]byte, 1000)}
	now := Instant(time.Second)
	for range 10 {
		s.Enqueue(now, 1, ClassBulk, 1, &f)
	}
	left := 0
	for ; ; left++ {
		if _, _, _, ok := s.Dequeue(now); !ok {
			break
		}
		s.Charge(1100)
	}
	if left != 2 { // 2 ms are saved up: the second frame is on the line still
		t.Errorf("%d frames left at once", left)
	}
	at, ok := s.Next(now)
	if want := now.Add(2*1100*time.Microsecond - shaperBurst); !ok || at != want {
		t.Errorf("the next leaves %v from now: want %v", at.Sub(now), want.Sub(now))
	}
	s.SetRate(80 * mbit)
	if _, _, _, ok := s.Dequeue(at); !ok {
		t.Error("nothing leaves then")
	}
	if at2, _ := s.Next(at); at2.Sub(at) > 150*time.Microsecond {
		t.Errorf("the new rate isn't used: %v", at2.Sub(at))
	}
}

// What there is no room for at a lower rate goes at once, in both classes.
func TestShaperGivesMemoryBack(t *testing.T) {
	l := newLine(t, 1000*mbit)
	f := Frame{Head: make([]byte, 1514)}
	for i := range uint32(10_000) {
		for c := range Classes {
			l.s.Enqueue(l.now, 1, c, i, &f)
		}
	}
	l.checkMemory()
	if b := l.s.Backlog(); b[ClassBulk] < 7<<20 || b[ClassDelay] < 800<<10 {
		t.Errorf("%d bytes wait: want what the limits are", b)
	}
	l.s.SetRate(mbit)
	l.checkMemory()
}

func TestShaperDoesNotAllocate(t *testing.T) {
	s := NewShaper(100 * mbit)
	r := rand.New(rand.NewPCG(1, 2))
	super, _ := superOf(t, cutCase{payload: 60000, segment: segment, kind: SuperTCP4})
	frames := []Frame{super, {Head: make([]byte, 60)}, {Head: make([]byte, 1514)}}
	now := Instant(1)
	step := func() {
		for i := range frames {
			s.Enqueue(now, 1, Class(i%2), r.Uint32N(50), &frames[i])
		}
		now += Instant(4 * time.Millisecond)
		for {
			if _, _, f, ok := s.Dequeue(now); !ok {
				break
			} else {
				s.Charge(f.Len())
			}
		}
	}
	for range 1000 {
		step()
	}
	if n := testing.AllocsPerRun(1000, step); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzShaper runs random operations: what is in comes out in order, or is
// counted, memory is bounded, and Next keeps its word.
func FuzzShaper(f *testing.F) {
	f.Add(uint64(1), []byte("\x00\x01\x02\x03\x04\x05\x06\x07\xff\x80\x40"))
	f.Add(uint64(3), bytes.Repeat([]byte{0, 9, 17, 7}, 100))
	payloads := []int{1, 100, 460, segment, 2 * segment, 10*segment + 5, 44 * segment}
	templates := make([][]byte, len(payloads))
	for i, n := range payloads {
		s := source{payload: n}
		s.frame(f)
		templates[i] = s.template
	}
	f.Fuzz(func(t *testing.T, seed uint64, ops []byte) {
		r := rand.New(rand.NewPCG(seed, 1))
		var sources []*source
		for i := range 6 {
			sources = append(sources, &source{class: Class(i % 2)})
		}
		l := newLine(t, 64_000<<r.IntN(15), sources...)
		for i, op := range ops[:min(len(ops), 500)] {
			s := sources[int(op>>3)%len(sources)]
			switch op & 7 {
			case 0, 1, 2:
				i := r.IntN(len(payloads))
				s.payload, s.template = payloads[i], templates[i]
				l.enqueue(s)
			case 3:
				l.now += Instant(1 + r.Int64N(1e9))
			case 4:
				l.now += Instant(r.Int64N(1e6))
			case 5:
				l.s.SetRate(64_000 << r.IntN(15))
				l.checkMemory()
				l.s.Charge(r.IntN(70000))
			default:
				at, waits := l.s.Next(l.now)
				to, class, f, ok := l.s.Dequeue(l.now)
				if ok {
					l.carry(to, class, f)
				}
				if ok && (at != l.now || !waits) {
					t.Fatal("a frame left before Next")
				}
				if at, waits = l.s.Next(l.now); !ok && waits && at <= l.now {
					t.Fatal("nothing leaves when Next says that it does")
				}
			}
			if i%16 == 0 {
				l.conserved()
			}
		}
		for range 100_000 {
			if _, waits := l.s.Next(l.now); !waits {
				break
			}
			l.now += Instant(time.Second)
			if to, class, f, ok := l.s.Dequeue(l.now); ok {
				l.carry(to, class, f)
			}
		}
		l.conserved()
		l.s.recycle()
		for c := range l.s.class {
			if q := &l.s.class[c]; q.bytes != 0 || q.held != 0 {
				t.Fatalf("class %d: %d bytes in %d of memory are left of nothing", c, q.bytes, q.held)
			}
		}
	})
}

func BenchmarkShaper(b *testing.B) {
	super := Frame{Head: append(packet{protocol: tcp, from: 1, to: 2}.frame(b)[:54], make([]byte, 44*segment)...), Offload: Offload{Super: SuperTCP4, Segment: segment, Start: 34, Offset: 16}}
	for name, f := range map[string]Frame{
		"60": {Head: make([]byte, 60)}, "1514": {Head: make([]byte, 1514)}, "super": super,
	} {
		for _, flows := range []uint32{1, 1000} {
			b.Run(fmt.Sprint(name, "/", flows), func(b *testing.B) {
				s := NewShaper(1000 * mbit)
				now, flow := Instant(time.Hour), uint32(0)
				b.ReportAllocs()
				b.SetBytes(int64(f.Len()))
				for range 2 * flows {
					s.Enqueue(now, 1, ClassBulk, flow, &f)
					flow = (flow + 1) % flows
				}
				for b.Loop() {
					s.Enqueue(now, 1, ClassBulk, flow, &f)
					flow = (flow + 1) % flows
					now = now.Add(s.takes(f.Len()))
					for {
						if _, _, _, ok := s.Dequeue(now); !ok {
							break
						}
					}
				}
			})
		}
	}
}
