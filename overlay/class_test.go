package overlay

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

var flowKey = FlowKey{0x0123456789abcdef, 0xfedcba9876543210}

// wire returns the bytes of a frame made of layers, with right lengths and
// checksums.
func wire(t testing.TB, all ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A packet says what frame to make.
type packet struct {
	v6, fragment, later bool
	dscp                uint8
	vlans               []uint16
	headers             []layers.IPProtocol // IPv6 extension headers: hop-by-hop (0), routing (43) or destination options
	protocol            layers.IPProtocol
	from, to            uint16 // ports
	host                byte   // last byte of the source address
	payload             int
}

func (p packet) frame(t testing.TB) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	if p.v6 {
		eth.EthernetType = layers.EthernetTypeIPv6
	}
	all, kind := []gopacket.SerializableLayer{eth}, &eth.EthernetType
	for i, id := range p.vlans {
		tag := &layers.Dot1Q{VLANIdentifier: id, Type: *kind, Priority: 5}
		*kind = layers.EthernetTypeDot1Q
		if i == 0 && len(p.vlans) > 1 {
			*kind = layers.EthernetTypeQinQ
		}
		kind = &tag.Type
		all = append(all, tag)
	}
	all = append(all, p.network()...)
	return wire(t, append(all, gopacket.Payload(make([]byte, p.payload)))...)
}

// network returns the layers from the IP header on.
func (p packet) network() []gopacket.SerializableLayer {
	l4, checked := p.transport()
	if !p.v6 {
		ip := &layers.IPv4{
			Version: 4, TTL: 64, TOS: p.dscp<<2 | 2, Protocol: p.protocol,
			SrcIP: []byte{10, 0, 0, p.host}, DstIP: []byte{10, 0, 0, 2},
		}
		if p.fragment {
			ip.Flags = layers.IPv4MoreFragments
		}
		if p.later {
			ip.FragOffset = 100
		}
		if checked != nil {
			_ = checked.SetNetworkLayerForChecksum(ip)
		}
		return append([]gopacket.SerializableLayer{ip}, l4...)
	}
	ip := &layers.IPv6{
		Version: 6, HopLimit: 64, TrafficClass: p.dscp<<2 | 1, FlowLabel: 0xfffff,
		SrcIP: append(make([]byte, 15), p.host), DstIP: append(make([]byte, 15), 2),
	}
	if checked != nil {
		_ = checked.SetNetworkLayerForChecksum(ip)
	}
	kinds := append([]layers.IPProtocol{}, p.headers...)
	if p.fragment || p.later {
		kinds = append(kinds, layers.IPProtocolIPv6Fragment)
	}
	kinds = append(kinds, p.protocol)
	ip.NextHeader = kinds[0]
	all := []gopacket.SerializableLayer{ip}
	for i, kind := range kinds[:len(kinds)-1] {
		h := make([]byte, 8, 16)
		if kind == layers.IPProtocolIPv6Fragment {
			h[3] = 1 // more fragments
			if p.later {
				h[2] = 1
			}
		} else if i%2 == 1 {
			h = h[:16]
			h[1] = 1
		}
		h[0] = byte(kinds[i+1])
		all = append(all, gopacket.Payload(h))
	}
	return append(all, l4...)
}

type checksummed interface {
	SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
}

func (p packet) transport() ([]gopacket.SerializableLayer, checksummed) {
	switch p.protocol {
	case layers.IPProtocolTCP:
		l := &layers.TCP{SrcPort: layers.TCPPort(p.from), DstPort: layers.TCPPort(p.to), ACK: true}
		return []gopacket.SerializableLayer{l}, l
	case layers.IPProtocolUDP:
		l := &layers.UDP{SrcPort: layers.UDPPort(p.from), DstPort: layers.UDPPort(p.to)}
		return []gopacket.SerializableLayer{l}, l
	}
	return []gopacket.SerializableLayer{gopacket.Payload(binary.BigEndian.AppendUint32(nil, uint32(p.from)<<16|uint32(p.to)))}, nil
}

const (
	tcp    = layers.IPProtocolTCP
	udp    = layers.IPProtocolUDP
	icmp   = layers.IPProtocolICMPv4
	icmpv6 = layers.IPProtocolICMPv6
)

