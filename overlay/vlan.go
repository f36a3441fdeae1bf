package overlay

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"
)

// MaxVLAN is the highest number of a VLAN, and 1 the lowest (IEEE 802.1Q § 9.6).
const MaxVLAN = 4094

const (
	tagLen = 4
	vlanID = 0x0fff // of a tag; the bits above are priority
)

// VLANs says which VLANs pass a port, in the words of Open vSwitch:
//
//	neither          every frame passes, tagged or not, as it is
//	Tag              an access port: what has no tag there has this one in the network
//	Trunks           frames with these tags pass as they are, others don't
//	Tag and Trunks   both: Tag is what Linux bridges call PVID
//
// Where there is a filter, frames with two tags of IEEE 802.1ad don't pass, and those with
// priority but no VLAN count as without a tag. None passes that would lose a tag and still
// have one: behind the port it would be of a VLAN that isn't the sender's.
type VLANs struct {
	Tag    uint16 // 0: none
	Trunks *VLANSet
}

// A VLANSet is a set of VLANs.
type VLANSet [(vlanID + 1) / 64]uint64

// Add puts a VLAN into the set.
func (s *VLANSet) Add(id uint16) { s[id%(vlanID+1)/64] |= 1 << (id % 64) }

// Has says whether a VLAN is in the set; nil has none.
func (s *VLANSet) Has(id uint16) bool { return s != nil && s[id%(vlanID+1)/64]&(1<<(id%64)) != 0 }

// String returns the set as ranges: "20+30-32".
func (s *VLANSet) String() string {
	var b strings.Builder
	for id := uint16(1); id <= MaxVLAN; id++ {
		if !s.Has(id) {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('+')
		}
		first := id
		for id < MaxVLAN && s.Has(id+1) {
			id++
		}
		b.WriteString(strconv.Itoa(int(first)))
		if id > first {
			b.WriteString("-" + strconv.Itoa(int(id)))
		}
	}
	return b.String()
}

// All says that there is no filter.
func (v *VLANs) All() bool { return v.Tag == 0 && v.Trunks == nil }

// Leave has the frames that a port reads next lie so that they can be tagged.
func (v *VLANs) Leave(b *Batch) {
	b.lead = 0
	if v.Tag != 0 {
		b.lead = tagLen
	}
}

// Enter makes the frames in b, which a port has read after Leave, what they are in the
// network, and returns how many there were that don't pass.
func (v *VLANs) Enter(b *Batch) (refused int) {
	kept := b.frames[:0]
	for i := range b.frames {
		if f := b.frames[i]; v.enter(&f, b.buf[:b.starts[i]+len(f.Head)], b.starts[i]) {
			b.starts[len(kept)] = b.starts[i]
			kept = append(kept, f)
		} else {
			refused++
		}
	}
	b.frames = kept
	return refused
}

// Passes says whether a frame that a port reads is of a VLAN that the port has.
func (v *VLANs) Passes(frame []byte) bool {
	if v.All() || len(frame) < MinFrame {
		return true
	}
	id, tagged := vlanOf(frame)
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == etherQinQ, kind == etherVLAN && !tagged: // cut off
		return false
	case tagged && id != 0:
		return v.Trunks.Has(id)
	}
	return v.Tag != 0 && (!tagged || !twice(frame))
}

// enter is Enter for frame f, which is what buf has from byte at on.
func (v *VLANs) enter(f *Frame, buf []byte, at int) bool {
	head := f.Head
	if !v.Passes(head) {
		return false
	}
	if len(head) < MinFrame {
		return true // the switch refuses it
	}
	switch id, tagged := vlanOf(head); {
	case tagged && id != 0:
		return true
	case tagged:
		head[14] |= byte(v.Tag >> 8)
		head[15] = byte(v.Tag)
		return true
	case f.Super == 0 && len(head)+tagLen > MaxFrame, f.Start > math.MaxUint16-tagLen, at < tagLen:
		return false
	}
	f.Head = buf[at-tagLen : len(buf) : len(buf)]
	copy(f.Head, head[:12])
	binary.BigEndian.PutUint32(f.Head[12:], etherVLAN<<16|uint32(v.Tag))
	if f.Start != 0 {
		f.Start += tagLen
	}
	return true
}

// vlanOf returns the VLAN of a frame's first tag; 0 says that it tells priority only.
func vlanOf(head []byte) (id uint16, tagged bool) {
	if len(head) < MinFrame+tagLen || binary.BigEndian.Uint16(head[12:]) != etherVLAN {
		return 0, false
	}
	return binary.BigEndian.Uint16(head[14:]) & vlanID, true
}

// twice says whether there is another tag behind the first.
func twice(head []byte) bool {
	kind := binary.BigEndian.Uint16(head[MinFrame+tagLen-2:])
	return kind == etherVLAN || kind == etherQinQ
}

// An Untag is the scratch by which frames lose their tag.
type Untag struct {
	head [256]byte // room for headers
	body [][]byte
}

// Exit makes f what it is at the port, and says whether it passes. What f's bytes are
// stays as it is: one that loses its tag lies in u then, until the next one does.
func (v *VLANs) Exit(f *Frame, u *Untag) bool {
	id, tagged := vlanOf(f.Head)
	switch {
	case !tagged || id == 0:
		return false
	case id != v.Tag:
		return v.Trunks.Has(id)
	case twice(f.Head):
		return false
	}
	rest := f.Head[12+tagLen:]
	n := copy(u.head[:], f.Head[:12])
	m := copy(u.head[n:], rest)
	u.body = u.body[:0]
	if m < len(rest) {
		u.body = append(u.body, rest[m:])
	}
	u.body = append(u.body, f.Body...)
	f.Head, f.Body = u.head[:n+m], u.body
	if f.Start != 0 {
		f.Start -= tagLen
	}
	return f.Start == 0 || int(f.Start) >= MinFrame
}
