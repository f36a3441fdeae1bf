package overlay

import (
	"encoding/binary"
	"sync/atomic"
)

const (
	// DatagramSize is the size of our datagrams (UDP payload, in bytes) on a
	// path whose MTU isn't known: what fits an IPv6 packet of 1500 bytes.
	DatagramSize = 1500 - 40 - 8
	// packSegments bounds a run: at most 64 segments and 65,507 bytes go out
	// in one call (the kernel's limits of UDP_SEGMENT).
	packSegments = 44
)

// A Packer packs frames for one session into a run of datagrams of equal size
// (the last may be shorter), sealed in place, fit for one call with UDP
// segmentation offload. Small frames share a datagram, and a frame that doesn't
// fit is cut over two or more, so every datagram but the last is full. It is
// used by one goroutine and does not allocate.
type Packer struct {
	session *Session
	cuts    *atomic.Uint32
	run     func(run []byte, segment int)
	buf     []byte
	size    int
	start   int // of the open datagram
	end     int // of its body so far
}

// NewPacker returns a packer that hands full runs of datagrams of size bytes
// to run, which must not keep them.
func NewPacker(size int, run func(run []byte, segment int)) *Packer {
	return &Packer{run: run, size: size, buf: make([]byte, packSegments*size)}
}

// Begin starts a run for session s. cuts numbers the frames that are cut: one
// counter a peer, shared by all packers and sessions.
func (p *Packer) Begin(s *Session, cuts *atomic.Uint32) {
	p.session, p.cuts = s, cuts
	p.start, p.end = 0, HeaderLen
}

// Session returns the session of the run, nil after Flush.
func (p *Packer) Session() *Session { return p.session }

// room returns how many bytes the open datagram's body can still take.
func (p *Packer) room() int { return p.start + p.size - TagLen - p.end }

// Add packs a frame of at most MaxFrame bytes.
func (p *Packer) Add(frame []byte) {
	if p.room() >= itemHeaderLen+len(frame) {
		p.putItem(itemFrame, len(frame))
		p.end += copy(p.buf[p.end:], frame)
		return
	}
	if p.room() < itemHeaderLen+pieceHeaderLen+cutMin {
		p.seal()
		if p.room() >= itemHeaderLen+len(frame) {
			p.Add(frame)
			return
		}
	}
	p.cut(frame)
}

// cut packs a frame that doesn't fit the open datagram as pieces.
func (p *Packer) cut(frame []byte) {
	number := p.cuts.Add(1)
	for at := 0; at < len(frame); {
		n := min(len(frame)-at, p.room()-itemHeaderLen-pieceHeaderLen)
		if n <= 0 {
			p.seal()
			continue
		}
		p.putItem(itemPiece, pieceHeaderLen+n)
		b := p.buf[p.end:]
		binary.BigEndian.PutUint32(b, number)
		binary.BigEndian.PutUint16(b[4:], uint16(at))
		binary.BigEndian.PutUint16(b[6:], uint16(len(frame)))
		p.end += pieceHeaderLen + copy(b[pieceHeaderLen:], frame[at:at+n])
		at += n
	}
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
	if p.session.Seal(p.buf[p.start:full]) == nil {
		p.end = p.start + HeaderLen // the session is over: its frames are lost
		return
	}
	p.start += p.size
	p.end = p.start + HeaderLen
	if p.start+p.size > len(p.buf) {
		p.run(p.buf[:p.start], p.size)
		p.start, p.end = 0, HeaderLen
	}
}

// Flush seals what is open, hands the run over, and ends it.
func (p *Packer) Flush() {
	end := p.start
	if p.end > p.start+HeaderLen {
		if d := p.session.Seal(p.buf[p.start:p.end]); d != nil {
			end += len(d)
		}
	}
	if end > 0 {
		p.run(p.buf[:end], p.size)
	}
	p.session, p.cuts = nil, nil
	p.start, p.end = 0, HeaderLen
}
