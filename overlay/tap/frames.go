//go:build linux

package tap

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"farlan/overlay"
	"farlan/overlay/internal/vnet"
)

// enough is how many bytes of a frame are worth a batch of its own: to send it
// on while it is in the cache is worth more than the system call saved.
const enough = 16 << 10

// maxPieces is how many pieces the body of a frame may have: the kernel takes
// 1,024 in one call (UIO_MAXIOV), with those of the header and the head.
const maxPieces = 1024 - 2

// System calls are raw, as none of them waits: the runtime, if it were told,
// could give the lane's processor to another goroutine meanwhile, for which the
// lane would have to wait afterwards.

// A reading is the scratch of a queue's reader.
type reading struct {
	header vnet.Header
	iovs   [2]unix.Iovec // the header, and a slot
	skip   int           // how many of them the kernel doesn't fill
}

// newReading returns the scratch of a queue whose frames have headers or not.
func newReading(headers bool) *reading {
	r := new(reading)
	r.iovs[0].Base = &r.header[0]
	r.iovs[0].SetLen(len(r.header))
	if !headers {
		r.skip = 1
	}
	return r
}

// read reads a frame into slot, and its header.
func (r *reading) read(fd int, slot []byte) (n int, e unix.Errno) {
	r.iovs[1].Base = &slot[0]
	r.iovs[1].SetLen(len(slot))
	iovs := r.iovs[r.skip:]
	got, _, e := unix.RawSyscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&iovs[0])), uintptr(len(iovs)))
	return max(int(got)-vnet.Len*(1-r.skip), 0), e
}

// A writing is the scratch of one Write.
type writing struct {
	header vnet.Header
	cutter overlay.Cutter
	iovs   [2 + maxPieces]unix.Iovec
	whole  [overlay.MaxFrame]byte
}

// write writes a frame with its header.
func (w *writing) write(fd int, f *overlay.Frame, mtu int) unix.Errno {
	if !w.header.Set(f, mtu) {
		return unix.EINVAL
	}
	w.iovs[0].Base = &w.header[0]
	w.iovs[0].SetLen(len(w.header))
	return w.put(fd, f, 0)
}

// finish writes a frame finished, if it isn't; with a header, which then says
// nothing, if the interface wants one.
func (w *writing) finish(fd int, f *overlay.Frame, mtu int, header bool) unix.Errno {
	skip := 1
	if header {
		skip = 0
		clear(w.header[:])
		w.iovs[0].Base = &w.header[0]
		w.iovs[0].SetLen(len(w.header))
	}
	if f.Offload == (overlay.Offload{}) {
		if !w.header.Set(f, mtu) {
			return unix.EINVAL
		}
		return w.put(fd, f, skip)
	}
	if !w.cutter.Load(f, mtu) {
		return unix.EINVAL
	}
	failed := unix.Errno(0)
	for w.cutter.Pending() {
		n := w.cutter.Next(w.whole[:])
		if n == 0 {
			failed = unix.EMSGSIZE
			continue
		}
		if e := w.put(fd, &overlay.Frame{Head: w.whole[:n]}, skip); e != 0 {
			failed = e
		}
	}
	return failed
}

// put writes the vectors from skip on: the header is in its own already.
func (w *writing) put(fd int, f *overlay.Frame, skip int) unix.Errno {
	if len(f.Body) > maxPieces {
		return unix.EMSGSIZE
	}
	w.iovs[1].Base = &f.Head[0]
	w.iovs[1].SetLen(len(f.Head))
	n := 2
	for _, b := range f.Body {
		w.iovs[n].Base = unsafe.SliceData(b)
		w.iovs[n].SetLen(len(b))
		n++
	}
	for {
		_, _, e := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&w.iovs[skip])), uintptr(n-skip))
		if e != unix.EINTR {
			return e
		}
	}
}
