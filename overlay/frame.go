package overlay

// A Frame is an Ethernet frame as ports read and write it. It may be
// unfinished, as systems and their network cards hand frames to each other: a
// checksum that is still to be computed, or a super-frame of up to 64 KB that
// is still to be cut into segments. The bytes are Head and then those of Body;
// most frames are all Head. They are borrowed.
type Frame struct {
	Head []byte
	Body [][]byte
	Offload
}

// Len returns the length of the frame in bytes.
func (f *Frame) Len() int {
	n := len(f.Head)
	for _, b := range f.Body {
		n += len(b)
	}
	return n
}

// An Offload says what is left to do to a frame before it is on a wire; the
// zero Offload is nothing. It is what struct virtio_net_hdr says (VIRTIO 1.2,
// § 5.1.6), in fewer words.
type Offload struct {
	// Start and Offset tell of a checksum that is not computed yet: it covers
	// the frame from byte Start to its end, and belongs at Start+Offset, where
	// the sum of the pseudo header lies. Start is 0 when the checksum is there.
	Start, Offset uint16
	// Segment is how many bytes of payload each segment of a super-frame has;
	// the last may have fewer. It is set if and only if Super is.
	Segment uint16
	Super   Super
	ECN     bool // a TCP super-frame whose first segment alone has the CWR mark (RFC 3168)
}

// Super is the kind of a super-frame. The values are on the wire.
type Super uint8

// The kinds of super-frames; the zero Super is an ordinary frame. The header
// of one is that of its first segment but for the lengths, which are those of
// the whole, and for TCP's FIN and PSH, which belong to the last segment.
const (
	_ Super = iota
	SuperTCP4
	SuperTCP6
	SuperUDP // over IPv4 or IPv6
)

// MaxSuper is the longest super-frame: an IP packet of 64 KB with an Ethernet
// header and two VLAN tags.
const MaxSuper = 1<<16 - 1 + 14 + 8
