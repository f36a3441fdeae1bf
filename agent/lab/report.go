package lab

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// A report is what `lab status --json` prints.
type report struct {
	SchemaVersion int             `json:"schema_version"`
	Name          string          `json:"name"`
	Dir           string          `json:"dir"`
	Built         *time.Time      `json:"built"` // null: half-built
	Hosts         []hostReport    `json:"hosts"`
	Processes     []processReport `json:"processes"`
	Agents        []agentReport   `json:"agents"`
	NATs          []natReport     `json:"nats,omitempty"` // of a lab with NATs
}

type hostReport struct {
	Name      string  `json:"name"`
	Site      *string `json:"site"`
	Kind      Kind    `json:"kind"`
	Namespace *string `json:"namespace"` // null: a guest
	Address   *string `json:"address"`   // on the home LAN; null: none, or not yet
	WAN       *string `json:"wan_address"`
	DHCP      bool    `json:"dhcp"`
	MAC       *string `json:"mac"`
}

type processReport struct {
	Name  string `json:"name"`
	Host  string `json:"host"`
	PID   int    `json:"pid"`
	Alive bool   `json:"alive"`
	Log   string `json:"log"`
}

type agentReport struct {
	Name  string  `json:"name"`
	State *string `json:"state"` // null: it doesn't answer
	Peers *int    `json:"peers"` // others up
}

// report looks at the lab.
func (l *Lab) report(ctx context.Context) report {
	r := report{SchemaVersion: schemaVersion, Name: l.Options.Name, Dir: l.Options.Dir}
	if !l.Built.IsZero() {
		r.Built = &l.Built
	}
	for _, h := range l.Hosts {
		r.Hosts = append(r.Hosts, l.reportHost(h))
		if !h.hasAgent() || l.process(agentName(h.Site)) == nil {
			continue
		}
		a := agentReport{Name: h.Site}
		if s, err := l.status(ctx, h.Site); err == nil {
			a.State, a.Peers = &s.State, &s.Peers
		}
		r.Agents = append(r.Agents, a)
	}
	for _, p := range l.Processes {
		r.Processes = append(r.Processes, processReport{p.Name, p.Host, p.PID, p.alive(), p.Log})
	}
	r.NATs = l.reportNATs(ctx)
	return r
}

func (l *Lab) reportHost(h Host) hostReport {
	r := hostReport{
		Name: h.Name, Kind: h.Kind, DHCP: h.byDHCP(),
		Site: known(h.Site), Namespace: known(h.Namespace), MAC: known(h.MAC),
	}
	if h.WAN.IsValid() {
		r.WAN = known(h.WAN.String())
	} else if h.WAN6.IsValid() {
		r.WAN = known(h.WAN6.String())
	}
	switch {
	case h.Address.IsValid():
		r.Address = known(h.Address.String())
	case h.Kind == KindRouter:
		r.Address = known(routerIP.String())
	case h.byDHCP():
		if lease, err := l.leaseAt(h); err == nil {
			r.Address = known(lease.Address.String())
		}
	}
	return r
}

// known returns a pointer to s, or nil if s says nothing.
func known(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// or returns what p points to, or a dash.
func or[T any](p *T) string {
	if p == nil {
		return "-"
	}
	return fmt.Sprint(*p)
}

// print prints the report for people.
func (r report) print(w io.Writer) error {
	if r.Built == nil {
		fmt.Fprintf(w, "lab %s is half-built; remove it with: farlan lab down --name %s\n\n", r.Name, r.Name)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SITE\tHOST\tKIND\tADDRESS\tWIDE AREA\tNAMESPACE")
	for _, h := range r.Hosts {
		address := or(h.Address)
		if h.DHCP {
			address += " (DHCP)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", or(h.Site), h.Name, h.Kind, address, or(h.WAN), or(h.Namespace))
	}
	printNATs(t, r.NATs)
	fmt.Fprintln(t, "\nAGENT\tSTATE\tPEERS UP")
	for _, a := range r.Agents {
		fmt.Fprintf(t, "%s\t%s\t%s\n", a.Name, or(a.State), or(a.Peers))
	}
	fmt.Fprintln(t, "\nPROCESS\tHOST\tPID\tSTATE\tLOG")
	for _, p := range r.Processes {
		state := "running"
		if !p.Alive {
			state = "ended"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\n", p.Name, p.Host, p.PID, state, p.Log)
	}
	return t.Flush()
}

// summary prints what a lab just built has, and what to try.
func (l *Lab) summary(w io.Writer) error {
	o := l.Options
	fmt.Fprintf(w, "lab %s: %d sites, each %v ± %v from every other, %v, %v lost\n\n",
		o.Name, o.Sites, o.Shape.Delay, o.Shape.Jitter, o.Shape.Rate, o.Shape.Loss)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, h := range l.Hosts {
		if h.Kind == KindWAN {
			continue
		}
		r := l.reportHost(h)
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", h.Site, h.Name, or(r.Address), or(r.WAN), l.role(h))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	name := ""
	if o.Name != "lab" {
		name = " --name " + o.Name
	}
	vm := "site1-vm1"
	if o.QEMU || o.VMs == 0 {
		vm = "host-b"
	}
	circuits := ""
	if o.Circuits {
		circuits = "  farlan lab circuits" + name + "\n"
	}
	_, err := fmt.Fprintf(w, `
try:
  farlan lab exec%[1]s %[2]s -- ping -c 3 %[3]v
  farlan lab exec%[1]s home -- farlan peers
  farlan lab wan%[1]s home site1 --both --delay 100ms
  farlan lab agent%[1]s site1 kill
%[4]s  farlan lab down%[1]s
`, name, vm, hostAIP, circuits)
	return err
}

// role says what a host is for.
func (l *Lab) role(h Host) string {
	switch h.Kind {
	case KindRouter:
		return "router"
	case KindDHCP:
		return "DHCP server"
	case KindProxy, KindFar:
		return "agent " + h.Site + l.natOf(h.Site)
	case KindGuest:
		return "QEMU guest"
	case KindVM:
		return "virtual machine, on the home LAN by DHCP"
	case KindHost:
		if h.Address == hostAIP {
			return "files: " + fileURL(guestFile)
		}
		return "on the home LAN by DHCP"
	}
	return ""
}
