//go:build linux

// Package tap is the port that most agents have: a TAP interface. It is opened
// with a header before each frame, by which the system leaves checksums
// uncomputed and super-frames of 64 KB uncut, and takes both: that is most of
// what a fast overlay is. Where this fails, or is not wanted, songgao/water
// opens the TAP, and frames are finished here.
//
// What water leaves to its caller is done here: names are checked (it cuts long
// ones), persistent interfaces stay persistent (it clears the mark), the
// descriptor is not inherited by children, and busy interfaces are found before
// it tries them (it leaks a descriptor when it fails).
package tap

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// A Config says which interface to use. The zero values of Bridge and MTU
// leave what they are about as it is.
type Config struct {
	Name   string // is made if it is missing, and then removed by Close
	Bridge string // an existing bridge to put it into
	MTU    int    // in bytes, without the Ethernet header
	Queues int    // how many to open; 0 is 1. An existing interface may have but one
	Plain  bool   // only finished frames pass, by one queue
	// Address is given to an interface that is made; zero: any. With one that stays the same,
	// neighbours find this host as before when the interface is made again.
	Address overlay.MAC
}

// Limits of Config.MTU: what IPv4 needs (RFC 791), and what fits a batch.
const (
	minMTU = 68
	maxMTU = overlay.MaxFrame - overlay.MinFrame - 8 // room for two VLAN tags
)

// maxQueues is the most that the kernel gives a TAP (MAX_TAP_QUEUES).
const maxQueues = 256

// nameLen is the most that the kernel keeps of a name (IFNAMSIZ less a zero).
const nameLen = unix.IFNAMSIZ - 1

// Validate returns all that is wrong with c.
func (c Config) Validate() error {
	bad := func(what, advice string) error {
		return &overlay.PortError{Port: fmt.Sprintf("%q", c.Name), What: what, Advice: advice}
	}
	var errs []error
	if !validName(c.Name) {
		errs = append(errs, bad("is not an interface name",
			fmt.Sprintf("use 1 to %d characters without white space, '/', ':' and '%%'", nameLen)))
	}
	if c.Bridge != "" && !validName(c.Bridge) {
		errs = append(errs, bad(fmt.Sprintf("bridge %q is not an interface name", c.Bridge), ""))
	}
	if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) {
		errs = append(errs, bad(fmt.Sprintf("an MTU of %d is out of range", c.MTU),
			fmt.Sprintf("use %d to %d", minMTU, maxMTU)))
	}
	if c.Queues < 0 || c.Queues > maxQueues {
		errs = append(errs, bad(fmt.Sprintf("%d queues are out of range", c.Queues), fmt.Sprintf("use 1 to %d", maxQueues)))
	}
	return errors.Join(errs...)
}

// validName says whether the kernel takes name as it is: '%' would make it a
// pattern.
func validName(name string) bool {
	return name != "" && len(name) <= nameLen && name != "." && name != ".." &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune("/:%", r) })
}

// Open opens the interface, sets it up, and gives it its MTU and bridge. What
// fails is undone. Errors are of type *overlay.PortError; those of the system
// are in them: EBUSY, EPERM, EACCES, ENOENT for a missing /dev/net/tun.
func Open(c Config) (*Port, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, explain(c.Name, "cannot ask the kernel", err)
	}
	p := &Port{name: c.Name, netlink: h}
	if err := p.open(c); err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Port) open(c Config) error {
	bridge, err := p.findBridge(c.Bridge)
	if err != nil {
		return err
	}
	device, err := p.find()
	if err != nil {
		return err
	}
	if err = p.attach(c, device); err != nil {
		return err
	}
	for range p.fds {
		p.readings = append(p.readings, newReading(p.offload))
	}
	link, err := p.netlink.LinkByName(c.Name)
	if err != nil {
		return explain(c.Name, "vanished", err)
	}
	if err = p.configure(link, c.MTU, c.Address, bridge); err != nil {
		return err
	}
	if p.made && bridge == nil && p.offload {
		// What this host itself sends. Guests behind a bridge don't hear of it, and
		// their longer super-frames would be cut up. Worth 7 % of the work for a
		// byte; not every kernel can.
		_ = p.netlink.LinkSetGSOMaxSegs(link, overlay.SuperSegments)
	}
	if link, err = p.netlink.LinkByName(c.Name); err != nil {
		return explain(c.Name, "vanished", err)
	}
	p.mtu = link.Attrs().MTU
	copy(p.mac[:], link.Attrs().HardwareAddr)
	if p.mtu > maxMTU {
		return &overlay.PortError{
			Port: c.Name, What: fmt.Sprintf("its MTU is %d, and %d is the most", p.mtu, maxMTU),
			Advice: fmt.Sprintf("lower it with 'ip link set %s mtu %d'", c.Name, maxMTU),
		}
	}
	return nil
}

