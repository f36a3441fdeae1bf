package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestGuestLease boots a real guest on a far site. It must get its address from
// the DHCP server at home, answer home's ping, and fetch a file from a home
// host, all over farlan.
func TestGuestLease(t *testing.T) {
	o := testOptions(t)
	if os.Getenv("FARLAN_CACHE") == "" {
		cache, err := filepath.Abs("../../.cache")
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("FARLAN_CACHE", cache)
	}
	o.Sites, o.QEMU = 2, true
	l := up(t, o)
	start := time.Now()
	guest := l.mustHost(t, "site1-vm1")
	if err := l.awaitGuest(within(t, 2*time.Minute), guest); err != nil {
		log, _ := os.ReadFile(l.path("guest-site1-vm1.log"))
		t.Fatalf("%v; it said:\n%s", err, log)
	}
	lease, err := l.leaseAt(guest)
	t.Logf("%v after the lab was up the guest is done: lease %v from %v", time.Since(start), lease.Address, lease.Server)
	if err != nil || lease.Server != dhcpIP || !lan.Contains(lease.Address) {
		t.Errorf("lease %+v, %v", lease, err)
	}
	b, err := os.ReadFile(l.path("dhcp.leases"))
	if err != nil || !strings.Contains(string(b), guest.MAC+" "+lease.Address.String()+" site1-vm1") {
		t.Errorf("the server's leases: %v\n%s", err, b)
	}
	f, err := l.guestFetched(guest)
	t.Logf("the guest fetches a file: %v", f)
	if err != nil || !f.Right {
		t.Errorf("the guest fetches a file: %v, %v", f, err)
	}
	p, err := l.mustHost(t, "host-a").ping(t.Context(), lease.Address, 5, 100*ms)
	t.Logf("host-a pings the guest: %v", p)
	if err != nil || p.Received == 0 || p.Min < 46*ms {
		t.Errorf("host-a pings the guest: %v, %v", p, err)
	}
}
