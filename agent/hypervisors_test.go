package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	guests "farlan/agent/lab/guest"
)

// TestHypervisors shows that what runs far away is on the home LAN: VMs whose QEMU and
// agent belong to a user without any right, one that boots from that LAN, one in a VLAN,
// and a container behind a bridge.
func TestHypervisors(t *testing.T) {
	t.Parallel()
	needPrograms(t, "qemu-system-x86_64", "dnsmasq", "busybox", "dhclient", "lxc-start", "setpriv")
	e := newEstate(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	e.startPXE()
	m := e.machine(ctx)
	one, two := e.startGuest(ctx, m, 1, "02:00:00:00:00:01"), e.startGuest(ctx, m, 2, "02:00:00:00:00:02")
	e.checkRights(t)
	e.checkContainer(t)
	e.checkLXC(t)
	e.checkBroadcasts(t)
	e.checkWake(t)
	e.checkTags(t)
	v := one()
	e.checkGuest(ctx, t, v)
	e.checkVLANs(ctx, t, v, two())
	e.checkGone(t, v)
	e.checkPXE(t)
	e.user.kill() // and what it leaves behind is no obstacle
	e.user.start()
	e.user.bootstrap()
}

// checkRights sees that the user's agent has none, and misses none.
func (e *estate) checkRights(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.user.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65534\t", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the user's agent has rights: no %q", want)
		}
	}
	for line := range strings.Lines(e.user.said()) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") {
			t.Errorf("the user's agent complains: %s", line)
		}
	}
	s, err := e.user.status()
	if err != nil {
		t.Fatal(err)
	}
	if s.State != "ready" || len(s.Ports) != 2 || s.Ports[0].Kind != "qemu" || s.Ports[0].Role != "forwarding" {
		t.Errorf("%s, %+v", s.State, s.Ports)
	}
	var d doctorView
	if err := e.user.client().call(t.Context(), "GET", "/doctor", nil, &d); err != nil {
		t.Fatal(err)
	}
	for _, f := range d.Findings {
		if f.Level == levelFail || f.Check == "rights" && !strings.Contains(f.Detail, "user 65534 has none") {
			t.Errorf("doctor: %+v", f)
		}
	}
}

// shell runs a script in a namespace.
func (e *estate) shell(ns, script string) (string, error) {
	out, err := exec.Command("ip", "netns", "exec", ns, "sh", "-c", script).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return string(out), err
}

func (e *estate) wants(t *testing.T, ns, script string, want ...string) {
	t.Helper()
	out, err := e.shell(ns, script)
	if err != nil {
		t.Error(err)
	}
	hasAll(t, script, out, want...)
}

func hasAll(t *testing.T, what, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("%s: no %q in %q", what, w, out)
		}
	}
}

// checkContainer has a container, whose cable is a bridge that the agent's TAP is in,
// take addresses, and use whole packets.
func (e *estate) checkContainer(t *testing.T) {
	t.Helper()
	e.wants(t, e.c, lease(t.TempDir(), "e0"), "leased 192.168.77.1")
	// With -W ping waits for the last answer but twice as long as for the others.
	e.wants(t, e.c, "ping -c 2 -i 0.2 -w 3 -M do -s 1472 "+lanAddress, " 0% packet loss")
	eventually(t, 15*time.Second, func() error {
		_, err := e.shell(e.c, "ip -6 addr show dev e0 | grep -q 'inet6 fd77:.*dynamic' && ping -6 -c 1 -W 2 -M do -s 1452 fd77::1")
		return err
	})
	dir := t.TempDir()
	out, err := e.shell(e.c, "dhclient -6 -1 -v -sf /bin/true -lf "+dir+"/leases -pf "+dir+"/pid e0; b=$?; [ ! -f "+dir+"/pid ] || kill $(cat "+dir+"/pid); exit $b")
	if err != nil {
		t.Error(err)
	}
	hasAll(t, "DHCPv6", out, "Reply message on e0")
	if b, err := os.ReadFile(dir + "/leases"); err != nil || !strings.Contains(string(b), "iaaddr fd77::1") {
		t.Errorf("DHCPv6 leases: %s, %v", b, err)
	}
}

