//go:build linux

package beacon

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/discovery"
	"farlan/overlay"
)

// A watcher is a Lookout that runs in a namespace, and what it was told.
type watcher struct {
	*Lookout
	mu    sync.Mutex
	found map[overlay.AgentID][]netip.AddrPort
}

// start runs the Lookout of agent n in a namespace until the test ends.
func start(t *testing.T, ns *namespace, k discovery.NetworkKey, n byte, addrs ...string) *watcher {
	t.Helper()
	w := &watcher{found: make(map[overlay.AgentID][]netip.AddrPort)}
	var told []netip.AddrPort
	for _, a := range addrs {
		told = append(told, netip.MustParseAddrPort(a))
	}
	var err error
	w.Lookout, err = Open(Config{
		Self: agent(n), Network: k,
		Addrs:  func() []netip.AddrPort { return told },
		Usable: func(i net.Interface) bool { return !strings.HasPrefix(i.Name, "tap") },
		Found: func(id overlay.AgentID, addrs []netip.AddrPort) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.found[id] = addrs
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { ns.Do(func() { done <- w.Run(ctx) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent %d: %v", n, err)
		}
	})
	return w
}

func agent(n byte) overlay.AgentID { return overlay.AgentID{31: n} }

// knows returns what the watcher was told of an agent.
func (w *watcher) knows(n byte) []netip.AddrPort {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.found[agent(n)]
}

func (w *watcher) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.found)
}

// eventually waits until is says nothing is wrong, and says how long that took.
func eventually(t *testing.T, limit time.Duration, is func() error) time.Duration {
	t.Helper()
	begun := time.Now()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		err := is()
		if err == nil {
			return time.Since(begun)
		}
		if time.Since(begun) > limit {
			t.Fatalf("not within %v: %v", limit, err)
		}
		<-look.C
	}
}

// told says whether all of these know of each other.
func told(all map[byte]*watcher) func() error {
	return func() error {
		for i, w := range all {
			for j := range all {
				if i != j && len(w.knows(j)) == 0 {
					return fmt.Errorf("%d doesn't know of %d; state %+v", i, j, w.State())
				}
			}
		}
		return nil
	}
}

