package sim

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"farlan/agent/decide"
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

// mostCold is of how many agents a network starts cold.
const mostCold = 200

// setting is the one of a seed: some time to get to know each other, and then trouble. Many
// agents know each other for long.
func setting(seed uint64, agents int, faults Faults) Setting {
	set := Setting{Seed: seed, Agents: agents, Faults: faults, Calm: 40 * time.Second, Trouble: 100 * time.Second, Noise: 30}
	if agents > mostCold {
		set.Calm, set.Settled = 10*time.Second, true
	}
	return set
}

// A run is one of a seed.
type run struct {
	seed   uint64
	agents int
	faults Faults
}

// runs returns those to do: what the environment says, or else a few small ones, or with
// FARLAN_SIM many of 10 to 100 agents, most with all faults and some with a few.
func runs(t *testing.T) (all []run) {
	t.Helper()
	if text := os.Getenv("FARLAN_SIM_SEED"); text != "" {
		faults, err := ParseFaults(cmp.Or(os.Getenv("FARLAN_SIM_FAULTS"), "all"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range uint64(number(t, "FARLAN_SIM_SEEDS", 1)) {
			all = append(all, run{uint64(number(t, "FARLAN_SIM_SEED", 1)) + i, number(t, "FARLAN_SIM_AGENTS", 50), faults})
		}
		return all
	}
	if !long() {
		all = append(all, run{1, 18, All}, run{2, 12, All})
		for i := range faultNames {
			all = append(all, run{uint64(10 + i), 8, 1 << i})
		}
		return all
	}
	for i := range number(t, "FARLAN_SIM_SEEDS", 100) {
		r := run{uint64(i + 1), 10 + i*37%91, All}
		if i%4 == 3 {
			r.faults = Faults(mix(r.seed, 1)) & All
		}
		all = append(all, r)
	}
	return all
}

// Networks with faults, of many seeds: agents agree again within a flood and an epoch, are
// linked, and deliver what is sent. A seed that fails is run again by the command that is
// printed.
func TestSeeds(t *testing.T) {
	t.Logf("seed agents  agreed  kB/s an agent  in trouble: frames delivered, broadcasts got, twice; afterwards both  most links  trace  faults")
	var agreed []time.Duration
	var trouble, steady Traffic
	failed := 0
	for _, r := range runs(t) {
		v := Check(setting(r.seed, r.agents, r.faults))
		agreed = append(agreed, v.Agreed)
		trouble.add(v.Traffic)
		steady.add(v.Steady)
		t.Logf("%4d %6d %7v %14.2f  %3d of %3d %5d of %5d %2d  %d of %d %4d of %4d  %2d  %016x  %v", r.seed, r.agents, v.Agreed, v.Bytes/1000,
			v.Traffic.Delivered, v.Traffic.Sent, v.Traffic.Got, v.Traffic.Wanted, v.Traffic.Again, v.Steady.Delivered, v.Steady.Sent, v.Steady.Got, v.Steady.Wanted, v.Degree, v.Trace, r.faults)
		if len(v.Wrong) > 0 {
			failed++
			t.Errorf("%s\n\tmake sim SEED=%d AGENTS=%d FAULTS=%s", strings.Join(v.Wrong, "\n\t"), r.seed, r.agents, r.faults)
		}
	}
	slices.Sort(agreed)
	n := len(agreed)
	t.Logf("%d of %d runs as they must be; all had the same facts again after %v in the median, %v in nine of ten, %v at most", n-failed, n, agreed[n/2], agreed[n*9/10], agreed[n-1])
	atMost(t, fmt.Sprintf("%d networks with faults: that weren't as they must be", n), float64(failed), 0)
	atMost(t, fmt.Sprintf("%d networks with faults: seconds until all had the same facts again, at most", n), agreed[n-1].Seconds(), (flood + decide.Epoch).Seconds())
	atMost(t, fmt.Sprintf("%d networks with faults: frames looped, broadcasts that went too far or came twice", n), float64(trouble.Looped+trouble.Deep+steady.Looped+steady.Deep+steady.Again), 0)
	t.Logf("in trouble %+v", trouble)
	t.Logf("afterwards %+v", steady)
}

// A seed always gives the same run, and another seed another one.
func TestReplay(t *testing.T) {
	run := func(seed uint64) (uint64, [32]byte) {
		s := New(setting(seed, 10, All))
		s.Run(time.Minute)
		s.emit(1, 2)
		s.Run(80 * time.Second)
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
	set := setting(5, 20, Churn|Restart|Partition)
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
