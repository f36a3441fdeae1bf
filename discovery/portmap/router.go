//go:build linux

package portmap

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// router finds the default router by IPv4, by the interfaces that are usable.
func router(usable func(net.Interface) bool) (lan, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return lan{}, fmt.Errorf("list routes: %w", err)
	}
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, r := range routes {
		gateway, ok := netip.AddrFromSlice(r.Gw)
		if ones, _ := mask(r.Dst); ones > 0 || !ok || !gateway.Unmap().Is4() {
			continue
		}
		device, err := net.InterfaceByIndex(r.LinkIndex)
		if err != nil || !usable(*device) {
			continue
		}
		to, err := netlink.RouteGet(r.Gw)
		if err != nil || len(to) == 0 {
			continue
		}
		if self, ok := netip.AddrFromSlice(to[0].Src); ok && self.Unmap().Is4() {
			return lan{gateway.Unmap(), self.Unmap(), device}, nil
		}
	}
	return lan{}, errNoRouter
}

// mask returns the length of a route's destination; nil is that of a default route.
func mask(n *net.IPNet) (ones, bits int) {
	if n == nil {
		return 0, 32
	}
	return n.Mask.Size()
}
