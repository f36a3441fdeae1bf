package agent

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"farlan/agent/lab"
)

// truthRounds is how often each case is measured: a few times, unless FARLAN_TRUTH_ROUNDS
// says more, which is what makes medians.
func truthRounds(few int) int {
	if n, err := strconv.Atoi(os.Getenv("FARLAN_TRUTH_ROUNDS")); err == nil && n > 0 {
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
			t.Run(c.name, func(t *testing.T) { s.truth(t, c.name, c.qdisc, c.mbit, c.within) })
		}
	}
}

// truth measures a path of a known rate.
func (s *sites) truth(t *testing.T, name, qdisc string, mbit, within float64) {
	t.Helper()
	s.limit(qdisc)
	time.Sleep(100 * time.Millisecond) // until the bucket is full, as on a path that was idle
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
	if median > within && (thorough() || median > 5*within) { // few on a busy machine show less
		t.Errorf("%s: median error %.2f %%, want %.0f", name, 100*median, 100*within)
	}
	if most > allowed {
		t.Errorf("%s: %d bytes on the wire, want %d at most", name, most, allowed)
	}
}

// Through the lab's wide area, with delay, jitter, loss and a rate that differs by the
// direction, the capacity is found just so, with an interval that holds it, and nobody
// else is said to be there.
func TestTruthCapacityWide(t *testing.T) {
	w := newWide(t, 2, lab.Shape{Delay: time.Millisecond})
	eventually(t, 20*time.Second, func() error {
		if v, err := w.view(0, 1); err != nil || v.MTU == nil || *v.MTU != 1500 {
			return fmt.Errorf("MTU %v, %w", v.MTU, err)
		}
		return nil
	})
	const ms = time.Millisecond
	all, inside, shared := 0, 0, 0
	for _, c := range []struct {
		name    string
		mbit    float64
		delay   time.Duration
		jitter  time.Duration
		reorder bool
		loss    float64
		within  float64 // the median error
		short   bool
	}{
		{"100 Mbit/s", 100, 20 * ms, 0, false, 0, 0.01, false},
		{"100 Mbit/s ± 2 ms", 100, 20 * ms, 2 * ms, false, 0, 0.05, true},
		{"100 Mbit/s ± 2 ms, overtaking", 100, 20 * ms, 2 * ms, true, 0, 0.06, false},
		{"100 Mbit/s ± 2 ms, 80 ms, 1 % lost", 100, 80 * ms, 2 * ms, false, 0.01, 0.06, false},
		{"100 Mbit/s, 1 % lost", 100, 40 * ms, 0, false, 0.01, 0.01, false},
		{"100 Mbit/s, 5 % lost", 100, 20 * ms, 0, false, 0.05, 0.02, false},
		{"10 Mbit/s ± 2 ms", 10, 40 * ms, 2 * ms, false, 0, 0.02, false},
		{"20 Mbit/s ± 5 ms, overtaking", 20, 40 * ms, 5 * ms, true, 0, 0.03, false},
		{"50 Mbit/s ± 2 ms, overtaking, 1 % lost", 50, 20 * ms, 2 * ms, true, 0.01, 0.04, false},
		{"200 Mbit/s", 200, 10 * ms, 0, false, 0, 0.01, false},
		{"200 Mbit/s ± 2 ms", 200, 20 * ms, 2 * ms, false, 0, 0.08, false},
		{"500 Mbit/s", 500, 10 * ms, 0, false, 0, 0.02, false},
	} {
		if !c.short && !thorough() {
			continue
		}
		none, up, down, loss := time.Duration(0), lab.Rate(c.mbit*1000), lab.Rate(c.mbit*300), lab.Loss(c.loss*1e6)
		w.both(0, 1, lab.Change{Jitter: &none}) // which the delay may not be less than
		w.both(0, 1, lab.Change{Delay: &c.delay, Jitter: &c.jitter, Loss: &loss, Reorder: &c.reorder})
		w.change(0, 1, lab.Change{Rate: &up})
		w.change(1, 0, lab.Change{Rate: &down})
		time.Sleep(time.Second) // what is under way arrives, and probes know the delay
		rounds, bytes := truthRounds(3), 0
		var errs []float64
		for range rounds {
			var v benchView
			if err := w.agents[0].ask(&v, "bench", wideName(1)); err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			errs, bytes, all = append(errs, math.Abs(v.Mbit/c.mbit-1)), max(bytes, v.Bytes), all+1
			if v.LowMbit <= c.mbit && (v.HighMbit == nil || *v.HighMbit >= c.mbit) {
				inside++
			}
			if v.Meaning == "achievable" {
				shared++
			}
		}
		if len(errs) == 0 {
			continue
		}
		slices.Sort(errs)
		median := errs[len(errs)/2]
		t.Logf("%s: %d measurements, median error %.2f %%, worst %.2f %%, at most %d bytes", c.name, len(errs), 100*median, 100*errs[len(errs)-1], bytes)
		if median > c.within && (thorough() || median > 5*c.within) || c.mbit <= 200 && bytes > 300_000 {
			t.Errorf("%s: median error %.2f %%, want %.0f; %d bytes", c.name, 100*median, 100*c.within, bytes)
		}
	}
	t.Logf("%d of %d intervals hold the truth; %d say that others use the path", inside, all, shared)
	if thorough() && (10*inside < 9*all-10 || 10*shared > all+10) { // chance has its part
		t.Errorf("%d of %d intervals hold the truth; %d say that others use the path", inside, all, shared)
	}
}

