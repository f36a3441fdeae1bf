//go:build linux

package link

import (
	"encoding/binary"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"farlan/overlay/nstest"
)

// What the kernel says that each socket's options are.
func TestOptions(t *testing.T) {
	nstest.NeedRoot(t) // buffers beyond the limits
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p := open1(t, a)
		level, tos, discover := unix.IPPROTO_IPV6, unix.IPV6_TCLASS, unix.IPV6_MTU_DISCOVER
		if a.Is4() {
			level, tos, discover = unix.IPPROTO_IP, unix.IP_TOS, unix.IP_MTU_DISCOVER
		}
		for name, s := range sockets(p) {
			want := map[string]int{"tos": 0x48, "priority": 6, "discover": unix.IP_PMTUDISC_PROBE, "gro": 1, "send": 2 * 256 << 10, "receive": 2 * 1 << 20}
			switch {
			case name == "handshake":
				want["discover"] = unix.IP_PMTUDISC_DONT
				delete(want, "receive")
			case name != "probe" && name != "delay":
				want["tos"], want["priority"] = 0, 0
				want["send"], want["receive"] = 2*1<<20, 2*4<<20
			}
			options := map[string][2]int{
				"tos": {level, tos}, "priority": {unix.SOL_SOCKET, unix.SO_PRIORITY}, "discover": {level, discover},
				"gro": {unix.SOL_UDP, unix.UDP_GRO}, "send": {unix.SOL_SOCKET, unix.SO_SNDBUF}, "receive": {unix.SOL_SOCKET, unix.SO_RCVBUF},
			}
			for option, value := range want {
				got, err := unix.GetsockoptInt(s.fd, options[option][0], options[option][1])
				if err != nil || got != value {
					t.Errorf("%s: %s is %#x (%v), want %#x", name, option, got, err, value)
				}
			}
		}
		err := with(p.Control.conn, func(fd int) error {
			got, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO)
			if got != 1 {
				t.Errorf("control: UDP_GRO is %d, want 1", got)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// What arrives: no two sockets' datagrams have the same hop limit, and
// neighbours from Probe don't either, per destination.
func TestHopLimits(t *testing.T) {
	eachLoopback(t, func(t *testing.T, a netip.Addr) {
		p, err := Open(netip.AddrPortFrom(a, 0), Config{Lanes: MaxLanes})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = p.Close() }()
		var to [2]*net.UDPConn
		for i := range to {
			if to[i], err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0))); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = to[i].Close() }()
			if err := with(to[i], func(fd int) error { return receiveHops(fd, a.Is4()) }); err != nil {
				t.Fatal(err)
			}
		}
		seen := make(map[int]string)
		note := func(name string, hops int) {
			if who := seen[hops]; who != "" && who != name {
				t.Errorf("%s and %s both send with hop limit %d", name, who, hops)
			}
			seen[hops] = name
		}
		if _, err := p.Control.WriteTo([]byte{0x40}, to[0].LocalAddr()); err != nil {
			t.Fatal(err)
		}
		note("control", hopLimit(t, to[0]))
		for name, s := range sockets(p) {
			w := s.Writer()
			var last [2]int
			for range 4 {
				for j, c := range to {
					if err := w.Send(c.LocalAddr().(*net.UDPAddr).AddrPort(), []byte{1}, 1); err != nil {
						t.Fatal(err)
					}
					hops := hopLimit(t, c)
					note(name, hops)
					if last[j] != 0 && (hops != last[j]) != (name == "probe") {
						t.Errorf("%s: one after the other with hop limits %d and %d", name, last[j], hops)
					}
					last[j] = hops
				}
			}
		}
		if want := 1 + MaxLanes + 1 + 2 + 1; len(seen) != want {
			t.Errorf("%d hop limits, want %d", len(seen), want)
		}
	})
}

func receiveHops(fd int, ipv4 bool) error {
	if ipv4 {
		return setInt(fd, unix.IPPROTO_IP, unix.IP_RECVTTL, 1)
	}
	return setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
}

