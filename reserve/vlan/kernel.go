//go:build linux

package vlan

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"farlan/overlay"
	"farlan/reserve"
)

// patience is how long an answer of the kernel, which may be busy with another's changes, is
// waited for.
const patience = 10 * time.Second

// kernel asks the kernel and tells it, in the network namespace in which it was opened.
type kernel struct {
	handle *netlink.Handle
	raw    *nl.SocketHandle  // for what the library has no words for
	alias  string            // of all interfaces of this agent,
	begun  string            // and the name that they begin with
	step   func(what string) // before each change, for tests; nil otherwise
}

// openKernel returns a kernel in which this process may make interfaces.
func openKernel(agent overlay.AgentID) (*kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, err
	}
	k := &kernel{handle: h, raw: &nl.SocketHandle{Socket: s}, alias: "farlan " + agent.String(), begun: fmt.Sprintf("fl%x", agent[:7])[:15]}
	_ = h.SetSocketTimeout(patience)
	most := unix.NsecToTimeval(patience.Nanoseconds())
	_, _ = s.SetSendTimeout(&most), s.SetReceiveTimeout(&most)
	// Whether it may is asked of an interface that isn't there.
	err = h.LinkDel(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: math.MaxInt32}})
	if errors.Is(err, unix.EPERM) {
		k.close()
		return nil, fmt.Errorf("%w: to be on circuits the agent needs CAP_NET_ADMIN: run it as root or by its systemd unit", reserve.ErrUnsupported)
	}
	return k, nil
}

func (k *kernel) close() {
	k.handle.Close()
	k.raw.Close()
}

// doing tells a test what is about to change.
func (k *kernel) doing(what string) {
	if k.step != nil {
		k.step(what)
	}
}

// A link is an interface as far as it matters here.
type link struct {
	index, mtu int
	name       string
	mac        net.HardwareAddr
}

// parent returns the device of a name, if it is up.
func (k *kernel) parent(name string) (link, error) {
	l, err := k.handle.LinkByName(name)
	var none netlink.LinkNotFoundError
	switch {
	case errors.As(err, &none):
		return link{}, fmt.Errorf("%w: there is no interface %s, by which circuits come in", reserve.ErrUnreachable, name)
	case err != nil:
		return link{}, fmt.Errorf("%s: %w", name, err)
	}
	a := l.Attrs()
	if a.Flags&net.FlagUp == 0 {
		return link{}, fmt.Errorf("%w: %s is down: \"ip link set %s up\"", reserve.ErrUnreachable, name, name)
	}
	return link{a.Index, a.MTU, name, a.HardwareAddr}, nil
}

// ours says whether an interface is this agent's.
func (k *kernel) ours(l netlink.Link) bool {
	a := l.Attrs()
	switch l.(type) {
	case *netlink.Vlan:
		return a.Alias == k.alias || a.Alias == "" && a.Name == k.begun
	case *netlink.Tuntap:
		return a.Alias == k.alias
	}
	return false
}

// has says whether an interface is there and as it was made.
func (k *kernel) has(at *port, parent link, name string, vlan uint16) bool {
	if at.tagged != nil {
		return k.hasTagged(at, parent, name)
	}
	l, err := k.handle.LinkByIndex(at.index)
	if err != nil {
		return false
	}
	v, ok := l.(*netlink.Vlan)
	return ok && k.ours(v) && v.Name == name && v.ParentIndex == parent.index && v.VlanId == int(vlan)
}

// make makes an interface, in place of others of this agent that have its name or VLAN.
func (k *kernel) make(parent link, name string, vlan uint16) (index int, t *tagged, err error) {
	if err = k.clear(parent, name, vlan); err != nil {
		return 0, nil, err
	}
	if index, err = k.makeVLAN(parent, name, vlan); !errors.Is(err, unix.EOPNOTSUPP) {
		return index, nil, err
	}
	index, t, err = k.makeTagged(parent, name, vlan)
	if err != nil && !errors.Is(err, reserve.ErrForeign) {
		err = noVLANs(parent.name, err)
	}
	return index, t, err
}

// makeVLAN makes the kernel's own.
func (k *kernel) makeVLAN(parent link, name string, vlan uint16) (index int, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = k.begun, parent.index
	k.doing("add")
	err = k.handle.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: int(vlan), VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
	switch {
	case errors.Is(err, unix.EEXIST):
		return 0, fmt.Errorf("%w: VLAN %d of %s has an interface that isn't this agent's: find it with \"ip -d link\", or leave that VLAN out of the STP", reserve.ErrForeign, vlan, parent.name)
	case errors.Is(err, unix.ENODEV):
		return 0, fmt.Errorf("%w: %s has just gone", reserve.ErrUnreachable, parent.name)
	case err != nil:
		return 0, err
	}
	l, err := k.handle.LinkByName(k.begun)
	if err == nil {
		if err = k.call(l, name); err == nil {
			return l.Attrs().Index, nil
		}
		_ = k.remove(l.Attrs().Index) // or else the next one does
	}
	return 0, err
}

