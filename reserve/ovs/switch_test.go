//go:build linux

package ovs

import (
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"farlan/overlay/nstest"
	"farlan/reserve"
)

// ports makes a namespace whose p0 and p1 lead to another one, where 192.0.2.2 is behind p0.
func ports(t *testing.T) *nstest.Namespace {
	t.Helper()
	here, there := nstest.New(t), nstest.New(t)
	here.Veth("p0", there, "q0")
	here.Veth("p1", there, "q1")
	here.IP("addr add 192.0.2.1/24 dev p0")
	there.IP("addr add 192.0.2.2/24 dev q0")
	there.IP("link set q0 address 02:00:00:00:00:02")
	here.IP("neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev p0")
	return here
}

// spray sends packets of 1028 bytes with this priority, by p0.
func spray(t *testing.T, n, priority int) {
	t.Helper()
	c, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_PRIORITY, priority)
	})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if _, err := c.WriteTo(make([]byte, 1000), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 9}); err != nil {
			t.Fatal(err)
		}
	}
}

// Open vSwitch itself makes classes of our rows, in its user-space datapath here; packets whose
// priority is the mark's are in them, and in no other way.
func TestSwitch(t *testing.T) {
	t.Parallel()
	ns := ports(t)
	s := newServer(t)
	s.vsctl("--no-wait", "set", "bridge", "br0", "datapath_type=netdev")
	s.vsctl("--no-wait", "add-port", "br0", "p0", "--", "add-port", "br0", "p1", "--", "set", "port", "p1", "qos=@q", "--",
		"--id=@q", "create", "qos", "type=linux-htb", "queues:3=@r", "--", "--id=@r", "create", "queue", "other-config:min-rate=1000000")
	ns.Do(func() {
		s.spawn("ovs-vswitchd", "unix:"+s.socket, "--disable-system", "--unixctl="+filepath.Join(s.folder, "sw.ctl"), "--log-file=/dev/null", "-vconsole:off")
		rate := func(port string, class uint32) uint64 {
			h, err := kernelClass(port, class)
			if err != nil {
				t.Fatal(err)
			}
			if h == nil {
				return 0
			}
			return h.Rate * 8
		}
		s.until("the operator's class", func() bool { return rate("p1", 0x10004) == 1_000_000 })
		d, ctx, ok := s.driver("p0", 1), t.Context(), must(t)
		g := activate(t, d, wantOf(1, 32*reserve.Mbit))
		second := activate(t, d, wantOf(2, 6400*reserve.Kbit))
		if g.Up || g.State != reserve.Activating || !strings.Contains(g.Reason, `"netdev"`) {
			t.Errorf("with the user-space datapath: %+v", g)
		}
		s.until("classes", func() bool {
			return rate("p0", g.Mark.Priority) == 32_500_000 && rate("p0", second.Mark.Priority) == 6_500_000
		})

		spray(t, 20, int(g.Mark.Priority))
		spray(t, 30, 0)
		var u reserve.Usage
		s.until("the class has let all packets go", func() bool {
			var err error
			u, err = d.Usage(ctx, g)
			return err != nil || u.Packets >= 20
		})
		if u != (reserve.Usage{Bytes: 20 * 1028, Packets: 20}) {
			t.Errorf("Usage: %+v, want 20 packets of 1028 bytes", u)
		}
		if u, err := d.Usage(ctx, second); err != nil || u.Packets != 0 {
			t.Errorf("the second's: %+v, %v", u, err)
		}
		ok(d.Modify(ctx, g, 51200*reserve.Kbit))
		s.until("the class is changed", func() bool { return rate("p0", g.Mark.Priority) == 52_000_000 })
		if err := d.Release(ctx, g); err != nil {
			t.Fatal(err)
		}
		s.until("the class is gone", func() bool { return rate("p0", g.Mark.Priority) == 0 })
		if rate("p0", second.Mark.Priority) != 6_500_000 {
			t.Error("the second's class went with the first's")
		}
		if err := d.Release(ctx, second); err != nil {
			t.Fatal(err)
		}
		s.until("HTB is gone", func() bool { return rate("p0", second.Mark.Priority) == 0 && !has("p0", "htb") })
		if rate("p1", 0x10004) != 1_000_000 {
			t.Error("the operator's class isn't as it was")
		}
	})
}

func has(device, qdisc string) bool {
	out, err := exec.Command("tc", "qdisc", "show", "dev", device).Output()
	return err == nil && strings.Contains(string(out), qdisc)
}

// With the kernel's datapath a grant is up when its class is in the kernel, with its rate. The test
// makes the classes that the switch would make.
func TestProof(t *testing.T) {
	t.Parallel()
	ns := ports(t)
	s := newServer(t, "p0")
	ns.Do(func() {
		d, ctx := s.driver("p0", 1), t.Context()
		g := activate(t, d, wantOf(1, 32*reserve.Mbit))
		if g.Up || g.State != reserve.Activating {
			t.Errorf("without a class: %+v", g)
		}
		ns.Run("tc qdisc add dev p0 root handle 1: htb default 1 && tc class add dev p0 parent 1: classid 1:fffe htb rate 100mbit && " +
			"tc class add dev p0 parent 1:fffe classid 1:2 htb rate 31mbit ceil 100mbit")
		if g = must(t)(d.Status(ctx, g)); g.Up {
			t.Errorf("with a class of less: %+v", g)
		}
		ns.Run("tc class change dev p0 parent 1:fffe classid 1:2 htb rate 32500kbit ceil 100mbit")
		if g = must(t)(d.Status(ctx, g)); !g.Up || g.State != reserve.Active || g.Reason != "" {
			t.Errorf("with its class: %+v", g)
		}
		if g = must(t)(d.Deactivate(ctx, g)); g.Up || g.State != reserve.Committed {
			t.Errorf("deactivated: %+v", g)
		}
		if err := d.Release(ctx, g); err != nil {
			t.Fatal(err)
		}
	})
}
