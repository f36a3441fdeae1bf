package agent

import (
	"strings"

	"farlan/overlay"
)

// maxDHCPFrom is how many agents --dhcp-from may name.
const maxDHCPFrom = 64

// parseTrust understands what a port says of what may come from there.
func parseTrust(flag, port, s string, otherwise overlay.Trust) (t overlay.Trust, err error) {
	if s == "" {
		return otherwise, nil
	}
	for word := range strings.SplitSeq(s, "+") {
		switch word {
		case "dhcp":
			t |= overlay.TrustLeases
		case "ra":
			t |= overlay.TrustRouters
		case "all":
			t |= overlay.TrustAll
		case "none":
		default:
			return 0, usagef("want dhcp, ra, dhcp+ra, all or none")("%s %q: trust %q", flag, port, s)
		}
	}
	return t, nil
}

// parseGuards understands whose DHCP servers are heard, and what is asked of all.
func (c *config) parseGuards(o *options) error {
	if len(o.dhcpFrom) > maxDHCPFrom {
		return usagef("")("--dhcp-from: more than %d", maxDHCPFrom)
	}
	suppress := false
	c.DHCPFrom = o.dhcpFrom
	err := parseSwitch("--suppress", o.suppress, &suppress)
	c.AskAll = !suppress
	return err
}
