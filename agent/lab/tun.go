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
	return openInterface(namespace, name, unix.IFF_TUN)
}

// openTAP makes a layer-2 interface so.
func openTAP(namespace, name string) (fd int, err error) {
	return openInterface(namespace, name, unix.IFF_TAP)
}

func openInterface(namespace, name string, kind uint16) (fd int, err error) {
	err = inNamespace(namespace, func() error {
		fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		if err = attach(fd, name, kind); err != nil {
			_ = unix.Close(fd)
		}
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("make interface %s in %s: %w", name, namespace, err)
	}
	return fd, nil
}

// attach makes fd the packet end of the interface name.
func attach(fd int, name string, kind uint16) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(kind | unix.IFF_NO_PI)
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
