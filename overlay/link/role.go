//go:build linux

package link

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A role is what one of our sockets is for, as the kernel is told.
type role struct {
	tos      int // DSCP in the IP header
	priority int // of the packet in this host's queues
	// below is by how much the hop limit is less than the host's default. Each
	// role has its own, so that aggregates are of one kind; a dozen less than 64
	// is twice what the longest paths need.
	below int
	// alternate means that every second datagram has yet one hop less.
	alternate bool
	fragment  bool // let what is too long be fragmented
	receive   int  // buffer
	send      int  // buffer
	device    int  // the number of the interface by which all leaves, 0: as routes say
}

// What the delay class asks of the network: AF21, low-latency data (RFC 4594,
// section 4.7), and the highest priority that needs no privilege, which the
// default queues (pfifo_fast, prio) serve first.
const (
	delayTOS      = 0x48
	delayPriority = 6
)

// ReceiveBuffer is how many bytes a socket for bulk frames can keep, where the system lets
// it: 10 ms at 3 Gbit/s.
const ReceiveBuffer = 4 << 20

// Buffer sizes. The kernel doubles them for its own bookkeeping, and without
// CAP_NET_ADMIN caps them at net.core.[rw]mem_max.
const (
	bulkReceive  = ReceiveBuffer
	bulkSend     = 1 << 20 // some fifteen aggregates
	smallReceive = 1 << 20
	smallSend    = 256 << 10
)

// The roles: see Port.
var (
	delayRole     = role{tos: delayTOS, priority: delayPriority, below: MaxLanes + 1, receive: smallReceive, send: smallSend}
	probeRole     = role{tos: delayTOS, priority: delayPriority, below: MaxLanes + 2, alternate: true, receive: smallReceive, send: smallSend}
	handshakeRole = role{tos: delayTOS, priority: delayPriority, below: MaxLanes + 4, fragment: true, receive: 1, send: smallSend}
)

// trainRole is what measures the way of bulk frames, and goes it as they do. A train
// has room to come while nobody looks.
var trainRole = role{below: MaxLanes + 5, alternate: true, receive: bulkReceive, send: smallSend}

func bulkRole(lane int) role {
	return role{below: 1 + lane, receive: bulkReceive, send: bulkSend}
}

// tune prepares an unbound socket for r and returns its hop limit.
func (r role) tune(fd int, ipv4 bool) (hops int, err error) {
	level, tos, hopLimit := unix.IPPROTO_IPV6, unix.IPV6_TCLASS, unix.IPV6_UNICAST_HOPS
	discover, probe, dont := unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE, unix.IPV6_PMTUDISC_DONT
	if ipv4 {
		level, tos, hopLimit = unix.IPPROTO_IP, unix.IP_TOS, unix.IP_TTL
		discover, probe, dont = unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE, unix.IP_PMTUDISC_DONT
	}
	fragment := probe
	if r.fragment {
		fragment = dont
	}
	hops, err = unix.GetsockoptInt(fd, level, hopLimit)
	hops = max(hops-r.below, 1)
	err = errors.Join(err,
		setInt(fd, level, hopLimit, hops),
		setInt(fd, level, discover, fragment),
		setInt(fd, level, tos, r.tos),
		setInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, r.priority), // after TOS, which sets it too
		setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		setInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1),
		setInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1),
		setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, r.receive),
		setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, r.send),
	)
	if !ipv4 {
		err = errors.Join(err, setInt(fd, level, unix.IPV6_V6ONLY, 1))
	}
	return hops, errors.Join(err, leaveBy(fd, ipv4, r.device))
}

// bind binds fd to addr.
func bind(fd int, addr netip.AddrPort) error {
	if addr.Addr().Is4() {
		return wrap("bind", unix.Bind(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}))
	}
	return wrap("bind", unix.Bind(fd, &unix.SockaddrInet6{
		Port: int(addr.Port()), Addr: addr.Addr().As16(), ZoneId: interfaceIndex(addr.Addr().Zone()),
	}))
}

func setInt(fd, level, option, value int) error {
	return wrap("setsockopt", unix.SetsockoptInt(fd, level, option, value))
}

// setBuffer sets a buffer's size past the system's limit if the process may,
// else up to it.
func setBuffer(fd, force, option, size int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) == nil {
		return nil
	}
	return setInt(fd, unix.SOL_SOCKET, option, size)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
