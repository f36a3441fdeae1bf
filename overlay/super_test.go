package overlay

import (
	"bytes"
	"math/rand/v2"
	"sync/atomic"
	"testing"
)

// A journey is how the datagrams of super-frames travel: which are lost, where
// the receiver's batches end.
type journey struct {
	lost  func(i int) bool
	batch int // datagrams
}

// travel carries frames through a packer, the journey and an unpacker, and
// returns what came out as it would be on a wire. The receiver's buffers are
// overwritten after each batch, as sockets do.
func travel(t testing.TB, size int, frames []Frame, j journey) (got [][]byte, whole int, u *Unpacker) {
	t.Helper()
	a, b := pair(t)
	u = &Unpacker{}
	wire := &wireSink{t: t}
	datagrams := packFrames(t, a, size, frames)
	var read [][]byte
	for i, d := range datagrams {
		if !j.lost(i) {
			body, ok := b.Open(d)
			if !ok {
				t.Fatal("a datagram doesn't open")
			}
			u.Unpack(body, wire)
			read = append(read, d)
		}
		if (i+1)%j.batch == 0 || i == len(datagrams)-1 {
			u.Flush(wire)
			for _, d := range read {
				clear(d)
			}
			read = read[:0]
		}
	}
	return wire.frames, wire.supers, u
}

// A wireSink finishes the frames that it gets.
type wireSink struct {
	t      testing.TB
	frames [][]byte
	supers int
	cutter Cutter
}

func (s *wireSink) Frame(f *Frame) {
	if f.Super != 0 {
		s.supers++
		h, ok := f.Parse(f.Head)
		if !ok || f.Len()-h.Len <= int(f.Segment) {
			s.t.Fatalf("a super-frame of one segment, or with strange headers: %+v", f.Offload)
		}
	}
	got, ok := cutAll(&s.cutter, f, 1<<16, MaxSuper)
	if !ok {
		s.t.Fatalf("can't be finished: %+v", f.Offload)
	}
	s.frames = append(s.frames, got...)
}
func (s *wireSink) Probe(Probe)      {}
func (s *wireSink) ProbeReply(Probe) {}
func (s *wireSink) Ack(Ack)          {}
func (s *wireSink) Bye()             {}
func (s *wireSink) Notice(Notice)    {}
func (s *wireSink) Request([]byte)   {}
func (s *wireSink) Reserve([]byte)   {}
func (s *wireSink) Train(Train)      {}

// superOf returns the super-frame of a case, with the checksum left out, and its
// segments as gopacket makes them.
func superOf(t testing.TB, c cutCase) (Frame, [][]byte) {
	t.Helper()
	switch {
	case c.udp:
		c.kind = SuperUDP
	case c.v6:
		c.kind = SuperTCP6
	default:
		c.kind = SuperTCP4
	}
	b, want := c.build(t)
	f := Frame{Head: b, Offload: c.offload()}
	h, ok := f.Parse(b)
	if !ok {
		t.Fatal("the case isn't what it says")
	}
	f.Defer(b, h, len(b))
	return f, want
}

// whole returns the wire frames all of whose bytes travel in datagrams that are
// not lost: the slow, obvious reference. It knows how a packer cuts: as many
// whole segments in a datagram as fit, or anywhere if not even one does.
func survivors(f Frame, want [][]byte, size int, lost func(i int) bool) (alive [][]byte) {
	h, _ := f.Parse(f.Head)
	chunk := size - Overhead(h.Len)
	if n := chunk / int(f.Segment); n > 0 {
		chunk = n * int(f.Segment)
	}
	total := f.Len() - h.Len
	for i, w := range want {
		all := true
		for at := i * int(f.Segment); at < min((i+1)*int(f.Segment), total); at++ {
			all = all && !lost(at/chunk)
		}
		if all {
			alive = append(alive, w)
		}
	}
	return alive
}

var superCases = map[string]cutCase{
	"TCP over IPv4":           {payload: 60000, segment: 1360},
	"TCP over IPv6":           {v6: true, payload: 60000, segment: 1340},
	"with options, tagged":    {payload: 30000, segment: 1300, options: true, tags: 2},
	"UDP":                     {udp: true, payload: 20000, segment: 1200},
	"UDP over IPv6":           {udp: true, v6: true, payload: 20001, segment: 1200},
	"two segments a datagram": {payload: 40000, segment: 600},
	"tiny segments":           {payload: 3000, segment: 8},
	"longer than a datagram":  {payload: 50000, segment: 1460},
	"jumbo":                   {payload: 62000, segment: 8960},
	"jumbo UDP":               {udp: true, payload: 61000, segment: 8000},
	"two segments":            {payload: 1361, segment: 1360},
	"one segment":             {payload: 1000, segment: 1360},
}

