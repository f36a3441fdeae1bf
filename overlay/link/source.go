//go:build linux

package link

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A sourced is the control message that says from which address a datagram is, IP_PKTINFO or
// IPV6_PKTINFO, with room for another one behind it.
type sourced struct {
	n   int // its length, 0: there is none
	buf struct {
		_    [0]uint64 // aligns what follows
		data [96]byte
	}
}

// set makes the message.
func (s *sourced) set(from netip.Addr) {
	if !from.IsValid() {
		return
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&s.buf.data[0]))
	data := s.buf.data[unix.CmsgLen(0):]
	if from.Is4() {
		h.Level, h.Type = unix.IPPROTO_IP, unix.IP_PKTINFO
		h.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
		four := from.As4()
		copy(data[4:], four[:]) // struct in_pktinfo: interface, source, …
		s.n = unix.CmsgSpace(unix.SizeofInet4Pktinfo)
		return
	}
	h.Level, h.Type = unix.IPPROTO_IPV6, unix.IPV6_PKTINFO
	h.SetLen(unix.CmsgLen(unix.SizeofInet6Pktinfo))
	six := from.As16()
	copy(data, six[:]) // struct in6_pktinfo: source, interface
	s.n = unix.CmsgSpace(unix.SizeofInet6Pktinfo)
}

// with returns the message with control message c of n bytes behind it.
func (s *sourced) with(c *control, n int) (*byte, int) {
	if c != nil {
		copy(s.buf.data[s.n:], unsafe.Slice((*byte)(unsafe.Pointer(c)), n))
	}
	return &s.buf.data[0], s.n + n
}

// htonl returns v as the network has it.
func htonl(v uint32) uint32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	return binary.NativeEndian.Uint32(b[:])
}
