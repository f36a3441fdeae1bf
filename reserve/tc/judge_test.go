//go:build linux

package tc

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"farlan/reserve"
)

func TestJudge(t *testing.T) {
	good := facts{
		device: "eth0", there: true, up: true, root: root{"htb", 0x7fa10000, true}, made: true, class: true, here: true,
		rate: 5, want: 5, granted: 7, share: 7, via: netip.MustParseAddr("192.0.2.2"),
	}
	for name, c := range map[string]struct {
		state  reserve.State
		change func(*facts)
		want   reserve.State
		up     bool
		words  string
	}{
		"all is well":            {reserve.Active, func(*facts) {}, reserve.Active, true, ""},
		"not active yet":         {reserve.Committed, func(*facts) {}, reserve.Committed, false, ""},
		"held":                   {reserve.Held, func(f *facts) { f.made, f.class, f.root = false, false, root{} }, reserve.Held, false, ""},
		"held, interface gone":   {reserve.Held, func(f *facts) { *f = facts{device: "eth0"} }, reserve.Lost, false, "eth0 is gone"},
		"deactivated":            {reserve.Committed, func(f *facts) { f.made, f.class = false, false }, reserve.Committed, false, ""},
		"interface gone":         {reserve.Active, func(f *facts) { f.there = false }, reserve.Lost, false, "eth0 is gone"},
		"root gone":              {reserve.Active, func(f *facts) { f.root, f.class = root{}, false }, reserve.Lost, false, "removed its class"},
		"somebody else's root":   {reserve.Active, func(f *facts) { f.root, f.class = root{"fq", 0x80010000, false}, false }, reserve.Lost, false, "fq 8001:"},
		"class gone":             {reserve.Committed, func(f *facts) { f.class = false }, reserve.Lost, false, "removed its class"},
		"interface down":         {reserve.Active, func(f *facts) { f.up = false }, reserve.Degraded, false, "eth0 is down"},
		"another route":          {reserve.Active, func(f *facts) { f.here = false }, reserve.Degraded, false, "192.0.2.2 don't leave by eth0"},
		"less room":              {reserve.Active, func(f *facts) { f.share = 6 }, reserve.Degraded, true, "6kbit is left of 7kbit"},
		"less room, not active":  {reserve.Committed, func(f *facts) { f.share = 6 }, reserve.Committed, false, ""},
		"changed by somebody":    {reserve.Active, func(f *facts) { f.rate = 4 }, reserve.Degraded, true, "changed its class"},
		"down before its reason": {reserve.Active, func(f *facts) { f.share, f.up = 6, false }, reserve.Degraded, false, "down"},
	} {
		f := good
		c.change(&f)
		if s, up, reason := judge(c.state, f); s != c.want || up != c.up || !strings.Contains(reason, c.words) || (c.words == "") != (reason == "") {
			t.Errorf("%s: %v, up %v, %q; want %v, up %v, %q", name, s, up, reason, c.want, c.up, c.words)
		}
	}
}

func TestRefusedLinks(t *testing.T) {
	for _, c := range []struct {
		l   link
		err error
	}{
		{link{name: "eth0"}, nil},
		{link{name: "br0", kind: "bridge"}, nil},
		{link{name: "eth0", master: "bond"}, nil},
		{link{name: "lo", loopback: true}, reserve.ErrUnsupported},
		{link{name: "eth0", master: "openvswitch"}, reserve.ErrForeign},
		{link{name: "ovsbr0", kind: "openvswitch"}, reserve.ErrForeign},
	} {
		err := c.l.refused()
		if !errors.Is(err, c.err) || errors.Is(c.err, reserve.ErrForeign) && !strings.Contains(err.Error(), c.l.name+" is a port of Open vSwitch") {
			t.Errorf("%+v: %v, want %v", c.l, err, c.err)
		}
	}
}

func TestForeignRoots(t *testing.T) {
	for _, c := range []struct {
		r       root
		foreign bool
	}{
		{root{}, false},
		{root{"noqueue", 0, false}, false},
		{root{"mq", 0, false}, false},
		{root{"htb", 0x7fa10000, true}, false},
		{root{"htb", 0x7fa10000, false}, true},
		{root{"fq_codel", 0x80010000, false}, true},
	} {
		if err := c.r.foreign("eth0"); (err != nil) != c.foreign || err != nil && (!errors.Is(err, reserve.ErrForeign) || !strings.Contains(err.Error(), "tc qdisc del dev eth0 root")) {
			t.Errorf("%+v: %v", c.r, err)
		}
	}
}
