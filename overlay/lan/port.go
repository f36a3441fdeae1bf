//go:build linux

package lan

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// A Port is a packet socket on an interface.
type Port struct {
	name    string
	index   int
	mtu     int
	mac     overlay.MAC
	warning string

	file   *os.File
	raw    syscall.RawConn
	closed atomic.Bool

	inbound *received // the reader's
	cut     cutter
	down    bool // the interface, as far as the reader knows
	dropped atomic.Uint64

	writes sync.Pool // of *writing
}

// Name returns the interface's name.
func (p *Port) Name() string { return p.name }

// Kind returns "lan".
func (p *Port) Kind() string { return "lan" }

// MTU returns the interface's MTU when it was opened.
func (p *Port) MTU() int { return p.mtu }

// MAC returns the interface's own address when it was opened.
func (p *Port) MAC() overlay.MAC { return p.mac }

// Warning returns what will not work on this interface, "" if all does.
func (p *Port) Warning() string { return p.warning }

// Dropped returns how many received frames were dropped since Open because
// they could not be cut up, or did not fit the batch.
func (p *Port) Dropped() uint64 { return p.dropped.Load() }

// Close closes the port: a blocked Read returns net.ErrClosed, and the
// interface leaves promiscuous mode when it has.
func (p *Port) Close() error {
	if p.closed.Swap(true) {
		return net.ErrClosed
	}
	return p.file.Close()
}

// recheck is how often a reader looks whether an interface that went down has
// been removed, of which the kernel doesn't tell.
const recheck = time.Second

// Read empties b, waits for frames, and puts into b those that one system call
// yields: as they would be on the wire, with their VLAN tags. What does not
// fit waits for the next Read. While the interface is down there are none. The
// error is net.ErrClosed after Close, and a *overlay.PortError when the
// interface was removed. Read is for one goroutine.
func (p *Port) Read(b *overlay.Batch) error {
	b.Reset()
	for {
		p.fill(b)
		if len(b.Frames()) > 0 {
			return nil
		}
		r := p.inbound
		r.err = nil
		err := p.raw.Read(r.take)
		if err == nil {
			err = r.err
		}
		if err = p.judge(err); err != nil {
			return err
		}
	}
}

// judge says what becomes of the reader after a receive that ended with err.
func (p *Port) judge(err error) error {
	switch {
	case p.closed.Load():
		return net.ErrClosed
	case err == nil:
		if p.down {
			p.down = false
			return p.file.SetReadDeadline(time.Time{})
		}
		return nil
	case errors.Is(err, unix.ENETDOWN), errors.Is(err, os.ErrDeadlineExceeded):
		if p.removed() {
			return &overlay.PortError{Port: p.name, What: "the interface was removed", Err: unix.ENODEV}
		}
		p.down = true
		return p.file.SetReadDeadline(time.Now().Add(recheck))
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		p.dropped.Add(1) // a super-frame of a kind that a vnet header cannot tell
		return nil
	default:
		return &overlay.PortError{Port: p.name, What: "cannot be read", Err: err}
	}
}

// removed says whether the socket has lost its interface.
func (p *Port) removed() bool {
	gone := false
	err := p.raw.Control(func(fd uintptr) {
		a, err := unix.Getsockname(int(fd))
		ll, ok := a.(*unix.SockaddrLinklayer)
		gone = err == nil && ok && ll.Ifindex != p.index
	})
	return err == nil && gone
}

// fill cuts up what was received into b, as far as it fits.
func (p *Port) fill(b *overlay.Batch) {
	for {
		for p.cut.pending() {
			slot := b.Slot()
			if slot == nil {
				return
			}
			if n := p.cut.next(slot); n > 0 {
				b.Commit(n)
			} else {
				p.dropped.Add(1)
			}
		}
		v, frame, ok := p.inbound.next()
		if !ok {
			return
		}
		if !p.cut.load(v, frame, p.mtu) {
			p.dropped.Add(1)
		}
	}
}

// Write puts frames on the wire and returns how many the interface took. The
// kernel refuses those that are longer than its MTU allows. It never blocks
// and is safe for concurrent use.
func (p *Port) Write(frames [][]byte) int {
	w, ok := p.writes.Get().(*writing)
	if !ok {
		w = newWriting()
	}
	written := 0
	for len(frames) > 0 {
		frames = frames[w.load(frames):]
		w.sent = 0
		_ = p.raw.Control(w.put) // fails only when closed
		written += w.sent
	}
	p.writes.Put(w)
	return written
}
