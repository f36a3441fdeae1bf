//go:build linux

package qemu

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls are raw, as none of them waits: the runtime, if it were told, could give
// the lane's processor to another goroutine meanwhile, for which the lane would have to
// wait afterwards. Each returns 0 and the error if it fails.

// get reads what has come; 0 without an error says that the other end is closed.
func get(fd int, b []byte) (n int, e unix.Errno) {
	return result(unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b))))
}

// put writes as much of b as there is room for, without a signal if the other end is
// closed.
func put(fd int, b []byte) (n int, e unix.Errno) {
	return result(unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0))
}

// events returns how many descriptors of epoll are ready now.
func events(epoll int, to []unix.EpollEvent) (n int, e unix.Errno) {
	return result(unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&to[0])), uintptr(len(to)), 0, 0, 0))
}

func result(n, _ uintptr, e unix.Errno) (int, unix.Errno) {
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}
