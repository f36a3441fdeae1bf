//go:build linux

package tap

import (
	"bytes"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
	"farlan/overlay/internal/nstest"
)

// open opens a port in n. It is closed when the test ends, or after ten
// seconds, so that a read of what never comes fails.
func open(t testing.TB, n *nstest.Namespace, c Config) *Port {
	t.Helper()
	var p *Port
	var err error
	n.Do(func() { p, err = Open(c) })
	if err != nil {
		t.Fatal(err)
	}
	hurry := time.AfterFunc(10*time.Second, func() { _ = p.Close() })
	t.Cleanup(func() {
		hurry.Stop()
		_ = p.Close()
	})
	return p
}

// refused expects Open to fail with a PortError about what, and returns it.
func refused(t *testing.T, n *nstest.Namespace, c Config, what string) error {
	t.Helper()
	var p *Port
	var err error
	n.Do(func() { p, err = Open(c) })
	if err == nil {
		_ = p.Close()
		t.Fatalf("opened, want an error about %q", what)
	}
	var e *overlay.PortError
	if !errors.As(err, &e) || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %q (%T), want a PortError of one line about %q", err, err, what)
	}
	return err
}

func exists(n *nstest.Namespace, name string) bool {
	return strings.Contains(n.IP("-o link show"), " "+name+":")
}

// arpRequest asks who has 10.66.0.1.
func arpRequest() []byte {
	f := []byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x99\x08\x06" +
		"\x00\x01\x08\x00\x06\x04\x00\x01\x02\x00\x00\x00\x00\x99\x0a\x42\x00\x02" +
		"\x00\x00\x00\x00\x00\x00\x0a\x42\x00\x01")
	return append(f, make([]byte, 18)...)
}

// The host answers an ARP request that the port writes.
func TestFrames(t *testing.T) {
	n := nstest.New(t)
	p := open(t, n, Config{Name: "tap0", MTU: 1400})
	if p.Name() != "tap0" || p.Kind() != "tap" || p.MTU() != 1400 {
		t.Errorf("name %q, kind %q, MTU %d", p.Name(), p.Kind(), p.MTU())
	}
	if link := n.IP("link show tap0"); !strings.Contains(link, p.MAC().String()) || !strings.Contains(link, "mtu 1400") {
		t.Errorf("MAC %v or MTU is not in %s", p.MAC(), link)
	}
	n.IP("addr add 10.66.0.1/24 dev tap0")
	if w := p.Write([][]byte{{1, 2, 3}, arpRequest(), arpRequest()}); w != 2 {
		t.Errorf("wrote %d frames, want 2", w)
	}
	b := overlay.NewBatch(overlay.MaxFrame)
	for answers := 0; answers < 2; {
		if err := p.Read(b); err != nil {
			t.Fatal(err)
		}
		for _, f := range b.Frames() {
			mac := p.MAC()
			if bytes.HasPrefix(f, []byte{2, 0, 0, 0, 0, 0x99}) && bytes.Equal(f[6:12], mac[:]) && f[21] == 2 {
				answers++
			}
		}
	}
	n.IP("link set tap0 down")
	if w := p.Write([][]byte{arpRequest()}); w != 0 {
		t.Errorf("wrote %d frames to an interface that is down, want 0", w)
	}
}

// Frames longer than a slot are dropped, not cut.
func TestLongFrames(t *testing.T) {
	n := nstest.New(t)
	p := open(t, n, Config{Name: "tap0"})
	n.IP("addr add 10.66.0.1/24 dev tap0")
	n.IP("neigh add 10.66.0.2 lladdr 02:00:00:00:00:99 dev tap0")
	var c *net.UDPConn
	n.Do(func() { c, _ = net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(10, 66, 0, 2), Port: 9}) })
	defer func() { _ = c.Close() }()
	const header = 14 + 20 + 8
	b := overlay.NewBatch(500)
	for _, size := range []int{501, 1000, 500} { // 500 fits
		if _, err := c.Write(make([]byte, size-header)); err != nil {
			t.Fatal(err)
		}
	}
	for {
		if err := p.Read(b); err != nil {
			t.Fatal(err)
		}
		for _, f := range b.Frames() {
			if f[0] == 2 { // to the neighbour
				if len(f) != 500 {
					t.Errorf("read a frame of %d bytes, want 500", len(f))
				}
				return
			}
		}
	}
}

func TestOwnInterface(t *testing.T) {
	n := nstest.New(t)
	n.IP("link add br0 type bridge")
	p := open(t, n, Config{Name: "tap0", Bridge: "br0"})
	if link := n.IP("link show tap0"); !strings.Contains(link, "master br0") || !strings.Contains(link, ",UP") {
		t.Errorf("not up in the bridge: %s", link)
	}
	if err := p.raw.Control(func(fd uintptr) {
		if flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("children inherit the descriptor (flags %#x, %v)", flags, err)
		}
	}); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if exists(n, "tap0") {
		t.Error("Close left the interface that Open made")
	}
	if err := p.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v, want net.ErrClosed", err)
	}
}

