package overlay

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// spreadBodies packs frames for all, and returns the datagrams' bodies.
func spreadBodies(t *testing.T, frames []Frame) (bodies [][]byte) {
	t.Helper()
	var numbers atomic.Uint64
	var cuts atomic.Uint32
	p := NewPacker(func(run []byte, segment int) {
		for at := 0; at < len(run); at += segment {
			bodies = append(bodies, bytes.Clone(OpenedSpread(run[at:min(at+segment, len(run))])))
		}
	})
	p.BeginSpread(7, &numbers, &cuts, DatagramSize)
	for i := range frames {
		if !p.Add(&frames[i]) {
			t.Fatalf("frame %d of %d bytes isn't packed", i, frames[i].Len())
		}
	}
	p.Flush()
	return bodies
}

// What is packed for all comes out again whatever its size, behind a Spread in each datagram
// whose number is used once.
func TestSpreadIsPacked(t *testing.T) {
	var frames []Frame
	for i, n := range []int{60, 1514, 60, 1180, 4000, 14, 9000, 100} {
		frames = append(frames, Frame{Head: frameOf(n, uint64(i))})
	}
	super := Frame{Head: tcpFrame(t, 5000), Offload: Offload{Super: SuperTCP4, Segment: 1000}}
	frames = slices.Insert(frames, 4, super)
	var u Unpacker
	var s sink
	last := uint64(0)
	for _, body := range spreadBodies(t, frames) {
		x, items, count, ok := ParseSpread(body)
		if !ok || x.Origin != 7 || x.Links != 1 || x.Number <= last || count == 0 || len(body) > DatagramSize-HeaderLen-TagLen {
			t.Fatalf("%+v with %d frames, %v", x, count, ok)
		}
		last = x.Number
		u.Unpack(items, &s)
	}
	u.Flush(&s)
	if len(s.frames) != len(frames) || u.Malformed+u.Unknown+u.Incomplete != 0 {
		t.Fatalf("%d of %d frames came out", len(s.frames), len(frames))
	}
	for i, f := range s.frames {
		if !bytes.Equal(f, frames[i].Head) && i != 4 {
			t.Errorf("frame %d is another one", i)
		}
	}
	if len(s.frames[4]) != super.Len() {
		t.Errorf("the super-frame has %d bytes", len(s.frames[4]))
	}
}

// tcpFrame returns a super-frame with so many bytes of payload.
func tcpFrame(t *testing.T, payload int) []byte {
	t.Helper()
	f := make([]byte, 14+20+20+payload)
	copy(f, frameOf(12, 1))
	f[0], f[6], f[12] = 0xff, 2, 8
	f[14], f[14+9] = 0x45, protocolTCP
	f[14+20+12] = 5 << 4
	if _, ok := (Offload{Super: SuperTCP4, Segment: 1000}).Parse(f); !ok {
		t.Fatal("not a super-frame")
	}
	return f
}

// A packer that packed for all packs for one as before, and the other way round.
func TestPackerChanges(t *testing.T) {
	a, b := pair(t)
	var numbers atomic.Uint64
	var cuts atomic.Uint32
	var runs [][]byte
	p := NewPacker(func(run []byte, _ int) { runs = append(runs, bytes.Clone(run)) })
	f := Frame{Head: frameOf(100, 1)}
	p.BeginSpread(7, &numbers, &cuts, DatagramSize)
	p.Add(&f)
	p.Flush()
	p.Begin(a, SpaceWay, &cuts, DatagramSize, 0)
	if p.Open() {
		t.Error("something is in a run that begins")
	}
	p.Add(&f)
	p.Flush()
	body, ok := b.Open(runs[1])
	var u Unpacker
	var s sink
	u.Unpack(body, &s)
	if !ok || len(s.frames) != 1 || !IsSpread(OpenedSpread(runs[0])) || len(runs) != 2 {
		t.Errorf("%v, %d frames", ok, len(s.frames))
	}
	AgeSpread(runs[0])
	if x, _, _, ok := ParseSpread(OpenedSpread(runs[0])); !ok || x.Links != 2 {
		t.Errorf("a link later: %+v, %v", x, ok)
	}
}