// checkLXC has LXC run a container at the bridge, which takes an address and fetches a file.
func (e *estate) checkLXC(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := guests.FindProgram("busybox")
	if err != nil {
		t.Fatal(err)
	}
	e.do("cp " + busybox + " " + root + "/bin/busybox")
	config := filepath.Join(dir, "config")
	text := "lxc.rootfs.path = dir:" + root + "\nlxc.console.path = none\nlxc.net.0.type = veth\nlxc.net.0.link = br0\nlxc.net.0.flags = up\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", e.b, "lxc-start", "-F", "-n", e.b, "-P", dir, "-f", config, "-o", dir+"/log", "--",
		"/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin; export PATH=/bin; "+lease("/tmp", "eth0")+" && wget -q -O - http://"+lanAddress+"/hello | wc -c")
	t.Cleanup(func() { _ = exec.Command("lxc-stop", "-k", "-n", e.b, "-P", dir).Run() }) // should it outlive that
	out, err := cmd.CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(dir + "/log")
		t.Errorf("lxc-start: %v: %s", err, log)
	}
	hasAll(t, "the container", string(out), "leased 192.168.77.", "400000")
}

// checkGuest has a guest take an address, use whole packets, and fetch a file.
func (e *estate) checkGuest(ctx context.Context, t *testing.T, v *guests.VM) {
	t.Helper()
	run := func(line string, want ...string) string {
		t.Helper()
		out, err := v.Run(ctx, line)
		if err != nil {
			t.Error(err)
		}
		hasAll(t, line, out, want...)
		return out
	}
	out := run(lease("/tmp", "eth0"), "leased 192.168.77.", lanAddress)
	fields := strings.Fields(out[max(strings.Index(out, "leased "), 0):])
	run("ping -c 3 -i 0.2 -s 1472 "+lanAddress, " 0% packet loss")
	run("wget -q -O - http://"+lanAddress+"/hello | wc -c", "400000")
	run("for i in $(seq 100); do ip -6 addr show dev eth0 | grep 'inet6 fd77:' | grep -qv tentative && break; usleep 100000; done; ping6 -c 2 -i 0.2 -s 1452 fd77::1", " 0% packet loss")
	if len(fields) > 1 {
		e.wants(t, e.l, "ping -c 2 -i 0.2 -w 3 -M do -s 1472 "+fields[1], " 0% packet loss")
		e.wants(t, e.c, "ping -c 2 -i 0.2 -w 3 "+fields[1], " 0% packet loss") // from one far port to another
	}
}

// checkVLANs has a guest that tags its frames itself, and one that knows nothing of the
// VLAN that it is in.
func (e *estate) checkVLANs(ctx context.Context, t *testing.T, tags, untagged *guests.VM) {
	t.Helper()
	for i, v := range []*guests.VM{tags, untagged} {
		device := "eth0"
		if v == tags {
			device = "eth0.10"
			if out, err := v.Run(ctx, "vconfig add eth0 10"); err != nil {
				t.Errorf("%s: %v", out, err)
			}
		}
		line := fmt.Sprintf("ip link set %s up; ip addr add 192.168.78.%d/24 dev %[1]s; ping -c 3 -i 0.2 -s 1472 192.168.78.1", device, 10+i)
		out, err := v.Run(ctx, line)
		if err != nil {
			t.Error(err)
		}
		hasAll(t, line, out, " 0% packet loss")
	}
	e.wants(t, e.b, "ping -c 2 -i 0.2 -w 3 192.168.78.11", " 0% packet loss")
	out, err := untagged.Run(ctx, "ping -c 2 -i 0.2 192.168.78.10") // at another port of the same agent
	if err != nil {
		t.Error(err)
	}
	hasAll(t, "VM to VM", out, " 0% packet loss")
	// And nothing of another VLAN: the LAN without one is out of its reach.
	if out, err := untagged.Run(ctx, "ip addr add 192.168.77.250/24 dev eth0; ! ping -c 2 -i 0.2 -W 1 "+lanAddress); err != nil {
		t.Errorf("a port of VLAN 10 reaches what isn't in it: %s, %v", out, err)
	}
}

