package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"farlan/agent/lab/nat"
)

// A WANNAT is a NAT or a firewall in the wide area, in front of the sites and
// the other NATs that name it.
type WANNAT struct {
	Name      string       `json:"name"`
	Kind      string       `json:"kind"`      // for people
	Behind    string       `json:"behind"`    // the NAT outside of it; "": it is in the open
	Addresses []netip.Addr `json:"addresses"` // outside ones, the first at first; a firewall has none
	Isolated  bool         `json:"isolated"`  // who is behind it reaches nobody there by inside addresses
	Config    nat.Config   `json:"config"`
}

// theOpen stands for the gate that isn't there: around the open wide area.
const theOpen = -1

// A gate is a WANNAT at work.
type gate struct {
	WANNAT
	nat     *nat.NAT
	current int    // which of Addresses it has
	outer   int    // the gate outside of it, or theOpen
	refused uint64 // packets between those behind it, who are isolated
}

// A stop is where a packet goes next: a gate, which it enters from outside, or
// a site if that is theOpen.
type stop struct{ site, gate int }

// makeGates makes the gates of a wide area, and puts the sites behind them.
func (e *Emulator) makeGates(nats []WANNAT) error {
	index := func(name string) (int, error) {
		i := slices.IndexFunc(nats, func(n WANNAT) bool { return n.Name == name })
		if i < 0 && name != "" {
			return i, fmt.Errorf("wide area: no NAT %q", name)
		}
		return i, nil
	}
	for _, n := range nats {
		outer, err := index(n.Behind)
		if err != nil {
			return err
		}
		if err = n.Config.Validate(); err != nil {
			return fmt.Errorf("wide area: NAT %s: %w", n.Name, err)
		}
		g := gate{WANNAT: n, outer: outer}
		if !n.Config.Firewall && len(n.Addresses) == 0 {
			return fmt.Errorf("wide area: NAT %s has no address", n.Name)
		}
		g.nat = nat.New(n.Config, g.address())
		e.gates = append(e.gates, g)
	}
	for _, s := range e.sites {
		i, err := index(s.Behind)
		if err != nil {
			return err
		}
		e.behind = append(e.behind, i)
	}
	return e.checkNesting()
}

// checkNesting complains about gates that are behind themselves.
func (e *Emulator) checkNesting() error {
	for i, g := range e.gates {
		for depth := 0; i != theOpen; depth++ {
			if depth > len(e.gates) {
				return fmt.Errorf("wide area: NAT %s is behind itself", g.Name)
			}
			i = e.gates[i].outer
		}
	}
	return nil
}

// address returns the outside address that the gate has; not valid for a
// firewall.
func (g *gate) address() netip.Addr {
	if len(g.Addresses) == 0 {
		return netip.Addr{}
	}
	return g.Addresses[g.current]
}

// gateOf returns the gate that a site is behind, or theOpen.
func (e *Emulator) gateOf(site int) int {
	if len(e.behind) == 0 {
		return theOpen
	}
	return e.behind[site]
}

// next returns where a packet to a goes within the network inside a gate, or in
// the open; not ok if nobody there has that address.
func (e *Emulator) next(inside int, a netip.Addr) (s stop, ok bool) {
	for i := range e.gates {
		g := &e.gates[i]
		switch {
		case g.outer != inside:
		case !g.Config.Firewall && g.address() == a, g.Config.Firewall && e.site(i, a) >= 0:
			return stop{gate: i}, true
		}
	}
	i := e.site(inside, a)
	return stop{site: i, gate: theOpen}, i >= 0
}

// leave takes a packet from a site out through its gates, as far as it must go,
// and returns where it goes in again. It is not ok if it is lost on the way.
func (e *Emulator) leave(from int, packet []byte) (s stop, ok bool) {
	for at := e.gateOf(from); ; at = e.gates[at].outer {
		to := destination(packet)
		if s, ok = e.next(at, to); ok {
			return s, e.meet(from, at, s)
		}
		if at == theOpen {
			e.stray++
			return stop{}, false
		}
		g := &e.gates[at]
		if !g.Config.Firewall && to == g.address() {
			if g.nat.Hairpin(e.now(), packet, e.rnd) != nat.Passed {
				return stop{}, false
			}
			s, ok = e.next(at, destination(packet))
			return s, e.arrives(ok)
		}
		if g.nat.Outbound(e.now(), packet, e.rnd) != nat.Passed {
			return stop{}, false
		}
	}
}

