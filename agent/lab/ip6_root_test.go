package lab

import (
	"testing"
	"time"
)

// ip6s reads texts as --ip6 does.
func ip6s(t *testing.T, texts ...string) (all []IP6) {
	t.Helper()
	for _, s := range texts {
		if err := (ip6Flag{&all}).Set(s); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestIP6: a site without IPv4 reaches one with both directly, and by way of such
// those without IPv6. One that loses its IPv4 address goes on by IPv6.
func TestIP6(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.Sites = 4
	o.IP6 = ip6s(t, "site1", "site2=only", "site3")
	l := up(t, o)
	l.becomes(t, "site2", "site1", "direct udp", 15*time.Second)
	l.becomes(t, "site2", "home", "relayed udp", 15*time.Second) // by site1 or site3
	l.becomes(t, "home", "site2", "relayed udp", 15*time.Second)
	if err := l.mustHost(t, "site2-vm1").reach(within(t, 10*time.Second), hostAIP); err != nil {
		t.Errorf("from a site without IPv4 to one without IPv6: %v", err)
	}
	l.becomes(t, "site3", "site1", "direct udp", 15*time.Second)

	vm := l.mustHost(t, "site3-vm1")
	lease, err := l.leaseOf(l.mustHost(t, "site1-vm1"))
	if err != nil {
		t.Fatal(err)
	}
	pinged := make(chan error, 1)
	var p Pings
	go func() {
		var err error
		p, err = vm.ping(within(t, 30*time.Second), lease.Address, 250, 20*ms)
		pinged <- err
	}()
	time.Sleep(time.Second)
	if _, err := l.mustHost(t, "site3").run(t.Context(), "ip", "-4", "address", "flush", "dev", "wan0"); err != nil {
		t.Fatal(err)
	}
	if err := <-pinged; err != nil {
		t.Fatal(err)
	}
	out := time.Duration(p.Sent-p.Received) * 20 * ms
	t.Logf("from IPv4 to IPv6: %v; nothing passed for about %v", p, out)
	if out > 1500*ms {
		t.Errorf("nothing passed for about %v", out)
	}
	l.becomes(t, "site3", "site1", "direct udp", 5*time.Second)
	l.becomes(t, "site3", "home", "relayed udp site1", 10*time.Second)
}

func TestIP6Usage(t *testing.T) {
	for _, s := range []string{"", "=only", "site1=", "site1=also"} {
		if err := new(IP6).Set(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
	for _, texts := range [][]string{{"home"}, {"site9"}, {"site1", "site1"}, {"site1=only"}, {"site1", "site2"}} {
		o := DefaultOptions("x")
		o.IP6, o.NATs = ip6s(t, texts...), nats(t, "site2=symmetric")
		if err := o.Validate(); err == nil {
			t.Errorf("%v is taken", texts)
		}
	}
}
