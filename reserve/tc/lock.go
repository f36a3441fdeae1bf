//go:build linux

package tc

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"farlan/reserve"
)

// A lock is that one process has an interface: an abstract socket that is bound in the network
// namespace. The kernel takes it away when the process ends, however that is.
type lock int

// lockPort takes the interface; ErrForeign says who has it.
func lockPort(index int, name string) (lock, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	at := &unix.SockaddrUnix{Name: fmt.Sprintf("@farlan-tc-%d", index)}
	err = unix.Bind(fd, at)
	if err == nil {
		err = unix.Listen(fd, 1) // whoever is refused learns by whom
	}
	if err == nil {
		return lock(fd), nil
	}
	who := holder(fd, at)
	_ = unix.Close(fd)
	if errors.Is(err, unix.EADDRINUSE) {
		return 0, fmt.Errorf("%w: another agent%s reserves on %s already, and only one can: stop it, or let it alone reserve there", reserve.ErrForeign, who, name)
	}
	return 0, fmt.Errorf("lock %s: %w", name, err)
}

// holder returns words that say which process listens at an address, or none.
func holder(fd int, at unix.Sockaddr) string {
	if unix.Connect(fd, at) != nil {
		return ""
	}
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || c.Pid == 0 { // of another process namespace
		return ""
	}
	return fmt.Sprintf(" (process %d)", c.Pid)
}

// free gives the interface back. Until a program that this process starts is running, it has a
// copy of each descriptor, with which the address would stay taken for a moment.
func (l lock) free() {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	_ = unix.Close(int(l))
}
