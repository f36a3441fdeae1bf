//go:build linux

package beacon

import (
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// receiveBuffer is how many bytes may wait at an ear, as the kernel counts them: some
// hundred beacons.
const receiveBuffer = 128 << 10

// An ear is the socket of the group on one interface, in one address family. It sends
// too.
type ear struct {
	number int // the Herald's
	name   string
	fd     int
	group  unix.Sockaddr
	addrs  []netip.AddrPort // to tell, those of this interface first
	fault  string
}

// number returns what an interface's ear of a family is called.
func number(index int, four bool) int {
	if four {
		return 2 * index
	}
	return 2*index + 1
}

// openEar makes the socket of an interface. Several agents of one host may have one
// each: all get what comes.
func openEar(index int, four bool) (fd int, group unix.Sockaddr, err error) {
	family := unix.AF_INET6
	if four {
		family = unix.AF_INET
	}
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, nil, os.NewSyscallError("socket", err)
	}
	set := func(level, option, value int) {
		err = errors.Join(err, os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, value)))
	}
	set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	set(unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	if four {
		g := overlay.BeaconGroup4.As4()
		group = &unix.SockaddrInet4{Port: overlay.BeaconPort, Addr: g}
		on := &unix.IPMreqn{Multiaddr: g, Ifindex: int32(index)}
		set(unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0) // what came on this interface only
		set(unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 1)
		set(unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 1)
		err = errors.Join(err,
			os.NewSyscallError("setsockopt", unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, on)),
			os.NewSyscallError("setsockopt", unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, on)))
	} else {
		g := overlay.BeaconGroup6.As16()
		group = &unix.SockaddrInet6{Port: overlay.BeaconPort, Addr: g, ZoneId: uint32(index)}
		set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
		set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 1)
		set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 1)
		set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index)
		on := &unix.IPv6Mreq{Multiaddr: g, Interface: uint32(index)}
		err = errors.Join(err, os.NewSyscallError("setsockopt", unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, on)))
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, group))
	}
	if err != nil {
		return -1, nil, errors.Join(err, unix.Close(fd))
	}
	return fd, group, nil
}

// send sends a datagram to all on the link.
func (e *ear) send(d []byte) error {
	return os.NewSyscallError("sendto", unix.Sendto(e.fd, d, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, e.group))
}
