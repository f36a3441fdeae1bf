package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"farlan/overlay"
	"farlan/overlay/nstest"
	"farlan/reserve"
	"farlan/reserve/nsi"
	"farlan/reserve/nsi/cs"
)

// memoryPorts are interfaces in memory.
type memoryPorts struct {
	mu    sync.Mutex
	ports map[uint16]netip.Prefix
	calls int
	fails error
}

func (m *memoryPorts) Attach(vlan uint16, a netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.calls++; m.fails != nil {
		return m.fails
	}
	m.ports[vlan] = a
	return nil
}

func (m *memoryPorts) Detach(vlan uint16) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.calls++; m.fails != nil {
		return m.fails
	}
	delete(m.ports, vlan)
	return nil
}

func (m *memoryPorts) Close() error { clear(m.ports); return nil }

// A circuitTest is an agent's ends, at agent 1 of three; the others' VLANs aren't its own.
type circuitTest struct {
	*circuitEnds
	t     *testing.T
	ports *memoryPorts
	now   overlay.Instant
	log   strings.Builder
}

var endsFile = &nsiFile{
	Path: "nsi.yaml", Device: "wan1", VLANs: cs.VLANs{{First: 100, Last: 999}},
	Config: nsi.Config{Subnet: netip.MustParsePrefix("10.98.0.0/16"), Ends: map[overlay.AgentID]nsi.End{{1}: {Device: "wan1"}, {2}: {}, {3}: {}, {4}: {}, {5}: {}}},
}

func newCircuitTest(t *testing.T) *circuitTest {
	c := &circuitTest{t: t, ports: &memoryPorts{ports: make(map[uint16]netip.Prefix)}, now: 1e12}
	c.circuitEnds = newCircuits(endsFile, overlay.AgentID{1}, c.ports, slog.New(slog.NewTextHandler(&c.log, nil)))
	return c
}

// says has an agent say a VLAN, with addresses 10.98.N.1 here and .2 there.
func (c *circuitTest) says(from byte, vlan uint16, n byte, lease time.Duration) error {
	return c.attach(c.now, overlay.AgentID{from}, appendAttachment(nil, attachment{
		vlan: vlan, here: netip.AddrFrom4([4]byte{10, 98, n, 1}), sender: netip.AddrFrom4([4]byte{10, 98, n, 2}), lease: lease,
	}))
}

func (c *circuitTest) after(d time.Duration) {
	c.now = c.now.Add(d)
	c.tick(c.now)
}

// has settles if that was asked for, and expects interfaces.
func (c *circuitTest) has(want ...uint16) {
	c.t.Helper()
	select {
	case <-c.wake:
		c.settle()
	default:
	}
	if got := slices.Sorted(maps.Keys(c.ports.ports)); !slices.Equal(got, want) {
		c.t.Errorf("attached are %v, want %v", got, want)
	}
}

var (
	nearMark = reserve.Mark{Device: "wan1.101", Source: netip.MustParseAddr("10.98.1.149"), Peer: netip.MustParseAddr("10.98.1.150")}
	farMark  = reserve.Mark{Device: "ens4.205", Source: nearMark.Peer, Peer: nearMark.Source}
)

func TestAttachmentForm(t *testing.T) {
	a := attachment{vlan: 101, here: netip.MustParseAddr("10.98.1.150"), sender: netip.MustParseAddr("10.98.1.149"), lease: 30 * time.Second}
	b := appendAttachment([]byte("x"), a)[1:]
	want := "\x81\x00\x00\x65\x0a\x62\x01\x96\x0a\x62\x01\x95\x00\x00\x75\x30"
	if string(b) != want {
		t.Errorf("%x, want %x", b, want)
	}
	for _, later := range []string{"", "what a later version appends"} {
		if got, err := parseAttachment(append(b, later...)); err != nil || got != a {
			t.Errorf("%+v, %v", got, err)
		}
	}
	for n := range b {
		if _, err := parseAttachment(b[:n]); !errors.Is(err, errAttachment) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if b[0] = 1; isAttachment(b) {
		t.Error("a broker's message is taken for one")
	}
}

func FuzzAttachment(f *testing.F) {
	f.Add(appendAttachment(nil, attachment{vlan: 101, here: nearMark.Source, sender: nearMark.Peer, lease: time.Minute}))
	f.Add([]byte{attachmentKind})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAttachment(b)
		if err != nil {
			return
		}
		if again := appendAttachment(nil, a); string(again[2:]) != string(b[2:attachmentLen]) {
			t.Errorf("%x is written as %x", b, again)
		}
		c := newCircuits(endsFile, overlay.AgentID{1}, nil, slog.New(slog.DiscardHandler))
		_ = c.attach(1, overlay.AgentID{2}, b)
		for vlan, e := range c.held {
			if !endsFile.VLANs.Has(vlan) || !endsFile.Config.Subnet.Contains(e.address.Addr()) || e.until.Sub(1) > maxAttachLease {
				t.Errorf("%x: VLAN %d %+v", b, vlan, e)
			}
		}
	})
}

