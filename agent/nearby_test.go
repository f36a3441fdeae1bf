package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// A neighbourhood is one link, a bridge, with hosts on it: each a network namespace with an
// interface u, in 10.79.0.0/24 or, with six, in fd79::/64 only.
type neighbourhood struct {
	sites  // for its helpers
	bridge string
	hosts  []string
}

func newSegment(t *testing.T, count int, six bool) *neighbourhood {
	t.Helper()
	needRoot(t)
	g := &neighbourhood{sites: sites{t: t}}
	prefix := fmt.Sprintf("fb%d-%d", os.Getpid(), siteCount.Add(1))
	add := func(name string) string {
		g.host("ip netns add " + name)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
		g.host("ip -n " + name + " link set lo up")
		return name
	}
	g.bridge = add(prefix + "br")
	g.host("ip -n " + g.bridge + " link add br0 type bridge mcast_snooping 0")
	g.host("ip -n " + g.bridge + " link set br0 up")
	for i := range count {
		h := add(fmt.Sprint(prefix, "h", i))
		g.host(fmt.Sprintf("ip link add u netns %s type veth peer name p%d netns %s", h, i, g.bridge))
		g.host(fmt.Sprintf("ip -n %s link set p%d master br0 up", g.bridge, i))
		g.host("ip -n " + h + " link set u up")
		if six {
			g.host(fmt.Sprintf("ip -n %s addr add fd79::%d/64 dev u nodad", h, i+1))
		} else {
			g.host(fmt.Sprintf("ip -n %s addr add 10.79.0.%d/24 dev u", h, i+1))
		}
		g.hosts = append(g.hosts, h)
	}
	return g
}

// agent starts an agent on host i that knows of nobody.
func (g *neighbourhood) agent(i int, key string, more ...string) *process {
	g.t.Helper()
	a := startAgentIn(g.t, g.hosts[i], key, string(rune('a'+i)), append([]string{"--listen", ":4747"}, more...)...)
	g.t.Cleanup(func() {
		if said := a.said(); g.t.Failed() {
			g.t.Logf("%s said:\n%s", a.name, said[max(len(said)-5000, 0):])
		}
	})
	return a
}

// health returns what an agent says of its beacons.
func (d *process) health(check string) (h healthView, err error) {
	v, err := d.status()
	for _, h := range v.Health {
		if h.Check == check {
			return h, nil
		}
	}
	return h, errors.Join(err, fmt.Errorf("no %q among %+v", check, v.Health))
}

// Agents on one link need no address to find each other; whoever holds another key
// isn't found and finds nobody; and frames' own interfaces carry no beacons.
func TestFoundOnTheLink(t *testing.T) {
	t.Parallel()
	for name, six := range map[string]bool{"IPv4": false, "IPv6": true} {
		t.Run(name, func(t *testing.T) {
			g := newSegment(t, 5, six)
			key := newKeyFile(t)
			a, b := g.agent(0, key, "--tap", "t"), g.agent(1, key, "--tap", "t")
			stranger, dark := g.agent(3, newKeyFile(t)), g.agent(4, key, "--beacon=off")
			a.bootstrap()
			g.host("ip -n " + g.hosts[0] + " addr add 10.78.0.1/24 dev t")
			listener := g.listen(g.hosts[0], "t")
			both := eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
			c := g.agent(2, key)
			c.bootstrap()
			took := eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(3), b.sees(3), c.sees(3)) })
			t.Logf("two see each other %v after they started, all three %v after the third is ready", both, took)

			eventually(t, 5*time.Second, func() error {
				h, err := c.health("beacon")
				if err == nil && (!h.OK || !strings.Contains(h.Detail, "2 members heard on u")) {
					err = fmt.Errorf("%+v", h)
				}
				return err
			})
			for _, d := range []*process{stranger, dark} {
				if err := d.sees(1); err != nil {
					t.Error(err)
				}
			}
			if h, err := dark.health("beacon"); err == nil {
				t.Errorf("turned off, and %+v", h)
			}
			v, err := stranger.status()
			if err != nil || !strings.Contains(fmt.Sprint(v.Drops), "beacon of a stranger") {
				t.Errorf("the stranger counts %+v, %v", v.Drops, err)
			}
			if n := listener(); n != 0 {
				t.Errorf("%d beacons on the overlay's own interface", n)
			}
		})
	}
}