// checkGone ends a guest's QEMU: its station is forgotten.
func (e *estate) checkGone(t *testing.T, v *guests.VM) {
	t.Helper()
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, 5*time.Second, func() error {
		var s stationsView
		if err := e.user.client().call(t.Context(), "GET", "/stations", nil, &s); err != nil {
			return err
		}
		for _, r := range s.Stations {
			if r.MAC == "02:00:00:00:00:01" {
				return fmt.Errorf("it is known: %+v", r)
			}
		}
		return nil
	})
}

// checkPXE sees that the VM without a disk has booted what the home LAN handed it: its
// script fetched the proof.
func (e *estate) checkPXE(t *testing.T) {
	t.Helper()
	eventually(t, 60*time.Second, func() error {
		b, err := os.ReadFile(e.dnsmasq)
		if err == nil && !bytes.Contains(b, []byte("/proof-"+pxeProof+" to 192.168.77.")) {
			err = errors.New("the VM hasn't booted")
		}
		return err
	})
}

// checkWake has the server wake a machine that hasn't said anything yet: nobody knows
// where it is.
func (e *estate) checkWake(t *testing.T) {
	t.Helper()
	c, err := net.Dial("unix", e.socket(1))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, 5*time.Second, func() error { return e.connected(3) })
	asleep := []byte{2, 0, 0, 0, 0, 0x5e}
	magic := append(bytes.Repeat([]byte{0xff}, 6), bytes.Repeat(asleep, 16)...)
	fd, server := e.openLAN(t)
	for name, to := range map[string][]byte{"to all": bytes.Repeat([]byte{0xff}, 6), "to it": asleep} {
		frame := append(append(append(bytes.Clone(to), server...), 0x08, 0x42), magic...)
		if _, err := unix.Write(fd, frame); err != nil {
			t.Fatal(err)
		}
		if err := awaitFrame(c, frame[:14], magic); err != nil {
			t.Errorf("magic packet %s: %v", name, err)
		}
	}
	e.within(e.l, func() error {
		u, err := net.Dial("udp4", "192.168.77.255:9")
		if err == nil {
			_, err = u.Write(magic)
			err = errors.Join(err, u.Close())
		}
		return err
	})
	if err := awaitFrame(c, bytes.Repeat([]byte{0xff}, 6), magic); err != nil {
		t.Errorf("magic packet by UDP: %v", err)
	}
}

// awaitFrame reads QEMU's stream up to a frame that begins and ends so.
func awaitFrame(c net.Conn, begin, end []byte) error {
	for {
		f, err := nextFrame(c)
		if err != nil || bytes.HasPrefix(f, begin) && bytes.HasSuffix(f, end) {
			return err
		}
	}
}

// nextFrame reads the next frame of QEMU's stream.
func nextFrame(c net.Conn) ([]byte, error) {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	var n [4]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		return nil, err
	}
	f := make([]byte, int(n[2])<<8|int(n[3]))
	_, err := io.ReadFull(c, f)
	return f, err
}

// openLAN returns a packet socket on the server's cable, and the server's address.
func (e *estate) openLAN(t *testing.T) (fd int, server net.HardwareAddr) {
	t.Helper()
	e.within(e.l, func() (err error) {
		i, err := net.InterfaceByName("e0")
		if err != nil {
			return err
		}
		server = i.HardwareAddr
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err == nil {
			t.Cleanup(func() { _ = unix.Close(fd) })
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: i.Index})
		}
		return err
	})
	return fd, server
}

