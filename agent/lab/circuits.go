package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"farlan/reserve/nsi/cs"
	"farlan/reserve/nsi/provider"
)

// What the circuits of a lab are like. Each site's agent has a port of its own.
const (
	circuitDevice   = "wan1"
	circuitVLANs    = "100-109"
	circuitCapacity = 1000 // Mbit/s of a port
	circuitSubnet   = "10.98.0.0/16"

	circuitNetwork = "urn:ogf:network:lab.example:2026:"
	providerNSA    = circuitNetwork + "nsa"
	providerPort   = 8443
	callbackPort   = 8444

	providerSite    = "provider" // in the wide area
	providerProcess = "provider"
	crossProcess    = "cross-connect"
)

// checkCircuits reports what can't be: the provider speaks IPv4 only.
func (o Options) checkCircuits() error {
	for _, x := range o.IP6 {
		if o.Circuits && x.Only {
			return fmt.Errorf("circuits: %s has no IPv4, by which the provider is asked", x.Site)
		}
	}
	return nil
}

// providerAddress returns where the provider is in the wide area. In a lab with NATs all in the
// open have public addresses.
func (o Options) providerAddress() netip.Addr {
	if len(o.NATs) > 0 {
		return publicAddress(255, 1)
	}
	return wanAddress(255)
}

func (o Options) providerURL() string {
	return fmt.Sprintf("https://%v:%d/nsi", o.providerAddress(), providerPort)
}

func (l *Lab) providerSocket() string { return l.path("nsi.sock") }
func (l *Lab) crossSocket() string    { return l.path("cross.sock") }

// agentHosts returns the hosts with agents, home's first.
func (l *Lab) agentHosts() []Host { return l.hosts(Host.hasAgent) }

// startCross starts the cross-connect, which makes the interfaces for circuits.
func (l *Lab) startCross(ctx context.Context) error {
	var ports []CrossPort
	for _, h := range l.agentHosts() {
		ports = append(ports, CrossPort{Name: h.Site, Namespace: h.Namespace, Device: circuitDevice})
	}
	if err := l.writeJSON("cross.json", ports); err != nil {
		return err
	}
	h, err := l.host("wan")
	if err != nil {
		return err
	}
	p, err := l.run(h, Process{
		Name: crossProcess,
		Args: []string{l.Options.Binary, "lab", "cross-connect-daemon", l.path("cross.json"), l.crossSocket()},
	})
	if err != nil {
		return err
	}
	return l.await(ctx, p, func() error {
		_, err := askCross(ctx, l.crossSocket(), crossRequest{})
		return err
	})
}

func (l *Lab) writeJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(l.path(name), b, 0o644)
}

// buildCircuitPort sets up the interface for circuits of an agent's host. Only VLANs of it are
// ever used, so it has no address.
func (l *Lab) buildCircuitPort(h Host) error {
	if err := withoutIPv6(h.Namespace, circuitDevice); err != nil {
		return err
	}
	s, err := openSpace(h.Namespace)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.wan(circuitDevice, l.Options.MTU)
}

// startProvider starts the provider of circuits and writes what agents need to ask it.
func (l *Lab) startProvider(ctx context.Context) error {
	authority, err := provider.NewAuthority(time.Now())
	if err != nil {
		return err
	}
	if err = os.WriteFile(l.path("nsi-ca.crt"), authority.PEM(), 0o644); err != nil {
		return err
	}
	if err = l.issue(authority, providerSite, l.Options.providerAddress()); err != nil {
		return err
	}
	for _, h := range l.agentHosts() {
		if err = l.issue(authority, h.Site, l.agentAddress(h)); err != nil {
			return err
		}
	}
	if err = l.writeNSIFiles(ctx); err != nil {
		return err
	}
	if err = l.writeJSON("provider.json", l.providerConfig()); err != nil {
		return err
	}
	h, err := l.host("wan")
	if err != nil {
		return err
	}
	p, err := l.run(h, Process{
		Name: providerProcess,
		Args: []string{l.Options.Binary, "lab", "provider-daemon", l.path("provider.json"), l.providerSocket()},
	})
	if err != nil {
		return err
	}
	return l.awaitProvider(ctx, p)
}

func (l *Lab) awaitProvider(ctx context.Context, p *Process) error {
	return l.await(ctx, p, func() error {
		_, err := l.askProvider(ctx, providerRequest{})
		return err
	})
}

// issue writes a certificate and its key for the host at an address: nsi-NAME.crt and nsi-NAME.key.
func (l *Lab) issue(authority *provider.Authority, name string, at netip.Addr) error {
	cert, key, err := authority.Issue(at.String(), time.Now())
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(l.path("nsi-"+name+".crt"), cert, 0o644),
		os.WriteFile(l.path("nsi-"+name+".key"), key, 0o600),
	)
}

// agentAddress returns the address of an agent's host by which the provider could call it.
func (l *Lab) agentAddress(h Host) netip.Addr {
	if h.Kind == KindProxy {
		return h.Address
	}
	return h.WAN
}

