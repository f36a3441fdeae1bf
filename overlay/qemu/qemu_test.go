//go:build linux

package qemu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// patience bounds every wait of these tests.
const patience = 10 * time.Second

// A bench is a port and what it has read.
type bench struct {
	t     testing.TB
	p     *Port
	batch *overlay.Batch
	got   [][]byte // that came from QEMUs and went on
	left  []overlay.MAC
}

func newBench(t testing.TB) *bench {
	t.Helper()
	p, err := Open(Config{Path: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	b := &bench{t: t, p: p, batch: overlay.NewBatch()}
	p.Left = func(m overlay.MAC) { b.left = append(b.left, m) }
	return b
}

// turn waits until the port has something to do, and has it done.
func (b *bench) turn() {
	b.t.Helper()
	fds := []unix.PollFd{{Fd: int32(b.p.FD(0)), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(patience/time.Millisecond))
	if err != nil && !errors.Is(err, unix.EINTR) {
		b.t.Fatal(err)
	}
	if n == 0 && err == nil {
		b.t.Fatal("the port has nothing to do")
	}
	b.read()
}

func (b *bench) read() {
	b.t.Helper()
	if err := b.p.Read(0, b.batch); err != nil {
		b.t.Fatal(err)
	}
	for _, f := range b.batch.Frames() {
		b.got = append(b.got, bytes.Clone(f.Head))
	}
}

// until has the port work until something is so.
func (b *bench) until(is func() bool) {
	b.t.Helper()
	for end := time.Now().Add(patience); !is(); {
		if time.Now().After(end) {
			b.t.Fatal("it doesn't come to that")
		}
		b.turn()
	}
}

// A machine is the other end of a leg: QEMU's.
type machine struct {
	net.Conn
	t   testing.TB
	mac overlay.MAC
}

// connect adds a machine whose station is number i.
func (b *bench) connect(i int) *machine {
	b.t.Helper()
	before := b.p.Connected()
	c, err := net.Dial("unix", b.p.Name())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = c.Close() })
	b.until(func() bool { return b.p.Connected() > before })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &machine{c, b.t, overlay.MAC{2, 0, 0, 0, 0, byte(i)}}
}

func framed(frame []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)
}

func (m *machine) frame(to overlay.MAC, text string) []byte {
	return append(append(append(bytes.Clone(to[:]), m.mac[:]...), 0x12, 0x34), text...)
}

func (m *machine) send(to overlay.MAC, text string) []byte {
	m.t.Helper()
	f := m.frame(to, text)
	if _, err := m.Write(framed(f)); err != nil {
		m.t.Fatal(err)
	}
	return f
}

// next returns the next frame that the machine gets.
func (m *machine) next() []byte {
	m.t.Helper()
	var n [4]byte
	if _, err := io.ReadFull(m, n[:]); err != nil {
		m.t.Fatal(err)
	}
	f := make([]byte, binary.BigEndian.Uint32(n[:]))
	if _, err := io.ReadFull(m, f); err != nil {
		m.t.Fatal(err)
	}
	return f
}

func (m *machine) wants(text string) {
	m.t.Helper()
	if got := m.next(); string(got[overlay.MinFrame:]) != text {
		m.t.Errorf("%v got %q, want %q", m.mac, got[overlay.MinFrame:], text)
	}
}

// texts returns what came from QEMUs, without the headers, and forgets it.
func (b *bench) texts() (all []string) {
	for _, f := range b.got {
		all = append(all, string(f[overlay.MinFrame:]))
	}
	b.got = nil
	return all
}

func (b *bench) write(to overlay.MAC, text string) {
	b.t.Helper()
	m := machine{mac: overlay.MAC{2, 0, 0, 0, 9, 9}}
	if n := b.p.Write(3, []overlay.Frame{{Head: m.frame(to, text)}}); n != 1 {
		b.t.Errorf("%d frames taken", n)
	}
}

