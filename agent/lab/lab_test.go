package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLab builds the default lab and goes through what people do with it.
func TestLab(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	l := up(t, o)
	t.Run("leases", func(t *testing.T) { checkLeases(t, l) })
	t.Run("traffic", func(t *testing.T) { checkTraffic(t, l) })
	t.Run("exec", func(t *testing.T) { checkExec(t, o) })
	t.Run("wan", func(t *testing.T) { checkWAN(t, l) })
	t.Run("agent", func(t *testing.T) { checkAgent(t, o) })
	t.Run("up again", func(t *testing.T) {
		_, err := Up(t.Context(), o, false, func(string) {})
		var hint interface{ Hint() string }
		if !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "lab down") {
			t.Errorf("building it again: %v", err)
		}
		if len(traces(o)) == 0 {
			t.Error("that removed it")
		}
	})
	t.Run("down", func(t *testing.T) {
		for range 2 {
			output(t, o, "down")
			for _, trace := range traces(o) {
				t.Errorf("left behind: %s", trace)
			}
		}
	})
}

func checkLeases(t *testing.T, l *Lab) {
	for _, name := range []string{"host-b", "site1-vm1", "site2-vm1"} {
		h := l.mustHost(t, name)
		eventually(t, 10*time.Second, func() error {
			got, err := l.leaseAt(h)
			if err == nil && (!lan.Contains(got.Address) || got.Server != dhcpIP || got.Router != routerIP) {
				t.Errorf("%s: lease %+v", name, got)
			}
			return err
		})
	}
	b, err := os.ReadFile(l.path("dhcp.leases"))
	if err != nil || !strings.Contains(string(b), "site2-vm1") {
		t.Errorf("the server's leases: %v\n%s", err, b)
	}
}

func checkTraffic(t *testing.T, l *Lab) {
	ctx := within(t, 30*time.Second)
	vm := l.mustHost(t, "site1-vm1")
	p, err := vm.ping(ctx, hostAIP, 10, 50*ms)
	t.Logf("site1-vm1 pings host-a: %v", p)
	if err != nil || p.Received < 5 || p.Min < 46*ms {
		t.Errorf("site1-vm1 pings host-a: %v, %v", p, err)
	}
	f, err := vm.fetch(ctx, 1<<20)
	t.Logf("site1-vm1 fetches a file: %v", f)
	if err != nil || !f.Right {
		t.Errorf("site1-vm1 fetches a file: %v, %v", f, err)
	}
}

func checkExec(t *testing.T, o Options) {
	if out := output(t, o, "exec", "site1", "--", "farlan", "peers", "--json"); !strings.Contains(out, `"site2"`) {
		t.Errorf("site1's peers: %s", out)
	}
	if out := output(t, o, "exec", "home", "ls", "/sys/class/net"); !strings.Contains(out, "eth0") {
		t.Errorf("home-proxy's interfaces: %s", out)
	}
	err := command(t.Context(), o, "exec", "host-a", "--", "sh", "-c", "exit 7").Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("a command that exits with 7: %v", err)
	}
	err = command(t.Context(), o, "exec", "nobody", "true").Run()
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("a host that isn't there: %v", err)
	}
}

