package agent

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A bench is two hosts, as network namespaces with a veth pair between them,
// and the tunnels that are measured between them:
//
//	┌ A ───────────────┐                 ┌ B ───────────────┐
//	│ iperf3 -c        │                 │        iperf3 -s │
//	│   └ tunnel       │                 │       tunnel ┘   │
//	│       └ u 10.77.0.1 ──── veth ──── 10.77.0.2 u ┘      │
//	└──────────────────┘                 └──────────────────┘
type bench struct {
	b    *testing.B
	dir  string
	a, z string // the namespaces
	cmds []*exec.Cmd
}

// A tunnel is one way from A to B.
type tunnel struct {
	name  string
	addr  string // of B in it
	start func(*bench)
}

// BenchmarkTunnels measures TCP through farlan beside the bare path, kernel
// VXLAN in clear and tinc in switch mode, in alternating rounds, and prints
// medians as a table. FARLAN_ROUNDS and FARLAN_SECONDS make it longer.
func BenchmarkTunnels(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root for network namespaces")
	}
	rounds, seconds := number("FARLAN_ROUNDS", 3), number("FARLAN_SECONDS", 4)
	n := newBench(b)
	var farlan []*exec.Cmd
	tunnels := []tunnel{
		{name: "bare veth", addr: "10.77.0.2", start: func(*bench) {}},
		{name: "kernel VXLAN, in clear", addr: "10.77.9.2", start: (*bench).vxlan},
		{name: "tinc, switch mode", addr: "10.78.1.2", start: (*bench).tinc},
		{name: "farlan", addr: "10.78.2.2", start: func(n *bench) { farlan = n.farlan() }},
	}
	n.spawn(n.z, "iperf3", "-s")
	for _, t := range tunnels {
		t.start(n)
		n.reach(t.addr)
	}
	one, reverse, rtt := make([][]float64, len(tunnels)), make([][]float64, len(tunnels)), make([][]float64, len(tunnels))
	for range rounds {
		for i, t := range tunnels {
			one[i] = append(one[i], n.tcp(t.addr, seconds))
			reverse[i] = append(reverse[i], n.tcp(t.addr, seconds, "-R"))
			rtt[i] = append(rtt[i], n.ping(t.addr))
		}
	}
	table := &strings.Builder{}
	fmt.Fprintf(table, "\n| | TCP, Mbit/s (min–max) | reverse | ÷ bare | ÷ tinc | round trip, µs |\n|---|---|---|---|---|---|\n")
	for i, t := range tunnels {
		fmt.Fprintf(table, "| %s | %.0f (%.0f–%.0f) | %.0f | %.3f | %.2f | %.0f |\n", t.name, median(one[i]),
			slices.Min(one[i]), slices.Max(one[i]), median(reverse[i]), median(one[i])/median(one[0]), median(one[i])/median(one[2]), median(rtt[i]))
	}
	for _, c := range farlan {
		fmt.Fprintf(table, "\nfarlan agent: %d MB resident\n", (&process{cmd: c}).memory()/1024)
	}
	fmt.Println(table) // the benchmark's own log is cut short
	b.ReportMetric(median(one[3])/median(one[0]), "÷bare")
	b.ReportMetric(median(one[3])/median(one[2]), "÷tinc")
	b.ReportMetric(0, "ns/op")
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

func newBench(b *testing.B) *bench {
	b.Helper()
	n := &bench{b: b, dir: b.TempDir(), a: fmt.Sprintf("fb%da", os.Getpid()), z: fmt.Sprintf("fb%dz", os.Getpid())}
	b.Cleanup(n.close)
	for _, ns := range []string{n.a, n.z} {
		n.run("ip", "netns", "add", ns)
		n.run("ip", "-n", ns, "link", "set", "lo", "up")
	}
	n.run("ip", "link", "add", "u", "netns", n.a, "mtu", "1500", "type", "veth", "peer", "name", "u", "netns", n.z, "mtu", "1500")
	for i, ns := range []string{n.a, n.z} {
		n.run("ip", "-n", ns, "addr", "add", fmt.Sprintf("10.77.0.%d/24", i+1), "dev", "u")
		n.run("ip", "-n", ns, "link", "set", "u", "up")
	}
	return n
}