// Frames go where their station is: to one leg, to all others, or on.
func TestLegs(t *testing.T) {
	b := newBench(t)
	x, y, z := b.connect(1), b.connect(2), b.connect(3)
	far := overlay.MAC{2, 0, 0, 0, 9, 9}
	b.p.Elsewhere = func(m overlay.MAC) bool { return m == far }
	moved := func(want string) {
		t.Helper()
		b.turn()
		if got := strings.Join(b.texts(), " "); got != want {
			t.Errorf("%q went on, want %q", got, want)
		}
	}
	x.send(overlay.Broadcast, "a")
	moved("a")
	y.wants("a")
	z.wants("a")
	y.send(x.mac, "b") // known: to x alone
	moved("")
	x.wants("b")
	x.send(far, "c") // known elsewhere
	moved("c")
	x.send(overlay.MAC{2, 7}, "d") // unknown
	moved("d")
	y.wants("d")
	z.wants("d")
	x.send(x.mac, "e") // its own
	moved("")
	x.send(overlay.MAC{0x01, 0x80, 0xc2, 0, 0, 0}, "f") // of bridges
	moved("f")
	odd := machine{x.Conn, t, overlay.MAC{1, 2, 3, 4, 5, 6}} // from a group
	odd.send(y.mac, "g")
	moved("g")

	b.write(y.mac, "h")
	b.write(z.mac, "i") // silent until now: to all
	y.wants("h")
	for _, m := range []*machine{x, y, z} {
		m.wants("i")
	}
	// A station that moves to another leg is there at once.
	again := machine{z.Conn, t, x.mac}
	again.send(overlay.Broadcast, "j")
	moved("j")
	x.wants("j")
	y.wants("j")
	b.write(x.mac, "k")
	z.wants("k")
	b.write(overlay.Broadcast, "l")
	for _, m := range []*machine{x, y, z} {
		m.wants("l")
	}
}

// One that goes away is noticed, and so are its stations.
func TestGone(t *testing.T) {
	b := newBench(t)
	x, y := b.connect(1), b.connect(2)
	x.send(overlay.Broadcast, "a")
	y.send(overlay.Broadcast, "b")
	b.until(func() bool { return len(b.got) == 2 })
	_ = x.Close()
	b.until(func() bool { return b.p.Connected() == 1 })
	if len(b.left) != 1 || b.left[0] != x.mac {
		t.Errorf("%v left", b.left)
	}
	y.wants("a")
	b.write(x.mac, "c") // unknown now
	y.wants("c")
	b.connect(3)
}

// Streams that aren't what they should be end the connection, or cost a frame.
func TestStreams(t *testing.T) {
	good := framed(append(make([]byte, 6), 2, 0, 0, 0, 0, 1, 8, 0, 'x'))
	long := framed(make([]byte, overlay.MaxFrame+1))
	jumbo := framed(bytes.Repeat([]byte{0xff}, maxSent))
	for name, c := range map[string]struct {
		stream         []byte
		frames         int
		unfit, garbled uint64
	}{
		"good":               {append(bytes.Clone(good), good...), 2, 0, 0},
		"an empty frame":     {append([]byte{0, 0, 0, 0}, good...), 1, 1, 0},
		"a short one":        {append(framed(make([]byte, 13)), good...), 1, 1, 0},
		"a long one":         {append(long, good...), 1, 1, 0},
		"QEMU's longest":     {append(jumbo, good...), 1, 1, 0},
		"one longer":         {append(good, 0, 1, 0x10, 1, 0), 1, 0, 1},
		"a length below 0":   {[]byte{0xff, 0xff, 0xff, 0xff}, 0, 0, 1},
		"another protocol":   {[]byte("GET / HTTP/1.0\r\n\r\n"), 0, 0, 1},
		"garbage after good": {append(append(bytes.Clone(good), good...), "no frame"...), 2, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			x := b.connect(1)
			go func() {
				_, _ = x.Write(c.stream)
				_ = x.Conn.(*net.UnixConn).CloseWrite()
			}()
			b.until(func() bool { return b.p.Connected() == 0 })
			if len(b.got) != c.frames || b.p.Dropped() != c.unfit || b.p.Garbled() != c.garbled {
				t.Errorf("%d frames, %d unfit, %d garbled", len(b.got), b.p.Dropped(), b.p.Garbled())
			}
		})
	}
}

