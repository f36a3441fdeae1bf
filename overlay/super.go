package overlay

import (
	"bytes"
	"encoding/binary"
	"math"
)

// A chunk is a part of a super-frame as it came in a datagram.
type chunk struct {
	number             uint16
	super              Super
	ecn                bool
	segment, at, total int // bytes of payload
	head, data         []byte
}

// parseChunk understands the content of a chunk's item. Its headers are only
// checked when a run begins with it.
func parseChunk(c []byte) (k chunk, ok bool) {
	if len(c) < chunkHeaderLen {
		return k, false
	}
	headers := int(c[3])
	if len(c) <= chunkHeaderLen+headers {
		return k, false
	}
	k = chunk{
		number: binary.BigEndian.Uint16(c), super: Super(c[2] &^ chunkECN), ecn: c[2]&chunkECN != 0,
		segment: int(binary.BigEndian.Uint16(c[4:])),
		at:      int(binary.BigEndian.Uint16(c[6:])),
		total:   int(binary.BigEndian.Uint16(c[8:])),
		head:    c[chunkHeaderLen:][:headers:headers],
		data:    c[chunkHeaderLen+headers:],
	}
	return k, k.segment > 0 && k.segment <= MaxFrame && k.at+len(k.data) <= k.total
}

// sound says whether the headers of k are what it says they are, and returns
// where they lie.
func (k *chunk) sound() (Headers, bool) {
	o := Offload{Super: k.super, Segment: uint16(k.segment)}
	h, ok := o.Parse(k.head)
	return h, ok && h.Len == len(k.head) && h.Len+k.segment <= MaxFrame && k.total+h.Len-h.IP <= math.MaxUint16
}

// A rebuilder makes super-frames of chunks again. What the network lost is
// missing, and nothing else: the segments that came whole before a gap are one
// super-frame, and those after it another. A chunk that doesn't continue the run
// at hand ends it. Nothing is copied but a segment of which only the beginning
// has come when a batch ends. The zero value is ready.
type rebuilder struct {
	active  bool
	run     chunk // its at is where the run starts, its head the run's headers
	headers Headers
	end     int      // where the run ends in the payload
	body    [][]byte // the payload from run.at to end
	frame   Frame

	// Of a segment that is not whole: the bytes up to end. While there are some,
	// run and end say of what they are, whether active or not.
	tail, spare []byte
	head        [256]byte // room for headers that are kept, or changed
}

// continues says whether k goes on where the run ended.
func (r *rebuilder) continues(k *chunk) bool {
	c := &r.run
	return r.end == k.at && c.number == k.number && c.super == k.super && c.ecn == k.ecn &&
		c.segment == k.segment && c.total == k.total && bytes.Equal(c.head, k.head)
}

// add takes the next chunk, and returns false if it is malformed.
func (r *rebuilder) add(k *chunk, to Items) bool {
	if r.active && !r.continues(k) {
		r.flush(to)
	}
	if !r.active {
		h, ok := k.sound()
		if !ok {
			return false
		}
		r.body = r.body[:0]
		if len(r.tail) > 0 && r.continues(k) {
			r.body = append(r.body, r.tail)
			r.run.at = r.end - len(r.tail)
			r.run.head = k.head
		} else {
			r.run = *k
		}
		r.headers, r.active = h, true
	}
	r.body = append(r.body, k.data)
	r.end = k.at + len(k.data)
	if r.end == k.total {
		r.flush(to)
	}
	return true
}

// flush delivers the whole segments of the run, and keeps what follows them.
func (r *rebuilder) flush(to Items) {
	if !r.active {
		return
	}
	r.active = false
	segment := r.run.segment
	first := (r.run.at + segment - 1) / segment * segment
	last := r.end
	if r.end < r.run.total {
		last = r.end / segment * segment
	}
	rest := r.spare[:0]
	if last >= r.run.at {
		rest = appendFrom(rest, r.body, last-r.run.at)
	}
	if first < last {
		r.deliver(first, last, to)
	}
	r.tail, r.spare = rest, r.tail
	if len(rest) > 0 {
		r.run.head = r.head[:copy(r.head[:], r.run.head)]
	}
}

// appendFrom appends to b the bytes of pieces from byte at on.
func appendFrom(b []byte, pieces [][]byte, at int) []byte {
	for _, p := range pieces {
		if at < len(p) {
			b = append(b, p[max(at, 0):]...)
		}
		at -= len(p)
	}
	return b
}

// deliver makes a frame of the payload from first to last.
func (r *rebuilder) deliver(first, last int, to Items) {
	f := &r.frame
	f.Head = r.run.head
	f.Body = trim(r.body, first-r.run.at, last-first)
	f.Offload = Offload{Super: r.run.super, Segment: uint16(r.run.segment), ECN: r.run.ecn}
	if first > 0 || last < r.run.total || last <= r.run.segment {
		f.Head = r.head[:copy(r.head[:], r.run.head)]
		f.Offload = f.narrow(f.Head, r.headers, first, last, r.run.total)
	} else {
		f.Start, f.Offset = f.checksum(r.headers)
	}
	to.Frame(f)
}

// trim cuts pieces to n bytes from byte at on, in place.
func trim(pieces [][]byte, at, n int) [][]byte {
	for at >= len(pieces[0]) {
		at -= len(pieces[0])
		pieces = pieces[1:]
	}
	pieces[0] = pieces[0][at:]
	for i, p := range pieces {
		if n <= len(p) {
			pieces[i] = p[:n]
			return pieces[:i+1]
		}
		n -= len(p)
	}
	return pieces
}

// checksum says where the checksum of a super-frame starts, and where it belongs.
func (o Offload) checksum(h Headers) (start, offset uint16) {
	if o.Super == SuperUDP {
		return uint16(h.L4), 6
	}
	return uint16(h.L4), 16
}

// narrow changes head, the headers h of a super-frame with total bytes of
// payload, to those of the super-frame that has its payload from byte first, the
// start of a segment, to byte last; of an ordinary frame if that is one segment.
// It returns the frame's Offload. The checksum becomes the pseudo header's sum:
// the rest is left to who finishes the frame. Source: what tcp_gso_segment and
// __udp_gso_segment of Linux do.
func (o Offload) narrow(head []byte, h Headers, first, last, total int) Offload {
	be := binary.BigEndian
	ip, l4 := head[h.IP:], head[h.L4:]
	length := h.Len - h.L4 + last - first
	if ip[0]>>4 == 4 {
		be.PutUint16(ip[2:], uint16(h.L4-h.IP+length))
		be.PutUint16(ip[4:], be.Uint16(ip[4:])+uint16(first/int(o.Segment)))
		putIPv4Checksum(ip[:h.L4-h.IP])
	} else {
		be.PutUint16(ip[4:], uint16(h.L4-h.IP-40+length))
	}
	if o.Super == SuperUDP {
		be.PutUint16(l4[4:], uint16(length))
	} else {
		const fin, psh, cwr = 0x01, 0x08, 0x80
		be.PutUint32(l4[4:], be.Uint32(l4[4:])+uint32(first))
		if last < total {
			l4[13] &^= fin | psh
		}
		if first > 0 {
			l4[13] &^= cwr
		}
	}
	o.Defer(head, h, h.Len+last-first)
	o.ECN = o.ECN && first == 0
	if last-first <= int(o.Segment) {
		o.Super, o.Segment, o.ECN = 0, 0, false
	}
	return o
}
