package agent

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"farlan/overlay"
)

const (
	// refusalEvery is how often it is tried whether a LAN takes frames from far stations, and
	// refusalAgain when it didn't, or there was nobody to try it with.
	refusalEvery, refusalAgain = 5 * time.Minute, 5 * time.Second
	// refusalTries is how often a machine on the LAN must not answer, a second each.
	refusalTries = 3
	// refusalRounds is in how many rounds in a row nobody must answer: one machine may just
	// have been turned off.
	refusalRounds = 2
	// maxAsked bounds the machines that are asked at a time.
	maxAsked = 3
)

// A refusal is what is known of whether the LAN of a port takes frames whose source isn't this
// host: Wi-Fi doesn't, nor do hypervisors and switches that keep machines from spoofing. It is
// tried by an ARP probe (RFC 5227), which changes nobody's tables, from an address that nobody
// has, for machines that have just answered this host itself.
type refusal struct {
	mac      overlay.MAC // that nobody has
	waits    atomic.Bool // for an answer
	answered atomic.Bool
	refused  atomic.Bool
	asked    []string // who didn't answer; runSegments' own, as are those below
	told     atomic.Pointer[[]string]
	tries    int
	rounds   int // in a row without an answer
	next     time.Time
}

// takes takes a frame of the port that answers the probe.
func (r *refusal) takes(f []byte) bool {
	if len(f) < overlay.MinFrame || overlay.MAC(f[:6]) != r.mac {
		return false
	}
	r.answered.Store(true)
	return true
}

// mindRefusals tries the LANs of ports that forward; it is called each second.
func (n *node) mindRefusals(now time.Time) {
	for i, p := range n.ports {
		if p.kind == "lan" && p.bridge == "" && p.failure() == "" && n.forwards(i) {
			n.mindRefusal(now, i, p)
		}
	}
}

func (n *node) mindRefusal(now time.Time, i int, p *port) {
	r := &p.refusal
	if r.mac == (overlay.MAC{}) {
		r.mac = n.probeMAC(i)
		r.next = now.Add(2 * time.Second) // first this host itself has asked somebody
		return
	}
	if now.Before(r.next) {
		return
	}
	switch {
	case r.waits.Load() && r.answered.Load():
		r.end(now, false)
		return
	case r.tries >= refusalTries:
		r.end(now, true)
		return
	}
	r.asked = r.asked[:0]
	var frames []overlay.Frame
	for _, to := range n.reachableBy(p) {
		r.asked = append(r.asked, to.String())
		frames = append(frames, overlay.Frame{Head: appendProbe(nil, r.mac, to)})
	}
	if len(frames) == 0 { // nobody answers this host either
		r.waits.Store(false)
		r.tries, r.next = 0, now.Add(refusalAgain)
		return
	}
	if r.tries == 0 {
		r.answered.Store(false)
		r.waits.Store(true)
	}
	r.tries++
	p.Write(0, frames)
}

// probeMAC returns the address, which nobody has, that ARP probes come from by a port.
func (n *node) probeMAC(port int) overlay.MAC {
	sum := sha256.Sum256(append(n.self[:], 'p', byte(port)))
	m := overlay.MAC(sum[:6])
	m[0] = m[0]&^1 | 2
	return m
}

// end notes what came out.
func (r *refusal) end(now time.Time, refused bool) {
	r.waits.Store(false)
	if r.rounds++; !refused {
		r.rounds = 0
	}
	r.refused.Store(r.rounds >= refusalRounds)
	r.told.Store(new(slices.Clone(r.asked)))
	r.tries, r.next = 0, now.Add(refusalEvery)
	if refused {
		r.next = now.Add(refusalAgain)
	}
}

// reachableBy returns machines on a port's LAN that have answered this host a moment ago.
func (n *node) reachableBy(p *port) (all []netip.Addr) {
	link, err := netlink.LinkByName(p.Name())
	if err != nil {
		return nil
	}
	neighbours, _ := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	for _, x := range neighbours {
		ip, ok := netip.AddrFromSlice(x.IP)
		if !ok || x.State != netlink.NUD_REACHABLE || len(x.HardwareAddr) != len(overlay.MAC{}) || len(all) == maxAsked {
			continue
		}
		at, known := n.sw.Stations.Lookup(n.now(), overlay.MAC(x.HardwareAddr))
		if _, far := at.Agent(); !known || !far {
			all = append(all, ip.Unmap())
		}
	}
	return all
}

// appendProbe appends an ARP probe from a station, that asks who has an IPv4 address.
func appendProbe(b []byte, from overlay.MAC, to netip.Addr) []byte {
	const request, shortest = 1, 60
	start := len(b)
	b = append(append(b, overlay.Broadcast[:]...), from[:]...)
	b = binary.BigEndian.AppendUint16(b, typeARP)
	b = append(b, 0, 1, typeIPv4>>8, typeIPv4&0xff, 6, 4, 0, request)
	b = append(append(b, from[:]...), 0, 0, 0, 0)
	b = append(append(b, 0, 0, 0, 0, 0, 0), to.AsSlice()...)
	return append(b, make([]byte, shortest-(len(b)-start))...)
}

// checkRefusal says whether the LAN of a port takes frames from far stations; ok is false if
// it does, as far as is known.
func (p *port) checkRefusal() (h healthView, ok bool) {
	if !p.refusal.refused.Load() {
		return h, false
	}
	return healthView{
		Check: "spoofing " + p.name,
		Detail: fmt.Sprintf("this LAN takes no frames from addresses other than this host's own: %s %s this host, and not a probe from another address; nobody there hears far stations",
			named(*p.refusal.told.Load()), verb(len(*p.refusal.told.Load()), "answers", "answer")),
		Hint: "if it is Wi-Fi, use a cable; on a hypervisor let this VM's port send from other addresses (libvirt: no clean-traffic filter; Proxmox: MAC filter off; VMware: accept forged transmits; Hyper-V: MAC address spoofing on); on a switch turn port security off for it",
	}, true
}

// checkHost says why this host itself can't talk to far stations by a port; ok is false if it
// can.
func (p *port) checkHost() (h healthView, ok bool) {
	d, is := p.device.(interface{ Unreached() error })
	if !is || d.Unreached() == nil {
		return h, false
	}
	return healthView{
		Check: "host on " + p.name, OK: true,
		Detail: fmt.Sprintf("this host itself can't talk to far stations, its LAN can: %v", d.Unreached()),
		Hint:   fmt.Sprintf("run as root, or with CAP_BPF and CAP_NET_ADMIN on a kernel with CONFIG_NET_CLS_BPF; or put %[1]s into a bridge and use --lan %[1]s,bridge=BR", p.name),
	}, true
}
