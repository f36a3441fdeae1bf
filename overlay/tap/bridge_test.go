//go:build linux

package tap

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"farlan/overlay"
	"farlan/overlay/nstest"
)

// superFrame returns a super-frame from 02:…:01 to 02:…:02, scattered over many
// pieces. Its checksum is still to be computed.
func superFrame(t testing.TB, kind overlay.Super, tags, payload, segment int) *overlay.Frame {
	t.Helper()
	tcp, v6 := kind != overlay.SuperUDP, kind == overlay.SuperTCP6
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}}
	all := []gopacket.SerializableLayer{eth}
	next := &eth.EthernetType
	for i := range tags {
		tag := &layers.Dot1Q{VLANIdentifier: uint16(7 + i), Priority: 5}
		*next, next = layers.EthernetTypeDot1Q, &tag.Type
		all = append(all, tag)
	}
	protocol := layers.IPProtocolUDP
	if tcp {
		protocol = layers.IPProtocolTCP
	}
	var network gopacket.NetworkLayer
	if v6 {
		*next = layers.EthernetTypeIPv6
		ip := &layers.IPv6{
			Version: 6, HopLimit: 64, NextHeader: protocol,
			SrcIP: bytes.Repeat([]byte{0xfd}, 16), DstIP: bytes.Repeat([]byte{0xfe}, 16),
		}
		all, network = append(all, ip), ip
	} else {
		*next = layers.EthernetTypeIPv4
		ip := &layers.IPv4{
			Version: 4, TTL: 64, Protocol: protocol, Flags: layers.IPv4DontFragment,
			Id: 0xfffe, SrcIP: []byte{10, 66, 0, 2}, DstIP: []byte{10, 66, 0, 1},
		}
		all, network = append(all, ip), ip
	}
	if tcp {
		l := &layers.TCP{
			SrcPort: 1000, DstPort: 2000, Seq: 0xfffffff0, Ack: 99, Window: 500, ACK: true, PSH: true, FIN: true,
			Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}},
		}
		_ = l.SetNetworkLayerForChecksum(network)
		all = append(all, l)
	} else {
		l := &layers.UDP{SrcPort: 1000, DstPort: 2000}
		_ = l.SetNetworkLayerForChecksum(network)
		all = append(all, l)
	}
	data := make([]byte, payload)
	for i := range data {
		data[i] = byte(i * 7)
	}
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(all, gopacket.Payload(data))...); err != nil {
		t.Fatal(err)
	}
	b := buffer.Bytes()
	o := overlay.Offload{Super: kind, Segment: uint16(segment)}
	h, ok := o.Parse(b)
	if !ok {
		t.Fatal("gopacket's frame can't be parsed")
	}
	o.Defer(b, h, len(b))
	f := &overlay.Frame{Offload: o}
	scatter(f, b, h.Len)
	return f
}

// scatter makes f of b, with what is behind byte head in pieces of any length.
func scatter(f *overlay.Frame, b []byte, head int) {
	f.Head, f.Body = b[:head], f.Body[:0]
	for b = b[head:]; len(b) > 0; {
		n := rand.IntN(min(len(b), 3000) + 1)
		f.Body = append(f.Body, b[:n])
		b = b[n:]
	}
}

// join returns the bytes of f.
func join(f *overlay.Frame) []byte {
	return bytes.Join(append([][]byte{f.Head}, f.Body...), nil)
}

// What is written to one TAP of a bridge is read from another: a super-frame as
// it was from one with offload, and from a plain one exactly the frames that the
// Cutter makes of it, which are not longer than the MTU of the first. So the
// kernel and the Cutter agree, and the kernel understands what is written.
func TestThroughBridge(t *testing.T) {
	type frame struct {
		kind                   overlay.Super
		tags, payload, segment int
	}
	n := nstest.New(t)
	n.IP("link add br0 type bridge mcast_snooping 0 && ip link set br0 up")
	in := open(t, n, Config{Name: "in", Bridge: "br0", MTU: 9000})
	narrow := open(t, n, Config{Name: "narrow", Bridge: "br0", MTU: 1300})
	plain := open(t, n, Config{Name: "plain", Bridge: "br0", Plain: true, MTU: 9000})
	offload := open(t, n, Config{Name: "offload", Bridge: "br0", MTU: 9000})
	whole, cut := newReader(offload), newReader(plain)
	var cutter overlay.Cutter
	for _, c := range []frame{
		{overlay.SuperTCP4, 0, 60000, 1448},
		{overlay.SuperTCP4, 1, 60000, 1448},
		{overlay.SuperTCP4, 2, 3000, 1400},
		{overlay.SuperTCP6, 0, 60001, 1428},
		{overlay.SuperTCP6, 1, 60001, 1428},
		{overlay.SuperTCP4, 0, 62720, 8948},
		{overlay.SuperUDP, 0, 50001, 1200},
		{overlay.SuperUDP, 1, 50001, 1200},
	} {
		for _, port := range []*Port{in, narrow} {
			t.Run(fmt.Sprint(port.Name(), c), func(t *testing.T) {
				f := superFrame(t, c.kind, c.tags, c.payload, c.segment)
				if w := port.Write(0, []overlay.Frame{*f}); w != 1 {
					t.Fatal("was not written")
				}
				ours := func(g *overlay.Frame) bool { return bytes.Equal(g.Head[:12], f.Head[:12]) }
				if got := whole.next(t, ours); !bytes.Equal(join(got), join(f)) || got.Start != f.Start || got.Super != f.Super ||
					(port == in && got.Offload != f.Offload) {
					t.Errorf("read %d bytes, %+v; want %d bytes, %+v", got.Len(), got.Offload, f.Len(), f.Offload)
				}
				if !cutter.Load(f, port.MTU()) {
					t.Fatal("cannot be cut")
				}
				want := make([]byte, overlay.MaxFrame)
				for i := 0; cutter.Pending(); i++ {
					n := cutter.Next(want)
					got := cut.next(t, ours)
					if !bytes.Equal(got.Head, want[:n]) || got.Offload != (overlay.Offload{}) {
						t.Fatalf("segment %d, %d bytes, is\n%x, want\n%x", i, len(got.Head), got.Head[:80], want[:80])
					}
				}
			})
		}
	}
}
