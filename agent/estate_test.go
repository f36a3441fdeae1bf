package agent

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	guests "farlan/agent/lab/guest"
)

// An estate is a home LAN and a far host, which two users have agents on: root, and one
// without any right, whose VMs are at QEMU's sockets.
//
//	l  server ── e0 ───┐                          ┌─ q1: VMs
//	   192.168.77.1    ├─ e0: home ══ r ══ user ──┤
//	   fd77::1         │      :a        ║    :b   └─ q2: VMs of VLAN 10
//	                   ┘                ╚═ host ─┬─ br0 ── c: a container
//	                                             └─ v10 192.168.78.1, VLAN 10
type estate struct {
	*sites
	l, c             string // namespaces
	home, user, host *process
	files            string // that the server hands out
	own              string // the folder of the user without rights
	dnsmasq          string // its log
}

// noRights are in front of what a user without rights runs.
var noRights = []string{
	"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs",
}

// needPrograms skips a test without what it calls, unless none may be skipped.
func needPrograms(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := guests.FindProgram(name); err != nil && os.Getenv("FARLAN_NO_SKIP") == "" {
			t.Skip("SKIPPED: ", err)
		}
	}
}

// lanAddress is the server's.
const lanAddress = "192.168.77.1"

func newEstate(t *testing.T) *estate {
	t.Helper()
	e := &estate{sites: newSites(t), files: t.TempDir(), dnsmasq: filepath.Join(t.TempDir(), "dnsmasq")}
	e.l, e.c = e.a+"l", e.a+"c"
	for _, n := range []string{e.l, e.c} {
		e.do("ip netns add " + n)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", n).Run() })
		e.do("ip -n " + n + " link set lo up")
	}
	e.cable(e.l, "e0", e.a, "e0")
	e.do("ip -n " + e.l + " addr add " + lanAddress + "/24 dev e0")
	e.do("ip -n " + e.l + " addr add fd77::1/64 dev e0 nodad")
	e.do("ip -n " + e.b + " link add br0 type bridge")
	e.do("ip -n " + e.b + " link set br0 up")
	e.cable(e.c, "e0", e.b, "c0")
	e.do("ip -n " + e.b + " link set c0 master br0")
	e.serve()
	e.startAgents()
	e.do("ip -n " + e.b + " addr add 192.168.78.1/24 dev v10")
	return e
}

// do runs a command line: host is an agent here.
func (e *estate) do(line string) { e.t.Helper(); e.sites.host(line) }

// cable joins two namespaces.
func (e *estate) cable(a, atA, b, atB string) {
	e.t.Helper()
	e.do(fmt.Sprintf("ip link add %s netns %s type veth peer name %s netns %s", atA, a, atB, b))
	e.do(fmt.Sprintf("ip -n %s link set %s up", a, atA))
	e.do(fmt.Sprintf("ip -n %s link set %s up", b, atB))
}

// serve starts what the home LAN has: DHCP, router advertisements, DHCPv6, TFTP and HTTP.
func (e *estate) serve() {
	e.t.Helper()
	for name, text := range map[string]string{
		"hello":             strings.Repeat("far LAN\n", 50_000),
		"boot.ipxe":         "#!ipxe\nimgfetch tftp://" + lanAddress + "/proof-${net0/mac:hexhyp}\npoweroff\n",
		"proof-" + pxeProof: "booted\n",
	} {
		if err := os.WriteFile(filepath.Join(e.files, name), []byte(text), 0o644); err != nil {
			e.t.Fatal(err)
		}
	}
	if err := os.Chmod(e.files, 0o755); err != nil {
		e.t.Fatal(err)
	}
	e.background(e.l, "busybox httpd -f -p "+lanAddress+":80 -h "+e.files)
	e.background(e.l, "dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --log-facility="+e.dnsmasq+
		" --log-dhcp --port=0 --interface=e0 --bind-interfaces --no-ping --dhcp-authoritative --leasefile-ro"+
		" --dhcp-range=192.168.77.100,192.168.77.199,255.255.255.0,1h --dhcp-option=option:router,"+lanAddress+
		// It would offer one address to two that ask at once, as it derives it from a hash of theirs.
		" --dhcp-host=02:00:00:00:00:01,192.168.77.101 --dhcp-host=02:00:00:00:00:02,192.168.77.102 --dhcp-host=02:00:00:00:00:0a,192.168.77.110"+
		" --dhcp-range=fd77::100,fd77::1ff,slaac,64,1h --enable-ra --ra-param=e0,5"+
		" --enable-tftp --tftp-root="+e.files+" --dhcp-boot=boot.ipxe")
}

