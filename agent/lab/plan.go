package lab

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"time"
)

// Addresses of the home LAN and of the wide area. They are inside the lab's own
// namespaces, so every lab has the same ones.
var (
	lan       = netip.MustParsePrefix("192.168.77.0/24")
	routerIP  = lanAddress(1)
	dhcpIP    = lanAddress(2)
	proxyIP   = lanAddress(3)
	hostAIP   = lanAddress(10)
	leaseLow  = lanAddress(100)
	leaseHigh = lanAddress(199)
)

// filePort is where host-a serves files.
const filePort = 8080

func lanAddress(host byte) netip.Addr {
	b := lan.Addr().As4()
	b[3] = host
	return netip.AddrFrom4(b)
}

// wanAddress returns the address of a site's router; home is site 0.
func wanAddress(site int) netip.Addr { return netip.AddrFrom4([4]byte{10, 99, byte(site), 1}) }

// Options say what lab to build.
type Options struct {
	Name     string `json:"name"`
	Dir      string `json:"dir"`   // the lab's files; made by Build
	Sites    int    `json:"sites"` // home among them
	VMs      int    `json:"vms"`   // of each far site
	QEMU     bool   `json:"qemu"`  // virtual machines are QEMU guests
	MTU      int    `json:"mtu"`   // of the wide-area interfaces
	Shape    Shape  `json:"shape"` // of every path
	NATs     []NAT  `json:"nats,omitempty"`
	IP6      []IP6  `json:"ip6,omitempty"`
	Circuits bool   `json:"circuits,omitempty"` // a provider grants circuits between the sites
	LogLevel string `json:"log_level"`
	Binary   string `json:"binary"` // the farlan program
}

// DefaultOptions returns the lab that people get who ask for none in
// particular: two far sites, 50 ms there and back, as over a continent.
func DefaultOptions(name string) Options {
	return Options{
		Name: name, Dir: defaultDir(name), Sites: 3, VMs: 1, MTU: 1500, LogLevel: "info",
		Shape: Shape{
			Delay: 25 * time.Millisecond, Jitter: 2 * time.Millisecond,
			Rate: 100_000, Loss: 1000, Queue: Queue{Time: DefaultQueue},
		},
	}
}

func defaultDir(name string) string { return "/run/farlan-lab/" + name }

// Limits: each site is an agent process of some 50 MB, each guest one of 200 MB.
const (
	maxSites = 64
	maxVMs   = 16
	maxDir   = 107 - len("/site63.sock") // Unix sockets' names (unix(7))
)

var nameForm = regexp.MustCompile(`^[a-z0-9]{1,8}$`)

// Validate reports every option that can't be.
func (o Options) Validate() error {
	var errs []error
	if !nameForm.MatchString(o.Name) {
		errs = append(errs, fmt.Errorf("lab name %q is not 1 to 8 of a–z and 0–9", o.Name))
	}
	if o.Sites < 2 || o.Sites > maxSites {
		errs = append(errs, fmt.Errorf("%d sites are not within 2 to %d", o.Sites, maxSites))
	}
	if o.VMs < 0 || o.VMs > maxVMs {
		errs = append(errs, fmt.Errorf("%d virtual machines a site are not within 0 to %d", o.VMs, maxVMs))
	}
	if len(o.Dir) > maxDir {
		errs = append(errs, fmt.Errorf("folder %s: sockets in it would have names that are too long: %d bytes, not %d", o.Dir, maxDir, len(o.Dir)))
	}
	errs = append(errs, WAN{MTU: o.MTU, Shape: o.Shape}.Validate())
	_, err := planNATs(o)
	errs = append(errs, err, o.checkIP6(), o.checkCircuits())
	return errors.Join(errs...)
}

// Kind says what a host is.
type Kind string

// The kinds of hosts.
const (
	KindWAN    Kind = "wan"    // where the emulator runs
	KindRouter Kind = "router" // home's: wan0, and the LAN's bridge
	KindDHCP   Kind = "dhcp"   // home's DHCP server
	KindHost   Kind = "host"   // an ordinary machine on the home LAN
	KindProxy  Kind = "proxy"  // home's agent
	KindFar    Kind = "far"    // a far site's agent and bridge
	KindVM     Kind = "vm"     // a far site's virtual machine: a namespace
	KindGuest  Kind = "guest"  // a far site's virtual machine: a QEMU guest
)

