//go:build linux

package lan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"farlan/overlay"
	"farlan/overlay/nstest"
)

// Of all that is on the wire, only what others send to others or to groups is
// captured; the proxy's own traffic is not.
func TestCapture(t *testing.T) {
	h := newHome(t)
	station(h.a)
	send := func(from *nstest.Namespace, to, text string) {
		var c net.Conn
		var err error
		from.Do(func() { c, err = net.Dial("udp", to+":9") })
		if err == nil {
			_, err = c.Write([]byte(text))
			_ = c.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	send(h.a, "10.55.0.3", "to-the-proxy")
	send(h.proxy, "10.55.0.1", "from-the-proxy")
	send(h.proxy, "10.55.0.255", "broadcast-from-the-proxy")
	send(h.a, "10.55.0.77", "to-a-far-station")
	send(h.a, "10.55.0.255", "broadcast-to-all")
	lldp := append(append([]byte{0x01, 0x80, 0xc2, 0, 0, 0x0e}, mac(1)...), append([]byte{0x88, 0xcc}, make([]byte, 46)...)...)
	h.net.Do(func() { inject(t, "leg2", overlay.Offload{}, lldp) }) // past the hub, which drops it, too
	send(h.a, "10.55.0.77", "the-end")
	var text []byte
	for _, f := range h.read(holds("the-end")) {
		if f[12] == 0x88 && f[13] == 0xcc {
			t.Error("captured a frame that bridges don't forward")
		}
		if src := f[6:12]; bytes.Equal(src, mac(3)) {
			t.Errorf("captured a frame of the proxy's own: %x", f)
		}
		text = append(text, f...)
	}
	for _, want := range []string{"to-a-far-station", "broadcast-to-all"} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("%q was not captured", want)
		}
	}
	for _, no := range []string{"to-the-proxy", "from-the-proxy"} {
		if bytes.Contains(text, []byte(no)) {
			t.Errorf("%q was captured", no)
		}
	}
}

// Frames of far stations reach the LAN, and don't come back.
func TestWrite(t *testing.T) {
	h := newHome(t)
	var c *net.UDPConn
	h.a.Do(func() { c, _ = net.ListenUDP("udp4", &net.UDPAddr{Port: 4242}) })
	defer func() { _ = c.Close() }()
	frame := func(text string, tag layers.EthernetType) overlay.Frame {
		return overlay.Frame{Head: udpFrame(text, mac(1), tag)}
	}
	full := strings.Repeat("x", 1500-28)
	frames := []overlay.Frame{
		frame("one", 0), {Head: make([]byte, 13)}, frame(full, 0), frame(full+"y", 0), // one too long
		frame(full, 0x8100), frame(full+"y", 0x8100), {Head: make([]byte, 1519)}, frame("two", 0),
	}
	if n := h.port.Write(0, frames); n != 4 {
		t.Errorf("wrote %d frames, want 4", n)
	}
	many := make([]overlay.Frame, 150) // more than a batch
	for i := range many {
		many[i] = frame("many", 0)
	}
	if n := h.port.Write(0, many); n != len(many) {
		t.Errorf("wrote %d frames, want %d", n, len(many))
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	p := make([]byte, 2000)
	for _, want := range []string{"one", full, "two", "many"} {
		n, from, err := c.ReadFrom(p)
		if err != nil || string(p[:n]) != want || !strings.HasPrefix(from.String(), "10.55.0.77:") {
			t.Fatalf("got %q from %v, %v; want %q", p[:n], from, err, want)
		}
	}
	station(h.b)
	var d net.Conn
	h.b.Do(func() { d, _ = net.Dial("udp", "10.55.0.77:9") })
	if _, err := d.Write([]byte("the end")); err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	for _, f := range h.read(holds("the end")) {
		if bytes.Equal(f[6:12], mac(0x77)) {
			t.Errorf("a frame came back: %x", f)
		}
	}
	h.proxy.IP("link set v0 down")
	if n := h.port.Write(0, frames); n != 0 {
		t.Errorf("wrote %d frames to an interface that is down, want 0", n)
	}
}

func TestPromiscuity(t *testing.T) {
	h := newHome(t)
	promiscuous := func() bool { return strings.Contains(h.proxy.IP("-d link show v0"), "promiscuity 1") }
	if !promiscuous() {
		t.Error("the interface does not listen to all")
	}
	if err := h.port.Close(); err != nil {
		t.Error(err)
	}
	if promiscuous() {
		t.Error("the interface listens to all after Close")
	}
	if err := h.port.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v, want net.ErrClosed", err)
	}
}

