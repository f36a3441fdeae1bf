// Package nat is a network address translator in user space, of whatever kind
// a test wants: it rewrites IPv4 packets that are handed to it and says which
// pass. It has no sockets, no clock and no randomness of its own; who calls it
// carries the packets.
//
// The words are RFC 4787's. A mapping joins an inside endpoint to an outside
// port of the NAT's public address. How mappings and filters depend on the
// remote endpoint makes the NAT's kind:
//
//	                  mapping                      filtering
//	full cone         endpoint-independent         endpoint-independent
//	restricted        endpoint-independent         address-dependent
//	port-restricted   endpoint-independent         address-and-port-dependent
//	symmetric         address-and-port-dependent   address-and-port-dependent
//
// UDP, TCP, ICMP echo (RFC 5508: the identifier is the port) and the ICMP errors
// that quote one of these pass; all else is dropped and counted. Fragments pass
// if their first came first. Addresses and ports are all that is changed, and
// checksums follow by RFC 1624: a wrong one stays wrong.
package nat

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"farlan/overlay"
)

// Dependence says how much of a remote endpoint a mapping or a filter is for.
type Dependence uint8

// The dependences, by RFC 4787 sections 4.1 and 5.
const (
	EndpointIndependent Dependence = iota
	AddressDependent
	AddressAndPortDependent
	dependences
)

// part returns what of a remote endpoint matters; the rest is zero.
func (d Dependence) part(remote netip.AddrPort) netip.AddrPort {
	switch d {
	case EndpointIndependent:
		return netip.AddrPort{}
	case AddressDependent:
		return netip.AddrPortFrom(remote.Addr(), 0)
	}
	return remote
}

// Ports says how a new mapping gets its outside port.
type Ports uint8

// The ways, by RFC 4787 section 4.2.
const (
	Preserved  Ports = iota // the inside port if it is free, else a random one
	Random                  // any free one from 1024
	Sequential              // the next free one, from 1024
	portChoices
)

// Lifetimes unless a Config says otherwise.
const (
	UDPLifetime  = 120 * time.Second           // RFC 4787 REQ-5: at least two minutes
	TCPLifetime  = 2*time.Hour + 4*time.Minute // RFC 5382 REQ-5, in whatever state
	EchoLifetime = time.Minute                 // RFC 5508 REQ-2
)

// Limits unless a Config says otherwise: what a home router has.
const (
	defaultMappings = 4096
	defaultFilters  = 16384
)

// A Config says what a NAT does. The zero value is a full cone that preserves
// ports.
type Config struct {
	Mapping   Dependence    `json:"mapping"`
	Filtering Dependence    `json:"filtering"`
	Ports     Ports         `json:"ports"`
	Hairpin   bool          `json:"hairpin"`  // inside hosts reach each other by their public endpoints
	Firewall  bool          `json:"firewall"` // filter only: nothing is translated
	TCPOnly   bool          `json:"tcp_only"` // UDP and echo don't pass
	UDPLife   time.Duration `json:"udp_life"` // since the last packet from inside; 0: UDPLifetime
	// MaxMappings and MaxFilters bound the tables; 0 is the default. At the
	// bound a packet that needs a new entry is dropped and counted as Full;
	// what is mapped goes on. Entries that have run out make room within a
	// second.
	MaxMappings int `json:"max_mappings"`
	MaxFilters  int `json:"max_filters"`
}

// Validate reports every value that can't be.
func (c Config) Validate() error {
	var errs []error
	if c.Mapping >= dependences || c.Filtering >= dependences || c.Ports >= portChoices {
		errs = append(errs, fmt.Errorf("mapping %d, filtering %d, ports %d: there is no such behaviour", c.Mapping, c.Filtering, c.Ports))
	}
	if c.UDPLife < 0 || c.UDPLife > 24*time.Hour {
		errs = append(errs, fmt.Errorf("lifetime %v is not within 0 and a day", c.UDPLife))
	}
	if c.MaxMappings < 0 || c.MaxMappings > lastPort-firstPort || c.MaxFilters < 0 {
		errs = append(errs, fmt.Errorf("room for %d mappings and %d filters can't be", c.MaxMappings, c.MaxFilters))
	}
	return errors.Join(errs...)
}

// A Drop says why a packet doesn't pass.
type Drop uint8

// The reasons; Passed is no reason.
const (
	Passed    Drop = iota
	Malformed      // no IPv4 packet, or cut off within its headers
	NotIPv4        // another version
	Protocol       // neither UDP, TCP, ICMP echo nor an ICMP error
	Blocked        // not TCP, where only that passes
	Fragment       // a later fragment whose first has not passed
	Unmapped       // from outside, to no mapping
	Filtered       // from outside, to a mapping that isn't for its sender
	Full           // there is no room for a mapping or a filter
	NoHairpin      // from inside to the public address, without hairpinning
	drops
)

var dropNames = [drops]string{
	"passed", "malformed", "not-ipv4", "protocol", "blocked", "fragment", "unmapped", "filtered", "full", "no-hairpin",
}

// String returns the reason as statistics name it.
func (d Drop) String() string {
	if d >= drops {
		return fmt.Sprintf("drop %d", uint8(d))
	}
	return dropNames[d]
}

