package bench

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		values   []float64
		decimals int
		want     string
	}{
		{nil, 0, "—"},
		{[]float64{7}, 1, "7.0"},
		{[]float64{3, 1, 2}, 0, "2 (1–3)"},
		{[]float64{4, 1, 3, 2}, 1, "2.5 (1.0–4.0)"},
	} {
		if got := spreadOf(test.values).text(test.decimals); got != test.want {
			t.Errorf("%v: %q, want %q", test.values, got, test.want)
		}
	}
}

func TestQuantile(t *testing.T) {
	var v []float64
	for i := range 1000 {
		v = append(v, float64(999-i))
	}
	if p50, p99 := quantile(v, 0.5), quantile(v, 0.99); p50 != 500 || p99 != 990 {
		t.Errorf("p50 %v, p99 %v", p50, p99)
	}
	if q := quantile([]float64{5}, 0.99); q != 5 {
		t.Errorf("of one value: %v", q)
	}
}

// A pipe passes everything up to a rate, and loses half above.
func TestClimb(t *testing.T) {
	pipe := func(limit, sender float64) func(float64) (step, error) {
		return func(rate float64) (step, error) {
			sent := min(rate, sender)
			if sent > limit {
				return step{sent, sent / 2}, nil
			}
			return step{sent, sent}, nil
		}
	}
	hiccup := 3
	for _, test := range []struct {
		name     string
		try      func(float64) (step, error)
		from, to float64
	}{
		{"limit between steps", pipe(100_000, 1e9), 100_000 / rise, 100_000},
		{"loses at once", pipe(10_000, 1e9), 0, 0},
		{"passes everything", pipe(1e9, 1e9), highest / rise, highest},
		{"sender is slower", pipe(1e9, 50_000), 50_000, 50_000},
		{"one lost step is repeated", func(rate float64) (step, error) {
			if hiccup--; hiccup == 0 {
				return step{rate, 0}, nil
			}
			return pipe(100_000, 1e9)(rate)
		}, 100_000 / rise, 100_000},
		{"nothing sent", func(float64) (step, error) { return step{}, nil }, 0, 0},
		{"just below one in a hundred", func(rate float64) (step, error) { return step{rate, rate * 0.9901}, nil }, highest / rise, highest},
		{"one in a hundred", func(rate float64) (step, error) { return step{rate, rate * 0.99}, nil }, 0, 0},
	} {
		if got, err := climb(test.try); err != nil || got < test.from || got > test.to {
			t.Errorf("%s: %.0f, %v; want %.0f to %.0f", test.name, got, err, test.from, test.to)
		}
	}
	broken := errors.New("broken")
	if _, err := climb(func(float64) (step, error) { return step{}, broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

func TestParse(t *testing.T) {
	rtts := roundTrips("PING x\n64 bytes from 10.78.0.2: icmp_seq=1 ttl=64 time=0.123 ms\n64 bytes: time=1.5 ms\n\n2 packets, time 5ms\n")
	if !slices.Equal(rtts, []float64{123, 1500}) {
		t.Errorf("round trips %v", rtts)
	}
	if ticks := processTicks("12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 70 30 1 1 20"); ticks != 100 {
		t.Errorf("process %v", ticks)
	}
	if ticks := busyTicks("cpu  1 2 4 1000 1000 8 16 1000 0 0\ncpu0 1 2\n"); ticks != 31 {
		t.Errorf("machine %v", ticks)
	}
	if processTicks("") != 0 || busyTicks("") != 0 {
		t.Error("an ended process has ticks")
	}
	var r report
	err := json.Unmarshal([]byte(`{"intervals": [{"sum": {"bytes": 100, "omitted": true}}, {"sum": {"bytes": 300}}],
		"end": {"sum_sent": {"bits_per_second": 5e6}, "sum_received": {"bits_per_second": 4e6}}}`), &r)
	if err != nil || r.bytes() != 400 || r.mbit() != 4 {
		t.Errorf("iperf3: %v, %v bytes, %v Mbit/s", err, r.bytes(), r.mbit())
	}
}

func TestChoose(t *testing.T) {
	got, err := choose("farlan" + nogso + ", veth")
	if err != nil || len(got) != 2 || got[0].name != "veth" || got[1].base() != "farlan" || !got[1].plain() {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := choose("veth,pigeon"); err == nil || !strings.Contains(err.Error(), "pigeon") {
		t.Errorf("error %v", err)
	}
	for _, peer := range peers {
		if _, err := choose(peer); err != nil {
			t.Error(err)
		}
	}
}

// run3 is three rounds in which the machine doubles its speed, as a shared
// one's may: only ratios within a round are of use.
func run3() results {
	var all results
	for round := 1; round <= 3; round++ {
		f := float64(int(1) << round)
		add := func(tunnel string, v sample) { all = append(all, cell{Round: round, Tunnel: tunnel, Values: v}) }
		add("veth", sample{one: 2000 * f, rtt50: 10, small: 100})
		add("vxlan", sample{one: 1000 * f, rtt50: 20, small: 100})
		add("vxlan"+nogso, sample{one: 500 * f})
		add("farlan", sample{
			one: 500 * f, four: 600 * f, reverse: 400 * f, rtt50: 90, small: 170,
			daemonsCPU: 2, resident: 50, idle: 2,
		})
		add("farlan"+nogso, sample{one: 250 * f})
		add("tinc", sample{one: 50 * f, rtt50: 80, small: 50})
	}
	return all
}

func TestTable(t *testing.T) {
	all := run3()
	all = append(all, cell{Round: 4, Tunnel: "vxlan", Error: "no way"})
	rows, err := choose("vxlan,farlan,farlan" + nogso)
	if err != nil {
		t.Fatal(err)
	}
	got := all.table(rows)
	for _, want := range []string{
		"| **farlan** | 2000 (1000–4000) | 0.50 (0.50–0.50) | 10.0 (10.0–10.0) | 2400 (1200–4800) |",
		"| 80 (80–80) | — | 170 (170–170) | 2.00 (2.00–2.00) |",
		"| **farlan**, no offload | 1000 (500–2000) | 0.50 (0.50–0.50) |",
		"idle the machine was 2 (2–2) % busy.\n",
		"Round 4: vxlan failed.",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	for line := range strings.Lines(got) {
		if strings.HasPrefix(line, "|") && strings.Count(line, "|") != len(columns)+2 {
			t.Errorf("a row of another length: %s", line)
		}
	}
	all[3].Values[idle] = 50
	if !strings.Contains(all.notes(), "NOT QUIET") {
		t.Error("a busy machine is not told")
	}
}

func TestGoals(t *testing.T) {
	all := run3()
	got := all.verdicts()
	for _, want := range []string{
		"- TCP one stream ≥ 0.40 of VXLAN: 0.50 (0.50–0.50): met",
		"- TCP one stream ≥ 7 × tinc: 10.0 (10.0–10.0): met",
		"- without offload ≥ 0.45 of VXLAN without: 0.50 (0.50–0.50): met",
		"- four streams ≥ one stream: 1.20 (1.20–1.20): met",
		"- reverse ≥ one stream: 0.80 (0.80–0.80): **missed**",
		"- 64 B ≥ 1.6 × VXLAN: 1.70 (1.70–1.70): met",
		"- 64 B ≥ 3 × tinc: 3.40 (3.40–3.40): met",
		"- RTT ≤ bare + 90 µs: 80 (80–80): met",
		"- RTT below every peer: not measured",
		"- CPU of both daemons ≤ 2.3 s/GB: 2.00 (2.00–2.00): met",
		"- resident ≤ 60 MB: 50 (50–50): met",
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	for _, peer := range peers[1:] {
		all = append(all, cell{Round: 1, Tunnel: peer, Values: sample{rtt50: 100}})
	}
	if got := all.below("farlan").String(); got != "- RTT below every peer: 90 (90–90) µs, tinc 80 (80–80): **missed**" {
		t.Error(got)
	}
	for i := range all {
		if all[i].Tunnel == "tinc" {
			all[i].Values[rtt50] = 95
		}
	}
	if v := all.below("farlan"); !v.met || !v.known {
		t.Error(v)
	}
	dead := results{{Round: 1, Tunnel: "farlan", Values: sample{small: 100}}, {Round: 1, Tunnel: "tinc", Values: sample{small: 0}}}
	if s := dead.ratio("farlan", "tinc", small); s.n != 0 {
		t.Errorf("a multiple of nothing: %v", s)
	}
	for _, v := range (results{}).judge() {
		if v.known {
			t.Errorf("known of nothing: %v", v)
		}
	}
}

// A flood between two real hosts. The receiver may be told to stop before its
// queue is empty, on a machine under load, so most has to arrive, not all.
func TestFlood(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	dir, dismiss, err := janitor()
	if err != nil {
		t.Fatal(err)
	}
	defer dismiss()
	h, err := newHosts(plan{dir: dir}, 0)
	defer h.close()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s, err := h.flood(self, underlay(1), 20_000)
	if err != nil {
		t.Fatal(err)
	}
	if s.sent < 1000 || s.sent > 20_100 || s.received < s.sent/2 || s.received > s.sent+1 {
		t.Errorf("%+v", s)
	}
}

func TestJanitor(t *testing.T) {
	dir, dismiss, err := janitor()
	if err != nil {
		t.Fatal(err)
	}
	ns := prefix(os.Getpid()) + "t"
	if os.Geteuid() == 0 {
		if _, err := run("ip", "netns", "add", ns); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	dismiss()
	for _, path := range []string{dir, filepath.Join("/run/netns", ns)} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is there after %v: %v", path, time.Since(start), err)
		}
	}
}
