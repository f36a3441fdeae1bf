//go:build linux

package portmap

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"
)

// A table is a router that maps in memory: the protocol's twin.
type table struct {
	own     netip.Addr
	taken   map[uint16]bool   // by another host, of TCP; of UDP too, unless onlyTCP
	onlyTCP bool              // UDP ports are free
	moves   bool              // gives the next free port, as NAT-PMP does, or refuses, as UPnP does
	lease   time.Duration     // that is given
	has     map[string]uint16 // of ours, by network
	asked   int
}

func (*table) name() string { return "table" }

func (r *table) external(context.Context) (netip.Addr, error) { return r.own, nil }

func (r *table) add(_ context.Context, network string, _, outside uint16) (uint16, time.Duration, error) {
	r.asked++
	for r.taken[outside] && (network == "tcp" || !r.onlyTCP) {
		if !r.moves {
			return 0, 0, errTaken
		}
		outside++
	}
	r.has[network] = outside
	return outside, r.lease, nil
}

func (r *table) remove(_ context.Context, network string, _, outside uint16) error {
	if r.has[network] == outside {
		delete(r.has, network)
	}
	return nil
}

// One port of the router is asked for, for both networks, whoever has which already.
func TestGrant(t *testing.T) {
	at := lan{router: netip.MustParseAddr("10.0.0.1")}
	public := netip.MustParseAddr("30.99.0.1")
	before := &granted{lan: at, external: netip.AddrPortFrom(public, 7000)}
	everything := make(map[uint16]bool)
	for p := range 1 << 16 {
		everything[uint16(p)] = true
	}
	for name, c := range map[string]struct {
		router table
		have   *granted
		port   uint16 // 0: any; of the router
		fails  bool
	}{
		"free":                         {router: table{own: public}, port: 4747},
		"had another one before":       {router: table{own: public}, have: before, port: 7000},
		"had another router's before":  {router: table{own: public}, have: &granted{external: before.external}, port: 4747},
		"taken, and refused":           {router: table{own: public, taken: map[uint16]bool{4747: true}}},
		"taken, and another is given":  {router: table{own: public, taken: map[uint16]bool{4747: true}, moves: true}, port: 4748},
		"TCP's taken, and refused":     {router: table{own: public, taken: map[uint16]bool{4747: true}, onlyTCP: true}},
		"TCP's taken, another given":   {router: table{own: public, taken: map[uint16]bool{4747: true}, onlyTCP: true, moves: true}},
		"all are taken":                {router: table{own: public, taken: everything}, fails: true},
		"no address":                   {router: table{}, fails: true},
		"an address of nobody":         {router: table{own: netip.IPv4Unspecified()}, fails: true},
		"an address of many":           {router: table{own: netip.MustParseAddr("224.0.0.1")}, fails: true},
		"an address of this host only": {router: table{own: netip.MustParseAddr("127.0.0.1")}, fails: true},
		"a lease of no time":           {router: table{own: public, lease: -1}, port: 4747},
		"a lease of years":             {router: table{own: public, lease: 1 << 62}, port: 4747},
	} {
		r := &c.router
		r.has = make(map[string]uint16)
		if r.lease == 0 {
			r.lease = lease
		}
		g, err := grant(t.Context(), at, r, 4747, c.have)
		if (err != nil) != c.fails || r.asked > 2*maxPorts {
			t.Errorf("%s: %v after %d questions", name, err, r.asked)
			continue
		}
		if c.fails {
			if len(r.has) > 0 {
				t.Errorf("%s: it failed, and leaves %v", name, r.has)
			}
			continue
		}
		port := g.external.Port()
		if g.external.Addr() != public || r.has["udp"] != port || r.has["tcp"] != port || (c.port != 0 && port != c.port) {
			t.Errorf("%s: %v, the router has %v, want port %d", name, g.external, r.has, c.port)
		}
		if left := time.Until(g.until); left > lease || left < leastLease-time.Second {
			t.Errorf("%s: good for %v", name, left)
		}
		g.end(4747)
		if len(r.has) > 0 {
			t.Errorf("%s: not taken back: %v", name, r.has)
		}
	}
}

// Who stops doesn't go on asking.
func TestGrantEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := &table{own: netip.MustParseAddr("30.99.0.1"), has: make(map[string]uint16), lease: lease}
	if _, err := grant(ctx, lan{}, r, 4747, nil); !errors.Is(err, context.Canceled) || r.asked > 0 {
		t.Errorf("%v after %d questions", err, r.asked)
	}
}
