package overlay

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

func ip4(i byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, i}) }
func ip6(i byte) netip.Addr { return netip.AddrFrom16([16]byte{0: 0xfd, 15: i}) }

// arp makes an ARP packet of an operation.
func arp(dst MAC, operation byte, src MAC, ip, target netip.Addr) []byte {
	a, b := ip.As4(), target.As4()
	return slices.Concat(dst[:], src[:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, operation}, src[:], a[:], make([]byte, 6), b[:])
}

// packet6 makes an IPv6 packet: what it carries is of kind next.
func packet6(dst, src MAC, from, to netip.Addr, next byte, payload ...byte) []byte {
	a, b := from.As16(), to.As16()
	return slices.Concat(dst[:], src[:], []byte{0x86, 0xdd, 0x60, 0, 0, 0, byte(len(payload) >> 8), byte(len(payload)), next, 255}, a[:], b[:], payload)
}

func solicit(src MAC, ip, target netip.Addr) []byte {
	t := target.As16()
	icmp := slices.Concat([]byte{neighbourSolicitation, 0, 0, 0, 0, 0, 0, 0}, t[:])
	if !ip.IsUnspecified() {
		icmp = append(append(icmp, 1, 1), src[:]...)
	}
	return packet6(MAC{0x33, 0x33, 0xff, t[13], t[14], t[15]}, src, ip, netip.MustParseAddr("ff02::1:ff00:0"), protocolICMPv6, icmp...)
}

func advertise(dst, src MAC, ip netip.Addr, flags byte) []byte {
	t := ip.As16()
	return packet6(dst, src, ip, netip.MustParseAddr("ff02::1"), protocolICMPv6, slices.Concat([]byte{neighbourAdvertisement, 0, 0, 0, flags, 0, 0, 0}, t[:], []byte{2, 1}, src[:])...)
}

// udp4 makes a UDP packet over IPv4.
func udp4(dst, src MAC, from netip.Addr, source, to uint16, payload ...byte) []byte {
	a := from.As4()
	p := slices.Concat([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0}, a[:], []byte{255, 255, 255, 255})
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(payload)))
	p = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(p, source), to)
	p = append(binary.BigEndian.AppendUint16(p, uint16(8+len(payload))), 0, 0)
	return slices.Concat(dst[:], src[:], []byte{8, 0}, p, payload)
}

// ack makes what a DHCP server says when it gives an address to a client.
func ack(server MAC, ip netip.Addr, client MAC, options ...byte) []byte {
	b := make([]byte, dhcpHeader)
	b[0], b[1], b[2] = 2, 1, 6
	copy(b[16:], ip.AsSlice())
	copy(b[28:], client[:])
	binary.BigEndian.PutUint32(b[236:], dhcpMagic)
	b = append(b, optionMessage, 1, messageACK, optionLeaseTime, 4, 0, 0, 0x0e, 0x10)
	return udp4(client, server, ip4(2), portDHCPServer, portDHCPClient, append(append(b, options...), 255)...)
}

func inVLAN(frame []byte, tags ...byte) []byte {
	return slices.Insert(slices.Clone(frame), 12, tags...)
}

func inSNAP(frame []byte) []byte {
	return slices.Insert(slices.Clone(frame), 12, byte((len(frame)-6)>>8), byte(len(frame)-6), 0xaa, 0xaa, 3, 0, 0, 0)
}

