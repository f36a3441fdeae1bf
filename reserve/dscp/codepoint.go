package dscp

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

type named struct {
	name  string
	point CodePoint
}

// names are the code points that have one (RFC 4594, RFC 5865, RFC 8622).
var names = []named{
	{"LE", 1},
	{"CS1", 8},
	{"AF11", 10},
	{"AF12", 12},
	{"AF13", 14},
	{"CS2", 16},
	{"AF21", 18},
	{"AF22", 20},
	{"AF23", 22},
	{"CS3", 24},
	{"AF31", 26},
	{"AF32", 28},
	{"AF33", 30},
	{"CS4", 32},
	{"AF41", 34},
	{"AF42", 36},
	{"AF43", 38},
	{"CS5", 40},
	{"VOICE-ADMIT", 44},
	{"EF", 46},
	{"CS6", 48},
	{"CS7", 56},
}

// Default is AF41: what adapts to the room that it finds and shouldn't wait (RFC 4594 § 4.4).
// EF, which networks police strictly, is for small constant flows.
const Default CodePoint = 34

// A CodePoint is what the first six bits of the TOS byte (IPv4) and the traffic class (IPv6)
// say, 1 to 63. The zero CodePoint means Default.
type CodePoint uint8

// ParseCodePoint reads a name such as "EF", "AF41" or "CS5", whose case doesn't matter, or a
// number from 1 to 63.
func ParseCodePoint(s string) (CodePoint, error) {
	for _, n := range names {
		if strings.EqualFold(n.name, s) {
			return n.point, nil
		}
	}
	n, err := strconv.ParseUint(s, 0, 8)
	if err != nil || n < 1 || n > 63 {
		return 0, fmt.Errorf("code point %q: want a name as EF, AF41 or CS5, or a number from 1 to 63", s)
	}
	return CodePoint(n), nil
}

// String returns the code point's name, or else its number.
func (c CodePoint) String() string {
	i := slices.IndexFunc(names, func(n named) bool { return n.point == c })
	if i < 0 {
		return strconv.Itoa(int(c))
	}
	return names[i].name
}

// TOS returns the whole byte; its last two bits are the congestion notification's.
func (c CodePoint) TOS() uint8 { return uint8(c&63) << 2 }
