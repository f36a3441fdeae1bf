//go:build linux

package qemu

import (
	"encoding/binary"
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// acceptAtOnce bounds the connections that one Read takes.
const acceptAtOnce = 16

// Read empties b and takes frames, until none waits or b is full. It doesn't wait: b may
// stay empty. It also takes connections, ends those that are broken or bring what isn't
// frames, passes frames from leg to leg, and goes on with what couldn't be written. What
// legs bring is taken in turns. There is no error but that of a descriptor that can't be
// waited for, a *overlay.PortError. Read is for one goroutine.
func (p *Port) Read(_ int, b *overlay.Batch) error {
	b.Reset()
	if err := p.look(); err != nil {
		return explain(p.path, "cannot wait for QEMU", err)
	}
	legs := *p.legs.Load()
	if len(legs) == 0 {
		return nil
	}
	p.turn = (p.turn + 1) % len(legs)
	more := false
	for i := range legs {
		l := legs[(p.turn+i)%len(legs)]
		if l.ready || l.more {
			p.take(l, b)
		}
		more = more || l.more
	}
	p.arm(more)
	return nil
}

// look asks the kernel what there is to do, and does what is no frame.
func (p *Port) look() error {
	if p.deaf {
		p.hear(true) // there may be descriptors again
	}
	n, e := events(p.epoll, p.events[:])
	if e != 0 && e != unix.EINTR {
		return os.NewSyscallError("epoll_wait", e)
	}
	for _, e := range p.events[:n] {
		switch fd := int(e.Fd); fd {
		case p.listener:
			p.accept()
		case p.again:
		default:
			p.called(fd, e.Events)
		}
	}
	return nil
}

// called notes what a leg's descriptor is ready for.
func (p *Port) called(fd int, events uint32) {
	legs := *p.legs.Load()
	i := slices.IndexFunc(legs, func(l *leg) bool { return l.fd == fd }) // Read alone changes fd
	if i < 0 {
		return
	}
	l := legs[i]
	if events&unix.EPOLLOUT != 0 {
		l.mu.Lock()
		l.flush()
		l.mu.Unlock()
	}
	l.ready = events&^unix.EPOLLOUT != 0
}

// await tells the kernel what a descriptor is waited for.
func (p *Port) await(op, fd int, events uint32) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}))
}

// hear says whether the listener is waited for.
func (p *Port) hear(on bool) {
	events := uint32(0)
	if on {
		events = unix.EPOLLIN
	}
	p.deaf = !on
	_ = p.await(unix.EPOLL_CTL_MOD, p.listener, events)
}

// accept takes QEMUs that want to be connected.
func (p *Port) accept() {
	for range acceptAtOnce {
		fd, _, err := unix.Accept4(p.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case err == nil:
			p.connect(fd)
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
		case errors.Is(err, unix.EAGAIN):
			return
		default: // no descriptors, no memory: it would call for ever
			p.hear(false)
			return
		}
	}
}

func (p *Port) connect(fd int) {
	legs := *p.legs.Load()
	if len(legs) >= MaxLegs || p.await(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN) != nil {
		p.refused.Add(1)
		_ = unix.Close(fd)
		return
	}
	all := append(slices.Clone(legs), &leg{p: p, fd: fd, in: new(splitter)})
	p.legs.Store(&all)
}

// disconnect ends a leg.
func (p *Port) disconnect(l *leg) {
	legs := slices.DeleteFunc(slices.Clone(*p.legs.Load()), func(o *leg) bool { return o == l })
	p.legs.Store(&legs)
	gone := p.stations.forget(l)
	l.close()
	l.ready, l.more = false, false
	if p.Left != nil {
		for _, m := range gone {
			p.Left(m)
		}
	}
}

// take takes what a leg has: what came before, and what one read brings.
func (p *Port) take(l *leg, b *overlay.Batch) {
	for {
		l.more = b.Slot() == nil
		if l.more {
			return
		}
		switch frame, is := l.in.next(); is {
		case whole:
			p.frame(l, frame, b)
		case unfit:
			p.dropped.Add(1)
		case nonsense:
			p.garbled.Add(1)
			p.disconnect(l)
			return
		default:
			if !l.ready {
				return
			}
			l.ready = false
			n, e := get(l.fd, l.in.space())
			switch {
			case n > 0:
				l.in.came(n)
			case e != unix.EAGAIN && e != unix.EINTR:
				p.disconnect(l)
				return
			}
		}
	}
}

// frame passes a frame of a leg's on: to other legs, to b, or to both.
func (p *Port) frame(from *leg, frame []byte, b *overlay.Batch) {
	dst, src := overlay.MAC(frame), overlay.MAC(frame[6:])
	switch {
	case src.Group() || src == overlay.MAC{} || dst.LinkLocal() || overlay.IsClaims(frame):
		// The switch says why it goes no further.
	case p.Elsewhere != nil && !dst.Group() && p.Elsewhere(dst):
		p.stations.learn(src, from)
	default:
		var to *leg // nil: all
		if !dst.Group() {
			to = p.stations.leg(dst)
		}
		if p.Stays != nil && !p.Stays(frame, to == nil) {
			break // so it does of this
		}
		p.stations.learn(src, from)
		switch to {
		case nil:
			p.others(from, frame)
		case from:
			return
		default:
			p.pass(to, frame)
			return
		}
	}
	b.Commit(copy(b.Slot(), frame), overlay.Offload{})
}

// others sends a frame to all legs but one.
func (p *Port) others(from *leg, frame []byte) {
	for _, l := range *p.legs.Load() {
		if l != from {
			p.pass(l, frame)
		}
	}
}

func (p *Port) pass(to *leg, frame []byte) {
	p.one = overlay.Frame{Head: frame}
	to.send(&p.one, nil)
}

// arm makes the port readable as long as there are frames that came already.
func (p *Port) arm(on bool) {
	if p.armed == on {
		return
	}
	p.armed = on
	var b [8]byte
	if on {
		binary.NativeEndian.PutUint64(b[:], 1)
		_, _ = unix.Write(p.again, b[:])
	} else {
		_, _ = unix.Read(p.again, b[:])
	}
}

// Write takes frames for the stations behind the legs: those of known ones go to their
// leg, others to all. A QEMU that doesn't read them loses them, which Slow counts, and
// holds nobody up. Write never waits, and is safe for concurrent use.
func (p *Port) Write(_ int, frames []overlay.Frame) int {
	w, ok := p.writes.Get().(*writing)
	if !ok {
		w = new(writing)
	}
	for i := range frames {
		f := &frames[i]
		if len(f.Head) < overlay.MinFrame {
			continue
		}
		if dst := overlay.MAC(f.Head); !dst.Group() {
			if l := p.stations.leg(dst); l != nil {
				l.send(f, w)
				continue
			}
		}
		for _, l := range *p.legs.Load() {
			l.send(f, w)
		}
	}
	p.writes.Put(w)
	return len(frames)
}
