//go:build linux

// Package vlan makes the interfaces by which an agent is on outside circuits, by netlink: where a
// network hands a circuit out as a VLAN (IEEE 802.1Q) of one of this host's devices, "wan1.101"
// is VLAN 101 of wan1.
//
// An interface is up, as long as its device is, and has the device's MTU and one IPv4 address, of
// a /30 whose other host is the other end. The route to these two comes with the address, and no
// other: IPv6 is off there, so that no router's advertisement brings one either. Where /proc/sys
// can't be written, as in some containers, there is merely no link-local address.
//
// # Whose it is
//
// The interface's alias says "farlan <agent>". What has another one, or none, is somebody else's:
// it is refused by reserve.ErrForeign and never changed. An interface begins under a name that
// nobody else has, "fl" and 13 hexadecimal digits of the agent's, and has its alias before it has
// its name: whenever an agent dies, what it leaves tells whose it is, and Open of the same agent
// takes it away, on whichever device it is. Agents beside it on the same host aren't concerned.
//
// # Reverse path filter
//
// The kernel's strict filter (rp_filter 1, of all interfaces or this one) drops what comes in where
// answers wouldn't leave. As a rule they would: the route to the other end is by the interface
// itself. But the addresses follow from the VLAN at one end alone, so two circuits to different
// agents may have the same ones, and then there is one route for both; or somebody's policy
// routing has another way for them. Where the kernel says so, the interface, and no other, gets
// the loose filter (2), which goes over a strict one for all: it lets in what has any way back.
// Sockets on circuits are bound to their interface, so what they send needs nothing.
package vlan

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi/cs"
)

// maxPorts bounds the interfaces of one agent; more are refused as full.
const maxPorts = 256

// maxDevice is how long a device's name may be: ".4094" behind it makes the kernel's 15 bytes.
const maxDevice = 10

// A Config says where circuits come in.
type Config struct {
	Device string // the interface that leads to the network, as "wan1"
	VLANs  cs.VLANs
	Agent  overlay.AgentID // this one, by which it knows its own
}

// Ports are an agent's interfaces on circuits, of the network namespace that they were opened in;
// calls are to be made there, too. They aren't safe for concurrent use. Calls wait for the kernel:
// for some milliseconds as a rule, and as long as another's changes to interfaces take.
type Ports struct {
	config Config
	kernel *kernel
	held   map[uint16]*port // by VLAN; maxPorts at most
}

// A port is one interface. Its index may be that of one that is gone.
type port struct {
	index  int
	tagged *tagged // nil: it's the kernel's own
}

// close takes away what lasts as long as this process.
func (p *port) close() {
	if p.tagged != nil {
		p.tagged.close()
	}
	p.index, p.tagged = 0, nil
}

// Open returns none, and has taken away what a dead agent of the same id left. They are to be
// closed. An error wraps reserve.ErrUnsupported if this process may not make interfaces.
func Open(c Config) (*Ports, error) {
	switch {
	case c.Device == "" || len(c.Device) > maxDevice:
		return nil, fmt.Errorf("vlan: %w: device %q: want the name of an interface, of %d bytes at most", reserve.ErrUnsupported, c.Device, maxDevice)
	case c.Agent.IsZero():
		return nil, fmt.Errorf("vlan: %w: no agent", reserve.ErrUnsupported)
	}
	k, err := openKernel(c.Agent)
	if err != nil {
		return nil, fmt.Errorf("vlan: %w", err)
	}
	if err := k.reap(); err != nil {
		k.close()
		return nil, fmt.Errorf("vlan: take away what is left: %w", err)
	}
	return &Ports{config: c, kernel: k, held: make(map[uint16]*port)}, nil
}

// Close takes all away.
func (p *Ports) Close() error {
	var errs []error
	for _, vlan := range p.sorted() {
		errs = append(errs, p.Detach(vlan))
	}
	p.kernel.close()
	return errors.Join(errs...)
}

// sorted returns the VLANs that have an interface, ascending.
func (p *Ports) sorted() []uint16 { return slices.Sorted(maps.Keys(p.held)) }

// Attach makes the interface of a VLAN with an address, which is one of the two hosts of a /30,
// or mends what there is, and gives it the new address. Errors wrap reserve.ErrRefused if it isn't
// one that may be made, reserve.ErrFull if there are too many, reserve.ErrForeign if somebody else
// has the VLAN or the name, and reserve.ErrUnreachable if the device isn't there or is down;
// whatever it is, Attach may be called again, and Detach takes away what was begun.
func (p *Ports) Attach(vlan uint16, address netip.Prefix) error {
	if err := p.sensible(vlan, address); err != nil {
		return fmt.Errorf("vlan: %w", err)
	}
	at := p.held[vlan]
	if at == nil && len(p.held) >= maxPorts {
		return fmt.Errorf("vlan: %w: this agent is on %d circuits", reserve.ErrFull, maxPorts)
	}
	l, err := p.kernel.parent(p.config.Device)
	if err != nil {
		return fmt.Errorf("vlan: %w", err)
	}
	name := fmt.Sprintf("%s.%d", p.config.Device, vlan)
	if at == nil {
		at = &port{}
	}
	if !p.kernel.has(at, l, name, vlan) {
		_ = p.kernel.remove(at.index) // or else make does
		at.close()
		if at.index, at.tagged, err = p.kernel.make(l, name, vlan); err != nil {
			return fmt.Errorf("vlan: %s: %w", name, err)
		}
		p.held[vlan] = at
	}
	if err := p.kernel.settle(at.index, l, address); err != nil {
		return fmt.Errorf("vlan: %s: %w", name, err)
	}
	return nil
}

// sensible says whether an interface may be made.
func (p *Ports) sensible(vlan uint16, address netip.Prefix) error {
	if !p.config.VLANs.Has(vlan) {
		return fmt.Errorf("%w: VLAN %d isn't among those of %s, %v", reserve.ErrRefused, vlan, p.config.Device, p.config.VLANs)
	}
	if !other(address).IsValid() {
		return fmt.Errorf("%w: address %v isn't one of the two hosts of an IPv4 /30", reserve.ErrRefused, address)
	}
	return nil
}

// other returns the address of the other host of a /30; the zero Addr if it is none.
func other(a netip.Prefix) netip.Addr {
	if !a.IsValid() || !a.Addr().Is4() || a.Bits() != 30 {
		return netip.Addr{}
	}
	switch a.Addr().As4()[3] & 3 {
	case 1:
		return a.Addr().Next()
	case 2:
		return a.Addr().Prev()
	}
	return netip.Addr{}
}

// Detach takes the interface of a VLAN away, if there is one. Somebody else's that has come in
// its place stays.
func (p *Ports) Detach(vlan uint16) error {
	at := p.held[vlan]
	if at == nil {
		return nil
	}
	if err := p.kernel.remove(at.index); err != nil {
		return fmt.Errorf("vlan: take away %s.%d: %w", p.config.Device, vlan, err)
	}
	at.close()
	delete(p.held, vlan)
	return nil
}
