package overlay

import (
	"encoding/binary"
	"sync/atomic"
)

const (
	// DatagramSize is the size of our datagrams (UDP payload, in bytes) on a
	// path whose MTU isn't known yet: what fits an IPv6 packet of 1280 bytes,
	// which every path of IPv6 carries (RFC 8200 § 5).
	DatagramSize = 1280 - 40 - 8
	// MaxDatagram is the longest datagram: what fits an IPv4 packet of 9000
	// bytes.
	MaxDatagram = 9000 - 20 - 8
	// A run goes out in one call. These are the kernel's limits: an IP packet's
	// length, and UDP_MAX_SEGMENTS before Linux 6.8.
	maxRunBytes    = 65_507
	maxRunSegments = 64
)

// SuperSegments is how many segments a super-frame should have at most so that
// it leaves in one run of datagrams, on a path with an MTU of 1500. Longer ones
// take two, and become two at the other end.
const SuperSegments = maxRunBytes / (1500 - 20 - 8)

// A Packer packs frames for one session into runs of datagrams of equal size
// (the last of a run may be shorter), sealed, fit for one call with UDP
// segmentation offload. Small frames share a datagram, and a frame that doesn't
// fit is cut over two or more, so every datagram of a run but the last is full.
// A super-frame becomes a run of its own, with as many whole segments in each
// datagram as fit; if not even one does, it is cut anywhere. It is used by one
// goroutine and does not allocate.
type Packer struct {
	run func(run []byte, segment int)
	buf []byte

	session *Session
	space   Space
	cuts    *atomic.Uint32
	lane    byte
	size    int // of datagrams
	start   int // of the open datagram
	front   int // where its body starts, behind a Spread
	end     int // of its body so far

	// Of what is flooded, see BeginSpread; numbers is nil in other runs.
	origin  Label
	name    uint64
	numbers *atomic.Uint64
}

// NewPacker returns a packer that hands full runs of datagrams to run, which
// must not keep them.
func NewPacker(run func(run []byte, segment int)) *Packer {
	return &Packer{run: run, buf: make([]byte, maxRunBytes+MaxDatagram)}
}

// Begin starts a run of datagrams of at most size bytes of a space of session s, by one
// of the sender's lanes. cuts numbers the frames that are cut: one counter a
// peer, shared by all packers and sessions.
func (p *Packer) Begin(s *Session, space Space, cuts *atomic.Uint32, size int, lane byte) {
	p.session, p.space, p.cuts, p.lane = s, space, cuts, lane
	p.size = min(max(size, DatagramSize), MaxDatagram)
	p.numbers, p.start = nil, 0
	p.open()
}

// BeginSpread starts a run of datagrams of at most size bytes that start with a Spread of
// an origin's, numbered by its counter, shared by all packers. They aren't sealed: as each
// receiver gets the same, who sends them does that in copies. There is room for header and
// tag in each.
func (p *Packer) BeginSpread(origin Label, numbers *atomic.Uint64, cuts *atomic.Uint32, size int) {
	p.BeginFarSpread(origin, 0, numbers, cuts, size)
}

// BeginFarSpread is BeginSpread in a network that is divided into areas: name is the first 8
// bytes of the origin's id.
func (p *Packer) BeginFarSpread(origin Label, name uint64, numbers *atomic.Uint64, cuts *atomic.Uint32, size int) {
	p.session, p.cuts, p.origin, p.name, p.numbers = nil, cuts, origin, name, numbers
	p.size = min(max(size, DatagramSize), MaxDatagram)
	p.start = 0
	p.open()
}

// open opens the datagram at start.
func (p *Packer) open() {
	p.end = p.start + HeaderLen
	if p.numbers != nil {
		p.end = len(appendSpread(p.buf[:p.end], Spread{Origin: p.origin, Links: 1, Number: p.numbers.Add(1), Name: p.name, Root: p.origin}))
	}
	p.front = p.end
}

// finish makes a datagram of a header's room and a body, nil if the session is over.
func (p *Packer) finish(b []byte) []byte {
	if p.numbers != nil {
		return b[:len(b)+TagLen]
	}
	return p.session.seal(p.space, KindData, 0, p.lane, b)
}

// Session returns the session of the run, nil after Flush.
func (p *Packer) Session() *Session { return p.session }

// room returns how many bytes the open datagram's body can still take.
func (p *Packer) room() int { return p.start + p.size - TagLen - p.end }

// Open says whether a datagram is open that something is in: what is packed next
// may ride along.
func (p *Packer) Open() bool { return p.end > p.front }

// Ack packs an acknowledgement if there is room for it without another
// datagram, and says whether there was.
func (p *Packer) Ack(a Ack) bool {
	if p.room() < itemHeaderLen+ackLen {
		return false
	}
	p.end = len(AppendAck(p.buf[:p.end], a))
	return true
}

// Add packs a frame, and says whether it could: the frame must be of MinFrame to
// MaxFrame bytes, or a super-frame whose headers are what it says.
func (p *Packer) Add(f *Frame) bool {
	if f.Super != 0 {
		return p.super(f)
	}
	n := f.Len()
	if n < MinFrame || n > MaxFrame || f.Start > 255 || f.Offset > 255 {
		return false
	}
	kind, whole := byte(itemFrame), itemHeaderLen+n
	if f.Start != 0 {
		kind, whole = itemPartial, whole+partialHeaderLen
	}
	if p.room() < whole && p.room() < itemHeaderLen+pieceHeaderLen+cutMin {
		p.seal()
	}
	if p.room() < whole {
		p.cut(f, n)
		return true
	}
	p.putItem(kind, whole-itemHeaderLen)
	if kind == itemPartial {
		p.buf[p.end], p.buf[p.end+1] = byte(f.Start), byte(f.Offset)
		p.end += partialHeaderLen
	}
	p.end += f.copy(p.buf[p.end:], 0)
	return true
}

