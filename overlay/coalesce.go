package overlay

import (
	"bytes"
	"encoding/binary"
)

// A coalescer joins ordinary frames that follow each other and are UDP datagrams
// of one flow into a super-frame, so that the port is written once for all of
// them: what the kernel's receive offload does for network cards. It joins only
// what cutting the super-frame makes again, to the bit: datagrams of equal length
// (the last may be shorter) whose headers differ in IPv4's number alone, which
// rises by one; and only those whose checksum is still to be computed, as a
// checksum that is there might be wrong and must stay so. It copies no payload.
// The zero value is ready.
type coalescer struct {
	n       int // frames held back
	first   []byte
	offload Offload
	headers Headers
	segment int // bytes of payload of the first
	length  int // of all headers and payload
	body    [][]byte
	frame   Frame
	head    [MinFrame + 8 + 40 + 8]byte
}

// maxCoalesced bounds the frames of a super-frame, as the kernel does for UDP.
const maxCoalesced = 64

// add takes a frame that whole delivers. It returns false, and has delivered what
// it held back, if the frame can't be part of a super-frame.
func (c *coalescer) add(frame []byte, o Offload, to Items) bool {
	h, ok := coalescible(frame, o)
	if !ok {
		c.flush(to)
		return false
	}
	payload := frame[h.Len:]
	if c.n > 0 && (!c.follows(frame, h) || len(payload) > c.segment || c.length+len(payload) > 1<<16-1) {
		c.flush(to)
	}
	if c.n == 0 {
		c.first, c.offload, c.headers, c.segment, c.length = frame, o, h, len(payload), h.Len
		c.body = c.body[:0]
	}
	c.n++
	c.length += len(payload)
	c.body = append(c.body, payload)
	if len(payload) < c.segment || c.n == maxCoalesced {
		c.flush(to)
	}
	return true
}

// coalescible says whether a frame is a UDP datagram, alone in its frame, without
// IP options and not a fragment, with sums that are what they should be, and
// returns where its headers are.
func coalescible(frame []byte, o Offload) (Headers, bool) {
	if o.Offset != 6 {
		return Headers{}, false
	}
	h, ok := Offload{Super: SuperUDP}.Parse(frame)
	if !ok || int(o.Start) != h.L4 || len(frame) == h.Len {
		return h, false
	}
	be := binary.BigEndian
	ip := frame[h.IP:]
	if ip[0]>>4 == 4 {
		const offsetAndMore = 0x3fff
		ok = h.L4-h.IP == 20 && be.Uint16(ip[6:])&offsetAndMore == 0 && int(be.Uint16(ip[2:])) == len(ip) &&
			fold(add(0, ip[:20])) == 0xffff
	} else {
		ok = h.L4-h.IP == 40 && int(be.Uint16(ip[4:])) == len(ip)-40
	}
	n := len(frame) - h.L4
	return h, ok && int(be.Uint16(frame[h.L4+4:])) == n && be.Uint16(frame[h.L4+6:]) == fold(pseudoSum(ip, n, protocolUDP))
}

// follows says whether a frame with headers h is the next of the flow at hand.
func (c *coalescer) follows(frame []byte, h Headers) bool {
	if h != c.headers || !bytes.Equal(frame[:h.IP], c.first[:h.IP]) || !bytes.Equal(frame[h.L4:h.L4+4], c.first[h.L4:h.L4+4]) {
		return false
	}
	a, b := c.first[h.IP:h.L4], frame[h.IP:h.L4]
	if a[0]>>4 != 4 {
		return bytes.Equal(a[:4], b[:4]) && bytes.Equal(a[6:], b[6:])
	}
	number := binary.BigEndian.Uint16(a[4:]) + uint16(c.n)
	return bytes.Equal(a[:2], b[:2]) && binary.BigEndian.Uint16(b[4:]) == number &&
		bytes.Equal(a[6:10], b[6:10]) && bytes.Equal(a[12:], b[12:])
}

// flush delivers what is held back.
func (c *coalescer) flush(to Items) {
	if c.n == 0 {
		return
	}
	f := &c.frame
	if c.n == 1 {
		f.Head, f.Body, f.Offload = c.first, nil, c.offload
	} else {
		o := Offload{Super: SuperUDP, Segment: uint16(c.segment)}
		f.Head, f.Body = c.head[:copy(c.head[:], c.first[:c.headers.Len])], c.body
		f.Offload = o.narrow(f.Head, c.headers, 0, c.length-c.headers.Len, c.length-c.headers.Len)
	}
	c.n = 0
	to.Frame(f)
}
