package sim

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"farlan/agent/decide"
)

// A run is one of a seed.
type run struct {
	seed   uint64
	agents int
	faults Faults
}

// runs returns those to do: a few small ones, or with FARLAN_SIM those from FARLAN_SIM_FROM on,
// FARLAN_SIM_SEEDS of them, so that they can be shared out; or the one of FARLAN_SIM_SEED.
func runs(t *testing.T) (all []run) {
	t.Helper()
	if os.Getenv("FARLAN_SIM_SEED") != "" {
		faults, err := ParseFaults(cmp.Or(os.Getenv("FARLAN_SIM_FAULTS"), "all"))
		if err != nil {
			t.Fatal(err)
		}
		return append(all, run{uint64(number(t, "FARLAN_SIM_SEED", 1)), number(t, "FARLAN_SIM_AGENTS", 50), faults})
	}
	if !long() {
		all = append(all, run{1, 18, All}, run{2, 12, All})
		for i := range faultNames {
			all = append(all, run{uint64(10 + i), 8, 1 << i})
		}
		return all
	}
	from := number(t, "FARLAN_SIM_FROM", 1)
	for i := range number(t, "FARLAN_SIM_SEEDS", 100) {
		r := runOf(uint64(max(from, 1) + i))
		r.agents = number(t, "FARLAN_SIM_AGENTS", r.agents)
		all = append(all, r)
	}
	return all
}

// runOf returns the run of a seed: 10 to 100 agents, most with all faults and some with a few.
func runOf(seed uint64) run {
	r := run{seed, 10 + int((seed-1)*37%91), All}
	if seed%4 == 0 {
		r.faults = Faults(mix(seed, 1)) & All
	}
	return r
}

// A tally is what many runs showed.
type tally struct {
	agreed          []time.Duration
	agents          []int
	bytes           []float64
	trouble, steady Traffic
	failed          int
}

func (x *tally) add(r run, v Verdict) {
	x.agreed, x.agents, x.bytes = append(x.agreed, v.Agreed), append(x.agents, r.agents), append(x.bytes, v.Bytes/1000)
	x.trouble.add(v.Traffic)
	x.steady.add(v.Steady)
	if len(v.Wrong) > 0 {
		x.failed++
	}
}

// report says in the end what came out, beside what shall.
func (x *tally) report(t *testing.T) {
	t.Helper()
	slices.Sort(x.agreed)
	slices.Sort(x.bytes)
	n := len(x.agreed)
	t.Logf("%d seeds, %d to %d agents, %d as they must be. All had the same records again after %v in the median, %v in nine of ten, %v at most. "+
		"In trouble %d frames looped, %d broadcasts came twice, %d were dropped as too deep; afterwards %d, %d, %d. An agent sent %.2f kB/s in the median, %.2f at most.",
		n, slices.Min(x.agents), slices.Max(x.agents), n-x.failed, x.agreed[n/2], x.agreed[n*9/10], x.agreed[n-1],
		x.trouble.Looped, x.trouble.Again, x.trouble.Deep, x.steady.Looped, x.steady.Again, x.steady.Deep, x.bytes[n/2], x.bytes[n-1])
	t.Logf("in trouble %+v; afterwards %+v", x.trouble, x.steady)
	atMost(t, fmt.Sprintf("%d networks with faults: that weren't as they must be", n), float64(x.failed), 0)
	atMost(t, fmt.Sprintf("%d networks with faults: seconds until all had the same facts again, at most", n), x.agreed[n-1].Seconds(), (flood + decide.Epoch).Seconds())
	atMost(t, fmt.Sprintf("%d networks with faults: frames looped, broadcasts that went too far or came twice", n),
		float64(x.trouble.Looped+x.trouble.Deep+x.trouble.Again+x.steady.Looped+x.steady.Deep+x.steady.Again), 0)
	if n >= 10 { // one may change its links just then
		atMost(t, fmt.Sprintf("%d networks with faults: percent of broadcasts' copies lost in trouble on the way to who was within reach", n),
			100*(1-float64(x.trouble.Got)/float64(max(x.trouble.Wanted-x.trouble.Cut, 1))), 15)
		atMost(t, fmt.Sprintf("%d networks with faults: percent of broadcasts' copies that numbers told, afterwards", n),
			100*float64(x.steady.Spare)/float64(max(x.steady.Got, 1)), 5)
	}
}

// Networks with faults, of many seeds: agents agree again within a flood and an epoch, are
// linked, and deliver what is sent. A seed that fails is run again by the command that is
// printed.
func TestSeeds(t *testing.T) {
	t.Logf("seed agents  agreed  kB/s an agent  in trouble: frames delivered, broadcasts got, twice; afterwards both  most links  seconds it took  trace  faults")
	var all tally
	for _, r := range runs(t) {
		begin := busy(t)
		v := Check(setting(r.seed, r.agents, r.faults))
		all.add(r, v)
		t.Logf("%4d %6d %7v %14.2f  %3d of %3d %5d of %5d %2d  %d of %d %4d of %4d  %2d  %5.1f  %016x  %v", r.seed, r.agents, v.Agreed, v.Bytes/1000,
			v.Traffic.Delivered, v.Traffic.Sent, v.Traffic.Got, v.Traffic.Wanted, v.Traffic.Again, v.Steady.Delivered, v.Steady.Sent, v.Steady.Got, v.Steady.Wanted, v.Degree,
			(busy(t) - begin).Seconds(), v.Trace, r.faults)
		if len(v.Wrong) > 0 {
			t.Errorf("%s\n\tmake sim SEED=%d AGENTS=%d FAULTS=%s", strings.Join(v.Wrong, "\n\t"), r.seed, r.agents, r.faults)
		}
	}
	all.report(t)
}