// An end of another's circuit lasts as long as that says so, and changes with what it says.
func TestAttachedByAPeer(t *testing.T) {
	c := newCircuitTest(t)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	ok(c.says(2, 101, 1, attachLease))
	c.has(101)
	c.after(20 * time.Second)
	ok(c.says(2, 101, 1, attachLease))
	c.after(29 * time.Second)
	c.has(101)
	c.after(time.Second)
	c.has()
	ok(c.says(2, 101, 1, attachLease))
	ok(c.says(3, 102, 1, attachLease)) // the same addresses: they follow from others' VLANs
	c.has(101, 102)
	ok(c.says(2, 101, 7, attachLease))
	c.has(101, 102)
	if got := c.ports.ports[101]; got != netip.MustParsePrefix("10.98.7.1/30") {
		t.Error(got)
	}
	if err := c.says(3, 101, 1, attachLease); !errors.Is(err, reserve.ErrRefused) {
		t.Errorf("another's VLAN: %v", err)
	}
	if err := c.says(3, 101, 1, 0); !errors.Is(err, reserve.ErrRefused) {
		t.Errorf("another's VLAN is ended: %v", err)
	}
	ok(c.says(2, 101, 7, 0))
	ok(c.says(2, 101, 7, 0))
	c.has(102)
}

