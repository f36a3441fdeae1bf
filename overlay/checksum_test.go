package overlay

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// Checksums that the sender left out are those that gopacket computes.
func TestComplete(t *testing.T) {
	for _, s := range []cutCase{
		{payload: 100, segment: 100, kind: SuperTCP4},
		{payload: 101, segment: 101, kind: SuperUDP, udp: true},
		{payload: 1, segment: 1, kind: SuperTCP6, v6: true},
		{payload: 33, segment: 33, kind: SuperUDP, v6: true, udp: true},
		{payload: 100, segment: 100, kind: SuperTCP4, tags: 2, options: true},
	} {
		_, frames := s.build(t)
		want := frames[0]
		got := bytes.Clone(want)
		o := s.offload()
		h, ok := o.Parse(got)
		if !ok {
			t.Fatalf("%+v: not parsed", s)
		}
		o.Defer(got, h, len(got))
		if bytes.Equal(got, want) {
			t.Fatalf("%+v: Defer changed nothing", s)
		}
		o.Super, o.Segment = 0, 0
		var c Cutter
		out, ok := cutAll(&c, &Frame{Head: got[:h.IP], Body: [][]byte{got[h.IP : h.L4+1], got[h.L4+1:]}, Offload: o}, 1500, 2000)
		if !ok || !bytes.Equal(out[0], want) {
			t.Errorf("%+v: the cutter made\n%x, want\n%x", s, out, want)
		}
		if !Complete(got, o) || !bytes.Equal(got, want) {
			t.Errorf("%+v: got\n%x, want\n%x", s, got, want)
		}
	}
	// SCTP's is a CRC: RFC 9260, and the check value of CRC-32C in it.
	b := append(make([]byte, 12), "123456789"...)
	if f := append([]byte{0}, b...); !Complete(f, Offload{Start: 1, Offset: 8}) || bytes.Equal(f[1:], b) {
		t.Error("SCTP's checksum was not computed")
	}
	for _, o := range []Offload{{Start: 12, Offset: 8}, {Start: 19, Offset: 2}, {Start: 22}, {Start: 0xffff, Offset: 0xffff}} {
		if f := bytes.Clone(b); Complete(f, o) || !bytes.Equal(f, b) {
			t.Errorf("%+v: completed in %d bytes", o, len(b))
		}
	}
}

// What Defer leaves in a super-frame is the sum of a pseudo header with the
// length of all of it.
func TestDefer(t *testing.T) {
	s := cutCase{payload: 40000, segment: 1000, kind: SuperTCP4, tags: 1}
	b, _ := s.build(t)
	o := s.offload()
	h, _ := o.Parse(b)
	o.Defer(b, h, len(b))
	var sum uint32
	for _, w := range []uint32{0x0a00, 1, 0x0a00, 2, 6, uint32(len(b) - h.L4)} {
		sum += w
	}
	want := uint16(sum>>16 + sum)
	if o.Start != 18+20 || o.Offset != 16 || binary.BigEndian.Uint16(b[54:]) != want {
		t.Errorf("%+v, %#04x; want 38, 16, %#04x", o, b[54:56], want)
	}
}

func TestIPv4Checksum(t *testing.T) {
	_, frames := cutCase{payload: 1, segment: 1, options: true}.build(t)
	want := frames[0]
	got := bytes.Clone(want)
	got[24] ^= 0xff
	putIPv4Checksum(got[14 : 14+24])
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got[14:38], want[14:38])
	}
}

func TestSum(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for n := range 200 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32() | 0xf0) // many carries
		}
		var slow uint32
		for i, x := range b {
			slow += uint32(x) << (8 * (1 - i%2))
			slow = slow>>16 + slow&0xffff
		}
		if got := fold(add(0, b)); got != uint16(slow) {
			t.Errorf("%d bytes: %#04x, want %#04x", n, got, uint16(slow))
		}
	}
	if got := fold(add(1<<64-1, bytes.Repeat([]byte{0xff}, 64))); got != 0xffff {
		t.Errorf("sum of ones only: %#04x, want 0xffff", got)
	}
}
