//go:build linux

package vlan

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
	"farlan/overlay/nstest"
	"farlan/reserve"
	"farlan/reserve/nsi/cs"
)

var (
	near = netip.MustParsePrefix("10.98.1.146/30")
	far  = netip.MustParsePrefix("10.98.1.145/30")
)

// A host is one of two whose wan1 are joined by a cable.
type host struct {
	*nstest.Namespace
	t testing.TB
}

func newHosts(t testing.TB) (here, there host) {
	t.Helper()
	here, there = host{nstest.New(t), t}, host{nstest.New(t), t}
	here.Veth("wan1", there.Namespace, "wan1")
	return here, there
}

// virtual says whether the kernel has VLANs of its own. Where it has none, what is attached is a
// TAP, and nobody else can have the VLAN.
func (h host) virtual() bool {
	h.t.Helper()
	got := h.Run("ip link add link wan1 name probe type vlan id 4000 2>&1 && ip link del probe || true")
	return !strings.Contains(got, "Unknown device type")
}

// alien makes an interface that isn't any agent's: of a VLAN, if there are such.
func (h host) alien(name, vlan string) {
	h.t.Helper()
	if h.virtual() {
		h.IP("link add link wan1 name " + name + " type vlan id " + vlan)
		return
	}
	h.IP("link add " + name + " type bridge")
}

// open returns an agent's ports on the host.
func (h host) open(agent byte) *site {
	h.t.Helper()
	s := &site{host: h}
	h.Do(func() {
		var err error
		s.p, err = Open(Config{Device: "wan1", VLANs: cs.VLANs{{First: 100, Last: 109}}, Agent: overlay.AgentID{agent}})
		if err != nil {
			h.t.Fatal(err)
		}
	})
	h.t.Cleanup(func() { h.Do(func() { _ = s.p.Close() }) })
	return s
}

// links returns the names of the interfaces that the ip command shows, but for lo's and wan1's.
func (h host) links() (all []string) {
	h.t.Helper()
	for line := range strings.Lines(h.IP("-o link")) {
		name, _, _ := strings.Cut(strings.Fields(line)[1], ":")
		name, _, _ = strings.Cut(name, "@")
		if name != "lo" && name != "wan1" {
			all = append(all, name)
		}
	}
	return all
}

func (h host) has(when string, want ...string) {
	h.t.Helper()
	if got := h.links(); !slices.Equal(got, want) {
		h.t.Errorf("%s there are %v, want %v", when, got, want)
	}
}

// A site is an agent's ports on a host.
type site struct {
	host
	p *Ports
}

func (s *site) attach(vlan uint16, a netip.Prefix) (err error) {
	s.t.Helper()
	s.Do(func() { err = s.p.Attach(vlan, a) })
	return err
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// clear detaches all that is attached.
func (s *site) clear() {
	s.t.Helper()
	s.Do(func() {
		for _, vlan := range s.p.sorted() {
			s.must(s.p.Detach(vlan))
		}
	})
}

// socket returns a socket at an address of an interface.
func (s *site) socket(device string, a netip.Prefix) *net.UDPConn {
	s.t.Helper()
	var c *net.UDPConn
	s.Do(func() {
		l := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
			err2 := raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) })
			return errors.Join(err, err2)
		}}
		p, err := l.ListenPacket(s.t.Context(), "udp4", netip.AddrPortFrom(a.Addr(), 4747).String())
		s.must(err)
		c = p.(*net.UDPConn)
	})
	s.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func (s *site) send(c *net.UDPConn, to netip.Prefix, text string) {
	s.t.Helper()
	_, err := c.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(to.Addr(), 4747))
	s.must(err)
}

func (s *site) hears(c *net.UDPConn, want string) {
	s.t.Helper()
	b := make([]byte, 99)
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != want {
		s.t.Errorf("heard %q, %v; want %q", b[:n], err, want)
	}
}

