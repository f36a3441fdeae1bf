package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/vishvananda/netlink"

	"farlan/overlay"
	"farlan/overlay/lan"
	"farlan/overlay/qemu"
	"farlan/overlay/tap"
)

// A device is where frames enter and leave: a TAP interface, a packet socket.
type device interface {
	Name() string
	MTU() int
	// Offload says whether the device takes frames unfinished, and cuts and
	// computes what is left itself.
	Offload() bool
	// Queues returns how many queues the device spreads flows over.
	Queues() int
	// FD returns the descriptor that is readable when frames wait in a queue.
	FD(queue int) int
	// Read fills b with the frames that wait in a queue; it never blocks. Each
	// queue is read by one goroutine.
	Read(queue int, b *overlay.Batch) error
	// Write writes frames and returns how many; it never blocks. It may be
	// called by several goroutines; queue is any number.
	Write(queue int, frames []overlay.Frame) int
	// Close must not be called while others use the device.
	Close() error
}

// A port is a device and what the agent says of it. Its Read and Write are the device's,
// but for VLANs that don't pass.
type port struct {
	device
	filter filter
	name   string // as configured
	kind   string // tap, lan, qemu
	bridge string
	trust  overlay.Trust
	warn   string       // what may be wrong with it, "" nothing
	failed atomic.Value // string: why it carries no frames any more
	gate   leased

	refusal refusal
}

// openPorts opens all configured ports, or none.
func openPorts(c *config, id overlay.AgentID) (ports []*port, err error) {
	defer func() {
		if err != nil {
			_ = closePorts(ports)
		}
	}()
	for _, t := range c.Taps {
		d, err := tap.Open(tap.Config{Name: t.Name, Bridge: t.Bridge, MTU: t.MTU, Queues: c.Lanes, Plain: t.Plain, Address: tapAddress(id, t.Name)})
		if err != nil {
			return ports, fmt.Errorf("--tap: %w", err)
		}
		ports = append(ports, &port{device: d, name: t.Name, kind: "tap", bridge: t.Bridge, trust: t.Trust, filter: filter{vlans: t.VLANs}})
	}
	for _, l := range c.LANs {
		p, err := openLAN(l, c.Lanes, id)
		if err != nil {
			return ports, fmt.Errorf("--lan: %w", err)
		}
		p.filter.vlans = l.VLANs
		ports = append(ports, p)
	}
	for _, q := range c.QEMUs {
		d, err := qemu.Open(qemu.Config{Path: q.Path})
		if err != nil {
			return ports, fmt.Errorf("--qemu: %w", err)
		}
		ports = append(ports, &port{device: d, name: q.Path, kind: "qemu", trust: q.Trust, filter: filter{vlans: q.VLANs}})
	}
	return ports, nil
}

// openLAN attaches a physical LAN: by a packet socket on its interface, or, if
// that is a port of a bridge, by a TAP in the bridge, so that this host can talk
// to far stations too.
func openLAN(l lanConfig, queues int, id overlay.AgentID) (*port, error) {
	if l.Bridge == "" {
		d, err := lan.Open(lan.Config{Interface: l.Interface})
		if err != nil {
			return nil, err
		}
		return &port{device: d, name: l.Interface, kind: "lan", warn: d.Warning(), trust: l.Trust}, nil
	}
	if err := checkBridged(l); err != nil {
		return nil, err
	}
	name := "fl-" + l.Interface
	name = name[:min(len(name), 15)]
	d, err := tap.Open(tap.Config{Name: name, Bridge: l.Bridge, Queues: queues, Address: tapAddress(id, name)})
	if err != nil {
		return nil, err
	}
	return &port{device: d, name: l.Interface, kind: "lan", bridge: l.Bridge, trust: l.Trust}, nil
}

// tapAddress returns the address of a TAP that an agent makes: the same each time.
func tapAddress(id overlay.AgentID, name string) overlay.MAC {
	sum := sha256.Sum256(append(id[:], name...))
	m := overlay.MAC(sum[:6])
	m[0] = m[0]&^1 | 2 // one machine's, given by nobody
	return m
}

// checkBridged sees that the interface of l is a port of its bridge.
func checkBridged(l lanConfig) error {
	link, err := netlink.LinkByName(l.Interface)
	if err != nil {
		return hintf("'ip link' lists the interfaces")("%w", err)
	}
	bridge, err := netlink.LinkByName(l.Bridge)
	if err != nil {
		return hintf("make it with 'ip link add %s type bridge', or leave the bridge out: none is needed", l.Bridge)("bridge %s: %w", l.Bridge, err)
	}
	if link.Attrs().MasterIndex != bridge.Attrs().Index {
		return hintf("make it one with 'ip link set %s master %s' (the host's address belongs on the bridge then), or leave the bridge out", l.Interface, l.Bridge)(
			"%s is not a port of bridge %s", l.Interface, l.Bridge)
	}
	return nil
}

func closePorts(ports []*port) error {
	var errs []error
	for _, p := range ports {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// failure returns why the port carries no frames any more, "" if it does.
func (p *port) failure() string {
	s, _ := p.failed.Load().(string)
	return s
}

// overlayPrefixes returns the networks that are reached by the agent's own
// ports. Datagrams to them would travel through themselves, so addresses in
// them are neither told to others nor used.
func overlayPrefixes(ports []*port) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range ports {
		names := []string{p.Name()}
		switch {
		case p.kind == "lan" || p.kind == "qemu":
			names = nil // its network is the underlay, too; or this host isn't in it
		case p.bridge != "":
			names = append(names, p.bridge)
		}
		for _, name := range names {
			all = append(all, prefixesOf(name)...)
		}
	}
	return all
}

func prefixesOf(name string) []netip.Prefix {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil
	}
	var all []netip.Prefix
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		if ok && !ip.Unmap().IsLinkLocalUnicast() {
			all = append(all, netip.PrefixFrom(ip.Unmap(), ones).Masked())
		}
	}
	return all
}

// newSource returns what the switch remembers of a port, for one lane.
func (n *node) newSource(i int) overlay.Source {
	s := overlay.NewSource(n.sw.LAN[i])
	if s.Trust = n.ports[i].trust; !n.sw.LAN[i] {
		s.LimitStations(n.flowKey)
	}
	return s
}
