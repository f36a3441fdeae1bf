package lab

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/agent/lab/guest"
)

// A rogue is a far machine that sends what it likes.
type rogue struct {
	t    *testing.T
	l    *Lab
	h    Host
	fd   int
	own  net.HardwareAddr
	real Lease // that the home LAN gave it
}

// newRogue opens a packet socket on the machine.
func newRogue(t *testing.T, l *Lab, h Host) *rogue {
	t.Helper()
	r := &rogue{t: t, l: l, h: h}
	err := inNamespace(h.Namespace, func() (err error) {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		r.own = i.HardwareAddr
		if r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(r.fd, &unix.SockaddrLinklayer{Ifindex: i.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(r.fd) })
	if r.real, err = l.leaseAt(h); err != nil {
		t.Fatal(err)
	}
	return r
}

// send sends frames, again if the interface's queue is full; what it loses isn't told.
func (r *rogue) send(frames ...[]byte) {
	for _, f := range frames {
		for unix.Send(r.fd, f, 0) == unix.ENOBUFS {
			time.Sleep(time.Millisecond)
		}
	}
}

func hardware(s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

var everybody = hardware("ff:ff:ff:ff:ff:ff")

// odd is an EtherType (loopback, of Ethernet II) that nobody on the way looks into.
const odd = 0x9000

// rawFrame makes an Ethernet frame of 60 bytes at least.
func rawFrame(dst, src net.HardwareAddr, kind uint16, payload []byte) []byte {
	f := slices.Concat(dst, src, binary.BigEndian.AppendUint16(nil, kind), payload)
	return append(f, make([]byte, max(60-len(f), 0))...)
}

// arpFrame makes an ARP reply that says who is where.
func arpFrame(dst, src net.HardwareAddr, ip netip.Addr, to netip.Addr) []byte {
	a, b := ip.As4(), to.As4()
	return rawFrame(dst, src, 0x0806, slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 2}, src, a[:], dst, b[:]))
}

// raFrame makes a router advertisement of the prefix fd66::/64, behind headers of kind first,
// which end with where the next one's kind is; 58 is none.
func raFrame(src net.HardwareAddr, first byte, headers []byte) []byte {
	icmp := slices.Concat([]byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xfd, 0x66}, make([]byte, 14))
	from, to := netip.MustParseAddr("fe80::66").As16(), netip.MustParseAddr("ff02::1").As16()
	sum := uint32(len(icmp) + 58)
	for b := slices.Concat(from[:], to[:], icmp); len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(icmp[2:], ^uint16(sum>>16+sum&0xffff))
	p := slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(len(headers) + len(icmp)), first, 255}, from[:], to[:], headers, icmp)
	return rawFrame(hardware("33:33:00:00:00:01"), src, 0x86dd, p)
}

// advertise sends router advertisements, plain ones and such as are to deceive guards: behind
// options, in a fragment of its own, in a VLAN without a number.
func (r *rogue) advertise() {
	options := []byte{58, 0, 1, 4, 0, 0, 0, 0}
	plain := raFrame(r.own, 58, nil)
	tagged := slices.Insert(slices.Clone(plain), 12, 0x81, 0x00, 0, 0)
	for range 3 {
		r.send(plain, tagged, raFrame(r.own, 0, options), raFrame(r.own, 60, options), raFrame(r.own, 44, []byte{58, 0, 0, 0, 0, 0, 0, 1}))
	}
}