// What comes out is what went in, but for the segments that a lost datagram
// carried, in order, with the headers that a network card would have made.
func TestSuperLoss(t *testing.T) {
	for name, c := range superCases {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(60) {
				r := rand.New(rand.NewPCG(seed, 1))
				f, want := superOf(t, c)
				gone := make(map[int]bool)
				if seed > 0 {
					for range 1 + r.IntN(4) {
						gone[r.IntN(50)] = true
					}
				}
				j := journey{lost: func(i int) bool { return gone[i] }, batch: 1 + r.IntN(64)}
				got, supers, u := travel(t, 1472, []Frame{f}, j)
				if alive := survivors(f, want, 1472, j.lost); !equalFrames(got, alive) {
					t.Fatalf("seed %d: %d segments, %d should come out, %d did, or not the same", seed, len(want), len(alive), len(got))
				}
				if seed == 0 && j.batch > 50 && len(want) > 1 && supers != 1 {
					t.Fatalf("nothing was lost, but %d super-frames came out", supers)
				}
				if u.Malformed+u.Unknown != 0 {
					t.Fatalf("%d malformed, %d unknown", u.Malformed, u.Unknown)
				}
			}
		})
	}
}

// Super-frames with the same headers, as UDP's are, are not mixed up.
func TestSuperTwins(t *testing.T) {
	c := cutCase{udp: true, payload: 30000, segment: 2000}
	one, want := superOf(t, c)
	two := one
	two.Head = bytes.Clone(one.Head)
	h, _ := two.Parse(two.Head)
	for i := range two.Head[h.Len:] {
		two.Head[h.Len+i] ^= 0xff
	}
	var cutter Cutter
	other, _ := cutAll(&cutter, &two, 1<<16, MaxSuper)
	known := make(map[string]bool)
	for _, w := range append(want, other...) {
		known[string(w)] = true
	}
	for from := range 20 {
		for n := range 25 {
			gap := func(i int) bool { return i >= from && i < from+n }
			got, _, _ := travel(t, 1472, []Frame{one, two}, journey{gap, 100})
			for _, g := range got {
				if !known[string(g)] {
					t.Fatalf("without datagrams %d to %d, a segment came out that nobody put in", from, from+n-1)
				}
			}
		}
	}
}

// Frames stay in order among super-frames.
func TestSuperOrder(t *testing.T) {
	var frames []Frame
	var want [][]byte
	for i, name := range []string{"TCP over IPv4", "UDP", "longer than a datagram", "jumbo", "TCP over IPv6"} {
		f, w := superOf(t, superCases[name])
		small := Frame{Head: frameOf(60+i, uint64(i))}
		frames = append(frames, small, f, small, small)
		want = append(want, small.Head)
		want = append(append(want, w...), small.Head, small.Head)
	}
	for batch := 1; batch < 200; batch += 13 {
		got, _, _ := travel(t, 1472, frames, journey{func(int) bool { return false }, batch})
		if !equalFrames(got, want) {
			t.Fatalf("batches of %d: %d frames came out of %d, or in another order", batch, len(got), len(want))
		}
	}
}

// FuzzSuper gives an unpacker the datagrams of super-frames in any order, with
// losses and repetitions, and some bytes changed by the peer itself.
func FuzzSuper(f *testing.F) {
	f.Add(uint64(1), uint8(0), uint16(1472), uint16(1360), false)
	f.Add(uint64(2), uint8(3), uint16(1252), uint16(1460), true)
	f.Fuzz(func(t *testing.T, seed uint64, chaos uint8, size, segment uint16, garble bool) {
		r := rand.New(rand.NewPCG(seed, 2))
		c := cutCase{v6: seed&1 != 0, udp: seed&2 != 0, tags: int(seed >> 2 & 1), segment: 8 + int(segment)%8900, payload: 1 + r.IntN(60000)}
		if c.payload <= c.segment || c.payload/c.segment >= 4000 {
			t.Skip("not a super-frame")
		}
		super, want := superOf(t, c)
		a, b := pair(t)
		datagrams := packFrames(t, a, DatagramSize+int(size)%4000, []Frame{super, super})
		for range int(chaos) % 8 {
			i, j := r.IntN(len(datagrams)), r.IntN(len(datagrams))
			datagrams[i], datagrams[j] = datagrams[j], datagrams[i]
		}
		known := make(map[string]bool)
		h, _ := super.Parse(super.Head)
		_, offset := super.checksum(h)
		for _, w := range want {
			if sum := w[h.L4+int(offset):]; sum[0] == 0 && sum[1] == 0 {
				// The other zero of ones' complement must be UDP's (RFC 768; gopacket
				// doesn't know) and is, as by Linux, that of a frame of TCP by itself.
				if !c.udp {
					known[string(w)] = true
				}
				sum[0], sum[1] = 0xff, 0xff
			}
			known[string(w)] = true
		}
		var u Unpacker
		wire := &anySink{}
		for _, d := range datagrams {
			body, ok := b.Open(d)
			if !ok || r.IntN(20) == 0 {
				continue
			}
			if garble && r.IntN(4) == 0 {
				body[r.IntN(len(body))] ^= byte(1 << r.IntN(8))
			}
			u.Unpack(body, wire)
			if r.IntN(10) == 0 {
				u.Flush(wire)
			}
		}
		u.Flush(wire)
		if garble {
			return // what a member garbles is its own; it must only not hurt us
		}
		for _, g := range wire.frames {
			if !known[string(g)] {
				t.Fatal("a segment came out that nobody put in")
			}
		}
		if chaos%8 == 0 && len(wire.frames) == 0 && len(want) > 100 {
			t.Fatal("nothing came out")
		}
	})
}

