//go:build linux

package link

import (
	"cmp"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Limits of one segmented send: UDP_MAX_SEGMENTS before Linux 6.8, and an IP
// datagram's length with room for any header.
const (
	maxSegments = 64
	maxRun      = 65_000
)

// A Writer sends datagrams for one goroutine.
type Writer struct {
	s *Socket
	// Bound once, as a closure per send would be garbage. RawConn.Write lets one
	// writer in at a time, so it serves only to wait.
	try  func(fd uintptr)
	send func(fd uintptr) bool

	// What send sends, and how that ended.
	to  unix.Sockaddr
	b   []byte
	oob []byte
	err error

	sa4   unix.SockaddrInet4
	sa6   unix.SockaddrInet6
	cmsg  [controlSpace]byte
	zone  string // of the last link-local destination,
	scope uint32 // and its interface's number
}

// Writer returns a writer.
func (s *Socket) Writer() *Writer {
	w := &Writer{s: s}
	w.send = w.sendmsg
	w.try = func(fd uintptr) { w.send(fd) }
	h := (*unix.Cmsghdr)(unsafe.Pointer(&w.cmsg[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	return w
}

// Send sends the datagrams that lie end to end in b, each segment bytes long
// but the last, which may be shorter. It waits while the send buffer is full.
//
// The kernel cuts the run; if it refuses to (a segment is longer than the
// path's MTU, a device computes no checksums) the datagrams are sent one by
// one, and fragmented if they must be. That is not remembered: the refused
// call costs little beside the many that follow, and the path may change.
//
// An error is that of the last datagram that failed, and concerns that
// destination only (unreachable, forbidden by a firewall, too long), unless it
// is net.ErrClosed; the others have been sent.
func (w *Writer) Send(to netip.AddrPort, b []byte, segment int) error {
	w.to = w.sockaddr(to)
	if segment <= 0 {
		segment = max(len(b), 1)
	}
	err := w.each(b, max(min(maxSegments, maxRun/segment), 1)*segment, func(run []byte) error {
		return w.run(run, segment)
	})
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return os.NewSyscallError("sendmsg", err)
	}
	return err
}

// run sends at most maxSegments datagrams.
func (w *Writer) run(b []byte, segment int) error {
	if len(b) <= segment {
		return w.one(b, nil)
	}
	binary.NativeEndian.PutUint16(w.cmsg[unix.CmsgLen(0):], uint16(segment))
	err := w.one(b, w.cmsg[:unix.CmsgSpace(2)])
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EMSGSIZE) {
		return w.each(b, segment, func(d []byte) error { return w.one(d, nil) })
	}
	return err
}

// each calls f with b in pieces of n bytes, to the end unless the socket is
// closed, and returns the last error.
func (w *Writer) each(b []byte, n int, f func(piece []byte) error) error {
	var failed error
	for len(b) > 0 {
		piece := b[:min(n, len(b))]
		b = b[len(piece):]
		if err := f(piece); err != nil {
			failed = err
			if errors.Is(err, net.ErrClosed) {
				break
			}
		}
	}
	return failed
}

// one makes one system call of it.
func (w *Writer) one(b, oob []byte) error {
	w.b, w.oob, w.err = b, oob, nil
	err := w.s.raw.Control(w.try)
	if errors.Is(w.err, unix.EAGAIN) {
		err = w.s.raw.Write(w.send)
	}
	w.b = nil
	return cmp.Or(err, w.err)
}

// sendmsg sends to fd; false means that its buffer is full.
func (w *Writer) sendmsg(fd uintptr) bool {
	for {
		_, w.err = unix.SendmsgN(int(fd), w.b, w.oob, w.to, unix.MSG_NOSIGNAL)
		if !errors.Is(w.err, unix.EINTR) {
			return !errors.Is(w.err, unix.EAGAIN)
		}
	}
}

// sockaddr returns to as the kernel wants it, in the writer's scratch.
func (w *Writer) sockaddr(to netip.AddrPort) unix.Sockaddr {
	a := to.Addr()
	if a.Is4() || a.Is4In6() {
		w.sa4.Addr, w.sa4.Port = a.As4(), int(to.Port())
		return &w.sa4
	}
	w.sa6.Addr, w.sa6.Port, w.sa6.ZoneId = a.As16(), int(to.Port()), 0
	if zone := a.Zone(); zone != "" {
		if zone != w.zone {
			w.zone, w.scope = zone, interfaceIndex(zone)
		}
		w.sa6.ZoneId = w.scope
	}
	return &w.sa6
}

// interfaceIndex returns the number of the interface that zone names or is the
// number of, or 0.
func interfaceIndex(zone string) uint32 {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	return 0
}