func newKey(t *testing.T) discovery.NetworkKey {
	k, err := discovery.NewNetworkKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// link makes namespaces on one bridge, each with an interface u and an address; six
// gives them IPv6 only.
func link(t *testing.T, count int, six bool) (bridge *namespace, hosts []*namespace, addrs []string) {
	bridge = newNamespace(t)
	bridge.IP("link add br0 type bridge mcast_snooping 0")
	bridge.IP("link set br0 up")
	for i := range count {
		h := newNamespace(t)
		h.Veth("u", bridge, fmt.Sprint("p", i))
		bridge.IP(fmt.Sprintf("link set p%d master br0", i))
		if six {
			h.IP(fmt.Sprintf("addr add fd77::%d/64 dev u nodad", i+1))
			addrs = append(addrs, fmt.Sprintf("[fd77::%d]:4747", i+1))
		} else {
			h.Run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
			h.IP(fmt.Sprintf("addr add 10.77.0.%d/24 dev u", i+1))
			addrs = append(addrs, fmt.Sprintf("10.77.0.%d:4747", i+1))
		}
		hosts = append(hosts, h)
	}
	return bridge, hosts, addrs
}

func TestFound(t *testing.T) {
	for name, six := range map[string]bool{"IPv4": false, "IPv6": true} {
		t.Run(name, func(t *testing.T) {
			_, hosts, addrs := link(t, 3, six)
			k := newKey(t)
			// Two on one host, and one each on two others.
			all := map[byte]*watcher{
				1: start(t, hosts[0], k, 1, addrs[0]), 2: start(t, hosts[0], k, 2, addrs[0]),
				3: start(t, hosts[1], k, 3, addrs[1]),
			}
			stranger := start(t, hosts[2], newKey(t), 9, addrs[2])
			eventually(t, 5*time.Second, told(all))
			late := start(t, hosts[2], k, 4, addrs[2])
			took := eventually(t, 5*time.Second, func() error {
				if len(late.knows(1))+len(late.knows(2))+len(late.knows(3)) == 0 {
					return fmt.Errorf("nobody answered: %+v", late.State())
				}
				return nil
			})
			all[4] = late
			full := eventually(t, 5*time.Second, told(all))
			t.Logf("a newcomer knows somebody after %v, all and all it %v later", took, full)
			if got := late.knows(3); !slices.Equal(got, []netip.AddrPort{netip.MustParseAddrPort(addrs[1])}) {
				t.Errorf("told %v, want %v", got, addrs[1])
			}
			eventually(t, 5*time.Second, func() error {
				if s := stranger.State(); s.Strangers == 0 || s.Heard != 0 || !slices.Equal(s.Links, []string{"u"}) || len(s.Faults) != 0 {
					return fmt.Errorf("the stranger's state is %+v", s)
				}
				return nil
			})
			for i := range all {
				if len(stranger.knows(i)) != 0 || len(all[i].knows(9)) != 0 || len(all[i].knows(i)) != 0 {
					t.Errorf("%d knows the stranger or itself, or the stranger knows it", i)
				}
			}
		})
	}
}

func TestInterfacesComeAndGo(t *testing.T) {
	bridge, hosts, addrs := link(t, 2, false)
	k := newKey(t)
	hosts[1].IP("link set u down")
	all := map[byte]*watcher{1: start(t, hosts[0], k, 1, addrs[0]), 2: start(t, hosts[1], k, 2, addrs[1])}
	eventually(t, 5*time.Second, func() error {
		if s := all[1].State(); len(s.Links) != 1 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if len(all[1].knows(2)) != 0 {
		t.Fatal("found by an interface that is down")
	}
	hosts[1].IP("link set u up")
	t.Logf("found %v after the interface is up", eventually(t, 5*time.Second, told(all)))

	// The interface goes for good, and another one comes.
	hosts[1].IP("link del u")
	eventually(t, 5*time.Second, func() error {
		if s := all[2].State(); len(s.Links) != 0 || len(s.Faults) != 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	all[1].forget()
	all[2].forget()
	hosts[1].Veth("v", bridge, "q")
	bridge.IP("link set q master br0")
	hosts[1].IP("addr add 10.77.0.2/24 dev v")
	all[2].Look()
	t.Logf("found %v after there is another interface", eventually(t, 5*time.Second, told(all)))
}

// What is on the wire: datagrams of one length, no two with bytes in common that
// chance doesn't explain, with a hop limit of 1; and nothing at all in answer to
// garbage, nor on the overlay's own interfaces and on those without an address to tell.
func TestOnTheWire(t *testing.T) {
	bridge, hosts, addrs := link(t, 2, false)
	h := hosts[0]
	for _, name := range []string{"tap0", "other"} {
		h.IP("link add " + name + " type veth peer name far-" + name)
		h.IP("link set " + name + " up")
		h.IP("link set far-" + name + " up")
	}
	h.IP("addr add 10.78.0.1/24 dev tap0")
	h.IP("addr add 10.79.0.1/24 dev other") // not told
	wire, tap, other := sniff(t, bridge, "br0"), sniff(t, h, "far-tap0"), sniff(t, h, "far-other")
	a := start(t, h, newKey(t), 1, addrs[0], "10.78.0.1:4747")
	var got [][]byte
	eventually(t, 20*time.Second, func() error {
		if got = append(got, wire.beacons(t)...); len(got) < 4 {
			return fmt.Errorf("%d beacons", len(got))
		}
		return nil
	})
	for i, d := range got {
		if len(d) != 28+discovery.BeaconLen || d[8] != 1 {
			t.Fatalf("%d bytes, hop limit %d", len(d), d[8])
		}
		for _, e := range got[:i] {
			same := 0
			for at := range discovery.BeaconLen {
				if d[28+at] == e[28+at] {
					same++
				}
			}
			if same > 12 { // of 1 on average: less than once in a billion
				t.Errorf("two beacons have %d bytes in common", same)
			}
		}
	}

	// Garbage of every length.
	hosts[1].IP("route add 239.0.0.0/8 dev u")
	hosts[1].Do(func() {
		c, err := net.Dial("udp4", fmt.Sprintf("%v:%d", overlay.BeaconGroup4, overlay.BeaconPort))
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		d := make([]byte, 1400)
		for n := range len(d) {
			_, _ = rand.Read(d[:n])
			_, _ = c.Write(d[:n])
		}
		for range 200 {
			_, _ = rand.Read(d)
			_, _ = c.Write(d[:discovery.BeaconLen])
		}
	})
	eventually(t, 5*time.Second, func() error {
		if s := a.State(); s.Strangers < 100 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	mine := 0
	for _, d := range wire.read(t) {
		if from := netip.AddrFrom4([4]byte(d[12:16])).String(); strings.HasPrefix(addrs[0], from+":") && d[9] != unix.IPPROTO_IGMP {
			mine++
		}
	}
	if mine != 0 {
		t.Errorf("%d packets in answer to garbage", mine)
	}
	for name, s := range map[string]sniffer{"the overlay's own interface": tap, "one without an address to tell": other} {
		if n := len(s.beacons(t)); n != 0 {
			t.Errorf("%d beacons on %s", n, name)
		}
	}
	if s := a.State(); !slices.Equal(s.Links, []string{"u"}) {
		t.Errorf("%+v", s)
	}
}

// Where another program has the port, the Lookout says so and goes on.
func TestPortTaken(t *testing.T) {
	_, hosts, addrs := link(t, 1, false)
	var c net.PacketConn
	hosts[0].Do(func() {
		var err error
		if c, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", overlay.BeaconPort)); err != nil {
			t.Fatal(err)
		}
	})
	w := start(t, hosts[0], newKey(t), 1, addrs[0])
	eventually(t, 5*time.Second, func() error {
		if s := w.State(); len(s.Faults) != 1 || !strings.Contains(s.Faults[0], "u: bind: address already in use") {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	_ = c.Close()
	w.Look()
	eventually(t, 5*time.Second, func() error {
		if s := w.State(); len(s.Faults) != 0 || len(s.Links) != 1 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// A sniffer sees what goes by an interface in IPv4.
type sniffer struct{ fd int }

func sniff(t *testing.T, ns *namespace, name string) (s sniffer) {
	t.Helper()
	ns.Do(func() {
		i, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		const ip = 0x0008 // ETH_P_IP as the network has it
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, ip)
		if err != nil {
			t.Fatal(os.NewSyscallError("socket", err))
		}
		t.Cleanup(func() { _ = unix.Close(s.fd) })
		if err := unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: ip, Ifindex: i.Index}); err != nil {
			t.Fatal(os.NewSyscallError("bind", err))
		}
	})
	return s
}

// beacons returns the packets to the group that came so far.
func (s sniffer) beacons(t *testing.T) (all [][]byte) {
	t.Helper()
	for _, b := range s.read(t) {
		if [4]byte(b[16:20]) == overlay.BeaconGroup4.As4() && b[9] == unix.IPPROTO_UDP {
			all = append(all, b)
		}
	}
	return all
}

// read returns the packets that came so far.
func (s sniffer) read(t *testing.T) (all [][]byte) {
	t.Helper()
	for {
		b := make([]byte, 2000)
		n, err := unix.Read(s.fd, b)
		if err == unix.EAGAIN {
			return all
		}
		if err != nil {
			t.Fatal(os.NewSyscallError("read", err))
		}
		all = append(all, b[:n])
	}
}
