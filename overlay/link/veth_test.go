//go:build linux

package link

import (
	"net/netip"
	"testing"

	"farlan/overlay/internal/nstest"
)

// Two namespaces and a cable, with the offloads of real and of poor devices:
//
//	a  10.77.0.1, fd77::1  v0 ────── v0  10.77.0.2, fd77::2  b
func TestVeth(t *testing.T) {
	const off = "ethtool -K v0 tso off gso off tx-udp-segmentation off gro off"
	for _, c := range []struct {
		name, setup, peer string
		segments          []int
	}{
		{"offloads", "true", "true", []int{100, 1200, 1452}},
		{"no segmentation at a", off, "true", []int{100, 1200, 1452}},
		{"no checksums at a", off + " tx off", "true", []int{100, 1200, 1452}},
		{"segments longer than the MTU", "ip link set v0 mtu 1280", "ip link set v0 mtu 1280", []int{1200, 1300, 4000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := nstest.New(t), nstest.New(t)
			a.Veth("v0", b, "v0")
			for i, n := range []*nstest.Namespace{a, b} {
				host := string(rune('1' + i))
				n.IP("addr add 10.77.0." + host + "/24 dev v0")
				n.IP("addr add fd77::" + host + "/64 dev v0 nodad")
			}
			b.Run("ethtool -K v0 gro on")
			a.Run(c.setup)
			b.Run(c.peer)
			for _, net := range []string{"10.77.0.", "fd77::"} {
				var p, q *Pair
				a.Do(func() { p = open1(t, netip.MustParseAddr(net+"1")) })
				b.Do(func() { q = open1(t, netip.MustParseAddr(net+"2")) })
				mixedRuns(t, p.Data, q.Data, c.segments...)
				mixedRuns(t, q.Data, p.Data, c.segments...)
			}
		})
	}
}
