package agent

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The goals of a large network, at each agent. What is idle is looked at manyIdle after
// the last one came, or as FARLAN_MANY_IDLE says, for manyWatch.
const (
	manyNewcomer    = 5 * time.Second // until it knows all
	manyConnections = 10              // for control
	manyBytes       = 8000            // a minute, sent and received for control, IP headers included
	manyMemory      = 40 << 20        // resident
	manyGoroutines  = 80
	manyReal        = 20 // processes of the real agent, of those of FARLAN_MANY
	manyIdle        = 4 * time.Minute
	manyWatch       = time.Minute
)

// Many agents, of which some are processes of their own and the others light members,
// find each other; a newcomer then knows all. FARLAN_MANY says how many there are; then
// what they cost at idle is measured, and compared with the goals.
func TestMany(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	count, real := 24, 4
	asked, err := strconv.Atoi(os.Getenv("FARLAN_MANY"))
	if err == nil {
		count, real = asked, min(manyReal, asked)
	}
	takeTurn(t)
	c := newCrowd(t)
	began := time.Now()
	seed := c.add().bootstrap()
	c.addLight(seed, count-real)
	for range real - 1 {
		c.add("--bootstrap", seed)
	}
	c.know(c.agents, count, 4*time.Minute)
	t.Logf("%d agents, of which %d are light members, know each other %v after the first was started", count, count-real, time.Since(began).Round(time.Millisecond))
	c.see(c.agents, count, 2*time.Minute)

	others := othersTime(t, c.processes())
	began = time.Now()
	newcomer := c.add("--bootstrap", seed)
	took := c.know([]*process{newcomer}, count+1, time.Minute)
	taken := othersTime(t, c.processes()) - others
	t.Logf("a newcomer knows all %v after it was started, of which other processes took %v", took.Round(time.Millisecond), taken)
	if took-taken > manyNewcomer {
		t.Errorf("more than %v", manyNewcomer)
	}
	c.see([]*process{newcomer}, count+1, time.Minute)
	t.Logf("and sees them up after %v", time.Since(began).Round(time.Millisecond))
	if asked > 0 {
		c.idle()
	}
}

// idle measures what the agents cost when nothing happens.
func (c *crowd) idle() {
	c.t.Helper()
	rest, err := time.ParseDuration(os.Getenv("FARLAN_MANY_IDLE"))
	if err != nil {
		rest = manyIdle
	}
	time.Sleep(rest)
	heard := c.listen(manyWatch)
	costs := []*cost{
		{name: "control connections", goal: manyConnections},
		{name: "bytes of control a minute", goal: manyBytes},
		{name: "datagrams of control a minute"},
		{name: "goroutines", goal: manyGoroutines},
		{name: "resident bytes", goal: manyMemory},
		{name: "resident bytes of its own"},
		{name: "resident bytes of files"},
	}
	for i, a := range c.agents {
		v, err := a.status()
		if err != nil {
			c.t.Fatal(err)
		}
		sum := heard[netip.MustParseAddr(c.address(i))]
		minute := func(n int) int { return n * int(time.Minute) / int(manyWatch) }
		m := a.resident("VmRSS", "RssAnon", "RssFile")
		for i, n := range []int{v.Control, minute(sum.bytes), minute(sum.datagrams), v.Goroutines, m[0], m[1], m[2]} {
			costs[i].each = append(costs[i].each, n)
		}
	}
	for _, x := range costs {
		slices.Sort(x.each)
		most := x.each[len(x.each)-1]
		c.t.Logf("%s: median %d, 9 of 10 at most %d, most %d, goal %d", x.name, x.each[len(x.each)/2], x.each[len(x.each)*9/10], most, x.goal)
		if x.goal > 0 && most > x.goal {
			c.t.Errorf("%s: an agent has %d, more than %d", x.name, most, x.goal)
		}
	}
}

// A cost is something of each agent's that should be at most goal, 0 if there is none.
type cost struct {
	name string
	goal int
	each []int
}