func advertisement(next byte, before ...byte) []byte {
	return packet6(MAC{0x33, 0x33, 5: 1}, mac(1), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1"), next, append(before, routerAdvertisement, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0)...)
}

func TestListen(t *testing.T) {
	pad := []byte{protocolICMPv6, 0, 1, 4, 0, 0, 0, 0} // an extension header
	for name, c := range map[string]struct {
		frame []byte
		want  Heard
	}{
		"an ARP request":                    {arp(Broadcast, 1, mac(1), ip4(1), ip4(2)), Heard{Said: SaidARP, At: 14, IP: ip4(1), MAC: mac(1), Target: ip4(2)}},
		"an ARP reply":                      {arp(mac(2), 2, mac(1), ip4(1), ip4(2)), Heard{Said: SaidARP, At: 14, IP: ip4(1), MAC: mac(1)}},
		"an ARP announcement":               {arp(Broadcast, 1, mac(1), ip4(1), ip4(1)), Heard{Said: SaidARP, At: 14, IP: ip4(1), MAC: mac(1), Announces: true}},
		"an ARP probe":                      {arp(Broadcast, 1, mac(1), netip.IPv4Unspecified(), ip4(2)), Heard{Said: SaidARP, At: 14, MAC: mac(1), Target: ip4(2), Probe: true}},
		"in a VLAN":                         {inVLAN(arp(Broadcast, 1, mac(1), ip4(1), ip4(2)), 0x81, 0, 0, 7), Heard{Said: SaidARP, VLANs: 7, At: 18, IP: ip4(1), MAC: mac(1), Target: ip4(2)}},
		"behind SNAP":                       {inSNAP(arp(Broadcast, 1, mac(1), ip4(1), ip4(2))), Heard{Said: SaidARP, At: 22, IP: ip4(1), MAC: mac(1), Target: ip4(2)}},
		"behind three tags":                 {inVLAN(advertisement(protocolICMPv6), 0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x81, 0, 0, 0), Heard{Said: SaidHidden}},
		"RARP":                              {append(append(eth(Broadcast, mac(1))[:12], 0x80, 0x35), make([]byte, 46)...), Heard{Said: SaidRARP, At: 14, Announces: true}},
		"a solicitation":                    {solicit(mac(1), ip6(1), ip6(2)), Heard{Said: SaidNeighbour, At: 14, IP: ip6(1), MAC: mac(1), Target: ip6(2)}},
		"a look at an address":              {solicit(mac(1), netip.IPv6Unspecified(), ip6(2)), Heard{Said: SaidNeighbour, At: 14, Target: ip6(2), Probe: true}},
		"an advertisement":                  {advertise(mac(2), mac(1), ip6(1), 0xe0), Heard{Said: SaidNeighbour, At: 14, IP: ip6(1), MAC: mac(1), Router: true}},
		"one for all":                       {advertise(MAC{0x33, 0x33, 5: 1}, mac(1), ip6(1), 0x20), Heard{Said: SaidNeighbour, At: 14, IP: ip6(1), MAC: mac(1), Announces: true}},
		"a router":                          {advertisement(protocolICMPv6), Heard{Said: SaidRouter, At: 14, IP: netip.MustParseAddr("fe80::1")}},
		"a router behind an option":         {advertisement(protocolDestOptions, pad...), Heard{Said: SaidRouter, At: 14, IP: netip.MustParseAddr("fe80::1")}},
		"a router in a fragment of its own": {advertisement(protocolFragment, protocolICMPv6, 0, 0, 0, 0, 0, 0, 1), Heard{Said: SaidRouter, At: 14, IP: netip.MustParseAddr("fe80::1")}},
		"a fragment that hides it":          {packet6(mac(2), mac(1), ip6(1), ip6(2), protocolFragment, protocolDestOptions, 0, 0, 1, 0, 0, 0, 1, protocolICMPv6, 1, 0, 0, 0, 0, 0, 0), Heard{Said: SaidHidden, At: 14}},
		"a later fragment":                  {packet6(mac(2), mac(1), ip6(1), ip6(2), protocolFragment, protocolICMPv6, 0, 0, 8, 0, 0, 0, 1, routerAdvertisement, 0, 0, 0, 0, 0, 0, 0), Heard{At: 14}},
		"too many headers":                  {advertisement(protocolDestOptions, slices.Repeat([]byte{protocolDestOptions, 0, 1, 4, 0, 0, 0, 0}, 9)...), Heard{Said: SaidHidden, At: 14}},
		"DHCPv6":                            {packet6(mac(2), mac(1), ip6(1), ip6(2), protocolUDP, 2, 35, 2, 34, 0, 8, 0, 0), Heard{Said: SaidLease, At: 14, IP: ip6(1)}},
		"a DHCP server":                     {udp4(mac(2), mac(1), ip4(1), 67, 68, 2, 1), Heard{Said: SaidLease, At: 14, IP: ip4(1)}},
		"by another port":                   {udp4(mac(2), mac(1), ip4(1), 1067, 68, 2, 1), Heard{Said: SaidLease, At: 14, IP: ip4(1)}},
		"a DHCP client":                     {udp4(Broadcast, mac(1), netip.IPv4Unspecified(), 68, 67, 1, 1), Heard{At: 14}},
		"a lease":                           {ack(mac(1), ip4(9), mac(9), optionRouter, 4, 10, 0, 0, 1), Heard{Said: SaidLease, At: 14, IP: ip4(2), Lease: Lease{ip4(9), mac(9), ip4(1), 3600}}},
		"a lease of options that don't fit": {ack(mac(1), ip4(9), mac(9), optionRouter, 200, 1), Heard{Said: SaidLease, At: 14, IP: ip4(2)}},
		"data":                              {udp4(mac(2), mac(1), ip4(1), 53, 4000, 2, 1), Heard{At: 14}},
	} {
		if got := Listen(c.frame); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		if c.want.Said != SaidNothing && !maySay(c.frame) {
			t.Errorf("%s isn't looked at", name)
		}
		for n := range c.frame { // cut short, it says the same or nothing, and nothing breaks
			if got := Listen(c.frame[:n:n]); got.Said != SaidNothing && got.Said != c.want.Said && got.Said != SaidHidden {
				t.Errorf("%d bytes of %s: %+v", n, name, got)
			}
		}
	}
}

// Whatever is changed in a frame of ARP or neighbour discovery, what is heard then is in it.
func TestListenMalformed(t *testing.T) {
	for _, frame := range [][]byte{arp(Broadcast, 1, mac(1), ip4(1), ip4(2)), solicit(mac(1), ip6(1), ip6(2)), advertise(mac(2), mac(1), ip6(1), 0), ack(mac(1), ip4(9), mac(9))} {
		for i := 12; i < len(frame); i++ {
			for _, to := range []byte{0, 1, 0x7f, 0xff, frame[i] + 1} {
				changed := slices.Clone(frame)
				changed[i] = to
				isSaid(t, changed, Listen(changed))
			}
		}
	}
	for i := range 8 { // an ARP packet of another kind says nothing
		if i == 7 {
			continue // the operation
		}
		f := arp(Broadcast, 1, mac(1), ip4(1), ip4(2))
		f[14+i] ^= 0x40
		if h := Listen(f); h.Said != SaidNothing {
			t.Errorf("byte %d changed: %+v", i, h)
		}
	}
	for _, f := range []func(f []byte){
		func(f []byte) { f[14+7] = 64 },              // it was routed
		func(f []byte) { f[14+5] = 8 },               // too short by its own words
		func(f []byte) { f[14+40+8] = 0xff },         // for a group
		func(f []byte) { f[14+64], f[14+65] = 1, 0 }, // an option without length
	} {
		s := solicit(mac(1), ip6(1), ip6(2))
		f(s)
		if h := Listen(s); h.IP.IsValid() {
			t.Errorf("%x: %+v", s, h)
		}
	}
}

// isSaid checks that what is heard of a frame is in it.
func isSaid(t *testing.T, frame []byte, h Heard) {
	t.Helper()
	in := func(b []byte) bool {
		for i := range len(frame) - len(b) + 1 {
			if string(frame[i:i+len(b)]) == string(b) {
				return true
			}
		}
		return false
	}
	for _, ip := range []netip.Addr{h.IP, h.Target, h.Lease.IP, h.Lease.Router} {
		if ip.IsValid() && !in(ip.AsSlice()) {
			t.Errorf("%x doesn't say %v", frame, ip)
		}
	}
	if h.IP.IsValid() && h.Said != SaidLease && h.Said != SaidRouter && !in(h.MAC[:]) || h.Probe && h.IP.IsValid() {
		t.Errorf("%x: %+v", frame, h)
	}
	if h.At > len(frame) {
		t.Errorf("%x starts at %d", frame, h.At)
	}
}

func FuzzListen(f *testing.F) {
	for _, frame := range [][]byte{
		arp(Broadcast, 1, mac(1), ip4(1), ip4(2)), solicit(mac(1), ip6(1), ip6(2)), advertise(mac(2), mac(1), ip6(1), 0xe0),
		ack(mac(1), ip4(9), mac(9), optionRouter, 4, 10, 0, 0, 1), advertisement(protocolDestOptions, protocolICMPv6, 0, 1, 4, 0, 0, 0, 0),
		inVLAN(advertisement(protocolFragment, protocolICMPv6, 0, 0, 0, 0, 0, 0, 1), 0x81, 0, 0, 7), inSNAP(arp(Broadcast, 1, mac(1), ip4(1), ip4(2))),
	} {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		h := Listen(frame)
		isSaid(t, frame, h)
		if h.Said != SaidNothing && !maySay(frame) {
			t.Errorf("%x isn't looked at", frame)
		}
		if h.Target.IsValid() {
			o := Owner{IP: h.Target, MAC: mac(3), Router: true}
			answer := AppendAnswer(nil, frame, &h, o)
			if a := Listen(answer); a.Said != h.Said || a.IP != h.Target || a.MAC != o.MAC || a.VLANs != h.VLANs {
				t.Errorf("%x is answered by %x, which says %+v", frame, answer, a)
			}
		}
	})
}

func BenchmarkListen(b *testing.B) {
	data := udp4(mac(2), mac(1), ip4(1), 40000, 5001, make([]byte, 1400)...)
	data[14+9] = protocolTCP
	for b.Loop() {
		if h := Listen(data); h.Said != SaidNothing {
			b.Fatal(h)
		}
	}
}
