//go:build linux

// Package lan is the port of a home proxy: the physical LAN, by a packet
// socket in promiscuous mode. It does not touch the host's addressing, and
// works when the interface is the host's uplink, too: a filter in the kernel
// passes only what other machines send to others or to groups, so that the
// agent's own datagrams are never captured.
//
// The host itself is reached, too, where the kernel can (see host): what it sends to
// groups and to far stations is captured, and what they send to it is handed to its
// stack as if it had come by the wire. Where it can't, Unreached says why; who needs
// it puts a TAP into a bridge instead.
//
// The socket is made with golang.org/x/sys/unix: gopacket's (pcapgo,
// afpacket) cannot be given PACKET_VNET_HDR. By its header the kernel tells what
// is unfinished in the frames that it hands over: checksums that a device was to
// compute, super-frames of up to 64 KB that a device was to cut, or that were
// merged on receipt. The port passes them on as they are, and writes such.
package lan

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// A Config says which interface to use: an existing one, Ethernet, and up.
type Config struct {
	Interface string
}

// Buffer sizes that Open asks for.
const (
	receiveBuffer = 4 << 20
	sendBuffer    = 2 << 20 // a batch of long frames
)

// Open attaches to the interface. Errors are of type *overlay.PortError; those
// of the system are in them: EPERM without CAP_NET_RAW.
func Open(c Config) (*Port, error) {
	link, err := find(c.Interface)
	if err != nil {
		return nil, err
	}
	a := link.Attrs()
	p := &Port{name: a.Name, index: a.Index, mtu: a.MTU, warning: warn(a)}
	copy(p.mac[:], a.HardwareAddr)
	fd, err := listen(a.Index)
	if err != nil {
		e := &overlay.PortError{Port: a.Name, What: "cannot open a packet socket", Err: err}
		if errors.Is(err, unix.EPERM) {
			e.Advice = "run as root, or with the capability CAP_NET_RAW"
		}
		return nil, e
	}
	p.fd, p.reading = fd, newReading()
	if a.MasterIndex == 0 {
		if p.host, err = openHost(a.Index, a.MTU, p.mac); err != nil {
			p.unreached = err
		}
	}
	return p, nil
}

// find returns the interface called name if frames can be read from it.
func find(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, &overlay.PortError{Port: name, What: "there is no such interface", Advice: "there are " + others()}
	}
	if err != nil {
		return nil, &overlay.PortError{Port: name, What: "cannot look for it", Err: err}
	}
	a := link.Attrs()
	if a.EncapType != "ether" || len(a.HardwareAddr) != len(overlay.MAC{}) {
		return nil, &overlay.PortError{
			Port: name, What: fmt.Sprintf("it is not Ethernet but %s", a.EncapType),
			Advice: "choose one of " + others(),
		}
	}
	if a.Flags&net.FlagUp == 0 {
		return nil, &overlay.PortError{
			Port: name, What: "it is down",
			Advice: fmt.Sprintf("set it up with 'ip link set %s up'", name),
		}
	}
	return link, nil
}

// others lists the interfaces that would do.
func others() string {
	links, _ := netlink.LinkList()
	var names []string
	for _, l := range links {
		if a := l.Attrs(); a.EncapType == "ether" && a.Flags&net.FlagUp != 0 {
			names = append(names, a.Name)
		}
	}
	if len(names) == 0 {
		return "no Ethernet interfaces that are up"
	}
	return strings.Join(names, ", ")
}

// warn returns what will not work on the interface, "" if all does.
func warn(a *netlink.LinkAttrs) string {
	if _, err := os.Stat("/sys/class/net/" + a.Name + "/phy80211"); err == nil {
		return "it is Wi-Fi: access points refuse frames from stations that have not joined, " +
			"so far stations will not be heard; use a cable"
	}
	if a.MasterIndex == 0 {
		return ""
	}
	if master, err := netlink.LinkByIndex(a.MasterIndex); err == nil && master.Type() == "bridge" {
		return fmt.Sprintf("it is a port of bridge %s: what is behind the bridge on this host "+
			"will not be heard; name the bridge, too", master.Attrs().Name)
	}
	return ""
}

// listen returns a packet socket on the interface with that index. It receives
// nothing before its filter is in place: that is what protocol 0 is for.
func listen(index int) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	// Saves the kernel a copy of what the filter would drop; since Linux 4.20.
	_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	err = errors.Join(
		wrap("set header", unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)),
		wrap("ask for VLAN tags", unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)),
		wrap("attach filter", setFilter(fd)),
		setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer),
		setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer),
	)
	if err != nil {
		return -1, err
	}
	address := unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: index}
	if err = unix.Bind(fd, &address); err != nil {
		return -1, os.NewSyscallError("bind", err)
	}
	// Of a membership nothing is left when the socket is closed.
	promiscuous := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	return fd, wrap("listen to all", unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &promiscuous))
}

// bigEndian returns n as its bytes in network order make it on this host.
func bigEndian(n uint16) uint16 {
	return parse16([2]byte{byte(n >> 8), byte(n)})
}

func setBuffer(fd, force, option, size int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) == nil {
		return nil
	}
	return wrap("set buffer", unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, size))
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
