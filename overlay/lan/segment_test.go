package lan

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"farlan/overlay"
)

// A super is a description of a super-frame.
type super struct {
	v6, udp, options bool
	tags             int
	payload, segment int
	kind             byte
}

// layersOf returns the headers of s, for n bytes of payload as segment index.
func (s super) layersOf(index int, last bool, n int) []gopacket.SerializableLayer {
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	inner := layers.EthernetTypeIPv4
	if s.v6 {
		inner = layers.EthernetTypeIPv6
	}
	all := []gopacket.SerializableLayer{eth}
	eth.EthernetType = inner
	for i := range s.tags {
		tag := &layers.Dot1Q{VLANIdentifier: uint16(7 + i), Type: layers.EthernetTypeDot1Q}
		eth.EthernetType = layers.EthernetTypeDot1Q
		if i == s.tags-1 {
			tag.Type = inner
		}
		all = append(all, tag)
	}
	protocol := layers.IPProtocolTCP
	if s.udp {
		protocol = layers.IPProtocolUDP
	}
	var network gopacket.NetworkLayer
	if s.v6 {
		ip := &layers.IPv6{
			Version: 6, HopLimit: 64, NextHeader: protocol,
			SrcIP: bytes.Repeat([]byte{0xfd}, 16), DstIP: bytes.Repeat([]byte{0xfe}, 16),
		}
		all, network = append(all, ip), ip
	} else {
		ip := &layers.IPv4{
			Version: 4, TTL: 64, Protocol: protocol, Flags: layers.IPv4DontFragment,
			Id: uint16(0xfff0 + index), SrcIP: []byte{10, 0, 0, 1}, DstIP: []byte{10, 0, 0, 2},
		}
		if s.options {
			ip.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
		}
		all, network = append(all, ip), ip
	}
	if s.udp {
		udp := &layers.UDP{SrcPort: 1000, DstPort: 2000}
		_ = udp.SetNetworkLayerForChecksum(network)
		return append(all, udp)
	}
	tcp := &layers.TCP{
		SrcPort: 1000, DstPort: 2000, Seq: 0xfffffff0 + uint32(index*s.segment), Ack: 99, Window: 500,
		ACK: true, PSH: last, FIN: last, CWR: index == 0, ECE: true,
	}
	if s.options {
		tcp.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}}
	}
	_ = tcp.SetNetworkLayerForChecksum(network)
	return append(all, tcp)
}

func (s super) frame(t testing.TB, index int, last bool, payload []byte) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	all := append(s.layersOf(index, last, len(payload)), gopacket.Payload(payload))
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	// gopacket pads to 60 bytes; the IP header knows better.
	f, ip := bytes.Clone(b.Bytes()), etherLen+4*s.tags
	if s.v6 {
		return f[:ip+40+int(binary.BigEndian.Uint16(f[ip+4:]))]
	}
	return f[:ip+int(binary.BigEndian.Uint16(f[ip+2:]))]
}

// build returns the super-frame and what it must be cut into, each segment
// made from scratch by gopacket.
func (s super) build(t testing.TB) (frame []byte, want [][]byte) {
	t.Helper()
	payload := make([]byte, s.payload)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	for at, i := 0, 0; at < len(payload); i++ {
		end := min(at+s.segment, len(payload))
		want = append(want, s.frame(t, i, end == len(payload), payload[at:end]))
		at = end
	}
	head := s.frame(t, 0, true, nil)
	return append(head, payload...), want
}

// cutAll returns what c yields for the frame.
func cutAll(c *cutter, v vnet, frame []byte, mtu, slot int) (got [][]byte, ok bool) {
	if !c.load(v, frame, mtu) {
		return nil, false
	}
	for c.pending() {
		dst := make([]byte, slot)
		if n := c.next(dst); n > 0 {
			got = append(got, dst[:n])
		}
	}
	return got, true
}

