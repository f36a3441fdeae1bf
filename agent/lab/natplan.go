package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// maxNATs bounds the NATs of a lab: each has a network of its own.
const maxNATs = 64

// A natPlan is how a lab's NATs stand between its sites and the wide area.
type natPlan struct {
	sites   []string
	gates   []WANNAT
	specs   []NAT             // the gates', each as its first site has it
	front   map[string]string // the gate that a site asks for itself; "" for none
	behind  map[string]string // the gate next to a site, its own or another's; "" in the open
	address map[string]netip.Addr
}

// planNATs plans a lab's NATs, or reports what can't be. A lab that asks for
// none is as if there were no such thing: its addresses are private ones, but
// nothing is in the way.
func planNATs(o Options) (*natPlan, error) {
	p := &natPlan{front: make(map[string]string), behind: make(map[string]string), address: make(map[string]netip.Addr)}
	for i := range o.Sites {
		p.sites = append(p.sites, siteName(i))
		p.address[siteName(i)] = wanAddress(i)
	}
	if len(o.NATs) == 0 {
		return p, nil
	}
	if err := p.erect(o.NATs); err != nil {
		return p, err
	}
	if err := p.nest(); err != nil {
		return p, err
	}
	if err := p.checkUse(); err != nil {
		return p, err
	}
	p.number()
	return p, nil
}

// erect makes the gates.
func (p *natPlan) erect(nats []NAT) error {
	var errs []error
	seen := make(map[string]bool)
	for _, n := range nats {
		isSite := slices.Contains(p.sites, n.Site)
		alone := n.Group == "" && n.Kind != NATNone && n.Kind != NATFirewall && nameForm.MatchString(n.Site)
		switch {
		case seen[n.Site]:
			errs = append(errs, fmt.Errorf("NAT: %s is named twice", n.Site))
		case !isSite && !alone:
			errs = append(errs, fmt.Errorf("NAT: there is no site %q", n.Site))
		case slices.Contains(p.sites, n.Group):
			errs = append(errs, fmt.Errorf("NAT: group %s has a site's name", n.Group))
		case n.Kind == NATNone:
			p.behind[n.Site] = n.Behind
		default:
			errs = append(errs, p.add(n, isSite))
		}
		seen[n.Site] = true
	}
	if len(p.gates) > maxNATs {
		errs = append(errs, fmt.Errorf("NAT: %d are more than %d", len(p.gates), maxNATs))
	}
	return errors.Join(errs...)
}

// add adds the gate of n, unless it is a group's that is there.
func (p *natPlan) add(n NAT, isSite bool) error {
	if isSite {
		p.front[n.Site], p.behind[n.Site] = n.name(), n.name()
	}
	i := p.index(n.name())
	if i < 0 {
		p.gates = append(p.gates, WANNAT{
			Name: n.name(), Kind: n.describe(), Behind: n.Behind, Isolated: n.Isolated, Config: n.config(),
		})
		p.specs = append(p.specs, n)
		return nil
	}
	first := p.specs[i]
	if first.Site = n.Site; first != n {
		return fmt.Errorf("NAT: %s and %s are to share %s, so the same must be said of both", p.specs[i].Site, n.Site, n.name())
	}
	return nil
}

// index returns which gate has a name, or -1.
func (p *natPlan) index(name string) int {
	return slices.IndexFunc(p.gates, func(g WANNAT) bool { return g.Name == name })
}

// nest finds the gates that others are said to be behind.
func (p *natPlan) nest() error {
	var errs []error
	find := func(who, whom string) string {
		if p.front[whom] != "" {
			whom = p.front[whom]
		}
		if i := p.index(whom); whom != "" && (i < 0 || p.gates[i].Config.Firewall) {
			errs = append(errs, fmt.Errorf("NAT: %s can't be behind %s, which has no NAT", who, whom))
		}
		return whom
	}
	for i, g := range p.gates {
		p.gates[i].Behind = find(g.Name, g.Behind)
	}
	for _, s := range p.sites {
		if p.front[s] == "" {
			p.behind[s] = find(s, p.behind[s])
		}
	}
	for i, g := range p.gates {
		for depth := 0; i >= 0; depth++ {
			if depth > len(p.gates) {
				errs = append(errs, fmt.Errorf("NAT: %s is behind itself", g.Name))
				break
			}
			i = p.index(p.gates[i].Behind)
		}
	}
	return errors.Join(errs...)
}

// checkUse complains about gates with nothing behind them, which are misspelt
// sites, and if no site is left that others could join by.
func (p *natPlan) checkUse() error {
	var errs []error
	used, joinable := make(map[string]bool), false
	for _, s := range p.sites {
		used[p.behind[s]] = true
		joinable = joinable || p.behind[s] == ""
	}
	for _, g := range p.gates {
		used[g.Behind] = true
	}
	for _, g := range p.gates {
		if !used[g.Name] {
			errs = append(errs, fmt.Errorf("NAT: there is no site %q, and nothing is behind it", g.Name))
		}
	}
	if !joinable {
		errs = append(errs, errors.New("NAT: every site is behind one, so that nobody can be joined: leave a site out, or add one with --sites"))
	}
	return errors.Join(errs...)
}

// number gives addresses. A site without a NAT has the public address of its
// number, and so has the NAT of a site; a NAT of nobody has one above these. Who
// is behind a NAT has an address in its inside network: sites from .2, and NATs
// two each from .70.
func (p *natPlan) number() {
	inside := make(map[string]netip.Addr) // next to be given, by gate
	nested := make(map[string]netip.Addr)
	for i, n := range p.specs {
		inside[p.gates[i].Name] = insideAddress(i, n.CGN, 2)
		nested[p.gates[i].Name] = insideAddress(i, n.CGN, 70)
	}
	for i, s := range p.sites {
		g := p.behind[s]
		if j := p.index(g); j < 0 || p.gates[j].Config.Firewall {
			p.address[s] = publicAddress(i, 1)
			continue
		}
		p.address[s] = inside[g]
		inside[g] = inside[g].Next()
	}
	for i := range p.gates {
		g := &p.gates[i]
		switch {
		case g.Config.Firewall:
		case g.Behind != "":
			first := nested[g.Behind]
			g.Addresses = []netip.Addr{first, first.Next()}
			nested[g.Behind] = first.Next().Next()
		default:
			number := slices.Index(p.sites, p.specs[i].Site)
			if number < 0 {
				number = 100 + i
			}
			for host := range byte(publicAddresses) {
				g.Addresses = append(g.Addresses, publicAddress(number, host+1))
			}
		}
	}
}

// publicAddresses is how many addresses a NAT has in the open, one at a time.
const publicAddresses = 4

// publicAddress returns an address in the open for a lab with NATs. It must be
// one that programs take for public, which those for documentation and for
// benchmarks are not. 30.0.0.0/8 belongs to a military network that nobody
// serves the public from; no packet of a lab leaves its own namespaces.
func publicAddress(number int, host byte) netip.Addr {
	return netip.AddrFrom4([4]byte{30, 99, byte(number), host})
}

// insideAddress returns an address behind a lab's NAT of a number.
func insideAddress(number int, cgn bool, host byte) netip.Addr {
	if cgn {
		return netip.AddrFrom4([4]byte{100, 64, byte(number), host})
	}
	return netip.AddrFrom4([4]byte{192, 168, byte(100 + number), host})
}