// Nothing but frames may follow: what is about a session must not be passed on.
func TestSpreadOfOtherThings(t *testing.T) {
	front := appendSpread(nil, Spread{Origin: 7, Links: 1, Number: 1})
	frame := append([]byte{itemFrame, 0, 14}, frameOf(14, 1)...)
	good := slices.Concat(front, frame)
	for name, body := range map[string][]byte{
		"nothing":         nil,
		"no frames":       front,
		"padding only":    append(slices.Clone(front), 0, 0, 0),
		"cut off":         good[:len(good)-1],
		"half a header":   append(slices.Clone(good), itemFrame, 0),
		"short":           front[:SpreadOverhead-1],
		"goodbye":         AppendBye(slices.Clone(good)),
		"a notice":        AppendNotice(slices.Clone(good), Notice{NoticeNoWay, 1}),
		"a request":       AppendRequest(slices.Clone(good), []byte{1}),
		"an ack":          AppendAck(slices.Clone(good), Ack{}),
		"a probe":         AppendProbe(slices.Clone(good), Probe{}, false),
		"another":         slices.Concat(good, good),
		"no link":         slices.Concat(appendSpread(nil, Spread{Origin: 7}), frame),
		"no such leg":     slices.Concat(appendSpread(nil, Spread{Origin: 7, Links: 1, Leg: legs, Name: 1}), frame),
		"no name":         slices.Concat([]byte{itemSpread, 0, farSpreadLen}, front[3:], make([]byte, farSpreadLen-spreadLen), frame),
		"half a far one":  append(append([]byte{itemSpread, 0, farSpreadLen}, front[3:]...), 1, 2, 3),
		"another length":  slices.Concat([]byte{itemSpread, 0, spreadLen - 1}, good[3:]),
		"another's front": slices.Concat(frame, good),
	} {
		if x, _, _, ok := ParseSpread(body); ok {
			t.Errorf("%s: %+v", name, x)
		}
	}
	if x, items, count, ok := ParseSpread(append(slices.Clone(good), 0, 9)); !ok || count != 1 || len(items) != len(frame)+2 || x.Origin != 7 {
		t.Errorf("%+v, %d frames, %v", x, count, ok)
	}
	var u Unpacker
	var s sink
	u.Unpack(good, &s)
	if u.Unknown != 1 {
		t.Error("a spread that isn't looked at isn't counted")
	}
}

// What comes twice is told by its number, in whatever order; too many are not taken, and
// an origin that starts with another clock is heard again after a while.
func TestFloodsAreTakenOnce(t *testing.T) {
	f, now := NewFloods(), Instant(time.Hour)
	r := rand.New(rand.NewPCG(1, 1))
	const first = 1_700_000_000_000_000
	order := r.Perm(600)
	for i, k := range order {
		if v := f.Take(now.Add(time.Duration(i)*time.Millisecond), first+uint64(k), 1); v != Flood {
			t.Fatalf("number %d as the %dth: %v", k, i, v)
		}
	}
	for _, k := range order {
		if v := f.Take(now, first+uint64(k), 1); v != DropAgain {
			t.Fatalf("number %d again: %v", k, v)
		}
	}
	now = now.Add(time.Second)
	for _, s := range []struct {
		name   string
		after  time.Duration
		number uint64
		want   Verdict
	}{
		{"far ahead", 0, first + 1<<40, Flood},
		{"again", 0, first + 1<<40, DropAgain},
		{"a little behind", 0, first + 1<<40 - numbersKept + 1, Flood},
		{"too far behind", 0, first + 1<<40 - numbersKept, DropAgain},
		{"long ago", numbersFor - 1, 5, DropAgain},
		{"from a new start", 1, 5, Flood},
		{"that again", 0, 5, DropAgain},
		{"on from there", 0, 6, Flood},
		{"highest", 0, 1<<64 - 1, Flood},
		{"highest again", 0, 1<<64 - 1, DropAgain},
		{"wrapped", 0, 0, DropAgain},
	} {
		now = now.Add(s.after)
		if v := f.Take(now, s.number, 1); v != s.want {
			t.Errorf("%s: %v, want %v", s.name, v, s.want)
		}
	}
}