// Counters count packets.
type Counters struct {
	Out, In uint64        // that passed
	Dropped [drops]uint64 // by reason
}

// A NAT translates between an inside and an outside. It is not safe for
// concurrent use.
type NAT struct {
	Config
	Counters

	public    netip.Addr
	inside    map[insideKey]*mapping // as many as outside
	outside   map[outsideKey]*mapping
	filters   map[filterKey]overlay.Instant // until when
	fragments fragments
	next      uint16          // where Sequential looks first
	swept     overlay.Instant // when the tables were last cleared of what had run out
}

// New returns a NAT with an IPv4 address on its outside; a firewall has none.
// The configuration must be valid.
func New(c Config, public netip.Addr) *NAT {
	orDefault(&c.UDPLife, UDPLifetime)
	orDefault(&c.MaxMappings, defaultMappings)
	orDefault(&c.MaxFilters, defaultFilters)
	n := &NAT{Config: c, public: public}
	n.Forget()
	return n
}

func orDefault[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// Public returns the NAT's outside address.
func (n *NAT) Public() netip.Addr { return n.public }

// Move gives the NAT another outside address. Mappings keep their ports there,
// and whom they hear.
func (n *NAT) Move(public netip.Addr) { n.public = public }

// Forget drops all mappings and filters, as a restart does.
func (n *NAT) Forget() {
	n.inside = make(map[insideKey]*mapping)
	n.outside = make(map[outsideKey]*mapping)
	n.filters = make(map[filterKey]overlay.Instant)
	n.fragments = fragments{}
	n.next = firstPort
}

// Outbound takes a packet from inside at now and translates it in place if it
// passes. It makes the mapping and the filter, or gives them their whole life
// again (RFC 4787 REQ-6); rnd chooses random ports.
func (n *NAT) Outbound(now overlay.Instant, b []byte, rnd *rand.Rand) Drop {
	drop := n.outbound(now, b, rnd)
	n.count(drop, &n.Out)
	return drop
}

// Inbound takes a packet from outside at now and translates it in place if it
// passes. It leaves lifetimes as they are.
func (n *NAT) Inbound(now overlay.Instant, b []byte) Drop {
	drop := n.inbound(now, b)
	n.count(drop, &n.In)
	return drop
}

// Hairpin takes a packet from inside to the public address and translates it in
// place, both ways, if it passes: its receiver sees its sender's public
// endpoint (RFC 4787 REQ-9).
func (n *NAT) Hairpin(now overlay.Instant, b []byte, rnd *rand.Rand) Drop {
	if !n.Config.Hairpin {
		n.count(NoHairpin, nil)
		return NoHairpin
	}
	if drop := n.Outbound(now, b, rnd); drop != Passed {
		return drop
	}
	return n.Inbound(now, b)
}

func (n *NAT) count(drop Drop, passed *uint64) {
	if drop == Passed {
		*passed++
		return
	}
	n.Dropped[drop]++
}

func (n *NAT) outbound(now overlay.Instant, b []byte, rnd *rand.Rand) Drop {
	p, drop := parse(b)
	switch {
	case drop != Passed:
		return drop
	case p.later():
		return n.follow(now, p, source)
	case p.isError():
		return n.errorOut(now, p)
	case n.TCPOnly && p.protocol() != protoTCP:
		return Blocked
	case p.protocol() == protoICMP && p.icmpType() != echoRequest:
		return Protocol
	}
	m, drop := n.open(now, p.protocol(), p.local(source), p.remote(destination), rnd)
	if drop != Passed {
		return drop
	}
	to := n.outer(m)
	n.lead(now, p, source, to.Addr())
	if !n.Firewall {
		p.rewrite(source, to)
	}
	return Passed
}

func (n *NAT) inbound(now overlay.Instant, b []byte) Drop {
	p, drop := parse(b)
	switch {
	case drop != Passed:
		return drop
	case p.later():
		return n.follow(now, p, destination)
	case p.isError():
		return n.errorIn(now, p)
	case n.TCPOnly && p.protocol() != protoTCP:
		return Blocked
	case p.protocol() == protoICMP && p.icmpType() != echoReply:
		return Unmapped // nobody inside has asked for it
	}
	m, drop := n.find(now, p.protocol(), p.local(destination), p.remote(source))
	if drop != Passed {
		return drop
	}
	n.lead(now, p, destination, m.inside.endpoint.Addr())
	if !n.Firewall {
		p.rewrite(destination, m.inside.endpoint)
	}
	return Passed
}

// Peek returns the inside endpoint that a packet of a protocol (its number in
// IPv4) to an outside endpoint would be for, if it were let in.
func (n *NAT) Peek(now overlay.Instant, protocol byte, outside netip.AddrPort) (netip.AddrPort, bool) {
	m := n.at(now, protocol, outside)
	if m == nil {
		return netip.AddrPort{}, false
	}
	return m.inside.endpoint, true
}

// Destination returns a packet's protocol and the endpoint that it is for, as
// Peek wants them; not of errors and later fragments.
func Destination(b []byte) (protocol byte, to netip.AddrPort, ok bool) {
	p, drop := parse(b)
	if drop != Passed || p.later() || p.isError() {
		return 0, netip.AddrPort{}, false
	}
	return p.protocol(), p.local(destination), true
}
