//go:build linux

package tap

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// A Port is an open TAP.
type Port struct {
	name string
	mtu  int
	mac  overlay.MAC

	file *os.File
	raw  syscall.RawConn

	netlink *netlink.Handle // stays in the namespace of the interface
	made    bool            // by us, so that it vanishes with the file
	undo    []func() error  // what Open changed, oldest first
	closed  atomic.Bool

	reading reading
	writes  sync.Pool // of *writing
}

// Name returns the interface's name.
func (p *Port) Name() string { return p.name }

// Kind returns "tap".
func (p *Port) Kind() string { return "tap" }

// MTU returns the interface's MTU when it was opened.
func (p *Port) MTU() int { return p.mtu }

// MAC returns the interface's own address when it was opened.
func (p *Port) MAC() overlay.MAC { return p.mac }

// Close closes the port: a blocked Read returns net.ErrClosed. An interface
// that Open made is removed, as soon as reads and writes have ended; any other
// gets back what Open changed.
func (p *Port) Close() error {
	if p.closed.Swap(true) {
		return net.ErrClosed
	}
	var errs []error
	if !p.made {
		for _, f := range slices.Backward(p.undo) {
			if err := f(); err != nil && !errors.Is(err, unix.ENODEV) { // removed meanwhile
				errs = append(errs, explain(p.name, "cannot put it back as it was", err))
			}
		}
	}
	if p.file != nil {
		errs = append(errs, p.file.Close())
	}
	p.netlink.Close()
	return errors.Join(errs...)
}

// Read empties b, waits for a frame, and takes what else has come. Frames
// without a whole Ethernet header, or longer than b's slots, are dropped. The
// error is net.ErrClosed after Close, and a *overlay.PortError when the
// interface was removed. Read is for one goroutine.
func (p *Port) Read(b *overlay.Batch) error {
	r := &p.reading
	r.b, r.err = b, nil
	b.Reset()
	err := p.raw.Read(r.take)
	if err == nil {
		err = r.err
	}
	switch {
	case err == nil:
		return nil
	case p.closed.Load():
		return net.ErrClosed
	case errors.Is(err, unix.EBADFD):
		return &overlay.PortError{Port: p.name, What: "the interface was removed", Err: err}
	default:
		return &overlay.PortError{Port: p.name, What: "cannot be read", Err: err}
	}
}

// A reading is the scratch of Read.
type reading struct {
	b    *overlay.Batch
	err  error
	take func(fd uintptr) bool // bound once: a closure per call would be garbage
	iovs [2][]byte             // the slot, and a byte that a longer frame reaches
}

func (r *reading) init() {
	r.take = r.takeFrom
	r.iovs[1] = make([]byte, 1)
}

// takeFrom fills the batch from fd; false means that nothing waits.
func (r *reading) takeFrom(fd uintptr) bool {
	for {
		slot := r.b.Slot()
		if slot == nil {
			return true
		}
		r.iovs[0] = slot
		n, err := unix.Readv(int(fd), r.iovs[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return len(r.b.Frames()) > 0
		case err != nil:
			// What came before is not lost: the next Read meets the error again.
			if len(r.b.Frames()) == 0 {
				r.err = err
			}
			return true
		case n >= overlay.MinFrame && n <= len(slot):
			r.b.Commit(n)
		}
	}
}

// Write writes frames and returns how many the interface took: none while it
// is down. It never blocks and is safe for concurrent use.
func (p *Port) Write(frames [][]byte) int {
	w, ok := p.writes.Get().(*writing)
	if !ok {
		w = &writing{}
		w.put = w.putTo
	}
	w.frames, w.n = frames, 0
	_ = p.raw.Control(w.put) // fails only when closed
	n := w.n
	w.frames = nil
	p.writes.Put(w)
	return n
}

// A writing is the scratch of one Write.
type writing struct {
	frames [][]byte
	n      int
	put    func(fd uintptr)
}

func (w *writing) putTo(fd uintptr) {
	for _, f := range w.frames {
		if len(f) < overlay.MinFrame {
			continue
		}
		_, err := unix.Write(int(fd), f)
		for errors.Is(err, unix.EINTR) {
			_, err = unix.Write(int(fd), f)
		}
		if err == nil {
			w.n++
		}
	}
}
