package sim

import (
	"cmp"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// number returns a number of the environment, or what it is otherwise.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		t.Fatalf("%s=%s is no number", name, text)
	}
	return n
}

// setting is the one of a seed: a minute to get to know each other, two of trouble.
func setting(seed uint64, agents int, faults Faults) Setting {
	return Setting{Seed: seed, Agents: agents, Faults: faults, Calm: time.Minute, Trouble: 2 * time.Minute, Noise: 30}
}

// Seeds of all faults and of each alone: agents agree again within a flood and an epoch,
// are linked, and deliver what is sent. A seed that fails is run again by the command
// that is printed.
func TestSeeds(t *testing.T) {
	type run struct {
		seed   uint64
		agents int
		faults Faults
	}
	var runs []run
	if faults := os.Getenv("FARLAN_SIM_FAULTS"); faults != "" || os.Getenv("FARLAN_SIM_SEED") != "" {
		f, err := ParseFaults(cmp.Or(faults, "all"))
		if err != nil {
			t.Fatal(err)
		}
		first := uint64(number(t, "FARLAN_SIM_SEED", 1))
		for seed := range uint64(number(t, "FARLAN_SIM_SEEDS", 1)) {
			runs = append(runs, run{first + seed, number(t, "FARLAN_SIM_AGENTS", 50), f})
		}
	} else {
		runs = append(runs, run{1, 30, All}, run{2, 12, All})
		for i := range faultNames {
			runs = append(runs, run{uint64(10 + i), 10, 1 << i})
		}
	}
	t.Log("seed agents faults                          agreed   kB/s an agent   in trouble: delivered  broadcasts  twice")
	var slowest time.Duration
	for _, r := range runs {
		begin := time.Now()
		v := Check(setting(r.seed, r.agents, r.faults))
		slowest = max(slowest, v.Agreed)
		x := v.Traffic
		t.Logf("%4d %6d %-30s %8v %15.2f %12d of %3d  %d of %d  %d  (%.1f s)", r.seed, r.agents, r.faults, v.Agreed, v.Bytes/1000,
			x.Delivered, x.Sent, x.Got, x.Wanted, x.Again, time.Since(begin).Seconds())
		if len(v.Wrong) > 0 {
			t.Errorf("%s\n\tmake sim SEED=%d AGENTS=%d FAULTS=%s", strings.Join(v.Wrong, "\n\t"), r.seed, r.agents, r.faults)
		}
	}
	t.Logf("%d runs; agreement after %v at most", len(runs), slowest)
}

// A seed always gives the same run, and another seed another one.
func TestReplay(t *testing.T) {
	run := func(seed uint64) (uint64, [32]byte) {
		s := New(setting(seed, 10, All))
		s.Run(90 * time.Second)
		s.emit(1, 2)
		s.Run(2 * time.Minute)
		return s.Trace(), s.agents[0].store.Hash()
	}
	trace, records := run(3)
	if again, r := run(3); again != trace || r != records {
		t.Error("the same seed ran differently")
	}
	if other, _ := run(4); other == trace {
		t.Error("another seed ran the same: the trace tells nothing")
	}
}

// Without the reverse-path check broadcasts come twice where agents disagree, and the
// checks notice.
func TestReversePathMutant(t *testing.T) {
	set := setting(5, 30, Churn|Restart|Partition)
	if v := Check(set); v.Traffic.Again > 0 || len(v.Wrong) > 0 {
		t.Fatalf("%+v", v)
	}
	set.mutant = noCheck
	if v := Check(set); v.Traffic.Again == 0 {
		t.Errorf("nothing came twice: %+v", v.Traffic)
	}
}

func TestParseFaults(t *testing.T) {
	for _, f := range []Faults{None, All, Loss, Rebind, Pause | Liar | Skew} {
		if got, err := ParseFaults(f.String()); got != f || err != nil {
			t.Errorf("%v became %v, %v", f, got, err)
		}
	}
	if _, err := ParseFaults("loss,rain"); err == nil || !strings.Contains(err.Error(), "rebind") {
		t.Error("rain is no fault:", err)
	}
}
