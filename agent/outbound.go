package agent

import (
	"errors"
	"net"
	"net/netip"
	"os"

	"farlan/overlay"
	"farlan/overlay/link"
)

// maxRuns is how many peers one goroutine packs frames for at once. When a
// batch of frames goes to more, as a broadcast does, the oldest run is sent
// first.
const maxRuns = 16

// An outgoing carries the frames of one port to the peers and the other ports.
// Its goroutine does everything from the read of a batch to the sends of its
// datagrams: no hand-off, no allocation.
type outgoing struct {
	n      *node
	port   int
	floods overlay.Source
	snoop  snooper
	runs   []*run // begun in this batch, oldest first
	free   []*run
	one    [1][]byte
	now    overlay.Instant
}

// A run packs frames for one peer.
type run struct {
	packer *overlay.Packer
	peer   *peer
	to     netip.AddrPort
}

func newOutgoing(n *node, port int) *outgoing {
	o := &outgoing{
		n: n, port: port, floods: overlay.NewSource(n.sw.LAN[port]),
		runs: make([]*run, 0, maxRuns), free: make([]*run, 0, maxRuns),
	}
	send := n.sender()
	for range maxRuns {
		r := &run{}
		r.packer = overlay.NewPacker(overlay.DatagramSize, func(b []byte, segment int) {
			send(r.to, b, segment)
		})
		o.free = append(o.free, r)
	}
	return o
}

// sender returns a function that sends datagrams to an address by the socket
// of its family, for use by one goroutine.
func (n *node) sender() func(to netip.AddrPort, b []byte, segment int) {
	var four, six *link.Writer
	for _, s := range n.sockets {
		if s.Data.LocalAddr().Addr().Is4() {
			four = s.Data.Writer()
		} else {
			six = s.Data.Writer()
		}
	}
	return func(to netip.AddrPort, b []byte, segment int) {
		w := six
		if to.Addr().Is4() {
			w = four
		}
		if w == nil || w.Send(to, b, segment) != nil {
			n.drops.add(dropSend)
		}
	}
}

// run reads until the port is closed.
func (o *outgoing) run() error {
	port := o.n.ports[o.port]
	batch := overlay.NewBatch(overlay.MaxFrame) // somebody may raise the MTU later
	for {
		if err := port.Read(batch); err != nil {
			if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
				return nil
			}
			return err
		}
		o.now = o.n.now()
		view := o.n.view.Load()
		for _, f := range batch.Frames() {
			o.frame(view, f)
		}
		o.flush()
	}
}

func (o *outgoing) frame(view *view, f []byte) {
	to, v := o.n.sw.Forward(o.now, overlay.PortPlace(o.port), f, &o.floods)
	switch v {
	case overlay.ToPlace:
		o.unicast(view, to, f)
	case overlay.Flood:
		for _, p := range view.linked {
			o.send(p, f)
		}
		for i := range o.n.ports {
			if i != o.port {
				o.write(i, f)
			}
		}
	default:
		o.n.drops.verdict(v)
		return
	}
	o.snoop.frame(&o.n.sw.Stations, f)
}

func (o *outgoing) unicast(view *view, to overlay.Place, f []byte) {
	if i, ok := to.Port(); ok {
		o.write(i, f)
		return
	}
	i, _ := to.Agent()
	if i >= len(view.byIndex) || view.byIndex[i] == nil {
		o.n.drops.add(dropNoSession)
		return
	}
	o.send(view.byIndex[i], f)
}

func (o *outgoing) write(port int, f []byte) {
	o.one[0] = f
	if o.n.ports[port].Write(o.one[:]) == 0 {
		o.n.drops.add(dropPort)
	}
}

// send packs a frame for a peer.
func (o *outgoing) send(p *peer, f []byte) {
	for _, r := range o.runs {
		if r.peer == p {
			r.packer.Add(f)
			return
		}
	}
	out := p.out.Load()
	if out == nil {
		o.n.drops.add(dropNoSession)
		return
	}
	if len(o.free) == 0 {
		o.end(o.runs[0])
		o.runs = append(o.runs[:0], o.runs[1:]...)
	}
	r := o.free[len(o.free)-1]
	o.free = o.free[:len(o.free)-1]
	r.peer, r.to = p, out.to
	r.packer.Begin(out.session, &p.cuts)
	o.runs = append(o.runs, r)
	r.packer.Add(f)
}

// end sends what a run has left.
func (o *outgoing) end(r *run) {
	r.packer.Flush()
	r.peer = nil
	o.free = append(o.free, r)
}

func (o *outgoing) flush() {
	for _, r := range o.runs {
		o.end(r)
	}
	o.runs = o.runs[:0]
}
