package vnet

import (
	"bytes"
	"encoding/binary"
	"testing"

	"farlan/overlay"
)

// tcp4 returns a super-frame of TCP with n bytes of payload, and its headers'
// length.
func tcp4(n int) (f []byte, headers int) {
	f = append([]byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x00"+
		"\x45\x00\x00\x00\x00\x00\x40\x00\x40\x06\x00\x00\x0a\x00\x00\x01\x0a\x00\x00\x02"+
		"\x00\x01\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x50\x10\x00\x00\x00\x00\x00\x00"), make([]byte, n)...)
	return f, len(f) - n
}

// A super-frame's header says what the frame's Offload says, and that comes
// back.
func TestThereAndBack(t *testing.T) {
	b, headers := tcp4(5000)
	want := overlay.Offload{Super: overlay.SuperTCP4, Segment: 1400, ECN: true, Start: 34, Offset: 16}
	f := overlay.Frame{Head: b[:headers], Body: [][]byte{b[headers:]}, Offload: want}
	var h Header
	if !h.Set(&f, 1440) {
		t.Fatal("refused")
	}
	ne := binary.NativeEndian
	if h[0] != 1 || h[1] != 0x81 || ne.Uint16(h[2:]) != 54 || ne.Uint16(h[4:]) != 1400 || ne.Uint16(h[6:]) != 34 || ne.Uint16(h[8:]) != 16 {
		t.Errorf("header %x", h)
	}
	if o, ok := h.Parse(b, 0); !ok || o != want {
		t.Errorf("got %+v (%v), want %+v", o, ok, want)
	}
	if !h.Set(&f, 1300) || ne.Uint16(h[4:]) != 1260 {
		t.Errorf("segments of %d bytes at an MTU of 1300", ne.Uint16(h[4:]))
	}
}

// A super-frame whose checksum is there leaves with one that is not.
func TestFinishedChecksum(t *testing.T) {
	b, _ := tcp4(5000)
	h := Header{1: kindTCP4}
	binary.NativeEndian.PutUint16(h[4:], 1000)
	o, ok := h.Parse(b, 0)
	sum := uint16(0x0a00 + 1 + 0x0a00 + 2 + 6 + 5020)
	if !ok || o.Start != 34 || o.Offset != 16 || binary.BigEndian.Uint16(b[50:]) != sum {
		t.Errorf("got %+v (%v), sum %x, want %x", o, ok, b[50:52], sum)
	}
}

func TestRefused(t *testing.T) {
	b, headers := tcp4(3000)
	good := overlay.Offload{Super: overlay.SuperTCP4, Segment: 1000, Start: 34, Offset: 16}
	with := func(change func(o *overlay.Offload)) overlay.Offload {
		o := good
		change(&o)
		return o
	}
	var h Header
	for _, c := range []struct {
		name string
		f    overlay.Frame
		mtu  int
	}{
		{"short", overlay.Frame{Head: b[:13]}, 1500},
		{"long", overlay.Frame{Head: b[:14], Body: [][]byte{make([]byte, overlay.MaxFrame)}}, 1500},
		{"long super-frame", overlay.Frame{Head: b, Body: [][]byte{make([]byte, overlay.MaxSuper)}, Offload: good}, 1500},
		{"headers scattered", overlay.Frame{Head: b[:headers-1], Body: [][]byte{b[headers-1:]}, Offload: good}, 1500},
		{"no segment", overlay.Frame{Head: b, Offload: with(func(o *overlay.Offload) { o.Segment = 0 })}, 1500},
		{"unknown kind", overlay.Frame{Head: b, Offload: with(func(o *overlay.Offload) { o.Super = 99 })}, 1500},
		{"other family", overlay.Frame{Head: b, Offload: with(func(o *overlay.Offload) { o.Super = overlay.SuperTCP6 })}, 1500},
		{"no checksum", overlay.Frame{Head: b, Offload: with(func(o *overlay.Offload) { o.Start = 0 })}, 1500},
		{"checksum elsewhere", overlay.Frame{Head: b, Offload: with(func(o *overlay.Offload) { o.Start-- })}, 1500},
		{"tiny MTU", overlay.Frame{Head: b, Offload: good}, 40},
	} {
		if h.Set(&c.f, c.mtu) {
			t.Errorf("%s: passed", c.name)
		}
	}
	for _, c := range []struct {
		name string
		h    Header
		f    []byte
	}{
		{"short", Header{}, b[:13]},
		{"too long", Header{}, make([]byte, overlay.MaxFrame+1)},
		{"unknown kind", Header{1: 3, 4: 100}, b},
		{"checksum outside", Header{0: 1, 6: 34, 8: 16}, b[:51]},
		{"checksum elsewhere", Header{0: 1, 1: kindTCP4, 4: 100, 6: 33, 8: 16}, b},
		{"no segment", Header{1: kindTCP4}, b},
	} {
		if o, ok := c.h.Parse(bytes.Clone(c.f), 0); ok {
			t.Errorf("%s: passed as %+v", c.name, o)
		}
	}
}

// No header and no frame makes Parse panic, and what it passes Set passes.
func FuzzParse(f *testing.F) {
	b, _ := tcp4(3000)
	f.Add([]byte{1, 1, 0, 0, 100, 0, 34, 0, 16, 0}, 0, b)
	f.Add([]byte{0, 1, 0, 0, 100, 0, 0, 0, 0, 0}, 0, b)
	f.Add([]byte{1, 0, 0, 0, 0, 0, 30, 0, 16, 0}, 4, b[:100])
	f.Fuzz(func(t *testing.T, header []byte, tag int, frame []byte) {
		if len(header) != Len || len(frame) > 2*overlay.MaxSuper {
			return
		}
		h := Header(header)
		o, ok := h.Parse(frame, tag&4)
		if !ok {
			return
		}
		if !h.Set(&overlay.Frame{Head: frame, Offload: o}, 1<<17) {
			t.Errorf("%+v was read and can't be written", o)
		}
	})
}
