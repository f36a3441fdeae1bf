package agent

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// A pace is how often machines of a chatter do what.
type pace struct {
	lasts     time.Duration
	boot      time.Duration // in which all start
	talk      time.Duration // between two conversations of one, on average
	remember  time.Duration // for how long one knows where another is: gc_stale_time, 60 s (arp(7))
	leastLess float64       // how many times fewer bytes of broadcast cross once all run
}

// A chatter is the machines of five sites, 40 at each, that ask for each other by ARP and say
// and look for services by multicast DNS. They talk to a gateway half of the time, to one of five
// others otherwise, and one time of fifty to one that isn't there.
type chatter200 struct {
	t       *testing.T
	pace    pace
	rng     *rand.Rand
	start   time.Time
	now     time.Duration
	sites   []*chatterSite
	vms     []*chatterVM
	truth   map[netip.Addr]overlay.MAC
	changed map[netip.Addr]time.Duration
	in      chan chatterFrame
	events  chatterEvents
	order   int

	asked, answered, lost, wrong, ghosts int
	bytes                                [2]chatterBytes // while all start, and after
}

// chatterBytes are those of Ethernet frames that came from other sites.
type chatterBytes struct{ arp, mdns, other, alone int }

func (b chatterBytes) broadcast() int { return b.arp + b.mdns }
func (b chatterBytes) all() int       { return b.broadcast() + b.alone }

type chatterSite struct {
	index, fd int
	vms       []*chatterVM
}

type chatterFrame struct {
	site  *chatterSite
	frame []byte
}

type chatterVM struct {
	site     *chatterSite
	mac      overlay.MAC
	ip       netip.Addr
	up       bool
	friends  []netip.Addr
	cache    map[netip.Addr]time.Duration // since when it knows
	asking   map[netip.Addr]int           // how often it asked
	serves   bool
	browses  bool
	services map[string]bool
	said     time.Duration // its service by multicast DNS, last
	says     bool          // it is about to
}

type chatterEvent struct {
	at    time.Duration
	order int
	do    func()
}

type chatterEvents []chatterEvent

func (e chatterEvents) Len() int { return len(e) }
func (e chatterEvents) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e chatterEvents) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *chatterEvents) Push(x any)   { *e = append(*e, x.(chatterEvent)) }
func (e *chatterEvents) Pop() any {
	x := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return x
}

const chatterSites, chatterVMs = 5, 40

func newChatter(t *testing.T, s *sites, agents *crowd, p pace) *chatter200 {
	t.Helper()
	c := &chatter200{t: t, pace: p, rng: rand.New(rand.NewPCG(1, 1)), truth: make(map[netip.Addr]overlay.MAC), changed: make(map[netip.Addr]time.Duration), in: make(chan chatterFrame, 4096)}
	for i := range chatterSites {
		site := &chatterSite{index: i}
		s.within(agents.ns, func() (err error) { site.fd, err = openPacketSocket(fmt.Sprint("t", i)); return err })
		t.Cleanup(func() { _ = unix.Close(site.fd) })
		c.sites = append(c.sites, site)
		for j := range chatterVMs {
			k := i*chatterVMs + j
			vm := &chatterVM{
				site: site, mac: overlay.MAC{2, 0, 0, 1, byte(i), byte(j)}, ip: netip.AddrFrom4([4]byte{10, 80, byte(i), byte(j + 1)}),
				cache: make(map[netip.Addr]time.Duration), asking: make(map[netip.Addr]int), services: make(map[string]bool),
				serves: k%4 == 0, browses: k%5 == 0, said: -time.Hour,
			}
			site.vms, c.vms = append(site.vms, vm), append(c.vms, vm)
			c.truth[vm.ip] = vm.mac
		}
	}
	for _, vm := range c.vms {
		for range 5 {
			vm.friends = append(vm.friends, c.vms[c.rng.IntN(len(c.vms))].ip)
		}
		c.after(time.Duration(c.rng.Int64N(int64(p.boot))), func() { c.boot(vm) })
	}
	for i := range 3 { // an address is taken over by another machine, at another site
		c.after(p.boot+p.lasts/4*time.Duration(i+1)/2, func() { c.takeOver(c.vms[7+11*i], c.vms[100+13*i]) })
	}
	return c
}