// An agent whose only interface is down finds the others when it comes up; one that
// knows them finds them again where they are now.
func TestFoundWhenTheLinkIsUp(t *testing.T) {
	t.Parallel()
	g := newSegment(t, 2, false)
	key := newKeyFile(t)
	a := g.agent(0, key)
	a.bootstrap()
	g.host("ip -n " + g.hosts[1] + " link set u down")
	b := g.agent(1, key)
	eventually(t, 10*time.Second, func() error { return b.sees(1) })
	g.host("ip -n " + g.hosts[1] + " link set u up")
	took := eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
	t.Logf("they see each other %v after the interface is up", took)

	eventually(t, 5*time.Second, b.remembers(2))
	a.kill()
	b.kill()
	for i, h := range g.hosts {
		g.host("ip -n " + h + " addr flush dev u scope global")
		g.host(fmt.Sprintf("ip -n %s addr add 10.79.0.%d/24 dev u", h, i+101))
	}
	a.start()
	b.start()
	took = eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
	t.Logf("they see each other %v after they started with other addresses", took)
}

// Two networks that don't know of each other, though the key is the same, become one
// when their link does.
func TestPiecesOnTheLinkJoin(t *testing.T) {
	t.Parallel()
	g := newSegment(t, 4, false)
	key := newKeyFile(t)
	for i := range 2 {
		g.host(fmt.Sprintf("ip -n %s link set p%d down", g.bridge, i))
	}
	g.host("ip -n " + g.bridge + " link add br1 type bridge mcast_snooping 0")
	g.host("ip -n " + g.bridge + " link set br1 up")
	for i := range 2 {
		g.host(fmt.Sprintf("ip -n %s link set p%d master br1 up", g.bridge, i))
	}
	all := []*process{g.agent(0, key), g.agent(1, key), g.agent(2, key), g.agent(3, key)}
	seen := func(n int) func() error {
		return func() error {
			var errs []error
			for _, a := range all {
				errs = append(errs, a.sees(n))
			}
			return errors.Join(errs...)
		}
	}
	eventually(t, 15*time.Second, seen(2))
	g.host("ip -n " + g.bridge + " link add w0 type veth peer name w1")
	g.host("ip -n " + g.bridge + " link set w0 master br0 up")
	g.host("ip -n " + g.bridge + " link set w1 master br1 up")
	// No interface of theirs changes: they meet by the next beacons that are due.
	took := eventually(t, 60*time.Second, seen(4))
	t.Logf("one network %v after the link is one", took)
}

// Where another program has the port, an agent says so and works all the same.
func TestNoBeacons(t *testing.T) {
	g := newSegment(t, 2, false)
	key := newKeyFile(t)
	var taken net.PacketConn
	g.within(g.hosts[0], func() (err error) {
		taken, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", overlay.BeaconPort))
		return err
	})
	defer taken.Close()
	a := g.agent(0, key)
	eventually(t, 10*time.Second, func() error {
		h, err := a.health("beacon")
		if err == nil && (h.OK || !strings.Contains(h.Detail, "address already in use") || !strings.Contains(h.Hint, "--beacon=off")) {
			err = fmt.Errorf("%+v", h)
		}
		return err
	})
	b := g.agent(1, key, "--bootstrap", a.bootstrap())
	eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
	if v, err := a.status(); err != nil || v.State != "degraded" {
		t.Errorf("state %s, %v", v.State, err)
	}
}

// listen listens on an interface of a namespace; what it returns says how many beacons
// went by.
func (g *neighbourhood) listen(ns, name string) func() int {
	g.t.Helper()
	var fd int
	g.within(ns, func() error {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		const all = 0x0300 // ETH_P_ALL as the network has it
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
	})
	g.t.Cleanup(func() { _ = unix.Close(fd) })
	return func() (n int) {
		for b := make([]byte, 2000); ; {
			size, err := unix.Read(fd, b)
			if errors.Is(err, unix.EAGAIN) {
				return n
			}
			if err != nil {
				g.t.Fatal(err)
			}
			p := string(b[:size])
			if strings.Contains(p, string(overlay.BeaconGroup4.AsSlice())) || strings.Contains(p, string(overlay.BeaconGroup6.AsSlice())) {
				if size > 200 { // not the kernel's reports of who listens to what
					n++
				}
			}
		}
	}
}
