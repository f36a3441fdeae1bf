package lan

import (
	"encoding/binary"

	"farlan/overlay"
)

// The kernel hands frames to packet sockets as it has them: with a checksum
// that a device was to compute, as super-frames of up to 64 KB that a device
// was to cut, or that were merged on receipt. A header before each frame says
// which (struct virtio_net_hdr, in the host's byte order):
//
//	0    flags          1: the checksum is not computed yet
//	1    kind           of super-frame; 0x80 with TCP's congestion marks
//	2–3  header length  only a hint: ignored
//	4–5  segment        length of a segment's payload
//	6–7  start          what the checksum covers, from the frame's start
//	8–9  offset         where it is put, from start
const vnetLen = 10

// Flags and kinds of a vnet header.
const (
	needsChecksum = 1

	kindWhole = 0
	kindTCP4  = 1
	kindTCP6  = 4
	kindUDP   = 5
	kindECN   = 0x80
)

type vnet struct {
	flags, kind            byte
	segment, start, offset uint16
}

func parseVnet(b *[vnetLen]byte) vnet {
	n := binary.NativeEndian
	return vnet{b[0], b[1], n.Uint16(b[4:]), n.Uint16(b[6:]), n.Uint16(b[8:])}
}

// maxSegments bounds the frames that one super-frame yields: no system uses
// TCP segments of less than eight bytes. One with more is dropped.
const maxSegments = 1 << 16 / 8

const etherLen = overlay.MinFrame

// A cutter makes frames as they would be on the wire out of one that the
// kernel handed over. Its zero value holds none.
type cutter struct {
	frame   []byte // headers and all payload; nil when it has been cut up
	ip      int    // where the IP header starts, 0 if frame is whole already
	l4      int    // where the TCP or UDP header starts
	payload int    // where the payload starts
	at      int    // and how far it has been cut
	segment int    // length of a segment's payload
	index   uint16 // of the next segment
	udp     bool
}

// load takes a frame, which it may change, for an interface of the given MTU.
// It returns false for what cannot be made into wire frames.
func (c *cutter) load(v vnet, frame []byte, mtu int) bool {
	*c = cutter{}
	if len(frame) < etherLen {
		return false
	}
	if v.kind == kindWhole {
		if v.flags&needsChecksum != 0 && !complete(frame, int(v.start), int(v.offset)) {
			return false
		}
		c.frame, c.segment = frame, len(frame)
		return true
	}
	n := cutter{frame: frame, segment: int(v.segment)}
	if n.segment == 0 || !n.parse(v.kind&^kindECN) {
		return false
	}
	if !n.udp { // a segment of TCP may be any length, a datagram is what it is
		n.segment = min(n.segment, n.ip+mtu-n.payload)
	}
	if n.segment <= 0 || n.payload+n.segment > n.ip+mtu || (len(frame)-n.payload)/n.segment >= maxSegments {
		return false
	}
	n.at = n.payload
	*c = n
	return true
}

// parse finds the headers of a super-frame and says whether they are of kind.
func (c *cutter) parse(kind byte) bool {
	f := c.frame
	at := etherLen
	etherType := binary.BigEndian.Uint16(f[at-2:])
	for tags := 0; tags < 2 && (etherType == 0x8100 || etherType == 0x88a8); tags++ {
		if at += 4; at > len(f) {
			return false
		}
		etherType = binary.BigEndian.Uint16(f[at-2:])
	}
	c.ip = at
	var protocol byte
	switch {
	case etherType == 0x0800 && kind != kindTCP6:
		protocol = c.parseIPv4()
	case etherType == 0x86dd && kind != kindTCP4:
		protocol = c.parseIPv6()
	}
	switch {
	case protocol == 6 && kind != kindUDP:
		if c.l4+20 > len(f) {
			return false
		}
		words := int(f[c.l4+12] >> 4)
		c.payload = c.l4 + 4*words
		return words >= 5 && c.payload <= len(f)
	case protocol == 17 && kind == kindUDP:
		c.udp, c.payload = true, c.l4+8
		return c.payload <= len(f)
	}
	return false
}

// parseIPv4 finds what follows the header and returns its protocol, 0 if
// there is none.
func (c *cutter) parseIPv4() (protocol byte) {
	h := c.frame[c.ip:]
	if len(h) < 20 || h[0]>>4 != 4 || h[0]&0xf < 5 {
		return 0
	}
	c.l4 = c.ip + 4*int(h[0]&0xf)
	return h[9]
}

// parseIPv6 is parseIPv4 for IPv6. Headers that change what the pseudo header
// is (routing) or that forbid cutting (fragment) are not passed.
func (c *cutter) parseIPv6() (protocol byte) {
	h := c.frame[c.ip:]
	if len(h) < 40 || h[0]>>4 != 6 {
		return 0
	}
	next, at := h[6], 40
	for range 8 {
		if next != 0 && next != 60 { // hop-by-hop and destination options
			c.l4 = c.ip + at
			return next
		}
		if at+8 > len(h) {
			return 0
		}
		next, at = h[at], at+8+8*int(h[at+1])
	}
	return 0
}

// next puts the next frame into dst and returns its length, 0 if it is longer
// than dst. There is one as long as pending says so.
func (c *cutter) next(dst []byte) int {
	f := c.frame
	if c.ip == 0 {
		c.frame = nil
		if len(f) > len(dst) {
			return 0
		}
		return copy(dst, f)
	}
	body := f[c.at:min(c.at+c.segment, len(f))]
	n := c.payload + len(body)
	if n <= len(dst) {
		copy(dst, f[:c.payload])
		copy(dst[c.payload:], body)
		c.patch(dst[:n])
	} else {
		n = 0
	}
	c.at += len(body)
	c.index++
	if c.at >= len(f) {
		c.frame = nil
	}
	return n
}

func (c *cutter) pending() bool { return c.frame != nil }

// patch makes the headers of segment d, which are those of the super-frame,
// its own. Sources: the kernel's Documentation/networking/segmentation-offloads
// and tcp_gso_segment.
func (c *cutter) patch(d []byte) {
	be := binary.BigEndian
	h, t := d[c.ip:], d[c.l4:]
	pseudo := uint64(len(t))
	if h[0]>>4 == 4 {
		be.PutUint16(h[2:], uint16(len(h)))
		be.PutUint16(h[4:], be.Uint16(h[4:])+c.index)
		be.PutUint16(h[10:], 0)
		be.PutUint16(h[10:], checksum(add(0, h[:c.l4-c.ip])))
		pseudo = add(pseudo, h[12:20])
	} else {
		be.PutUint16(h[4:], uint16(len(h)-40))
		pseudo = add(pseudo, h[8:40])
	}
	if c.udp {
		be.PutUint16(t[4:], uint16(len(t)))
		be.PutUint16(t[6:], 0)
		be.PutUint16(t[6:], transportChecksum(add(pseudo+17, t)))
		return
	}
	const fin, psh, cwr = 0x01, 0x08, 0x80
	be.PutUint32(t[4:], be.Uint32(t[4:])+uint32(c.at-c.payload))
	if c.at+c.segment < len(c.frame) {
		t[13] &^= fin | psh
	}
	if c.index > 0 {
		t[13] &^= cwr
	}
	be.PutUint16(t[16:], 0)
	be.PutUint16(t[16:], transportChecksum(add(pseudo+6, t)))
}