// A QEMU that doesn't read loses frames, and no other one does. What it gets later are
// whole frames.
func TestSlow(t *testing.T) {
	b := newBench(t)
	slow, quick := b.connect(1), b.connect(2)
	slow.send(overlay.Broadcast, "")
	b.turn()
	quick.wants("")
	quick.send(slow.mac, "")
	b.turn()
	slow.wants("")
	long := strings.Repeat("x", 1400)
	const frames = 1000
	for range frames {
		b.write(slow.mac, long)
		b.write(quick.mac, "y")
		quick.wants("y")
	}
	lost := b.p.Slow()
	if lost == 0 || lost >= frames {
		t.Fatalf("%d of %d frames lost", lost, frames)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range frames - int(lost) {
			slow.wants(long)
		}
	}()
	waiting := func() bool {
		l := (*b.p.legs.Load())[0]
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.waiting
	}
	b.until(func() bool { return !waiting() })
	<-done
	b.write(slow.mac, "z")
	slow.wants("z")
	if b.p.Slow() != lost {
		t.Errorf("%d more were lost", b.p.Slow()-lost)
	}
}

// More than a batch takes isn't left lying, though nothing more comes; and nobody waits
// for one who sends much.
func TestMoreThanABatch(t *testing.T) {
	b := newBench(t)
	x, y := b.connect(1), b.connect(2)
	b.p.Elsewhere = func(overlay.MAC) bool { return true }
	const frames = 1000
	var stream []byte
	for range frames {
		stream = append(stream, framed(x.frame(overlay.MAC{2}, "x"))...)
	}
	if _, err := x.Write(stream); err != nil {
		t.Fatal(err)
	}
	y.send(overlay.MAC{2}, "y")
	for range 3 {
		b.turn()
	}
	if got := strings.Join(b.texts(), ""); !strings.Contains(got, "y") || len(got) > 3*overlay.BatchFrames {
		t.Errorf("of two one is heard: %s", got)
	} else {
		b.until(func() bool { return len(got)+len(b.got) == frames+1 })
	}
	b.read() // and nothing is left
	if fds := []unix.PollFd{{Fd: int32(b.p.FD(0)), Events: unix.POLLIN}}; len(b.batch.Frames()) > 0 {
		t.Error("there is more")
	} else if n, err := unix.Poll(fds, 0); n != 0 || err != nil {
		t.Errorf("there is nothing, but it can be read: %d, %v", n, err)
	}
}

