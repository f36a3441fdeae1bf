package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/agent/lab/guest"
)

// moverMAC is the address of what moves in these tests.
const moverMAC = "02:fa:12:1a:00:77"

// A mover is a QEMU guest that moves from site to site.
type mover struct {
	t       *testing.T
	l       *Lab
	machine guest.Machine
	vm      *guest.VM
	site    string
	address netip.Addr
}

// newMover boots a guest at a site, with an address of home's and an echo server.
func newMover(t *testing.T, l *Lab, site string) *mover {
	t.Helper()
	if os.Getenv("FARLAN_CACHE") == "" {
		cache, err := filepath.Abs("../../.cache")
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("FARLAN_CACHE", cache)
	}
	cache, err := guest.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	k, err := guest.FetchKernel(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	m := &mover{t: t, l: l, site: site, machine: guest.Machine{Kernel: k, Initrd: l.path("mover.gz"), Append: "farlan.host=mover"}}
	if err := guest.BuildInitrd(t.Context(), k, guestStart, m.machine.Initrd); err != nil {
		t.Fatal(err)
	}
	for _, h := range l.hosts(func(h Host) bool { return h.Kind == KindFar }) {
		s, err := openSpace(h.Namespace)
		if err == nil {
			err = s.tap("mover", h.bridge())
			s.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	m.vm = m.start(site)
	ctx := within(t, time.Minute)
	if err := m.vm.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	_, lease, _ := strings.Cut(m.vm.Log("console.log"), "farlan-guest: lease ")
	address, _, _ := strings.Cut(lease, " ")
	if m.address, err = netip.ParseAddr(address); err != nil {
		t.Fatalf("the guest has no lease: %v: %s", err, m.vm.Log("console.log"))
	}
	if _, err := m.vm.Run(ctx, "nc -ll -p 7 -e cat >/dev/null 2>&1 &"); err != nil {
		t.Fatal(err)
	}
	return m
}

// start starts a QEMU at a site.
func (m *mover) start(site string, more ...string) (v *guest.VM) {
	m.t.Helper()
	dir, err := os.MkdirTemp(m.l.Options.Dir, "m")
	if err != nil {
		m.t.Fatal(err)
	}
	machine := m.machine
	machine.Devices = append(guest.TAP("mover", moverMAC), more...)
	err = inNamespace(m.l.mustHost(m.t, site).Namespace, func() (err error) {
		v, err = guest.Start(within(m.t, time.Minute), machine, dir)
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { v.Close() })
	return v
}

// migrate moves the running guest to another site, and returns when it was stopped here and
// went on there, and the down time that QEMU tells.
func (m *mover) migrate(to string) (stop, resume time.Time, down time.Duration) {
	m.t.Helper()
	ctx := within(m.t, 2*time.Minute)
	since := time.Now()
	from, there := m.transfer(to, migrateRate)
	resumed, err := there.Control.Await(ctx, "RESUME", since)
	if err != nil {
		m.t.Fatal(err)
	}
	stopped, err := from.Control.Await(ctx, "STOP", since)
	if err != nil {
		m.t.Fatal(err)
	}
	down = m.completed(from)
	if err := from.Close(); err != nil {
		m.t.Fatal(err)
	}
	return stopped.At, resumed.At, down
}

// migrateStopped is migrate of a guest that is stopped all the time; meanwhile is called when it
// is.
func (m *mover) migrateStopped(to string, meanwhile func()) (stop, resume time.Time) {
	m.t.Helper()
	ctx := within(m.t, 2*time.Minute)
	if err := m.vm.Control.Do(ctx, "stop", nil, nil); err != nil {
		m.t.Fatal(err)
	}
	stop = time.Now()
	meanwhile()
	from, there := m.transfer(to, 100*migrateRate)
	m.completed(from)
	resume = time.Now()
	if err := there.Control.Do(ctx, "cont", nil, nil); err != nil {
		m.t.Fatal(err)
	}
	if err := from.Close(); err != nil {
		m.t.Fatal(err)
	}
	return stop, resume
}

// transfer begins the guest's migration to another site at a rate in bytes a second, and returns
// its QEMUs here and there.
func (m *mover) transfer(to string, rate int) (from, there *guest.VM) {
	m.t.Helper()
	ctx := within(m.t, time.Minute)
	uri := "unix:" + m.l.path("migrate-"+to)
	from, there = m.vm, m.start(to, "-incoming", uri)
	limits := map[string]int{"max-bandwidth": rate, "downtime-limit": 200}
	if err := from.Control.Do(ctx, "migrate-set-parameters", limits, nil); err != nil {
		m.t.Fatal(err)
	}
	if err := from.Control.Do(ctx, "migrate", map[string]string{"uri": uri}, nil); err != nil {
		m.t.Fatal(err)
	}
	m.vm, m.site = there, to
	return from, there
}

// completed waits until QEMU says that a migration is, and returns the down time that it tells.
func (m *mover) completed(from *guest.VM) time.Duration {
	m.t.Helper()
	var s struct {
		Status string `json:"status"`
		Down   int    `json:"downtime"` // in ms
	}
	eventually(m.t, time.Minute, func() error {
		if err := from.Control.Do(within(m.t, time.Minute), "query-migrate", nil, &s); err != nil || s.Status == "completed" {
			return err
		}
		return fmt.Errorf("it is %s", s.Status)
	})
	return time.Duration(s.Down) * time.Millisecond
}

// migrateRate is the rate of migrations in bytes a second, 400 Mbit/s: without a limit a guest
// as small as ours stops for hardly longer than nothing.
const migrateRate = 50e6

// other returns the site to move to.
func other(site string) string {
	if site == "site1" {
		return "site2"
	}
	return "site1"
}

// rounds is how often the tests of moves move.
func rounds() int {
	if os.Getenv("FARLAN_LONG") != "" {
		return 5
	}
	return 1
}

// moveGoal is how long at most, by the median, a machine that moves is away beyond what its
// hypervisor stops it, or after it says where it is. A single move on a machine that runs
// other tests may take moveBusy.
const moveGoal, moveBusy = 200 * time.Millisecond, 2 * time.Second

// judge complains of outages that are longer than they may be.
func judge(t *testing.T, what string, outages []time.Duration) {
	t.Helper()
	slices.Sort(outages)
	median, goal := outages[len(outages)/2], moveGoal
	if len(outages) == 1 {
		goal = moveBusy
	}
	t.Logf("%s: median %v of %v", what, median.Round(time.Millisecond), outages)
	if median > goal {
		t.Errorf("%s: %v is more than %v", what, median, goal)
	}
}

// settled waits until traffic has gone on for a while without a gap.
func settled(t *testing.T, b *beat) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		if d, _, ok := b.gap(time.Now().Add(-time.Second)); !ok || d > 5*beatEvery {
			return fmt.Errorf("no answers for %v", d)
		}
		return nil
	})
}

// maxAway bounds the wait for a machine that has moved.
const maxAway = time.Minute

// liveMigrations moves a guest from site to site, and returns how long it was away each time
// beyond the time that QEMU stopped it, and what was asked of it. Those moves that are
// prepared are told to the agents before.
func liveMigrations(t *testing.T, m *mover, prepared bool) (beyond []time.Duration, all asked) {
	t.Helper()
	b := m.l.mustHost(t, "host-a").beats(t, m.address)
	count := rounds()
	if prepared && count > 3 {
		count = 3 // others follow, and five in three minutes are too many for one machine
	}
	for range count {
		settled(t, b)
		from := m.site
		if prepared {
			m.prepare(other(m.site))
		}
		stop, resume, told := m.migrate(other(m.site))
		err := poll(within(t, maxAway), 20*time.Millisecond, func() error {
			_, err := b.answered(resume)
			return err
		})
		if err != nil {
			t.Log(err)
			beyond = append(beyond, maxAway)
			break
		}
		time.Sleep(500 * time.Millisecond) // late ones and second ones
		gap, end, _ := b.gap(stop)
		beyond = append(beyond, gap-resume.Sub(stop))
		away, answered := b.between(stop.Add(-oneWay), resume.Add(-oneWay)) // what arrived while it was stopped
		all.away, all.kept = all.away+away, all.kept+answered
		t.Logf("%s to %s: away %v, until %v after it went on; QEMU stopped it for %v, and says %v; %d of %d that came meanwhile were answered", from, m.site,
			gap.Round(time.Millisecond), end.Sub(resume).Round(time.Millisecond), resume.Sub(stop).Round(time.Millisecond), told, answered, away)
	}
	b.end()
	sent, answered, twice := b.counts()
	t.Logf("%d of %d answered, %d twice", answered, sent, twice)
	all.lost, all.twice = sent-answered, twice
	return beyond, all
}

// asked is what became of what was asked of a machine that moves.
type asked struct {
	lost, twice int
	away, kept  int // asked while it was stopped, and of those answered
}

// oneWay is what a frame takes between two sites.
const oneWay = 25 * time.Millisecond

// prepare tells the agents that the guest will move.
func (m *mover) prepare(to string) {
	m.t.Helper()
	args := []string{"vm", "prepare", moverMAC, "--json"}
	at := to
	if to == "site2" { // either may be told
		at, args = m.site, append(args, to)
	}
	b, err := m.l.farlan(within(m.t, 10*time.Second), at, args...)
	var v struct {
		State    string `json:"state"`
		From, To string
	}
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil || v.State != "prepared" || v.From != m.site || v.To != to {
		m.t.Fatalf("prepare: %v: %s", err, b)
	}
}

// A guest that QEMU migrates from one far site to another is away hardly longer than QEMU
// stops it: what is open to it goes on, and nothing comes twice. With FARLAN_LONG it moves
// five times, and then with tinc instead, whose figures are printed.
func TestLiveMigration(t *testing.T) {
	t.Parallel()
	m, s := newTransfer(t)
	beyond, all := liveMigrations(t, m, false)
	s.goesOn(t)
	t.Logf("the transfer went on, %d KB", s.back>>10)
	if judge(t, "away beyond QEMU's down time", beyond); all.twice > 0 {
		t.Errorf("%d answers came twice", all.twice)
	}
	if rounds() > 1 {
		s.stop()
		m.l.tinc(t)
		beyond, _ = liveMigrations(t, m, false)
		t.Logf("tinc: away beyond QEMU's down time: %v", beyond)
	}
}

// When the agents are told of a migration before, what comes for the guest while it is stopped
// reaches it, too, and once: also when it is stopped for long, whether or not they are told when.
func TestPreparedMigration(t *testing.T) {
	t.Parallel()
	m, s := newTransfer(t)
	if rounds() > 1 {
		beyond, all := liveMigrations(t, m, true)
		if judge(t, "prepared, away beyond QEMU's down time", beyond); all.twice > 0 {
			t.Errorf("%d answers came twice", all.twice)
		}
	}
	b := m.l.mustHost(t, "host-a").beats(t, m.address)
	for _, commit := range []bool{false, true} {
		settled(t, b)
		from := m.site
		m.prepare(other(from))
		stop, resume := m.migrateStopped(other(from), func() {
			defer time.Sleep(600 * time.Millisecond) // as with more memory
			if !commit {
				return
			}
			if _, err := m.l.farlan(within(t, 10*time.Second), from, "vm", "commit", moverMAC); err != nil {
				t.Fatal(err)
			}
		})
		s.goesOn(t)
		settled(t, b)
		away, answered := b.between(stop.Add(-oneWay), resume.Add(-oneWay))
		t.Logf("told when it stopped, %v: of %d that came in %v %d were answered", commit, away, resume.Sub(stop).Round(time.Millisecond), answered)
		if answered < away*9/10 {
			t.Error("those are too few")
		}
	}
	b.end()
	if _, _, twice := b.counts(); twice > 0 {
		t.Errorf("%d answers came twice", twice)
	}
}

// newTransfer returns a guest of a lab's that a home host talks with.
func newTransfer(t *testing.T) (*mover, *stream) {
	t.Helper()
	o := testOptions(t)
	o.Sites, o.VMs = 3, 0
	l := up(t, o)
	m := newMover(t, l, "site1")
	s := l.mustHost(t, "host-a").streams(t, netip.AddrPortFrom(m.address, 7))
	s.goesOn(t)
	return m, s
}

// A machine in a namespace, whose cable is moved from one site's bridge to another's.
type cabled struct {
	t    *testing.T
	l    *Lab
	host Host
	site string
}

func newCabled(t *testing.T, l *Lab, site string) *cabled {
	t.Helper()
	h := Host{Name: "mover", Namespace: namespaceName(l.Options.Name, "mover"), MAC: moverMAC, Address: lanAddress(77)}
	if err := addNamespace(h.Namespace); err != nil {
		t.Fatal(err)
	}
	if err := setSysctl(h.Namespace, "net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
		t.Fatal(err) // else it speaks up by itself
	}
	near, err := openSpace(l.mustHost(t, site).Namespace)
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := openSpace(h.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	hw, _ := net.ParseMAC(moverMAC)
	if err := near.cable("mover", "br0", far, "eth0", hw); err != nil {
		t.Fatal(err)
	}
	if err := far.address("eth0", netip.PrefixFrom(h.Address, lan.Bits())); err != nil {
		t.Fatal(err)
	}
	return &cabled{t, l, h, site}
}

// move puts the cable into another site's bridge, has the machine say so by a frame, and
// returns when it did.
func (c *cabled) move(to string, frame []byte) time.Time {
	c.t.Helper()
	near, err := openSpace(c.l.mustHost(c.t, c.site).Namespace)
	if err != nil {
		c.t.Fatal(err)
	}
	defer near.Close()
	far, err := openSpace(c.l.mustHost(c.t, to).Namespace)
	if err != nil {
		c.t.Fatal(err)
	}
	defer far.Close()
	link, err := near.link("mover")
	if err == nil {
		err = near.nl.LinkSetNsFd(link, int(far.ns))
	}
	if err == nil {
		err = far.port("mover", "br0")
	}
	if err == nil {
		err = far.up("mover")
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.site = to
	eventually(c.t, 10*time.Second, func() error { return forwards(c.l.mustHost(c.t, to).Namespace) })
	var at time.Time
	err = inNamespace(c.host.Namespace, func() error {
		at = time.Now()
		return sendFrame("eth0", frame)
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return at
}

// forwards complains if the bridge port of the mover's cable doesn't let frames through yet.
func forwards(namespace string) error {
	return inNamespace(namespace, func() error {
		out, err := exec.Command("bridge", "link", "show", "dev", "mover").CombinedOutput()
		if err == nil && !strings.Contains(string(out), "state forwarding") {
			err = fmt.Errorf("bridge: %s", out)
		}
		return err
	})
}

// sendFrame sends a frame from an interface of the calling thread's namespace.
func sendFrame(name string, frame []byte) error {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: i.Index, Halen: 6})
}

// gratuitousARP returns the announcement of an address (RFC 5227 § 2.3).
func gratuitousARP(mac string, ip netip.Addr) []byte {
	hw, _ := net.ParseMAC(mac)
	f := slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, hw, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, hw, ip.AsSlice(), make([]byte, 6), ip.AsSlice())
	return append(f, make([]byte, 60-len(f))...)
}

// abruptMoves moves a machine from site to site, and returns how long after it said so it
// was there for home, and how many answers came twice.
func abruptMoves(t *testing.T, c *cabled) (after []time.Duration, twice int) {
	t.Helper()
	b := c.l.mustHost(t, "host-a").beats(t, c.host.Address)
	for range rounds() {
		settled(t, b)
		unplugged := time.Now() // what is asked from now on isn't answered where it was
		at := c.move(other(c.site), gratuitousARP(moverMAC, c.host.Address))
		var end time.Time
		err := poll(within(t, maxAway), 20*time.Millisecond, func() (err error) {
			end, err = b.answered(unplugged)
			return err
		})
		if err != nil {
			t.Log(err)
			after = append(after, maxAway)
			break
		}
		after = append(after, end.Sub(at))
	}
	b.end()
	asked, answered, twice := b.counts()
	t.Logf("%d of %d answered, %d twice", answered, asked, twice)
	return after, twice
}

// A machine that is plugged in elsewhere is there for all as soon as it says so. With
// FARLAN_LONG it moves five times, and then with tinc instead, whose figures are printed.
func TestAbruptMove(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.Sites, o.VMs = 3, 0
	l := up(t, o)
	c := newCabled(t, l, "site1")
	b := l.mustHost(t, "host-a").beats(t, c.host.Address)
	settled(t, b)
	b.end()
	checkVMCommands(t, l)
	after, twice := abruptMoves(t, c)
	if judge(t, "away after its announcement", after); twice > 0 {
		t.Errorf("%d answers came twice", twice)
	}
	if rounds() > 1 {
		l.tinc(t)
		after, _ = abruptMoves(t, c)
		t.Logf("tinc: away after its announcement: %v", after)
	}
}

// What can't be prepared is said with the exit code for it.
func checkVMCommands(t *testing.T, l *Lab) {
	t.Helper()
	for _, x := range []struct {
		at   string
		args []string
		code int
		says string
	}{
		{"site1", []string{"prepare", "02:00:00:00:00:99", "site2"}, 5, "no such station"},
		{"site1", []string{"prepare", moverMAC, "nowhere"}, 5, "no such peer"},
		{"site1", []string{"prepare", moverMAC}, 2, "name the agent"},
		{"home", []string{"prepare", moverMAC, "site2"}, 2, "isn't here"},
		{"site1", []string{"commit", moverMAC}, 5, "isn't prepared"},
		{"site1", []string{"abort", moverMAC}, 5, "isn't prepared"},
		{"site1", []string{"prepare", moverMAC, "site2", "--lease", "2h"}, 2, "--lease"},
		{"site1", []string{"prepare", moverMAC, "site2"}, 0, ""},
		{"site2", []string{"abort", moverMAC}, 0, ""},
	} {
		_, err := l.farlan(within(t, 20*time.Second), x.at, append([]string{"vm"}, x.args...)...)
		code := 0
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			code = exit.ExitCode()
		}
		if code != x.code || err != nil && !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: vm %v: exit code %d, %v", x.at, x.args, code, err)
		}
	}
	eventually(t, 5*time.Second, func() error { // site2's word ended it at site1
		if _, err := l.farlan(within(t, 20*time.Second), "site1", "vm", "abort", moverMAC); err == nil {
			return errors.New("it was still prepared")
		}
		return nil
	})
}

