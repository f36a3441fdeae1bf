package segment

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"farlan/overlay"
)

// A Name is a port of an agent.
type Name struct {
	Agent overlay.AgentID
	Port  uint8
}

// Compare orders names.
func (n Name) Compare(o Name) int {
	return cmp.Or(bytes.Compare(n.Agent[:], o.Agent[:]), cmp.Compare(n.Port, o.Port))
}

// A Tag stands for a Name in beacons; 0 for none.
type Tag uint64

// Tag returns n's.
func (n Name) Tag() Tag {
	sum := sha256.Sum256(append(n.Agent[:], n.Port))
	return Tag(binary.BigEndian.Uint64(sum[:]) | 1)
}

// A Beacon is what a port tells the others on its segment:
//
//	0–13    destination overlay.SegmentGroup, a source, EtherType overlay.EtherSegment
//	14      2, the version and kind
//	15      flags: 1 it forwards, 2 it could, 4 it has other agents to forward to, 8 it leads
//	16–47   the agent
//	48      its port's number
//	49      how many ports it hears, MaxHeard at most
//	50–57   the epoch, which rises with each start
//	58–61   the beacon's number in it, from 1
//	62–69   when, Unix time in nanoseconds
//	70–77   whose lease it grants, 0 nobody's; its own: it is the leader, or would be
//	78–93   the port's name, padded with zeros
//	94–     17 bytes for each port that it hears: the tag, the low half of the epoch, the
//	        number that was heard last, and 1 if it became one segment with this one later
//	last 16 the first bytes of HMAC-SHA256 of all before it by the network's key
//
// Padding may follow, of zeros. All is big endian.
type Beacon struct {
	Name
	Label      string // what people call the port, 16 bytes at most
	Epoch      uint64
	Number     uint32
	Wall       overlay.Instant
	Forwarding bool
	Leads      bool // it forwards, or did a moment ago and waits for grants
	Able       bool // the port works, and the agent doesn't leave
	Useful     bool // the agent has others to forward to
	Leader     Tag
	Heard      []Heard
}

// Heard says of another port what was heard of it last.
type Heard struct {
	Tag    Tag
	Epoch  uint32
	Number uint32
	Joined bool // both forwarded, for segments of their own, before they heard of each other
}

// MaxHeard is how many ports fit a beacon. A segment with more has one leader, too, as long as
// all hear the one that has the lowest name.
const MaxHeard = 24

const (
	version   = 2
	fixed     = 94
	heardLen  = 17
	proofLen  = 16
	labelLen  = 16
	flagOn    = 1
	flagAble  = 2
	flagUse   = 4
	flagLeads = 8
	learnKind = 1
)

// A Key proves membership on the LAN. It is derived from the network's key for that alone.
type Key [32]byte

func (k *Key) proof(b []byte) [proofLen]byte {
	h := hmac.New(sha256.New, k[:])
	h.Write(b)
	return [proofLen]byte(h.Sum(nil))
}

// Append appends the frame of a beacon from an Ethernet address to dst.
func (b *Beacon) Append(dst []byte, from overlay.MAC, k *Key) []byte {
	start := len(dst)
	dst = append(append(dst, overlay.SegmentGroup[:]...), from[:]...)
	dst = binary.BigEndian.AppendUint16(dst, overlay.EtherSegment)
	flags := flag(b.Forwarding, flagOn) | flag(b.Able, flagAble) | flag(b.Useful, flagUse) | flag(b.Leads, flagLeads)
	heard := b.Heard[:min(len(b.Heard), MaxHeard)]
	dst = append(append(dst, version, flags), b.Agent[:]...)
	dst = append(dst, b.Port, byte(len(heard)))
	dst = binary.BigEndian.AppendUint64(dst, b.Epoch)
	dst = binary.BigEndian.AppendUint32(dst, b.Number)
	dst = binary.BigEndian.AppendUint64(dst, uint64(b.Wall))
	dst = binary.BigEndian.AppendUint64(dst, uint64(b.Leader))
	var label [labelLen]byte
	copy(label[:], b.Label)
	dst = append(dst, label[:]...)
	for _, h := range heard {
		dst = binary.BigEndian.AppendUint64(dst, uint64(h.Tag))
		dst = binary.BigEndian.AppendUint32(dst, h.Epoch)
		dst = binary.BigEndian.AppendUint32(dst, h.Number)
		dst = append(dst, flag(h.Joined, 1))
	}
	p := k.proof(dst[start:])
	return append(dst, p[:]...)
}

func flag(is bool, f byte) byte {
	if is {
		return f
	}
	return 0
}

// Parse reads a frame, if any of keys proves it.
func Parse(frame []byte, keys ...Key) (b Beacon, ok bool) {
	if len(frame) < fixed+proofLen || !overlay.IsSegment(frame) || frame[14] != version || frame[49] > MaxHeard {
		return b, false
	}
	end := fixed + int(frame[49])*heardLen
	if len(frame) < end+proofLen || !proven(frame[:end], frame[end:end+proofLen], keys) {
		return b, false
	}
	f := frame
	b = Beacon{
		Name: Name{overlay.AgentID(f[16:48]), f[48]}, Epoch: binary.BigEndian.Uint64(f[50:]), Number: binary.BigEndian.Uint32(f[58:]),
		Wall: overlay.Instant(binary.BigEndian.Uint64(f[62:])), Leader: Tag(binary.BigEndian.Uint64(f[70:])),
		Forwarding: f[15]&flagOn != 0, Able: f[15]&flagAble != 0, Useful: f[15]&flagUse != 0, Leads: f[15]&flagLeads != 0,
		Label: string(printable(bytes.TrimRight(f[78:fixed], "\x00"))),
	}
	for at := fixed; at < end; at += heardLen {
		h := f[at:]
		b.Heard = append(b.Heard, Heard{Tag(binary.BigEndian.Uint64(h)), binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:]), h[16]&1 != 0})
	}
	return b, b.Number != 0 && !b.Agent.IsZero()
}

func proven(b, proof []byte, keys []Key) bool {
	for i := range keys {
		if is := keys[i].proof(b); hmac.Equal(is[:], proof) {
			return true
		}
	}
	return false
}

// printable replaces what would disturb a terminal.
func printable(b []byte) []byte {
	return bytes.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, b)
}

// AppendLearn appends a frame that tells the switches of a LAN that station m is behind the
// port that it is written to now. Agents take nothing from it.
func AppendLearn(dst []byte, m overlay.MAC) []byte {
	dst = append(append(dst, overlay.SegmentGroup[:]...), m[:]...)
	return append(binary.BigEndian.AppendUint16(dst, overlay.EtherSegment), learnKind)
}

// IsLearn says whether a frame for the group is one of AppendLearn.
func IsLearn(frame []byte) bool {
	return overlay.IsSegment(frame) && len(frame) > overlay.MinFrame && frame[overlay.MinFrame] == learnKind
}