func (n *bench) close() {
	for _, c := range n.cmds {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	for _, ns := range []string{n.a, n.z} {
		_ = exec.Command("ip", "netns", "del", ns).Run()
	}
}

func (n *bench) run(name string, args ...string) string {
	n.b.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		n.b.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// spawn runs a program in a namespace until the benchmark ends.
func (n *bench) spawn(ns, name string, args ...string) *exec.Cmd {
	n.b.Helper()
	c := exec.Command("ip", append([]string{"netns", "exec", ns, name}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(n.dir, fmt.Sprint("log", len(n.cmds))))
	if err != nil {
		n.b.Fatal(err)
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		n.b.Fatal(err)
	}
	n.cmds = append(n.cmds, c)
	return c
}

func (n *bench) write(path, text string) string {
	path = filepath.Join(n.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		n.b.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		n.b.Fatal(err)
	}
	return path
}

func (n *bench) vxlan() {
	for i, ns := range []string{n.a, n.z} {
		n.run("ip", "-n", ns, "link", "add", "vx", "type", "vxlan", "id", "42", "dstport", "4789", "dev", "u",
			"local", fmt.Sprintf("10.77.0.%d", i+1), "remote", fmt.Sprintf("10.77.0.%d", 2-i))
		n.run("ip", "-n", ns, "addr", "add", fmt.Sprintf("10.77.9.%d/24", i+1), "dev", "vx")
		n.run("ip", "-n", ns, "link", "set", "vx", "up")
	}
}

func (n *bench) tinc() {
	hosts := make([]string, 2)
	for i := range 2 {
		n.write(fmt.Sprintf("t%d/tinc.conf", i), fmt.Sprintf("Name = n%d\nMode = switch\nAddressFamily = ipv4\nInterface = tinc\nConnectTo = n%d\n", i, 1-i))
		n.write(fmt.Sprintf("t%d/tinc-up", i), fmt.Sprintf("#!/bin/sh\nip addr add 10.78.1.%d/24 dev $INTERFACE\nip link set $INTERFACE up\n", i+1))
		hosts[i] = n.write(fmt.Sprintf("t%d/hosts/n%d", i, i), fmt.Sprintf("Address = 10.77.0.%d\nPort = 655\n", i+1))
		n.run("sh", "-c", fmt.Sprintf("tincd -c %s/t%d -K2048 </dev/null", n.dir, i))
	}
	for i := range 2 {
		text, err := os.ReadFile(hosts[i])
		if err != nil {
			n.b.Fatal(err)
		}
		n.write(fmt.Sprintf("t%d/hosts/n%d", 1-i, i), string(text))
	}
	for i, ns := range []string{n.a, n.z} {
		n.spawn(ns, "tincd", "-c", fmt.Sprintf("%s/t%d", n.dir, i), "-D", "--pidfile", fmt.Sprintf("%s/t%d.pid", n.dir, i))
	}
}

func (n *bench) farlan() []*exec.Cmd {
	bin := os.Getenv("FARLAN_BIN")
	if bin == "" {
		n.b.Fatal("FARLAN_BIN must name the program: use 'make bench'")
	}
	key := filepath.Join(n.dir, "key")
	n.run(bin, "key", "new", key)
	var cmds []*exec.Cmd
	seed := ""
	for i, ns := range []string{n.a, n.z} {
		socket := filepath.Join(n.dir, fmt.Sprint("s", i))
		args := []string{
			"up", "--config", os.DevNull, "--key-file", key, "--name", fmt.Sprint("n", i), "--listen", fmt.Sprintf("10.77.0.%d:4747", i+1),
			"--tap", "fa", "--state-dir", filepath.Join(n.dir, fmt.Sprint("f", i)), "--socket", socket,
		}
		if seed != "" {
			args = append(args, "--bootstrap", seed)
		}
		cmds = append(cmds, n.spawn(ns, bin, args...))
		n.run(bin, "wait", "--socket", socket, "--timeout", "10s")
		var v statusView
		if err := json.Unmarshal([]byte(n.run(bin, "status", "--json", "--socket", socket)), &v); err != nil {
			n.b.Fatal(err)
		}
		seed = v.Listen[0]
		n.run("ip", "-n", ns, "addr", "add", fmt.Sprintf("10.78.2.%d/24", i+1), "dev", "fa")
	}
	return cmds
}

// reach waits until B answers at addr.
func (n *bench) reach(addr string) {
	n.b.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		if exec.Command("ip", "netns", "exec", n.a, "ping", "-c1", "-W1", "-q", addr).Run() == nil {
			return
		}
		if time.Now().After(deadline) {
			n.b.Fatalf("%s can't be reached", addr)
		}
	}
}

// tcp returns the Mbit/s that iperf3 receives.
func (n *bench) tcp(addr string, seconds int, more ...string) float64 {
	n.b.Helper()
	args := append([]string{"netns", "exec", n.a, "iperf3", "-J", "-c", addr, "-t", strconv.Itoa(seconds), "-O", "1"}, more...)
	var result struct {
		End struct {
			Received struct {
				Bits float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal([]byte(n.run("ip", args...)), &result); err != nil {
		n.b.Fatal(err)
	}
	return result.End.Received.Bits / 1e6
}

// ping returns the median round trip in microseconds.
func (n *bench) ping(addr string) float64 {
	n.b.Helper()
	var rtts []float64
	for line := range strings.Lines(n.run("ip", "netns", "exec", n.a, "ping", "-i", "0.002", "-c", "500", addr)) {
		if _, after, ok := strings.Cut(line, "time="); ok {
			ms, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
			if err == nil {
				rtts = append(rtts, ms*1000)
			}
		}
	}
	slices.SortFunc(rtts, cmp.Compare)
	if len(rtts) == 0 {
		n.b.Fatalf("no answer from %s", addr)
	}
	return median(rtts)
}
