package agent

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"farlan/overlay"
)

// frameOf makes a frame with gopacket, which doesn't share a line with snoop.
func frameOf(t testing.TB, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, parts...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var snooped = overlay.MAC{2, 0, 0, 0, 0, 7}

func tellingFrames(t testing.TB) map[string][]byte {
	ether := func(of layers.EthernetType) *layers.Ethernet {
		return &layers.Ethernet{SrcMAC: snooped[:], DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 8}, EthernetType: of}
	}
	arp := &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, Operation: layers.ARPRequest,
		SourceHwAddress: snooped[:], SourceProtAddress: []byte{10, 0, 0, 7}, DstHwAddress: make([]byte, 6), DstProtAddress: []byte{10, 0, 0, 8},
	}
	ip6 := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: 255, SrcIP: net.ParseIP("fd00::7"), DstIP: net.ParseIP("ff02::1")}
	advertisement := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborAdvertisement, 0)}
	ip4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IP{10, 0, 0, 7}, DstIP: net.IP{255, 255, 255, 255}}
	offer := &layers.DHCPv4{Operation: layers.DHCPOpReply, HardwareType: layers.LinkTypeEthernet, HardwareLen: 6, ClientHWAddr: snooped[:]}
	return map[string][]byte{
		"arp":        frameOf(t, ether(layers.EthernetTypeARP), arp),
		"tagged arp": frameOf(t, ether(layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 5, Type: layers.EthernetTypeARP}, arp),
		"neighbour":  frameOf(t, ether(layers.EthernetTypeIPv6), ip6, advertisement, gopacket.Payload(make([]byte, 20))),
		"lease":      frameOf(t, ether(layers.EthernetTypeIPv4), ip4, &layers.UDP{SrcPort: 67, DstPort: 68}, offer),
	}
}

// snoopedOf returns what is learned of a frame that came from the station.
func snoopedOf(f []byte) overlay.Station {
	stations := &overlay.Stations{}
	stations.Learn(overlay.Instant(1), snooped, overlay.AgentPlace(1))
	snoop(stations, f)
	for _, s := range stations.List() {
		if s.MAC == snooped {
			return s
		}
	}
	return overlay.Station{}
}

func TestSnoop(t *testing.T) {
	for name, f := range tellingFrames(t) {
		want := netip.MustParseAddr("10.0.0.7")
		if name == "neighbour" {
			want = netip.MustParseAddr("fd00::7")
		}
		got := snoopedOf(f)
		if len(got.IPs) != 1 || got.IPs[0] != want || (got.Leases != 0) != (name == "lease") {
			t.Errorf("%s tells %v, leases %v", name, got.IPs, got.Leases)
		}
		for n := range f { // cut short, it tells nothing else, and nothing breaks
			if s := snoopedOf(f[:n]); len(s.IPs) > 0 && s.IPs[0] != want {
				t.Errorf("%d bytes of %s tell %v", n, name, s.IPs)
			}
		}
	}
}

// What DHCP servers answer is told from all else.
func TestLeases(t *testing.T) {
	reply := append([]byte{
		0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 1, 1, 255, 255, 255, 255, 0, 67, 0, 68, 0, 40, 0, 0, 2, 1, 6, 0,
	}, make([]byte, 40)...)
	if ip, ok := leases(reply); !ok || ip != netip.MustParseAddr("192.168.1.1") {
		t.Errorf("%v, %v", ip, ok)
	}
	for n := range reply {
		leases(reply[:n]) // doesn't panic
	}
	for i, to := range map[int]byte{0: 0x46, 9: 6, 21: 68, 23: 67, 28: 1} {
		changed := slices.Clone(reply)
		changed[i] = to
		if _, ok := leases(changed); ok {
			t.Errorf("with %d at %d it is taken for an answer", to, i)
		}
	}
}

// FuzzSnoop compares the addresses that ARP and neighbour discovery tell with what
// gopacket finds.
func FuzzSnoop(f *testing.F) {
	for _, frame := range tellingFrames(f) {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		got := snoopedOf(frame)
		if len(got.IPs) == 0 || got.Leases != 0 {
			return
		}
		p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
		if arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
			if ip, _ := netip.AddrFromSlice(arp.SourceProtAddress); ip != got.IPs[0] {
				t.Errorf("%x: %v, not %v", frame, got.IPs, ip)
			}
		} else if v6, ok := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6); ok {
			if ip, _ := netip.AddrFromSlice(v6.SrcIP); ip != got.IPs[0] {
				t.Errorf("%x: %v, not %v", frame, got.IPs, ip)
			}
		}
	})
}
