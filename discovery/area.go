package discovery

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"farlan/overlay"
)

// Limits of what a gateway tells.
const (
	// MaxLeaves is how many members of its area a gateway tells of.
	MaxLeaves = 512
	// MaxGateways is how many other gateways of its area it names, and how many of an area
	// count.
	MaxGateways = 8
)

// A Leaf is a member of a gateway's area and the last link of the gateway's shortest way to
// it.
type Leaf struct {
	Agent  Brief
	Label  overlay.Label // by which paths name it
	Parent int           // the leaf before it on the way, -1 if that's the gateway itself
	Cost   time.Duration // of the way, as routes reckon
}

// An Area is the body of a KindArea record: what a gateway tells all of a divided network of
// itself and of its area, as nobody outside has the records of its members. Numbers big
// endian:
//
//	0–3  number of the area; 0 says that the agent is no gateway any more
//	4–5  how many members the area has
//	6    number of other gateways of the area
//	7–   their brief names, ascending, 8 bytes each
//	     length, 2 bytes, and body of the gateway's Member
//	     number of leaves, 2 bytes; length of a leaf, at least 16; what is beyond is skipped
//	     leaves: brief name, 8 bytes; label, 4; 0 or 1 + the index of its parent, 2; cost,
//	     2: a squeezed number of microseconds, 9 bits of mantissa
//	     anything further is ignored: later versions append fields here
//
// Parents come before their children, so no tree has a ring.
type Area struct {
	Number   uint32
	Size     int     // members
	Gateways []Brief // the others, as its members reckon, ascending
	Member   Member
	Tree     []Leaf
}

const leafLen = 16

// Append appends a's encoding to b. Errors: more than the limits, or what can't be told of a
// Member.
func (a Area) Append(b []byte) ([]byte, error) {
	if len(a.Gateways) > MaxGateways || len(a.Tree) > MaxLeaves {
		return nil, fmt.Errorf("area of %d leaves and %d gateways: too many", len(a.Tree), len(a.Gateways))
	}
	b = binary.BigEndian.AppendUint32(b, a.Number)
	b = binary.BigEndian.AppendUint16(b, uint16(min(a.Size, 1<<16-1)))
	b = append(b, byte(len(a.Gateways)))
	for _, g := range slices.Sorted(slices.Values(a.Gateways)) {
		b = binary.BigEndian.AppendUint64(b, uint64(g))
	}
	a.Member.Area = a.Number
	member, err := a.Member.Append(nil)
	if err != nil {
		return nil, err
	}
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(member))), member...)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(a.Tree))), leafLen)
	for _, l := range a.Tree {
		b = binary.BigEndian.AppendUint64(b, uint64(l.Agent))
		b = binary.BigEndian.AppendUint32(b, uint32(l.Label))
		b = binary.BigEndian.AppendUint16(b, uint16(l.Parent+1))
		b = binary.BigEndian.AppendUint16(b, squeeze(uint64(min(max(l.Cost, 0), MaxRTT).Microseconds()), fine))
	}
	return b, nil
}

// ParseArea reads the encoding of Area. Errors: what can't be,
// as an agent twice in the tree, or a way that costs less than a part of it.
func ParseArea(b []byte) (a Area, err error) {
	if len(b) < 7 || len(b) < 7+8*int(b[6]) {
		return a, errShort
	}
	a.Number, a.Size = binary.BigEndian.Uint32(b), int(binary.BigEndian.Uint16(b[4:]))
	others := int(b[6])
	if others > MaxGateways {
		return Area{}, fmt.Errorf("%d gateways, at most %d are taken", others, MaxGateways)
	}
	for b = b[7:]; len(a.Gateways) < others; b = b[8:] {
		a.Gateways = append(a.Gateways, Brief(binary.BigEndian.Uint64(b)))
	}
	if !ascends(a.Gateways, cmp.Compare[Brief]) {
		return Area{}, errors.New("gateways are not in ascending order")
	}
	member, b, err := cutPart(b, MaxMemberBody)
	if err != nil {
		return Area{}, err
	}
	if a.Member, err = ParseMember(member); err != nil {
		return Area{}, err
	}
	a.Tree, err = parseTree(b)
	if err != nil {
		return Area{}, err
	}
	return a, nil
}

// cutPart reads a length and as many bytes, most at most, and returns what follows.
func cutPart(b []byte, most int) (part, rest []byte, err error) {
	if len(b) < 2 {
		return nil, nil, errShort
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; n > most || n > len(b) {
		return nil, nil, errShort
	}
	return b[:n], b[n:], nil
}

func parseTree(b []byte) ([]Leaf, error) {
	if len(b) < 3 {
		return nil, errShort
	}
	n, size := int(binary.BigEndian.Uint16(b)), int(b[2])
	b = b[3:]
	if n > MaxLeaves || size < leafLen || len(b) < n*size {
		return nil, fmt.Errorf("tree of %d leaves, at most %d are taken", n, MaxLeaves)
	}
	tree := make([]Leaf, 0, n)
	names := make([]Brief, 0, n)
	for ; len(tree) < n; b = b[size:] {
		l := Leaf{Agent: Brief(binary.BigEndian.Uint64(b)), Label: overlay.Label(binary.BigEndian.Uint32(b[8:])), Parent: int(binary.BigEndian.Uint16(b[12:])) - 1}
		l.Cost = time.Duration(min(expand(binary.BigEndian.Uint16(b[14:]), fine), 1<<40)) * time.Microsecond
		if l.Parent >= len(tree) || l.Cost > topRTT || l.Parent >= 0 && l.Cost < tree[l.Parent].Cost {
			return nil, errors.New("a leaf makes no sense")
		}
		tree, names = append(tree, l), append(names, l.Agent)
	}
	slices.Sort(names)
	if len(slices.Compact(names)) < n {
		return nil, errors.New("an agent is in the tree twice")
	}
	return tree, nil
}

// Way returns the leaves on the gateway's way to leaf i, from the gateway on.
func (a *Area) Way(i int) (way []Leaf) {
	for ; i >= 0; i = a.Tree[i].Parent {
		way = append(way, a.Tree[i])
	}
	slices.Reverse(way)
	return way
}