// startAgents starts the agents, that of the user without rights as that user.
func (e *estate) startAgents() {
	t := e.t
	t.Helper()
	key := newKeyFile(t)
	e.home = startAgentIn(t, e.a, key, "home", "--listen", "10.77.1.1:4747", "--lan", "e0")
	seed := e.home.bootstrap()
	e.host = startAgentIn(t, e.b, key, "host", "--listen", "10.77.2.1:4748", "--bootstrap", seed, "--tap", "farlan0,bridge=br0", "--tap", "v10,tag=10")

	e.own = e.folder()
	mine := filepath.Join(e.own, "network.key")
	b, err := os.ReadFile(key)
	if err == nil {
		err = os.WriteFile(mine, b, 0o600)
	}
	if err == nil {
		err = os.Chown(mine, 65534, 65534)
	}
	if err != nil {
		t.Fatal(err)
	}
	e.user = &process{t: t, namespace: e.b, name: "user", dir: e.own, log: filepath.Join(t.TempDir(), "log"), prefix: noRights, program: copyOf(t, program(t))}
	e.user.args = []string{
		"up", "--key-file", mine, "--name", "user", "--state-dir", filepath.Join(e.own, "state"), "--socket", filepath.Join(e.own, "s"), "--config", os.DevNull,
		"--listen", "10.77.2.1:4747", "--bootstrap", seed, "--log-level", "debug", "--qemu", e.socket(1), "--qemu", e.socket(2) + ",tag=10",
	}
	e.user.start()
	t.Cleanup(e.user.kill)
	t.Cleanup(func() {
		for _, a := range []*process{e.home, e.user, e.host} {
			if said := a.said(); t.Failed() {
				t.Logf("%s said:\n%s", a.name, said[max(len(said)-4000, 0):])
			}
		}
		if b, err := os.ReadFile(e.dnsmasq); t.Failed() {
			t.Logf("dnsmasq said: %v\n%s", err, b[max(len(b)-4000, 0):])
		}
	})
	all := []*process{e.home, e.user, e.host}
	for _, a := range all {
		eventually(t, 20*time.Second, func() error { return a.seesThere(all) })
	}
}

// folder makes a folder with a short name for the user without rights.
func (e *estate) folder() string {
	e.t.Helper()
	dir, err := os.MkdirTemp("", "estate-*")
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, 65534, 65534); err != nil {
		e.t.Fatal(err)
	}
	return dir
}

// socket returns the path of a QEMU socket of the user's agent.
func (e *estate) socket(i int) string { return filepath.Join(e.own, fmt.Sprintf("q%d", i)) }

// netdev is what QEMU's -netdev says to connect to that.
func (e *estate) netdev(i int) string {
	return "stream,id=lan,server=off,addr.type=unix,addr.path=" + e.socket(i)
}

// lease returns a line of shell by which busybox's udhcpc takes an address, in guests and
// containers alike; dir is for its script.
func lease(dir, device string) string {
	const script = `#!/bin/busybox sh\n[ "$1" = bound ] || exit 0\nip addr add $ip/$mask dev $interface\nip route replace default via $router\necho leased $ip $serverid\n`
	return fmt.Sprintf("printf '%s' >%s/event; chmod +x %[2]s/event; busybox udhcpc -f -q -n -t 10 -T 1 -i %s -s %[2]s/event", script, dir, device)
}

// startGuest boots a VM of the user without rights, at one of its agent's sockets, and
// returns a function that waits until it takes commands.
func (e *estate) startGuest(ctx context.Context, m guests.Machine, socket int, mac string) func() *guests.VM {
	e.t.Helper()
	m.Devices = guests.NIC(e.netdev(socket), mac)
	v, err := guests.Start(ctx, m, e.folder(), append([]string{"ip", "netns", "exec", e.b}, noRights...)...)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = v.Close() })
	return func() *guests.VM {
		e.t.Helper()
		if err := v.Ready(ctx); err != nil {
			e.t.Fatal(err)
		}
		return v
	}
}

// machine returns what VMs have in common.
func (e *estate) machine(ctx context.Context) guests.Machine {
	e.t.Helper()
	cache, err := guests.CacheDir()
	if err != nil {
		e.t.Fatal(err)
	}
	k, err := guests.FetchKernel(ctx, cache)
	if err != nil {
		e.t.Fatal(err)
	}
	dir := e.folder()
	initrd := filepath.Join(dir, "initrd.gz")
	if err := guests.BuildInitrd(ctx, k, nil, initrd); err != nil {
		e.t.Fatal(err)
	}
	if err := os.Chmod(initrd, 0o644); err != nil {
		e.t.Fatal(err)
	}
	return guests.Machine{Kernel: k, Initrd: initrd}
}

// pxeMAC is the address of the VM that boots from the network, and pxeProof how iPXE
// writes it.
const pxeMAC, pxeProof = "02:00:00:00:00:0a", "02-00-00-00-00-0a"

// startPXE starts a VM that has nothing to boot but what the home LAN hands it, by the
// ROM that QEMU's network cards have.
func (e *estate) startPXE() {
	e.t.Helper()
	qemu, err := guests.FindProgram("qemu-system-x86_64")
	if err != nil {
		e.t.Fatal(err)
	}
	e.background(e.b, strings.Join(noRights, " ")+" "+qemu+" -accel tcg -machine q35 -m 64 -nodefaults -no-user-config -display none -no-reboot -boot n"+
		" -netdev "+e.netdev(1)+" -device virtio-net-pci,netdev=lan,bootindex=1,mac="+pxeMAC)
}