// invent sends a frame each of that many stations that don't exist.
func (r *rogue) invent(count int) {
	for i := range count {
		src := net.HardwareAddr{0x06, 0x66, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
		r.send(rawFrame(hardware(mac(0, 10)), src, odd, nil))
		if i%64 == 0 {
			time.Sleep(ms) // the TAP's queue holds a few hundred
		}
	}
}

// storm broadcasts as fast as this machine can, and returns how many it sent.
func (r *rogue) storm(d time.Duration) (sent int) {
	f := rawFrame(everybody, r.own, odd, make([]byte, 200))
	for end := time.Now().Add(d); time.Now().Before(end); {
		for range 100 {
			if unix.Send(r.fd, f, 0) == nil {
				sent++
			}
		}
	}
	return sent
}

// serve runs a DHCP server on the machine that also advertises itself as a router.
func (r *rogue) serve(ctx context.Context) {
	r.t.Helper()
	for _, a := range []string{"10.66.0.1/24", "fd66::1/64"} {
		if _, err := r.h.run(ctx, "ip", "addr", "add", a, "dev", "eth0", "nodad"); err != nil {
			r.t.Fatal(err)
		}
	}
	program, err := guest.FindProgram("dnsmasq")
	if err != nil {
		r.t.Fatal(err)
	}
	p, err := r.l.run(r.h, Process{Name: "rogue", Args: []string{
		program, "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--log-facility=-", "--log-dhcp", "--port=0", "--no-ping",
		"--interface=eth0", "--dhcp-authoritative", "--dhcp-range=10.66.0.10,10.66.0.250,255.255.255.0,12h",
		"--enable-ra", "--dhcp-range=fd66::10,fd66::99,64,12h", "--ra-param=eth0,4", "--dhcp-leasefile=" + r.l.path("rogue.leases"), "--pid-file=",
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.l.await(ctx, p, p.logged("DHCP, IP range")); err != nil {
		r.t.Fatal(err)
	}
}

// leaseNow asks for an address on a host, as a machine does that starts, and returns it.
func (l *Lab) leaseNow(ctx context.Context, h Host) (got Lease, err error) {
	program, err := guest.FindProgram("busybox")
	if err != nil {
		return got, err
	}
	dir, err := l.leaseScripts()
	if err != nil {
		return got, err
	}
	file := l.path(h.Name + ".again")
	cmd := exec.CommandContext(ctx, program, "udhcpc", "-f", "-n", "-q", "-i", "eth0", "-s", "./sh", "-T", "1", "-t", "8", "-x", "hostname:"+h.Name)
	cmd.Dir, cmd.Env = dir, append(cleanEnviron(), "LEASE="+file)
	var out []byte
	err = onHost(h.Namespace, func() (err error) { out, err = cmd.CombinedOutput(); return err })
	if err != nil {
		return got, fmt.Errorf("%s: %w %s", h.Name, err, out)
	}
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &got)
	}
	return got, err
}

// A refusal is what status tells of what came and may not.
type refusal struct {
	Kind, Agent, Port, Station string
	Count                      uint64
}

func (l *Lab) refused(ctx context.Context, site string) (all []refusal, err error) {
	var v struct{ Refused []refusal }
	b, err := l.farlan(ctx, site, "status", "--json")
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	return v.Refused, err
}

// A far machine does to the home LAN what it can. That goes on working, and the agent there
// says what it was.
func TestRogue(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.Sites, o.VMs = 3, 1
	l := up(t, o)
	ctx := within(t, 3*time.Minute)
	bad, honest, home := l.mustHost(t, "site1-vm1"), l.mustHost(t, "site2-vm1"), l.mustHost(t, "host-a")
	for _, h := range []Host{bad, honest, l.mustHost(t, "host-b")} {
		eventually(t, 10*time.Second, func() error { _, err := l.leaseAt(h); return err })
	}
	there, err := l.leaseAt(honest)
	if err != nil {
		t.Fatal(err)
	}
	r := newRogue(t, l, bad)
	if _, err := honest.ping(ctx, routerIP, 3, 50*ms); err != nil {
		t.Fatal(err)
	}
	pings := make(chan string, 2)
	watch := func(h Host, to netip.Addr) {
		p, err := h.ping(ctx, to, 150, 100*ms) // as long as all of it takes
		if err != nil || p.Received < p.Sent*95/100 {
			pings <- fmt.Sprintf("%s pings %v: %v %v", h.Name, to, p, err)
			return
		}
		t.Logf("%s pings %v meanwhile: %v", h.Name, to, p)
		pings <- ""
	}
	go watch(home, there.Address)
	go watch(honest, routerIP)

	r.serve(ctx)
	for _, h := range []Host{honest, home} {
		if h == home {
			h = l.mustHost(t, "host-b")
		}
		got, err := l.leaseNow(ctx, h)
		if err != nil || got.Server != dhcpIP || !lan.Contains(got.Address) {
			t.Errorf("%s's lease: %+v, %v", h.Name, got, err)
		}
	}
	gateway := r.gateway(ctx, home)
	r.poison(gateway, home, there)
	r.advertise()
	r.invent(50000)
	for range 5 {
		r.send(rawFrame(hardware("01:80:c2:00:00:00"), r.own, 38, append([]byte{0x42, 0x42, 3}, make([]byte, 35)...)))
		r.send(rawFrame(hardware("01:00:0c:cc:cc:cd"), r.own, 50, []byte{0xaa, 0xaa, 3, 0, 0, 0x0c, 1, 0x0b}))
		time.Sleep(10 * ms)
	}
	const stormy = 3 * time.Second
	sent := r.storm(stormy)
	t.Logf("%d broadcasts in %v", sent, stormy)
	for range 2 {
		if bad := <-pings; bad != "" {
			t.Error(bad)
		}
	}
	r.check(ctx, gateway)
}

// gateway returns the router's address, as the home LAN sees it.
func (r *rogue) gateway(ctx context.Context, home Host) net.HardwareAddr {
	r.t.Helper()
	if err := home.reach(ctx, routerIP); err != nil {
		r.t.Fatal(err)
	}
	m, err := home.neighbour(ctx, routerIP)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// neighbour returns where a host believes an address to be.
func (h Host) neighbour(ctx context.Context, ip netip.Addr) (net.HardwareAddr, error) {
	out, err := h.run(ctx, "ip", "neigh", "show", ip.String())
	if err != nil {
		return nil, err
	}
	f := strings.Fields(string(out))
	i := slices.Index(f, "lladdr")
	if i < 0 || i+1 >= len(f) {
		return nil, fmt.Errorf("%s: %s is not known: %s", h.Name, ip, out)
	}
	return net.ParseMAC(f[i+1])
}

// poison says for a second that the router, and the victim, are at the rogue, and sends by the
// router's address.
func (r *rogue) poison(gateway net.HardwareAddr, home Host, victim Lease) {
	at := hardware(home.MAC)
	for range 20 {
		r.send(
			arpFrame(everybody, r.own, routerIP, routerIP), arpFrame(at, r.own, routerIP, hostAIP), arpFrame(at, r.own, victim.Address, hostAIP),
			arpFrame(everybody, gateway, routerIP, routerIP), rawFrame(at, gateway, odd, nil), rawFrame(everybody, gateway, odd, nil),
		)
		time.Sleep(50 * ms)
	}
}

// check looks at what the rogue has achieved, and what is told of it.
func (r *rogue) check(ctx context.Context, gateway net.HardwareAddr) {
	t, l := r.t, r.l
	for _, name := range []string{"host-a", "site2-vm1"} {
		h := l.mustHost(t, name)
		if m, err := h.neighbour(ctx, routerIP); err != nil || m.String() != gateway.String() {
			t.Errorf("%s believes that the router is at %v, %v", name, m, err)
		}
		if out, err := h.run(ctx, "ip", "-6", "addr"); err != nil || strings.Contains(string(out), "fd66:") {
			t.Errorf("%s believes the rogue's advertisements: %s %v", name, out, err)
		}
	}
	all, err := l.refused(ctx, r.h.Site)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("refused: %+v", all)
	told := make(map[string]refusal)
	for _, x := range all {
		told[x.Kind] = x
	}
	for kind, least := range map[string]uint64{
		"rogue DHCP server": 1, "rogue router": 12, "spoofed station": 20, "spoofed address": 20,
		"too many stations": 20000, "link-local": 2, "storm of a station": 1000,
	} {
		x := told[kind]
		if x.Count < least || x.Port != "farlan0" || x.Agent != r.h.Site {
			t.Errorf("%s: %+v", kind, x)
		}
		if others := strings.HasPrefix(kind, "spoofed") || kind == "too many stations"; !others && x.Station != r.own.String() {
			t.Errorf("%s: of %s, not %s", kind, x.Station, r.own)
		}
	}
	cmd := exec.CommandContext(ctx, l.Options.Binary, "doctor")
	cmd.Env = append(cleanEnviron(), "FARLAN_SOCKET="+l.socket(r.h.Site))
	out, _ := cmd.Output() // it may have found something to mend
	for kind := range told {
		if kind = strings.Replace(kind, "link-local", "spanning tree", 1); !strings.Contains(string(out), kind) {
			t.Errorf("the doctor doesn't tell: %s\n%s", kind, out)
		}
	}
}
