package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// A street is a home LAN with two proxies, and far sites, all joined by a router r:
//
//	LAN (a bridge): h ── e   p1 ── e   p2 ── e   s (the sniffer) ── e
//	p1, p2, z: u ── r; z has a TAP t
type street struct {
	sites
	lan    string
	h, s   string
	p      [2]string
	z      string
	agents map[string]*process
}

func newStreet(t *testing.T) *street {
	t.Helper()
	needRoot(t)
	s := &street{sites: sites{t: t}, agents: make(map[string]*process)}
	prefix := fmt.Sprintf("fy%d-%d", os.Getpid(), siteCount.Add(1))
	add := func(name string) string {
		s.host("ip netns add " + prefix + name)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", prefix+name).Run() })
		s.host("ip -n " + prefix + name + " link set lo up")
		return prefix + name
	}
	s.lan, s.r, s.h, s.s, s.z = add("lan"), add("r"), add("h"), add("s"), add("z")
	s.p = [2]string{add("p1"), add("p2")}
	s.in(s.r, "sysctl -qw net.ipv4.ip_forward=1")
	s.host("ip -n " + s.lan + " link add br0 type bridge mcast_snooping 0")
	s.host("ip -n " + s.lan + " link set br0 up")
	for i, n := range []string{s.h, s.s, s.p[0], s.p[1]} {
		s.plug(n, "e", fmt.Sprint("l", i), s.lan)
	}
	for i, n := range []string{s.p[0], s.p[1], s.z} {
		s.uplink(n, i+1)
	}
	return s
}

// plug joins a host to a bridge br0.
func (s *street) plug(host, name, leg, bridge string) {
	s.t.Helper()
	s.host(fmt.Sprintf("ip link add %s netns %s type veth peer name %s netns %s", name, host, leg, bridge))
	s.host(fmt.Sprintf("ip -n %s link set %s master br0 up", bridge, leg))
	s.host(fmt.Sprintf("ip -n %s link set %s up", host, name))
}

// uplink joins a host to the router as 10.77.i.1.
func (s *street) uplink(host string, i int) {
	s.t.Helper()
	s.host(fmt.Sprintf("ip link add u netns %s type veth peer name u%d netns %s", host, i, s.r))
	s.host(fmt.Sprintf("ip -n %s addr add 10.77.%d.1/24 dev u", host, i))
	s.host(fmt.Sprintf("ip -n %s addr add 10.77.%d.254/24 dev u%d", s.r, i, i))
	s.host(fmt.Sprintf("ip -n %s link set u up", host))
	s.host(fmt.Sprintf("ip -n %s link set u%d up", s.r, i))
	s.host(fmt.Sprintf("ip -n %s route add default via 10.77.%d.254", host, i))
}

// start starts an agent in a namespace.
func (s *street) start(name, ns, key string, i int, more ...string) *process {
	s.t.Helper()
	args := append([]string{"--listen", fmt.Sprintf("10.77.%d.1:4747", i), "--beacon=off"}, more...)
	for _, a := range s.agents {
		args = append(args, "--bootstrap", a.bootstrap())
		break
	}
	a := startAgentIn(s.t, ns, key, name, args...)
	s.t.Cleanup(func() {
		if said := a.said(); s.t.Failed() {
			s.t.Logf("%s said:\n%s", name, said[max(len(said)-4000, 0):])
		}
	})
	a.bootstrap()
	s.agents[name] = a
	return a
}

// role returns an agent's first port's role.
func (d *process) role() string {
	v, err := d.status()
	if err != nil || len(v.Ports) == 0 {
		return fmt.Sprint(err)
	}
	return v.Ports[0].Role
}

// roles returns an error until those of some agents are as wanted, in any order.
func roles(want []string, all ...*process) error {
	var is []string
	for _, a := range all {
		is = append(is, a.role())
	}
	if slices.Sort(is); !slices.Equal(is, want) {
		return fmt.Errorf("roles %v, want %v", is, want)
	}
	return nil
}

// forwarder returns which of two agents forwards, and the other.
func forwarder(a, b *process) (is, other *process) {
	if a.role() == "forwarding" {
		return a, b
	}
	return b, a
}

// A caller sends numbered frames at a place, and counts those that come.
type caller struct {
	t    *testing.T
	fd   int
	mac  overlay.MAC
	from byte

	mu   sync.Mutex
	sent map[byte]uint32    // by whom they are for
	got  map[uint64]int     // copies, by sender, for whom, and number
	last map[byte]time.Time // when one came, by sender and whether it was for all
}