// An anySink finishes those frames that can be.
type anySink struct {
	frames [][]byte
	cutter Cutter
}

func (s *anySink) Frame(f *Frame) {
	got, _ := cutAll(&s.cutter, f, 1<<16, MaxSuper)
	s.frames = append(s.frames, got...)
}
func (s *anySink) Probe(Probe)      {}
func (s *anySink) ProbeReply(Probe) {}
func (s *anySink) Ack(Ack)          {}
func (s *anySink) Bye()             {}
func (s *anySink) Notice(Notice)    {}
func (s *anySink) Request([]byte)   {}
func (s *anySink) Reserve([]byte)   {}
func (s *anySink) Train(Train)      {}

// A frame without its checksum, whole or cut, comes out without it.
func TestPartialChecksum(t *testing.T) {
	for _, n := range []int{60, 1514, 9000} {
		f := Frame{Head: frameOf(n, 5), Offload: Offload{Start: 34, Offset: 16}}
		a, b := pair(t)
		var u Unpacker
		var got sink
		for _, d := range packFrames(t, a, 1472, []Frame{f}) {
			body, _ := b.Open(d)
			u.Unpack(body, &got)
		}
		if len(got.frames) != 1 || !bytes.Equal(got.frames[0], f.Head) || got.offloads[0] != f.Offload {
			t.Fatalf("%d bytes: came out as %+v", n, got.offloads)
		}
	}
}

// The packer refuses what the kernel can't mean.
func TestPackRefuses(t *testing.T) {
	a, _ := pair(t)
	p := NewPacker(func([]byte, int) { t.Error("something was sent") })
	good, _ := superOf(t, superCases["TCP over IPv4"])
	for name, change := range map[string]func(*Frame){
		"too short":           func(f *Frame) { f.Head, f.Offload = f.Head[:13], Offload{} },
		"too long":            func(f *Frame) { f.Head, f.Offload = f.Head[:MaxFrame+1], Offload{} },
		"no segment":          func(f *Frame) { f.Segment = 0 },
		"no payload":          func(f *Frame) { f.Head = f.Head[:54] },
		"of another kind":     func(f *Frame) { f.Super = SuperTCP6 },
		"of no kind":          func(f *Frame) { f.Super = 9 },
		"headers not in Head": func(f *Frame) { f.Body = [][]byte{f.Head[40:]}; f.Head = f.Head[:40] },
	} {
		f := good
		change(&f)
		p.Begin(a, SpaceWay, nil, 1472, 0)
		if p.Add(&f) {
			t.Errorf("%s: taken", name)
		}
		p.Flush()
	}
}

func BenchmarkSuper(b *testing.B) {
	s, r := pair(b)
	var u Unpacker
	items := &counting{}
	p := NewPacker(func(run []byte, segment int) {
		for len(run) > 0 {
			n := min(segment, len(run))
			if body, ok := r.Open(run[:n]); ok {
				u.Unpack(body, items)
			}
			run = run[n:]
		}
		u.Flush(items)
	})
	f, _ := superOf(b, superCases["TCP over IPv4"])
	b.SetBytes(int64(f.Len()))
	b.ReportAllocs()
	cuts := new(atomic.Uint32)
	for b.Loop() {
		p.Begin(s, SpaceWay, cuts, 1472, 0)
		p.Add(&f)
		p.Flush()
	}
}
