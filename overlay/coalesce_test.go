package overlay

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// datagramOf returns a UDP datagram of a flow as a frame without its checksum,
// and the frame finished.
func datagramOf(t testing.TB, c cutCase, number, payload int) (Frame, []byte) {
	t.Helper()
	c.udp, c.kind, c.segment = true, SuperUDP, payload
	b := c.frame(t, number, true, frameOf(payload, uint64(number)))
	done := bytes.Clone(b)
	f := Frame{Head: b}
	o := Offload{Super: SuperUDP}
	h, ok := o.Parse(b)
	if !ok {
		t.Fatal("no datagram")
	}
	o.Defer(b, h, len(b))
	f.Start, f.Offset = o.Start, o.Offset
	return f, done
}

// Datagrams of one flow become super-frames, and those the same datagrams again.
func TestCoalesce(t *testing.T) {
	for name, c := range map[string]cutCase{"IPv4": {}, "IPv6": {v6: true}, "tagged": {tags: 2}} {
		for _, lengths := range [][]int{
			slices64(64, 200), {64, 64, 64, 10, 64, 64}, {64, 65, 64}, {10, 64, 64}, slices64(1300, 20), slices64(1, 70), {64},
		} {
			var frames []Frame
			var want [][]byte
			for i, n := range lengths {
				f, done := datagramOf(t, c, i, n)
				frames, want = append(frames, f), append(want, done)
			}
			got, supers, _ := travel(t, 1472, frames, journey{func(int) bool { return false }, 1000})
			if !equalFrames(got, want) {
				t.Fatalf("%s, %v: %d datagrams came out of %d, or others", name, lengths, len(got), len(want))
			}
			if len(lengths) == 200 && supers != 4 {
				t.Errorf("%s: %d super-frames of 200 datagrams", name, supers)
			}
		}
	}
}

// What isn't the next datagram of the flow, to the bit, is not joined.
func TestCoalesceKeepsApart(t *testing.T) {
	be := binary.BigEndian
	for name, change := range map[string]func(f *Frame){
		"station":         func(f *Frame) { f.Head[5]++ },
		"TOS":             func(f *Frame) { f.Head[15] = 0x48; putIPv4Checksum(f.Head[14:34]) },
		"number":          func(f *Frame) { be.PutUint16(f.Head[18:], 7); putIPv4Checksum(f.Head[14:34]) },
		"fragment":        func(f *Frame) { be.PutUint16(f.Head[20:], 0x2000); putIPv4Checksum(f.Head[14:34]) },
		"hop limit":       func(f *Frame) { f.Head[22]--; putIPv4Checksum(f.Head[14:34]) },
		"address":         func(f *Frame) { f.Head[33]++; putIPv4Checksum(f.Head[14:34]) },
		"port":            func(f *Frame) { f.Head[37]++ },
		"length":          func(f *Frame) { be.PutUint16(f.Head[38:], 20) },
		"padding":         func(f *Frame) { f.Head = append(f.Head, 0) },
		"checksum":        func(f *Frame) { Complete(f.Head, f.Offload); f.Offload = Offload{} },
		"checksum of TCP": func(f *Frame) { f.Offset = 16 },
	} {
		var frames []Frame
		var want [][]byte
		for i := range 3 {
			f, _ := datagramOf(t, cutCase{}, i, 64)
			if i == 1 {
				change(&f)
			}
			done := bytes.Clone(f.Head)
			Complete(done, f.Offload)
			frames, want = append(frames, f), append(want, done)
		}
		got, supers, _ := travel(t, 1472, frames, journey{func(int) bool { return false }, 1000})
		if !equalFrames(got, want) || supers != 0 {
			t.Errorf("%s: %d frames, %d super-frames", name, len(got), supers)
		}
	}
}

// FuzzCoalesce sends any mixture of frames: what comes out, finished, is what
// went in, finished.
func FuzzCoalesce(f *testing.F) {
	f.Add(uint64(1), uint8(40))
	f.Fuzz(func(t *testing.T, seed uint64, count uint8) {
		r := rand.New(rand.NewPCG(seed, 3))
		var frames []Frame
		var want [][]byte
		number := 0
		for range int(count) {
			c := cutCase{v6: r.IntN(8) == 0, tags: r.IntN(8) / 7}
			n := []int{64, 64, 64, 63, 65, 1, 1200}[r.IntN(7)]
			g, _ := datagramOf(t, c, number, n)
			number++
			switch r.IntN(12) {
			case 0:
				number += r.IntN(3)
			case 1:
				g.Head[r.IntN(len(g.Head))] ^= byte(1 << r.IntN(8))
			case 2:
				g = Frame{Head: frameOf(60+r.IntN(100), seed)}
			case 3:
				Complete(g.Head, g.Offload)
				g.Offload = Offload{}
			}
			done := bytes.Clone(g.Head)
			Complete(done, g.Offload)
			frames, want = append(frames, g), append(want, done)
		}
		got, _, _ := travel(t, 1472, frames, journey{func(int) bool { return false }, 1 + r.IntN(9)})
		if !equalFrames(got, want) {
			t.Fatalf("%d frames in, %d out, or others", len(want), len(got))
		}
	})
}