// tinc has tinc join the sites' bridges instead of the agents, with its own defaults.
func (l *Lab) tinc(t *testing.T) {
	t.Helper()
	hosts := l.hosts(func(h Host) bool { return h.Kind == KindRouter || h.Kind == KindFar })
	for _, h := range hosts {
		if err := l.stopAgent(within(t, time.Minute), h.Site); err != nil {
			t.Fatal(err)
		}
		conf := fmt.Sprintf("Name = %s\nMode = switch\nAddressFamily = ipv4\nInterface = tinc\n", h.Site)
		if h.Site != homeSite {
			conf += "ConnectTo = home\n"
		}
		l.write(t, "tinc-"+h.Site+"/tinc.conf", conf)
		l.write(t, "tinc-"+h.Site+"/hosts/"+h.Site, fmt.Sprintf("Address = %v\n", h.WAN))
		if out, err := exec.Command("tincd", "-c", l.path("tinc-"+h.Site), "-K2048").CombinedOutput(); err != nil {
			t.Fatalf("tincd: %v: %s", err, out)
		}
	}
	for _, h := range hosts {
		for _, of := range hosts {
			key, err := os.ReadFile(l.path("tinc-" + of.Site + "/hosts/" + of.Site))
			if err != nil {
				t.Fatal(err)
			}
			l.write(t, "tinc-"+h.Site+"/hosts/"+of.Site, string(key))
		}
	}
	for _, h := range hosts {
		dir := l.path("tinc-" + h.Site)
		if _, err := l.run(h, Process{Name: "tinc-" + h.Site, Args: []string{"tincd", "-c", dir, "-D", "--pidfile", dir + "/pid"}}); err != nil {
			t.Fatal(err)
		}
		s, err := openSpace(h.Namespace)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, func() error { return errors.Join(s.up("tinc"), s.port("tinc", h.bridge())) })
		s.Close()
	}
}

// write writes a file of the lab's folder.
func (l *Lab) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(l.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
