package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"farlan/agent/lab"
)

// A wide is real agents, each in a network namespace of its own, and the lab's emulator
// of a wide area between them.
type wide struct {
	t      *testing.T
	e      *lab.Emulator
	ns     []string
	agents []*process
}

func wideName(i int) string    { return "w" + string(rune('a'+i)) }
func wideAddress(i int) string { return fmt.Sprintf("10.99.%d.1", i) }

// newWide makes count sites, and starts an agent at each.
func newWide(t *testing.T, count int, shape lab.Shape) *wide {
	t.Helper()
	needRoot(t)
	takeTurn(t)
	w := &wide{t: t}
	plan := lab.WAN{MTU: 1500, Shape: shape, Seed: uint64(time.Now().UnixNano())}
	plan.Shape.Queue = lab.Queue{Time: lab.DefaultQueue}
	t.Logf("seed %d", plan.Seed)
	for i := range count {
		ns := fmt.Sprintf("fw%d-%d", os.Getpid(), siteCount.Add(1))
		w.do("ip netns add " + ns)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
		w.ns = append(w.ns, ns)
		plan.Sites = append(plan.Sites, lab.WANSite{
			Name: wideName(i), Namespace: ns, Device: "wan0", Prefixes: []netip.Prefix{netip.MustParsePrefix(wideAddress(i) + "/32")},
		})
	}
	var err error
	if w.e, err = lab.NewEmulator(plan); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, w.e.Close()); err != nil {
			t.Error(err)
		}
	})
	key, seed := newKeyFile(t), ""
	for i, ns := range w.ns {
		w.do("ip -n " + ns + " link set lo up")
		w.do("ip -n " + ns + " addr add " + wideAddress(i) + "/32 dev wan0")
		w.do("ip -n " + ns + " link set wan0 up")
		w.do("ip -n " + ns + " route add default dev wan0")
		args := []string{"--listen", wideAddress(i) + ":4747", "--beacon=off", "--tap", "t"}
		if seed != "" {
			args = append(args, "--bootstrap", seed)
		}
		a := startAgentIn(t, ns, key, wideName(i), args...)
		seed = a.bootstrap()
		w.agents = append(w.agents, a)
		w.do(fmt.Sprintf("ip -n %s addr add 10.78.0.%d/24 dev t", ns, i+1))
	}
	for _, a := range w.agents {
		eventually(t, 30*time.Second, func() error { return a.sees(count) })
	}
	return w
}

func (w *wide) do(line string) {
	w.t.Helper()
	args := strings.Fields(line)
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// change changes the path from one site to another.
func (w *wide) change(from, to int, c lab.Change) {
	w.t.Helper()
	if err := w.e.Change(wideName(from), wideName(to), c); err != nil {
		w.t.Fatal(err)
	}
}

// both changes it both ways.
func (w *wide) both(a, b int, c lab.Change) {
	w.t.Helper()
	w.change(a, b, c)
	w.change(b, a, c)
}

// view returns what agent at says of another one.
func (w *wide) view(at, of int) (peerView, error) {
	v, err := w.agents[at].peers()
	if err != nil {
		return peerView{}, err
	}
	for _, p := range v.Peers {
		if p.Name == wideName(of) {
			return p, nil
		}
	}
	return peerView{}, errors.New("it isn't listed")
}

// talk sends frames between two sites, both ways, every so often until the test ends.
func (w *wide) talk(a, b int, every time.Duration) {
	w.t.Helper()
	c := exec.Command("ip", "netns", "exec", w.ns[a], "ping", "-q", "-i", fmt.Sprint(every.Seconds()), fmt.Sprintf("10.78.0.%d", b+1))
	if err := c.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
}
