package overlay

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"
)

// pair returns the two ends of a session.
func pair(t testing.TB) (a, b *Session) {
	t.Helper()
	door, psk := [32]byte{1}, [32]byte{2}
	random := rand.NewChaCha8([32]byte{3})
	ka, _ := NewStaticKey(random)
	kb, _ := NewStaticKey(random)
	ida, idb := AgentID{0xa}, AgentID{0xb}
	ha, hb := NewHandshaker(ida, ka, door, psk, true), NewHandshaker(idb, kb, door, psk, true)
	i, d, err := ha.Initiate(1, idb, kb.Public, 7, random)
	if err != nil {
		t.Fatal(err)
	}
	b, r, err := hb.Respond(1, d, func(AgentID, [32]byte) bool { return true }, 9, random)
	if err != nil {
		t.Fatal(err)
	}
	if a, err = i.Finish(1, r); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// a sink collects what an Unpacker finds.
type sink struct {
	notices  []Notice
	requests [][]byte
	reserves [][]byte
	frames   [][]byte
	offloads []Offload
	probes   []Probe
	acks     []Ack
	byes     int
	trains   []Train
}

func (s *sink) Frame(f *Frame) {
	b := make([]byte, f.Len())
	f.copy(b, 0)
	s.frames = append(s.frames, b)
	s.offloads = append(s.offloads, f.Offload)
}
func (s *sink) Ack(a Ack)          { s.acks = append(s.acks, a) }
func (s *sink) Probe(p Probe)      { s.probes = append(s.probes, p) }
func (s *sink) ProbeReply(p Probe) { s.probes = append(s.probes, p) }
func (s *sink) Bye()               { s.byes++ }
func (s *sink) Notice(n Notice)    { s.notices = append(s.notices, n) }
func (s *sink) Request(m []byte)   { s.requests = append(s.requests, bytes.Clone(m)) }
func (s *sink) Reserve(m []byte)   { s.reserves = append(s.reserves, bytes.Clone(m)) }
func (s *sink) Train(t Train)      { s.trains = append(s.trains, t) }

// frameOf makes a frame of n bytes that no other resembles.
func frameOf(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	f := make([]byte, n)
	for i := range f {
		f[i] = byte(r.Uint32())
	}
	return f
}

// pack packs frames of the given lengths and returns them and the datagrams.
func pack(t testing.TB, s *Session, size int, lengths []int) (frames, datagrams [][]byte) {
	t.Helper()
	fs := make([]Frame, len(lengths))
	for i, n := range lengths {
		fs[i].Head = frameOf(n, uint64(i))
		frames = append(frames, fs[i].Head)
	}
	return frames, packFrames(t, s, size, fs)
}

// packFrames packs frames and returns the datagrams.
func packFrames(t testing.TB, s *Session, size int, frames []Frame) (datagrams [][]byte) {
	t.Helper()
	p := NewPacker(func(run []byte, segment int) {
		if len(run) > maxRunBytes || len(run) > maxRunSegments*segment || segment > size {
			t.Fatalf("a run of %d bytes in datagrams of %d", len(run), segment)
		}
		for len(run) > 0 {
			n := min(segment, len(run))
			datagrams = append(datagrams, bytes.Clone(run[:n]))
			run = run[n:]
		}
	})
	p.Begin(s, SpaceWay, new(atomic.Uint32), size, 0)
	for i := range frames {
		if !p.Add(&frames[i]) {
			t.Fatalf("frame %d refused", i)
		}
	}
	p.Flush()
	return datagrams
}

func TestPackThenUnpack(t *testing.T) {
	for name, lengths := range map[string][]int{
		"one small":            {60},
		"one full":             {1514},
		"tagged":               {1518, 1518, 1518},
		"small ones share":     {60, 60, 60, 60, 60, 60},
		"just fits":            {DatagramSize - HeaderLen - TagLen - itemHeaderLen},
		"one byte too long":    {DatagramSize - HeaderLen - TagLen - itemHeaderLen + 1},
		"mixed":                {1514, 60, 1514, 1514, 900, 60, 1400, 14, 1514},
		"jumbo":                {9014, 9022, 14, 9022},
		"more than a run":      slices64(1514, 130),
		"many small":           slices64(64, 2000),
		"pads a small rest":    {1380, 1300, 1300},
		"every length near it": lengthsBetween(1350, 1460),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			frames, datagrams := pack(t, a, DatagramSize, lengths)
			var u Unpacker
			var got sink
			for _, d := range datagrams {
				body, ok := b.Open(d)
				if !ok {
					t.Fatal("a datagram doesn't open")
				}
				u.Unpack(body, &got)
			}
			if !equalFrames(frames, got.frames) {
				t.Fatalf("%d frames in, %d out, or not the same", len(frames), len(got.frames))
			}
			if u.Malformed+u.Unknown+u.Incomplete != 0 {
				t.Fatalf("counted %d malformed, %d unknown, %d incomplete", u.Malformed, u.Unknown, u.Incomplete)
			}
		})
	}
}

