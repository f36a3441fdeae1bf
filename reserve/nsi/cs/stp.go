package cs

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	maxVLAN   = 4094 // IEEE 802.1Q: 0 and 4095 are reserved
	maxRanges = 16
)

// VLANs are VLAN identifiers as STPs have them, "100-109,200": ranges in ascending order that
// don't touch.
type VLANs []VLANRange

// A VLANRange is from First to Last, both within.
type VLANRange struct{ First, Last uint16 }

var errVLANs = errors.New("want VLANs as 100-109,200: 1 to 4094, ascending, 16 ranges at most")

// ParseVLANs reads them.
func ParseVLANs(s string) (VLANs, error) {
	var all VLANs
	for part := range strings.SplitSeq(s, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		a, err1 := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		after := uint64(0)
		if len(all) > 0 {
			after = uint64(all[len(all)-1].Last)
		}
		if err1 != nil || err2 != nil || a <= after || b < a || b > maxVLAN || len(all) == maxRanges {
			return nil, fmt.Errorf("VLANs %.40q: %w", s, errVLANs)
		}
		all = append(all, VLANRange{uint16(a), uint16(b)})
	}
	return all, nil
}

// String writes them as ParseVLANs reads them.
func (v VLANs) String() string {
	parts := make([]string, len(v))
	for i, r := range v {
		parts[i] = strconv.Itoa(int(r.First))
		if r.Last != r.First {
			parts[i] += "-" + strconv.Itoa(int(r.Last))
		}
	}
	return strings.Join(parts, ",")
}

// Has says whether one is among them.
func (v VLANs) Has(vlan uint16) bool {
	for _, r := range v {
		if r.First <= vlan && vlan <= r.Last {
			return true
		}
	}
	return false
}

// One returns the only one, or 0.
func (v VLANs) One() uint16 {
	if len(v) == 1 && v[0].First == v[0].Last {
		return v[0].First
	}
	return 0
}

// An STP is a service termination point: a port of a network, and VLANs of it.
type STP struct {
	Port  string // a URN without what is behind the question mark
	VLANs VLANs  // none: the whole port
}

// ParseSTP reads "urn:ogf:network:…:port?vlan=100-109"; other labels are an error.
func ParseSTP(s string) (STP, error) {
	port, label, labelled := strings.Cut(s, "?")
	if !strings.HasPrefix(port, "urn:ogf:network:") || len(port) > maxName || strings.ContainsAny(port, " \t\r\n") {
		return STP{}, fmt.Errorf("STP %.60q: want urn:ogf:network:… with ?vlan=… behind it", s)
	}
	if !labelled {
		return STP{Port: port}, nil
	}
	text, ok := strings.CutPrefix(label, "vlan=")
	if !ok {
		return STP{}, fmt.Errorf("STP %.60q: only the label vlan is known", s)
	}
	vlans, err := ParseVLANs(text)
	if err != nil {
		return STP{}, fmt.Errorf("STP %.60q: %w", s, err)
	}
	return STP{port, vlans}, nil
}

// String writes it as ParseSTP reads it.
func (s STP) String() string {
	if len(s.VLANs) == 0 {
		return s.Port
	}
	return s.Port + "?vlan=" + s.VLANs.String()
}
