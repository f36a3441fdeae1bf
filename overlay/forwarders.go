package overlay

import "encoding/binary"

// EtherSegment is the type of the frames by which agents whose ports stand on one LAN agree on
// one of them that forwards: see package segment. They go to a group of their own that ordinary
// bridges and switches flood.
const EtherSegment = 0x88b6 // IEEE 802, local experimental 2

// SegmentGroup is the locally administered group that they go to.
var SegmentGroup = MAC{0x03, 'f', 'a', 'r', 'l', 'n'}

// IsSegment says whether a frame is one by which agents find each other on a LAN.
func IsSegment(frame []byte) bool {
	return len(frame) >= MinFrame && MAC(frame[:6]) == SegmentGroup && binary.BigEndian.Uint16(frame[12:]) == EtherSegment
}
