//go:build linux

// Package poll waits for several descriptors at once, in the goroutine that
// calls it: a lane of the frame path reads its ports and its sockets in turn and
// sleeps in one place. The runtime's own poller would wake a thread to make a
// goroutine ready that makes the read; this way the thread that the kernel wakes
// is the one that reads.
package poll

import (
	"errors"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Poller waits for descriptors to become readable. Add, Remove, Wait and Ready
// are for one goroutine; Wake is safe for concurrent use.
type Poller struct {
	fd      int // of epoll
	wake    int // of the eventfd that Wake writes to; its number is 0
	woke    atomic.Bool
	fds     []int
	ready   []bool
	events  [maxEvents]unix.EpollEvent
	n       int // events at hand
	timeout unix.Timespec
}

// maxEvents is how many ready descriptors one Wait tells of. The others are told
// of by the next.
const maxEvents = 64

// New returns a poller that waits for nothing but Wake.
func New() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	p := &Poller{fd: fd}
	if p.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return nil, errors.Join(os.NewSyscallError("eventfd", err), unix.Close(fd))
	}
	if _, err := p.Add(p.wake); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Close frees the poller; nobody may use it any more.
func (p *Poller) Close() error { return errors.Join(unix.Close(p.fd), unix.Close(p.wake)) }

// Add makes Wait return when fd is readable, or broken. Ready and Remove know it
// by the number that Add returns.
func (p *Poller) Add(fd int) (number int, err error) {
	number = len(p.fds)
	e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(number)}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		return 0, os.NewSyscallError("epoll_ctl", err)
	}
	p.fds, p.ready = append(p.fds, fd), append(p.ready, false)
	return number, nil
}

// Remove undoes Add; it may be called twice.
func (p *Poller) Remove(number int) {
	_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, p.fds[number], nil) // fails if it's gone already
	p.ready[number] = false
}

// Ready says whether a descriptor was readable, or broken, when Wait returned.
func (p *Poller) Ready(number int) bool { return p.ready[number] }

// Wake makes a Wait return, the present one or the next.
func (p *Poller) Wake() {
	if p.woke.Swap(true) {
		return
	}
	one := [8]byte{1} // the counter's order of bytes doesn't matter
	_, _ = unix.Write(p.wake, one[:])
}

// Brief is the longest that Wait keeps its place in Go's scheduler.
const Brief = 5 * time.Millisecond

// Wait sleeps until a descriptor is readable, Wake was called, or timeout has
// passed; a negative timeout means for ever. It may return early for no reason.
//
// With eager set, it sleeps for no more than Brief and keeps its place in Go's
// scheduler meanwhile, one of GOMAXPROCS: to give it up and to win it back takes
// the runtime some 30 µs on an idle machine, and wakes two more of its threads.
// A collector that waits for this goroutine wakes it by a signal.
func (p *Poller) Wait(timeout time.Duration, eager bool) error {
	for _, e := range p.events[:p.n] {
		p.ready[e.Fd] = false
	}
	p.n = 0
	call := unix.Syscall6
	if eager {
		call = unix.RawSyscall6
		if timeout < 0 || timeout > Brief {
			timeout = Brief
		}
	}
	var ts *unix.Timespec
	if timeout >= 0 {
		p.timeout = unix.NsecToTimespec(int64(timeout))
		ts = &p.timeout
	}
	n, _, e := call(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), maxEvents, uintptr(unsafe.Pointer(ts)), 0, 0)
	switch e {
	case 0:
	case unix.EINTR:
		return nil
	default:
		return os.NewSyscallError("epoll_pwait2", e)
	}
	p.n = int(n)
	for _, e := range p.events[:p.n] {
		p.ready[e.Fd] = true
	}
	if p.ready[0] {
		return p.awake()
	}
	return nil
}

// awake takes a Wake.
func (p *Poller) awake() error {
	var b [8]byte
	_, err := unix.Read(p.wake, b[:])
	p.woke.Store(false) // after the read: who calls Wake in between is heard by who called Wait
	if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
		return os.NewSyscallError("read eventfd", err)
	}
	return nil
}
