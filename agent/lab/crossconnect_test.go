package lab

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"time"
)

// newTestCross returns a cross-connect whose ports lead nowhere.
func newTestCross() *crossConnect {
	return &crossConnect{
		ports:    map[string]*os.File{"a": os.Stdin, "b": os.Stdout, "c": os.Stderr},
		circuits: make(map[string]*crossCircuit), ways: make(map[VLANEnd]*crossWay),
	}
}

func joining(id, a string, va uint16, b string, vb uint16, mbit int64) CrossCircuit {
	return CrossCircuit{ID: id, Ends: [2]VLANEnd{{a, va}, {b, vb}}, Capacity: mbit}
}

// tagged returns a frame of some bytes with a VLAN tag.
func tagged(tag uint16, length int) []byte {
	frame := append(make([]byte, 12), 0x81, 0)
	frame = binary.BigEndian.AppendUint16(frame, tag)
	return append(frame, make([]byte, length-len(frame))...)
}

// TestCrossPass: frames of a circuit come out at its other end alone, with that one's VLAN and
// the priority that they had; all else is dropped.
func TestCrossPass(t *testing.T) {
	x := newTestCross()
	for _, c := range []CrossCircuit{joining("one", "a", 100, "b", 205, 10), joining("two", "a", 101, "c", 101, 10), joining("same", "c", 7, "c", 8, 10)} {
		if err := x.connect(c); err != nil {
			t.Fatal(err)
		}
	}
	const priority = 5 << 13
	for _, c := range []struct {
		from string
		in   uint16
		to   *os.File
		out  uint16
	}{
		{"a", priority | 100, os.Stdout, priority | 205},
		{"b", 205, os.Stdin, 100},
		{"a", 101, os.Stderr, 101},
		{"c", 101, os.Stdin, 101},
		{"c", 7, os.Stderr, 8},
		{"b", 100, nil, 100}, // nobody's
		{"a", 0, nil, 0},
		{"a", 0xfff, nil, 0xfff},
	} {
		frame := tagged(c.in, 100)
		if to := x.pass(c.from, frame, time.Hour); to != c.to || !bytes.Equal(frame, tagged(c.out, 100)) {
			t.Errorf("%s.%d: to %v as %d", c.from, c.in, to, binary.BigEndian.Uint16(frame[14:]))
		}
	}
	for _, frame := range [][]byte{nil, make([]byte, 60), tagged(100, 17), make([]byte, 14)} {
		if x.pass("a", frame, 0) != nil {
			t.Errorf("%x passes", frame)
		}
	}
	if all, stray := x.status(); len(all) != 3 || stray != 7 || all[0].Ways[0].Frames != 1 || all[0].Ways[0].Bytes != 100 {
		t.Errorf("%+v, %d", all, stray)
	}
}

// TestCrossPolice: what passes in any time is the capacity's share of it and a burst, whatever is
// sent; each way for itself.
func TestCrossPolice(t *testing.T) {
	x := newTestCross()
	if err := x.connect(joining("one", "a", 1, "b", 1, 8)); err != nil { // a byte in a microsecond
		t.Fatal(err)
	}
	passed := func(from string, begin, end, every time.Duration) (sum int) {
		for now := begin; now < end; now += every {
			if x.pass(from, tagged(1, 1000), now) != nil {
				sum += 1000
			}
		}
		return sum
	}
	if got := passed("a", 0, time.Second, 250*time.Microsecond); got != 1_049_000 {
		t.Errorf("%d bytes of four times as many as there may be", got)
	}
	if got := passed("a", time.Second, 2*time.Second, time.Millisecond); got != 1_000_000 {
		t.Errorf("%d bytes of as many as there may be", got)
	}
	if got := passed("b", 2*time.Second, 2*time.Second+time.Microsecond, 10*time.Nanosecond); got != 50_000 {
		t.Errorf("%d bytes at once after a pause", got)
	}
	if err := x.connect(joining("one", "a", 1, "b", 1, 16)); err != nil {
		t.Fatal(err)
	}
	if got := passed("a", 3*time.Second, 4*time.Second, 250*time.Microsecond); got != 2_099_000 {
		t.Errorf("%d bytes with twice the capacity", got)
	}
}

// TestCrossChange goes through what may be asked.
func TestCrossChange(t *testing.T) {
	x := newTestCross()
	one := joining("one", "a", 100, "b", 100, 10)
	if r := x.answer(crossRequest{Connect: &one}); r.Error != "" || len(r.Circuits) != 1 {
		t.Fatal(r)
	}
	for text, c := range map[string]CrossCircuit{
		"another one of that name": joining("one", "a", 101, "b", 101, 10),
		"another one":              joining("", "a", 101, "b", 101, 10),
		"circuit one":              joining("two", "c", 100, "a", 100, 10),
		"no port":                  joining("two", "a", 101, "d", 101, 10),
		"0 is no VLAN":             joining("two", "a", 101, "b", 0, 10),
		"4095 is no VLAN":          joining("two", "a", 4095, "b", 1, 10),
		"nothing":                  joining("two", "a", 101, "b", 101, 0),
		"both ends":                joining("two", "a", 101, "a", 101, 10),
	} {
		if r := x.answer(crossRequest{Connect: &c}); !strings.Contains(r.Error, text) || len(r.Circuits) != 1 {
			t.Errorf("%+v: %+v", c, r)
		}
	}
	if r := x.answer(crossRequest{Break: "two"}); r.Error == "" {
		t.Error("what isn't there is broken")
	}
	if r := x.answer(crossRequest{Break: "one"}); r.Error != "" || !r.Circuits[0].Broken || x.pass("a", tagged(100, 60), 0) != nil {
		t.Errorf("broken: %+v", r)
	}
	if r := x.answer(crossRequest{Connect: &one}); r.Error == "" || r.Circuits[0].Ways[0].Broken != 1 {
		t.Errorf("it is broken, and said to be there: %+v", r)
	}
	if r := x.answer(crossRequest{Mend: "one"}); r.Error != "" || r.Circuits[0].Broken || x.pass("a", tagged(100, 60), 0) == nil {
		t.Errorf("mended: %+v", r)
	}
	for range 2 {
		if r := x.answer(crossRequest{Disconnect: "one"}); r.Error != "" || len(r.Circuits) > 0 || x.pass("a", tagged(100, 60), 0) != nil {
			t.Errorf("removed: %+v", r)
		}
	}
}

// FuzzCrossPass: no frame makes it panic, or passes with anything changed but the VLAN.
func FuzzCrossPass(f *testing.F) {
	f.Add(tagged(100, 60))
	f.Add(tagged(0xe064, 1518))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		x := newTestCross()
		if err := x.connect(joining("one", "a", 100, "b", 4094, 1_000_000)); err != nil {
			t.Fatal(err)
		}
		out := bytes.Clone(frame)
		if x.pass("a", out, 0) == nil {
			if !bytes.Equal(out, frame) {
				t.Errorf("%x became %x", frame, out)
			}
			return
		}
		vlan := binary.BigEndian.Uint16(out[14:])
		binary.BigEndian.PutUint16(out[14:], vlan&0xf000|100)
		if vlan&tagVLAN != 4094 || !bytes.Equal(out, frame) {
			t.Errorf("%x became %x", frame, out)
		}
	})
}