func TestClassOf(t *testing.T) {
	options := []layers.IPProtocol{0, 60, 43}
	for name, c := range map[string]struct {
		packet
		want Class
	}{
		"TCP":                        {packet{protocol: tcp, from: 1000, to: 80}, ClassBulk},
		"TCP over IPv6":              {packet{v6: true, protocol: tcp, from: 1000, to: 80}, ClassBulk},
		"QUIC":                       {packet{protocol: udp, from: 1000, to: 443}, ClassBulk},
		"a small ping":               {packet{protocol: icmp, payload: 40}, ClassDelay},
		"a ping of full size":        {packet{protocol: icmp, payload: 1476}, ClassDelay},
		"a ping cut by IP":           {packet{protocol: icmp, payload: 1400, fragment: true}, ClassDelay},
		"the rest of it":             {packet{protocol: icmp, payload: 600, later: true}, ClassDelay},
		"ping over IPv6":             {packet{v6: true, protocol: icmpv6, payload: 1400}, ClassDelay},
		"neighbour, with options":    {packet{v6: true, headers: options, protocol: icmpv6}, ClassDelay},
		"an IPv6 ping cut":           {packet{v6: true, protocol: icmpv6, fragment: true}, ClassDelay},
		"the rest of that":           {packet{v6: true, protocol: icmpv6, later: true}, ClassDelay},
		"DNS query":                  {packet{protocol: udp, from: 1000, to: 53}, ClassDelay},
		"DNS answer":                 {packet{protocol: udp, from: 53, to: 1000, payload: 1400}, ClassDelay},
		"DNS over IPv6 with options": {packet{v6: true, headers: options, protocol: udp, from: 1000, to: 53}, ClassDelay},
		"DNS answer cut":             {packet{protocol: udp, from: 53, to: 1000, fragment: true}, ClassBulk},
		"DNS over TCP":               {packet{protocol: tcp, from: 1000, to: 53}, ClassBulk},
		"DHCP":                       {packet{protocol: udp, from: 68, to: 67, payload: 300}, ClassDelay},
		"DHCPv6":                     {packet{v6: true, protocol: udp, from: 546, to: 547}, ClassDelay},
		"NTP":                        {packet{protocol: udp, from: 123, to: 123}, ClassDelay},
		"NTP, two VLANs":             {packet{vlans: []uint16{5, 6}, protocol: udp, from: 123, to: 123}, ClassDelay},
		"three VLANs":                {packet{vlans: []uint16{5, 6, 7}, protocol: icmp}, ClassBulk},
		"SCTP from port 53":          {packet{protocol: 132, from: 53, to: 53}, ClassBulk},
		"ssh's terminal":             {packet{dscp: 18, protocol: tcp, from: 1000, to: 22}, ClassDelay},
		"voice over IPv6":            {packet{v6: true, dscp: 46, protocol: udp, from: 1000, to: 2000}, ClassDelay},
		"voice cut":                  {packet{dscp: 46, protocol: udp, later: true}, ClassDelay},
		"a download":                 {packet{dscp: 8, protocol: tcp, from: 1000, to: 22}, ClassBulk},
	} {
		f := c.frame(t)
		if got, _ := ClassOf(flowKey, f); got != c.want {
			t.Errorf("%s: class %d: want %d", name, got, c.want)
		}
	}
}

// What RFC 4594's figure 3, RFC 5865 and RFC 8622 call the code points.
func TestClassOfDSCP(t *testing.T) {
	delay := []uint8{16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 44, 46, 48, 56}
	want := make(map[uint8]Class)
	for _, d := range delay {
		want[d] = ClassDelay
	}
	for d := range uint8(64) {
		for _, v6 := range []bool{false, true} {
			f := packet{v6: v6, dscp: d, protocol: tcp, from: 1, to: 2}.frame(t)
			if got, _ := ClassOf(flowKey, f); got != want[d] {
				t.Errorf("DSCP %d: class %d: want %d", d, got, want[d])
			}
		}
	}
}

func TestClassOfOtherEtherTypes(t *testing.T) {
	for kind, want := range map[uint16]Class{
		0x0806: ClassDelay, // ARP
		0x8035: ClassDelay, // RARP: how QEMU says that a machine has moved
		0x88b5: ClassDelay, // claims of stations: they go before frames for these
		0x888e: ClassBulk,  // EAPOL
		0x0026: ClassBulk,  // a length: spanning tree and the like
		0x88cc: ClassBulk,  // LLDP
		0x0800: ClassBulk,  // IPv4, but nothing behind it
		0x86dd: ClassBulk,
	} {
		f := binary.BigEndian.AppendUint16(make([]byte, 12), kind)
		if got, _ := ClassOf(flowKey, f); got != want {
			t.Errorf("EtherType %#04x: class %d: want %d", kind, got, want)
		}
	}
}

