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
)

// A neighbour leaves the checksum of what it sends to its device, which is
// none: DHCP servers and clients would drop such datagrams.
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
		partial := bytes.Clone(want)
		const ip, udp = etherLen + tagLen, etherLen + tagLen + 20
		sum := ^checksum(add(17+uint64(len(want)-udp), want[ip+12:ip+20]))
		binary.BigEndian.PutUint16(partial[udp+6:], sum)
		v := vnet{flags: needsChecksum, start: udp, offset: 6}
		h.a.Do(func() { inject(t, "v0", v, partial) })
		if f := h.one(holds("tagged")); !bytes.Equal(f, want) {
			t.Errorf("got\n%x, want\n%x", f, want)
		}
	}
}

// The proxy sees a copy of a stream from a to b. Each super-frame arrives as
// frames that a wire carries, and the stream is whole.
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
				h.stream(netip.MustParseAddr(to), 400_000)
			})
		}
	}
}

// stream sends n bytes from a to the address by TCP, and expects the proxy to
// see all of them.
func (h *home) stream(to netip.Addr, n int) {
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
	t.Logf("%d frames", cut)
}
