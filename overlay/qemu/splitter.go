//go:build linux

package qemu

import (
	"encoding/binary"

	"farlan/overlay"
)

const (
	headerLen = 4
	// maxSent is the longest frame that a QEMU sends (NET_BUFSIZE). What is longer
	// isn't one, and where the next begins isn't known then.
	maxSent = 4096 + 65536
	// roomLen is how much of a stream is read at once.
	roomLen = 64 << 10
)

// A splitter cuts a stream into frames. Its memory is roomLen bytes.
type splitter struct {
	room       [roomLen]byte
	start, end int // of what has come and isn't looked at
	skip       int // bytes of a frame that isn't taken, which are still to come
}

// A piece is what Next found.
type piece uint8

const (
	_        piece = iota
	nothing        // more must come
	whole          // a frame
	unfit          // a frame that was too short or too long, and is left out
	nonsense       // this isn't a stream of frames; it stays so
)

// space returns where what comes next is to be put; there is some as long as next has
// found nothing. Frames that next returned are overwritten.
func (s *splitter) space() []byte {
	s.end = copy(s.room[:], s.room[s.start:s.end])
	s.start = 0
	return s.room[s.end:]
}

// came says that n bytes were put into space.
func (s *splitter) came(n int) { s.end += n }

// next returns the next frame, which lies in the splitter, or why there is none.
func (s *splitter) next() ([]byte, piece) {
	if s.skip > 0 {
		n := min(s.skip, s.end-s.start)
		s.start, s.skip = s.start+n, s.skip-n
		if s.skip > 0 {
			return nil, nothing
		}
	}
	if s.end-s.start < headerLen {
		return nil, nothing
	}
	length := binary.BigEndian.Uint32(s.room[s.start:])
	switch {
	case length > maxSent:
		return nil, nonsense
	case length < overlay.MinFrame || length > overlay.MaxFrame:
		s.start, s.skip = s.start+headerLen, int(length)
		return nil, unfit
	case s.end-s.start < headerLen+int(length):
		return nil, nothing
	}
	at := s.start + headerLen
	s.start = at + int(length)
	return s.room[at:s.start:s.start], whole
}
