package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"farlan/overlay"
)

const (
	// Changes come in bursts: an address is removed, another one added, then the
	// routes. The first one is looked at after roamSettle, and the next ones no more
	// often than each roamEvery; routes other than default ones, which a router may
	// change all the time, each rerouteEvery.
	roamSettle   = 50 * time.Millisecond
	roamEvery    = 500 * time.Millisecond
	rerouteEvery = 5 * time.Second
	// For roamFor after a change, peers are probed each roamProbe: a first packet may
	// find the neighbours' addresses unknown, or a switch not ready.
	roamFor   = 1500 * time.Millisecond
	roamProbe = 250 * time.Millisecond
	// roamPatience is how long after a change a peer must have been heard from, or a
	// handshake begins at all of its addresses: the one that was used may be out of
	// reach from here.
	roamPatience = 400 * time.Millisecond
)

// roaming is what the loop knows of this host's moves.
type roaming struct {
	look   overlay.Instant // when to look where this host is, 0 needn't
	force  overlay.Instant // when it has moved, whatever its addresses are, 0 it hasn't
	looked overlay.Instant // last
	moved  overlay.Instant // last
	renew  overlay.Instant // when handshakes begin with peers that are silent since, 0 needn't
	at     []whereabout
	had    []whereabout // at, before there was none
}

// notice takes what the kernel says of changes.
func (r *roaming) notice(now overlay.Instant, c change) {
	soon := max(now.Add(roamSettle), r.looked.Add(roamEvery))
	if c&routeChange != 0 {
		r.force = earlier(r.force, max(soon, r.moved.Add(rerouteEvery)))
	}
	if c&defaultChange != 0 {
		r.force = earlier(r.force, soon)
	}
	if c&addressChange != 0 {
		r.look = earlier(r.look, soon)
	}
}

// due says whether it is time to look where this host is, and whether it has moved
// even if its addresses are the same.
func (r *roaming) due(now overlay.Instant) (look, forced bool) {
	reached := func(t overlay.Instant) bool { return t != 0 && !now.Before(t) }
	forced = reached(r.force)
	if look = forced || reached(r.look); look {
		r.looked, r.look = now, 0
	}
	if forced {
		r.force = 0
	}
	return look, forced
}

// earlier returns the earlier of two instants; 0 is never.
func earlier(a, b overlay.Instant) overlay.Instant {
	if a == 0 || b.Before(a) {
		return b
	}
	return a
}

// A whereabout is an address that this host can use now, and the number of its
// interface.
type whereabout struct {
	addr  netip.Addr
	index int
}

func (w whereabout) String() string { return w.addr.String() }

func (w whereabout) compare(o whereabout) int {
	if c := w.addr.Compare(o.addr); c != 0 {
		return c
	}
	return w.index - o.index
}

// whereabouts returns the addresses that others may see this agent at: those of
// interfaces that work, but for the overlay's own, ascending.
func (n *node) whereabouts() ([]whereabout, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	works := make(map[int]bool)
	for _, i := range interfaces {
		works[i.Index] = i.Flags&(net.FlagUp|net.FlagRunning) == net.FlagUp|net.FlagRunning
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var all []whereabout
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if ip = ip.Unmap(); ok && works[a.LinkIndex] && ip.IsGlobalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 && n.usable(ip) {
			all = append(all, whereabout{ip, a.LinkIndex})
		}
	}
	slices.SortFunc(all, whereabout.compare)
	return all, nil
}

// roam follows this host's moves.
func (n *node) roam(now overlay.Instant) {
	r := &n.roaming
	if r.renew != 0 && !now.Before(r.renew) {
		r.renew = 0
		n.renewSilent(now)
	}
	look, forced := r.due(now)
	if !look {
		return
	}
	n.lookAtPorts()
	at, err := n.whereabouts()
	if err != nil {
		n.log.Warn("can't see where this host is", "error", err)
		at, forced = r.at, true
	}
	if !forced && slices.Equal(at, r.at) {
		return
	}
	lost := len(at) > 0 && slices.ContainsFunc(r.had, func(w whereabout) bool { return !slices.Contains(at, w) })
	if r.at = at; len(at) > 0 {
		r.had = at
	}
	n.log.Info("this host's addresses or routes changed", "addresses", at)
	n.move(now, lost)
}

// move lets the others know where this agent is, at once: they follow the newest
// authenticated datagram's source, so a probe is enough for those that are reached
// where they were. lost says that an address is gone.
func (n *node) move(now overlay.Instant, lost bool) {
	r := &n.roaming
	r.moved, r.renew = now, now.Add(roamPatience)
	n.control.next = 0 // tell of the addresses, and dial
	for id, d := range n.control.dials {
		d.again, d.fails = 0, 0 // whom that didn't reach this may
		n.control.dials[id] = d
	}
	for _, p := range n.peers {
		p.probe = now
	}
	if len(n.view.Load().linked) == 0 {
		for id, p := range n.peers {
			if p.warmth != cold {
				n.sessions.Renew(now, id)
			}
		}
	}
	if lost {
		n.p2p.Moved()
	}
	if n.lookout != nil {
		n.lookout.Look()
	}
	n.lookAtRouter()
}

// renewSilent begins handshakes with the peers that were not heard from since this
// host has moved.
func (n *node) renewSilent(now overlay.Instant) {
	for _, p := range n.view.Load().linked {
		p.mu.Lock()
		heard := max(p.path.LastHeard(), overlay.Instant(p.heardAt.Load()))
		p.mu.Unlock()
		if heard.Before(n.roaming.moved) {
			n.sessions.Renew(now, p.id)
		}
	}
}

// startWatcher listens for changes of this host's addresses. Without, they are noticed
// by looking every second.
func (n *node) startWatcher(start func(context.Context, string, func(context.Context) error), ctx context.Context) *watcher {
	var err error
	if n.roaming.at, err = n.whereabouts(); err == nil {
		n.roaming.had = n.roaming.at
		var w *watcher
		w, err = newWatcher(func(c change) {
			n.mail.offer(func(now overlay.Instant) { n.roaming.notice(now, c) })
		})
		if err == nil {
			start(ctx, "address events", w.run)
			return w
		}
	}
	n.log.Warn("changes of addresses are noticed late", "error", err)
	return nil
}