// call gives an interface that was begun this agent's alias, and then its name.
func (k *kernel) call(l netlink.Link, name string) error {
	k.doing("alias")
	if err := k.handle.LinkSetAlias(l, k.alias); err != nil {
		return fmt.Errorf("alias: %w", err)
	}
	k.doing("name")
	err := k.handle.LinkSetName(l, name)
	if errors.Is(err, unix.EEXIST) {
		return foreign(name)
	}
	return err
}

// foreign says that an interface is somebody else's.
func foreign(name string) error {
	return fmt.Errorf("%w: there is an interface %s that isn't this agent's; if nobody needs it, remove it with \"ip link del %s\", or leave its VLAN out of the STP", reserve.ErrForeign, name, name)
}

// clear takes away what this agent has of a name or a VLAN, and refuses if somebody else has the
// name.
func (k *kernel) clear(parent link, name string, vlan uint16) error {
	return k.each(func(l netlink.Link) error {
		v, ok := l.(*netlink.Vlan)
		a := l.Attrs()
		switch {
		case !k.ours(l) && a.Name == name:
			return foreign(name)
		case !k.ours(l):
			return nil
		case a.Name == name || a.Name == k.begun || ok && v.ParentIndex == parent.index && v.VlanId == int(vlan):
			return k.remove(a.Index)
		}
		return nil
	})
}

// reap takes away all that is this agent's.
func (k *kernel) reap() error {
	return k.each(func(l netlink.Link) error {
		if k.ours(l) {
			return k.remove(l.Attrs().Index)
		}
		return nil
	})
}

// each calls do for all interfaces.
func (k *kernel) each(do func(netlink.Link) error) error {
	var all []netlink.Link
	var err error
	for range 5 { // once more if things changed meanwhile
		if all, err = k.handle.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	errs := []error{err}
	for _, l := range all {
		errs = append(errs, do(l))
	}
	return errors.Join(errs...)
}

// remove takes an interface away if it is there and this agent's.
func (k *kernel) remove(index int) error {
	if index == 0 {
		return nil
	}
	l, err := k.handle.LinkByIndex(index)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) || err == nil && !k.ours(l) {
		return nil
	}
	if err == nil {
		k.doing("remove")
		err = k.handle.LinkDel(l)
	}
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// settle makes an interface what it should be, whatever it is.
func (k *kernel) settle(index int, parent link, address netip.Prefix) error {
	l, err := k.handle.LinkByIndex(index)
	if err != nil {
		return err
	}
	k.withoutIPv6(l)
	if l.Attrs().MTU != parent.mtu {
		k.doing("mtu")
		_ = k.handle.LinkSetMTU(l, parent.mtu) // some devices carry no more than they do when there is a tag
	}
	if err := k.address(l, address); err != nil {
		return err
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		k.doing("up")
		if err := k.handle.LinkSetUp(l); err != nil {
			return fmt.Errorf("up: %w", err)
		}
	}
	return k.passable(index, address)
}

// withoutIPv6 has an interface no IPv6, as far as that is possible.
func (k *kernel) withoutIPv6(l netlink.Link) {
	f, err := os.OpenFile("/proc/sys/net/ipv6/conf/"+l.Attrs().Name+"/disable_ipv6", os.O_WRONLY, 0)
	if err == nil {
		k.doing("no IPv6")
		_, err = f.WriteString("1")
		err = errors.Join(err, f.Close())
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		_ = k.handle.LinkSetIP6AddrGenMode(l, nl.IN6_ADDR_GEN_MODE_NONE)
	}
}

// address gives an interface an address and leaves it no other.
func (k *kernel) address(l netlink.Link, want netip.Prefix) error {
	all, err := k.handle.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	for _, a := range all {
		ip, _ := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		if netip.PrefixFrom(ip.Unmap(), ones) == want {
			want = netip.Prefix{}
			continue
		}
		k.doing("no address")
		if err = k.handle.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("address %v: %w", a.IPNet, err)
		}
	}
	if !want.IsValid() {
		return nil
	}
	k.doing("address")
	err = k.handle.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: want.Addr().AsSlice(), Mask: net.CIDRMask(want.Bits(), 32)}})
	if err != nil {
		return fmt.Errorf("address %v: %w", want, err)
	}
	return nil
}

// passable gives an interface the loose reverse path filter if the strict one would drop what
// comes from the other end.
func (k *kernel) passable(index int, address netip.Prefix) error {
	routes, err := k.handle.RouteGetWithOptions(other(address).AsSlice(), &netlink.RouteGetOptions{SrcAddr: address.Addr().AsSlice()})
	if err == nil && len(routes) == 1 && routes[0].LinkIndex == index {
		return nil
	}
	const rpFilter, loose = 8, 2 // IPV4_DEVCONF_RP_FILTER of linux/ip.h; RFC 3704 § 2.4
	k.doing("loose")
	r := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	r.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: k.raw}
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = int32(index)
	r.AddData(m)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(unix.IFLA_INET_CONF, nil).AddRtAttr(rpFilter, nl.Uint32Attr(loose))
	r.AddData(spec)
	if _, err := r.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("reverse path filter: %w", err)
	}
	return nil
}
