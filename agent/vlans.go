package agent

import (
	"sync"
	"sync/atomic"

	"farlan/overlay"
)

// A filter keeps the VLANs of a port apart. The zero filter passes all.
type filter struct {
	vlans   overlay.VLANs
	refused atomic.Uint64 // frames from the port, of VLANs that it hasn't
	exits   sync.Pool     // of *exit
}

// An exit is the scratch of one Write.
type exit struct {
	one   [1]overlay.Frame
	untag overlay.Untag
}

// Read is the device's, with frames as they are in the network.
func (p *port) Read(queue int, b *overlay.Batch) error {
	f := &p.filter
	f.vlans.Leave(b)
	err := p.device.Read(queue, b)
	if !f.vlans.All() {
		f.refused.Add(uint64(f.vlans.Enter(b)))
	}
	return err
}

// Write is the device's, for frames as they are in the network. Those of VLANs that the
// port hasn't count as written: they aren't for it.
func (p *port) Write(queue int, frames []overlay.Frame) int {
	f := &p.filter
	if f.vlans.All() {
		return p.device.Write(queue, frames)
	}
	x, ok := f.exits.Get().(*exit)
	if !ok {
		x = new(exit)
	}
	n := 0
	for i := range frames {
		x.one[0] = frames[i]
		if f.vlans.Exit(&x.one[0], &x.untag) {
			n += p.device.Write(queue, x.one[:])
		} else {
			n++
		}
	}
	f.exits.Put(x)
	return n
}