// Each origin has a budget, and so has who passes on.
func TestFloodsAreBounded(t *testing.T) {
	now := Instant(time.Hour)
	f, other := NewFloods(), NewFloods()
	taken := 0
	for i := range uint64(10 * FloodBurst) {
		if f.Take(now, i, 10) == Flood {
			taken += 10
		}
	}
	if taken != FloodBurst {
		t.Errorf("%d frames at once", taken)
	}
	if other.Take(now, 1, 10) != Flood {
		t.Error("one origin takes another's budget")
	}
	passed := 0
	for range 10 * FloodBurst {
		if f.Passes(now, 10) {
			passed += 10
		}
	}
	if passed != SpreadFactor*FloodBurst {
		t.Errorf("%d frames are passed on at once", passed)
	}
	if f.Take(now.Add(time.Second), 1<<20, FloodBurst+1) != DropStorm || f.Take(now.Add(2*time.Second), 1<<20+1, 1) != Flood {
		t.Error("more than a budget is taken, or the budget doesn't come back")
	}
}

func FuzzSpread(f *testing.F) {
	frame := append([]byte{itemFrame, 0, 14}, frameOf(14, 1)...)
	f.Add(append(appendSpread(nil, Spread{Origin: 7, Links: 3, Number: 1 << 50}), frame...))
	f.Add(append(appendSpread(nil, Spread{Origin: 7, Links: 255}), itemPiece, 0, 9, 0, 0, 0, 1, 0, 0, 0, 14, 9))
	f.Add(append(appendSpread(nil, Spread{Origin: 7, Links: 3, Number: 1 << 50, Leg: LegBetween, Name: 9, Root: 5}), frame...))
	f.Fuzz(func(t *testing.T, body []byte) {
		s, items, count, ok := ParseSpread(body)
		if !ok {
			return
		}
		if again, _, n, ok := ParseSpread(append(appendSpread(nil, s), items...)); !ok || again != s || n != count {
			t.Fatalf("%+v with %d becomes %+v with %d", s, count, again, n)
		}
		d := slices.Concat(make([]byte, HeaderLen), body, make([]byte, TagLen))
		if AgeSpread(d); s.Links < 255 {
			if older, _, _, ok := ParseSpread(OpenedSpread(d)); !ok || older.Links != s.Links+1 || older.Number != s.Number {
				t.Fatalf("%+v gets %+v", s, older)
			}
		}
		turned := s
		turned.Links, turned.Leg, turned.Root = 1, LegArriving, 3
		if TurnSpread(d, LegArriving, 3) != (s.Name != 0) {
			t.Fatalf("%+v turns, or doesn't", s)
		} else if x, rest, n, ok := ParseSpread(OpenedSpread(d)); s.Name != 0 && (!ok || x != turned || n != count || !bytes.Equal(rest, items)) {
			t.Fatalf("%+v becomes %+v with %d", s, x, n)
		}
		var u Unpacker
		var all sink
		u.Unpack(items, &all)
		u.Flush(&all)
		if len(all.probes)+len(all.acks)+all.byes+len(all.notices)+len(all.requests)+len(all.reserves)+len(all.trains) > 0 {
			t.Fatalf("not only frames: %+v", all)
		}
	})
}

func FuzzFloods(f *testing.F) {
	f.Add(uint64(1), uint64(2), uint64(1)<<63, uint64(3))
	f.Fuzz(func(t *testing.T, a, b, c, d uint64) {
		floods, now := NewFloods(), Instant(time.Hour)
		taken := make(map[uint64]bool)
		for _, n := range []uint64{a, b, c, d, a, b, c, d} {
			if floods.Take(now, n, 1) == Flood {
				if taken[n] {
					t.Fatalf("number %d of %d, %d, %d, %d is taken twice", n, a, b, c, d)
				}
				taken[n] = true
			}
		}
		if !taken[a] {
			t.Fatal("the first isn't taken")
		}
	})
}
