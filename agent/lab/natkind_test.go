package lab

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"farlan/agent/lab/nat"
)

// nats reads NATs as --nat does.
func nats(t *testing.T, texts ...string) []NAT {
	t.Helper()
	var all []NAT
	for _, text := range texts {
		if err := (natFlag{&all}).Set(text); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestNATKinds(t *testing.T) {
	port := nat.AddressAndPortDependent
	for text, want := range map[string]nat.Config{
		"s=full-cone":                 {},
		"s=restricted":                {Filtering: nat.AddressDependent},
		"s=port-restricted":           {Filtering: port},
		"s=symmetric":                 {Mapping: port, Filtering: port, Ports: nat.Random},
		"s=symmetric,preserve":        {Mapping: port, Filtering: port},
		"s=full-cone,sequential":      {Ports: nat.Sequential},
		"s=firewall":                  {Filtering: port, Firewall: true},
		"s=tcp-only":                  {Filtering: port, TCPOnly: true},
		"s=restricted,hairpin,random": {Filtering: nat.AddressDependent, Hairpin: true, Ports: nat.Random},
		"s=full-cone,lifetime=30s":    {UDPLife: 30 * time.Second},
	} {
		n := nats(t, text)[0]
		if got := n.config(); got != want {
			t.Errorf("%s is %+v, want %+v", text, got, want)
		}
		if got := "s=" + n.describe(); got != text {
			t.Errorf("%s is described as %s", text, got)
		}
	}
	n := nats(t, "site1=symmetric,group=g,behind=isp,cgn,isolated")[0]
	if n != (NAT{Site: "site1", Kind: NATSymmetric, Group: "g", Behind: "isp", CGN: true, Isolated: true}) {
		t.Errorf("%+v", n)
	}
}

func TestNATErrors(t *testing.T) {
	for text, says := range map[string]string{
		"site1":                            "port-restricted",
		"=full-cone":                       "SITE=KIND",
		"site1=cone":                       "tcp-only",
		"site1=":                           "kinds: none",
		"site1=full-cone,":                 "options: hairpin",
		"site1=full-cone,fast":             "behind=SITE",
		"site1=full-cone,hairpin=yes":      "no option",
		"site1=full-cone,behind":           "no option",
		"site1=full-cone,group=":           "missing",
		"site1=full-cone,lifetime=0s":      "1s",
		"site1=full-cone,lifetime=forever": "1s",
		"site1=firewall,hairpin":           "firewall takes no option but lifetime",
		"site1=none,cgn":                   "none takes no option but behind",
	} {
		var all []NAT
		err := natFlag{&all}.Set(text)
		if err == nil || !strings.Contains(err.Error(), says) || len(all) != 0 {
			t.Errorf("%q: %v, want a word of %q", text, err, says)
		}
	}
}

func TestNATPlan(t *testing.T) {
	o := DefaultOptions("x")
	o.Sites = 8
	o.NATs = nats(t,
		"isp=symmetric,cgn", "site1=port-restricted,behind=isp", "site2=none,behind=isp",
		"site3=full-cone,group=g", "site4=full-cone,group=g", "site5=firewall", "site6=restricted,behind=site3",
		"home=full-cone",
	)
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	p, _ := planNATs(o)
	for site, want := range map[string]struct{ behind, address string }{
		"home": {"home", "192.168.105.2"}, "site1": {"site1", "192.168.101.2"}, "site2": {"isp", "100.64.0.2"},
		"site3": {"g", "192.168.102.2"}, "site4": {"g", "192.168.102.3"}, "site5": {"site5", "30.99.5.1"},
		"site6": {"site6", "192.168.104.2"}, "site7": {"", "30.99.7.1"},
	} {
		if p.behind[site] != want.behind || p.address[site].String() != want.address {
			t.Errorf("%s is at %v behind %q, want %+v", site, p.address[site], p.behind[site], want)
		}
	}
	for name, want := range map[string]struct{ behind, address string }{
		"isp": {"", "30.99.100.1"}, "site1": {"isp", "100.64.0.70"}, "g": {"", "30.99.3.1"},
		"site6": {"g", "192.168.102.70"}, "home": {"", "30.99.0.1"},
	} {
		g := p.gates[p.index(name)]
		if g.Behind != want.behind || g.Addresses[0].String() != want.address || len(g.Addresses) < 2 {
			t.Errorf("NAT %s is at %v behind %q, want %+v", name, g.Addresses, g.Behind, want)
		}
	}
	checkAddresses(t, o)
	l := Lab{Options: o, Hosts: plan(o)}
	if h, at, err := l.first(); err != nil || h.Name != "site7" || at.String() != "30.99.7.1" {
		t.Errorf("the first agent is at %s, %v: %v", h.Name, at, err)
	}
}

// checkAddresses complains if an address is there twice, or one in the open is
// not what programs take for public.
func checkAddresses(t *testing.T, o Options) {
	w := wideArea(o, plan(o))
	var all []netip.Addr
	for _, s := range w.Sites {
		all = append(all, s.Prefixes[0].Addr())
	}
	for _, g := range w.NATs {
		all = append(all, g.Addresses...)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	if len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Errorf("addresses are there twice: %v", all)
	}
	special := netip.MustParsePrefix("100.64.0.0/10")
	for _, a := range all {
		if inside := a.IsPrivate() || special.Contains(a); inside == netip.MustParsePrefix("30.0.0.0/8").Contains(a) {
			t.Errorf("%v is neither inside nor in the open", a)
		}
	}
}

// TestNATPlanWithout leaves a lab that asks for none as it was.
func TestNATPlanWithout(t *testing.T) {
	o := DefaultOptions("x")
	w := wideArea(o, plan(o))
	if w.NATs != nil || w.Sites[1].Prefixes[0].String() != "10.99.1.0/24" || w.Sites[1].Behind != "" {
		t.Errorf("%+v", w)
	}
	o.NATs = nats(t, "home=none")
	w = wideArea(o, plan(o))
	if w.NATs != nil || w.Sites[1].Prefixes[0].String() != "30.99.1.1/32" {
		t.Errorf("with public addresses: %+v", w)
	}
}

// TestNATPlanLargest has as many NATs as can be, under one another and apart.
func TestNATPlanLargest(t *testing.T) {
	o := DefaultOptions("x")
	o.Sites = maxSites
	o.NATs = nats(t, "isp=symmetric,cgn")
	for i := 1; i < maxSites; i++ {
		o.NATs = append(o.NATs, nats(t, siteName(i)+"=full-cone,behind=isp")...)
	}
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	checkAddresses(t, o)
	o.NATs = append(o.NATs, nats(t, "other=full-cone", "home=full-cone,behind=other")...)
	if o.Validate() == nil {
		t.Errorf("%d NATs are taken for possible", len(o.NATs))
	}
}

func TestNATPlanErrors(t *testing.T) {
	for says, texts := range map[string][]string{
		"named twice":               {"site1=full-cone", "site1=symmetric"},
		`no site "sit1"`:            {"sit1=full-cone"},
		`no site "site3"`:           {"site3=firewall"},
		`no site "nobody"`:          {"nobody=full-cone,group=g"},
		"has a site's name":         {"site1=full-cone,group=site2"},
		"the same must be said":     {"site1=full-cone,group=g", "site2=symmetric,group=g"},
		"behind nowhere":            {"site1=full-cone,behind=nowhere"},
		"behind site2":              {"site1=full-cone,behind=site2"},
		"site1 can't be behind sit": {"site1=none,behind=site2", "site2=firewall"},
		"is behind itself":          {"site1=full-cone,behind=site2", "site2=full-cone,behind=site1"},
		"nobody can be joined":      {"home=full-cone", "site1=symmetric", "site2=firewall"},
	} {
		o := DefaultOptions("x")
		o.NATs = nats(t, texts...)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v, want a word of %q", texts, err, says)
		}
	}
}
