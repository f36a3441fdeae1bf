package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"farlan/overlay"
)

func TestTrust(t *testing.T) {
	c, err := parseOptions(t, nil, "tap: [a, 'b,trust=dhcp', 'c,trust=ra+dhcp', 'd,trust=all']\nlan: [e, 'f,trust=none']\ndhcp-from: [home, attic]\nsuppress: off\n")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []overlay.Trust{0, overlay.TrustLeases, overlay.TrustLeases | overlay.TrustRouters, overlay.TrustAll} {
		if got := c.Taps[i].Trust; got != want {
			t.Errorf("%s: %b, want %b", c.Taps[i].Name, got, want)
		}
	}
	if c.LANs[0].Trust != overlay.TrustAll || c.LANs[1].Trust != 0 || strings.Join(c.DHCPFrom, " ") != "home attic" || !c.AskAll {
		t.Errorf("%+v", c)
	}
	for _, bad := range []string{"tap: 'a,trust=dhcp+what'", "lan: 'a,trust=yes'", "suppress: maybe"} {
		if _, err := parseOptions(t, nil, bad); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

// Of those that may not, DHCP servers' answers don't reach the ports.
func TestDHCPFrom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 3, 3, 0)
		to := v.homes[0].n
		to.cfg.DHCPFrom = []string{"home-1"}
		for i := 1; i < 3; i++ {
			v.peer(0, i).trust.Store(uint32(to.trustOf(v.peer(0, i))))
		}
		v.run(5 * time.Second)
		lease := append(ethernet(overlay.Broadcast, v.station(1), 14), 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 255, 255, 255, 255, 0, 67, 0, 68, 0, 20, 0, 0, 2, 1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		for i := 1; i < 3; i++ {
			h := v.homes[i]
			h.out.floods[0].Trust = overlay.TrustLeases
			before := v.homes[0].port.frames
			h.out.carry(h.n.now(), h.n.view.Load(), 0, []overlay.Frame{{Head: lease}})
			v.run(time.Second)
			if got := v.homes[0].port.frames - before; got != 2-i {
				t.Errorf("%d answers of home-%d's server arrived", got, i)
			}
		}
		views := to.offenceViews(to.now())
		if len(views) != 1 || views[0].Kind != "rogue DHCP server" || views[0].Agent != "home-2" || views[0].Port != nil || views[0].Count != 1 {
			t.Errorf("%+v", views)
		}
		if f := to.guardFindings(to.now()); len(f) != 1 || f[0].Level != levelWarn || !strings.Contains(f[0].Detail, "home-2") || f[0].Fix == "" {
			t.Errorf("%+v", f)
		}
		to.edge.offences.list(to.now().Add(offenceFor))
		if f := to.guardFindings(to.now()); len(f) != 1 || f[0].Level != levelOK {
			t.Errorf("much later: %+v", f)
		}
	})
}

// However many places do whatever, what is remembered of it is bounded.
func TestOffencesAreBounded(t *testing.T) {
	var o offences
	for i := range 10 * maxOffences {
		o.add(overlay.Instant(i+1), overlay.DropSpoof, overlay.AgentPlace(i), overlay.MAC{2, 5: byte(i)})
		o.add(overlay.Instant(i+1), overlay.DropLease, overlay.PortPlace(0), overlay.MAC{2, 5: byte(i)})
	}
	all := o.list(overlay.Instant(1))
	if len(all) != maxOffences || all[0].what != overlay.DropLease || all[0].count != 10*maxOffences || !all[0].several {
		t.Errorf("%d remembered: %+v", len(all), all[0])
	}
}

// The stations of a LAN are those of members that say they have one: claims of others for them
// are answered, and the station stays.
func TestClaimsOfALAN(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 3, 3, 0)
		for i := range v.homes[1:] {
			p := v.peer(i+1, 0)
			p.member.LAN = true
			p.trust.Store(uint32(v.homes[i+1].n.trustOf(p)))
		}
		home := v.homes[0]
		home.out.floods[0].Trust = overlay.TrustAll
		v.run(5 * time.Second)
		gateway := overlay.MAC{2, 0, 0, 0, 9, 1}
		ra := append(ethernet(overlay.Broadcast, gateway, 14)[:12], 0x86, 0xdd, 0x60, 0, 0, 0, 0, 16, 58, 255, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0)
		home.out.carry(home.n.now(), home.n.view.Load(), 0, []overlay.Frame{{Head: ra}})
		v.run(3 * time.Second)
		for i, h := range v.homes {
			if k := h.n.sw.Stations.Keep(gateway); k&(overlay.KeepLAN|overlay.KeepVital) != overlay.KeepLAN|overlay.KeepVital {
				t.Errorf("agent %d keeps it by %b", i, k)
			}
		}
		v.says(1, gateway, overlay.Broadcast)
		v.homes[2].n.sw.Stations.Forget(v.peer(2, 0).place()) // it doesn't know
		v.says(2, gateway, overlay.Broadcast)
		v.run(3 * time.Second)
		v.says(2, gateway, overlay.Broadcast)
		v.run(time.Second)
		for i := range v.homes {
			if at := v.at(i, gateway); at != 0 {
				t.Errorf("agent %d has the gateway at %d", i, at)
			}
		}
		for i, h := range v.homes[1:] {
			if h.n.drops.count(overlay.DropSpoof) == 0 {
				t.Errorf("agent %d counts no spoofed frame", i+1)
			}
		}
	})
}