// cut packs a frame of n bytes, which doesn't fit the open datagram, as pieces.
func (p *Packer) cut(f *Frame, total int) {
	number := p.cuts.Add(1)
	for at := 0; at < total; {
		n := min(total-at, p.room()-itemHeaderLen-pieceHeaderLen)
		if n <= 0 {
			p.seal()
			continue
		}
		p.putItem(itemPiece, pieceHeaderLen+n)
		b := p.buf[p.end:]
		binary.BigEndian.PutUint32(b, number)
		binary.BigEndian.PutUint16(b[4:], uint16(at))
		binary.BigEndian.PutUint16(b[6:], uint16(total))
		b[8], b[9] = byte(f.Start), byte(f.Offset)
		p.end += pieceHeaderLen + f.copy(b[pieceHeaderLen:pieceHeaderLen+n], at)
		at += n
	}
}

// super packs a super-frame as chunks, in a run of their own.
func (p *Packer) super(f *Frame) bool {
	h, ok := f.Parse(f.Head)
	total := f.Len() - h.Len
	if !ok || h.Len > 255 || total <= 0 || total > 1<<16-1 || f.Segment == 0 || f.Segment > MaxFrame {
		return false
	}
	p.closeRun()
	before := p.front + itemHeaderLen + chunkHeaderLen + h.Len
	chunk := p.size - before - TagLen
	if n := chunk / int(f.Segment); n > 0 {
		chunk = n * int(f.Segment)
	}
	stride := before + chunk + TagLen
	number := uint16(p.cuts.Add(1))
	for at := 0; at < total; at += chunk {
		n := min(chunk, total-at)
		if p.start+stride > maxRunBytes || p.start/stride == maxRunSegments {
			p.run(p.buf[:p.start], stride)
			p.start = 0
		}
		if at > 0 {
			p.open()
		}
		p.putItem(itemChunk, chunkHeaderLen+h.Len+n)
		b := p.buf[p.end:]
		f.putChunk(b, number, h.Len, at, total)
		copy(b[chunkHeaderLen:], f.Head[:h.Len])
		p.end += chunkHeaderLen + h.Len
		p.end += f.copy(p.buf[p.end:p.end+n], h.Len+at)
		d := p.finish(p.buf[p.start:p.end])
		if d == nil {
			break // the session is over
		}
		p.start += len(d)
	}
	if p.start > 0 {
		p.run(p.buf[:p.start], stride)
	}
	p.start = 0
	p.open()
	return true
}

// putChunk writes the header of the chunk that starts at byte at of the payload.
func (f *Frame) putChunk(b []byte, number uint16, headers, at, total int) {
	_ = b[chunkHeaderLen-1]
	binary.BigEndian.PutUint16(b, number)
	b[2] = byte(f.Super)
	if f.ECN {
		b[2] |= chunkECN
	}
	b[3] = byte(headers)
	binary.BigEndian.PutUint16(b[4:], f.Segment)
	binary.BigEndian.PutUint16(b[6:], uint16(at))
	binary.BigEndian.PutUint16(b[8:], uint16(total))
}

// copy copies the frame's bytes from byte at on into dst, and returns how many.
func (f *Frame) copy(dst []byte, at int) int {
	n := 0
	if at < len(f.Head) {
		n = copy(dst, f.Head[at:])
	}
	at -= len(f.Head)
	for _, b := range f.Body {
		if n == len(dst) {
			break
		}
		if skip := max(at, 0); skip < len(b) {
			n += copy(dst[n:], b[skip:])
		}
		at -= len(b)
	}
	return n
}

func (p *Packer) putItem(kind byte, n int) {
	b := p.buf[p.end:]
	b[0] = kind
	binary.BigEndian.PutUint16(b[1:], uint16(n))
	p.end += itemHeaderLen
}

// seal fills up and closes the open datagram and opens the next one.
func (p *Packer) seal() {
	full := p.start + p.size - TagLen
	clear(p.buf[p.end:full]) // padding
	if p.finish(p.buf[p.start:full]) == nil {
		p.open() // the session is over: its frames are lost
		return
	}
	p.start += p.size
	if p.start+p.size > maxRunBytes || p.start/p.size == maxRunSegments {
		p.run(p.buf[:p.start], p.size)
		p.start = 0
	}
	p.open()
}

// closeRun seals what is open, hands the run over, and opens the next one, of which
// nothing is in use if the run ends there.
func (p *Packer) closeRun() {
	end := p.start
	if p.Open() {
		if d := p.finish(p.buf[p.start:p.end]); d != nil {
			end += len(d)
		}
	}
	if end > 0 {
		p.run(p.buf[:end], p.size)
	}
	p.start = 0
	p.open()
}

// Flush seals what is open, hands the run over, and ends it.
func (p *Packer) Flush() {
	p.closeRun()
	p.session, p.cuts, p.numbers = nil, nil, nil
}
