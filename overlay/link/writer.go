//go:build linux

package link

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// Limits of one segmented send: UDP_MAX_SEGMENTS before Linux 6.8, and an IP
	// datagram's length with room for any header.
	maxSegments = 64
	maxRun      = 65_000

	// sendWait is how long Send waits for room in the send buffer: a queue that
	// stands this long serves nobody.
	sendWait = 100 * time.Millisecond
)

// A Writer sends datagrams for one goroutine.
type Writer struct {
	s    *Socket
	hdr  unix.Msghdr
	iov  unix.Iovec
	sa   unix.RawSockaddrInet6 // or …Inet4, of to
	to   netip.AddrPort
	cut  control // UDP_SEGMENT
	hops control // hop limit, if the role alternates

	// odd tells for destinations, by a hash, which hop limit comes next. To
	// alternate over all destinations would give each always the same if their
	// number is even.
	odd [256]bool

	zone  string // of the last link-local destination,
	scope uint32 // and its interface's number

	from sourced // if the socket has a source

	poll unix.PollFd
	left unix.Timespec // to wait
}

// control is one control message with up to 8 bytes of data.
type control struct {
	hdr  unix.Cmsghdr
	data [8]byte
}

// Writer returns a writer.
func (s *Socket) Writer() *Writer {
	w := &Writer{s: s}
	w.hdr.Iov = &w.iov
	w.hdr.SetIovlen(1)
	w.hdr.Name = (*byte)(unsafe.Pointer(&w.sa))
	w.cut.hdr.Level, w.cut.hdr.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	w.cut.hdr.SetLen(unix.CmsgLen(2))
	w.hops.hdr.Level, w.hops.hdr.Type = unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT
	if s.addr.Addr().Is4() {
		w.hops.hdr.Level, w.hops.hdr.Type = unix.IPPROTO_IP, unix.IP_TTL
	}
	w.hops.hdr.SetLen(unix.CmsgLen(4))
	w.from.set(s.source)
	return w
}

// Send sends the datagrams that lie end to end in b, each segment bytes long
// but the last, which may be shorter. It does not keep b.
//
// The kernel cuts the run; if it refuses to (a segment is longer than the
// interface's MTU, a device computes no checksums) the datagrams are sent one by
// one. That is not remembered: the refused call costs little beside the many
// that follow, and the route may change. Probe's are always sent one by one.
//
// Send waits only while the send buffer is full, and at most 100 ms: then it
// gives up with syscall.EAGAIN and the rest of the run is not sent. Any other
// error is that of the last datagram that failed, and concerns that destination
// only (unreachable, forbidden by a firewall; EMSGSIZE: longer than the
// interface's MTU or than any datagram); the others have been sent. Errors wrap
// the system's.
func (w *Writer) Send(to netip.AddrPort, b []byte, segment int) error {
	segment, longest := w.prepare(to, b, segment)
	w.left = unix.NsecToTimespec(int64(sendWait))
	var failed syscall.Errno
	for len(b) > 0 && failed != unix.EAGAIN {
		n := min(longest, len(b))
		if e := w.run(b[:n], segment); e != 0 {
			failed = e
		}
		b = b[n:]
	}
	if failed != 0 {
		return os.NewSyscallError("sendmsg", failed)
	}
	return nil
}

// TrySend is Send that never waits and stops at the first error: it returns what it hasn't
// sent, or of which a part may have been sent.
func (w *Writer) TrySend(to netip.AddrPort, b []byte, segment int) (rest []byte, err error) {
	segment, longest := w.prepare(to, b, segment)
	w.left = unix.Timespec{}
	for len(b) > 0 {
		n := min(longest, len(b))
		if e := w.run(b[:n], segment); e != 0 {
			return b, os.NewSyscallError("sendmsg", e)
		}
		b = b[n:]
	}
	return nil, nil
}

