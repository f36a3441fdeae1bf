package agent

import (
	"slices"
	"strings"

	"farlan/reserve"
	"farlan/reserve/dscp"
	"farlan/reserve/exec"
	"farlan/reserve/ovs"
)

// A reservePolicy is what the owner of this agent lets be reserved, and how.
type reservePolicy struct {
	Drivers   []driverConfig // in the order in which they are tried; empty: nothing is reserved here
	Automatic bool           // flows that need it get a reservation that nobody asked for
	Circuits  bool           // and outside circuits, where nothing else helps
	Cap       reserve.Rate   // of each of those; 0: none
	Quotas    reserve.Quotas
}

// A driverConfig is one --reserve.
type driverConfig struct {
	Name      string // tc, dscp, ovs, exec, nsi
	Named     bool   // by the owner: it is one of those that are tried anyway otherwise
	CodePoint dscp.CodePoint
	Port      string // of Open vSwitch
	Socket    string // of its database
	Program   string
	File      string // of nsi
}

// reserveDrivers are the names of --reserve.
var reserveDrivers = []string{"tc", "dscp", "ovs", "exec", "nsi"}

func (c *config) parseReserve(o *options, try func(error)) {
	p := &c.Reserve
	switch o.reserveAuto {
	case "on", "off", "circuits":
		p.Automatic, p.Circuits = o.reserveAuto != "off", o.reserveAuto == "circuits"
	default:
		try(usagef("on: where drivers of this host help; circuits: outside circuits, too")("--reserve-auto %q: want on, off or circuits", o.reserveAuto))
	}
	if o.reserveCap != "" {
		var err error
		if p.Cap, err = reserve.ParseRate(o.reserveCap); err != nil {
			try(usagef("")("--reserve-cap: %w", err))
		}
	}
	try(p.parseQuota(o.reserveQuota))
	wanted := o.reserve
	if len(wanted) == 0 {
		wanted = []string{"tc", "dscp"}
	}
	if slices.Equal(wanted, []string{"off"}) {
		return
	}
	for _, s := range wanted {
		d, err := parseDriver(s)
		if err == nil && slices.ContainsFunc(p.Drivers, func(o driverConfig) bool { return o.Name == d.Name }) {
			err = usagef("")("--reserve %s: given twice", d.Name)
		}
		try(err)
		d.Named = len(o.reserve) > 0
		p.Drivers = append(p.Drivers, d)
	}
}

// parseDriver understands NAME[=VALUE][,socket=PATH].
func parseDriver(s string) (d driverConfig, err error) {
	what, rest, _ := strings.Cut(s, ",")
	name, value, _ := strings.Cut(what, "=")
	d.Name = name
	bad := usagef("tc, dscp[=AF41], ovs=PORT[,socket=PATH], exec=PROGRAM, nsi=FILE, or off alone")
	if !slices.Contains(reserveDrivers, name) {
		return d, bad("--reserve %q: no such driver", s)
	}
	if rest != "" && name != "ovs" || value != "" && name == "tc" || value == "" && name != "tc" && name != "dscp" {
		return d, bad("--reserve %q: don't understand it", s)
	}
	switch name {
	case "dscp":
		if value != "" {
			if d.CodePoint, err = dscp.ParseCodePoint(value); err != nil {
				return d, bad("--reserve %q: %w", s, err)
			}
		}
	case "ovs":
		d.Port = value
		if rest != "" {
			values, err := parsePortOptions("--reserve", s, strings.Split(rest, ","), "socket")
			if err != nil {
				return d, err
			}
			d.Socket = values["socket"]
		}
	case "exec":
		if d.Program = value; !strings.HasPrefix(value, "/") {
			return d, bad("--reserve %q: give the program's absolute path", s)
		}
	case "nsi":
		d.File = value
	}
	return d, nil
}

// parseQuota understands peer=RATE,owner=RATE,station=RATE.
func (p *reservePolicy) parseQuota(s string) error {
	if s == "" {
		return nil
	}
	values, err := parsePortOptions("--reserve-quota", s, strings.Split(s, ","), "peer", "owner", "station")
	if err != nil {
		return err
	}
	for name, q := range map[string]*reserve.Quota{"peer": &p.Quotas.Peer, "owner": &p.Quotas.Owner, "station": &p.Quotas.Station} {
		if v, ok := values[name]; ok {
			if q.Rate, err = reserve.ParseRate(v); err != nil {
				return usagef("")("--reserve-quota %s: %w", name, err)
			}
		}
	}
	return nil
}

// ovsConfig returns what the ovs driver is told.
func (d *driverConfig) ovsConfig(n *node) ovs.Config {
	return ovs.Config{Socket: d.Socket, Port: d.Port, Capacity: n.cfg.Uplink.Up, Agent: n.self, Now: n.now}
}

// execConfig returns what the exec driver is told.
func (d *driverConfig) execConfig(n *node) exec.Config {
	return exec.Config{Program: d.Program, Agent: n.self, Now: n.now}
}