// A super-frame comes as what it is to be cut into.
func TestSuperFrame(t *testing.T) {
	b := newBench(t)
	x := b.connect(1)
	const segment, payload = 1000, 3500
	f := append(append(make([]byte, 6), 2, 0, 0, 0, 9, 9, 8, 0),
		0x45, 0, 0, 0, 0, 7, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
		0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 0, 0, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(f[16:], 40+payload)
	body := bytes.Repeat([]byte("0123456789"), payload/10)
	super := overlay.Frame{Head: f, Body: [][]byte{body[:100], body[100:]}, Offload: overlay.Offload{Start: 34, Offset: 16, Super: overlay.SuperTCP4, Segment: segment}}
	if n := b.p.Write(0, []overlay.Frame{super}); n != 1 {
		t.Fatalf("%d taken", n)
	}
	var got []byte
	for i := range 4 {
		s := x.next()
		if want := min(segment, payload-i*segment); len(s) != 54+want || int(binary.BigEndian.Uint32(s[38:])) != i*segment {
			t.Errorf("segment %d: %d bytes, at %d", i, len(s), binary.BigEndian.Uint32(s[38:]))
		}
		got = append(got, s[54:]...)
	}
	if !bytes.Equal(got, body) {
		t.Error("the payload is another")
	}
}

func TestTooMany(t *testing.T) {
	b := newBench(t)
	for i := range MaxLegs {
		b.connect(i)
	}
	c, err := net.Dial("unix", b.p.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b.until(func() bool { return b.p.Refused() == 1 })
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("one too many: %v", err)
	}
	if b.p.Connected() != MaxLegs {
		t.Errorf("%d are connected", b.p.Connected())
	}
}

// A guest with ever other addresses takes no more memory, and no other's.
func TestManyStations(t *testing.T) {
	b := newBench(t)
	x, y := b.connect(1), b.connect(2)
	b.p.Elsewhere = func(overlay.MAC) bool { return true }
	y.send(overlay.MAC{2}, "")
	b.turn()
	const many = 5 * legStations
	go func() {
		for i := range many {
			x.mac = overlay.MAC{2, 1, 0, 0, byte(i >> 8), byte(i)}
			x.send(overlay.MAC{2}, "")
		}
	}()
	b.until(func() bool { return len(b.got) == many+1 })
	if n := len(b.p.stations.at); n != legStations+1 {
		t.Errorf("%d stations", n)
	}
	if b.p.stations.leg(y.mac) == nil {
		t.Error("the other's is forgotten")
	}
	_ = x.Close()
	b.until(func() bool { return b.p.Connected() == 1 })
	if n := len(b.p.stations.at); n != 1 || len(b.left) != legStations {
		t.Errorf("%d stations, %d left", n, len(b.left))
	}
}

func TestDoesNotAllocate(t *testing.T) {
	b := newBench(t)
	x := b.connect(1)
	b.p.Elsewhere = func(m overlay.MAC) bool { return m[1] != 0 }
	stream, frames := framed(x.frame(overlay.MAC{2, 1}, "x")), []overlay.Frame{{Head: x.frame(x.mac, "x")}}
	in := make([]byte, 100)
	if n := testing.AllocsPerRun(100, func() {
		_, _ = x.Write(stream)
		_ = b.p.Read(0, b.batch)
		if len(b.batch.Frames()) != 1 || b.p.Write(0, frames) != 1 {
			t.Error("frames are lost")
		}
		_, _ = x.Read(in)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzSplitter shows that what a stream is cut into doesn't depend on how it comes, and
// that frames come back as they were sent.
func FuzzSplitter(f *testing.F) {
	f.Add(framed(make([]byte, 60)), uint16(1))
	f.Add(append(framed(make([]byte, 3)), framed(make([]byte, overlay.MaxFrame+9))...), uint16(7))
	f.Add([]byte("GET / HTTP/1.0\r\n\r\n"), uint16(3))
	f.Fuzz(func(t *testing.T, stream []byte, step uint16) {
		a, b := cut(t, stream, int(step)+1), cut(t, stream, roomLen)
		if len(a) != len(b) {
			t.Fatalf("%d frames, or %d", len(a), len(b))
		}
		for i := range a {
			if !bytes.Equal(a[i], b[i]) {
				t.Fatalf("frame %d differs", i)
			}
		}
		var again []byte
		for _, x := range a {
			again = append(again, framed(x)...)
		}
		if c := cut(t, again, int(step)+1); len(c) != len(a) {
			t.Fatalf("%d frames of %d", len(c), len(a))
		}
	})
}

// cut returns the frames of a stream that comes in steps of so many bytes.
func cut(t *testing.T, stream []byte, step int) (all [][]byte) {
	s := new(splitter)
	for {
		f, is := s.next()
		switch is {
		case whole:
			if len(f) < overlay.MinFrame || len(f) > overlay.MaxFrame {
				t.Fatalf("a frame of %d bytes", len(f))
			}
			all = append(all, bytes.Clone(f))
		case unfit:
		case nonsense:
			return all
		default:
			room := s.space()
			if len(room) == 0 {
				t.Fatal("no space for what must come")
			}
			if len(stream) == 0 {
				return all
			}
			n := copy(room, stream[:min(step, len(stream))])
			s.came(n)
			stream = stream[n:]
		}
	}
}

func BenchmarkPort(b *testing.B) {
	h := newBench(b)
	x := h.connect(1)
	h.p.Elsewhere = func(overlay.MAC) bool { return true }
	stream := bytes.Repeat(framed(x.frame(overlay.MAC{2, 1}, strings.Repeat("x", 1486))), 32)
	b.SetBytes(32 * 1500)
	for b.Loop() {
		if _, err := x.Write(stream); err != nil {
			b.Fatal(err)
		}
		for n := 0; n < 32; n += len(h.batch.Frames()) {
			_ = h.p.Read(0, h.batch)
		}
	}
}
