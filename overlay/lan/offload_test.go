//go:build linux

package lan

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"farlan/overlay"
)

// A neighbour leaves the checksum of what it sends to its device, which is
// none. The port says so: DHCP servers and clients would drop such datagrams.
func TestPartialChecksum(t *testing.T) {
	h := newHome(t)
	station(h.a)
	for _, to := range []string{"10.55.0.77:6700", "[fd55::77]:5470", "10.55.0.255:6700"} {
		var c net.Conn
		var err error
		h.a.Do(func() { c, err = net.Dial("udp", to) })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("give me an address")); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if f := h.one(holds("give me an address")); !valid(t, f) {
			t.Errorf("to %s: lengths or checksums are wrong: %x", to, f)
		}
	}
}

// The kernel takes VLAN tags off; they are put back, and a checksum that is
// still to be computed is found behind them.
func TestVLAN(t *testing.T) {
	h := newHome(t)
	for _, protocol := range []uint16{0x8100, 0x88a8} {
		want := udpFrame("tagged, and not so short that it is padded", mac(0x66), 0x8100)
		binary.BigEndian.PutUint16(want[12:], protocol)
		o := overlay.Offload{Super: overlay.SuperUDP}
		headers, _ := o.Parse(want)
		partial := bytes.Clone(want)
		o.Defer(partial, headers, len(want))
		o.Super = 0
		h.a.Do(func() { inject(t, "v0", o, partial) })
		for {
			f := h.next(t)
			if !bytes.Contains(f.Head, []byte("tagged")) {
				continue
			}
			if f.Offload != o {
				t.Errorf("%+v, want %+v", f.Offload, o)
			}
			if !overlay.Complete(f.Head, f.Offload) || !bytes.Equal(f.Head, want) {
				t.Errorf("got\n%x, want\n%x", f.Head, want)
			}
			break
		}
	}
}

// A super-frame that one port writes, in pieces, another reads as it was, but
// that TCP's segments fit the MTU; datagrams that don't are not written.
func TestSuperFramesPass(t *testing.T) {
	h := newHome(t)
	other := &reader{p: open(t, h.b), batch: overlay.NewBatch()}
	for _, c := range []struct {
		super                  overlay.Super
		tag                    layers.EthernetType
		segment, want, written int
	}{
		{overlay.SuperTCP4, 0, 1000, 1000, 1},
		{overlay.SuperTCP4, 0x8100, 1460, 1460, 1},
		{overlay.SuperTCP4, 0x88a8, 8000, 1460, 1},
		{overlay.SuperUDP, 0, 1472, 1472, 1},
		{overlay.SuperUDP, 0x8100, 1000, 1000, 1},
		{overlay.SuperUDP, 0, 1473, 0, 0},
	} {
		b := frameOf(make([]byte, 50_000), mac(0x66), c.tag, &layers.UDP{SrcPort: 9, DstPort: 4242})
		if c.super != overlay.SuperUDP {
			b = frameOf(make([]byte, 50_000), mac(0x66), c.tag, &layers.TCP{SrcPort: 9, DstPort: 4242, ACK: true})
		}
		o := overlay.Offload{Super: c.super, Segment: uint16(c.segment)}
		headers, ok := o.Parse(b)
		if !ok {
			t.Fatal("cannot be parsed")
		}
		o.Defer(b, headers, len(b))
		f := overlay.Frame{Head: b[:headers.Len], Body: [][]byte{b[headers.Len:][:7], nil, b[headers.Len+7:]}, Offload: o}
		if n := h.port.Write(0, []overlay.Frame{f}); n != c.written {
			t.Fatalf("%+v: wrote %d frames", c, n)
		}
		if c.written == 0 {
			continue
		}
		got := other.next(t)
		for !bytes.Equal(got.Head[:6], mac(0x66)) {
			got = other.next(t)
		}
		o.Segment = uint16(c.want)
		if !bytes.Equal(got.Head, b) || got.Offload != o {
			t.Errorf("%+v: %d bytes, %+v; want %d, %+v", c, got.Len(), got.Offload, len(b), o)
		}
	}
}

// The proxy sees a copy of a stream from a to b. Super-frames arrive as such and
// can be made into frames that a wire carries, and the stream is whole.
func TestSuperFrames(t *testing.T) {
	for _, to := range []string{"10.55.0.2", "fd55::2"} {
		for _, c := range []struct {
			name, sender, hub, proxy string
		}{
			{"super-frames", "true", "true", "true"},
			{"single frames", "ethtool -K v0 tso off gso off", "true", "true"},
			{"merged on receipt", "ethtool -K v0 tso off gso off", "ethtool -K leg2 tso off", "ethtool -K v0 gro on"},
		} {
			t.Run(to+" "+c.name, func(t *testing.T) {
				h := newHome(t)
				h.a.Run(c.sender)
				h.net.Run(c.hub)
				h.proxy.Run(c.proxy)
				h.stream(netip.MustParseAddr(to), 400_000, c.name != "single frames")
			})
		}
	}
}

// stream sends n bytes from a to the address by TCP, and expects the proxy to
// see all of them, in super-frames or not.
func (h *home) stream(to netip.Addr, n int, supers bool) {
	t := h.t
	var l net.Listener
	var c net.Conn
	var err error
	h.b.Do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(to, 0).String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	h.a.Do(func() { c, err = net.Dial("tcp", l.Addr().String()) })
	if err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, n)
	for i := range sent {
		sent[i] = byte(i>>8 ^ i)
	}
	go func() {
		in, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(io.Discard, in)
			_ = in.Close()
		}
	}()
	go func() {
		_, _ = c.Write(sent)
		_ = c.Close()
	}()
	got, first := make([]byte, n), uint32(0)
	cut := 0
	fin := func(f []byte) bool {
		p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.NoCopy)
		tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok || !bytes.Equal(f[6:12], mac(1)) {
			return false
		}
		if len(f) > 1514 || !valid(t, f) {
			t.Errorf("a frame of %d bytes, or its lengths or checksums are wrong: %x", len(f), f[:80])
		}
		if tcp.SYN {
			first = tcp.Seq + 1
			return false
		}
		copy(got[min(int(tcp.Seq-first), n):], tcp.Payload)
		cut++
		return tcp.FIN
	}
	h.read(fin)
	if !bytes.Equal(got, sent) {
		t.Errorf("the stream differs in %d frames; %d frames dropped", cut, h.port.Dropped())
	}
	if h.port.Dropped() > 0 {
		t.Errorf("%d frames dropped", h.port.Dropped())
	}
	if h.longest <= 1514 == supers {
		t.Errorf("the longest frame was %d bytes", h.longest)
	}
}