// An administrator's TAP is left as it was.
func TestPersistentInterface(t *testing.T) {
	for _, flags := range []string{"", " multi_queue", " vnet_hdr"} {
		n := nstest.New(t)
		n.IP("link add br0 type bridge")
		n.IP("tuntap add tap0 mode tap" + flags)
		n.IP("link set tap0 mtu 1300")
		p := open(t, n, Config{Name: "tap0", Bridge: "br0", MTU: 1400})
		if p.MTU() != 1400 {
			t.Errorf("MTU %d, want 1400", p.MTU())
		}
		refused(t, n, Config{Name: "tap0"}, "another process holds it")
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if !exists(n, "tap0") {
			t.Fatalf("Close removed the administrator's interface (%q)", flags)
		}
		link := n.IP("-d link show tap0")
		for _, want := range []string{"mtu 1300", "persist on"} {
			if !strings.Contains(link, want) {
				t.Errorf("%q is not in %s", want, link)
			}
		}
		for _, no := range []string{",UP", "master"} {
			if strings.Contains(link, no) {
				t.Errorf("%q is in %s", no, link)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	n := nstest.New(t)
	n.IP("link add br0 type bridge")
	n.IP("link add br1 type bridge")
	n.IP("link add dummy0 type veth")
	n.IP("tuntap add tun0 mode tun")
	n.IP("tuntap add held mode tap")
	n.IP("link set held master br1")
	before := descriptors(t)
	for _, name := range []string{"", ".", "..", "a/b", "a b", "tap%d", "a:b", "a\n", "sixteen-letters-"} {
		refused(t, n, Config{Name: name}, "is not an interface name")
	}
	refused(t, n, Config{Name: "tap0", MTU: 9001}, "out of range")
	refused(t, n, Config{Name: "dummy0"}, "no TAP but a veth")
	refused(t, n, Config{Name: "tun0"}, "no TAP but a TUN")
	refused(t, n, Config{Name: "tap0", Bridge: "br9"}, "bridge br9 does not exist")
	refused(t, n, Config{Name: "tap0", Bridge: "dummy0"}, "no bridge but a veth")
	refused(t, n, Config{Name: "held", Bridge: "br0", MTU: 1234}, "another bridge")
	if link := n.IP("link show held"); strings.Contains(link, "1234") {
		t.Errorf("a failed Open left the MTU: %s", link)
	}
	if exists(n, "tap0") {
		t.Error("a failed Open left its interface")
	}
	open(t, n, Config{Name: "tap0"})
	before++ // poller and netlink are the port's
	for range 3 {
		if err := refused(t, n, Config{Name: "tap0"}, "another process"); !errors.Is(err, syscall.EBUSY) {
			t.Errorf("%v is not EBUSY", err)
		}
	}
	if after := descriptors(t); after > before+2 {
		t.Errorf("%d descriptors before, %d after: some leaked", before, after)
	}
}

// descriptors returns how many files the process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func TestUnblocked(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(n *nstest.Namespace, p *Port) error
		want error
	}{
		{"by Close", func(_ *nstest.Namespace, p *Port) error { return p.Close() }, net.ErrClosed},
		{"by removal", func(n *nstest.Namespace, _ *Port) error { n.IP("link del tap0"); return nil }, unix.EBADFD},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := nstest.New(t)
			p := open(t, n, Config{Name: "tap0"})
			ended := make(chan error)
			go func() {
				b := overlay.NewBatch(overlay.MaxFrame)
				for {
					if err := p.Read(b); err != nil {
						ended <- err
						return
					}
				}
			}()
			if err := c.end(n, p); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; !errors.Is(err, c.want) {
				t.Errorf("Read: %v, want %v", err, c.want)
			}
		})
	}
}

func TestConcurrentWrites(t *testing.T) {
	n := nstest.New(t)
	p := open(t, n, Config{Name: "tap0"})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				if w := p.Write([][]byte{arpRequest(), arpRequest()}); w != 2 {
					t.Errorf("wrote %d frames, want 2", w)
					return
				}
			}
		})
	}
	all.Wait()
}

func TestNoAllocations(t *testing.T) {
	n := nstest.New(t)
	p := open(t, n, Config{Name: "tap0"})
	n.IP("addr add 10.66.0.1/24 dev tap0")
	b, frames := overlay.NewBatch(overlay.MaxFrame), [][]byte{arpRequest()}
	if a := testing.AllocsPerRun(200, func() {
		if p.Write(frames) != 1 || p.Read(b) != nil {
			t.Fatal("cannot write and read")
		}
	}); a != 0 {
		t.Errorf("%v allocations per frame, want 0", a)
	}
	n.IP("link set tap0 down")
	if a := testing.AllocsPerRun(200, func() { p.Write(frames) }); a != 0 {
		t.Errorf("%v allocations per failed frame, want 0", a)
	}
}
