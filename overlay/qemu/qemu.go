//go:build linux

// Package qemu is a port for virtual machines whose QEMU connects to a Unix socket:
//
//	-netdev stream,id=lan,server=off,addr.type=unix,addr.path=PATH
//
// It takes no privilege, neither for the agent nor for QEMU. In both directions each
// frame has its length in front of it, in four bytes, big endian, and nothing is
// unfinished in it (QEMU's net/stream.c): what others left to be cut is cut here.
//
// Several QEMUs may be connected, each by a leg of its own. The port switches between
// them as a bridge does: a frame for a station that is known to be behind a leg goes
// there only.
package qemu

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

const (
	// MaxLegs is how many QEMUs may be connected at once. Others are refused.
	MaxLegs = 64
	// maxPath is the longest path of a socket (sun_path less a zero).
	maxPath = 107
	// mtu is what frames are cut to that aren't by their sender: what fits a batch.
	mtu = overlay.MaxFrame - overlay.MinFrame - 8
	// mode: who may connect is on the LAN, so the owner alone may.
	mode = 0o600
)

// A Config says where to listen.
type Config struct {
	Path string // of the socket, in a folder that exists
}

// Validate returns what is wrong with c.
func (c Config) Validate() error {
	what := ""
	switch {
	case c.Path == "":
		what = "is empty"
	case len(c.Path) > maxPath:
		what = fmt.Sprintf("is longer than the %d bytes that sockets' paths have", maxPath)
	}
	if what == "" {
		return nil
	}
	return &overlay.PortError{Port: fmt.Sprintf("%q", c.Path), What: what, Advice: "choose another path, as /run/farlan/vm.sock"}
}

// Open listens on a socket that only this user can connect to. One that is there
// already is replaced if it is this user's and nobody listens on it: it was left behind.
// Nothing else is ever removed. Errors are of type *overlay.PortError; those of the
// system are in them: EADDRINUSE, EACCES, ENOENT.
func Open(c Config) (*Port, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if err := clearWay(c.Path); err != nil {
		return nil, err
	}
	p := &Port{path: c.Path, listener: -1, epoll: -1, again: -1}
	p.legs.Store(new([]*leg))
	if err := p.open(); err != nil {
		_ = p.Close()
		return nil, explain(c.Path, "cannot listen", err)
	}
	return p, nil
}

func (p *Port) open() (err error) {
	if err = p.listen(); err != nil {
		return err
	}
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if p.again, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	return errors.Join(p.await(unix.EPOLL_CTL_ADD, p.listener, unix.EPOLLIN), p.await(unix.EPOLL_CTL_ADD, p.again, unix.EPOLLIN))
}

// clearWay removes a socket that was left behind.
func clearWay(path string) error {
	var s unix.Stat_t
	err := unix.Lstat(path, &s)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return explain(path, "cannot look at it", err)
	case s.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return &overlay.PortError{Port: path, What: "there is something else, which is not a socket", Advice: "choose another path"}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return explain(path, "cannot look at it", err)
	}
	defer func() { _ = unix.Close(fd) }()
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); {
	case err == nil, errors.Is(err, unix.EAGAIN): // its backlog is full
		return explain(path, "", unix.EADDRINUSE)
	case !errors.Is(err, unix.ECONNREFUSED):
		return explain(path, "there is a socket that can't be tried", err)
	case int(s.Uid) != os.Geteuid():
		return &overlay.PortError{Port: path, What: "there is a socket of another user", Advice: "remove it, or choose another path"}
	}
	if err := unix.Unlink(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return explain(path, "cannot replace what was left behind", err)
	}
	return nil
}