func TestCut(t *testing.T) {
	for _, s := range []super{
		{payload: 60000, segment: 1444, kind: kindTCP4, options: true},
		{payload: 1449, segment: 1448, kind: kindTCP4},
		{payload: 1448, segment: 1448, kind: kindTCP4 | kindECN},
		{payload: 10000, segment: 1000, kind: kindTCP4, tags: 1},
		{payload: 10000, segment: 1000, kind: kindTCP4, tags: 2},
		{payload: 60001, segment: 1428, kind: kindTCP6, v6: true, options: true},
		{payload: 60001, segment: 999, kind: kindTCP6, v6: true, tags: 1},
		{payload: 60001, segment: 1200, kind: kindUDP, udp: true},
		{payload: 60001, segment: 1200, kind: kindUDP, udp: true, v6: true, tags: 1},
		{payload: 300, segment: 100, kind: kindUDP, udp: true, options: true},
	} {
		frame, want := s.build(t)
		var c cutter
		got, ok := cutAll(&c, vnet{kind: s.kind, segment: uint16(s.segment)}, frame, 1500, overlay.MaxFrame)
		if !ok || len(got) != len(want) {
			t.Errorf("%+v: %d frames (%v), want %d", s, len(got), ok, len(want))
			continue
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("%+v: frame %d of %d is\n%x, want\n%x", s, i, len(want), got[i][:80], want[i][:80])
				break
			}
		}
	}
}

// Segments of TCP are made shorter than the sender's if they must fit an MTU.
func TestCutToMTU(t *testing.T) {
	s := super{payload: 20000, segment: 1360, kind: kindTCP4}
	_, want := s.build(t)
	frame, _ := s.build(t)
	var c cutter
	got, ok := cutAll(&c, vnet{kind: kindTCP4, segment: 9000}, frame, 1400, overlay.MaxFrame)
	if !ok || len(got) != len(want) || !bytes.Equal(bytes.Join(got, nil), bytes.Join(want, nil)) {
		t.Errorf("got %d frames (%v), want %d of at most 1400 bytes", len(got), ok, len(want))
	}
}

func TestNotCut(t *testing.T) {
	tcp, _ := super{payload: 3000, segment: 1000}.build(t)
	udp, _ := super{payload: 3000, segment: 1000, udp: true}.build(t)
	for _, c := range []struct {
		name  string
		v     vnet
		frame []byte
		mtu   int
	}{
		{"no segment size", vnet{kind: kindTCP4}, tcp, 1500},
		{"other family", vnet{kind: kindTCP6, segment: 1000}, tcp, 1500},
		{"other protocol", vnet{kind: kindTCP4, segment: 1000}, udp, 1500},
		{"unknown kind", vnet{kind: 3, segment: 1000}, udp, 1500},
		{"headers only in part", vnet{kind: kindTCP4, segment: 1000}, tcp[:50], 1500},
		{"datagram longer than the MTU", vnet{kind: kindUDP, segment: 1000}, udp, 900},
		{"no room for payload", vnet{kind: kindTCP4, segment: 1000}, tcp, 40},
		{"checksum outside", vnet{flags: needsChecksum, start: 34, offset: 16}, tcp[:51], 1500},
		{"no header", vnet{}, tcp[:13], 1500},
	} {
		var cut cutter
		if cut.load(c.v, bytes.Clone(c.frame), c.mtu) || cut.pending() {
			t.Errorf("%s: was cut", c.name)
		}
	}
	frame, want := super{payload: 64000, segment: 2}.build(t)
	var cut cutter
	if cut.load(vnet{kind: kindTCP4, segment: 2}, frame, 1500) {
		t.Errorf("a super-frame of %d segments was cut", len(want))
	}
}

