package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// An IP6 gives a far site of a lab an IPv6 address in the wide area, beside its IPv4
// one or instead. As text it is "SITE" or "SITE=only".
type IP6 struct {
	Site string `json:"site"`
	Only bool   `json:"only,omitempty"`
}

const ip6Form = "SITE[=only]"

// Set reads the text form.
func (x *IP6) Set(s string) error {
	site, what, given := strings.Cut(s, "=")
	if site == "" || given && what != "only" {
		return fmt.Errorf("%q is not %s", s, ip6Form)
	}
	*x = IP6{Site: site, Only: given}
	return nil
}

// ip6Of returns what is said of a site's IPv6, nil if nothing is.
func (o Options) ip6Of(site string) *IP6 {
	if i := slices.IndexFunc(o.IP6, func(x IP6) bool { return x.Site == site }); i >= 0 {
		return &o.IP6[i]
	}
	return nil
}

// checkIP6 reports what can't be. NATs translate IPv4 only, and a site without it
// must have somebody to join by.
func (o Options) checkIP6() error {
	var errs []error
	seen, dual, only := make(map[string]bool), false, false
	for _, x := range o.IP6 {
		isFar := false
		for i := 1; i < o.Sites; i++ {
			isFar = isFar || siteName(i) == x.Site
		}
		behind := slices.ContainsFunc(o.NATs, func(n NAT) bool {
			return n.Site == x.Site && (n.Kind != NATNone || n.Behind != "")
		})
		switch {
		case !isFar:
			errs = append(errs, fmt.Errorf("IPv6: there is no far site %q", x.Site))
		case seen[x.Site]:
			errs = append(errs, fmt.Errorf("IPv6: %s is named twice", x.Site))
		case behind:
			errs = append(errs, fmt.Errorf("IPv6: %s is behind a NAT, which lets only IPv4 pass", x.Site))
		}
		seen[x.Site] = true
		dual, only = dual || !x.Only, only || x.Only
	}
	if only && !dual {
		errs = append(errs, errors.New("IPv6: no far site has both IPv4 and IPv6, for those to join by that have only IPv6"))
	}
	return errors.Join(errs...)
}

// ip6Address returns the IPv6 address of a site's router: of the unique local ones
// (RFC 4193), which programs use as any other.
func ip6Address(site int) netip.Addr {
	a := netip.MustParseAddr("fd99::1").As16()
	a[7] = byte(site)
	return netip.AddrFrom16(a)
}

// setIP6 gives a far host's place in the wide area the addresses that the options say.
func (h *Host) setIP6(o Options, site int) {
	if x := o.ip6Of(h.Site); x != nil {
		h.WAN6 = ip6Address(site)
		if x.Only {
			h.WAN = netip.Addr{}
		}
	}
}

// seedOf returns what a host's agent joins by: bootstrap, or where that agent is by
// IPv6 if the host has nothing else.
func (l *Lab) seedOf(ctx context.Context, h Host, bootstrap string) (string, error) {
	if h.Kind != KindFar || h.WAN.IsValid() {
		return bootstrap, nil
	}
	first, _, err := l.first()
	if err != nil {
		return "", err
	}
	s, err := l.status(ctx, first.Site)
	if err != nil {
		return "", err
	}
	for _, a := range s.Listen {
		if ip, ok := addressIn(a); ok && ip == first.WAN6 {
			return a, nil
		}
	}
	return "", fmt.Errorf("%s has no IPv4, and %s's agent does not say that it listens on %v, only on %v", h.Name, first.Site, first.WAN6, s.Listen)
}

// ip6Flag collects the sites that a flag, which may be repeated, gives IPv6.
type ip6Flag struct{ to *[]IP6 }

// Set reads one more.
func (f ip6Flag) Set(s string) error {
	var x IP6
	if err := x.Set(s); err != nil {
		return err
	}
	*f.to = append(*f.to, x)
	return nil
}

// String returns nothing: there is no default.
func (ip6Flag) String() string { return "" }

// Type names the flag's value in usage texts.
func (ip6Flag) Type() string { return ip6Form }
