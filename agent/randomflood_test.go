package agent

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// What strangers send changes nothing but a counter, and is never answered.
func TestFloodOfRandomDatagrams(t *testing.T) {
	key := newKeyFile(t)
	a := startAgent(t, key, "a", "--log-level", "info")
	b := startAgent(t, key, "b", "--bootstrap", a.bootstrap(), "--log-level", "info")
	eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
	seconds := 5
	if os.Getenv("FARLAN_LONG") != "" {
		seconds = 30
	}
	v, err := a.status()
	if err != nil {
		t.Fatal(err)
	}
	before := a.memory()
	answers := flood(t, hostPort(v.Listen[0]), 10_000, seconds)
	if answers != 0 {
		t.Errorf("%d datagrams were answered", answers)
	}
	after, err := a.status()
	if err != nil {
		t.Fatal(err)
	}
	if after.State != "ready" || after.Peers != 1 {
		t.Errorf("after the flood: %+v", after)
	}
	var counted uint64
	for _, d := range after.Drops {
		counted += d.Count
	}
	t.Logf("dropped by reason: %+v; memory %d → %d kB", after.Drops, before, a.memory())
	if counted == 0 {
		t.Error("nothing was counted")
	}
	if m := a.memory(); m > before+20_000 {
		t.Errorf("memory grew from %d to %d kB", before, m)
	}
	if err := errors.Join(a.sees(2), b.sees(2)); err != nil {
		t.Error(err)
	}
}

// memory returns the agent's resident memory in kB.
func (d *process) memory() (kB int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			_, _ = fmt.Sscan(n, &kB)
		}
	}
	return kB
}

// flood sends datagrams of random bytes, and of our own kinds with random
// bytes behind, and returns how many answers came.
func flood(t *testing.T, to string, perSecond, seconds int) (answers int) {
	t.Helper()
	c, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := rand.New(rand.NewPCG(1, 1))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	buf := make([]byte, 1500)
	for range seconds * 100 {
		for i := range perSecond / 100 {
			d := buf[:1+r.IntN(len(buf)-1)]
			for j := range d {
				d[j] = byte(r.Uint32())
			}
			switch i % 4 {
			case 1: // our header
				d[0] = 0x10 | byte(r.IntN(4))
				clear(d[1:min(4, len(d))])
			case 2: // the control plane's
				d[0] = 0xc0 | d[0]
			}
			_, _ = c.Write(d)
		}
		<-tick.C
	}
	_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	for {
		if _, err := c.Read(buf); err != nil {
			return answers
		}
		answers++
	}
}
