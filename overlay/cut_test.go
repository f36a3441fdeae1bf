package overlay

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// A cutCase describes a super-frame.
type cutCase struct {
	v6, udp, options bool
	tags             int
	payload, segment int
	kind             Super
	ecn              bool
}

func (s cutCase) offload() Offload {
	return Offload{Super: s.kind, Segment: uint16(s.segment), ECN: s.ecn}
}

// layersOf returns the headers of s as segment index.
func (s cutCase) layersOf(index int, last bool) []gopacket.SerializableLayer {
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

func (s cutCase) frame(t testing.TB, index int, last bool, payload []byte) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	all := append(s.layersOf(index, last), gopacket.Payload(payload))
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	// gopacket pads to 60 bytes; the IP header knows better.
	f, ip := bytes.Clone(b.Bytes()), MinFrame+4*s.tags
	if s.v6 {
		return f[:ip+40+int(binary.BigEndian.Uint16(f[ip+4:]))]
	}
	return f[:ip+int(binary.BigEndian.Uint16(f[ip+2:]))]
}

// build returns the super-frame and what it must be cut into, each segment
// made from scratch by gopacket.
func (s cutCase) build(t testing.TB) (frame []byte, want [][]byte) {
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

// scatter returns b as a frame whose first head bytes at least are in Head, and
// the others in pieces of any length, none among them.
func scatter(r *rand.Rand, b []byte, head int, o Offload) *Frame {
	if head < len(b) {
		head += r.IntN(min(len(b)-head, 3000) + 1)
	}
	f := &Frame{Head: b[:head:head], Offload: o}
	for b = b[head:]; len(b) > 0; {
		n := r.IntN(min(len(b), 3000) + 1)
		f.Body = append(f.Body, b[:n:n])
		b = b[n:]
	}
	return f
}

// cutAll returns what c yields for the frame.
func cutAll(c *Cutter, f *Frame, mtu, slot int) (got [][]byte, ok bool) {
	if !c.Load(f, mtu) {
		return nil, false
	}
	for c.Pending() {
		dst := make([]byte, slot)
		if n := c.Next(dst); n > 0 {
			got = append(got, dst[:n])
		}
	}
	return got, true
}

var cutCases = []cutCase{
	{payload: 60000, segment: 1444, kind: SuperTCP4, options: true},
	{payload: 1449, segment: 1448, kind: SuperTCP4},
	{payload: 1448, segment: 1448, kind: SuperTCP4, ecn: true},
	{payload: 10000, segment: 1000, kind: SuperTCP4, tags: 1},
	{payload: 10000, segment: 1000, kind: SuperTCP4, tags: 2},
	{payload: 60001, segment: 1428, kind: SuperTCP6, v6: true, options: true},
	{payload: 60001, segment: 999, kind: SuperTCP6, v6: true, tags: 1},
	{payload: 60001, segment: 1200, kind: SuperUDP, udp: true},
	{payload: 60001, segment: 1200, kind: SuperUDP, udp: true, v6: true, tags: 1},
	{payload: 300, segment: 100, kind: SuperUDP, udp: true, options: true},
}

// A super-frame, in one piece or scattered, becomes the frames that gopacket
// makes of each segment, and is not changed.
func TestCut(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, s := range cutCases {
		b, want := s.build(t)
		orig := bytes.Clone(b)
		h, ok := s.offload().Parse(b)
		if !ok || h.Len != len(b)-s.payload || h.IP != MinFrame+4*s.tags {
			t.Fatalf("%+v: headers %+v, %v", s, h, ok)
		}
		frames := []*Frame{{Head: b, Offload: s.offload()}}
		for range 20 {
			frames = append(frames, scatter(r, b, h.Len, s.offload()))
		}
		for _, f := range frames {
			var c Cutter
			got, ok := cutAll(&c, f, 1500, MaxFrame)
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
		if !bytes.Equal(b, orig) {
			t.Errorf("%+v: the cutter changed the frame", s)
		}
	}
}

// Segments that don't fit what they are put into are left out, and the others
// are what they are.
func TestCutTooLong(t *testing.T) {
	s := cutCase{payload: 2100, segment: 1000, kind: SuperTCP4}
	b, want := s.build(t)
	h, _ := s.offload().Parse(b)
	var c Cutter
	got, ok := cutAll(&c, scatter(rand.New(rand.NewPCG(5, 6)), b, h.Len, s.offload()), 1500, 500)
	if !ok || len(got) != 1 || !bytes.Equal(got[0], want[2]) {
		t.Errorf("got %x (%v), want\n%x", got, ok, want[2])
	}
	c.Load(&Frame{Head: want[0]}, 1500)
	if n := c.Next(make([]byte, 500)); n != 0 || c.Pending() {
		t.Errorf("a whole frame became %d bytes", n)
	}
}

// Segments of TCP are made shorter than the sender's if they must fit an MTU.
func TestCutToMTU(t *testing.T) {
	s := cutCase{payload: 20000, segment: 1360, kind: SuperTCP4}
	frame, want := s.build(t)
	var c Cutter
	got, ok := cutAll(&c, &Frame{Head: frame, Offload: Offload{Super: SuperTCP4, Segment: 9000}}, 1400, MaxFrame)
	if !ok || len(got) != len(want) || !bytes.Equal(bytes.Join(got, nil), bytes.Join(want, nil)) {
		t.Errorf("got %d frames (%v), want %d of at most 1400 bytes", len(got), ok, len(want))
	}
}

func TestNotCut(t *testing.T) {
	tcp, _ := cutCase{payload: 3000, segment: 1000}.build(t)
	udp, _ := cutCase{payload: 3000, segment: 1000, udp: true}.build(t)
	for _, c := range []struct {
		name  string
		o     Offload
		frame []byte
		mtu   int
	}{
		{"no segment size", Offload{Super: SuperTCP4}, tcp, 1500},
		{"other family", Offload{Super: SuperTCP6, Segment: 1000}, tcp, 1500},
		{"other protocol", Offload{Super: SuperTCP4, Segment: 1000}, udp, 1500},
		{"unknown kind", Offload{Super: 4, Segment: 1000}, udp, 1500},
		{"headers only in part", Offload{Super: SuperTCP4, Segment: 1000}, tcp[:50], 1500},
		{"datagram longer than the MTU", Offload{Super: SuperUDP, Segment: 1000}, udp, 900},
		{"no room for payload", Offload{Super: SuperTCP4, Segment: 1000}, tcp, 40},
		{"checksum outside", Offload{Start: 34, Offset: 16}, tcp[:51], 1500},
		{"checksum far outside", Offload{Start: 0xffff, Offset: 0xffff}, tcp, 1500},
		{"no header", Offload{}, tcp[:13], 1500},
	} {
		var cut Cutter
		if cut.Load(&Frame{Head: c.frame, Offload: c.o}, c.mtu) || cut.Pending() {
			t.Errorf("%s: was cut", c.name)
		}
	}
	var cut Cutter
	scattered := &Frame{Head: tcp[:40], Body: [][]byte{tcp[40:]}, Offload: Offload{Super: SuperTCP4, Segment: 1000}}
	if cut.Load(scattered, 1500) {
		t.Error("a frame whose headers are scattered was cut")
	}
	frame, want := cutCase{payload: 64000, segment: 2}.build(t)
	if cut.Load(&Frame{Head: frame, Offload: Offload{Super: SuperTCP4, Segment: 2}}, 1500) {
		t.Errorf("a super-frame of %d segments was cut", len(want))
	}
}

// Whatever comes, nothing panics, and all of the payload is in the frames.
func FuzzCut(f *testing.F) {
	for _, s := range []cutCase{
		{payload: 3000, segment: 1000, kind: SuperTCP4},
		{payload: 3000, segment: 1000, kind: SuperTCP6, v6: true, tags: 1},
		{payload: 3000, segment: 1000, kind: SuperUDP, udp: true},
	} {
		frame, _ := s.build(f)
		f.Add(byte(s.kind), uint16(s.segment), uint16(0), uint16(0), uint16(1500), uint16(len(frame)), uint64(0), frame)
		f.Add(byte(s.kind), uint16(s.segment), uint16(0), uint16(0), uint16(1500), uint16(80), uint64(1), frame)
	}
	f.Add(byte(0), uint16(0), uint16(34), uint16(16), uint16(1500), uint16(3), uint64(2), make([]byte, 60))
	f.Fuzz(func(t *testing.T, kind byte, segment, start, offset, mtu, head uint16, seed uint64, b []byte) {
		if len(b) > MaxSuper {
			return
		}
		o := Offload{Super: Super(kind), Segment: segment, Start: start, Offset: offset}
		frame := scatter(rand.New(rand.NewPCG(seed, 0)), b, min(int(head), len(b)), o)
		orig := bytes.Clone(b)
		var c Cutter
		if !c.Load(frame, int(mtu)) {
			return
		}
		whole, payload := o.Super == 0, orig[c.h.Len:]
		var joined []byte
		dst := make([]byte, MaxSuper)
		for range maxSegments {
			if !c.Pending() {
				break
			}
			n := c.Next(dst)
			if n < c.h.Len || !whole && n > c.h.IP+int(mtu) {
				t.Fatalf("a frame of %d bytes with %+v at MTU %d", n, c.h, mtu)
			}
			joined = append(joined, dst[c.h.Len:n]...)
		}
		if c.Pending() {
			t.Fatal("more frames than the bound")
		}
		if len(joined) != len(payload) || (!whole || start == 0) && !bytes.Equal(joined, payload) {
			t.Fatalf("%d bytes of payload became %d", len(payload), len(joined))
		}
		if !bytes.Equal(b, orig) {
			t.Fatal("the cutter changed the frame")
		}
	})
}

func BenchmarkCut(b *testing.B) {
	frame, want := cutCase{payload: 64000, segment: 1448, kind: SuperTCP4}.build(b)
	f := &Frame{Head: frame, Offload: Offload{Super: SuperTCP4, Segment: 1448}}
	var c Cutter
	dst := make([]byte, MaxFrame)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		c.Load(f, 1500)
		for c.Pending() {
			c.Next(dst)
		}
	}
	b.ReportMetric(float64(b.N*len(want))/b.Elapsed().Seconds(), "frames/s")
}