const (
	testType = 0x9000 // configuration testing
	toAll    = 0xff
)

// newCaller opens a socket on an interface of a namespace; from is its name.
func (s *street) newCaller(ns, device string, from byte) *caller {
	s.t.Helper()
	c := &caller{t: s.t, from: from, sent: make(map[byte]uint32), got: make(map[uint64]int), last: make(map[byte]time.Time)}
	s.within(ns, func() error {
		i, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		c.mac = overlay.MAC(i.HardwareAddr)
		const kind = testType>>8 | testType&0xff<<8
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, kind); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(c.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
		_ = unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50000})
		return unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: kind, Ifindex: i.Index})
	})
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() { c.receive(stop) })
	s.t.Cleanup(func() { close(stop); done.Wait(); _ = unix.Close(c.fd) })
	return c
}

func (c *caller) receive(stop chan struct{}) {
	for b := make([]byte, 2000); ; {
		select {
		case <-stop:
			return
		default:
		}
		n, err := unix.Read(c.fd, b)
		if err != nil || n < 20 || overlay.MAC(b[:6]) != c.mac && overlay.MAC(b[:6]) != overlay.Broadcast {
			continue
		}
		c.mu.Lock()
		c.got[uint64(b[14])<<40|uint64(b[15])<<32|uint64(binary.BigEndian.Uint32(b[16:]))]++
		who := b[14]
		if b[15] == toAll {
			who |= 0x80
		}
		c.last[who] = time.Now()
		c.mu.Unlock()
	}
}

// send sends a frame to a station, called to, or to all.
func (c *caller) send(at overlay.MAC, to byte) {
	c.mu.Lock()
	c.sent[to]++
	number := c.sent[to]
	c.mu.Unlock()
	f := binary.BigEndian.AppendUint16(append(append(make([]byte, 0, 60), at[:]...), c.mac[:]...), testType)
	f = binary.BigEndian.AppendUint32(append(f, c.from, to), number)
	_, _ = unix.Write(c.fd, f[:60])
}

// callEachOther has two callers send to each other and to all until the test ends.
func callEachOther(t *testing.T, a, b *caller) {
	stop := make(chan struct{})
	var done sync.WaitGroup
	for _, c := range [][2]*caller{{a, b}, {b, a}} {
		done.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
					c[0].send(overlay.Broadcast, toAll)
					c[0].send(c[1].mac, c[1].from)
				}
			}
		})
	}
	t.Cleanup(func() { close(stop); done.Wait() })
}

// copies returns how many frames came, and how many of them more than once, and forgets them.
func (c *caller) copies() (frames, again, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.got {
		frames++
		if n > 1 {
			again += n - 1
		}
		most = max(most, n)
	}
	clear(c.got)
	return frames, again, most
}

// silence waits until frames came again from another caller, for all and for c, and
// returns how long it took after began; so none may come meanwhile that were under way.
func (c *caller) silence(from byte, began time.Time) time.Duration {
	c.t.Helper()
	after := began.Add(500 * time.Millisecond)
	eventually(c.t, 20*time.Second, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.last[from].Before(after) || c.last[from|0x80].Before(after) {
			return errors.New("silent")
		}
		return nil
	})
	return time.Since(began)
}

// once sees that frames came to all of some callers, and none of them twice.
func once(t *testing.T, when string, all ...*caller) {
	t.Helper()
	for _, c := range all {
		frames, again, most := c.copies()
		t.Logf("%s: %d frames came to %c, %d again, one of them %d times", when, frames, c.from, again, most)
		if again > 0 || frames < 100 {
			t.Errorf("%s: %d frames came to %c, %d again", when, frames, c.from, again)
		}
	}
}

