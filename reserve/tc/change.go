//go:build linux

package tc

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"farlan/reserve"
)

// doing tells a test what is about to change.
func (k *kernel) doing(what string) {
	if k.step != nil {
		k.step(what)
	}
}

// addRoot gives an interface our root in place of the kernel's own. The kernel itself refuses
// if somebody else's has come meanwhile.
func (k *kernel) addRoot(l link) error {
	k.doing("root")
	q := netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: l.index, Handle: classID(0), Parent: netlink.HANDLE_ROOT})
	q.Defcls, q.Rate2Quantum = restMinor, divisor
	switch err := k.handle.QdiscAdd(q); {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: this kernel has no HTB (module sch_htb)", reserve.ErrUnsupported)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: %s has just got a queueing discipline: look with \"tc qdisc show dev %s\"", reserve.ErrForeign, l.name, l.name)
	case err != nil:
		return missing(err, l.name)
	}
	return k.sortUrgent(l)
}

// urgentTOS is what agents' sockets for urgent frames have, AF21 (RFC 4594 § 4.7), as have
// people's terminals. Priorities of sockets can't tell, as filters don't see them.
const urgentTOS = 0x48

// sortUrgent has urgent packets go to their class. It comes before the first class, so that a
// root with any has it. Where the kernel has no such filter, they go with the rest.
func (k *kernel) sortUrgent(l link) error {
	for _, f := range []struct {
		protocol  uint16
		val, mask uint32 // of the header's first four bytes
	}{{unix.ETH_P_IP, urgentTOS << 16, 0xfc << 16}, {unix.ETH_P_IPV6, urgentTOS << 20, 0xfc << 20}} {
		k.doing("filter")
		err := k.handle.FilterAdd(&netlink.U32{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: l.index, Parent: classID(0), Priority: f.protocol, Protocol: f.protocol},
			ClassId:     classID(urgentMinor),
			Sel:         &netlink.TcU32Sel{Flags: nl.TC_U32_TERMINAL, Keys: []netlink.TcU32Key{{Val: f.val, Mask: f.mask}}},
		})
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return missing(err, "filter of "+l.name)
		}
	}
	return nil
}

// removeRoot takes our root away with all that is below; the interface gets the kernel's own
// again. It touches no other root, since it names ours, and is content if there is none.
func (k *kernel) removeRoot(l link) error {
	v, err := k.look(l.index)
	if err != nil || !v.root.ours {
		return err
	}
	k.doing("no root")
	err = k.handle.QdiscDel(&netlink.GenericQdisc{
		QdiscType:  "htb",
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.index, Handle: classID(0), Parent: netlink.HANDLE_ROOT},
	})
	if err != nil && !absent(err) {
		return fmt.Errorf("remove %x: from %s: %w", major, l.name, err)
	}
	return nil
}

// setClass makes a class of our root, or changes it, below parent: 0 means the root itself.
func (k *kernel) setClass(l link, minor, parent uint16, s shape) error {
	k.doing(fmt.Sprintf("class %x", minor))
	err := k.handle.ClassReplace(&netlink.HtbClass{
		ClassAttrs: netlink.ClassAttrs{LinkIndex: l.index, Handle: classID(minor), Parent: classID(parent)},
		Rate:       s.rate, Ceil: s.ceil, Buffer: s.burst, Cbuffer: s.cburst, Quantum: s.quantum, Prio: s.prio,
	})
	if err != nil {
		return missing(err, fmt.Sprintf("class %x:%x of %s", major, minor, l.name))
	}
	return nil
}

// removeClass takes a class away, and is content if there is none. What waited in it is dropped.
func (k *kernel) removeClass(l link, minor uint16) error {
	k.doing(fmt.Sprintf("no class %x", minor))
	err := k.handle.ClassDel(&netlink.GenericClass{
		ClassType:  "htb",
		ClassAttrs: netlink.ClassAttrs{LinkIndex: l.index, Handle: classID(minor), Parent: classID(rootMinor)},
	})
	if err != nil && !absent(err) {
		return fmt.Errorf("remove class %x:%x of %s: %w", major, minor, l.name, err)
	}
	return nil
}

// absent says whether what was to be removed isn't there: no interface, no such root (the
// kernel calls one with another number, or without, invalid), no class.
func absent(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)
}

// setLeaf gives a class its short queue, or changes that.
func (k *kernel) setLeaf(l link, minor uint16, s shape) error {
	k.doing(fmt.Sprintf("queue of %x", minor))
	if !k.plain {
		err := k.leaf(l, minor, "fq_codel", fairOptions(s))
		if !errors.Is(err, unix.ENOENT) {
			return err
		}
		k.plain = true // for good: each try would have the module looked for
	}
	return k.leaf(l, minor, "bfifo", nl.NewRtAttr(nl.TCA_OPTIONS, nl.Uint32Attr(s.queue)))
}

// fairOptions are fq_codel's; all others are as the kernel has them (RFC 8290 § 5.2).
func fairOptions(s shape) *nl.RtAttr {
	o := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	o.AddRtAttr(nl.TCA_FQ_CODEL_TARGET, nl.Uint32Attr(s.target))
	o.AddRtAttr(nl.TCA_FQ_CODEL_INTERVAL, nl.Uint32Attr(s.target+95_000))
	o.AddRtAttr(nl.TCA_FQ_CODEL_MEMORY_LIMIT, nl.Uint32Attr(maxQueue))
	return o
}

// leaf puts a queueing discipline below a class. The library has no words for a plain queue's
// length, nor for CoDel's target.
func (k *kernel) leaf(l link, minor uint16, kind string, options *nl.RtAttr) error {
	r := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	r.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: k.raw}
	r.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(l.index), Parent: classID(minor)})
	r.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated(kind)))
	r.AddData(options)
	if _, err := r.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return missing(err, fmt.Sprintf("%s of class %x:%x of %s", kind, major, minor, l.name))
	}
	return nil
}