// checkTags has frames of three VLANs come from the LAN: all pass a port without filter,
// as they are, and one an access port, without its tag.
func (e *estate) checkTags(t *testing.T) {
	t.Helper()
	all, err := net.Dial("unix", e.socket(1))
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	access, err := net.Dial("unix", e.socket(2))
	if err != nil {
		t.Fatal(err)
	}
	defer access.Close()
	eventually(t, 5*time.Second, func() error { return e.connected(3, 2) })
	fd, server := e.openLAN(t)
	addresses := append(bytes.Repeat([]byte{0xff}, 6), server...)
	send := func(tag []byte, text string) (end []byte) {
		t.Helper()
		end = append([]byte{0x88, 0xb6}, text+strings.Repeat(".", 50)...)
		if _, err := unix.Write(fd, append(append(bytes.Clone(addresses), tag...), end...)); err != nil {
			t.Fatal(err)
		}
		return end
	}
	for text, tag := range map[string][]byte{"none": nil, "twenty": {0x81, 0, 0xe0, 20}, "two": {0x88, 0xa8, 0, 10, 0x81, 0, 0, 10}, "ten": {0x81, 0, 0, 10}} {
		end := send(tag, text)
		if err := awaitFrame(all, append(bytes.Clone(addresses), tag...), end); err != nil {
			t.Errorf("VLAN %s: %v", text, err)
		}
	}
	last := send([]byte{0x81, 0, 0, 10}, "last")
	got := ""
	for {
		f, err := nextFrame(access)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(f, addresses) && f[12] == 0x88 {
			got += strings.Trim(string(f[14:]), ".") + " "
		}
		if bytes.HasSuffix(f, last) {
			break
		}
	}
	if got != "ten last " {
		t.Errorf("the access port passed %q", got)
	}
}

// connected returns an error until each of the user's sockets has as many QEMUs.
func (e *estate) connected(want ...int) error {
	s, err := e.user.status()
	if err != nil {
		return err
	}
	for i, n := range want {
		if c := s.Ports[i].Connections; c == nil || *c != n {
			return fmt.Errorf("%+v", s.Ports)
		}
	}
	return nil
}

// checkBroadcasts has mDNS pass both ways, of IPv4 and IPv6.
func (e *estate) checkBroadcasts(t *testing.T) {
	t.Helper()
	for _, group := range []string{"224.0.0.251", "ff02::fb"} {
		home, far := e.joinGroup(t, e.l, group), e.joinGroup(t, e.c, group)
		e.passes(t, home, far, group)
		e.passes(t, far, home, group)
	}
}

const mdnsPort = 5353

// joinGroup returns a socket that gets what is said to a group on e0.
func (e *estate) joinGroup(t *testing.T, ns, group string) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	e.within(ns, func() error {
		i, err := net.InterfaceByName("e0")
		if err != nil {
			return err
		}
		network := "udp4"
		if strings.Contains(group, ":") {
			network = "udp6"
		}
		c, err = net.ListenMulticastUDP(network, i, &net.UDPAddr{IP: net.ParseIP(group), Port: mdnsPort})
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// passes sends a question from one socket to the group, and awaits it at another.
func (e *estate) passes(t *testing.T, from, to *net.UDPConn, group string) {
	t.Helper()
	question := []byte("\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02pi\x05local\x00\x00\x01\x00\x01")
	addr := netip.AddrPortFrom(netip.MustParseAddr(group), mdnsPort)
	eventually(t, 10*time.Second, func() error {
		if _, err := from.WriteToUDPAddrPort(question, addr); err != nil {
			return err
		}
		_ = to.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		b := make([]byte, 1500)
		for {
			n, err := to.Read(b)
			if err != nil {
				return fmt.Errorf("mDNS to %s: %w", group, err)
			}
			if bytes.Equal(b[:n], question) {
				return nil
			}
		}
	})
}