func slices64(n, count int) []int {
	l := make([]int, count)
	for i := range l {
		l[i] = n
	}
	return l
}

func lengthsBetween(from, to int) (l []int) {
	for n := from; n <= to; n++ {
		l = append(l, n)
	}
	return l
}

func equalFrames(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// A lost datagram costs the frames that it carried a part of, and no others;
// reordering within the slots costs nothing.
func TestUnpackLossAndReordering(t *testing.T) {
	a, b := pair(t)
	frames, datagrams := pack(t, a, DatagramSize, slices64(1514, 40))
	lost := 11
	var u Unpacker
	var got sink
	rand.New(rand.NewPCG(1, 2)).Shuffle(16, func(i, j int) { datagrams[i], datagrams[j] = datagrams[j], datagrams[i] })
	for i, d := range datagrams {
		if i == lost {
			continue
		}
		body, ok := b.Open(d)
		if !ok {
			t.Fatal("a datagram doesn't open")
		}
		u.Unpack(body, &got)
	}
	if n := len(frames) - len(got.frames); n < 1 || n > 2 {
		t.Fatalf("a lost datagram cost %d frames", n)
	}
	known := make(map[string]bool)
	for _, f := range frames {
		known[string(f)] = true
	}
	for _, f := range got.frames {
		if !known[string(f)] {
			t.Fatal("a frame came out that nobody put in")
		}
	}
}

func TestPackDoesNotAllocate(t *testing.T) {
	a, b := pair(t)
	var u Unpacker
	items := &counting{}
	p := NewPacker(func(run []byte, segment int) {
		for len(run) > 0 {
			n := min(segment, len(run))
			if body, ok := b.Open(run[:n]); ok {
				u.Unpack(body, items)
			}
			run = run[n:]
		}
	})
	f := Frame{Head: frameOf(1514, 1)}
	cuts := new(atomic.Uint32)
	send := func() {
		p.Begin(a, SpaceWay, cuts, 1452, 0)
		for range 40 {
			p.Add(&f)
		}
		p.Flush()
	}
	send()
	if n := testing.AllocsPerRun(50, send); n != 0 {
		t.Errorf("%v allocations for 40 frames", n)
	}
	if items.frames == 0 || items.frames%40 != 0 {
		t.Errorf("%d frames came out", items.frames)
	}
}

type counting struct{ frames int }

func (c *counting) Frame(*Frame)     { c.frames++ }
func (c *counting) Ack(Ack)          {}
func (c *counting) Probe(Probe)      {}
func (c *counting) ProbeReply(Probe) {}
func (c *counting) Bye()             {}
func (c *counting) Notice(Notice)    {}
func (c *counting) Request([]byte)   {}
func (c *counting) Reserve([]byte)   {}
func (c *counting) Train(Train)      {}

func TestProbeItems(t *testing.T) {
	want := Probe{Number: 7, Sent: 123456789, Echo: 6, HoldMicros: 42, Highest: 99, Count: 98, Size: 1472, Seen: netip.MustParseAddrPort("192.0.2.7:4747")}
	asked := want
	asked.Size, asked.Seen = 0, netip.AddrPort{} // only a reply tells
	ack := Ack{Index: 5, Highest: 1 << 40, Count: 77, Bytes: 99, Stamp: 1234, Sent: 5678, HoldMicros: 910}
	var u Unpacker
	var got sink
	u.Unpack(AppendAck(AppendBye(AppendProbe(AppendProbe(nil, want, false), want, true)), ack), &got)
	if len(got.probes) != 2 || got.probes[0] != asked || got.probes[1] != want || got.byes != 1 || len(got.acks) != 1 || got.acks[0] != ack {
		t.Fatalf("got %+v", got)
	}
}

// Requests are taken as they are, up to their bound.
func TestRequestItems(t *testing.T) {
	most := bytes.Repeat([]byte{7}, MaxRequest)
	var u Unpacker
	var got sink
	u.Unpack(AppendRequest(AppendRequest(AppendRequest(nil, []byte{1}), most), nil), &got)
	u.Unpack(AppendRequest(nil, append(most, 7)), &got)
	if len(got.requests) != 2 || !bytes.Equal(got.requests[0], []byte{1}) || !bytes.Equal(got.requests[1], most) || u.Malformed != 2 {
		t.Errorf("got %v, malformed %d", got.requests, u.Malformed)
	}
}

// So are messages about reservations.
func TestReserveItems(t *testing.T) {
	most := bytes.Repeat([]byte{7}, MaxReserve)
	var u Unpacker
	var got sink
	u.Unpack(AppendReserve(AppendReserve(AppendReserve(nil, []byte{1}), most), nil), &got)
	u.Unpack(AppendReserve(nil, append(most, 7)), &got)
	if len(got.reserves) != 2 || !bytes.Equal(got.reserves[0], []byte{1}) || !bytes.Equal(got.reserves[1], most) || u.Malformed != 2 {
		t.Errorf("got %v, malformed %d", got.reserves, u.Malformed)
	}
}

// Probes are the only traffic of idle agents: this is what each costs.
func TestProbeSize(t *testing.T) {
	const ip = 20 + 8
	p := Probe{Seen: netip.MustParseAddrPort("192.0.2.7:4747")}
	probe := ip + HeaderLen + len(AppendProbe(nil, p, false)) + TagLen
	reply := ip + HeaderLen + len(AppendProbe(nil, p, true)) + TagLen
	if probe != 87 || reply != 96 {
		t.Errorf("a probe takes %d bytes of IP packet, a reply %d", probe, reply)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte{itemFrame, 0, 14, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14})
	f.Add(AppendProbe(nil, Probe{Number: 1, Seen: netip.MustParseAddrPort("[2001:db8::7]:4747")}, true))
	f.Add(AppendProbe(nil, Probe{Number: ProbeSpecial, Echo: 5, Count: 9}, false))
	f.Add(AppendNotice(nil, Notice{NoticeWant, 7}))
	f.Add(AppendRequest(nil, []byte{1, 2, 3}))
	f.Add(AppendReserve(nil, []byte{1, 2, 3}))
	f.Add([]byte{itemPiece, 0, 9, 0, 0, 0, 1, 0, 0, 0, 14, 9})
	f.Fuzz(func(t *testing.T, body []byte) {
		var u Unpacker
		var s sink
		for range 3 { // the state of one body meets the next
			u.Unpack(bytes.Clone(body), &s)
		}
		for _, frame := range s.frames {
			if len(frame) < MinFrame || len(frame) > MaxFrame {
				t.Fatalf("a frame of %d bytes came out", len(frame))
			}
		}
		for _, n := range s.notices {
			if again, known, ok := parseNotice(AppendNotice(nil, n)[itemHeaderLen:]); !ok || !known || again != n {
				t.Fatalf("%+v becomes %+v", n, again)
			}
		}
		for _, m := range s.requests {
			if len(m) == 0 || len(m) > MaxRequest {
				t.Fatalf("a request of %d bytes came out", len(m))
			}
		}
		for _, m := range s.reserves {
			if len(m) == 0 || len(m) > MaxReserve {
				t.Fatalf("a message of %d bytes came out", len(m))
			}
		}
		for _, p := range s.probes {
			if again, ok := parseProbe(AppendProbe(nil, p, true)[itemHeaderLen:], true); !ok || again != p {
				t.Fatalf("%+v becomes %+v", p, again)
			}
		}
	})
}

func FuzzPack(f *testing.F) {
	f.Add(uint64(1), uint16(1452), uint8(20))
	f.Fuzz(func(t *testing.T, seed uint64, size uint16, count uint8) {
		n := DatagramSize + int(size)%(MaxDatagram-DatagramSize)
		r := rand.New(rand.NewPCG(seed, 1))
		lengths := make([]int, int(count)%100+1)
		for i := range lengths {
			lengths[i] = MinFrame + r.IntN(MaxFrame-MinFrame+1)
			if r.IntN(2) == 0 {
				lengths[i] = MinFrame + r.IntN(1500)
			}
		}
		a, b := pair(t)
		frames, datagrams := pack(t, a, n, lengths)
		var u Unpacker
		var got sink
		for _, d := range datagrams {
			if len(d) > n {
				t.Fatalf("a datagram of %d bytes", len(d))
			}
			body, ok := b.Open(d)
			if !ok {
				t.Fatal("a datagram doesn't open")
			}
			u.Unpack(body, &got)
		}
		if !equalFrames(frames, got.frames) {
			t.Fatal("other frames came out")
		}
	})
}

func BenchmarkPackUnpack1514(b *testing.B) {
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
	})
	f := Frame{Head: frameOf(1514, 1)}
	cuts := new(atomic.Uint32)
	b.SetBytes(1514)
	b.ReportAllocs()
	p.Begin(s, SpaceWay, cuts, 1452, 0)
	for range b.N {
		p.Add(&f)
	}
	p.Flush()
}