// openPacketSocket opens a socket that takes what enters this namespace by an interface.
func openPacketSocket(name string) (fd int, err error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return -1, err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
		return -1, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000})
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
	}
	return fd, err
}

func (c *chatter200) after(d time.Duration, do func()) {
	c.order++
	heap.Push(&c.events, chatterEvent{c.now + d, c.order, do})
}

// run lets all of it happen.
func (c *chatter200) run() {
	done := make(chan struct{})
	ended := make(chan struct{}, len(c.sites))
	for _, s := range c.sites {
		go func() {
			defer func() { ended <- struct{}{} }()
			b := make([]byte, 4096)
			for {
				select {
				case <-done:
					return
				default:
				}
				n, from, err := unix.Recvfrom(s.fd, b, 0)
				if ll, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && ll.Pkttype != unix.PACKET_OUTGOING {
					c.in <- chatterFrame{s, slices.Clone(b[:n])}
				}
			}
		}()
	}
	c.start = time.Now()
	for c.now < c.pace.lasts {
		next := c.pace.lasts
		if len(c.events) > 0 {
			next = min(next, c.events[0].at)
		}
		select {
		case f := <-c.in:
			c.now = time.Since(c.start)
			c.arrive(f)
		case <-time.After(next - time.Since(c.start)):
			c.now = time.Since(c.start)
			for len(c.events) > 0 && c.events[0].at <= c.now {
				heap.Pop(&c.events).(chatterEvent).do()
			}
		}
	}
	close(done)
	for range c.sites {
		<-ended
	}
}

// arrive counts a frame that came from another site, or from the agent, and hands it on.
func (c *chatter200) arrive(f chatterFrame) {
	phase := 1
	if c.now < c.pace.boot+8*time.Second {
		phase = 0
	}
	h, b := overlay.Listen(f.frame), &c.bytes[phase]
	switch group := overlay.MAC(f.frame).Group(); {
	case group && h.Said == overlay.SaidARP:
		b.arp += len(f.frame)
	case group && h.Said == overlay.SaidMDNS:
		b.mdns += len(f.frame)
	case group:
		b.other += len(f.frame)
	case h.Said == overlay.SaidARP && h.Target.IsValid():
		b.alone += len(f.frame)
	}
	c.deliver(f.site, nil, f.frame, h)
}

// deliver hands a frame to those machines of a site whom it is for.
func (c *chatter200) deliver(s *chatterSite, but *chatterVM, frame []byte, h overlay.Heard) {
	dst := overlay.MAC(frame)
	if h.Said == overlay.SaidMDNS {
		c.deliverDNS(s, but, frame[h.At+8:])
		return
	}
	for _, vm := range s.vms {
		if vm != but && vm.up && (dst.Group() || dst == vm.mac) {
			c.take(vm, frame, h)
		}
	}
}

// send has a machine send a frame: it is on a bridge with the others of its site.
func (c *chatter200) send(vm *chatterVM, frame []byte) {
	if !vm.up {
		return
	}
	dst := overlay.MAC(frame)
	local := slices.ContainsFunc(vm.site.vms, func(o *chatterVM) bool { return o.mac == dst })
	if !local {
		if err := unix.Send(vm.site.fd, frame, 0); err != nil {
			c.t.Error(err)
		}
	}
	c.deliver(vm.site, vm, frame, overlay.Listen(frame))
}