// The end of this agent's own circuit, and what it tells of the other one.
func TestOwnEnd(t *testing.T) {
	c := newCircuitTest(t)
	until := c.now.Add(time.Hour)
	own := func(want bool, until overlay.Instant) {
		t.Helper()
		if ready, err := c.own(c.now, nearMark, until); err != nil || ready != want {
			t.Errorf("ready: %v, %v", ready, err)
		}
	}
	own(false, until)
	c.has(101)
	own(true, until)
	want := attachment{vlan: 205, here: nearMark.Peer, sender: nearMark.Source, lease: attachLease}
	told := func(lease time.Duration) {
		t.Helper()
		want.lease = lease
		if got, err := parseAttachment(c.far(c.now, nearMark, farMark)); err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	told(attachLease)
	calls := c.ports.calls
	for range 10 { // the loop turns often
		own(true, until)
	}
	c.has(101)
	if c.ports.calls != calls {
		t.Errorf("%d calls for nothing", c.ports.calls-calls)
	}
	c.after(time.Hour - 10*time.Second)
	told(10 * time.Second)
	own(true, until)
	c.after(10 * time.Second)
	c.has()
	told(0)

	if err := c.says(2, 101, 1, attachLease); err != nil {
		t.Error(err)
	}
	told(0)
	c.has(101)
	until = c.now.Add(time.Minute)
	own(false, until) // the provider has granted this agent the VLAN
	c.has(101)
	own(true, until)
	if got := c.ports.ports[101]; got.Addr() != nearMark.Source {
		t.Error(got)
	}
	if err := c.says(2, 101, 1, 0); !errors.Is(err, reserve.ErrRefused) {
		t.Error(err)
	}
	own(false, c.now)
	told(0)
	c.has()
	for name, m := range map[string]reserve.Mark{
		"another device":  {Device: "wan2.101", Source: nearMark.Source, Peer: nearMark.Peer},
		"another VLAN":    {Device: "wan1.99", Source: nearMark.Source, Peer: nearMark.Peer},
		"no VLAN":         {Device: "wan1", Source: nearMark.Source, Peer: nearMark.Peer},
		"no device":       {Source: nearMark.Source, Peer: nearMark.Peer},
		"a leading zero":  {Device: "wan1.0101", Source: nearMark.Source, Peer: nearMark.Peer},
		"no addresses":    {Device: "wan1.101"},
		"one address":     {Device: "wan1.101", Source: nearMark.Source, Peer: nearMark.Source},
		"not of a subnet": {Device: "wan1.101", Source: netip.MustParseAddr("10.99.0.1"), Peer: netip.MustParseAddr("10.99.0.2")},
	} {
		if _, err := c.own(c.now, m, until); !errors.Is(err, reserve.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, m := range []reserve.Mark{{}, {Device: "ens4.205"}, {Source: nearMark.Peer}, {Device: "ens4.4095", Source: nearMark.Peer}, {Device: "ens4.205", Source: nearMark.Source}} {
		if got := c.far(c.now, nearMark, m); got != nil {
			t.Errorf("%+v is told as %x", m, got)
		}
	}
}

// Nobody gets more than is anybody's to have.
func TestHostileAttachments(t *testing.T) {
	c := newCircuitTest(t)
	at := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	for name, h := range map[string]struct {
		from overlay.AgentID
		a    attachment
	}{
		"a stranger":         {overlay.AgentID{9}, attachment{vlan: 101, here: at("10.98.1.1"), sender: at("10.98.1.2"), lease: time.Second}},
		"itself":             {overlay.AgentID{1}, attachment{vlan: 101, here: at("10.98.1.1"), sender: at("10.98.1.2"), lease: time.Second}},
		"another VLAN":       {overlay.AgentID{2}, attachment{vlan: 99, here: at("10.98.1.1"), sender: at("10.98.1.2"), lease: time.Second}},
		"VLAN 0":             {overlay.AgentID{2}, attachment{vlan: 0, here: at("10.98.1.1"), sender: at("10.98.1.2"), lease: time.Second}},
		"VLAN 65535":         {overlay.AgentID{2}, attachment{vlan: 65535, here: at("10.98.1.1"), sender: at("10.98.1.2"), lease: time.Second}},
		"a long lease":       {overlay.AgentID{2}, attachment{vlan: 101, here: at("10.98.1.1"), sender: at("10.98.1.2"), lease: time.Minute + time.Millisecond}},
		"another subnet":     {overlay.AgentID{2}, attachment{vlan: 101, here: at("192.168.1.1"), sender: at("192.168.1.2"), lease: time.Second}},
		"sender elsewhere":   {overlay.AgentID{2}, attachment{vlan: 101, here: at("10.98.1.1"), sender: at("10.98.1.6"), lease: time.Second}},
		"the same address":   {overlay.AgentID{2}, attachment{vlan: 101, here: at("10.98.1.1"), sender: at("10.98.1.1"), lease: time.Second}},
		"the net's address":  {overlay.AgentID{2}, attachment{vlan: 101, here: at("10.98.1.0"), sender: at("10.98.1.1"), lease: time.Second}},
		"address of all":     {overlay.AgentID{2}, attachment{vlan: 101, here: at("10.98.1.3"), sender: at("10.98.1.2"), lease: time.Second}},
		"across the subnets": {overlay.AgentID{2}, attachment{vlan: 101, here: at("10.97.255.254"), sender: at("10.98.0.1"), lease: time.Second}},
	} {
		if err := c.attach(c.now, h.from, appendAttachment(nil, h.a)); !errors.Is(err, reserve.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.has()
	for from := byte(2); from <= 5; from++ {
		for n := range uint16(100) {
			err := c.says(from, uint16(from)*100+n, byte(n), maxAttachLease)
			if want := n >= maxAttachedBy || from == 5; want != errors.Is(err, reserve.ErrFull) {
				t.Errorf("agent %d, %d: %v", from, n, err)
			}
		}
	}
	if _, err := c.own(c.now, nearMark, c.now.Add(time.Hour)); err != nil {
		t.Errorf("others have all: %v", err)
	}
	c.after(maxAttachLease)
	c.has(101)

	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		b := make([]byte, attachmentLen)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		b[0] = attachmentKind
		if random.IntN(2) > 0 {
			binary.BigEndian.PutUint16(b[2:], uint16(100+random.IntN(900)))
			b[4], b[5], b[7] = 10, 98, b[7]&^3|1
			copy(b[8:12], []byte{10, 98, b[6], b[7] + 1})
			b[12], b[13] = 0, 0
		}
		_ = c.attach(c.now, overlay.AgentID{byte(random.IntN(7))}, b)
		c.after(time.Duration(random.IntN(100)) * time.Millisecond)
		if all, by := c.attached(overlay.AgentID{2}); all > maxAttached || by > maxAttachedBy {
			t.Fatalf("%d, %d", all, by)
		}
	}
}

// What the kernel refuses is told once, and tried again.
func TestAttachFails(t *testing.T) {
	c := newCircuitTest(t)
	c.ports.fails = reserve.ErrForeign
	until := c.now.Add(time.Hour)
	for range 20 {
		if ready, err := c.own(c.now, nearMark, until); ready || err != nil {
			t.Error(ready, err)
		}
		c.after(time.Second)
		c.has()
	}
	if n := strings.Count(c.log.String(), "level=WARN"); n != 1 || c.ports.calls < 5 {
		t.Errorf("told %d times, tried %d times:\n%s", n, c.ports.calls, c.log.String())
	}
	c.ports.fails = nil
	c.after(attachEvery)
	c.has(101)
	if ready, err := c.own(c.now, nearMark, until); !ready || err != nil {
		t.Error(ready, err)
	}
	c.ports.fails = reserve.ErrUnreachable
	c.own(c.now, nearMark, c.now)
	c.has(101)
	c.ports.fails = nil
	c.after(attachEvery)
	c.has()
	if len(c.made)+len(c.ready) > 0 {
		t.Errorf("it remembers %v, %v", c.made, c.ready)
	}
}

func TestCircuitsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuitTest(t)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.run(ctx) }()
		if err := c.says(2, 101, 1, attachLease); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if len(c.ports.ports) != 1 {
			t.Errorf("attached are %v", c.ports.ports)
		}
		stop()
		if err := <-ended; err != nil || len(c.ports.ports) != 0 {
			t.Errorf("%v; attached are %v", err, c.ports.ports)
		}
	})
}

