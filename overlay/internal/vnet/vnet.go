// Package vnet reads and writes the header by which Linux tells what is
// unfinished in a frame: struct virtio_net_hdr, which TAPs and packet sockets
// put before each frame if they are asked to. Its numbers are in the host's
// order of bytes:
//
//	0    flags          1: the checksum is not computed yet
//	1    kind           of super-frame; 0x80 with TCP's congestion marks
//	2–3  header length  how much the kernel puts in one piece; not read
//	4–5  segment        length of a segment's payload
//	6–7  start          what the checksum covers, from the frame's start
//	8–9  offset         where it is put, from start
package vnet

import (
	"encoding/binary"

	"farlan/overlay"
)

// Len is the length of a header.
const Len = 10

// A Header is a header as it is before a frame; the zero Header is that of a
// finished frame.
type Header [Len]byte

// Flags and kinds.
const (
	needsChecksum = 1

	kindTCP4 = 1
	kindTCP6 = 4
	kindUDP  = 5
	kindECN  = 0x80
)

// kinds are the header's names of super-frames.
var kinds = [...]byte{overlay.SuperTCP4: kindTCP4, overlay.SuperTCP6: kindTCP6, overlay.SuperUDP: kindUDP}

// Parse returns what is unfinished in frame f, which was read behind h; tag is
// how many bytes of VLAN tag were put into f since, before the IP header. The
// checksum of a super-frame is made one that is still to be computed if it
// isn't. Parse returns false if f is not what h says, or longer than frames may
// be.
func (h *Header) Parse(f []byte, tag int) (o overlay.Offload, ok bool) {
	n := binary.NativeEndian
	if h[0]&needsChecksum != 0 {
		o.Start, o.Offset = n.Uint16(h[6:])+uint16(tag), n.Uint16(h[8:])
		if o.Start == 0 || int(o.Start)+int(o.Offset)+2 > len(f) {
			return o, false
		}
	}
	switch h[1] &^ kindECN {
	case 0:
		return o, len(f) >= overlay.MinFrame && len(f) <= overlay.MaxFrame
	case kindTCP4:
		o.Super = overlay.SuperTCP4
	case kindTCP6:
		o.Super = overlay.SuperTCP6
	case kindUDP:
		o.Super = overlay.SuperUDP
	}
	o.Segment, o.ECN = n.Uint16(h[4:]), h[1]&kindECN != 0
	headers, ok := o.Parse(f)
	if !ok || o.Segment == 0 || len(f) > overlay.MaxSuper {
		return o, false
	}
	if o.Start == 0 {
		o.Defer(f, headers, len(f))
	}
	return o, checksumOf(o, headers)
}

// Set makes h the header of f for a port of that MTU: segments of TCP become
// shorter if they don't fit. It returns false for frames that are longer or
// shorter than they may be, for what no header can say, and for a super-frame
// whose segments don't fit. The kernel checks the rest.
func (h *Header) Set(f *overlay.Frame, mtu int) bool {
	*h = Header{}
	length := f.Len()
	if len(f.Head) < overlay.MinFrame || length > overlay.MaxSuper || (f.Super == 0 && length > overlay.MaxFrame) {
		return false
	}
	n := binary.NativeEndian
	if f.Start != 0 {
		h[0] = needsChecksum
		n.PutUint16(h[6:], f.Start)
		n.PutUint16(h[8:], f.Offset)
	}
	if f.Super == 0 {
		return true
	}
	headers, ok := f.Parse(f.Head)
	if !ok || !checksumOf(f.Offload, headers) {
		return false
	}
	segment, ok := f.Fit(headers, mtu)
	if !ok {
		return false
	}
	h[1] = kinds[f.Super]
	if f.ECN && f.Super != overlay.SuperUDP {
		h[1] |= kindECN
	}
	n.PutUint16(h[2:], uint16(headers.Len))
	n.PutUint16(h[4:], segment)
	return true
}

// checksumOf says whether the unfinished checksum of a super-frame is that of
// its TCP or UDP header: the kernel refuses any other, and is not to be tried
// with what strangers send.
func checksumOf(o overlay.Offload, h overlay.Headers) bool {
	offset := uint16(16)
	if o.Super == overlay.SuperUDP {
		offset = 6
	}
	return int(o.Start) == h.L4 && o.Offset == offset
}