func TestInterfaceComesAndGoes(t *testing.T) {
	h := newHome(t)
	station(h.a)
	var c net.Conn
	h.a.Do(func() { c, _ = net.Dial("udp", "10.55.0.77:9") })
	h.proxy.IP("link set v0 down && ip link set v0 up")
	stop := make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		for { // the hub's leg takes a while to forward
			_, _ = c.Write([]byte("up again"))
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	for range 20 { // some may have come before the port looked
		h.read(holds("up again"))
	}
	if h.port.state != up {
		t.Error("the port hasn't noticed: every Read would look for the interface")
	}
	close(stop)
	sender.Wait()
}

// Read tells of the removal of the interface, whether it was down before or
// not. That it is down is no error.
func TestRemoval(t *testing.T) {
	drain := func(p *Port) error {
		b := overlay.NewBatch()
		for { // there may be frames from before
			if err := p.Read(0, b); err != nil || len(b.Frames()) == 0 {
				return err
			}
		}
	}
	for _, down := range []bool{false, true} {
		h := newHome(t)
		if down {
			h.proxy.IP("link set v0 down")
			for range 3 {
				if err := drain(h.port); err != nil {
					t.Errorf("Read while the interface is down: %v", err)
				}
			}
		}
		h.proxy.IP("link del v0")
		var e *overlay.PortError
		if err := drain(h.port); !errors.As(err, &e) || !errors.Is(err, syscall.ENODEV) {
			t.Errorf("Read after the removal: %v, want a PortError with ENODEV", err)
		}
	}
}

func TestRefusals(t *testing.T) {
	n := nstest.New(t)
	n.IP("link add v0 type veth peer name v1 && ip link set v0 up")
	n.IP("tuntap add tun0 mode tun && ip link set tun0 up")
	for name, what := range map[string]string{
		"eth9": "no such interface", "": "no such interface", "lo": "not Ethernet", "tun0": "not Ethernet", "v1": "it is down",
	} {
		var err error
		n.Do(func() { _, err = Open(Config{Interface: name}) })
		var e *overlay.PortError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want a PortError about %q", name, err, what)
			continue
		}
		if wants := "v0"; name != "v1" && !strings.Contains(e.Hint(), wants) {
			t.Errorf("%q: hint %q does not name %s", name, e.Hint(), wants)
		}
	}
	n.IP("link add br0 type bridge && ip link set v0 master br0")
	var p *Port
	var err error
	n.Do(func() { p, err = Open(Config{Interface: "v0"}) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	if !strings.Contains(p.Warning(), "bridge br0") {
		t.Errorf("warning %q says nothing of the bridge", p.Warning())
	}
	if p.Name() != "v0" || p.Kind() != "lan" || p.MTU() != 1500 || p.MAC() == (overlay.MAC{}) {
		t.Errorf("name %q, kind %q, MTU %d, MAC %v", p.Name(), p.Kind(), p.MTU(), p.MAC())
	}
}

func TestNoAllocations(t *testing.T) {
	h := newHome(t)
	station(h.a)
	var c net.Conn
	h.a.Do(func() { c, _ = net.Dial("udp", "10.55.0.77:9") })
	defer func() { _ = c.Close() }()
	frames := []overlay.Frame{{Head: make([]byte, 60)}, {Head: make([]byte, 20), Body: [][]byte{make([]byte, 1494)}}}
	for _, f := range frames {
		copy(f.Head, mac(1))
		copy(f.Head[6:], mac(0x77))
		binary.BigEndian.PutUint16(f.Head[12:], 0x88b5)
	}
	text := []byte("hello")
	if n := testing.AllocsPerRun(200, func() {
		if _, err := c.Write(text); err != nil {
			t.Fatal(err)
		}
		if h.port.Read(0, h.batch) != nil || h.port.Write(0, frames) != 2 {
			t.Fatal("cannot read and write")
		}
	}); n != 0 {
		t.Errorf("%v allocations per round, want 0", n)
	}
}