// The life of a circuit: what is attached carries packets both ways, has the MTU of the device
// and no route but its own, and goes when it is detached.
func TestCircuit(t *testing.T) {
	t.Parallel()
	here, there := newHosts(t)
	here.IP("link set wan1 mtu 1400")
	a, b := here.open(1), there.open(2)
	a.must(a.attach(101, near))
	b.must(b.attach(101, far))
	here.has("attached", "wan1.101")
	if got := here.IP("-d link show wan1.101"); !strings.Contains(got, "mtu 1400") || here.virtual() && !strings.Contains(got, "vlan protocol 802.1Q id 101") ||
		!strings.Contains(got, "alias farlan "+overlay.AgentID{1}.String()+"\n") {
		t.Error(got)
	}
	if got, six := here.IP("route"), here.IP("-6 route show dev wan1.101"); got != "10.98.1.144/30 dev wan1.101 proto kernel scope link src 10.98.1.146 \n" || six != "" {
		t.Errorf("routes %q, %q", got, six)
	}
	ca, cb := a.socket("wan1.101", near), b.socket("wan1.101", far)
	a.send(ca, far, "hello")
	b.hears(cb, "hello")
	b.send(cb, near, "and back")
	a.hears(ca, "and back")
	raw, err := ca.SyscallConn()
	a.must(err)
	a.must(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, 4) }))
	a.must(err)
	a.send(ca, far, "in one super-packet.") // as agents do
	for _, part := range []string{"in o", "ne s", "uper", "-pac", "ket."} {
		b.hears(cb, part)
	}

	index := here.IP("-o link show wan1.101")
	here.IP("link set wan1 mtu 1500")
	here.IP("link set wan1.101 down")
	here.IP("addr add 10.1.1.1/24 dev wan1.101")
	a.must(a.attach(101, near)) // mends it
	a.must(a.attach(102, near))
	if got := here.IP("-d link show wan1.101"); !strings.Contains(got, "mtu 1500") || !strings.Contains(got, ",UP") || strings.Fields(index)[0] != strings.Fields(got)[0] {
		t.Errorf("mended: %s before: %s", got, index)
	}
	if got := here.IP("-br addr show wan1.101"); strings.Contains(got, "10.1.1.1") || !strings.Contains(got, near.String()) {
		t.Error(got)
	}
	here.has("two attached", "wan1.101", "wan1.102")
	a.must(a.p.Detach(102))
	here.has("one detached", "wan1.101")
	a.must(a.attach(101, far))
	if got := here.IP("-br addr show wan1.101"); strings.Contains(got, near.String()) || !strings.Contains(got, far.String()) {
		t.Error(got)
	}
	a.clear()
	here.has("both detached")
	for range 2 {
		a.must(b.p.Detach(101))
	}
	there.has("detached")
	a.must(a.attach(103, near))
	a.must(a.p.Close())
	here.has("closed")
}

// Two circuits whose other ends have the same address: what comes by the second one would be
// dropped by the strict filter.
func TestSameAddressesTwice(t *testing.T) {
	t.Parallel()
	here, there := newHosts(t)
	here.Run("echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter")
	filter := func(device string) string {
		return strings.TrimSpace(here.Run("cat /proc/sys/net/ipv4/conf/" + device + "/rp_filter"))
	}
	a, b := here.open(1), there.open(2)
	a.must(a.attach(101, near))
	if got := filter("wan1.101"); got == "2" {
		t.Error("the only circuit has the loose filter")
	}
	a.must(a.attach(102, near))
	b.must(b.attach(101, far))
	b.must(b.attach(102, far))
	if filter("wan1.102") != "2" || filter("all") != "1" || filter("wan1") == "2" {
		t.Errorf("filter of wan1.102 %s, all %s, wan1 %s", filter("wan1.102"), filter("all"), filter("wan1"))
	}
	mac := strings.Fields(here.IP("-br link show wan1.102"))[2]
	there.IP("neigh replace 10.98.1.146 lladdr " + mac + " dev wan1.102 nud permanent")
	at, from := a.socket("wan1.102", near), b.socket("wan1.102", far)
	here.Run("echo 1 > /proc/sys/net/ipv4/conf/wan1.102/rp_filter")
	b.send(from, near, "by the strict filter")
	a.must(a.attach(102, near))
	b.send(from, near, "by the loose filter")
	a.hears(at, "by the loose filter")
	a.send(at, far, "back")
	b.hears(from, "back")
}

