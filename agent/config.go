package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/pflag"

	"farlan/discovery/p2p"
	"farlan/overlay"
	"farlan/reserve"
)

const (
	defaultListen = ":4747"
	maxPorts      = 64 // of one agent
	maxBootstrap  = 64
)

// A tapConfig is one --tap.
type tapConfig struct {
	Name, Bridge string
	MTU          int  // 0: as it is
	Queues       int  // 0: as many as lanes
	Plain        bool // without offload
	VLANs        overlay.VLANs
	Trust        overlay.Trust
}

// A lanConfig is one --lan.
type lanConfig struct {
	Interface, Bridge string
	VLANs             overlay.VLANs
	Trust             overlay.Trust
}

// options are the values of up's flags as text, before they are understood.
type options struct {
	configFile, keyFile, listen, uplink, name string
	stateDir, socket, logLevel, logFormat     string
	beacon, portMapping                       string
	noTransit, transitLimit, cost, suppress   string
	bootstrap, advertise, taps, lans, links   []string
	qemus, dhcpFrom, reserve                  []string
	reserveAuto, reserveCap, reserveQuota     string
}

// A config is what an agent needs to know to start; see CLI.md's table of
// flags.
type config struct {
	KeyFile   string
	Bootstrap []p2p.Seed
	Listen    netip.AddrPort // with an unspecified address: all of the host's
	Dual      bool           // listen on IPv4 and IPv6
	Uplink    reserve.Access
	Advertise []netip.AddrPort
	Beacon    bool // look for members on the local network
	MapPort   bool // ask the router to hand the port on
	Name      string
	Named     bool // by a flag, the environment or the file
	Taps      []tapConfig
	Lanes     int // goroutines that carry frames, and queues of each TAP
	LANs      []lanConfig
	QEMUs     []qemuConfig
	Wishes    wishes
	AskAll    bool     // questions that are for all go to all
	DHCPFrom  []string // names or ids of those whose DHCP servers and routers are heard; empty: of all
	Reserve   reservePolicy
	StateDir  string
	Socket    string
	LogLevel  slog.Level
	LogJSON   bool
}

// addFlags declares up's flags on flags.
func (o *options) addFlags(flags *pflag.FlagSet) {
	flags.SortFlags = false
	flags.StringVar(&o.configFile, "config", "", "YAML `FILE`; every flag has a key of the same name (default "+defaultConfigFile()+" if it exists)")
	flags.StringVar(&o.keyFile, "key-file", defaultKeyFile(), "`FILE` with the network key, made by 'farlan key new'")
	flags.StringArrayVar(&o.bootstrap, "bootstrap", nil, "`MULTIADDR` of a member to join by, as /ip4/192.0.2.1/udp/4747/quic-v1/p2p/12D3Koo… (repeats)")
	flags.StringVar(&o.beacon, "beacon", "on", "`on|off`: find and be found by members on the local network, by sealed multicasts")
	flags.StringVar(&o.listen, "listen", defaultListen, "`[HOST]:PORT`, one port, UDP and TCP, for everything")
	flags.StringVar(&o.uplink, "uplink", "", "`RATE[/RATE]`: this host's way out (and in), as 100Mbit or 20Mbit/250Mbit")
	flags.StringArrayVar(&o.advertise, "advertise", nil, "`ADDR[:PORT]`: reachable address behind a static NAT (repeats)")
	flags.StringVar(&o.portMapping, "port-mapping", "off", "`on|off`: ask the router to hand on the port, UDP and TCP, by NAT-PMP or UPnP")
	flags.StringVar(&o.name, "name", "", "`NAME` that people call this agent by (default the host's name)")
	flags.StringArrayVar(&o.taps, "tap", nil, "`NAME[,bridge=BR][,mtu=N][,queues=N][,offload=off][,tag=N][,trunks=N+N-N][,trust=dhcp+ra]`: attach a TAP interface, made if missing; trust: what may come from there, nothing of it by default (repeats)")
	flags.StringArrayVar(&o.lans, "lan", nil, "`IFACE[,bridge=BR][,tag=N][,trunks=N+N-N][,trust=none]`: home proxy: attach the physical LAN on IFACE (repeats)")
	flags.StringArrayVar(&o.qemus, "qemu", nil, "`PATH[,tag=N][,trunks=N+N-N][,trust=dhcp+ra]` of a Unix socket for QEMU's '-netdev stream', which takes no rights (repeats)")
	flags.StringArrayVar(&o.dhcpFrom, "dhcp-from", nil, "`PEER` whose DHCP servers and routers may answer here, by its name or id (repeats; default all)")
	flags.StringVar(&o.suppress, "suppress", "on", "`on|off`: keep off the wide area what is for all (ARP, neighbour discovery, multicast DNS, multicast) and can go to those whom it concerns")
	flags.StringVar(&o.noTransit, "no-transit", "off", "`on|off`: on: this agent passes nothing on that others send to each other")
	flags.StringVar(&o.transitLimit, "transit-limit", "", "`RATE` of IP packets that this agent passes on for others at most")
	flags.StringVar(&o.cost, "cost", "", "`DURATION`: paths by way of this agent count as so much longer")
	flags.StringArrayVar(&o.links, "link", nil, "`PEER[,cost=DURATION][,prefer][,forbid]`: what is wanted of the link to a peer (repeats)")
	flags.StringArrayVar(&o.reserve, "reserve", nil, "`DRIVER` by which capacity may be reserved: tc, dscp[=AF41], ovs=PORT[,socket=PATH], exec=PROGRAM, nsi=FILE, in the order in which they are tried, or off (repeats; default tc and dscp)")
	flags.StringVar(&o.reserveAuto, "reserve-auto", "on", "`on|off|circuits`: reserve for machines that need it without anyone asking; circuits: outside circuits, too")
	flags.StringVar(&o.reserveCap, "reserve-cap", "", "`RATE` that one of those has at most")
	flags.StringVar(&o.reserveQuota, "reserve-quota", "", "`[peer=RATE][,owner=RATE][,station=RATE]` that each may have reserved at this agent")
	flags.StringVar(&o.stateDir, "state-dir", defaultStateDir(), "`DIR` for the identity and the remembered peers")
	flags.StringVar(&o.socket, "socket", defaultSocket(), "`PATH` of the control socket")
	flags.StringVar(&o.logLevel, "log-level", "info", "`LEVEL`: debug, info, warn or error")
	flags.StringVar(&o.logFormat, "log-format", "text", "`FORMAT`: text or json")
}

