package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"time"

	"farlan/overlay"
	"farlan/reserve/nsi/cs"
	"farlan/reserve/nsi/provider"
)

// A ProviderConfig says what a lab's NSI provider is and has.
type ProviderConfig struct {
	NSA     string         `json:"nsa"`
	Listen  netip.AddrPort `json:"listen"`
	Ports   []ProviderPort `json:"ports"`
	Cross   string         `json:"cross_connect"` // the control socket of what carries the circuits
	State   string         `json:"state"`         // the file in which reservations outlive the process
	HoldFor time.Duration  `json:"hold_for"`      // 0: 120 s
	Delay   time.Duration  `json:"delay"`         // of what is confirmed later

	// PEM files: its certificate, and who signs those of requesters.
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	Authorities string `json:"authorities"`
}

// A ProviderPort is a place where circuits end, by the provider's name and the cross-connect's.
type ProviderPort struct {
	STP      string `json:"stp"` // without VLANs
	Name     string `json:"name"`
	Capacity int64  `json:"capacity_mbit"` // of all circuits together
	VLANs    string `json:"vlans"`
}

// core returns the provider's decisions, which go on where an earlier process was.
func (c ProviderConfig) core() (*provider.Core, error) {
	ports := make(map[string]provider.Port)
	for _, p := range c.Ports {
		vlans, err := cs.ParseVLANs(p.VLANs)
		if err != nil {
			return nil, err
		}
		ports[p.STP] = provider.Port{Capacity: p.Capacity, VLANs: vlans}
	}
	core := provider.New(provider.Config{NSA: c.NSA, Ports: ports, HoldFor: c.HoldFor, Delay: c.Delay})
	kept, err := os.ReadFile(c.State)
	if errors.Is(err, fs.ErrNotExist) {
		return core, nil
	}
	if err == nil {
		err = core.Load(kept)
	}
	return core, err
}

// store writes the provider's state so that it is there whole or not at all.
func (c ProviderConfig) store(state []byte) error {
	if err := os.WriteFile(c.State+".new", state, 0o600); err != nil {
		return err
	}
	return os.Rename(c.State+".new", c.State)
}

func (c ProviderConfig) identity() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	signers, err := os.ReadFile(c.Authorities)
	if err != nil {
		return nil, err
	}
	if !roots.AppendCertsFromPEM(signers) {
		return nil, fmt.Errorf("%s: no certificates", c.Authorities)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

// A crossPlane is the data plane of a provider: what the cross-connect carries.
type crossPlane struct {
	socket string
	name   map[string]string // the cross-connect's of a port, by STP
}

func (c ProviderConfig) plane() crossPlane {
	p := crossPlane{c.Cross, make(map[string]string)}
	for _, port := range c.Ports {
		p.name[port.STP] = port.Name
	}
	return p
}

// Up makes a circuit or gives it another capacity.
func (p crossPlane) Up(ctx context.Context, c provider.Circuit) error {
	_, err := askCross(ctx, p.socket, crossRequest{Connect: &CrossCircuit{
		ID: c.Connection, Capacity: c.Capacity,
		Ends: [2]VLANEnd{{p.name[c.Source], c.SourceVLAN}, {p.name[c.Dest], c.DestVLAN}},
	}})
	return err
}

// Down removes a circuit.
func (p crossPlane) Down(ctx context.Context, c provider.Circuit) error {
	_, err := askCross(ctx, p.socket, crossRequest{Disconnect: c.Connection})
	return err
}

// only removes the circuits that nobody wants, as a provider leaves behind that was killed between
// what it decided and what it did.
func (p crossPlane) only(ctx context.Context, wanted []provider.Circuit) error {
	there, err := askCross(ctx, p.socket, crossRequest{})
	if err != nil {
		return err
	}
	stay := make(map[string]bool)
	for _, c := range wanted {
		stay[c.Connection] = true
	}
	for _, c := range there.Circuits {
		if !stay[c.ID] {
			_, bad := askCross(ctx, p.socket, crossRequest{Disconnect: c.ID})
			err = errors.Join(err, bad)
		}
	}
	return err
}

// runProvider is a provider as the file config says, and whoever speaks to the socket changes it,
// until ctx is done.
func runProvider(ctx context.Context, config, socket string) error {
	var c ProviderConfig
	b, err := os.ReadFile(config)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return fmt.Errorf("provider: %s: %w", config, err)
	}
	core, err := c.core()
	if err != nil {
		return fmt.Errorf("provider: %w", err)
	}
	plane := c.plane()
	if err = plane.only(ctx, core.Wanted()); err != nil {
		return fmt.Errorf("provider: %w", err)
	}
	identity, err := c.identity()
	if err != nil {
		return fmt.Errorf("provider: %w", err)
	}
	start := time.Now()
	now := func() overlay.Instant { return overlay.Instant(start.UnixNano()).Add(time.Since(start)) }
	server := provider.NewServer(core, identity, plane, now)
	server.Keep(c.store)
	if err = serveProvider(ctx, c, server, plane, socket); err != nil {
		return fmt.Errorf("provider: %w", err)
	}
	return nil
}

func serveProvider(ctx context.Context, c ProviderConfig, server *provider.Server, plane crossPlane, socket string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen.String())
	if err != nil {
		return err
	}
	control, err := listenControl(ctx, socket)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	ran := make(chan error, 1)
	go func() { ran <- server.Run(ctx) }()
	desk := providerDesk{server, plane}
	err = beside(control, func() error { return serveControl(control, desk.answer) }, func() error { return server.Serve(ctx, l) })
	cancel()
	return errors.Join(err, <-ran)
}

// A providerRequest asks the provider to switch a fault, or to break a circuit or mend it, and for
// what there is.
type providerRequest struct {
	Fault string `json:"fault,omitempty"`
	On    bool   `json:"on,omitempty"`
	Break string `json:"break,omitempty"`
	Mend  string `json:"mend,omitempty"`
	Quiet bool   `json:"quiet,omitempty"` // the provider says nothing of what is broken or mended
}

type providerReply struct {
	Error        string           `json:"error,omitempty"`
	Faults       []string         `json:"faults"`
	Held         []string         `json:"held"` // which reservations occupy VLANs and capacity
	Reservations []cs.Reservation `json:"reservations"`
}

// A providerDesk is where the lab speaks with a provider.
type providerDesk struct {
	server *provider.Server
	plane  crossPlane
}

func (d providerDesk) answer(r providerRequest) (reply providerReply) {
	if err := d.obey(r); err != nil {
		reply.Error = err.Error()
	}
	reply.Faults, reply.Reservations = d.server.Faults().On(), d.server.List()
	for _, c := range d.server.Held() {
		reply.Held = append(reply.Held, c.Connection)
	}
	return reply
}

func (d providerDesk) obey(r providerRequest) error {
	if r.Fault != "" {
		faults := d.server.Faults()
		if err := faults.Set(r.Fault, r.On); err != nil {
			return err
		}
		d.server.Fault(faults)
	}
	for id, up := range map[string]bool{r.Break: false, r.Mend: true} {
		if id == "" {
			continue
		}
		request := crossRequest{Break: id}
		if up {
			request = crossRequest{Mend: id}
		}
		if _, err := askCross(context.Background(), d.plane.socket, request); err != nil {
			return err
		}
		if !r.Quiet {
			d.server.Break(id, up)
		}
	}
	return nil
}
