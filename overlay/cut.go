package overlay

import "encoding/binary"

// Protocols of IP.
const (
	protocolTCP = 6
	protocolUDP = 17
)

// Headers says where a super-frame's headers are, in bytes from its start.
type Headers struct {
	IP  int // where the IP header starts
	L4  int // where the TCP or UDP header starts
	Len int // of all headers together: where the payload starts
}

// Parse finds the headers of a super-frame, which head holds whole. It returns
// false if they are not what o.Super says, or if o is no super-frame's.
func (o Offload) Parse(head []byte) (h Headers, ok bool) {
	at := MinFrame
	if len(head) < at {
		return h, false
	}
	etherType := binary.BigEndian.Uint16(head[at-2:])
	for tags := 0; tags < 2 && (etherType == 0x8100 || etherType == 0x88a8); tags++ {
		if at += 4; at > len(head) {
			return h, false
		}
		etherType = binary.BigEndian.Uint16(head[at-2:])
	}
	var protocol byte
	switch {
	case etherType == 0x0800 && (o.Super == SuperTCP4 || o.Super == SuperUDP):
		h.L4, protocol = parseIPv4(head, at)
	case etherType == 0x86dd && (o.Super == SuperTCP6 || o.Super == SuperUDP):
		h.L4, protocol = parseIPv6(head, at)
	}
	h.IP = at
	switch {
	case protocol == protocolTCP && o.Super != SuperUDP:
		if h.L4+20 > len(head) {
			return h, false
		}
		words := int(head[h.L4+12] >> 4)
		h.Len = h.L4 + 4*words
		return h, words >= 5 && h.Len <= len(head)
	case protocol == protocolUDP && o.Super == SuperUDP:
		h.Len = h.L4 + 8
		return h, h.Len <= len(head)
	}
	return h, false
}

// parseIPv4 returns what follows the header at byte ip of f, and where; the
// protocol is 0 if there is none.
func parseIPv4(f []byte, ip int) (at int, protocol byte) {
	h := f[ip:]
	if len(h) < 20 || h[0]>>4 != 4 || h[0]&0xf < 5 {
		return 0, 0
	}
	return ip + 4*int(h[0]&0xf), h[9]
}

// parseIPv6 is parseIPv4 for IPv6. Headers that change what the pseudo header
// is (routing) or that forbid cutting (fragment) are not passed.
func parseIPv6(f []byte, ip int) (at int, protocol byte) {
	h := f[ip:]
	if len(h) < 40 || h[0]>>4 != 6 {
		return 0, 0
	}
	next, n := h[6], 40
	for range 8 {
		if next != 0 && next != 60 { // hop-by-hop and destination options
			return ip + n, next
		}
		if n+8 > len(h) {
			return 0, 0
		}
		next, n = h[n], n+8+8*int(h[n+1])
	}
	return 0, 0
}

// Fit returns how long the payload of a segment may be where the MTU is that: a
// segment of TCP may be any length up to what the sender chose, a datagram is
// what it is. It returns false if nothing fits.
func (o Offload) Fit(h Headers, mtu int) (segment uint16, ok bool) {
	room := mtu - (h.Len - h.IP)
	n := int(o.Segment)
	if o.Super != SuperUDP {
		n = min(n, room)
	}
	return uint16(n), n > 0 && n <= room
}

// maxSegments bounds the frames that one super-frame yields: no system uses
// TCP segments of less than eight bytes. One with more is dropped.
const maxSegments = 1 << 16 / 8

// A Cutter makes frames as they are on a wire out of one that isn't finished:
// it cuts super-frames and computes checksums, for ports that leave neither to
// their system. The zero Cutter holds nothing.
type Cutter struct {
	frame   Frame
	pending bool
	length  int     // of the frame
	h       Headers // of a super-frame
	segment int     // length of a segment's payload
	at      int     // how far the frame has been cut
	index   uint16  // of the next segment
	piece   int     // of Head (0) and Body: where at lies
	offset  int     // in it
}

