package agent

import (
	"farlan/overlay"
	"farlan/overlay/qemu"
)

// setLegs tells port i, which switches between its QEMUs, what is known elsewhere, and what may
// pass between them, and hears from it which stations left.
func (n *node) setLegs(i int, q *qemu.Port) {
	here := overlay.PortPlace(i)
	q.Elsewhere = func(m overlay.MAC) bool {
		at, known := n.sw.Stations.Lookup(n.now(), m)
		return known && at != here
	}
	source := n.newSource(i)
	q.Stays = func(frame []byte, flooded bool) bool {
		return n.ports[i].filter.vlans.Passes(frame) && n.sw.Stays(n.now(), here, frame, &source, flooded)
	}
	q.Left = func(m overlay.MAC) { n.sw.Stations.Leave(n.now(), m, here) }
}

// connections returns how many QEMUs are connected to the port, nil if it isn't for them.
func (p *port) connections() *int {
	if q, ok := p.device.(*qemu.Port); ok {
		return new(q.Connected())
	}
	return nil
}

// collectPorts takes over what ports count by reasons.
func (n *node) collectPorts() {
	var vlan, slow, garbled, crowd uint64
	for _, p := range n.ports {
		vlan += p.filter.refused.Load()
		if q, ok := p.device.(*qemu.Port); ok {
			slow, garbled, crowd = slow+q.Slow(), garbled+q.Garbled(), crowd+q.Refused()
		}
	}
	n.drops[dropVLAN].Store(vlan)
	n.drops[dropSlow].Store(slow)
	n.drops[dropGarbled].Store(garbled)
	n.drops[dropCrowd].Store(crowd)
}