// parse understands the options; it reports every problem at once and touches
// nothing.
func (o *options) parse() (*config, error) {
	c := &config{KeyFile: o.keyFile, Name: o.name, StateDir: o.stateDir, Socket: o.socket}
	var errs []error
	try := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	try(c.parseListen(o.listen))
	try(parseSwitch("--beacon", o.beacon, &c.Beacon))
	try(c.parseGuards(o))
	try(parseSwitch("--port-mapping", o.portMapping, &c.MapPort))
	try(c.parseName())
	try(c.parseLog(o.logLevel, o.logFormat))
	if c.StateDir == "" {
		try(usagef("name a folder with --state-dir")("state folder: none given, and this user has no home"))
	}
	if o.uplink != "" {
		var err error
		if c.Uplink, err = reserve.ParseAccess(o.uplink); err != nil {
			try(usagef("one rate for both ways, or up and down as 20Mbit/250Mbit")("--uplink: %w", err))
		}
	}
	if len(o.bootstrap) > maxBootstrap {
		try(usagef("a few members are enough: they tell of all others")("--bootstrap: more than %d", maxBootstrap))
	}
	for _, s := range o.bootstrap[:min(len(o.bootstrap), maxBootstrap)] {
		seed, err := p2p.ParseSeed(s)
		if err != nil {
			try(usagef("copy it from 'farlan status' of a member, as /ip4/192.0.2.1/udp/4747/quic-v1/p2p/12D3Koo…")("--bootstrap %q: %w", s, err))
			continue
		}
		c.Bootstrap = append(c.Bootstrap, seed)
	}
	for _, s := range o.advertise {
		try(c.parseAdvertise(s))
	}
	c.parseWishes(o, try)
	c.parseReserve(o, try)
	for _, s := range o.taps {
		try(c.parseTap(s))
	}
	for _, s := range o.lans {
		try(c.parseLAN(s))
	}
	for _, s := range o.qemus {
		try(c.parseQEMU(s))
	}
	if len(c.portNames()) > maxPorts {
		try(usagef("")("more than %d ports", maxPorts))
	}
	try(c.duplicates())
	c.Lanes = c.lanes(runtime.NumCPU())
	return c, errors.Join(errs...)
}

func (c *config) parseListen(s string) error {
	bad := usagef("want [HOST]:PORT, as :4747, 192.0.2.1:4747 or [2001:db8::1]:4747")
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return bad("--listen %q: no port", s)
	}
	port, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil {
		return bad("--listen %q: %q is not a port", s, s[i+1:])
	}
	host := strings.Trim(s[:i], "[]")
	if host == "" {
		c.Listen, c.Dual = netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port)), true
		return nil
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return bad("--listen %q: %q is not an IP address", s, host)
	}
	c.Listen = netip.AddrPortFrom(addr.Unmap(), uint16(port))
	if !c.Listen.Addr().IsUnspecified() && !unicast(c.Listen.Addr()) {
		return bad("--listen %q: not the address of one host", s)
	}
	return nil
}

func parseSwitch(flag, s string, on *bool) error {
	*on = s == "on"
	if s != "on" && s != "off" {
		return usagef("")("%s %q: want on or off", flag, s)
	}
	return nil
}

func (c *config) parseName() error {
	if c.Named = c.Name != ""; !c.Named {
		host, err := os.Hostname()
		if err != nil || host == "" {
			return usagef("give one with --name")("name: the host has none")
		}
		c.Name, _, _ = strings.Cut(host, ".")
	}
	bad := func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }
	if len(c.Name) > 63 || strings.ContainsFunc(c.Name, bad) || strings.ContainsRune(c.Name, unicode.ReplacementChar) {
		return usagef("")("--name %q: want 1 to 63 bytes without white space", c.Name)
	}
	return nil
}