// A Host is a machine of the lab.
type Host struct {
	Name      string     `json:"name"`
	Kind      Kind       `json:"kind"`
	Site      string     `json:"site"`      // "" for the wide area's
	Namespace string     `json:"namespace"` // "" for guests
	MAC       string     `json:"mac"`       // of eth0; "" without one
	Address   netip.Addr `json:"address"`   // of eth0 on the home LAN; not valid if by DHCP
	WAN       netip.Addr `json:"wan"`       // of wan0; not valid without one
	WAN6      netip.Addr `json:"wan6"`      // of wan0, by IPv6; not valid without one
}

// byDHCP reports whether the host gets its address from the home LAN.
func (h Host) byDHCP() bool { return h.MAC != "" && !h.Address.IsValid() }

// hasAgent reports whether farlan runs on the host.
func (h Host) hasAgent() bool { return h.Kind == KindProxy || h.Kind == KindFar }

// bridge returns the name of the bridge of the host's site's LAN.
func (h Host) bridge() string {
	if h.Site == homeSite {
		return "lan0"
	}
	return "br0"
}

const homeSite = "home"

// siteName returns the name of a site, which is its agent's name too.
func siteName(i int) string {
	if i == 0 {
		return homeSite
	}
	return fmt.Sprintf("site%d", i)
}

// plan returns the hosts of a lab, whose options are valid, each after those
// that it hangs on.
func plan(o Options) []Host {
	nats, _ := planNATs(o)
	hosts := []Host{
		{Name: "wan", Kind: KindWAN},
		{Name: "home-router", Kind: KindRouter, Site: homeSite, WAN: nats.address[homeSite]},
		{Name: "dhcp", Kind: KindDHCP, Site: homeSite, MAC: mac(0, 2), Address: dhcpIP},
		{Name: "home-proxy", Kind: KindProxy, Site: homeSite, MAC: mac(0, 3), Address: proxyIP},
		{Name: "host-a", Kind: KindHost, Site: homeSite, MAC: mac(0, 10), Address: hostAIP},
		{Name: "host-b", Kind: KindHost, Site: homeSite, MAC: mac(0, 11)},
	}
	for i := 1; i < o.Sites; i++ {
		site := siteName(i)
		far := Host{Name: site, Kind: KindFar, Site: site, WAN: nats.address[site]}
		far.setIP6(o, i)
		hosts = append(hosts, far)
		for j := 1; j <= o.VMs; j++ {
			kind := KindVM
			if o.QEMU {
				kind = KindGuest
			}
			hosts = append(hosts, Host{Name: fmt.Sprintf("%s-vm%d", site, j), Kind: kind, Site: site, MAC: mac(i, j)})
		}
	}
	if o.Circuits { // the wide area has a machine in itself: the provider
		hosts[0].WAN = o.providerAddress()
	}
	for i, h := range hosts {
		if h.Kind != KindGuest {
			hosts[i].Namespace = namespaceName(o.Name, h.Name)
		}
	}
	return hosts
}

// mac returns the address of a host's eth0: locally administered, and people
// can read from it which host it is.
func mac(site, host int) string {
	return net.HardwareAddr{0x02, 0xfa, 0x12, 0x1a, byte(site), byte(host)}.String()
}

// wideArea returns the wide area that joins a lab's sites.
func wideArea(o Options, hosts []Host) WAN {
	nats, _ := planNATs(o)
	w := WAN{NATs: nats.gates, MTU: o.MTU, Shape: o.Shape, Seed: 1}
	for _, h := range hosts {
		if !h.WAN.IsValid() && !h.WAN6.IsValid() {
			continue
		}
		bits := 24
		if len(o.NATs) > 0 { // others may be in the same network
			bits = 32
		}
		site := WANSite{Name: cmp.Or(h.Site, providerSite), Namespace: h.Namespace, Device: "wan0", Behind: nats.behind[h.Site]}
		if h.WAN.IsValid() {
			prefix, _ := h.WAN.Prefix(bits)
			site.Prefixes = append(site.Prefixes, prefix)
		}
		if h.WAN6.IsValid() {
			site.Prefixes = append(site.Prefixes, netip.PrefixFrom(h.WAN6, 128))
		}
		if h.Site == homeSite {
			site.Prefixes = append(site.Prefixes, lan)
		}
		w.Sites = append(w.Sites, site)
	}
	return w
}