// Load takes a frame for a port of the given MTU, and forgets the last. The
// frame is not changed, and is borrowed until Pending is false. Load returns
// false for what cannot be made into frames of a wire.
func (c *Cutter) Load(f *Frame, mtu int) bool {
	*c = Cutter{frame: *f, length: f.Len()}
	if c.length < MinFrame {
		return false
	}
	if f.Super == 0 {
		c.pending = f.checksumFits(c.length)
		return c.pending
	}
	h, ok := f.Parse(f.Head)
	if !ok {
		return false
	}
	segment, ok := f.Fit(h, mtu)
	if !ok || (c.length-h.Len)/int(segment) >= maxSegments {
		return false
	}
	c.h, c.segment = h, int(segment)
	c.at, c.offset = h.Len, h.Len
	c.pending = true
	return true
}

// Pending says whether there is a next frame.
func (c *Cutter) Pending() bool { return c.pending }

// Next puts the next frame into dst and returns its length, 0 if it is longer
// than dst.
func (c *Cutter) Next(dst []byte) int {
	headers, body := 0, c.length
	if c.frame.Super != 0 {
		headers, body = c.h.Len, min(c.segment, c.length-c.at)
	}
	c.pending = c.at+body < c.length
	n := headers + body
	if n > len(dst) {
		c.skip(body)
		return 0
	}
	dst = dst[:n]
	copy(dst, c.frame.Head[:headers])
	c.gather(dst[headers:])
	if c.frame.Super == 0 {
		Complete(dst, c.frame.Offload)
	} else {
		c.patch(dst)
	}
	c.at += body
	c.index++
	return n
}

// gather fills dst with the next bytes of the frame.
func (c *Cutter) gather(dst []byte) {
	for len(dst) > 0 {
		n := copy(dst, c.rest())
		dst = dst[n:]
		c.offset += n
	}
}

// rest returns what is left of the piece that is at hand, and not nothing
// unless the frame has ended.
func (c *Cutter) rest() []byte {
	for ; c.piece <= len(c.frame.Body); c.piece, c.offset = c.piece+1, 0 {
		p := c.frame.Head
		if c.piece > 0 {
			p = c.frame.Body[c.piece-1]
		}
		if c.offset < len(p) {
			return p[c.offset:]
		}
	}
	return nil
}

// skip passes over the next n bytes of the frame.
func (c *Cutter) skip(n int) {
	c.at += n
	c.index++
	for n > 0 {
		m := min(n, len(c.rest()))
		c.offset += m
		n -= m
	}
}

// patch makes the headers of segment d, which are those of the super-frame,
// its own. Sources: the kernel's Documentation/networking/segmentation-offloads
// and tcp_gso_segment.
func (c *Cutter) patch(d []byte) {
	be := binary.BigEndian
	ip, t := d[c.h.IP:], d[c.h.L4:]
	if ip[0]>>4 == 4 {
		be.PutUint16(ip[2:], uint16(len(ip)))
		be.PutUint16(ip[4:], be.Uint16(ip[4:])+c.index)
		putIPv4Checksum(ip[:c.h.L4-c.h.IP])
	} else {
		be.PutUint16(ip[4:], uint16(len(ip)-40))
	}
	if c.frame.Super == SuperUDP {
		be.PutUint16(t[4:], uint16(len(t)))
		be.PutUint16(t[6:], 0)
		be.PutUint16(t[6:], transportChecksum(add(pseudoSum(ip, len(t), protocolUDP), t)))
		return
	}
	const fin, psh, cwr = 0x01, 0x08, 0x80
	be.PutUint32(t[4:], be.Uint32(t[4:])+uint32(c.at-c.h.Len))
	if c.pending {
		t[13] &^= fin | psh
	}
	if c.index > 0 {
		t[13] &^= cwr
	}
	be.PutUint16(t[16:], 0)
	be.PutUint16(t[16:], transportChecksum(add(pseudoSum(ip, len(t), protocolTCP), t)))
}
