//go:build linux

package link

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

const (
	// maxMessages is how many aggregates one read takes if they are small: where
	// nothing aggregates, each is one datagram.
	maxMessages = 64
	// fewMessages is how many it takes otherwise: a megabyte of full ones.
	fewMessages = 16
	// smallMessages is what all messages of a small read hold at most.
	smallMessages = fewMessages * 4096

	maxAggregate = 1 << 16 // more than an IP datagram can carry
)

// oobSpace is at least what the control messages with segment size and receive
// time take, CmsgSpace(4) + CmsgSpace(16), on every architecture.
const oobSpace = 64

// A Batch holds what one Read took, in buffers of its own that the next Read
// overwrites. It is used by one goroutine, for any number of sockets.
type Batch struct {
	n     int // aggregates
	used  int // messages whose lengths the kernel has overwritten
	limit int // messages that the next read takes
	msgs  [maxMessages]message
	iovs  [maxMessages]unix.Iovec
	from  [maxMessages]unix.RawSockaddrInet6 // or …Inet4, which is shorter
	oob   [maxMessages][oobSpace]byte
	seg   [maxMessages]int
	stamp [maxMessages]overlay.Instant
	buf   []byte
}

// message is struct mmsghdr.
type message struct {
	hdr unix.Msghdr
	n   uint32
}

// NewBatch returns an empty batch. Any message may be a full aggregate, so it
// takes 4 MB of address space, but memory only where it has been written to:
// 256 KB after reads of 64 single datagrams, 1.3 MB after full aggregates. It is
// not Go's memory, which would clear it if the program has used and freed as much
// before, and let as much garbage pile up before it collects any.
func NewBatch() *Batch {
	b := &Batch{used: maxMessages, limit: fewMessages}
	const size = maxMessages * maxAggregate
	if mapped, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE); err == nil {
		_ = unix.Madvise(mapped, unix.MADV_NOHUGEPAGE) // where there are none, there is no need
		runtime.AddCleanup(b, func(mapped []byte) { _ = unix.Munmap(mapped) }, mapped)
		b.buf = mapped
	} else {
		b.buf = make([]byte, size)
	}
	for i := range b.msgs {
		b.iovs[i].Base = &b.buf[i*maxAggregate]
		b.iovs[i].SetLen(maxAggregate)
		h := &b.msgs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&b.from[i]))
		h.Iov = &b.iovs[i]
		h.SetIovlen(1)
		h.Control = &b.oob[i][0]
	}
	return b
}

// recvmmsg takes what waits at fd; EAGAIN means that nothing does. As it never
// sleeps, the scheduler need not know of the call.
func (b *Batch) recvmmsg(fd int) syscall.Errno {
	for i := range b.used {
		h := &b.msgs[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(oobSpace)
	}
	b.n, b.used = 0, 0
	n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.msgs[0])), uintptr(b.limit), unix.MSG_DONTWAIT, 0, 0)
	if e != 0 {
		return e
	}
	b.n, b.used = int(n), int(n)
	total := 0
	for i := range b.n {
		m := &b.msgs[i]
		b.seg[i], b.stamp[i] = controls(b.oob[i][:m.hdr.Controllen], int(m.n))
		total += int(m.n)
	}
	// Take more at a time only while a queue of small ones stands: buffers that
	// were never written to cost no memory.
	if b.n < b.limit || total > smallMessages*b.limit/fewMessages {
		b.limit = fewMessages
	} else {
		b.limit = maxMessages
	}
	return 0
}

// Len returns how many aggregates b holds.
func (b *Batch) Len() int { return b.n }

// Data returns aggregate i: datagrams from one sender, end to end, each
// Segment(i) bytes long but the last, which may be shorter. It may be empty.
func (b *Batch) Data(i int) []byte {
	d := b.buf[i*maxAggregate : (i+1)*maxAggregate : (i+1)*maxAggregate]
	return d[:b.msgs[i].n]
}

// Segment returns the length of aggregate i's datagrams.
func (b *Batch) Segment(i int) int { return b.seg[i] }

// Stamp returns when the kernel received aggregate i, by the wall clock: when
// the driver's poll handed it on, so after its last datagram. It is 0 if the
// kernel told no time.
func (b *Batch) Stamp(i int) overlay.Instant { return b.stamp[i] }

// From returns the sender of aggregate i. The zone of a link-local address is
// the interface's number.
func (b *Batch) From(i int) netip.AddrPort {
	sa := &b.from[i]
	// The port is at the same place in both.
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

// controls returns what the control messages in oob tell of an aggregate of n
// bytes: its datagrams' length, which is n for one that came alone, and its
// receive time or 0.
func controls(oob []byte, n int) (segment int, stamp overlay.Instant) {
	segment = n
	for len(oob) >= unix.CmsgLen(0) {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		oob = rest
		switch {
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			if s := int(binary.NativeEndian.Uint32(data)); s > 0 {
				segment = s
			}
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_TIMESTAMPNS_NEW && len(data) >= 16:
			seconds, ns := binary.NativeEndian.Uint64(data), binary.NativeEndian.Uint64(data[8:])
			stamp = overlay.Instant(seconds*1e9 + ns)
		}
	}
	return segment, stamp
}