// hopLimit receives a datagram at c and returns its hop limit.
func hopLimit(t *testing.T, c *net.UDPConn) int {
	t.Helper()
	var buf [100]byte
	var oob [64]byte
	_, n, _, _, err := c.ReadMsgUDPAddrPort(buf[:], oob[:])
	if err != nil {
		t.Fatal(err)
	}
	_, data, _, err := unix.ParseOneSocketControlMessage(oob[:n])
	if err != nil {
		t.Fatal(err)
	}
	return int(binary.NativeEndian.Uint32(data))
}

// Packets of Delay, Probe and Handshake are marked, those of Bulk and Control
// are not: a classifier in the network sorts them.
func TestMarks(t *testing.T) {
	a, b := cable(t)
	a.Run(`tc qdisc add dev v0 root handle 1: htb default 1
		tc class add dev v0 parent 1: classid 1:1 htb rate 10gbit
		tc class add dev v0 parent 1: classid 1:2 htb rate 10gbit
		tc filter add dev v0 parent 1: protocol ip u32 match ip tos 0x48 0xff flowid 1:2
		tc filter add dev v0 parent 1: protocol ipv6 u32 match ip6 priority 0x48 0xff flowid 1:2`)
	for _, at := range pairs {
		p, q := ends(t, a, b, at)
		d := []byte{4, 0, 0}
		for name, s := range sockets(p) {
			w := s.Writer()
			n := marked(t, a, func() error { return w.Send(q.Probe.LocalAddr(), d, len(d)) })
			if want := map[bool]int{true: 1000}[s == p.Delay || s == p.Probe || s == p.Handshake]; n != want {
				t.Errorf("%v: %s: %d of 1000 packets marked, want %d", at[0], name, n, want)
			}
		}
		n := marked(t, a, func() error {
			_, err := p.Control.WriteToAddrPort(d, q.Probe.LocalAddr())
			return err
		})
		if n != 0 {
			t.Errorf("%v: control: %d of 1000 packets marked, want none", at[0], n)
		}
	}
}

// marked calls send 1000 times and returns how many packets passed class 1:2.
func marked(t *testing.T, n *nstest.Namespace, send func() error) int {
	t.Helper()
	count := func() (c int) {
		out := n.Run("tc -s class show dev v0")
		m := regexp.MustCompile(`class htb 1:2 [^\n]*\n Sent \d+ bytes (\d+) pkt`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("no class in:\n%s", out)
		}
		c, _ = strconv.Atoi(m[1])
		return c
	}
	before := count()
	for range 1000 {
		if err := send(); err != nil {
			t.Fatal(err)
		}
	}
	return count() - before
}

// In the queue of this host, which knows nothing of farlan, what is urgent
// overtakes bulk.
func TestQueuePriority(t *testing.T) {
	a, b := cable(t)
	for _, at := range pairs {
		a.Run(`tc qdisc replace dev v0 root handle 1: htb default 1
			tc class replace dev v0 parent 1: classid 1:1 htb rate 20mbit burst 3k
			tc qdisc replace dev v0 parent 1:1 pfifo_fast`)
		p, q := ends(t, a, b, at)
		to, bulk := q.Probe.LocalAddr(), p.Bulk[0].Writer()
		for i := range 400 { // 200 ms
			if err := bulk.Send(to, numbered(1, 0, i, 1200), 1200); err != nil {
				t.Fatal(err)
			}
		}
		got, batch := 0, NewBatch()
		for i, s := range []*Socket{p.Delay, p.Probe, p.Handshake, p.Bulk[1]} {
			d := numbered(4, 0, i, 1200)
			if err := s.Writer().Send(to, d, len(d)); err != nil {
				t.Fatal(err)
			}
			same(t, receive(t, q.Probe, 1), [][]byte{d})
			for empty := false; !empty; {
				if err := q.Bulk[0].Read(batch); err != nil {
					t.Fatal(err)
				}
				for range batch.All {
					got++
				}
				empty = batch.Len() == 0
			}
			switch last := s == p.Bulk[1]; {
			case !last && got > 200:
				t.Errorf("%v: urgent datagram %d came after %d of 400 bulk ones", at[0], i, got)
			case last && got != 400:
				t.Errorf("%v: the last bulk datagram came after %d others, want 400", at[0], got)
			}
		}
		a.Run("tc qdisc del dev v0 root")
	}
}
