//go:build linux

package portmap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	natpmp "github.com/jackpal/go-nat-pmp"
)

// pmpTimeout is how long an answer of a router is waited for that knows NAT-PMP, with
// two repetitions (RFC 6886 § 3.1). It can't be cut short.
const pmpTimeout = time.Second

// pmp asks by NAT-PMP.
type pmp struct{ client *natpmp.Client }

func openPMP(_ context.Context, at lan) (protocol, error) {
	return pmp{natpmp.NewClientWithTimeout(at.router.AsSlice(), pmpTimeout)}, nil
}

func (pmp) name() string { return "NAT-PMP" }

func (p pmp) external(ctx context.Context) (netip.Addr, error) {
	if err := ctx.Err(); err != nil {
		return netip.Addr{}, err
	}
	r, err := p.client.GetExternalAddress()
	if errors.Is(err, syscall.ECONNREFUSED) {
		return netip.Addr{}, errors.New("the router doesn't do it")
	}
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.AddrFrom4(r.ExternalIPAddress), nil
}

// A router that can't give the port gives another one (§ 3.3).
func (p pmp) add(ctx context.Context, network string, inside, outside uint16) (uint16, time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	r, err := p.client.AddPortMapping(network, int(inside), int(outside), int(lease/time.Second))
	switch {
	case err != nil:
		return 0, 0, err
	case r.InternalPort != inside || r.MappedExternalPort == 0:
		return 0, 0, fmt.Errorf("the router answers for port %d", r.InternalPort)
	}
	return r.MappedExternalPort, time.Duration(r.PortMappingLifetimeInSeconds) * time.Second, nil
}

func (p pmp) remove(ctx context.Context, network string, inside, _ uint16) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := p.client.AddPortMapping(network, int(inside), 0, 0)
	return err
}
