package agent

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"farlan/measure"
)

// truthRounds is how often each case is measured: a few times, unless FARLAN_TRUTH
// says more, which is what makes medians.
func truthRounds(few int) int {
	if n, err := strconv.Atoi(os.Getenv("FARLAN_TRUTH")); err == nil && n > 0 {
		return n
	}
	return few
}

// thorough says whether all cases run, or those that continuous integration has time
// for.
func thorough() bool { return os.Getenv("FARLAN_TRUTH") != "" }

// limit gives the way from a to b a rate by a queueing discipline.
func (s *sites) limit(qdisc string) {
	s.t.Helper()
	_ = s.try(s.r, "tc qdisc del dev ub root")
	if !strings.Contains(qdisc, "htb") {
		s.in(s.r, "tc qdisc add dev ub root "+qdisc)
		return
	}
	s.in(s.r, "tc qdisc add dev ub root handle 1: htb default 1")
	s.in(s.r, "tc class add dev ub parent 1: classid 1:1 "+qdisc)
	s.in(s.r, "tc qdisc add dev ub parent 1:1 pfifo limit 2000")
}

// plain makes the devices carry packets as they are on a wire.
func (s *sites) plain() {
	s.t.Helper()
	for ns, devices := range map[string][]string{s.a: {"u"}, s.b: {"u"}, s.r: {"ua", "ub"}} {
		for _, d := range devices {
			s.in(ns, "ethtool -K "+d+" tso off gso off gro off tx-udp-segmentation off")
		}
	}
}

// sent returns how many bytes a's cable has taken, Ethernet headers included.
func (s *sites) sent() int {
	s.t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(s.in(s.a, "cat /sys/class/net/u/statistics/tx_bytes")))
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// ipRate is what a queueing discipline that counts Ethernet headers leaves of a rate
// for IP packets of 1500 bytes.
func ipRate(mbit float64) float64 { return mbit * 1500 / 1514 }

// fathomed waits until the agents know that full packets pass.
func (s *sites) fathomed() {
	s.t.Helper()
	eventually(s.t, 20*time.Second, func() error {
		if a, b := s.mtu(0), s.mtu(1); a != 1500 || b != 1500 {
			return fmt.Errorf("MTUs %d and %d", a, b)
		}
		return nil
	})
}

// A shaped path's capacity is found by a few packets, whatever shapes it.
func TestTruthCapacity(t *testing.T) {
	takeTurn(t)
	s := newSites(t)
	s.plain()
	s.join(t, "")
	s.fathomed()
	for _, c := range []struct {
		name   string
		qdisc  string
		mbit   float64
		within float64 // the median error
		short  bool    // in every run
	}{
		{"5 Mbit/s", "tbf rate 5mbit burst 4kb latency 400ms", 5, 0.01, false},
		{"10 Mbit/s", "tbf rate 10mbit burst 4kb latency 400ms", 10, 0.01, true},
		{"50 Mbit/s by HTB", "htb rate 50mbit burst 4kb cburst 4kb", 50, 0.01, false},
		{"100 Mbit/s by HTB", "htb rate 100mbit burst 4kb cburst 4kb", 100, 0.01, true},
		{"200 Mbit/s", "tbf rate 200mbit burst 8kb latency 100ms", 200, 0.01, false},
		{"500 Mbit/s", "tbf rate 500mbit burst 8kb latency 50ms", 500, 0.02, true},
		{"1 Gbit/s", "tbf rate 1gbit burst 16kb latency 50ms", 1000, 0.05, false},
		{"10 Mbit/s, bucket of 64 kB", "tbf rate 10mbit burst 64kb latency 400ms", 10, 0.02, false},
		{"50 Mbit/s, bucket of 64 kB", "htb rate 50mbit burst 64kb cburst 64kb", 50, 0.02, false},
		{"100 Mbit/s, bucket of 64 kB", "tbf rate 100mbit burst 64kb latency 100ms", 100, 0.02, true},
		{"200 Mbit/s, bucket of 64 kB", "tbf rate 200mbit burst 64kb latency 100ms", 200, 0.02, false},
	} {
		if c.short || thorough() {
			s.truth(t, c.name, c.qdisc, c.mbit, c.within)
		}
	}
}

// truth measures a path of a known rate.
func (s *sites) truth(t *testing.T, name, qdisc string, mbit, within float64) {
	t.Helper()
	s.limit(qdisc)
	time.Sleep(100 * time.Millisecond) // the bucket is full, as on a path that was idle
	rounds, want := truthRounds(3), ipRate(mbit)
	var errs []float64
	most, allowed := 0, 300_000
	if mbit > 200 {
		allowed = 1_200_000
	}
	limits, took := map[string]int{}, 0.0
	for range rounds {
		before := s.sent()
		var v benchView
		if err := s.agents[0].ask(&v, "bench", "b"); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		most = max(most, s.sent()-before)
		errs = append(errs, math.Abs(v.Mbit/want-1))
		limits[v.LimitedBy]++
		took = max(took, v.Seconds)
	}
	if len(errs) == 0 {
		return
	}
	slices.Sort(errs)
	median := errs[len(errs)/2]
	t.Logf("%s: %d measurements, median error %.2f %%, worst %.2f %%; at most %d bytes on the wire, %.2f s; limited by %v",
		name, len(errs), 100*median, 100*errs[len(errs)-1], most, took, limits)
	if os.Getenv("CAPDEBUG") != "" {
		for l := range strings.Lines(s.agents[0].said()) {
			if strings.Contains(l, "msg=train") {
				t.Log(l)
			}
		}
	}
	if median > within && (thorough() || median > 3*within) { // few on a busy machine show less
		t.Errorf("%s: median error %.2f %%, want %.0f", name, 100*median, 100*within)
	}
	if most > allowed {
		t.Errorf("%s: %d bytes on the wire, want %d at most", name, most, allowed)
	}
}

var (
	_ = measure.Unknown
	_ = exec.Command
)
