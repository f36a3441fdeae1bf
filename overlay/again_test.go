package overlay

import (
	"net/netip"
	"testing"
	"time"
)

// mdns makes a multicast DNS question for names of type PTR.
func mdns(src MAC, from uint16, class byte, answers byte, name string) []byte {
	q := append([]byte{0, 0, 0, 0, 0, 1, 0, answers, 0, 0, 0, 0, byte(len(name))}, name...)
	f := udp4(MAC{1, 0, 0x5e, 0, 0, 0xfb}, src, ip4(src[5]), from, portMDNS, append(q, 0, 0, 12, class, 1)...)
	copy(f[14+16:], []byte{224, 0, 0, 251})
	return f
}

// What all have heard a moment ago isn't flooded again, but what only looks alike is.
func TestSaidAgain(t *testing.T) {
	a, b := mac(1), mac(2)
	ask := mdns(a, portMDNS, 0, 0, "_ssh")
	for name, c := range map[string]struct {
		first, second []byte
		after         time.Duration
		again         bool
	}{
		"a question":                        {ask, ask, 0, true},
		"another machine's":                 {ask, mdns(b, portMDNS, 0, 0, "_ssh"), 500 * time.Millisecond, true},
		"a second later":                    {ask, ask, time.Second, false},
		"for another name":                  {ask, mdns(b, portMDNS, 0, 0, "_ipp"), 0, false},
		"in another VLAN":                   {ask, inVLAN(ask, 0x81, 0, 0, 3), 0, false},
		"one that wants the answer alone":   {mdns(a, portMDNS, 0x80, 0, "_ssh"), mdns(b, portMDNS, 0x80, 0, "_ssh"), 0, false},
		"the same machine's":                {mdns(a, portMDNS, 0x80, 0, "_ssh"), mdns(a, portMDNS, 0x80, 0, "_ssh"), 0, true},
		"one by another port":               {mdns(a, 4000, 0, 0, "_ssh"), mdns(b, 4000, 0, 0, "_ssh"), 0, false},
		"one that knows answers":            {mdns(a, portMDNS, 0, 1, "_ssh"), mdns(b, portMDNS, 0, 1, "_ssh"), 0, false},
		"an announcement":                   {arp(Broadcast, 1, a, ip4(1), ip4(1)), arp(Broadcast, 1, a, ip4(1), ip4(1)), time.Second, true},
		"the second, two seconds after":     {arp(Broadcast, 1, a, ip4(1), ip4(1)), arp(Broadcast, 1, a, ip4(1), ip4(1)), 2 * time.Second, false},
		"of another machine":                {arp(Broadcast, 1, a, ip4(1), ip4(1)), arp(Broadcast, 1, b, ip4(1), ip4(1)), 0, false},
		"a look at an address":              {arp(Broadcast, 1, a, netip.IPv4Unspecified(), ip4(1)), arp(Broadcast, 1, a, netip.IPv4Unspecified(), ip4(1)), time.Second, true},
		"another machine's look at it":      {arp(Broadcast, 1, a, netip.IPv4Unspecified(), ip4(1)), arp(Broadcast, 1, b, netip.IPv4Unspecified(), ip4(1)), 0, false},
		"a request, which has its own rule": {arp(Broadcast, 1, a, ip4(1), ip4(2)), arp(Broadcast, 1, a, ip4(1), ip4(2)), 0, false},
	} {
		var s Switch
		first, second := Listen(c.first), Listen(c.second)
		if s.SaidAgain(Instant(time.Hour), postTap, c.first, &first) {
			t.Errorf("%s: the first was said again", name)
		}
		if got := s.SaidAgain(Instant(time.Hour).Add(c.after), postTap, c.second, &second); got != c.again {
			t.Errorf("%s: %v, want %v", name, got, c.again)
		}
		for n := range c.first {
			h := Listen(c.first[:n])
			s.SaidAgain(Instant(time.Hour), postTap, c.first[:n], &h) // doesn't panic
		}
	}
}
