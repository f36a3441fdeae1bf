//go:build linux

package tc

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"farlan/reserve"
)

// The numbers of what is ours. The kernel gives numbers from 8001: on to what has none, and
// people begin at 1:.
const (
	major       = 0x7fa1
	rootMinor   = 1
	restMinor   = 2
	urgentMinor = 3
	firstMinor  = 0x10
	lastMinor   = 0xffef

	// divisor is what would divide a class's rate to give its quantum, if each class didn't
	// have one; so it is free to say whose the root is.
	divisor = 0x6661
)

// classID returns the number of a class, which is the priority of its packets, too.
func classID(minor uint16) uint32 { return major<<16 | uint32(minor) }

// handleOf returns the name of a grant.
func handleOf(device string, minor uint16) string {
	return fmt.Sprintf("%s %x:%x", device, major, minor)
}

// parseHandle reads what handleOf wrote.
func parseHandle(s string) (device string, minor uint16, ok bool) {
	device, number, ok := strings.Cut(s, " ")
	if !ok || device == "" {
		return "", 0, false
	}
	number, ok = strings.CutPrefix(number, strconv.FormatInt(major, 16)+":")
	n, err := strconv.ParseUint(number, 16, 16)
	if !ok || err != nil || n < firstMinor || n > lastMinor || handleOf(device, uint16(n)) != s {
		return "", 0, false
	}
	return device, uint16(n), true
}

// minorOf returns a class's number for a grant, from used's point of view a free one. It begins
// at one that the ID gives, so that a handle of former times hardly ever means a new grant.
func minorOf[T any](id reserve.ID, used map[uint16]T) uint16 {
	const span = lastMinor - firstMinor + 1
	n := uint32(binary.BigEndian.Uint16(id.Reservation[:])) + uint32(id.Segment)
	for { // maxClasses are used at most
		m := uint16(firstMinor + n%span)
		if _, ok := used[m]; !ok {
			return m
		}
		n++
	}
}