// A flow that takes all there is shows what the path carries without a packet more,
// and when the rate is cut the old one is soon forgotten.
func TestTruthPassive(t *testing.T) {
	takeTurn(t)
	s := newSites(t)
	s.plain()
	s.limit("tbf rate 100mbit burst 8kb latency 50ms")
	s.join(t, "")
	s.fathomed()
	s.background(s.b, "iperf3 -s -p 5300")
	eventually(t, 5*time.Second, func() error { return s.try(s.a, "timeout 3 iperf3 -p 5300 -n 1K -c 10.78.0.2") })
	s.background(s.a, "iperf3 -p 5300 -t 60 -C cubic -c 10.78.0.2")
	near := func(mbit float64) func() error {
		return func() error {
			p := s.toB()
			if p.CapacityMbit == nil || p.CapacitySource != "passive" || p.CapacityBound || math.Abs(*p.CapacityMbit/ipRate(mbit)-1) > 0.05 {
				return fmt.Errorf("%v Mbit/s, %s, lower bound %v", value(p.CapacityMbit), p.CapacitySource, p.CapacityBound)
			}
			return nil
		}
	}
	wait := 3 * time.Second
	if thorough() {
		wait = 10 * time.Second
	}
	time.Sleep(wait) // as long as the flow has to be seen
	eventually(t, 10*time.Second, near(100))
	p, status := s.toB(), statusView{}
	if err := s.agents[0].ask(&status, "status"); err != nil || status.TrainBytes != 0 {
		t.Errorf("%d bytes of trains, %v", status.TrainBytes, err)
	}
	t.Logf("100 Mbit/s: %.2f Mbit/s after %v, %+.2f %%; achieved %.2f; no bytes of trains",
		*p.CapacityMbit, wait, 100*(*p.CapacityMbit/ipRate(100)-1), value(p.AvailableMbit))
	s.in(s.r, "tc qdisc change dev ub root tbf rate 20mbit burst 8kb latency 50ms")
	took := eventually(t, 20*time.Second, near(20))
	p = s.toB()
	t.Logf("cut to 20 Mbit/s: %.2f Mbit/s after %v", value(p.CapacityMbit), took)
	if took > 10*time.Second {
		t.Errorf("the cut shows after %v", took)
	}
}

// toB returns what a says of b.
func (s *sites) toB() peerView {
	v, _ := s.agents[0].peers()
	for _, p := range v.Peers {
		if p.Name == "b" {
			return p
		}
	}
	return peerView{}
}

func value(f *float64) float64 {
	if f == nil {
		return 0
	}
	return *f
}

// With 30 % cross traffic what is printed says that it is achievable, and not what
// the others leave.
func TestTruthAmongOthers(t *testing.T) {
	takeTurn(t)
	s := newSites(t)
	s.plain()
	s.limit("tbf rate 100mbit burst 8kb latency 100ms")
	s.join(t, "")
	s.fathomed()
	s.background(s.b, "iperf3 -s -p 5301")
	eventually(t, 5*time.Second, func() error { return s.try(s.a, "timeout 3 iperf3 -p 5301 -n 1K -c 10.77.2.1") })
	s.background(s.a, "iperf3 -p 5301 -u -b 30M -l 1400 -t 60 -c 10.77.2.1")
	time.Sleep(300 * time.Millisecond) // it takes its share
	rounds, said := truthRounds(5), 0
	for range rounds {
		var v benchView
		if err := s.agents[0].ask(&v, "bench", "b"); err != nil {
			t.Fatal(err)
		}
		t.Logf("30 of 100 Mbit/s taken: %.1f Mbit/s, %s, limited by %s", v.Mbit, v.Meaning, v.LimitedBy)
		if v.Meaning == "achievable" && v.Mbit > 60 && v.Mbit < 100 {
			said++
		}
	}
	if 5*said < 3*rounds {
		t.Errorf("%d of %d say that others use the path", said, rounds)
	}
	out, err := s.agents[0].run("bench", "b")
	if err != nil || !strings.Contains(out, " Mbit/s") || !strings.Contains(out, "limited by") {
		t.Errorf("%s, %v", out, err)
	}
	t.Log(out)
}

