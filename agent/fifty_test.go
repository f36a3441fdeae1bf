package agent

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFiftyAgents(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	const count = 50
	takeTurn(t)
	key := newKeyFile(t)
	all := []*process{startAgent(t, key, "agent-0", "--log-level", "info")}
	seed := all[0].bootstrap()
	others := othersTime(t, all)
	start := time.Now()
	for i := 1; i < count; i++ {
		all = append(all, startAgent(t, key, fmt.Sprint("agent-", i), "--bootstrap", seed, "--log-level", "info"))
	}
	for _, d := range all { // one by one: asking costs them time
		eventually(t, 120*time.Second, func() error { return d.seesThere(all) })
	}
	full, taken := time.Since(start), othersTime(t, all)-others
	t.Logf("%d agents know all others after %v, of which other processes took %v", count, full, taken)
	if full-taken > 20*time.Second {
		t.Errorf("more than 20 s")
	}
	for _, d := range all {
		if err := d.seesThere(all); err != nil {
			t.Errorf("and then: %v", err)
		}
	}

	member := all[count/2].bootstrap()
	all[0].kill()
	killed := time.Now()
	others = othersTime(t, all)
	late := startAgent(t, key, "late", "--bootstrap", member, "--log-level", "info")
	living := append(all[1:], late)
	took := eventually(t, 60*time.Second, func() error { return late.seesThere(living) })
	taken = othersTime(t, all) - others
	t.Logf("with the first one killed, a new one learns all after %v, of which other processes took %v", took, taken)
	if took-taken > 10*time.Second {
		t.Errorf("more than 10 s")
	}
	for _, d := range living {
		eventually(t, 60*time.Second, func() error { return d.takesForGone(all[0].name) })
	}
	took, taken = time.Since(killed), othersTime(t, all)-others
	t.Logf("and all take the first one for gone %v after it was killed, of which other processes took %v", took, taken)
	if took-taken > 45*time.Second { // noticed after 11 s, told 5 later, seen in the next epoch, and asked for 12
		t.Errorf("more than 45 s")
	}
	for _, d := range living {
		if err := d.seesThere(living); err != nil {
			t.Errorf("and then: %v", err)
		}
	}
	idle := late.inState("idle")
	for _, name := range idle {
		var v pingView
		if err := late.ask(&v, "ping", name, "--count", "1"); err != nil || v.Received != 1 {
			t.Errorf("the first ping to %s, which was idle: %+v, %v", name, v, err)
		}
	}
	t.Logf("%d were idle at the new one, and were pinged", len(idle))
}

// takeTurn waits until no other copy of these tests does what needs the whole
// machine, and keeps it to this test until it ends.
func takeTurn(t *testing.T) {
	t.Helper()
	dir, err := os.Open(os.TempDir()) // a lock that leaves nothing behind
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
}

// othersTime returns how long this machine's processors have been busy for
// others than this test and its agents, a processor's share each: a bound in
// seconds is meant for a machine that has nothing else to do.
func othersTime(t *testing.T, agents []*process) time.Duration {
	t.Helper()
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	busy, columns := 0, strings.Fields(strings.SplitN(string(stat), "\n", 2)[0])[1:]
	for i, c := range columns {
		n, _ := strconv.Atoi(c)
		if i != 3 && i != 4 && i < 8 { // not idle, not waiting; guests are in user
			busy += n
		}
	}
	pids := []int{os.Getpid()}
	for _, a := range agents {
		pids = append(pids, a.cmd.Process.Pid)
	}
	for _, pid := range pids {
		busy -= int(processorTime(pid) * hertz / time.Second)
	}
	return time.Duration(busy) * time.Second / hertz / time.Duration(runtime.NumCPU())
}

const hertz = 100 // USER_HZ

// processorTime returns how long a process has been running on processors, 0 if it has
// ended.
func processorTime(pid int) (took time.Duration) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	for _, f := range fields[11:13] {
		n, _ := strconv.Atoi(f)
		took += time.Duration(n) * time.Second / hertz
	}
	return took
}