// Two agents attach themselves to a circuit with interfaces of the kernel's, and packets pass.
func TestCircuitOfTwoAgents(t *testing.T) {
	t.Parallel()
	hosts := []*nstest.Namespace{nstest.New(t), nstest.New(t)}
	hosts[0].Veth("wan1", hosts[1], "wan1")
	file := *endsFile
	var ends []*circuitEnds
	for i, h := range hosts {
		h.Do(func() {
			c, err := openCircuits(&file, overlay.AgentID{byte(i + 1)}, slog.New(slog.NewTextHandler(t.Output(), nil)))
			if err != nil {
				t.Fatal(err)
			}
			ends = append(ends, c)
		})
	}
	now := overlay.Instant(1e12)
	mark := farMark
	mark.Device = nearMark.Device
	if _, err := ends[0].own(now, nearMark, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := ends[1].attach(now, overlay.AgentID{1}, ends[0].far(now, nearMark, mark)); err != nil {
		t.Fatal(err)
	}
	for i, h := range hosts {
		h.Do(ends[i].settle)
	}
	if ready, err := ends[0].own(now, nearMark, now.Add(time.Hour)); err != nil || !ready {
		t.Error(ready, err)
	}
	var sockets []*net.UDPConn
	for i, a := range []netip.Addr{nearMark.Source, mark.Source} {
		hosts[i].Do(func() {
			s, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 4747)))
			if err != nil {
				t.Fatal(err)
			}
			sockets = append(sockets, s)
		})
		defer sockets[i].Close()
	}
	if _, err := sockets[0].WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(mark.Source, 4747)); err != nil {
		t.Error(err)
	}
	b := make([]byte, 9)
	_ = sockets[1].SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, from, err := sockets[1].ReadFromUDPAddrPort(b); err != nil || string(b[:n]) != "hello" || from.Addr() != nearMark.Source {
		t.Errorf("heard %q from %v, %v", b[:n], from, err)
	}
	for i, h := range hosts {
		h.Do(func() {
			if err := ends[i].ports.Close(); err != nil {
				t.Error(err)
			}
		})
		if links := h.IP("-o link"); strings.Contains(links, "wan1.") {
			t.Error(links)
		}
	}
}
