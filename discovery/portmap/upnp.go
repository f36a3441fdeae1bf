//go:build linux

package portmap

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/huin/goupnp"
	"github.com/huin/goupnp/dcps/internetgateway2"
	"github.com/huin/goupnp/soap"
)

const (
	httpTimeout = 2 * time.Second // for a description, or one question
	maxBody     = 128 << 10       // bytes of an answer; what is longer is cut, and isn't understood
	maxHeader   = 16 << 10
	maxServices = 4 // that are asked

	description = "farlan" // of the mapping, for people who look at the router's list

	// Errors of AddPortMapping (WANIPConnection:2 § 2.5.16).
	faultConflict  = 718 // another host has the port
	faultSamePorts = 724 // inside and outside must be the same
	faultPermanent = 725 // leases without an end only
)

// A wanService is what all versions of a router's service have.
type wanService interface {
	GetExternalIPAddressCtx(context.Context) (string, error)
	AddPortMappingCtx(ctx context.Context, remote string, outside uint16, network string, inside uint16, client string, enabled bool, what string, seconds uint32) error
	DeletePortMappingCtx(ctx context.Context, remote string, outside uint16, network string) error
}

// upnp asks by UPnP.
type upnp struct {
	service wanService
	self    netip.Addr
}

// openUPnP looks for the router's service.
func openUPnP(ctx context.Context, at lan) (protocol, error) {
	locations, err := search(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("UPnP: %w", err)
	}
	client := newHTTP(at.router)
	for _, l := range locations {
		var root *goupnp.RootDevice
		if root, err = describe(ctx, client, l); err != nil {
			continue
		}
		for _, s := range services(root, client) {
			if _, err = s.GetExternalIPAddressCtx(ctx); err == nil {
				return upnp{s, at.self}, nil
			}
		}
		if err == nil {
			err = errors.New("it has no way out")
		}
	}
	return nil, fmt.Errorf("UPnP: %w", short(err))
}

// newHTTP makes a client that talks to one host only, and reads so much.
func newHTTP(host netip.Addr) http.Client {
	return http.Client{
		Timeout: httpTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the router answers with a redirection")
		},
		Transport: bounded{&http.Transport{
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeader,
			DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
				if a, err := netip.ParseAddrPort(to); err != nil || a.Addr().Unmap() != host {
					return nil, fmt.Errorf("%q is not the router", to)
				}
				return new(net.Dialer).DialContext(ctx, network, to)
			},
		}},
	}
}

// bounded cuts the bodies of answers.
type bounded struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	a, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		a.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(a.Body, maxBody), a.Body}
	}
	return a, err
}

// describe reads what a device says of itself.
func describe(ctx context.Context, client http.Client, at *url.URL) (*goupnp.RootDevice, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	a, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("its description is refused: %d", a.StatusCode)
	}
	return parseDescription(a.Body, at)
}

// parseDescription parses a device's description (UPnP Device Architecture 1.1 § 2.3)
// that was found at a URL.
func parseDescription(r io.Reader, at *url.URL) (*goupnp.RootDevice, error) {
	root := new(goupnp.RootDevice)
	d := xml.NewDecoder(r)
	d.DefaultSpace = goupnp.DeviceXMLNamespace
	if err := d.Decode(root); err != nil {
		return nil, err
	}
	if root.URLBaseStr != "" {
		base, err := url.Parse(root.URLBaseStr)
		if err != nil {
			return nil, err
		}
		at = base
	}
	root.SetURLBase(at)
	return root, nil
}

// services returns a router's services that map ports, the newest first.
func services(root *goupnp.RootDevice, client http.Client) (all []wanService) {
	of := func(s *goupnp.Service) goupnp.ServiceClient {
		return goupnp.ServiceClient{SOAPClient: &soap.SOAPClient{EndpointURL: s.ControlURL.URL, HTTPClient: client}, RootDevice: root, Service: s}
	}
	for _, s := range root.Device.FindService(internetgateway2.URN_WANIPConnection_2) {
		all = append(all, &internetgateway2.WANIPConnection2{ServiceClient: of(s)})
	}
	for _, s := range root.Device.FindService(internetgateway2.URN_WANIPConnection_1) {
		all = append(all, &internetgateway2.WANIPConnection1{ServiceClient: of(s)})
	}
	for _, s := range root.Device.FindService(internetgateway2.URN_WANPPPConnection_1) {
		all = append(all, &internetgateway2.WANPPPConnection1{ServiceClient: of(s)})
	}
	return all[:min(len(all), maxServices)]
}

func (upnp) name() string { return "UPnP" }

func (u upnp) external(ctx context.Context) (netip.Addr, error) {
	s, err := u.service.GetExternalIPAddressCtx(ctx)
	if err != nil {
		return netip.Addr{}, short(err)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, short(err)
	}
	return a.Unmap(), nil
}

func (u upnp) add(ctx context.Context, network string, inside, outside uint16) (uint16, time.Duration, error) {
	seconds := uint32(lease / time.Second)
	for {
		err := u.service.AddPortMappingCtx(ctx, "", outside, upper(network), inside, u.self.String(), true, description, seconds)
		switch code := fault(err); {
		case err == nil:
			return outside, lease, nil
		case code == faultPermanent && seconds != 0:
			seconds = 0 // and taken back at the end
		case code == faultConflict:
			return 0, 0, errTaken
		case code == faultSamePorts:
			return 0, 0, errors.New("the router maps a port to the same one only, which another host has")
		default:
			return 0, 0, short(err)
		}
	}
}

func (u upnp) remove(ctx context.Context, network string, _, outside uint16) error {
	return short(u.service.DeletePortMappingCtx(ctx, "", outside, upper(network)))
}

// upper returns a network's name as UPnP has it.
func upper(network string) string {
	if network == "udp" {
		return "UDP"
	}
	return "TCP"
}

// fault returns the number of a service's error, 0 if it is another one.
func fault(err error) int {
	if f, ok := errors.AsType[*soap.SOAPFaultError](err); ok {
		return f.Detail.UPnPError.Errorcode
	}
	return 0
}

// short keeps of an error what a person may read: it may hold what a router wrote.
func short(err error) error {
	const most = 160
	switch code := fault(err); {
	case err == nil:
		return nil
	case code != 0:
		return fmt.Errorf("the router refuses with error %d", code)
	case len(err.Error()) > most:
		return fmt.Errorf("%q…", err.Error()[:most])
	}
	return fmt.Errorf("%q", err.Error())
}