func (p *Port) listen() (err error) {
	p.listener, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	// The file is made with the socket's own mode, so it is never open to others.
	if err := unix.Fchmod(p.listener, mode); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	if err := unix.Bind(p.listener, &unix.SockaddrUnix{Name: p.path}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	var s unix.Stat_t
	if err := unix.Lstat(p.path, &s); err != nil {
		return os.NewSyscallError("lstat", err)
	}
	p.made = inode{s.Dev, s.Ino}
	return os.NewSyscallError("listen", unix.Listen(p.listener, MaxLegs))
}

// An inode names a file; the zero one none.
type inode struct{ device, number uint64 }

// Close ends all connections and removes the socket, if it is still the one that Open
// made. Nobody may use the port meanwhile or later.
func (p *Port) Close() error {
	if p.closed.Swap(true) {
		return os.ErrClosed
	}
	for _, l := range *p.legs.Load() {
		l.close()
	}
	var errs []error
	for _, fd := range []int{p.listener, p.epoll, p.again} {
		if fd >= 0 {
			errs = append(errs, os.NewSyscallError("close", unix.Close(fd)))
		}
	}
	var s unix.Stat_t
	if p.made != (inode{}) && unix.Lstat(p.path, &s) == nil && (inode{s.Dev, s.Ino}) == p.made {
		errs = append(errs, os.NewSyscallError("unlink", unix.Unlink(p.path)))
	}
	return errors.Join(errs...)
}

// explain returns the system's error with what to do about it.
func explain(path, what string, err error) error {
	e := &overlay.PortError{Port: path, What: what, Err: err}
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		e.What = "another process listens there"
		e.Advice = "stop that process, or choose another path"
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		e.Advice = "make its folder first"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
		e.Advice = "choose a folder that this user may write to, as $XDG_RUNTIME_DIR"
	}
	return e
}

// A Port is a socket that listens, and the QEMUs that are connected to it.
type Port struct {
	// Elsewhere says whether a station is known to be somewhere else than behind
	// this port, so that no leg needs its frames; nil: nothing is known. Stays says
	// whether a frame may pass from a leg to another one, or, if flooded, to all
	// others; nil: all may. Left is told which stations left with a QEMU; nil:
	// nobody is. All are called by Read, and set before the first one.
	Elsewhere func(overlay.MAC) bool
	Stays     func(frame []byte, flooded bool) bool
	Left      func(overlay.MAC)

	path     string
	made     inode // by listen
	listener int
	epoll    int // of the listener, the legs, and again
	again    int // eventfd: a leg has more frames that came already
	closed   atomic.Bool

	legs     atomic.Pointer[[]*leg] // as connected; replaced by Read
	stations stations
	writes   sync.Pool // of *writing

	// Read's own.
	events [MaxLegs + 2]unix.EpollEvent
	turn   int  // which leg is first
	armed  bool // again is readable
	deaf   bool // the listener isn't waited for
	one    overlay.Frame

	dropped, slow, garbled, refused atomic.Uint64
}

// Name returns the socket's path.
func (p *Port) Name() string { return p.path }

// Kind returns "qemu".
func (p *Port) Kind() string { return "qemu" }

// MTU returns that of the longest frames that pass.
func (p *Port) MTU() int { return mtu }

// Offload says that all frames are finished: QEMU's socket can't tell what isn't.
func (p *Port) Offload() bool { return false }

// Queues returns how many queues the port has: one, number 0.
func (p *Port) Queues() int { return 1 }

// FD returns a descriptor that is readable when Read has something to do: to take
// frames or connections, or to go on with what couldn't be written.
func (p *Port) FD(int) int { return p.epoll }

// Connected returns how many QEMUs are connected.
func (p *Port) Connected() int { return len(*p.legs.Load()) }

// Dropped returns how many frames of QEMUs were shorter or longer than frames may be.
func (p *Port) Dropped() uint64 { return p.dropped.Load() }

// Slow returns how many frames were dropped because their QEMU didn't take those before
// them.
func (p *Port) Slow() uint64 { return p.slow.Load() }

// Garbled returns how many connections were closed because what came wasn't frames.
func (p *Port) Garbled() uint64 { return p.garbled.Load() }

// Refused returns how many connections were closed because there were too many.
func (p *Port) Refused() uint64 { return p.refused.Load() }