// addLight starts light members.
func (c *crowd) addLight(seed string, count int) {
	c.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(c.t.TempDir(), "light"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	p := &process{t: c.t, name: "light members", log: log.Name(), done: make(chan struct{})}
	p.cmd = exec.Command("ip", "netns", "exec", c.ns, self)
	p.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s %d", lightVariable, c.key, seed, c.address(10*perCrowdNet), count))
	p.cmd.Stderr, p.cmd.Stdout = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	c.light = p
	c.t.Cleanup(func() {
		select {
		case <-p.done:
			c.t.Errorf("light members ended: %v\n%s", p.err, p.said())
		default:
			p.kill()
		}
	})
}

// processes returns all that run for the crowd.
func (c *crowd) processes() []*process {
	if c.light == nil {
		return c.agents
	}
	return append(slices.Clone(c.agents), c.light)
}

// know waits until all of some agents list count members, itself included, in whatever
// state.
func (c *crowd) know(agents []*process, count int, limit time.Duration) time.Duration {
	c.t.Helper()
	start := time.Now()
	for _, a := range agents {
		eventually(c.t, limit-time.Since(start), func() error {
			var v peersView
			if err := a.client().call(context.Background(), "GET", "/peers", nil, &v); err != nil {
				return err
			}
			if len(v.Peers) < count {
				return fmt.Errorf("%s knows %d of %d", a.name, len(v.Peers), count)
			}
			return nil
		})
	}
	return time.Since(start)
}

// resident returns lines of the process's status, in bytes.
func (d *process) resident(names ...string) []int {
	d.t.Helper()
	return residentOf(d.t, d.cmd.Process.Pid, names...)
}

func residentOf(t *testing.T, pid int, names ...string) (out []int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		_, after, ok := strings.Cut(string(b), name+":")
		fields := strings.Fields(after)
		if !ok || len(fields) == 0 {
			t.Fatalf("no %s", name)
		}
		kib, err := strconv.Atoi(fields[0])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, kib<<10)
	}
	return out
}

// A traffic is what an address sent and received.
type traffic struct{ datagrams, bytes, sent int }

// listen counts for a while what is control traffic in the crowd's network: TCP, and the
// datagrams of UDP whose first byte is QUIC's.
func (c *crowd) listen(d time.Duration) map[netip.Addr]traffic {
	c.t.Helper()
	out := make(map[netip.Addr]traffic)
	c.hear(d, controlOnly, func(packet []byte) {
		for i, a := range [][]byte{packet[12:16], packet[16:20]} {
			addr, _ := netip.AddrFromSlice(a)
			x := out[addr]
			x.datagrams++
			x.bytes += int(binary.BigEndian.Uint16(packet[2:]))
			if i == 0 {
				x.sent += int(binary.BigEndian.Uint16(packet[2:]))
			}
			out[addr] = x
		}
	})
	return out
}

// hear calls each with the beginning of every IP packet in the crowd's network that a
// filter lets pass, for a while.
func (c *crowd) hear(d time.Duration, pass []bpf.Instruction, each func(packet []byte)) {
	c.t.Helper()
	fd, err := c.tap(pass)
	if err != nil {
		c.t.Fatal(err)
	}
	defer unix.Close(fd)
	b := make([]byte, 128)
	for end := time.Now().Add(d); time.Now().Before(end); {
		n, from, err := unix.Recvfrom(fd, b, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			c.t.Fatal(err)
		}
		at, ok := from.(*unix.SockaddrLinklayer)
		if !ok || n < 20 || at.Pkttype == unix.PACKET_OUTGOING { // it comes in, too
			continue
		}
		each(b[:n])
	}
	stats, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil || stats.Drops > 0 {
		c.t.Errorf("%+v packets, %v: the count is too small", stats, err)
	}
}

// controlOnly lets pass what is control traffic.
var controlOnly = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 9, Size: 1}, // protocol
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 4},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 4},
	bpf.LoadMemShift{Off: 0},
	bpf.LoadIndirect{Off: 8, Size: 1}, // the first byte behind UDP's header
	bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: 0xc0, SkipTrue: 1},
	bpf.RetConstant{Val: 128},
	bpf.RetConstant{Val: 0},
}

// tap opens a packet socket in the crowd's network that hears what a filter lets pass.
func (c *crowd) tap(pass []bpf.Instruction) (fd int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := netns.Get()
	if err != nil {
		return -1, err
	}
	defer own.Close()
	there, err := netns.GetFromName(c.ns)
	if err != nil {
		return -1, err
	}
	defer there.Close()
	if err = netns.Set(there); err != nil {
		return -1, err
	}
	const ip = unix.ETH_P_IP<<8&0xff00 | unix.ETH_P_IP>>8 // big endian
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err = cmp.Or(err, netns.Set(own)); err != nil {
		return fd, err
	}
	program, err := bpf.Assemble(pass)
	if err != nil {
		return fd, err
	}
	filter := make([]unix.SockFilter, len(program))
	for i, p := range program {
		filter[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	return fd, cmp.Or(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ip}),
	)
}
