package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

// startWait bounds the wait for a program of the lab to be ready; on a quiet
// machine each is within a fraction of a second.
const startWait = 20 * time.Second

// buildNetwork makes the namespaces, the wide area and the cables.
func (l *Lab) buildNetwork(ctx context.Context) error {
	for _, h := range l.Hosts {
		if h.Namespace == "" {
			continue
		}
		if err := addNamespace(h.Namespace); err != nil {
			return err
		}
	}
	if err := l.startWAN(ctx); err != nil {
		return err
	}
	if l.Options.Circuits {
		if err := l.startCross(ctx); err != nil {
			return err
		}
	}
	for _, h := range l.Hosts {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := l.buildHost(h); err != nil {
			return err
		}
		if l.Options.Circuits && h.hasAgent() {
			if err := l.buildCircuitPort(h); err != nil {
				return err
			}
		}
	}
	return nil
}

// startWAN starts the emulator and waits until it has made its interfaces.
func (l *Lab) startWAN(ctx context.Context) error {
	b, err := json.MarshalIndent(wideArea(l.Options, l.Hosts), "", "\t")
	if err != nil {
		return err
	}
	if err = os.WriteFile(l.path("wan.json"), b, 0o644); err != nil {
		return err
	}
	h, err := l.host("wan")
	if err != nil {
		return err
	}
	p, err := l.run(h, Process{
		Name: "wan",
		Args: []string{l.Options.Binary, "lab", "wan-daemon", l.path("wan.json"), l.wanSocket()},
	})
	if err != nil {
		return err
	}
	return l.await(ctx, p, func() error {
		_, err := ask(ctx, l.wanSocket(), controlRequest{})
		return err
	})
}

// buildHost makes a host's bridge, cable, addresses and routes.
func (l *Lab) buildHost(h Host) error {
	switch h.Kind {
	case KindRouter, KindFar:
		return l.buildRouter(h)
	case KindGuest:
		return l.buildGuestPort(h)
	case KindWAN:
		return l.buildProviderHost(h)
	}
	near, far, err := l.openEnds(h)
	if err != nil {
		return err
	}
	defer near.Close()
	defer far.Close()
	hw, err := net.ParseMAC(h.MAC)
	if err != nil {
		return err
	}
	if err := near.cable(portName(h), h.bridge(), far, "eth0", hw); err != nil {
		return err
	}
	if h.byDHCP() {
		return nil
	}
	return errors.Join(
		far.address("eth0", netip.PrefixFrom(h.Address, lan.Bits())),
		far.defaultRoute("eth0", routerIP),
	)
}

// portName returns the name of a host's port of its site's bridge.
func portName(h Host) string {
	if h.Site == homeSite {
		return h.Name
	}
	return strings.TrimPrefix(h.Name, h.Site+"-")
}

// bridgeHost returns the host with the bridge that h hangs on.
func (l *Lab) bridgeHost(h Host) (Host, error) {
	if h.Site == homeSite {
		return l.host("home-router")
	}
	return l.host(h.Site)
}

// openEnds opens the ends of a host's cable: at the bridge, and at the host.
func (l *Lab) openEnds(h Host) (near, far *space, err error) {
	b, err := l.bridgeHost(h)
	if err != nil {
		return nil, nil, err
	}
	if near, err = openSpace(b.Namespace); err != nil {
		return nil, nil, err
	}
	if far, err = openSpace(h.Namespace); err != nil {
		near.Close()
		return nil, nil, err
	}
	return near, far, nil
}

// buildRouter makes a site's bridge and connects it, if it is home's, or just
// its host to the wide area. These hosts' interfaces do without IPv6: nobody
// there speaks it, and its own traffic would blur what people look at.
func (l *Lab) buildRouter(h Host) error {
	quiet := []string{"default"}
	if !h.WAN6.IsValid() {
		quiet = append(quiet, "wan0")
	}
	if err := withoutIPv6(h.Namespace, quiet...); err != nil {
		return err
	}
	s, err := openSpace(h.Namespace)
	if err != nil {
		return err
	}
	defer s.Close()
	err = errors.Join(s.bridge(h.bridge()), l.joinWAN(s, h))
	if err != nil || h.Kind != KindRouter {
		return err
	}
	return errors.Join(
		s.address(h.bridge(), netip.PrefixFrom(routerIP, lan.Bits())),
		setSysctl(h.Namespace, "net/ipv4/ip_forward", "1"),
	)
}

// withoutIPv6 has interfaces do without IPv6.
func withoutIPv6(namespace string, devices ...string) error {
	for _, name := range devices {
		err := setSysctl(namespace, "net/ipv6/conf/"+name+"/disable_ipv6", "1")
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
			return err
		}
	}
	return nil
}

// joinWAN sets up a host's interface in the wide area, by which it sends all that has no other route.
func (l *Lab) joinWAN(s *space, h Host) error {
	err := s.wan("wan0", l.Options.MTU)
	for _, a := range []netip.Addr{h.WAN, h.WAN6} {
		if a.IsValid() && err == nil {
			err = errors.Join(s.address("wan0", netip.PrefixFrom(a, a.BitLen())), s.wayOut("wan0", a.Is4()))
		}
	}
	return err
}

// buildProviderHost connects the host of the wide area's own processes to it, if one of them is
// to be reached.
func (l *Lab) buildProviderHost(h Host) error {
	if !h.WAN.IsValid() {
		return nil
	}
	if err := withoutIPv6(h.Namespace, "wan0"); err != nil {
		return err
	}
	s, err := openSpace(h.Namespace)
	if err != nil {
		return err
	}
	defer s.Close()
	return l.joinWAN(s, h)
}

// buildGuestPort makes the TAP that a QEMU guest will use.
func (l *Lab) buildGuestPort(h Host) error {
	b, err := l.bridgeHost(h)
	if err != nil {
		return err
	}
	s, err := openSpace(b.Namespace)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.tap(portName(h), h.bridge())
}

// await polls f until it succeeds, the process ends, or time has run out.
func (l *Lab) await(ctx context.Context, p *Process, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	var ended error
	err := poll(ctx, 20*time.Millisecond, func() error {
		err := f()
		if err != nil && !p.alive() {
			ended = fmt.Errorf("%s ended: %s", p.Name, p.logTail())
			return nil
		}
		return err
	})
	if ended != nil {
		return ended
	}
	if err != nil {
		return fmt.Errorf("%s is not ready: %w", p.Name, err)
	}
	return nil
}

// logged returns a function that complains until the process's log has text.
func (p *Process) logged(text string) func() error {
	return func() error {
		b, err := os.ReadFile(p.Log)
		if err == nil && !strings.Contains(string(b), text) {
			err = fmt.Errorf("it has not said %q yet", text)
		}
		return err
	}
}
