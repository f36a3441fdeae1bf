//go:build linux

package tc

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"farlan/reserve"
)

// patience is how long an answer of the kernel, which may be busy with another's changes, is
// waited for. Without one the outcome isn't known.
const patience = 10 * time.Second

// kernel asks the kernel and tells it, in the network namespace in which it was opened.
type kernel struct {
	handle *netlink.Handle
	raw    *nl.SocketHandle  // for what the library has no words for
	plain  bool              // there is no fq_codel
	step   func(what string) // before each change, for tests; nil otherwise
}

// openKernel returns a kernel that this process may change the queueing of.
func openKernel() (*kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, err
	}
	k := &kernel{handle: h, raw: &nl.SocketHandle{Socket: s}}
	_ = h.SetSocketTimeout(patience)
	most := unix.NsecToTimeval(patience.Nanoseconds())
	_, _ = s.SetSendTimeout(&most), s.SetReceiveTimeout(&most)
	// Whether it may, and whether it can at all, is asked of an interface that isn't there.
	err = h.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: math.MaxInt32, Parent: netlink.HANDLE_ROOT}})
	switch {
	case errors.Is(err, unix.EPERM):
		err = fmt.Errorf("%w: to reserve on this host's way out the agent needs CAP_NET_ADMIN: run it as root or by its systemd unit", reserve.ErrUnsupported)
	case errors.Is(err, unix.EOPNOTSUPP):
		err = fmt.Errorf("%w: this kernel has no traffic control (CONFIG_NET_SCHED)", reserve.ErrUnsupported)
	default: // there is no such interface
		return k, nil
	}
	k.close()
	return nil, err
}

func (k *kernel) close() {
	k.handle.Close()
	k.raw.Close()
}

// A link is an interface as far as it matters here.
type link struct {
	index       int
	name        string
	mtu, header int
	up          bool
	loopback    bool
	kind        string // "" for hardware
	master      string // the kind of what it is a port of; "" for none
}

// link returns interface index; ErrGone if there is none.
func (k *kernel) link(index int) (link, error) {
	n, err := k.handle.LinkByIndex(index)
	if err != nil {
		return link{}, missing(err, fmt.Sprintf("interface %d", index))
	}
	a := n.Attrs()
	l := link{index: index, name: a.Name, mtu: a.MTU, kind: n.Type(), loopback: a.Flags&net.FlagLoopback != 0}
	l.up = a.Flags&(net.FlagUp|net.FlagRunning) == net.FlagUp|net.FlagRunning
	if a.EncapType == "ether" {
		l.header = etherHeader
	}
	if a.MasterIndex != 0 {
		m, err := k.handle.LinkByIndex(a.MasterIndex)
		if err != nil {
			return link{}, missing(err, fmt.Sprintf("what %s is a port of", a.Name))
		}
		l.master = m.Type()
	}
	return l, nil
}

// missing turns the library's error into ErrGone if it says that there is no such interface.
func missing(err error, what string) error {
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w: %s isn't there", reserve.ErrGone, what)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// wayTo returns the index of the interface by which packets to a leave.
func (k *kernel) wayTo(a netip.Addr) (int, error) {
	if zone := a.Zone(); zone != "" {
		if index, err := strconv.Atoi(zone); err == nil {
			return index, nil
		}
		l, err := k.handle.LinkByName(zone)
		if err != nil {
			return 0, fmt.Errorf("way to %v: %w", a, err)
		}
		return l.Attrs().Index, nil
	}
	routes, err := k.handle.RouteGet(a.Unmap().AsSlice())
	if err != nil {
		return 0, fmt.Errorf("route to %v: %w", a, err)
	}
	for _, r := range routes {
		if r.LinkIndex > 0 {
			return r.LinkIndex, nil
		}
	}
	return 0, fmt.Errorf("route to %v: %w", a, unix.ENETUNREACH)
}

// A view is what the kernel has at an interface.
type view struct {
	root    root
	classes map[uint16]seen // the grants', if the root is ours
	ceil    uint64          // of the root's class, if it is there
}

// A root is an interface's root queueing discipline; one without a number is the kernel's own.
type root struct {
	kind   string
	handle uint32
	ours   bool
}

// A seen is a class in the kernel, its rate in bytes a second, and what its counters say: packets
// that the queue below dropped are counted there.
type seen struct {
	rate    uint64
	bytes   uint64
	packets uint32
	dropped uint32
	backlog uint32
}

// look returns what an interface has: nothing if there is none.
func (k *kernel) look(index int) (view, error) {
	at := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
	v := view{classes: make(map[uint16]seen)}
	leaves, err := again(func() ([]netlink.Qdisc, error) { return k.handle.QdiscList(at) })
	if err != nil {
		return v, fmt.Errorf("list queueing disciplines: %w", err)
	}
	for _, q := range leaves {
		if q.Attrs().Parent == netlink.HANDLE_ROOT {
			v.root = rootOf(q)
		}
	}
	if !v.root.ours {
		return v, nil
	}
	classes, err := again(func() ([]netlink.Class, error) { return k.handle.ClassList(at, 0) })
	if err != nil {
		return v, fmt.Errorf("list classes: %w", err)
	}
	for _, c := range classes {
		v.add(c)
	}
	for _, q := range leaves {
		m := uint16(q.Attrs().Parent)
		s, ok := v.classes[m]
		if n := q.Attrs().Statistics; ok && n != nil && q.Attrs().Parent == classID(m) {
			s.dropped = n.Queue.Drops
			v.classes[m] = s
		}
	}
	return v, nil
}

// add adds a class to the view.
func (v *view) add(c netlink.Class) {
	h, ok := c.(*netlink.HtbClass)
	m := uint16(c.Attrs().Handle)
	if !ok || c.Attrs().Handle != classID(m) {
		return
	}
	if m == rootMinor {
		v.ceil = h.Ceil
	}
	if m < firstMinor || m > lastMinor {
		return
	}
	s := seen{rate: h.Rate}
	if n := c.Attrs().Statistics; n != nil {
		s.bytes, s.packets, s.backlog = n.Basic.Bytes, n.Basic.Packets, n.Queue.Backlog
	}
	v.classes[m] = s
}

// rootOf says what a root is.
func rootOf(q netlink.Qdisc) root {
	r := root{kind: q.Type(), handle: q.Attrs().Handle}
	h, ok := q.(*netlink.Htb)
	r.ours = ok && r.handle == classID(0) && h.Defcls == restMinor && h.Rate2Quantum == divisor
	return r
}

// ours returns the indices of all interfaces with a root of ours, ascending.
func (k *kernel) ours() ([]int, error) {
	all, err := again(func() ([]netlink.Qdisc, error) { return k.handle.QdiscList(nil) })
	if err != nil {
		return nil, err
	}
	var at []int
	for _, q := range all {
		if q.Attrs().Parent == netlink.HANDLE_ROOT && rootOf(q).ours {
			at = append(at, q.Attrs().LinkIndex)
		}
	}
	slices.Sort(at)
	return at, nil
}

// again lists once more, a few times, if things changed meanwhile.
func again[T any](list func() ([]T, error)) (all []T, err error) {
	for range 5 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}