func (c *config) parseLog(level, format string) error {
	if err := c.LogLevel.UnmarshalText([]byte(level)); err != nil {
		return usagef("")("--log-level %q: want debug, info, warn or error", level)
	}
	if format != "text" && format != "json" {
		return usagef("")("--log-format %q: want text or json", format)
	}
	c.LogJSON = format == "json"
	return nil
}

func (c *config) parseAdvertise(s string) error {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		var addr netip.Addr
		addr, err = netip.ParseAddr(strings.Trim(s, "[]"))
		a = netip.AddrPortFrom(addr, c.Listen.Port())
	}
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	if err != nil || !unicast(a.Addr()) {
		return usagef("want the address that others reach this host at, as 192.0.2.1 or 192.0.2.1:4747")("--advertise %q: not an address of a host", s)
	}
	c.Advertise = append(c.Advertise, a)
	return nil
}

// unicast says whether a can be the address of one host, for others.
func unicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a.Zone() == "" && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// parsePort cuts "NAME,key=value,…".
func parsePort(flag, s string, keys ...string) (name string, values map[string]string, err error) {
	parts := strings.Split(s, ",")
	if err = checkInterfaceName(parts[0]); err != nil {
		return "", nil, usagef("")("%s %q: %w", flag, s, err)
	}
	if values, err = parsePortOptions(flag, s, parts[1:], keys...); err != nil {
		return "", nil, err
	}
	if b := values["bridge"]; b != "" {
		if err := checkInterfaceName(b); err != nil {
			return "", nil, usagef("")("%s %q: bridge: %w", flag, s, err)
		}
	}
	return parts[0], values, nil
}

func checkInterfaceName(s string) error {
	if s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' || r == '%' }) {
		return fmt.Errorf("%q is not the name of an interface (1 to 15 characters, no white space, '/', ':' or '%%')", s)
	}
	return nil
}

func (c *config) parseTap(s string) error {
	name, values, err := parsePort("--tap", s, "bridge", "mtu", "queues", "offload", "tag", "trunks", "trust")
	if err != nil {
		return err
	}
	t := tapConfig{Name: name, Bridge: values["bridge"]}
	if v, ok := values["mtu"]; ok {
		if t.MTU, err = strconv.Atoi(v); err != nil || t.MTU < 576 || t.MTU > 9000 {
			return usagef("")("--tap %q: mtu %q: want 576 to 9000", s, v)
		}
	}
	if v, ok := values["queues"]; ok {
		if t.Queues, err = strconv.Atoi(v); err != nil || t.Queues < 1 || t.Queues > maxLanes {
			return usagef("leave it out: the agent chooses by the number of processors")("--tap %q: queues %q: want 1 to %d", s, v, maxLanes)
		}
	}
	if v, ok := values["offload"]; ok {
		if v != "on" && v != "off" {
			return usagef("")("--tap %q: offload %q: want on or off", s, v)
		}
		t.Plain = v == "off"
	}
	if t.VLANs, err = parseVLANs("--tap", s, values); err != nil {
		return err
	}
	if t.Trust, err = parseTrust("--tap", s, values["trust"], 0); err != nil {
		return err
	}
	c.Taps = append(c.Taps, t)
	return nil
}

func (c *config) parseLAN(s string) error {
	name, values, err := parsePort("--lan", s, "bridge", "tag", "trunks", "trust")
	if err != nil {
		return err
	}
	l := lanConfig{Interface: name, Bridge: values["bridge"]}
	if l.VLANs, err = parseVLANs("--lan", s, values); err != nil {
		return err
	}
	if l.Trust, err = parseTrust("--lan", s, values["trust"], overlay.TrustAll); err != nil {
		return err
	}
	c.LANs = append(c.LANs, l)
	return nil
}

// lanes returns how many lanes carry frames on that many processors: one for
// every two, so that what the frames are for has some, too. A shaped uplink takes
// one lane, as its queue is one.
func (c *config) lanes(processors int) int {
	if c.Uplink.Up > 0 {
		return 1
	}
	n := min(max(processors/2, 1), maxLanes/2)
	for _, t := range c.Taps {
		if t.Queues > 0 {
			n = t.Queues
		}
	}
	return n
}

// duplicates refuses one interface, or socket, for two ports.
func (c *config) duplicates() error {
	seen := make(map[string]bool)
	for _, name := range c.portNames() {
		if seen[name] {
			return usagef("")("port %q is given twice", name)
		}
		seen[name] = true
	}
	return nil
}

// portNames returns the names of the configured ports, TAPs first and QEMU sockets last.
func (c *config) portNames() []string {
	var names []string
	for _, t := range c.Taps {
		names = append(names, t.Name)
	}
	for _, l := range c.LANs {
		names = append(names, l.Interface)
	}
	for _, q := range c.QEMUs {
		names = append(names, q.Path)
	}
	return names
}