// providerConfig says what the lab's provider has.
func (l *Lab) providerConfig() ProviderConfig {
	c := ProviderConfig{
		NSA: providerNSA, Listen: netip.AddrPortFrom(l.Options.providerAddress(), providerPort),
		Cross: l.crossSocket(), State: l.path("provider.state"),
		Certificate: l.path("nsi-" + providerSite + ".crt"), Key: l.path("nsi-" + providerSite + ".key"),
		Authorities: l.path("nsi-ca.crt"),
	}
	for _, h := range l.agentHosts() {
		c.Ports = append(c.Ports, ProviderPort{
			STP: circuitNetwork + h.Site, Name: h.Site, Capacity: circuitCapacity, VLANs: circuitVLANs,
		})
	}
	return c
}

// An nsiFile is what an agent reads of how it asks a provider.
type nsiFile struct {
	URL         string       `yaml:"url"`
	Requester   string       `yaml:"requester"`
	Provider    string       `yaml:"provider"`
	Certificate string       `yaml:"certificate"`
	Key         string       `yaml:"key"`
	Authorities string       `yaml:"authorities"`
	Version     int          `yaml:"version"`
	Modify      bool         `yaml:"modify"`
	Callback    *nsiCallback `yaml:"callback,omitempty"`
	Subnet      string       `yaml:"subnet"`
	Ends        []nsiEnd     `yaml:"ends"`
}

type nsiCallback struct {
	Listen string `yaml:"listen"`
	URL    string `yaml:"url"`
}

type nsiEnd struct {
	Agent    string `yaml:"agent"`
	STP      string `yaml:"stp"`
	Capacity string `yaml:"capacity"`
	Device   string `yaml:"device"`
}

// nsiPath returns the name of the file by which a site's agent asks the provider.
func (l *Lab) nsiPath(site string) string { return l.path("nsi-" + site + ".yaml") }

// writeNSIFiles writes each agent's file. Those behind a NAT or a firewall can't be called by the
// provider, and ask.
func (l *Lab) writeNSIFiles(ctx context.Context) error {
	nats, err := planNATs(l.Options)
	if err != nil {
		return err
	}
	var ends []nsiEnd
	for _, h := range l.agentHosts() {
		id, err := l.farlan(ctx, h.Site, "key", "agent", "--config", os.DevNull, "--state-dir", l.path(h.Site))
		if err != nil {
			return err
		}
		ends = append(ends, nsiEnd{
			Agent: strings.TrimSpace(string(id)), STP: circuitNetwork + h.Site + "?vlan=" + circuitVLANs,
			Capacity: fmt.Sprintf("%dMbit", circuitCapacity), Device: circuitDevice,
		})
	}
	for _, h := range l.agentHosts() {
		f := nsiFile{
			URL: l.Options.providerURL(), Requester: "urn:ogf:network:farlan.example:2026:nsa:" + h.Site, Provider: providerNSA,
			Certificate: l.path("nsi-" + h.Site + ".crt"), Key: l.path("nsi-" + h.Site + ".key"),
			Authorities: l.path("nsi-ca.crt"), Version: 1, Modify: true, Subnet: circuitSubnet, Ends: ends,
		}
		if h.Kind == KindProxy || nats.behind[h.Site] == "" {
			at := netip.AddrPortFrom(l.agentAddress(h), callbackPort).String()
			f.Callback = &nsiCallback{Listen: at, URL: "https://" + at + "/"}
		}
		b, err := yaml.Marshal(f)
		if err != nil {
			return err
		}
		if err = os.WriteFile(l.nsiPath(h.Site), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// askProvider sends a request to the lab's provider.
func (l *Lab) askProvider(ctx context.Context, r providerRequest) (providerReply, error) {
	if p := l.process(providerProcess); p == nil || !p.alive() {
		return providerReply{}, hintError{errors.New("the provider of circuits doesn't run"), "start it with: farlan lab circuits restart --name " + l.Options.Name}
	}
	reply, err := exchange[providerReply](ctx, l.providerSocket(), r)
	if err == nil && reply.Error != "" {
		err = errors.New(reply.Error)
	}
	if err != nil {
		return reply, fmt.Errorf("provider: %w", err)
	}
	return reply, nil
}

// checkHasCircuits complains about a lab without circuits.
func (l *Lab) checkHasCircuits() error {
	if l.Options.Circuits {
		return nil
	}
	return hintError{fmt.Errorf("lab %s has no circuits", l.Options.Name), "build one with: farlan lab up --circuits"}
}

// crashProvider ends the provider at once; what it granted goes on.
func (l *Lab) crashProvider(ctx context.Context) error {
	if err := l.checkHasCircuits(); err != nil {
		return err
	}
	if p := l.process(providerProcess); p != nil {
		return signalAll(ctx, unix.SIGKILL, killWait, []*Process{p})
	}
	return nil
}

// restartProvider ends the provider if it runs, and starts it again.
func (l *Lab) restartProvider(ctx context.Context) error {
	if err := l.crashProvider(ctx); err != nil {
		return err
	}
	p := l.process(providerProcess)
	if p == nil {
		return fmt.Errorf("lab %s is half-built", l.Options.Name)
	}
	if err := l.restart(p); err != nil {
		return err
	}
	return l.awaitProvider(ctx, p)
}

// siteOf returns the site whose port an STP is.
func siteOf(stp string) (site string, vlan uint16) {
	s, err := cs.ParseSTP(stp)
	if err != nil {
		return stp, 0
	}
	return strings.TrimPrefix(s.Port, circuitNetwork), s.VLANs.One()
}
