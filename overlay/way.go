package overlay

import "net/netip"

// A Way is how datagrams reach an agent: directly at an address, or by way of
// another agent. It is comparable.
type Way struct {
	Addr netip.AddrPort // of the agent; invalid if Via is set
	Via  AgentID        // the agent that relays, zero if none does
}

// Direct returns the way to an address.
func Direct(addr netip.AddrPort) Way { return Way{Addr: addr} }

// Relayed returns the way by an agent.
func Relayed(via AgentID) Way { return Way{Via: via} }

// IsDirect says whether no other agent is on the way.
func (w Way) IsDirect() bool { return w.Via == AgentID{} }