// Checksums that the sender left out are those that gopacket computes.
func TestChecksum(t *testing.T) {
	for _, s := range []super{
		{payload: 100, segment: 100},
		{payload: 101, segment: 101, udp: true},
		{payload: 1, segment: 1, v6: true},
		{payload: 33, segment: 33, v6: true, udp: true},
	} {
		_, frames := s.build(t)
		want := frames[0]
		got := bytes.Clone(want)
		start, offset, protocol := 34, 16, uint64(6)
		pseudo := want[26:34]
		if s.v6 {
			start, pseudo = 54, want[22:54]
		}
		if s.udp {
			offset, protocol = 6, 17
		}
		sum := ^checksum(add(protocol+uint64(len(want)-start), pseudo))
		binary.BigEndian.PutUint16(got[start+offset:], sum)
		var c cutter
		out, ok := cutAll(&c, vnet{flags: needsChecksum, start: uint16(start), offset: uint16(offset)}, got, 1500, 2000)
		if !ok || !bytes.Equal(out[0], want) {
			t.Errorf("%+v: got\n%x, want\n%x", s, out, want)
		}
	}
	// SCTP's is a CRC: RFC 9260, and the check value of CRC-32C in it.
	b := append(make([]byte, 12), "123456789"...)
	ref := bytes.Clone(b)
	if !complete(b, 0, 8) || bytes.Equal(b, ref) {
		t.Error("SCTP's checksum was not computed")
	}
}

func TestSum(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for n := range 200 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32() | 0xf0) // many carries
		}
		var slow uint32
		for i, x := range b {
			slow += uint32(x) << (8 * (1 - i%2))
			slow = slow>>16 + slow&0xffff
		}
		if got := checksum(add(0, b)); got != ^uint16(slow) {
			t.Errorf("%d bytes: %#04x, want %#04x", n, got, ^uint16(slow))
		}
	}
	if got := checksum(add(1<<64-1, bytes.Repeat([]byte{0xff}, 64))); got != 0 {
		t.Errorf("sum of ones only: %#04x, want 0", got)
	}
}

// Whatever comes, nothing panics, and all of the payload is in the frames.
func FuzzCut(f *testing.F) {
	for _, s := range []super{
		{payload: 3000, segment: 1000, kind: kindTCP4},
		{payload: 3000, segment: 1000, kind: kindTCP6, v6: true, tags: 1},
		{payload: 3000, segment: 1000, kind: kindUDP, udp: true},
	} {
		frame, _ := s.build(f)
		f.Add(byte(0), s.kind, uint16(s.segment), uint16(0), uint16(0), uint16(1500), frame)
	}
	f.Add(byte(1), byte(0), uint16(0), uint16(34), uint16(16), uint16(1500), make([]byte, 60))
	f.Fuzz(func(t *testing.T, flags, kind byte, segment, start, offset, mtu uint16, frame []byte) {
		if len(frame) > maxSuper {
			return
		}
		var c cutter
		orig := bytes.Clone(frame)
		v := vnet{flags: flags, kind: kind, segment: segment, start: start, offset: offset}
		if !c.load(v, frame, int(mtu)) {
			return
		}
		whole, payload := c.ip == 0, orig[c.payload:]
		ip, head := c.ip, c.payload
		var joined []byte
		dst := make([]byte, maxSuper)
		for range maxSegments {
			if !c.pending() {
				break
			}
			n := c.next(dst)
			if n < head || !whole && n > ip+int(mtu) {
				t.Fatalf("a frame of %d bytes with %d of headers at MTU %d", n, head, mtu)
			}
			joined = append(joined, dst[head:n]...)
		}
		if c.pending() {
			t.Fatal("more frames than the bound")
		}
		if len(joined) != len(payload) || !whole && !bytes.Equal(joined, payload) {
			t.Fatalf("%d bytes of payload became %d", len(payload), len(joined))
		}
	})
}

func BenchmarkCut(b *testing.B) {
	frame, want := super{payload: 64000, segment: 1448, kind: kindTCP4}.build(b)
	var c cutter
	dst := make([]byte, overlay.MaxFrame)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		c.load(vnet{kind: kindTCP4, segment: 1448}, frame, 1500)
		for c.pending() {
			c.next(dst)
		}
	}
	b.ReportMetric(float64(b.N*len(want))/b.Elapsed().Seconds(), "frames/s")
}
