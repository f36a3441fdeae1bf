package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespaceDir is where named network namespaces are (iproute2's convention).
const namespaceDir = "/run/netns"

// onThread runs f on a thread of its own that ends with it, so that f may
// change the thread's namespaces.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: that ends the thread
		if unix.Gettid() == os.Getpid() {
			// The main thread can't end, and what it is in is what others
			// see this process in: hold it and take another.
			done <- onThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

// inNamespace runs f on a thread in the named network namespace.
func inNamespace(name string, f func() error) error {
	return onThread(func() error {
		if err := joinNamespace(name); err != nil {
			return err
		}
		return f()
	})
}

// joinNamespace moves the calling thread, which must be locked and is not to be
// reused, into the named network namespace.
func joinNamespace(name string) error {
	ns, err := netns.GetFromName(name)
	if err != nil {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	if err := errors.Join(netns.Set(ns), ns.Close()); err != nil {
		return fmt.Errorf("enter namespace %s: %w", name, err)
	}
	return nil
}

// enterHost makes the calling thread, which must be locked and is not to be
// reused, one of the named namespace for all purposes: like joinNamespace, and
// /sys shows that namespace's interfaces too.
func enterHost(name string) error {
	if err := joinNamespace(name); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter namespace %s: own mounts: %w", name, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("enter namespace %s: own mounts: %w", name, err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("enter namespace %s: mount /sys: %w", name, err)
	}
	return nil
}

// onHost runs f, which starts a program, as one of the named namespace.
func onHost(namespace string, f func() error) error {
	return onThread(func() error {
		if err := enterHost(namespace); err != nil {
			return err
		}
		return f()
	})
}

// addNamespace makes a named network namespace with its loopback up.
func addNamespace(name string) error {
	err := onThread(func() error {
		ns, err := netns.NewNamed(name)
		if err != nil {
			return err
		}
		return ns.Close()
	})
	if err != nil {
		return fmt.Errorf("make namespace %s: %w", name, err)
	}
	s, err := openSpace(name)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.up("lo")
}

// removeNamespace removes a named network namespace with all that is in it. It
// is no error if there is none, or only its empty file.
func removeNamespace(name string) error {
	err := unix.Unmount(filepath.Join(namespaceDir, name), unix.MNT_DETACH)
	if err == nil || errors.Is(err, unix.EINVAL) { // not a mount: made only by half
		err = os.Remove(filepath.Join(namespaceDir, name))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove namespace %s: %w", name, err)
	}
	return nil
}

// namespacesOf returns the names of all namespaces that belong to a lab.
func namespacesOf(lab string) ([]string, error) {
	entries, err := os.ReadDir(namespaceDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), namespaceName(lab, "")) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// namespaceName returns the name of a lab's host's namespace. Lab names have
// no dash, so no lab's names begin like another's.
func namespaceName(lab, host string) string { return "fl-" + lab + "-" + host }

// setSysctl sets a network sysctl, such as net/ipv4/ip_forward, in a namespace.
func setSysctl(namespace, key, value string) error {
	return inNamespace(namespace, func() error {
		if err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0); err != nil {
			return fmt.Errorf("%s in %s: %w", key, namespace, err)
		}
		return nil
	})
}

// A space sets up the interfaces of one namespace.
type space struct {
	name string
	ns   netns.NsHandle
	nl   *netlink.Handle
}

func openSpace(name string) (*space, error) {
	ns, err := netns.GetFromName(name)
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	nl, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("namespace %s: netlink: %w", name, err), ns.Close())
	}
	return &space{name: name, ns: ns, nl: nl}, nil
}

// Close ends the use of the space.
func (s *space) Close() {
	s.nl.Close()
	_ = s.ns.Close()
}

// bridge makes a bridge and sets it up. It floods multicast, as a plain switch.
func (s *space) bridge(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	snooping := false
	if err := s.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("%s: make bridge %s: %w", s.name, name, err)
	}
	return s.up(name)
}

// cable joins s and far by a virtual cable, name on this end, a port of bridge,
// and farName with the address mac on the other. Both ends are set up.
func (s *space) cable(name, bridge string, far *space, farName string, mac net.HardwareAddr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := netlink.NewVeth(attrs)
	veth.PeerName = farName
	veth.PeerHardwareAddr = mac
	veth.PeerNamespace = netlink.NsFd(far.ns)
	if err := s.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("make cable from %s in %s to %s in %s: %w", name, s.name, farName, far.name, err)
	}
	if err := s.port(name, bridge); err != nil {
		return err
	}
	return errors.Join(s.up(name), far.up(farName))
}

// port makes the interface name a port of bridge.
func (s *space) port(name, bridge string) error {
	link, err := s.link(name)
	if err != nil {
		return err
	}
	master, err := s.link(bridge)
	if err != nil {
		return err
	}
	if err := s.nl.LinkSetMaster(link, master); err != nil {
		return fmt.Errorf("%s: put %s into bridge %s: %w", s.name, name, bridge, err)
	}
	return nil
}

// tap makes a TAP interface that outlives the programs that use it, as a port
// of bridge, and sets it up.
func (s *space) tap(name, bridge string) error {
	err := inNamespace(s.name, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Flags: unix.IFF_NO_PI})
	})
	if err != nil {
		return fmt.Errorf("%s: make TAP %s: %w", s.name, name, err)
	}
	return errors.Join(s.port(name, bridge), s.up(name))
}

// wan sets up a wide-area interface: its MTU, a queue for bursts, its address.
func (s *space) wan(name string, mtu int) error {
	link, err := s.link(name)
	if err != nil {
		return err
	}
	if err := errors.Join(s.nl.LinkSetMTU(link, mtu), s.nl.LinkSetTxQLen(link, 5000)); err != nil {
		return fmt.Errorf("%s: set up %s: %w", s.name, name, err)
	}
	return s.up(name)
}

// address gives the interface name an address.
func (s *space) address(name string, a netip.Prefix) error {
	link, err := s.link(name)
	if err != nil {
		return err
	}
	ip := net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
	if err := s.nl.AddrAdd(link, &netlink.Addr{IPNet: &ip}); err != nil {
		return fmt.Errorf("%s: address %v for %s: %w", s.name, a, name, err)
	}
	return nil
}

// wayOut sends what has no other route, IPv4 or IPv6, out of the interface name.
func (s *space) wayOut(name string, ipv4 bool) error {
	all := &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	if ipv4 {
		all = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	}
	return s.route(name, &netlink.Route{Dst: all, Scope: netlink.SCOPE_LINK})
}

// defaultRoute sends IPv4 that has no other route out of the interface name, by way
// of the gateway.
func (s *space) defaultRoute(name string, gateway netip.Addr) error {
	all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	return s.route(name, &netlink.Route{Dst: all, Gw: gateway.AsSlice()})
}

func (s *space) route(name string, route *netlink.Route) error {
	link, err := s.link(name)
	if err != nil {
		return err
	}
	route.LinkIndex = link.Attrs().Index
	if err := s.nl.RouteAdd(route); err != nil {
		return fmt.Errorf("%s: default route by %s: %w", s.name, name, err)
	}
	return nil
}

func (s *space) up(name string) error {
	link, err := s.link(name)
	if err != nil {
		return err
	}
	if err := s.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("%s: set up %s: %w", s.name, name, err)
	}
	return nil
}

func (s *space) link(name string) (netlink.Link, error) {
	link, err := s.nl.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("%s: interface %s: %w", s.name, name, err)
	}
	return link, nil
}
