package lab

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// openTUN makes the layer-3 interface name in the named namespace and returns
// its packet end, which doesn't block. Packets come without a header of their
// own, one per read and write. The interface goes when the descriptor is closed.
func openTUN(namespace, name string) (fd int, err error) {
	err = inNamespace(namespace, func() error {
		fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		if err = attachTUN(fd, name); err != nil {
			_ = unix.Close(fd)
		}
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("make TUN %s in %s: %w", name, namespace, err)
	}
	return fd, nil
}

// attachTUN makes fd the packet end of the interface name.
func attachTUN(fd int, name string) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
}

// destination returns where an IP packet goes; it is not valid if b isn't one.
func destination(b []byte) netip.Addr {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[16:20]))
	case len(b) >= 40 && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[24:40]))
	}
	return netip.Addr{}
}
