//go:build linux

package lan

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"farlan/overlay"
	"farlan/overlay/internal/vnet"
	"farlan/overlay/nstest"
)

// A home is a LAN of three machines on a hub. The proxy's interface is its
// uplink, too.
//
//	a  10.55.0.1 ── v0 ┐
//	b  10.55.0.2 ── v0 ┼─ hub (a bridge in a namespace of its own that learns nothing)
//	proxy  .3 ───── v0 ┘
type home struct {
	t           testing.TB
	net         *nstest.Namespace
	a, b, proxy *nstest.Namespace
	port        *Port
	*reader     // of port
}

func newHome(t testing.TB) *home { return newHomeAt(t, 1) }

// newHomeAt is newHome with addresses from first on.
func newHomeAt(t testing.TB, first int) *home {
	h := &home{t: t, net: nstest.New(t), a: nstest.New(t), b: nstest.New(t), proxy: nstest.New(t)}
	h.net.IP("link add br0 type bridge && ip link set br0 up")
	for i, n := range []*nstest.Namespace{h.a, h.b, h.proxy} {
		leg := fmt.Sprintf("leg%d", i)
		n.Veth("v0", h.net, leg)
		h.net.IP("link set " + leg + " master br0 && ip link set " + leg + " type bridge_slave learning off")
		n.IP(fmt.Sprintf("link set v0 address 02:00:00:00:00:%02x", i+first))
		n.IP(fmt.Sprintf("addr add 10.55.0.%d/24 dev v0", i+first))
		n.IP(fmt.Sprintf("addr add fd55::%d/64 dev v0 nodad", i+first))
	}
	h.port = open(t, h.proxy)
	h.reader = &reader{p: h.port, batch: overlay.NewBatch()}
	return h
}

// open opens a port on v0, which is closed when the test ends.
func open(t testing.TB, n *nstest.Namespace) *Port {
	t.Helper()
	var p *Port
	var err error
	n.Do(func() { p, err = Open(Config{Interface: "v0"}) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// A reader reads frames of a port one by one.
type reader struct {
	p       *Port
	batch   *overlay.Batch
	n       int // frames of batch that were looked at
	longest int // of all frames
}

// next returns the next frame, which its port overwrites. The test fails if
// nothing comes for five seconds.
func (r *reader) next(t testing.TB) *overlay.Frame {
	t.Helper()
	for r.n == len(r.batch.Frames()) {
		fds := []unix.PollFd{{Fd: int32(r.p.FD(0)), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 5000); n == 0 && err == nil {
			t.Fatal("nothing comes any more")
		}
		if err := r.p.Read(0, r.batch); err != nil {
			t.Fatal(err)
		}
		r.n = 0
	}
	r.n++
	f := &r.batch.Frames()[r.n-1]
	r.longest = max(r.longest, f.Len())
	return f
}

func mac(i byte) []byte { return []byte{2, 0, 0, 0, 0, i} }

// station makes frames to host's address i come through the LAN to a machine
// that is not there but for the proxy: 02:00:00:00:00:77, 10.55.0.77.
func station(n *nstest.Namespace) {
	n.IP("neigh replace 10.55.0.77 lladdr 02:00:00:00:00:77 dev v0")
	n.IP("neigh replace fd55::77 lladdr 02:00:00:00:00:77 dev v0")
}

// read returns the frames that the port captures until one satisfies done, as
// they would be on a wire.
func (h *home) read(done func(f []byte) bool) (all [][]byte) {
	h.t.Helper()
	var c overlay.Cutter
	for last := false; !last; {
		if !c.Load(h.next(h.t), h.port.MTU()) {
			h.t.Fatal("captured a frame that can't be finished")
		}
		for c.Pending() {
			f := make([]byte, overlay.MaxFrame)
			f = f[:c.Next(f)]
			all = append(all, f)
			last = last || done(f)
		}
	}
	return all
}

// one is read for the frame alone.
func (h *home) one(done func(f []byte) bool) []byte {
	h.t.Helper()
	for _, f := range h.read(done) {
		if done(f) {
			return f
		}
	}
	return nil
}

func holds(text string) func(f []byte) bool {
	return func(f []byte) bool { return bytes.Contains(f, []byte(text)) }
}

// valid says whether gopacket, putting the frame together again, computes the
// same lengths and checksums.
func valid(t testing.TB, f []byte) bool {
	t.Helper()
	p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
	if p.ErrorLayer() != nil {
		t.Logf("%v", p.ErrorLayer().Error())
		return false
	}
	type needsNetwork interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}
	var all []gopacket.SerializableLayer
	for _, l := range p.Layers() {
		if n, ok := l.(needsNetwork); ok {
			_ = n.SetNetworkLayerForChecksum(p.NetworkLayer())
		}
		s, ok := l.(gopacket.SerializableLayer)
		if !ok { // DHCP and the like: bytes are enough
			s = gopacket.Payload(l.LayerContents())
		}
		all = append(all, s)
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Log(err)
		return false
	}
	return bytes.HasPrefix(b.Bytes(), f)
}

// inject sends a frame by a packet socket of the test's own.
func inject(t testing.TB, name string, o overlay.Offload, f []byte) {
	t.Helper()
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	var head vnet.Header
	if !head.Set(&overlay.Frame{Head: f, Offload: o}, 1500) {
		t.Fatal("no header can say that")
	}
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.Sendto(fd, append(head[:], f...), 0, &unix.SockaddrLinklayer{Ifindex: i.Index, Halen: 6}))
	if err != nil {
		t.Fatal(err)
	}
}

// udpFrame returns a datagram from 10.55.0.77 port 9 to 10.55.0.1 port 4242,
// with a VLAN tag of that type unless it is 0.
func udpFrame(text string, to []byte, tag layers.EthernetType) []byte {
	return frameOf([]byte(text), to, tag, &layers.UDP{SrcPort: 9, DstPort: 4242})
}

// A transport is a layer of gopacket above IP.
type transport interface {
	gopacket.SerializableLayer
	SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
}

func frameOf(data, to []byte, tag layers.EthernetType, l4 transport) []byte {
	eth := &layers.Ethernet{SrcMAC: mac(0x77), DstMAC: to, EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: 17, SrcIP: net.IPv4(10, 55, 0, 77), DstIP: net.IPv4(10, 55, 0, 1)}
	if l4.LayerType() == layers.LayerTypeTCP {
		ip.Protocol = 6
	}
	_ = l4.SetNetworkLayerForChecksum(ip)
	all := []gopacket.SerializableLayer{eth}
	if tag != 0 {
		eth.EthernetType = tag
		all = append(all, &layers.Dot1Q{VLANIdentifier: 7, Priority: 5, Type: layers.EthernetTypeIPv4})
	}
	all = append(all, ip, l4, gopacket.Payload(data))
	b := gopacket.NewSerializeBuffer()
	_ = gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...)
	return bytes.Clone(b.Bytes())
}