// Each thing that tells flows apart does; what differs within a flow doesn't.
func TestFlow(t *testing.T) {
	flow := func(p packet) uint32 {
		_, flow := ClassOf(flowKey, p.frame(t))
		return flow
	}
	for _, v6 := range []bool{false, true} {
		a := packet{v6: v6, protocol: tcp, from: 1000, to: 2000}
		seen := map[uint32]string{flow(a): "first"}
		for name, change := range map[string]func(*packet){
			"source address":   func(p *packet) { p.host++ },
			"source port":      func(p *packet) { p.from++ },
			"destination port": func(p *packet) { p.to++ },
			"protocol":         func(p *packet) { p.protocol = udp },
			"VLAN":             func(p *packet) { p.vlans = []uint16{1} },
			"second VLAN":      func(p *packet) { p.vlans = []uint16{1, 1} },
			"fragment":         func(p *packet) { p.fragment = true },
		} {
			b := a
			change(&b)
			if other, ok := seen[flow(b)]; ok {
				t.Errorf("IPv6 %v: %s: same flow as %s", v6, name, other)
			}
			seen[flow(b)] = name
		}
		same, whole := a, a
		same.payload, same.dscp = 1000, 10
		if flow(same) != flow(a) {
			t.Errorf("IPv6 %v: length and DSCP make another flow", v6)
		}
		first, later := whole, whole
		first.fragment = true
		later.later, later.from, later.to = true, 7, 8 // which are not ports here
		if flow(first) != flow(later) {
			t.Errorf("IPv6 %v: fragments are two flows", v6)
		}
	}
}

// The flows of one pair of hosts, and of a subnet, spread over the queues, with
// any key: the fullest has not many times its share.
func TestFlowSpreads(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		key := FlowKey{r.Uint64(), r.Uint64()}
		for _, v6 := range []bool{false, true} {
			f := packet{v6: v6, protocol: udp, from: 1000, to: 2000}.frame(t)
			at := 14 + 20
			if v6 {
				at = 14 + 40
			}
			for _, field := range []int{at, at + 2, at - 2, at - 6} { // ports, addresses
				var count [flowQueues]int
				for i := range 16 * flowQueues {
					binary.BigEndian.PutUint16(f[field:], uint16(i))
					_, flow := ClassOf(key, f)
					count[flow%flowQueues]++
				}
				for i, n := range count {
					if n > 48 { // a Poisson variable of mean 16: once in 1e9
						t.Fatalf("key %x, IPv6 %v, byte %d: queue %d has %d flows of 16 on average", key, v6, field, i, n)
					}
				}
			}
		}
	}
}

// Whatever the bytes are: no panic, and of IPv4 nothing behind the ports counts.
func FuzzClassOf(f *testing.F) {
	for _, p := range []packet{
		{protocol: tcp, from: 1, to: 2},
		{v6: true, headers: []layers.IPProtocol{0, 43, 60}, protocol: udp, from: 53, to: 2, vlans: []uint16{1, 2}},
		{v6: true, protocol: udp, fragment: true},
		{protocol: icmp, later: true},
	} {
		f.Add(p.frame(f))
	}
	const most = 14 + 8 + 60 + 4
	f.Fuzz(func(t *testing.T, b []byte) {
		c, flow := ClassOf(flowKey, b)
		if c >= Classes {
			t.Fatalf("class %d", c)
		}
		if len(b) < most {
			return
		}
		if kind, _, _ := etherType(b); kind == etherIPv4 {
			if c2, flow2 := ClassOf(flowKey, b[:most]); c2 != c || flow2 != flow {
				t.Fatal("a byte behind the headers counts")
			}
		}
	})
}

func BenchmarkClassOf(b *testing.B) {
	for name, p := range map[string]packet{
		"TCP4":         {protocol: tcp, from: 1000, to: 80},
		"TCP6":         {v6: true, protocol: tcp, from: 1000, to: 80},
		"UDP4/VLAN":    {vlans: []uint16{7}, protocol: udp, from: 1000, to: 80},
		"UDP6/options": {v6: true, headers: []layers.IPProtocol{0, 60}, protocol: udp, from: 1000, to: 80},
	} {
		b.Run(name, func(b *testing.B) {
			f := p.frame(b)
			b.ReportAllocs()
			var sum uint32
			for b.Loop() {
				_, flow := ClassOf(flowKey, f)
				sum += flow
			}
			_ = sum
		})
	}
}