// Of two proxies on a LAN one forwards, whatever happens to the wide area between them. When
// it is frozen or killed the other one does; when it wakes it forwards nothing.
func TestTwoProxies(t *testing.T) {
	t.Parallel()
	alive, steady, frozen := 2*time.Second, 2*time.Second, 4*time.Second
	if os.Getenv("FARLAN_LONG") != "" {
		alive, steady, frozen = 10*time.Minute, time.Minute, 30*time.Second
	}
	s := newStreet(t)
	key := newKeyFile(t)
	far := s.start("z", s.z, key, 3, "--tap", "t")
	one, two := s.start("p1", s.p[0], key, 1, "--lan", "e"), s.start("p2", s.p[1], key, 2, "--lan", "e")
	eventually(t, 15*time.Second, func() error {
		return errors.Join(far.sees(3), one.sees(3), two.sees(3), roles([]string{"forwarding", "standby"}, one, two))
	})
	s.reachesHosts(one, two)
	h, z, sniffer := s.newCaller(s.h, "e", 'h'), s.newCaller(s.z, "t", 'z'), s.newCaller(s.s, "e", 's')
	callEachOther(t, h, z)
	h.silence('z', time.Now())
	z.silence('h', time.Now())
	all := []*caller{h, z, sniffer}
	for _, c := range all {
		c.copies()
	}
	time.Sleep(alive)
	once(t, "both alive", all...)
	s.drop("between", "ip saddr 10.77.1.1 ip daddr 10.77.2.1")
	s.drop("back", "ip saddr 10.77.2.1 ip daddr 10.77.1.1")
	time.Sleep(steady)
	s.drop("between", "")
	s.drop("back", "")
	time.Sleep(steady)
	once(t, "the wide area cut between them, and whole again", all...)
	is, other := forwarder(one, two)
	s.freeze(is, other, frozen, h, z, sniffer)

	is, other = forwarder(one, two)
	began := time.Now()
	is.kill()
	took := max(h.silence('z', began), z.silence('h', began))
	t.Logf("after kill -9 of %s frames come again after %v", is.name, took)
	if took > 3*time.Second {
		t.Errorf("frames come again after %v", took)
	}
	time.Sleep(time.Second)
	once(t, "one killed", all...)
	is.start()
	is.bootstrap()
	eventually(t, 15*time.Second, func() error { return errors.Join(is.sees(3), roles([]string{"forwarding", "standby"}, one, two)) })
	time.Sleep(time.Second)
	once(t, "it is back", all...)
	s.leave(other, h, z)
}

// reachesHosts sees that the far site and both proxies' hosts reach each other, whichever of
// them forwards.
func (s *street) reachesHosts(one, two *process) {
	s.t.Helper()
	for i, host := range []string{s.h, s.p[0], s.p[1]} {
		s.host(fmt.Sprintf("ip -n %s addr add 10.80.0.%d/24 dev e", host, i+1))
	}
	s.host("ip -n " + s.z + " addr add 10.80.0.9/24 dev t")
	for i := range 3 {
		out := s.in(s.z, fmt.Sprintf("ping -c3 -i0.2 -W2 10.80.0.%d", i+1))
		if strings.Contains(out, "DUP!") {
			s.t.Errorf("answers come twice:\n%s", out)
		}
	}
	for i, host := range []string{s.p[0], s.p[1]} {
		if out := s.in(host, "ping -c3 -i0.2 -W2 10.80.0.9"); strings.Contains(out, "DUP!") {
			s.t.Errorf("answers come twice to p%d:\n%s", i+1, out)
		}
	}
	for _, a := range []*process{one, two} {
		if h, err := a.health("loop"); err != nil || !h.OK {
			s.t.Errorf("%s says %+v, %v", a.name, h, err)
		}
	}
}

// freeze stops who forwards for a while, and sees what it does when it wakes.
func (s *street) freeze(is, other *process, long time.Duration, h, z, sniffer *caller) {
	t := s.t
	t.Helper()
	began := time.Now()
	_ = is.cmd.Process.Signal(syscall.SIGSTOP)
	took := max(h.silence('z', began), z.silence('h', began))
	t.Logf("%s is frozen: frames come again after %v", is.name, took)
	time.Sleep(time.Until(began.Add(long)))
	if took > 3*time.Second {
		t.Errorf("frames come again after %v", took)
	}
	once(t, "one frozen", h, z, sniffer)
	_ = is.cmd.Process.Signal(syscall.SIGCONT)
	eventually(t, 10*time.Second, func() error { return roles([]string{"forwarding", "standby"}, is, other) })
	time.Sleep(time.Second)
	if other.role() != "forwarding" {
		t.Errorf("who woke has taken over")
	}
	for _, c := range []*caller{h, z, sniffer} {
		frames, again, most := c.copies()
		t.Logf("it woke: %d frames came to %c, %d again, one of them %d times", frames, c.from, again, most)
		if again > overlay.BatchFrames || most > 2 {
			t.Errorf("it woke: %d frames came to %c again, one of them %d times", again, c.from, most)
		}
	}
}

// leave ends who forwards in order: the other one goes on at once.
func (s *street) leave(is *process, h, z *caller) {
	began := time.Now()
	if err := is.stop(); err != nil {
		s.t.Error(err)
	}
	took := max(h.silence('z', began), z.silence('h', began))
	s.t.Logf("after %s left frames come within %v", is.name, took)
}