func (vm *chatterVM) arp(dst overlay.MAC, operation byte, ip, target netip.Addr, of overlay.MAC) []byte {
	a, b := ip.As4(), target.As4()
	return slices.Concat(dst[:], vm.mac[:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, operation}, vm.mac[:], a[:], of[:], b[:])
}

// boot starts a machine: it looks whether its address is free, announces it (RFC 5227 § 1.1), does
// the same with its name (RFC 6762 § 8), and looks for services if it does.
func (c *chatter200) boot(vm *chatterVM) {
	vm.up = true
	c.send(vm, vm.arp(overlay.Broadcast, 1, vm.ip, vm.ip, overlay.MAC{})) // at once: else nobody may ask yet
	for i := range 3 {
		c.after(time.Duration(i)*1200*time.Millisecond, func() { c.send(vm, vm.arp(overlay.Broadcast, 1, netip.IPv4Unspecified(), vm.ip, overlay.MAC{})) })
	}
	for i := range 2 {
		c.after(4*time.Second+time.Duration(i)*2*time.Second, func() { c.send(vm, vm.arp(overlay.Broadcast, 1, vm.ip, vm.ip, overlay.MAC{})) })
	}
	c.takeName(vm)
	c.after(time.Duration(c.rng.Int64N(int64(c.pace.talk))), func() { c.converse(vm) })
}

// converse begins a conversation, and the next one a while later.
func (c *chatter200) converse(vm *chatterVM) {
	if !vm.up {
		return
	}
	to := c.vms[0].ip
	switch n := c.rng.IntN(50); {
	case n == 0:
		to = netip.AddrFrom4([4]byte{10, 80, 9, byte(1 + c.rng.IntN(20))})
	case n < 25:
		to = vm.friends[c.rng.IntN(len(vm.friends))]
	}
	since, known := vm.cache[to]
	if to != vm.ip && (!known || c.now-since >= c.pace.remember) && vm.asking[to] == 0 {
		delete(vm.cache, to)
		if _, there := c.truth[to]; there && c.isUp(to) {
			c.asked++
		}
		c.ask(vm, to)
	}
	c.after(time.Duration(c.rng.ExpFloat64()*float64(c.pace.talk)), func() { c.converse(vm) })
}

func (c *chatter200) isUp(ip netip.Addr) bool {
	return slices.ContainsFunc(c.vms, func(vm *chatterVM) bool { return vm.ip == ip && vm.up })
}

// ask asks for an address, three times at most, a second apart.
func (c *chatter200) ask(vm *chatterVM, to netip.Addr) {
	if !vm.up {
		return
	}
	if vm.asking[to]++; vm.asking[to] > 3 {
		delete(vm.asking, to)
		if _, there := c.truth[to]; there && c.isUp(to) {
			c.lost++
		}
		return
	}
	c.send(vm, vm.arp(overlay.Broadcast, 1, vm.ip, to, overlay.MAC{}))
	c.after(time.Second, func() {
		if _, known := vm.cache[to]; !known && vm.asking[to] > 0 {
			c.ask(vm, to)
		}
	})
}

// take is what a machine does with a frame.
func (c *chatter200) take(vm *chatterVM, frame []byte, h overlay.Heard) {
	switch {
	case h.Said != overlay.SaidARP:
	case h.Target == vm.ip && h.MAC != vm.mac:
		asker := netip.IPv4Unspecified() // of one that has no address yet
		if h.IP.IsValid() {
			asker, vm.cache[h.IP] = h.IP, c.now
		}
		c.send(vm, vm.arp(overlay.MAC(frame[6:12]), 2, vm.ip, asker, h.MAC))
	case !h.Target.IsValid() && vm.asking[h.IP] > 0:
		delete(vm.asking, h.IP)
		vm.cache[h.IP] = c.now
		is, there := c.truth[h.IP]
		switch at, moved := c.changed[h.IP]; {
		case !there:
			c.ghosts++
		case is != h.MAC && (!moved || c.now-at > time.Second):
			c.wrong++
		default:
			c.answered++
		}
	}
}

