package overlay

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// vlanFrame returns a frame with tags, each a TPID and what follows it.
func vlanFrame(tags ...uint32) []byte {
	f := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1}
	for _, t := range tags {
		f = binary.BigEndian.AppendUint32(f, t)
	}
	return append(f, 0x12, 0x34, 'x', 'y')
}

func vlanSet(ids ...uint16) *VLANSet {
	s := new(VLANSet)
	for _, id := range ids {
		s.Add(id)
	}
	return s
}

// Frames of a port are in the network what its filter says, and back. nil is a frame that
// doesn't pass.
func TestVLANs(t *testing.T) {
	const q = 0x8100 << 16
	plain, prio := vlanFrame(), vlanFrame(q|0xe000)
	ten, twenty, thirty := vlanFrame(q|10), vlanFrame(q|20), vlanFrame(q|30)
	double := vlanFrame(0x88a8<<16|10, q|20)
	inner := vlanFrame(q|20, q|10)                            // two tags of 802.1Q: the first counts
	hop, prioHop := vlanFrame(q|10, q|20), vlanFrame(q, q|20) // to VLAN 20, where 10 is taken off
	frames := [][]byte{plain, prio, ten, twenty, thirty, double, inner, hop, prioHop}
	for name, c := range map[string]struct {
		v       VLANs
		in, out [][]byte // what becomes of frames, into the network and out of it
	}{
		"all":    {VLANs{}, frames, frames},
		"access": {VLANs{Tag: 10}, [][]byte{ten, vlanFrame(q | 0xe00a), nil, nil, nil, nil, nil, nil, nil}, [][]byte{nil, nil, plain, nil, nil, nil, nil, nil, nil}},
		"trunks": {VLANs{Trunks: vlanSet(10, 20)}, [][]byte{nil, nil, ten, twenty, nil, nil, inner, hop, nil}, [][]byte{nil, nil, ten, twenty, nil, nil, inner, hop, nil}},
		"both":   {VLANs{Tag: 10, Trunks: vlanSet(20, 4094)}, [][]byte{ten, vlanFrame(q | 0xe00a), nil, twenty, nil, nil, inner, nil, nil}, [][]byte{nil, nil, plain, twenty, nil, nil, inner, nil, nil}},
	} {
		t.Run(name, func(t *testing.T) {
			b := NewBatch()
			c.v.Leave(b)
			for _, f := range frames {
				b.Commit(copy(b.Slot(), f), Offload{})
			}
			refused := 0
			if !c.v.All() {
				refused = c.v.Enter(b)
			}
			want := slices.DeleteFunc(slices.Clone(c.in), func(f []byte) bool { return f == nil })
			if refused != len(frames)-len(want) || len(b.Frames()) != len(want) {
				t.Fatalf("%d refused, %d pass", refused, len(b.Frames()))
			}
			for i, f := range b.Frames() {
				if !bytes.Equal(f.Head, want[i]) {
					t.Errorf("in: %x, want %x", f.Head, want[i])
				}
			}
			for i, f := range frames {
				x, u := Frame{Head: bytes.Clone(f)}, new(Untag)
				ok := c.v.All() || c.v.Exit(&x, u)
				if ok != (c.out[i] != nil) || ok && !bytes.Equal(whole(x), c.out[i]) {
					t.Errorf("out: %x: %v, %x, want %x", f, ok, whole(x), c.out[i])
				}
			}
		})
	}
}

func whole(f Frame) []byte {
	b := bytes.Clone(f.Head)
	for _, p := range f.Body {
		b = append(b, p...)
	}
	return b
}

func TestVLANSet(t *testing.T) {
	for want, s := range map[string]*VLANSet{"": vlanSet(), "20+30-32": vlanSet(20, 32, 30, 31), "1-2+4094": vlanSet(2, 1, 4094), "63-64": vlanSet(63, 64)} {
		if s.String() != want {
			t.Errorf("%v, want %s", s, want)
		}
	}
	if none := (*VLANSet)(nil); none.Has(1) || none.String() != "" {
		t.Errorf("none has %v", none)
	}
}

// FuzzVLANs shows that what goes through an access port comes back as it was, unfinished
// as it was; and that no frame makes the filter panic.
func FuzzVLANs(f *testing.F) {
	f.Add(vlanFrame(), uint16(0), uint16(10), uint16(20), []byte("body"))
	f.Add(vlanFrame(0x8100<<16|20), uint16(34), uint16(10), uint16(20), []byte{})
	f.Add(bytes.Repeat([]byte{7}, 3000), uint16(65535), uint16(4094), uint16(1), []byte{})
	f.Fuzz(func(t *testing.T, frame []byte, start, tag, trunk uint16, body []byte) {
		v := VLANs{Tag: tag%MaxVLAN + 1, Trunks: vlanSet(trunk)}
		if v.Trunks.Has(v.Tag) {
			return // refused when it is configured
		}
		frame = frame[:min(len(frame), SlotLen)]
		b, u := NewBatch(), new(Untag)
		v.Leave(b)
		b.Commit(copy(b.Slot(), frame), Offload{Start: start, Segment: 7})
		refused := v.Enter(b)
		_ = v.Exit(&Frame{Head: frame, Body: [][]byte{body}, Offload: Offload{Start: start}}, u)
		if refused == 1 || len(frame) < MinFrame {
			return
		}
		got := b.Frames()[0]
		sent := bytes.Clone(got.Head)
		if !v.Exit(&got, u) {
			if start == 0 || start >= MinFrame+tagLen {
				t.Fatalf("%x went in and not out", frame)
			}
			return
		}
		_, tagged := vlanOf(frame)
		if !bytes.Equal(got.Head[:12], frame[:12]) || got.Segment != 7 || !tagged && got.Start != start {
			t.Fatalf("%+v", got)
		}
		if !tagged && !bytes.Equal(whole(got), frame) {
			t.Fatalf("%x came back as %x", frame, whole(got))
		}
		if len(sent) > MaxFrame && len(frame) <= MaxFrame {
			t.Fatalf("%d bytes became %d", len(frame), len(sent))
		}
	})
}
