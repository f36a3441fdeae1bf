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

	"golang.org/x/sys/unix"

	"farlan/overlay"
	"farlan/overlay/nstest"
)

// open opens a port in n, which is closed when the test ends.
func open(t testing.TB, n *nstest.Namespace, c Config) *Port {
	t.Helper()
	var p *Port
	var err error
	n.Do(func() { p, err = Open(c) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// A reader reads frames of a port one by one.
type reader struct {
	p *Port
	b *overlay.Batch
	n int // frames of b that were looked at
}

func newReader(p *Port) *reader { return &reader{p: p, b: overlay.NewBatch()} }

// next returns the next frame that is one that is wanted. The test fails if
// nothing comes for five seconds.
func (r *reader) next(t testing.TB, wanted func(f *overlay.Frame) bool) *overlay.Frame {
	t.Helper()
	for {
		for r.n < len(r.b.Frames()) {
			f := &r.b.Frames()[r.n]
			if r.n++; wanted(f) {
				return f
			}
		}
		fds := []unix.PollFd{{Fd: int32(r.p.FD(0)), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 5000); n == 0 && err == nil {
			t.Fatal("nothing comes any more")
		}
		if err := r.p.Read(0, r.b); err != nil {
			t.Fatal(err)
		}
		r.n = 0
	}
}

// finished returns frames that nothing is left to do to.
func finished(all ...[]byte) (frames []overlay.Frame) {
	for _, f := range all {
		frames = append(frames, overlay.Frame{Head: f})
	}
	return frames
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
	for _, plain := range []bool{false, true} {
		n := nstest.New(t)
		p := open(t, n, Config{Name: "tap0", MTU: 1400, Plain: plain})
		if p.Name() != "tap0" || p.Kind() != "tap" || p.MTU() != 1400 || p.Queues() != 1 || p.Offload() == plain {
			t.Errorf("name %q, kind %q, MTU %d, %d queues, offload %v", p.Name(), p.Kind(), p.MTU(), p.Queues(), p.Offload())
		}
		if link := n.IP("link show tap0"); !strings.Contains(link, p.MAC().String()) || !strings.Contains(link, "mtu 1400") {
			t.Errorf("MAC %v or MTU is not in %s", p.MAC(), link)
		}
		n.IP("addr add 10.66.0.1/24 dev tap0")
		request := arpRequest()
		scattered := overlay.Frame{Head: request[:20], Body: [][]byte{request[20:21], nil, request[21:]}}
		frames := append(finished([]byte{1, 2, 3}, arpRequest(), make([]byte, overlay.MaxFrame+1)), scattered)
		if w := p.Write(0, frames); w != 2 {
			t.Errorf("wrote %d frames, want 2", w)
		}
		mac, r := p.MAC(), newReader(p)
		for range 2 {
			r.next(t, func(f *overlay.Frame) bool {
				h := f.Head
				return bytes.HasPrefix(h, []byte{2, 0, 0, 0, 0, 0x99}) && bytes.Equal(h[6:12], mac[:]) && h[21] == 2
			})
		}
		n.IP("link set tap0 down")
		if w := p.Write(0, finished(arpRequest())); w != 0 {
			t.Errorf("wrote %d frames to an interface that is down, want 0", w)
		}
	}
}

// Frames that are longer than they may be are dropped, not cut.
func TestLongFrames(t *testing.T) {
	n := nstest.New(t)
	p := open(t, n, Config{Name: "tap0"})
	n.IP("link set tap0 mtu 20000") // behind the port's back
	n.IP("addr add 10.66.0.1/24 dev tap0")
	n.IP("neigh add 10.66.0.2 lladdr 02:00:00:00:00:99 dev tap0")
	var c *net.UDPConn
	n.Do(func() { c, _ = net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(10, 66, 0, 2), Port: 9}) })
	defer func() { _ = c.Close() }()
	const header = 14 + 20 + 8
	for _, size := range []int{overlay.MaxFrame + 1, 15000, overlay.MaxFrame} { // the last fits
		if _, err := c.Write(make([]byte, size-header)); err != nil {
			t.Fatal(err)
		}
	}
	f := newReader(p).next(t, func(f *overlay.Frame) bool { return f.Head[0] == 2 }) // to the neighbour
	if f.Len() != overlay.MaxFrame || p.Dropped() != 2 {
		t.Errorf("read a frame of %d bytes, dropped %d frames; want %d, 2", f.Len(), p.Dropped(), overlay.MaxFrame)
	}
}

func TestOwnInterface(t *testing.T) {
	n := nstest.New(t)
	n.IP("link add br0 type bridge")
	p := open(t, n, Config{Name: "tap0", Bridge: "br0"})
	if link := n.IP("link show tap0"); !strings.Contains(link, "master br0") || !strings.Contains(link, ",UP") {
		t.Errorf("not up in the bridge: %s", link)
	}
	if flags, err := unix.FcntlInt(uintptr(p.FD(0)), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("children inherit the descriptor (flags %#x, %v)", flags, err)
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

// An administrator's TAP is left as it was: up or not, with its MTU and bridge,
// and with frames that are finished.
func TestPersistentInterface(t *testing.T) {
	for _, c := range []struct {
		flags  string
		plain  bool
		queues int // to get of 2
	}{{"", false, 1}, {" multi_queue", false, 2}, {" vnet_hdr", false, 1}, {"", true, 1}, {" multi_queue vnet_hdr", true, 1}} {
		n := nstest.New(t)
		n.IP("link add br0 type bridge")
		n.IP("tuntap add tap0 mode tap" + c.flags)
		n.IP("link set tap0 mtu 1300")
		p := open(t, n, Config{Name: "tap0", Bridge: "br0", MTU: 1400, Queues: 2, Plain: c.plain})
		if p.MTU() != 1400 || p.Queues() != c.queues || p.Offload() == c.plain {
			t.Errorf("%+v: MTU %d, %d queues, offload %v", c, p.MTU(), p.Queues(), p.Offload())
		}
		if on := segmentation(n); on == c.plain {
			t.Errorf("%+v: super-frames are %v", c, on)
		}
		refused(t, n, Config{Name: "tap0"}, "another process holds it")
		refused(t, n, Config{Name: "tap0", Plain: true}, "another process holds it")
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if !exists(n, "tap0") {
			t.Fatalf("%+v: Close removed the administrator's interface", c)
		}
		link := n.IP("-d link show tap0")
		for _, want := range []string{"mtu 1300", "persist on"} {
			if !strings.Contains(link, want) {
				t.Errorf("%+v: %q is not in %s", c, want, link)
			}
		}
		for _, no := range []string{",UP", "master"} {
			if strings.Contains(link, no) {
				t.Errorf("%+v: %q is in %s", c, no, link)
			}
		}
		if segmentation(n) {
			t.Errorf("%+v: the next process would get super-frames", c)
		}
	}
}

// segmentation says whether the system leaves super-frames to tap0.
func segmentation(n *nstest.Namespace) bool {
	return strings.Contains(n.Run("ethtool -k tap0"), "\ntcp-segmentation-offload: on")
}

// Where the kernel doesn't know of super-frames of UDP the port does without
// them; where it knows of none, the port is a plain one.
func TestOldKernel(t *testing.T) {
	was := offloads
	defer func() { offloads = was }()
	const unknown = 1 << 30
	for _, c := range []struct {
		offloads [2]int
		offload  bool
	}{{[2]int{unknown, baseOffloads}, true}, {[2]int{unknown, unknown}, false}} {
		offloads = c.offloads
		for _, device := range []string{"", "tuntap add tap0 mode tap", "tuntap add tap0 mode tap multi_queue"} {
			n := nstest.New(t)
			if device != "" {
				n.IP(device)
			}
			p := open(t, n, Config{Name: "tap0", Queues: 2})
			if p.Offload() != c.offload || segmentation(n) != c.offload || !c.offload && p.Queues() != 1 {
				t.Errorf("%q: offload %v, %d queues", device, p.Offload(), p.Queues())
			}
			if w := p.Write(0, finished(arpRequest())); w != 1 {
				t.Errorf("%q: wrote %d frames", device, w)
			}
			if err := p.Close(); err != nil || exists(n, "tap0") != (device != "") {
				t.Errorf("%q: Close: %v; there afterwards: %v", device, err, exists(n, "tap0"))
			}
		}
	}
}

// A process that dies leaves a persistent interface with super-frames allowed;
// a plain port doesn't get them.
func TestAfterCrash(t *testing.T) {
	n := nstest.New(t)
	n.IP("tuntap add tap0 mode tap")
	p := open(t, n, Config{Name: "tap0"})
	p.undo = nil // as if it had died
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if !segmentation(n) {
		t.Error("the kernel has forgotten what we asked for: TestPersistentInterface proves nothing")
	}
	open(t, n, Config{Name: "tap0", Plain: true})
	if segmentation(n) {
		t.Error("super-frames come to a plain port")
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
	refused(t, n, Config{Name: "tap0", Queues: 257}, "out of range")
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
	for _, c := range []Config{{Name: "tap0", Queues: 3}, {Name: "tap1", Plain: true}} {
		p := open(t, n, c)
		for i := range 6 {
			c.Plain = i%2 == 0
			if err := refused(t, n, c, "another process"); !errors.Is(err, syscall.EBUSY) {
				t.Errorf("%v is not EBUSY", err)
			}
		}
		_ = p.Close()
	}
	if after := descriptors(t); after > before+2 { // of the runtime's poller
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

// The removal of the interface wakes who waits for it, and Read tells.
func TestRemoval(t *testing.T) {
	for _, plain := range []bool{false, true} {
		n := nstest.New(t)
		p := open(t, n, Config{Name: "tap0", Plain: plain})
		n.IP("link del tap0")
		fds := []unix.PollFd{{Fd: int32(p.FD(0)), Events: unix.POLLIN}}
		if ready, err := unix.Poll(fds, 5000); ready != 1 || err != nil {
			t.Errorf("the descriptor is not ready (%v)", err)
		}
		b := overlay.NewBatch()
		var e *overlay.PortError
		if err := p.Read(0, b); !errors.As(err, &e) || !errors.Is(err, unix.EBADFD) || len(b.Frames()) != 0 {
			t.Errorf("Read: %v with %d frames, want a PortError with EBADFD", err, len(b.Frames()))
		}
		if w := p.Write(0, finished(arpRequest())); w != 0 {
			t.Errorf("wrote %d frames", w)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestConcurrentWrites(t *testing.T) {
	n := nstest.New(t)
	p := open(t, n, Config{Name: "tap0", Queues: 2})
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for range 100 {
				if w := p.Write(i%2, finished(arpRequest(), arpRequest())); w != 2 {
					t.Errorf("wrote %d frames, want 2", w)
					return
				}
			}
		})
	}
	all.Wait()
}

func TestNoAllocations(t *testing.T) {
	for _, plain := range []bool{false, true} {
		n := nstest.New(t)
		p := open(t, n, Config{Name: "tap0", Plain: plain})
		n.IP("addr add 10.66.0.1/24 dev tap0")
		super := superFrame(t, overlay.SuperTCP4, 0, 40000, 1000)
		b, frames := overlay.NewBatch(), append(finished(arpRequest()), *super)
		got := 0
		if a := testing.AllocsPerRun(200, func() {
			if p.Write(0, frames) != 2 || p.Read(0, b) != nil {
				t.Fatal("cannot write and read")
			}
			got += len(b.Frames())
		}); a != 0 {
			t.Errorf("%v allocations per round, want 0", a)
		}
		if got < 200 {
			t.Errorf("%d frames came, want one a round", got)
		}
		n.IP("link set tap0 down")
		if a := testing.AllocsPerRun(200, func() { p.Write(0, frames) }); a != 0 {
			t.Errorf("%v allocations per failed frame, want 0", a)
		}
	}
}
