//go:build linux

// Package poll waits for several descriptors at once, in the goroutine that
// calls it: a lane of the frame path reads its ports and its sockets in turn and
// sleeps in one place. The runtime's own poller would wake a thread to make a
// goroutine ready that makes the read; this way the thread that the kernel wakes
// is the one that reads, which saves some 20 µs a frame on an idle machine.
package poll

import (
	"errors"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Poller waits for descriptors to become readable. Add, Remove and Wait are
// for one goroutine; Wake is safe for concurrent use.
type Poller struct {
	fds  []unix.PollFd // the first is wake
	woke atomic.Bool
}

// New returns a poller that waits for nothing but Wake.
func New() (*Poller, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return &Poller{fds: []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}}, nil
}

// Close frees the poller; nobody may use it any more.
func (p *Poller) Close() error { return unix.Close(int(p.fds[0].Fd)) }

// Add makes Wait return when fd is readable, or broken.
func (p *Poller) Add(fd int) {
	p.fds = append(p.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
}

// Remove undoes Add.
func (p *Poller) Remove(fd int) {
	for i := 1; i < len(p.fds); i++ {
		if p.fds[i].Fd == int32(fd) {
			p.fds = append(p.fds[:i], p.fds[i+1:]...)
			return
		}
	}
}

// Wake makes a Wait return, the present one or the next.
func (p *Poller) Wake() {
	if p.woke.Swap(true) {
		return
	}
	one := [8]byte{1} // the counter's order of bytes doesn't matter
	_, _ = unix.Write(int(p.fds[0].Fd), one[:])
}

// Wait sleeps until a descriptor is readable, Wake was called, or timeout has
// passed; a negative timeout means for ever. It may return early for no reason.
func (p *Poller) Wait(timeout time.Duration) error {
	var ts *unix.Timespec
	var t unix.Timespec
	if timeout >= 0 {
		t = unix.NsecToTimespec(int64(timeout))
		ts = &t
	}
	_, _, e := unix.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p.fds[0])), uintptr(len(p.fds)), uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	if e != 0 && e != unix.EINTR {
		return os.NewSyscallError("ppoll", e)
	}
	if p.fds[0].Revents != 0 {
		var b [8]byte
		_, err := unix.Read(int(p.fds[0].Fd), b[:])
		p.woke.Store(false) // after the read: who calls Wake in between is heard by who called Wait
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("read eventfd", err)
		}
	}
	return nil
}