// prepare returns the segment of b, and how much goes at once.
func (w *Writer) prepare(to netip.AddrPort, b []byte, segment int) (length, longest int) {
	if to != w.to {
		w.address(to)
	}
	if segment <= 0 {
		segment = max(len(b), 1)
	}
	if w.s.role.alternate {
		return segment, segment
	}
	return segment, max(min(maxSegments, maxRun/segment), 1) * segment
}

// run sends at most maxSegments datagrams.
func (w *Writer) run(b []byte, segment int) syscall.Errno {
	if len(b) <= segment {
		return w.single(b)
	}
	binary.NativeEndian.PutUint16(w.cut.data[:], uint16(segment))
	e := w.sendmsg(b, &w.cut, unix.CmsgSpace(2))
	if e != unix.EIO && e != unix.EINVAL && e != unix.EMSGSIZE {
		return e
	}
	e = 0
	for len(b) > 0 && e != unix.EAGAIN {
		n := min(segment, len(b))
		if f := w.single(b[:n]); f != 0 {
			e = f
		}
		b = b[n:]
	}
	return e
}

// single sends one datagram.
func (w *Writer) single(b []byte) syscall.Errno {
	if !w.s.role.alternate {
		return w.sendmsg(b, nil, 0)
	}
	odd := &w.odd[hash(w.to)]
	hops := w.s.hops
	if *odd {
		hops = max(hops-1, 1)
	}
	*odd = !*odd
	binary.NativeEndian.PutUint32(w.hops.data[:], uint32(hops))
	return w.sendmsg(b, &w.hops, unix.CmsgSpace(4))
}

// sendmsg sends b with control message c, if any, of n bytes. The call itself
// never sleeps, so the scheduler need not know of it: with two busy processors a
// single datagram took 8 to 10 µs this way, else 12 to 16.
func (w *Writer) sendmsg(b []byte, c *control, n int) syscall.Errno {
	w.iov.Base = &b[0]
	w.iov.SetLen(len(b))
	w.hdr.Control = (*byte)(unsafe.Pointer(c))
	if w.from.n > 0 {
		w.hdr.Control, n = w.from.with(c, n)
	}
	w.hdr.SetControllen(n)
	for {
		_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(w.s.fd), uintptr(unsafe.Pointer(&w.hdr)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		if e == unix.EINTR || (e == unix.EAGAIN && w.wait()) {
			continue
		}
		w.iov.Base = nil // b is the caller's
		return e
	}
}

// wait waits for room in the send buffer; false means that time is up.
func (w *Writer) wait() bool {
	for w.left != (unix.Timespec{}) {
		w.poll = unix.PollFd{Fd: int32(w.s.fd), Events: unix.POLLOUT}
		// The kernel writes into left what is left.
		n, _, e := unix.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&w.poll)), 1, uintptr(unsafe.Pointer(&w.left)), 0, 0, 0)
		if e != unix.EINTR {
			return e == 0 && n > 0
		}
	}
	return false
}

// address writes to as the kernel wants it.
func (w *Writer) address(to netip.AddrPort) {
	w.to = to
	a := to.Addr()
	// The port is at the same place in both.
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&w.sa.Port))[:], to.Port())
	if a.Is4() || a.Is4In6() {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&w.sa))
		sa.Family, sa.Addr = unix.AF_INET, a.As4()
		w.hdr.Namelen = unix.SizeofSockaddrInet4
		return
	}
	w.sa.Family, w.sa.Flowinfo, w.sa.Addr, w.sa.Scope_id = unix.AF_INET6, 0, a.As16(), 0
	w.hdr.Namelen = unix.SizeofSockaddrInet6
	if zone := a.Zone(); zone != "" {
		if zone != w.zone {
			w.zone, w.scope = zone, interfaceIndex(zone)
		}
		w.sa.Scope_id = w.scope
	}
}

// hash spreads destinations; those that share a value share their turns.
func hash(to netip.AddrPort) (h uint8) {
	for _, x := range to.Addr().As16() {
		h = h*31 + x
	}
	return h*31 + uint8(to.Port()) + uint8(to.Port()>>8)
}

// interfaceIndex returns the number of the interface that zone names or is the
// number of, or 0.
func interfaceIndex(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	return 0
}