func checkWAN(t *testing.T, l *Lab) {
	var table struct {
		Paths []struct {
			From    string  `json:"from"`
			DelayMS float64 `json:"delay_ms"`
			State   string  `json:"state"`
			Packets int     `json:"packets"`
		} `json:"paths"`
	}
	out := output(t, l.Options, "wan", "site1", "home", "--delay", "75ms", "--loss", "0", "--json")
	if err := json.Unmarshal([]byte(out), &table); err != nil {
		t.Fatal(err)
	}
	for _, p := range table.Paths {
		want := map[string]float64{"site1": 75, "home": 25}[p.From]
		if len(table.Paths) != 2 || p.DelayMS != want || p.State != "up" || p.Packets == 0 {
			t.Errorf("the paths: %+v", table.Paths)
		}
	}
	site1, proxy := l.mustHost(t, "site1"), l.mustHost(t, "home-proxy")
	p, err := site1.ping(t.Context(), proxy.Address, 10, 50*ms)
	if err != nil || p.Received == 0 || p.Min < 96*ms || p.Min > 140*ms {
		t.Errorf("over 75 and 25 ms: %v, %v", p, err)
	}
	output(t, l.Options, "wan", "site1", "home", "--cut", "--both")
	if p, err := site1.ping(t.Context(), proxy.Address, 3, 50*ms); err != nil || p.Received != 0 {
		t.Errorf("over a cut path: %v, %v", p, err)
	}
	output(t, l.Options, "wan", "site1", "home", "--heal", "--both", "--delay", "25ms")
	if err := site1.reach(within(t, 10*time.Second), proxy.Address); err != nil {
		t.Errorf("over a healed path: %v", err)
	}
	for _, wrong := range [][]string{
		{"site1"},
		{"--cut"},
		{"site1", "nowhere"},
		{"site1", "site1"},
		{"site1", "home", "--cut", "--heal"},
		{"site1", "home", "--loss", "200%"},
		{"site1", "home", "--jitter", "1s"},
	} {
		if err := command(t.Context(), l.Options, "wan", wrong...).Run(); err == nil {
			t.Errorf("lab wan %v succeeds", wrong)
		}
	}
}

func checkAgent(t *testing.T, o Options) {
	output(t, o, "agent", "site2", "kill")
	if s := output(t, o, "status"); !strings.Contains(s, "ended") {
		t.Errorf("with a killed agent status says:\n%s", s)
	}
	output(t, o, "agent", "site2", "start")
	if err := command(t.Context(), o, "agent", "site2", "start").Run(); err == nil {
		t.Error("a running agent is started again")
	}
	eventually(t, 15*time.Second, func() error {
		var r report
		if err := json.Unmarshal([]byte(output(t, o, "status", "--json")), &r); err != nil {
			return err
		}
		for _, a := range r.Agents {
			if a.Peers == nil || *a.Peers != 2 {
				return fmt.Errorf("%s sees %s peers", a.Name, or(a.Peers))
			}
		}
		return nil
	})
	output(t, o, "agent", "site2", "stop")
}

// TestTwoLabs builds two labs side by side, and one must not notice the end of
// the other.
func TestTwoLabs(t *testing.T) {
	t.Parallel()
	var both []*Lab
	for range 2 {
		o := testOptions(t)
		o.Sites = 2
		both = append(both, up(t, o))
	}
	ping := func(l *Lab) {
		if err := l.mustHost(t, "site1-vm1").reach(within(t, 10*time.Second), hostAIP); err != nil {
			t.Errorf("lab %s: %v", l.Options.Name, err)
		}
	}
	ping(both[0])
	ping(both[1])
	if _, err := Down(t.Context(), both[0].Options.Name, both[0].Options.Dir); err != nil {
		t.Fatal(err)
	}
	ping(both[1])
}