// What trains lose, which fill a queue on purpose, is no loss of the path.
func TestTruthTrainLoss(t *testing.T) {
	takeTurn(t)
	s := newSites(t)
	s.plain()
	s.limit("tbf rate 20mbit burst 4kb limit 12kb") // eight packets have room
	s.join(t, "")
	s.fathomed()
	eventually(t, 20*time.Second, func() error {
		if s.toB().Loss == nil {
			return errors.New("no loss is known")
		}
		return nil
	})
	before := s.dropped()
	for range 3 {
		var v benchView
		if err := s.agents[0].ask(&v, "bench", "b"); err != nil {
			t.Fatal(err)
		}
		t.Logf("%.2f Mbit/s, %s", v.Mbit, v.Meaning)
	}
	lost, worst := s.dropped()-before, 0.0
	for range 20 { // and while the probes tell of it
		worst = max(worst, value(s.toB().Loss))
		time.Sleep(150 * time.Millisecond)
	}
	t.Logf("%d cars were dropped; a tells a loss of %.1f %% at most", lost, 100*worst)
	if lost < 50 || worst > 0.05 {
		t.Errorf("%d cars were dropped, and %.1f %% lost", lost, 100*worst)
	}
}

// dropped returns how many packets the way to b had no room for.
func (s *sites) dropped() (n int) {
	s.t.Helper()
	_, after, ok := strings.Cut(s.in(s.r, "tc -s qdisc show dev ub"), "dropped ")
	if _, err := fmt.Sscanf(after, "%d", &n); err != nil || !ok {
		s.t.Fatal(after, err)
	}
	return n
}

// Trains keep to --uplink and to --max-mbit, and say that these limit them.
func TestTruthCaps(t *testing.T) {
	s := newSites(t)
	s.plain()
	s.limit("tbf rate 100mbit burst 8kb latency 100ms")
	s.join(t, "", "--uplink", "50Mbit")
	s.fathomed()
	for _, c := range []struct {
		args []string
		mbit float64
		by   string
	}{
		{nil, 50 * shapedPercent / 100.0, "uplink"},
		{[]string{"--max-mbit", "20"}, 20, "cap"},
	} {
		// It's a lower bound, and lower where something else kept the processors busy while
		// cars left: the highest of three counts, and none may be higher than is allowed.
		var best benchView
		for try := 0; try < 3 && best.Mbit < 0.95*c.mbit; try++ {
			var v benchView
			if err := s.agents[0].ask(&v, append([]string{"bench", "b"}, c.args...)...); err != nil {
				t.Fatal(err)
			}
			t.Logf("%v: %.2f Mbit/s, %s, limited by %s", c.args, v.Mbit, v.Meaning, v.LimitedBy)
			if v.Mbit > 1.05*c.mbit {
				t.Errorf("%v: %.2f Mbit/s, more than %.2f", c.args, v.Mbit, c.mbit)
			}
			if v.Mbit > best.Mbit {
				best = v
			}
		}
		if best.Mbit < 0.95*c.mbit || best.LimitedBy != c.by || best.Meaning != "lower bound" || best.HighMbit != nil {
			t.Errorf("%v: %+v, want %v, limited by %s", c.args, best, c.mbit, c.by)
		}
	}
	if p := s.toB(); p.CapacitySource != "train" || !p.CapacityBound || p.CapacityMbit == nil || math.Abs(*p.CapacityMbit/20-1) > 0.05 {
		t.Errorf("the newest value of the pair is %v by %s, lower bound %v", value(p.CapacityMbit), p.CapacitySource, p.CapacityBound)
	}
	for _, args := range [][]string{{"bench", "nobody"}, {"bench", "b", "--seconds", "-1"}, {"bench", "b", "--max-mbit", "NaN"}} {
		var v benchView
		if err := s.agents[0].ask(&v, args...); err == nil || !strings.Contains(err.Error(), "exit status") {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// run runs a command of the agent's and returns what it prints.
func (d *process) run(args ...string) (string, error) {
	out, err := exec.Command(program(d.t), append(args, "--socket", filepath.Join(d.dir, "s"))...).CombinedOutput()
	return string(out), err
}
