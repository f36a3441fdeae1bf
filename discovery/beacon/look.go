//go:build linux

package beacon

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// A place is where an ear belongs: an interface, in an address family, and what is
// told there.
type place struct {
	name  string
	index int
	four  bool
	addrs []netip.AddrPort
}

// look opens ears where they are missing and closes those that nobody needs. Where
// something new is to be told, beacons go out at once.
func (l *Lookout) look(now overlay.Instant) {
	places, err := l.places()
	if err != nil {
		l.faults = []string{err.Error()} // the ears stay as they are
		return
	}
	l.faults = nil
	for n := range l.ears {
		if _, ok := places[n]; !ok {
			l.drop(n)
		}
	}
	for n, p := range places {
		e := l.ears[n]
		if e != nil && slices.Equal(e.addrs, p.addrs) {
			continue
		}
		if e == nil {
			if e = l.open(n, p); e == nil {
				continue
			}
		}
		if !l.herald.Join(now, n) {
			l.faults = append(l.faults, p.name+": no room for more links")
			l.drop(n)
			continue
		}
		e.addrs = p.addrs
	}
}

// open opens the ear of a place, nil if that fails.
func (l *Lookout) open(n int, p place) *ear {
	fd, group, err := openEar(p.index, p.four)
	if err == nil {
		err = unix.EpollCtl(l.pollFD, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(n)})
		if err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		if f := fault(p.name, err); f != "" {
			l.faults = append(l.faults, f)
		}
		return nil
	}
	e := &ear{number: n, name: p.name, fd: fd, group: group}
	l.ears[n] = e
	return e
}

// drop closes an ear.
func (l *Lookout) drop(n int) {
	l.herald.Leave(n)
	_ = unix.Close(l.ears[n].fd) // the epoll forgets it
	delete(l.ears, n)
}

// places returns where beacons go out, by the ears' numbers: on interfaces that are up,
// carry multicasts, and have an address that this agent can be dialled at.
func (l *Lookout) places() (map[int]place, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	told := l.cfg.Addrs()
	places := make(map[int]place)
	const need = net.FlagUp | net.FlagRunning | net.FlagMulticast
	for _, i := range interfaces {
		if i.Flags&need != need || i.Flags&net.FlagLoopback != 0 || !l.cfg.Usable(i) {
			continue
		}
		own := func(a netip.AddrPort) bool {
			return slices.ContainsFunc(all, func(b netlink.Addr) bool {
				ip, _ := netip.AddrFromSlice(b.IP)
				return b.LinkIndex == i.Index && ip.Unmap() == a.Addr() && b.Flags&unix.IFA_F_TENTATIVE == 0
			})
		}
		for _, four := range []bool{true, false} {
			of := func(a netip.AddrPort) bool { return own(a) && a.Addr().Is4() == four }
			if slices.ContainsFunc(told, of) {
				places[number(i.Index, four)] = place{i.Name, i.Index, four, first(told, own)}
			}
		}
	}
	return places, nil
}

// first returns all with those first for which is holds, otherwise in their order.
func first(all []netip.AddrPort, is func(netip.AddrPort) bool) []netip.AddrPort {
	var out, rest []netip.AddrPort
	for _, a := range all {
		if is(a) {
			out = append(out, a)
		} else {
			rest = append(rest, a)
		}
	}
	return append(out, rest...)
}

// tell publishes how the Lookout does.
func (l *Lookout) tell(now overlay.Instant) {
	s := State{Heard: l.herald.Heard(now), HeraldCounters: l.herald.Counters(), Faults: slices.Clone(l.faults)}
	for _, e := range l.ears {
		s.Links = append(s.Links, e.name)
		if e.fault != "" {
			s.Faults = append(s.Faults, e.fault)
		}
	}
	slices.Sort(s.Links)
	slices.Sort(s.Faults)
	s.Links, s.Faults = slices.Compact(s.Links), slices.Compact(s.Faults)
	l.state.Store(&s)
}
