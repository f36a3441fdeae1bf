//go:build linux

package qemu

import (
	"encoding/binary"
	"sync"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

const (
	// maxQueue bounds what waits for a QEMU that doesn't read, beside the 200 KB that
	// the kernel keeps: some super-frames. What comes then is dropped.
	maxQueue = 256 << 10
	// keepQueue is how much memory a queue keeps when it is empty.
	keepQueue = 128 << 10
)

// A leg is the connection of a QEMU.
type leg struct {
	p     *Port
	in    *splitter // Read's own
	ready bool      // something came; Read's own
	more  bool      // in has frames that weren't taken; Read's own

	names []overlay.MAC // see stations
	next  int

	mu      sync.Mutex
	fd      int    // -1: closed
	queue   []byte // what is to be written
	written int    // of queue
	waiting bool   // for the socket to be writable
}

// A writing is the scratch of one Write.
type writing struct {
	cutter overlay.Cutter
	frame  [overlay.MaxFrame]byte
}

// send writes a frame, finished, or as much as the queue takes. It never waits.
func (l *leg) send(f *overlay.Frame, w *writing) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fd < 0 {
		return
	}
	if f.Offload == (overlay.Offload{}) {
		l.append(f)
	} else if w.cutter.Load(f, mtu) {
		for w.cutter.Pending() {
			if n := w.cutter.Next(w.frame[:]); n > 0 {
				l.append(&overlay.Frame{Head: w.frame[:n]})
			}
		}
	}
	l.flush()
}

// append puts a finished frame into the queue, if there is room.
func (l *leg) append(f *overlay.Frame) {
	n := f.Len()
	if len(l.queue)-l.written+headerLen+n > maxQueue {
		l.p.slow.Add(1)
		return
	}
	if l.written > 0 && len(l.queue)+headerLen+n > cap(l.queue) {
		l.queue = l.queue[:copy(l.queue, l.queue[l.written:])]
		l.written = 0
	}
	l.queue = append(binary.BigEndian.AppendUint32(l.queue, uint32(n)), f.Head...)
	for _, b := range f.Body {
		l.queue = append(l.queue, b...)
	}
}

// flush writes what waits, as much as the socket takes. l is locked. A connection that
// is broken is found by Read, too.
func (l *leg) flush() {
	for l.written < len(l.queue) {
		n, e := put(l.fd, l.queue[l.written:])
		if e == unix.EAGAIN {
			l.wait(true)
			return
		}
		if e != 0 && e != unix.EINTR {
			n = len(l.queue) - l.written // nobody will read it
		}
		l.written += n
	}
	l.queue, l.written = l.queue[:0], 0
	if cap(l.queue) > keepQueue {
		l.queue = nil
	}
	l.wait(false)
}

// wait says whether Read is to call flush when the socket is writable again. l is locked.
func (l *leg) wait(on bool) {
	if l.waiting == on {
		return
	}
	events := uint32(unix.EPOLLIN)
	if on {
		events |= unix.EPOLLOUT
	}
	if l.p.await(unix.EPOLL_CTL_MOD, l.fd, events) == nil {
		l.waiting = on
	}
}

// close ends the connection; what waits is lost.
func (l *leg) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fd >= 0 {
		_ = unix.Close(l.fd)
	}
	l.fd, l.queue, l.written = -1, nil, 0
}

// legStations bounds the stations that are known behind a leg. When there are more, the
// one that was learned first is forgotten: frames for it go to all legs.
const legStations = 256

// stations says behind which leg stations are. Safe for concurrent use; the zero one is
// ready.
type stations struct {
	mu sync.RWMutex
	at map[overlay.MAC]*leg
}

// leg returns the leg of a station, nil if it isn't known.
func (s *stations) leg(m overlay.MAC) *leg {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.at[m]
}

// learn notes that a station spoke on a leg.
func (s *stations) learn(m overlay.MAC, l *leg) {
	if s.leg(m) == l {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = make(map[overlay.MAC]*leg)
	}
	if len(l.names) < legStations {
		l.names = append(l.names, m)
	} else {
		if old := l.names[l.next]; s.at[old] == l {
			delete(s.at, old)
		}
		l.names[l.next] = m
		l.next = (l.next + 1) % legStations
	}
	s.at[m] = l
}

// forget removes a leg, and returns the stations that were behind it.
func (s *stations) forget(l *leg) (gone []overlay.MAC) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range l.names {
		if s.at[m] == l {
			delete(s.at, m)
			gone = append(gone, m)
		}
	}
	return gone
}
