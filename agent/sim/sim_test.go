package sim

import (
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

// mostCold is of how many agents a network starts cold.
const mostCold = 200

// setting is the one of a seed: some time to get to know each other, and then trouble. Many
// agents know each other for long, and meet as many faults in less time.
func setting(seed uint64, agents int, faults Faults) Setting {
	set := Setting{Seed: seed, Agents: agents, Faults: faults, Calm: 40 * time.Second, Trouble: 100 * time.Second, Noise: 30}
	if agents > mostCold {
		set.Calm, set.Trouble, set.Settled = 10*time.Second, time.Minute, true
	}
	return set
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
	set := setting(11, 20, Churn|Restart|Partition)
	set.mutant = noNumbers
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