// findBridge returns the bridge called name, nil if name is empty.
func (p *Port) findBridge(name string) (netlink.Link, error) {
	if name == "" {
		return nil, nil
	}
	link, err := p.netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, &overlay.PortError{
			Port: p.name, What: fmt.Sprintf("bridge %s does not exist", name),
			Advice: fmt.Sprintf("make it with 'ip link add %s type bridge && ip link set %[1]s up'", name),
		}
	}
	if err != nil {
		return nil, explain(p.name, "cannot look for bridge "+name, err)
	}
	if _, ok := link.(*netlink.Bridge); !ok {
		return nil, &overlay.PortError{
			Port: p.name, What: fmt.Sprintf("%s is no bridge but a %s", name, link.Type()),
			Advice: "name a bridge of the kernel",
		}
	}
	return link, nil
}

// find returns the TAP if it exists, nil if there is none.
func (p *Port) find() (*netlink.Tuntap, error) {
	link, err := p.netlink.LinkByName(p.name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, nil
	}
	if err != nil {
		return nil, explain(p.name, "cannot look for it", err)
	}
	device, ok := link.(*netlink.Tuntap)
	if !ok || device.Mode != netlink.TUNTAP_MODE_TAP {
		kind := link.Type() + " interface"
		if ok {
			kind = "TUN"
		}
		return nil, &overlay.PortError{
			Port: p.name, What: "it is no TAP but a " + kind,
			Advice: "choose a name that is free: the interface is made",
		}
	}
	// A second process may attach to a multi-queue TAP, and would then get
	// some of the frames.
	if multiQueue(device) && device.Queues > 0 {
		return nil, explain(p.name, "", unix.EBUSY)
	}
	return device, nil
}

func multiQueue(d *netlink.Tuntap) bool { return d.Flags&netlink.TUNTAP_MULTI_QUEUE != 0 }

// configure sets the interface up as asked, and notes how to undo that.
func (p *Port) configure(link netlink.Link, mtu int, address overlay.MAC, bridge netlink.Link) error {
	was, h := link.Attrs(), p.netlink
	if mtu != 0 && mtu != was.MTU {
		if err := h.LinkSetMTU(link, mtu); err != nil {
			return explain(p.name, fmt.Sprintf("cannot set its MTU to %d", mtu), err)
		}
		p.undo = append(p.undo, func() error { return h.LinkSetMTU(link, was.MTU) })
	}
	if bridge != nil && was.MasterIndex != bridge.Attrs().Index {
		if was.MasterIndex != 0 {
			return &overlay.PortError{
				Port: p.name, What: "it is a port of another bridge already",
				Advice: fmt.Sprintf("free it with 'ip link set %s nomaster'", p.name),
			}
		}
		if err := h.LinkSetMaster(link, bridge); err != nil {
			return explain(p.name, "cannot put it into bridge "+bridge.Attrs().Name, err)
		}
		p.undo = append(p.undo, func() error { return h.LinkSetNoMaster(link) })
	}
	if p.made && address != (overlay.MAC{}) {
		if err := h.LinkSetHardwareAddr(link, address[:]); err != nil {
			return explain(p.name, "cannot set its address", err)
		}
	}
	if was.RawFlags&unix.IFF_UP == 0 {
		if err := h.LinkSetUp(link); err != nil {
			return explain(p.name, "cannot set it up", err)
		}
		p.undo = append(p.undo, func() error { return h.LinkSetDown(link) })
	}
	return nil
}

// explain returns the system's error err with what to do about it, nil if there
// is none.
func explain(name, what string, err error) error {
	if err == nil {
		return nil
	}
	e := &overlay.PortError{Port: name, What: what, Err: err}
	switch {
	case errors.Is(err, unix.EBUSY):
		e.What = "another process holds it"
		e.Advice = "stop that process, or choose another name"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		e.Advice = "run as root, or with the capability CAP_NET_ADMIN"
	}
	return e
}