// meet reports whether a packet from a site may go on to a stop that is behind
// the same gate.
func (e *Emulator) meet(from, at int, s stop) bool {
	if s.gate == theOpen && s.site == from {
		return e.arrives(false)
	}
	if at != theOpen && e.gates[at].Isolated {
		e.gates[at].refused++
		return false
	}
	return true
}

// arrives counts a packet as stray unless there is somebody to get it.
func (e *Emulator) arrives(ok bool) bool {
	if !ok {
		e.stray++
	}
	return ok
}

// enter takes a packet in through the gates before it, and returns the site that
// gets it; -1 if none does.
func (e *Emulator) enter(s stop, packet []byte) int {
	for s.gate != theOpen {
		if e.gates[s.gate].nat.Inbound(e.now(), packet) != nat.Passed {
			return -1
		}
		var ok bool
		if s, ok = e.next(s.gate, destination(packet)); !e.arrives(ok) {
			return -1
		}
	}
	return s.site
}

// target returns the site whose path a packet takes that goes on at a stop: the
// one that the gates would give it to as they are now, or else the first that is
// behind them.
func (e *Emulator) target(s stop, packet []byte) int {
	if s.gate == theOpen {
		return s.site
	}
	outermost := s.gate
	for protocol, to, ok := nat.Destination(packet); ok; {
		to, ok = e.gates[s.gate].nat.Peek(e.now(), protocol, to)
		if !ok {
			break
		}
		if s, ok = e.next(s.gate, to.Addr()); ok && s.gate == theOpen {
			return s.site
		}
	}
	return e.firstBehind(outermost)
}

// firstBehind returns the first site behind a gate, or behind gates behind it;
// the first of all if there is none.
func (e *Emulator) firstBehind(outermost int) int {
	for site := range e.sites {
		for g := e.gateOf(site); g != theOpen; g = e.gates[g].outer {
			if g == outermost {
				return site
			}
		}
	}
	return 0
}

// A NATStatus is what a NAT of the wide area is and has done.
type NATStatus struct {
	Name     string            `json:"name"`
	Kind     string            `json:"kind"`
	Address  netip.Addr        `json:"address"` // outside; not valid for a firewall
	Mappings int               `json:"mappings"`
	Out      uint64            `json:"out"` // packets that passed
	In       uint64            `json:"in"`
	Dropped  map[string]uint64 `json:"dropped,omitempty"` // by reason, if there were any
}

// natStatus returns what the NATs are; e.mu is held.
func (e *Emulator) natStatus() []NATStatus {
	var all []NATStatus
	for i := range e.gates {
		g := &e.gates[i]
		s := NATStatus{
			Name: g.Name, Kind: g.Kind, Address: g.address(), Mappings: g.nat.Mappings(e.now()),
			Out: g.nat.Out, In: g.nat.In, Dropped: make(map[string]uint64),
		}
		for reason, n := range g.nat.Dropped {
			if n > 0 {
				s.Dropped[nat.Drop(reason).String()] = n
			}
		}
		if g.refused > 0 {
			s.Dropped["isolated"] = g.refused
		}
		all = append(all, s)
	}
	return all
}

// ForgetNAT drops all mappings of a NAT, which is named itself or by a site
// right behind it.
func (e *Emulator) ForgetNAT(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	g, err := e.gateNamed(name)
	if err == nil {
		g.nat.Forget()
	}
	return err
}

// NewAddress gives a NAT, named as for ForgetNAT, the next of its addresses,
// after the last the first. Its mappings stay.
func (e *Emulator) NewAddress(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	g, err := e.gateNamed(name)
	if err != nil {
		return err
	}
	if len(g.Addresses) < 2 {
		return fmt.Errorf("%s has a firewall, which has no address of its own", name)
	}
	g.current = (g.current + 1) % len(g.Addresses)
	g.nat.Move(g.address())
	return nil
}

// PassUDP lets UDP pass a NAT or firewall, named as for ForgetNAT, or not.
func (e *Emulator) PassUDP(name string, pass bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	g, err := e.gateNamed(name)
	if err == nil {
		g.nat.TCPOnly = !pass
	}
	return err
}

func (e *Emulator) gateNamed(name string) (*gate, error) {
	for i := range e.gates {
		if e.gates[i].Name == name {
			return &e.gates[i], nil
		}
	}
	i, err := e.index(name)
	if err != nil {
		return nil, err
	}
	if e.gateOf(i) == theOpen {
		return nil, errors.New(name + " has no NAT")
	}
	return &e.gates[e.gateOf(i)], nil
}
