//go:build linux

package tap

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// A Port is an open TAP. It has one or more queues, each with a descriptor of
// its own, over which the system spreads what it sends by flow: that of a flow
// comes by the queue that its peer's frames were last written to.
type Port struct {
	name    string
	mtu     int
	mac     overlay.MAC
	offload bool
	uso     bool // super-frames of UDP, too

	fds      []int      // one a queue
	readings []*reading // one a queue
	writes   sync.Pool  // of *writing
	dropped  atomic.Uint64

	netlink *netlink.Handle // stays in the namespace of the interface
	made    bool            // by us, so that it vanishes with the file
	undo    []func() error  // what Open changed, oldest first
	closed  atomic.Bool
}

// Name returns the interface's name.
func (p *Port) Name() string { return p.name }

// Kind returns "tap".
func (p *Port) Kind() string { return "tap" }

// MTU returns the interface's MTU when it was opened.
func (p *Port) MTU() int { return p.mtu }

// MAC returns the interface's own address when it was opened.
func (p *Port) MAC() overlay.MAC { return p.mac }

// Offload says whether unfinished frames pass between the system and the port.
// Without it all frames that are read are finished, and those that are written
// are finished first.
func (p *Port) Offload() bool { return p.offload }

// Queues returns how many queues the port has.
func (p *Port) Queues() int { return len(p.fds) }

// FD returns the descriptor of a queue: it is readable when Read has something
// to say.
func (p *Port) FD(queue int) int { return p.fds[queue] }

// Dropped returns how many frames Read has dropped since Open.
func (p *Port) Dropped() uint64 { return p.dropped.Load() }

// Close closes the port, which nobody may use meanwhile or later. An interface
// that Open made is removed; any other gets back what Open changed.
func (p *Port) Close() error {
	if p.closed.Swap(true) {
		return net.ErrClosed
	}
	err := p.detach()
	p.netlink.Close()
	return err
}

// Read empties b and takes frames by a queue until none waits, b is full, or a
// super-frame came that is better worked at before the next. It doesn't wait: b
// may stay empty. Frames that are no frames, or longer than they may be, are
// dropped. The error is a *overlay.PortError: when the interface was removed,
// say. A queue is read by one goroutine at a time.
func (p *Port) Read(queue int, b *overlay.Batch) error {
	b.Reset()
	r := p.readings[queue]
	for range overlay.BatchFrames {
		slot := b.Slot()
		if slot == nil {
			return nil
		}
		n, e := r.read(p.fds[queue], slot)
		switch e {
		case 0:
			o, ok := r.header.Parse(slot[:n], 0)
			if !ok {
				p.dropped.Add(1)
				continue
			}
			b.Commit(n, o)
			if n >= enough {
				return nil
			}
		case unix.EINTR:
		case unix.EAGAIN:
			return nil
		case unix.EINVAL: // a super-frame of a kind that a header cannot tell
			p.dropped.Add(1)
		default:
			if len(b.Frames()) > 0 {
				return nil // the next Read meets the error again
			}
			return p.broken(e)
		}
	}
	return nil
}

func (p *Port) broken(err error) error {
	if errors.Is(err, unix.EBADFD) {
		return &overlay.PortError{Port: p.name, What: "the interface was removed", Err: err}
	}
	return &overlay.PortError{Port: p.name, What: "cannot be read", Err: err}
}

// Write writes frames by a queue and returns how many the interface took: none
// while it is down. Segments of TCP become shorter where the interface's MTU
// demands it; a super-frame of UDP whose datagrams don't fit is not taken, nor
// is a frame in more than maxPieces pieces. Write doesn't wait, and is safe for
// concurrent use.
func (p *Port) Write(queue int, frames []overlay.Frame) int {
	w, ok := p.writes.Get().(*writing)
	if !ok {
		w = new(writing)
	}
	fd, n := p.fds[queue%len(p.fds)], 0
	for i := range frames {
		var e unix.Errno
		if p.offload && (p.uso || frames[i].Super != overlay.SuperUDP) {
			e = w.write(fd, &frames[i], p.mtu)
		} else {
			e = w.finish(fd, &frames[i], p.mtu, p.offload)
		}
		if e == 0 {
			n++
		} else if e == unix.EIO || e == unix.EBADFD {
			break // it is down, or was removed
		}
	}
	p.writes.Put(w)
	return n
}