// takeOver has a machine take over another one's address.
func (c *chatter200) takeOver(from, to *chatterVM) {
	ip := from.ip
	from.ip, from.up = netip.AddrFrom4([4]byte{10, 80, 8, from.mac[5]}), false
	to.ip = ip
	c.truth[ip], c.changed[ip] = to.mac, c.now
	c.send(to, to.arp(overlay.Broadcast, 1, ip, ip, overlay.MAC{}))
}

// What 200 machines at five sites ask and tell all crosses far less with suppression than
// without, all that are there are found, and nobody else is.
func TestChatter(t *testing.T) {
	t.Parallel()
	needRoot(t)
	p := pace{lasts: 16 * time.Second, boot: 2 * time.Second, talk: time.Second, remember: 2 * time.Second, leastLess: 5}
	if os.Getenv("FARLAN_LONG") != "" {
		p = pace{lasts: 10 * time.Minute, boot: 30 * time.Second, talk: 20 * time.Second, remember: 60 * time.Second, leastLess: 10}
	}
	var got [2]*chatter200
	t.Run("both", func(t *testing.T) {
		for i, suppress := range []string{"off", "on"} {
			t.Run(suppress, func(t *testing.T) {
				t.Parallel()
				got[i] = chat(t, suppress, p)
			})
		}
	})
	if t.Failed() || got[0] == nil || got[1] == nil {
		return
	}
	for phase, name := range []string{"while all start", "after that"} {
		off, on := got[0].bytes[phase], got[1].bytes[phase]
		t.Logf("%s: bytes from other sites without suppression %+v, with %+v: ARP %.1f times less (%.1f with what went to owners alone), mDNS %.1f, both %.1f (%.1f)", name, off, on,
			times(off.arp, on.arp), times(off.arp, on.arp+on.alone), times(off.mdns, on.mdns), times(off.broadcast(), on.broadcast()), times(off.all(), on.all()))
	}
	off, on := got[0].bytes[1], got[1].bytes[1]
	for name, less := range map[string]float64{"ARP": times(off.arp, on.arp), "mDNS": times(off.mdns, on.mdns)} {
		if less < 5 {
			t.Errorf("%s: %.1f times less", name, less)
		}
	}
	if less := times(off.broadcast(), on.broadcast()); less < p.leastLess {
		t.Errorf("both: %.1f times less, want %.1f", less, p.leastLess)
	}
}

func times(a, b int) float64 { return math.Round(10*float64(a)/float64(max(b, 1))) / 10 }

func chat(t *testing.T, suppress string, p pace) *chatter200 {
	agents, s := newCrowd(t), &sites{t: t}
	s.in(agents.ns, "sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
	for i := range chatterSites {
		args := []string{"--tap", fmt.Sprint("t", i), "--suppress", suppress}
		if i > 0 {
			args = append(args, "--bootstrap", agents.agents[0].bootstrap())
		}
		agents.add(args...)
	}
	agents.see(agents.agents, chatterSites, 30*time.Second)
	c := newChatter(t, s, agents, p)
	c.run()
	t.Logf("%d of %d found, %d lost, %d wrong, %d that aren't there", c.answered, c.asked, c.lost, c.wrong, c.ghosts)
	for _, a := range agents.agents {
		v, err := a.status()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %+v, dropped %v", a.name, v.Floods, v.Drops)
	}
	if c.lost+c.wrong+c.ghosts > 0 || c.answered < c.asked/2 || c.asked < 500 {
		t.Errorf("not all is found, or not as it is")
	}
	for _, vm := range c.vms {
		want := chatterSites * chatterVMs / 4
		if vm.serves {
			want-- // its own
		}
		if vm.browses && vm.up && len(vm.services) < want {
			t.Errorf("%v sees %d of %d services", vm.mac, len(vm.services), want)
		}
	}
	return c
}