// What is somebody else's is refused and stays as it is.
func TestForeign(t *testing.T) {
	t.Parallel()
	here, _ := newHosts(t)
	other := here.open(2)
	other.must(other.attach(103, near))
	here.alien("wan1.101", "101")
	here.alien("mine", "102")
	here.IP("link add wan1.104 type bridge")
	here.IP("link set wan1.104 alias 'farlan " + overlay.AgentID{1}.String() + "'")
	here.alien("wan1.105", "1105")
	here.IP("link property add dev mine altname wan1.106")
	before := here.IP("-d addr")
	a := here.open(1)
	refused := []uint16{101, 103, 104, 105, 106}
	if here.virtual() {
		refused = append(refused, 102)
	}
	for _, vlan := range refused {
		err := a.attach(vlan, near)
		if !errors.Is(err, reserve.ErrForeign) || !strings.Contains(err.Error(), "ip ") {
			t.Errorf("VLAN %d: %v", vlan, err)
		}
	}
	a.clear()
	a.must(a.p.Close())
	if after := here.IP("-d addr"); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// What somebody took away, or made something else of, isn't taken for what it was.
func TestTaken(t *testing.T) {
	t.Parallel()
	here, _ := newHosts(t)
	a := here.open(1)
	a.must(a.attach(107, near))
	a.must(a.attach(108, near))
	a.must(a.attach(109, near))
	here.IP("link del wan1.107")
	here.alien("wan1.107", "107")
	here.IP("link set wan1.109 down")
	here.IP("link set wan1.109 name renamed")
	if err := a.attach(107, near); !errors.Is(err, reserve.ErrForeign) {
		t.Errorf("VLAN 107: %v", err)
	}
	a.must(a.attach(109, near))
	here.has("taken", "wan1.108", "wan1.107", "wan1.109")
	if here.virtual() {
		here.IP("link set wan1.108 down")
		here.IP("link set wan1.108 alias mine name theirs")
		if err := a.attach(108, near); !errors.Is(err, reserve.ErrForeign) {
			t.Errorf("VLAN 108: %v", err)
		}
		a.clear()
		here.has("detached", "theirs", "wan1.107")
		return
	}
	a.clear()
	here.has("detached", "wan1.107")
}

// The device goes and comes.
func TestDeviceGone(t *testing.T) {
	t.Parallel()
	here, there := newHosts(t)
	a := here.open(1)
	here.IP("link set wan1 down")
	if err := a.attach(101, near); !errors.Is(err, reserve.ErrUnreachable) || !strings.Contains(err.Error(), `"ip link set wan1 up"`) {
		t.Errorf("down: %v", err)
	}
	here.IP("link set wan1 up")
	a.must(a.attach(101, near))
	a.must(a.attach(102, near))
	here.IP("link del wan1")
	if err := a.attach(101, near); !errors.Is(err, reserve.ErrUnreachable) || !strings.Contains(err.Error(), "wan1") {
		t.Errorf("gone: %v", err)
	}
	here.Veth("wan1", there.Namespace, "wan1")
	a.must(a.attach(101, near))
	a.must(a.attach(102, near))
	here.has("again", "wan1.101", "wan1.102")
	here.IP("link del wan1")
	a.clear()
	if len(a.p.held) != 0 {
		t.Errorf("%d are held", len(a.p.held))
	}
}

// What may not be made isn't.
func TestRefused(t *testing.T) {
	t.Parallel()
	here, _ := newHosts(t)
	a := here.open(1)
	for _, c := range []struct {
		vlan    uint16
		address string
	}{
		{99, "10.98.1.146/30"},
		{110, "10.98.1.146/30"},
		{0, "10.98.1.146/30"},
		{4095, "10.98.1.146/30"},
		{101, "10.98.1.144/30"},
		{101, "10.98.1.147/30"},
		{101, "10.98.1.146/29"},
		{101, "10.98.1.146/32"},
		{101, "2001:db8::1/30"},
		{101, "::ffff:10.98.1.146/30"},
	} {
		if err := a.attach(c.vlan, netip.MustParsePrefix(c.address)); !errors.Is(err, reserve.ErrRefused) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := a.attach(101, netip.Prefix{}); !errors.Is(err, reserve.ErrRefused) {
		t.Errorf("no address: %v", err)
	}
	for vlan := range uint16(maxPorts) {
		a.p.held[vlan+1000] = &port{}
	}
	if err := a.attach(101, near); !errors.Is(err, reserve.ErrFull) {
		t.Errorf("full: %v", err)
	}
	here.has("refused")
	a.clear()
	a.must(a.attach(101, near))
	for _, c := range []Config{{}, {Device: "wan1"}, {Device: "elevenbytes", Agent: overlay.AgentID{1}}, {Agent: overlay.AgentID{1}}} {
		if _, err := Open(c); !errors.Is(err, reserve.ErrUnsupported) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
