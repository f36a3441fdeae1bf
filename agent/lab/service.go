package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"farlan/agent/lab/guest"
)

// startServices starts what the home LAN offers: the DHCP server and host-a's
// files; and host-b takes its address.
func (l *Lab) startServices(ctx context.Context) error {
	if err := l.startDHCP(ctx); err != nil {
		return err
	}
	a, err := l.host("host-a")
	if err != nil {
		return err
	}
	p, err := l.run(a, Process{
		Name: "files",
		Args: []string{l.Options.Binary, "lab", "file-server", fmt.Sprintf("%v:%d", a.Address, filePort)},
	})
	if err != nil {
		return err
	}
	if err = l.await(ctx, p, p.logged("serving")); err != nil {
		return err
	}
	b, err := l.host("host-b")
	if err != nil {
		return err
	}
	_, err = l.lease(ctx, b)
	return err
}

// startDHCP starts dnsmasq on the home LAN: addresses only, no names. It
// doesn't ping an address before it offers it: that would take three seconds.
func (l *Lab) startDHCP(ctx context.Context) error {
	program, err := guest.FindProgram("dnsmasq")
	if err != nil {
		return err
	}
	h, err := l.host("dhcp")
	if err != nil {
		return err
	}
	p, err := l.run(h, Process{Name: "dhcp", Args: []string{
		program,
		"--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--log-facility=-", "--log-dhcp",
		"--port=0", "--interface=eth0", "--bind-interfaces", "--no-ping", "--dhcp-authoritative",
		fmt.Sprintf("--dhcp-range=%v,%v,255.255.255.0,12h", leaseLow, leaseHigh),
		fmt.Sprintf("--dhcp-option=option:router,%v", routerIP),
		"--dhcp-leasefile=" + l.path("dhcp.leases"), "--pid-file=",
	}})
	if err != nil {
		return err
	}
	return l.await(ctx, p, p.logged("DHCP, IP range"))
}

// A Lease is an address that a host got by DHCP.
type Lease struct {
	Address netip.Addr    `json:"address"`
	Server  netip.Addr    `json:"server"`
	Router  netip.Addr    `json:"router"`
	Seconds int           `json:"seconds"`
	Took    time.Duration `json:"-"` // from the client's start to the lease
}

// boundScript sets up eth0 and leaves word of the lease; udhcpc calls it.
const boundScript = `busybox ip addr flush dev "$interface"
busybox ip addr add "$ip/$mask" dev "$interface"
busybox ip route add default via "$router" dev "$interface"
printf '{"address":"%s","server":"%s","router":"%s","seconds":%s}\n' \
	"$ip" "$serverid" "$router" "$lease" >"$LEASE.new" && busybox mv "$LEASE.new" "$LEASE"
`

// startLease starts a host's DHCP client, which then keeps its lease.
func (l *Lab) startLease(h Host) (*Process, error) {
	dir, err := l.leaseScripts()
	if err != nil {
		return nil, err
	}
	program, err := guest.FindProgram("busybox")
	if err != nil {
		return nil, err
	}
	return l.run(h, Process{
		Name: "lease-" + h.Name, Dir: dir, Env: []string{"LEASE=" + l.leaseFile(h)},
		Args: []string{
			program, "udhcpc", "-f", "-i", "eth0", "-s", "./sh",
			"-x", "hostname:" + h.Name, "-T", "1", "-t", "3", "-A", "1",
		},
	})
}

// leaseScripts makes the folder that udhcpc runs in, and returns its name.
// udhcpc runs a program with an event's name as its argument; here that is
// busybox's shell under its own name, and the event is a script in the folder.
// So nothing in the lab's folder is executed itself, as /run often forbids it.
func (l *Lab) leaseScripts() (string, error) {
	dir := l.path("dhcp-events")
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, os.ErrExist) {
		return dir, nil
	}
	if err != nil {
		return "", err
	}
	program, err := guest.FindProgram("busybox")
	if err != nil {
		return "", err
	}
	if err := os.Symlink(program, filepath.Join(dir, "sh")); err != nil {
		return "", err
	}
	for event, script := range map[string]string{
		"bound": boundScript, "renew": boundScript, "deconfig": "", "nak": "", "leasefail": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, event), []byte(script), 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func (l *Lab) leaseFile(h Host) string { return l.path(h.Name + ".lease") }

// lease starts a host's DHCP client and returns what it got.
func (l *Lab) lease(ctx context.Context, h Host) (Lease, error) {
	start := time.Now()
	p, err := l.startLease(h)
	if err != nil {
		return Lease{}, err
	}
	var got Lease
	err = l.await(ctx, p, func() (err error) {
		got, err = l.leaseOf(h)
		return err
	})
	if err != nil {
		return Lease{}, fmt.Errorf("%s got no address from the home LAN: %w", h.Name, err)
	}
	got.Took = time.Since(start)
	return got, nil
}

// leaseOf returns the lease that a host has.
func (l *Lab) leaseOf(h Host) (Lease, error) {
	var got Lease
	b, err := os.ReadFile(l.leaseFile(h))
	if err != nil {
		return got, err
	}
	if err := json.Unmarshal(b, &got); err != nil {
		return got, fmt.Errorf("lease of %s: %w", h.Name, err)
	}
	return got, nil
}