// TestHalfBuilt kills the builder at several points; Down must find all that it
// left.
func TestHalfBuilt(t *testing.T) {
	t.Parallel()
	for point, reached := range map[string]func(o Options) bool{
		"state file": func(o Options) bool { _, err := load(o.Name, o.Dir); return err == nil },
		"namespaces": func(o Options) bool { names, _ := namespacesOf(o.Name); return len(names) > 3 },
		"wide area":  func(o Options) bool { _, err := os.Stat(o.Dir + "/wan.sock"); return err == nil },
		"an agent":   func(o Options) bool { _, err := os.Stat(o.Dir + "/home.sock"); return err == nil },
	} {
		t.Run(point, func(t *testing.T) {
			o := testOptions(t)
			cmd := command(context.Background(), o, "up")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, 20*time.Second, func() error {
				if !reached(o) {
					return errors.New("it is not built so far")
				}
				return nil
			})
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // it was killed
			if _, err := Down(within(t, time.Minute), o.Name, o.Dir); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDownWithoutState removes the state file of a lab that runs.
func TestDownWithoutState(t *testing.T) {
	o := testOptions(t)
	o.Sites = 2
	up(t, o)
	if err := os.RemoveAll(o.Dir); err != nil {
		t.Fatal(err)
	}
	removed, err := Down(t.Context(), o.Name, o.Dir)
	if err != nil || removed.Processes == 0 || removed.Namespaces == 0 {
		t.Errorf("%+v, %v", removed, err)
	}
}

// TestInterrupted presses Ctrl-C while a lab is built.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	cmd := command(context.Background(), o, "up")
	var notes strings.Builder
	cmd.Stderr = &notes
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error {
		_, err := os.Stat(o.Dir + "/wan.sock")
		return err
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v: %s", err, notes.String())
	}
}

// TestFolderInUse must not build a lab where other files are: they would be
// removed with it.
func TestFolderInUse(t *testing.T) {
	o := testOptions(t)
	o.Dir = t.TempDir()
	file := o.Dir + "/precious"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Up(t.Context(), o, false, func(string) {}); err == nil {
		t.Error("a lab was built in a folder with other files")
	}
	if _, err := Down(t.Context(), o.Name, o.Dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

// TestDemo tells the whole story.
func TestDemo(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes 20 s")
	}
	o := testOptions(t)
	cmd := command(within(t, 2*time.Minute), o, "demo")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

// TestDemoInterrupted presses Ctrl-C in the middle of the story.
func TestDemoInterrupted(t *testing.T) {
	o := testOptions(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := command(ctx, o, "demo")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error { _, err := os.Stat(o.Dir + "/site1.sock"); return err })
	cancel()
	if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), "interrupted") {
		t.Errorf("it ended with %v:\n%s", err, out.String())
	}
}

func TestPlan(t *testing.T) {
	o := DefaultOptions("x")
	o.Sites, o.VMs = 4, 2
	hosts := plan(o)
	names, macs := make(map[string]bool), make(map[string]bool)
	for _, h := range hosts {
		if names[h.Name] || h.MAC != "" && macs[h.MAC] {
			t.Errorf("%+v is there twice", h)
		}
		names[h.Name], macs[h.MAC] = true, true
		if h.MAC != "" && len(portName(h)) > 15 {
			t.Errorf("%s is too long for an interface", portName(h))
		}
	}
	if !names["site3-vm2"] || names["site4"] || len(hosts) != 6+3+6 {
		t.Errorf("hosts: %v", names)
	}
	w := wideArea(o, hosts)
	e := Emulator{sites: w.Sites}
	for address, want := range map[string]int{
		"192.168.77.3": 0, "10.99.0.1": 0, "10.99.3.1": 3, "10.99.4.1": -1, "8.8.8.8": -1, "224.0.0.251": -1,
	} {
		if got := e.site(theOpen, netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is at site %d, want %d", address, got, want)
		}
	}
}

func TestOptionsValidate(t *testing.T) {
	for name, spoil := range map[string]func(*Options){
		"no name":        func(o *Options) { o.Name = "" },
		"long name":      func(o *Options) { o.Name = "123456789" },
		"name with dash": func(o *Options) { o.Name = "a-b" },
		"home alone":     func(o *Options) { o.Sites = 1 },
		"too many":       func(o *Options) { o.Sites = maxSites + 1 },
		"tiny MTU":       func(o *Options) { o.MTU = 100 },
		"long folder":    func(o *Options) { o.Dir = "/" + strings.Repeat("x", maxDir) },
		"odd path":       func(o *Options) { o.Shape.Jitter = time.Second },
	} {
		o := DefaultOptions("x")
		if err := o.Validate(); err != nil {
			t.Fatal(err)
		}
		if spoil(&o); o.Validate() == nil {
			t.Errorf("%s is taken for valid", name)
		}
	}
}
