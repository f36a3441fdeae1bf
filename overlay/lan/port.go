//go:build linux

package lan

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"

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

	unreached error // why the host's own stack isn't reached

	fd      int
	closed  atomic.Bool
	reading *reading
	state   state // of the interface, as far as Read knows
	dropped atomic.Uint64

	host   *host     // nil: the host's own stack isn't reached
	writes sync.Pool // of *writing
}

// A state is what Read knows of its interface: the kernel tells when it goes
// down, but neither when it comes up again nor when it is removed then.
type state uint8

const (
	up    state = iota
	fell        // and there may be frames from before
	empty       // those have been read: the next comes when it is up again
)

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

// Unreached returns why this host itself can't talk to far stations, nil if it can, or if its
// addresses aren't on this interface, as that is a port of a bridge.
func (p *Port) Unreached() error { return p.unreached }

// Offload says that unfinished frames pass between the system and the port.
func (p *Port) Offload() bool { return true }

// Queues returns how many queues the port has: number 0 for the wire, and if the host's own
// stack is reached number 1 for what that sends.
func (p *Port) Queues() int {
	if p.host == nil {
		return 1
	}
	return 2
}

// FD returns the descriptor of a queue: it is readable when Read has something to
// say, except that the interface was removed while it was down.
func (p *Port) FD(queue int) int {
	if queue == 1 {
		return p.host.fd
	}
	return p.fd
}

// Dropped returns how many frames Read has dropped since Open: they were
// unfinished in a way that no Offload can say, or longer than frames may be.
func (p *Port) Dropped() uint64 { return p.dropped.Load() }

// Close closes the port, which nobody may use meanwhile or later, and the
// interface leaves promiscuous mode.
func (p *Port) Close() error {
	if p.closed.Swap(true) {
		return net.ErrClosed
	}
	if p.host != nil {
		return errors.Join(p.host.close(), unix.Close(p.fd))
	}
	return unix.Close(p.fd)
}

// enough is how many bytes of a frame are worth a batch of its own: to send it
// on while it is in the cache is worth more than the system call saved.
const enough = 16 << 10

// Read empties b and takes frames, with their VLAN tags, until none waits, b is
// full, or a super-frame came that is better worked at before the next. It
// doesn't wait: b may stay empty, as it does while the interface is down. The
// error is a *overlay.PortError: when the interface was removed, say; to learn
// of that when it was down before, Read must be called now and then. Read is
// for one goroutine a queue.
func (p *Port) Read(queue int, b *overlay.Batch) error {
	b.Reset()
	fd, r := p.fd, p.reading
	if queue == 1 {
		fd, r = p.host.fd, p.host.reading
	}
	for range overlay.BatchFrames {
		slot := b.Slot()
		if slot == nil {
			return nil
		}
		n, tag, e := r.receive(fd, slot)
		switch e {
		case 0:
			if queue == 0 && p.state == empty {
				p.state = up
			}
			o, ok := r.header.Parse(slot[:n], tag)
			if !ok {
				p.dropped.Add(1)
				continue
			}
			b.Commit(n, o)
			if n >= enough {
				return nil
			}
		case unix.EINTR:
		case unix.EINVAL, unix.ENOBUFS, unix.ENOMEM:
			p.dropped.Add(1) // a super-frame of a kind that a header cannot tell
		default:
			if queue == 1 {
				return nil // the other one tells what is wrong
			}
			err := p.judge(e)
			if len(b.Frames()) > 0 {
				return nil // the next Read meets it again
			}
			return err
		}
	}
	return nil
}

// judge says what becomes of the port after a read that ended with e.
func (p *Port) judge(e unix.Errno) error {
	switch {
	case e == unix.ENETDOWN:
		p.state = fell
	case e != unix.EAGAIN:
		return &overlay.PortError{Port: p.name, What: "cannot be read", Err: e}
	case p.state == fell:
		p.state = empty
	}
	if p.state != up && p.removed() {
		return &overlay.PortError{Port: p.name, What: "the interface was removed", Err: unix.ENODEV}
	}
	return nil
}

// removed says whether the socket has lost its interface.
func (p *Port) removed() bool {
	a, err := unix.Getsockname(p.fd)
	ll, ok := a.(*unix.SockaddrLinklayer)
	return err == nil && ok && ll.Ifindex != p.index
}

// Write puts frames on the wire, hands this host's stack what is for that, and returns how
// many were taken. The
// kernel refuses those that are longer than its MTU allows. Segments of TCP
// become shorter where the MTU demands it; a super-frame of UDP whose datagrams
// don't fit is not taken, nor is a frame in more than maxPieces pieces. Write
// doesn't wait, and is safe for concurrent use.
func (p *Port) Write(_ int, frames []overlay.Frame) (written int) {
	if p.host == nil {
		return p.send(frames)
	}
	first := 0 // of those that the wire gets
	for i := range frames {
		takes, alone := p.host.takes(&frames[i])
		if !takes {
			continue
		}
		n := p.host.write(frames[i:i+1], alone)
		if alone {
			written += n + p.send(frames[first:i])
			first = i + 1
		}
	}
	return written + p.send(frames[first:])
}

// send puts frames on the wire.
func (p *Port) send(frames []overlay.Frame) int {
	w, ok := p.writes.Get().(*writing)
	if !ok {
		w = new(writing)
	}
	written := 0
	for len(frames) > 0 {
		frames = frames[w.load(frames, p.mtu):]
		written += w.send(p.fd)
	}
	p.writes.Put(w)
	return written
}
