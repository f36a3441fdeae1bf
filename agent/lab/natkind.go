package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"farlan/agent/lab/nat"
)

// A NATKind is what people call a NAT, or what else stands before a site.
type NATKind string

// The kinds. What the cones do is RFC 4787's: package nat has the table.
const (
	NATNone           NATKind = "none" // a public address, and nothing in the way
	NATFullCone       NATKind = "full-cone"
	NATRestricted     NATKind = "restricted"
	NATPortRestricted NATKind = "port-restricted"
	NATSymmetric      NATKind = "symmetric"
	NATFirewall       NATKind = "firewall" // a public address, and nothing comes in but answers
	NATTCPOnly        NATKind = "tcp-only" // port-restricted, and UDP doesn't pass
)

var natKinds = []NATKind{
	NATNone, NATFullCone, NATRestricted, NATPortRestricted, NATSymmetric, NATFirewall, NATTCPOnly,
}

// A NAT is what a lab has in front of a site. As text it is
// "SITE=KIND[,option…]".
type NAT struct {
	Site     string        `json:"site"` // or a name of the NAT's own, for others to be behind
	Kind     NATKind       `json:"kind"`
	Group    string        `json:"group,omitempty"`    // the one NAT of all sites that name it
	Behind   string        `json:"behind,omitempty"`   // whose NAT is outside of this one
	CGN      bool          `json:"cgn,omitempty"`      // inside addresses are a carrier's: 100.64.0.0/10
	Hairpin  bool          `json:"hairpin,omitempty"`  // who is inside reaches others there by public endpoints
	Isolated bool          `json:"isolated,omitempty"` // … and not by inside ones
	Ports    string        `json:"ports,omitempty"`    // one of natPorts; "" is the kind's
	Lifetime time.Duration `json:"lifetime,omitempty"` // of UDP mappings; 0 is nat.UDPLifetime
}

// natPorts are the ways to choose outside ports.
var natPorts = map[string]nat.Ports{"preserve": nat.Preserved, "random": nat.Random, "sequential": nat.Sequential}

const (
	natForm    = "SITE=KIND[,option…]"
	natOptions = "hairpin, isolated, cgn, preserve, random, sequential, behind=SITE, group=NAME, lifetime=30s"
)

// kindList returns the kinds as messages name them.
func kindList() string {
	words := make([]string, len(natKinds))
	for i, k := range natKinds {
		words[i] = string(k)
	}
	return strings.Join(words, ", ")
}

// Set reads the text form.
func (n *NAT) Set(s string) error {
	site, rest, ok := strings.Cut(s, "=")
	if !ok || site == "" {
		return fmt.Errorf("%q is not %s (kinds: %s)", s, natForm, kindList())
	}
	options := strings.Split(rest, ",")
	*n = NAT{Site: site, Kind: NATKind(options[0])}
	if !slices.Contains(natKinds, n.Kind) {
		return fmt.Errorf("%s: %q is no kind of NAT (kinds: %s)", site, options[0], kindList())
	}
	for _, o := range options[1:] {
		if err := n.option(o); err != nil {
			return fmt.Errorf("%s: %w", site, err)
		}
	}
	return n.check()
}

// option takes in one option.
func (n *NAT) option(o string) error {
	word, value, given := strings.Cut(o, "=")
	_, isPorts := natPorts[word]
	switch {
	case given && value == "":
		return fmt.Errorf("%q: what follows the sign is missing", o)
	case isPorts && !given:
		n.Ports = word
	case o == "hairpin":
		n.Hairpin = true
	case o == "isolated":
		n.Isolated = true
	case o == "cgn":
		n.CGN = true
	case given && word == "behind":
		n.Behind = value
	case given && word == "group":
		n.Group = value
	case given && word == "lifetime":
		d, err := time.ParseDuration(value)
		if err != nil || d < time.Second || d > 24*time.Hour {
			return fmt.Errorf("lifetime %q is not within 1s and 24h", value)
		}
		n.Lifetime = d
	default:
		return fmt.Errorf("%q is no option of a NAT (options: %s)", o, natOptions)
	}
	return nil
}

// check complains about options that mean nothing for the kind.
func (n NAT) check() error {
	allowed, takes := n, ""
	switch n.Kind {
	case NATNone:
		allowed = NAT{Site: n.Site, Kind: n.Kind, Behind: n.Behind}
		takes = "no option but behind: it doesn't translate"
	case NATFirewall:
		allowed = NAT{Site: n.Site, Kind: n.Kind, Lifetime: n.Lifetime}
		takes = "no option but lifetime: it doesn't translate"
	}
	if allowed != n {
		return fmt.Errorf("%s: %s takes %s", n.Site, n.Kind, takes)
	}
	return nil
}

// name returns what the NAT is called: its group, or its site.
func (n NAT) name() string {
	if n.Group != "" {
		return n.Group
	}
	return n.Site
}

// describe returns the kind and the options that change it, as people read them.
func (n NAT) describe() string {
	words := []string{string(n.Kind)}
	for _, o := range []struct {
		word string
		on   bool
	}{{"hairpin", n.Hairpin}, {"isolated", n.Isolated}, {"cgn", n.CGN}, {n.Ports, n.Ports != ""}} {
		if o.on {
			words = append(words, o.word)
		}
	}
	if n.Lifetime > 0 {
		words = append(words, "lifetime="+n.Lifetime.String())
	}
	return strings.Join(words, ",")
}

// config returns what the NAT does to packets. The kind is not NATNone.
func (n NAT) config() nat.Config {
	c := nat.Config{Hairpin: n.Hairpin, UDPLife: n.Lifetime, Filtering: nat.AddressAndPortDependent}
	switch n.Kind {
	case NATFullCone:
		c.Filtering = nat.EndpointIndependent
	case NATRestricted:
		c.Filtering = nat.AddressDependent
	case NATSymmetric:
		c.Mapping, c.Ports = nat.AddressAndPortDependent, nat.Random
	case NATFirewall:
		c.Firewall = true
	case NATTCPOnly:
		c.TCPOnly = true
	}
	if n.Ports != "" {
		c.Ports = natPorts[n.Ports]
	}
	return c
}

// natFlag collects the NATs that a flag, which may be repeated, asks for.
type natFlag struct{ to *[]NAT }

// Set reads one more NAT.
func (f natFlag) Set(s string) error {
	var n NAT
	if err := n.Set(s); err != nil {
		return err
	}
	*f.to = append(*f.to, n)
	return nil
}

// String returns nothing: there is no default.
func (natFlag) String() string { return "" }

// Type names the flag's value in usage texts.
func (natFlag) Type() string { return natForm }
