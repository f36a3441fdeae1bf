package agent

import (
	"context"
	"fmt"
	"net/netip"

	"farlan/discovery/portmap"
	"farlan/overlay"
)

// A routerPort is what the router in front of this host does for the agent's port.
type routerPort struct {
	state portmap.State // the loop's own
	moved chan struct{} // tells the one who asks that this host has moved
}

// carrier is the range of carriers' NATs (RFC 6598).
var carrier = netip.MustParsePrefix("100.64.0.0/10")

// startPortMapping asks the router for the port if the operator wants it.
func (n *node) startPortMapping(start func(context.Context, string, func(context.Context) error), ctx context.Context) {
	if !n.cfg.MapPort {
		return
	}
	n.router.moved = make(chan struct{}, 1)
	start(ctx, "port mapping", func(ctx context.Context) error {
		return portmap.Run(ctx, portmap.Config{
			Port: n.port(), Usable: n.underlayInterface, Moved: n.router.moved,
			Tell: func(s portmap.State) { n.mail.put(func(now overlay.Instant) { n.portMapped(now, s) }) },
		})
	})
}

// portMapped takes what came of asking the router, and tells the others.
func (n *node) portMapped(now overlay.Instant, s portmap.State) {
	if s.Err != nil {
		n.log.Warn("the router doesn't map the port", "router", s.Router, "error", s.Err)
	} else {
		n.log.Info("the router maps the port", "router", s.Router, "external", s.External, "by", s.By)
	}
	n.router.state = s
	n.mapped.Store(&s.External)
	n.control.next = now // tell of the address
}

// lookAtRouter asks the router again: this host may be behind another one.
func (n *node) lookAtRouter() {
	select {
	case n.router.moved <- struct{}{}:
	default: // off, or told already
	}
}

// mappedAddress returns where the router takes what it hands on; it is safe for
// concurrent use.
func (n *node) mappedAddress() (netip.AddrPort, bool) {
	a := n.mapped.Load()
	if a == nil {
		return netip.AddrPort{}, false
	}
	return *a, a.IsValid()
}

// checkPortMapping says what came of asking the router; ok is false if nobody wanted it.
func (n *node) checkPortMapping() (h healthView, ok bool) {
	if !n.cfg.MapPort {
		return healthView{}, false
	}
	h = healthView{Check: "port-mapping", OK: true}
	s := n.router.state
	outside := s.External.Addr()
	switch {
	case s.Err != nil:
		h.OK, h.Detail = false, fmt.Sprintf("no router maps port %d to this host: %v", n.port(), s.Err)
		if s.Router.IsValid() {
			h.Detail = fmt.Sprintf("the router %v doesn't map port %d to this host: %v", s.Router, n.port(), s.Err)
		}
		h.Hint = fmt.Sprintf("turn NAT-PMP or UPnP on in the router; or forward port %d, UDP and TCP, there and give its address with --advertise", n.port())
	case !s.External.IsValid():
		h.Detail = "the router is being asked"
	case outside.IsPrivate() || carrier.Contains(outside):
		h.Detail = fmt.Sprintf("the router %v maps %v to this host, by %s; but that isn't a public address: another NAT is in front of it", s.Router, s.External, s.By)
	default:
		h.Detail = fmt.Sprintf("the router %v maps %v, UDP and TCP, to this host, by %s", s.Router, s.External, s.By)
	}
	return h, true
}
