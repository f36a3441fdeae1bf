//go:build linux

package link

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batchAggregates is how many aggregates one read takes: with 40
	// datagrams each, more than a wake-up ever finds waiting.
	batchAggregates = 16
	maxAggregate    = 1 << 16 // more than an IP datagram can carry
)

// controlSpace is at least what the control message that tells a segment size
// takes, which is unix.CmsgSpace(4), on every architecture.
const controlSpace = 24

// A Socket sends and receives our datagrams. Read and Close may be called at
// any time by anybody; each goroutine needs a Batch and a Writer of its own.
type Socket struct {
	conn  *net.UDPConn
	raw   syscall.RawConn
	inbox *inbox // strays for us
	other *inbox // and for the control socket
}

// LocalAddr returns the address and port that the socket is bound to.
func (s *Socket) LocalAddr() netip.AddrPort { return local(s.conn) }

// Close closes the socket; blocked reads and writes return net.ErrClosed.
func (s *Socket) Close() error { return s.conn.Close() }

// Read waits for datagrams and fills b with what has come. Errors that others
// cause (ICMP) do not surface; the error is net.ErrClosed after Close.
func (s *Socket) Read(b *Batch) error {
	for {
		b.n, b.err = 0, nil
		for b.n < batchAggregates {
			n, from, ok := s.inbox.take(b.buf[b.n][:])
			if !ok {
				break
			}
			b.put(n, from)
		}
		if b.n > 0 {
			return nil
		}
		err := s.raw.Read(b.recv)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.inbox.expired()
		case err != nil:
			return err
		case b.err != nil && !transient(b.err):
			return os.NewSyscallError("recvmmsg", b.err)
		default:
			s.sort(b)
			if b.n > 0 {
				return nil
			}
		}
	}
}

// sort takes the datagrams that are not ours out of b's aggregates.
func (s *Socket) sort(b *Batch) {
	for i := range b.n {
		b.msgs[i].n = uint32(sift(b.Data(i), b.Segment(i), true, func(d []byte) { s.other.put(b.From(i), d) }))
	}
}

// sift takes the datagrams out of aggregate d for which ours is not want, and
// returns how long the rest is.
func sift(d []byte, segment int, want bool, stray func(d []byte)) int {
	for at := 0; at < len(d); {
		end := min(at+segment, len(d))
		if ours(d[at:end]) == want {
			at = end
			continue
		}
		stray(d[at:end])
		d = append(d[:at], d[end:]...)
	}
	return len(d)
}

// transient says whether a read that failed with err may be repeated: an error
// of some datagram before, which the kernel reports once.
func transient(err error) bool {
	var e syscall.Errno
	if !errors.As(err, &e) {
		return false
	}
	switch e {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENETDOWN,
		unix.ENOPROTOOPT, unix.EPROTO, unix.EMSGSIZE, unix.EACCES, unix.EPERM, unix.EINTR,
		unix.ENOBUFS, unix.ENOMEM:
		return true
	}
	return false
}

// A Batch holds what one Read took, in buffers of its own that the next Read
// overwrites. It is used by one goroutine.
type Batch struct {
	n    int // aggregates
	err  error
	recv func(fd uintptr) bool // bound once: a closure per read would be garbage
	msgs [batchAggregates]message
	iovs [batchAggregates]unix.Iovec
	from [batchAggregates]unix.RawSockaddrInet6 // or …Inet4, which is shorter
	oob  [batchAggregates][controlSpace]byte
	seg  [batchAggregates]int
	buf  [batchAggregates][maxAggregate]byte
}

// message is struct mmsghdr.
type message struct {
	hdr unix.Msghdr
	n   uint32
}

// NewBatch returns an empty batch, a megabyte large.
func NewBatch() *Batch {
	b := new(Batch)
	for i := range b.msgs {
		b.iovs[i].Base = &b.buf[i][0]
		b.iovs[i].SetLen(maxAggregate)
		h := &b.msgs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&b.from[i]))
		h.Iov = &b.iovs[i]
		h.SetIovlen(1)
		h.Control = &b.oob[i][0]
	}
	b.recv = b.recvmmsg
	return b
}

// recvmmsg takes what waits at fd; false means that nothing does.
func (b *Batch) recvmmsg(fd uintptr) bool {
	for i := range b.msgs {
		h := &b.msgs[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(controlSpace)
	}
	n, _, e := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.msgs[0])), batchAggregates, 0, 0, 0)
	switch e {
	case 0:
	case unix.EAGAIN:
		return false
	default:
		b.err = e
		return true
	}
	b.n = int(n)
	for i := range b.n {
		m := &b.msgs[i]
		b.seg[i] = segmentOf(b.oob[i][:m.hdr.Controllen], int(m.n))
	}
	return true
}

// put adds the datagram that lies in the next buffer.
func (b *Batch) put(n int, from netip.AddrPort) {
	i := b.n
	if a := from.Addr(); a.Is4() {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&b.from[i]))
		sa.Family, sa.Addr = unix.AF_INET, a.As4()
	} else {
		b.from[i].Family, b.from[i].Addr = unix.AF_INET6, a.As16()
		scope, _ := strconv.ParseUint(a.Zone(), 10, 32)
		b.from[i].Scope_id = uint32(scope)
	}
	// The port is at the same place in both.
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&b.from[i].Port))[:], from.Port())
	b.msgs[i].n, b.seg[i] = uint32(n), n
	b.n++
}

// Len returns how many aggregates b holds.
func (b *Batch) Len() int { return b.n }

// Data returns aggregate i: datagrams from one sender, end to end, each
// Segment(i) bytes long but the last, which may be shorter. It may be empty.
func (b *Batch) Data(i int) []byte { return b.buf[i][:b.msgs[i].n] }

// Segment returns the length of aggregate i's datagrams.
func (b *Batch) Segment(i int) int { return b.seg[i] }

// From returns the sender of aggregate i. The zone of a link-local address is
// the interface's number.
func (b *Batch) From(i int) netip.AddrPort {
	sa := &b.from[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	if sa.Family == unix.AF_INET {
		sa4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(sa4.Addr), port)
	}
	a := netip.AddrFrom16(sa.Addr)
	if sa.Scope_id != 0 {
		a = a.WithZone(strconv.FormatUint(uint64(sa.Scope_id), 10))
	}
	return netip.AddrPortFrom(a, port)
}

// All calls yield with each datagram until it returns false:
// for from, d := range b.All { … }.
func (b *Batch) All(yield func(from netip.AddrPort, datagram []byte) bool) {
	for i := range b.n {
		from, d, seg := b.From(i), b.Data(i), b.Segment(i)
		for len(d) > 0 {
			n := min(seg, len(d))
			if !yield(from, d[:n:n]) {
				return
			}
			d = d[n:]
		}
	}
}

// segmentOf returns the segment size that the control messages in oob tell, or
// n for a datagram that came alone.
func segmentOf(oob []byte, n int) int {
	if len(oob) < unix.CmsgLen(4) {
		return n
	}
	h, data, _, err := unix.ParseOneSocketControlMessage(oob)
	if err != nil || h.Level != unix.SOL_UDP || h.Type != unix.UDP_GRO {
		return n
	}
	if seg := int(binary.NativeEndian.Uint32(data)); seg > 0 {
		return seg
	}
	return n
}
