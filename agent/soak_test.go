package agent

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// A reading is what an agent takes of its machine.
type reading struct {
	memoryKB, descriptors, goroutines int
}

func (d *process) reading() (r reading, err error) {
	v, err := d.status()
	if err != nil {
		return r, err
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid))
	return reading{d.memory(), len(files), v.Goroutines}, err
}

// TestSoak runs three agents for FARLAN_SOAK (a duration) with all that a
// network does to them: flows of every kind, loss that comes and goes, an MTU
// that shrinks and widens, new keys every two minutes, and one of them killed and
// started again every minute. The other two must carry traffic all the time, and
// take no more of the machine at the end than after the first tenth.
func TestSoak(t *testing.T) {
	t.Parallel()
	length, err := time.ParseDuration(os.Getenv("FARLAN_SOAK"))
	if err != nil {
		length = 40 * time.Second // what fits every run: as a test of the test
	}
	minute := min(time.Minute, length/4)
	s := newSites(t)
	s.join(t, "")
	c := startAgentIn(t, s.r, s.agents[0].args[2], "c", "--listen", "10.77.1.254:4747", "--tap", "t", "--bootstrap", s.agents[0].bootstrap())
	c.bootstrap()
	s.host("ip -n " + s.r + " addr add 10.78.0.3/24 dev t")
	eventually(t, 15*time.Second, func() error { return s.try(s.a, "ping -c1 -W1 -q 10.78.0.3") })
	for _, ns := range []string{s.b, s.r} {
		s.background(ns, "iperf3 -s -p 5201")
		s.background(ns, "iperf3 -s -p 5202")
		s.background(ns, "iperf3 -s -p 5203")
	}
	steady := &flow{s: s, line: "iperf3 -c 10.78.0.3 -p 5201 -b 5M -t 5"}
	flows := []*flow{
		steady,
		{s: s, line: "iperf3 -c 10.78.0.3 -p 5202 -u -b 200k -l 64 -t 5"},
		{s: s, line: "iperf3 -c 10.78.0.2 -p 5201 -b 3M -t 5 -R"},
		{s: s, line: "iperf3 -c 10.78.0.2 -p 5202 -u -b 200k -l 1400 -t 5"},
		{s: s, line: "ping -i 0.2 -c 25 -q -s 1472 -M do 10.78.0.2"},
		{s: s, line: "iperf3 -c 10.78.0.3 -p 5203 -P 2 -t 1", pause: minute}, // as fast as it goes
	}
	stop := make(chan struct{})
	for _, f := range flows {
		go f.run(stop)
	}
	var first reading
	start := time.Now()
	for round := 0; time.Since(start) < length; round++ {
		s.weather(round)
		<-time.After(time.Until(start.Add(time.Duration(round+1) * minute)))
		s.restart(1)
		a, err := s.agents[0].reading()
		third, err3 := c.reading()
		if err := errors.Join(err, err3); err != nil {
			t.Fatal(err)
		}
		good, runs, _ := steady.result()
		fmt.Fprintf(os.Stderr, "soak: %v of %v: a %+v, c %+v, steady flow %d of %d runs\n",
			time.Since(start).Round(time.Second), length, a, third, good, runs)
		if first == (reading{}) && time.Since(start) > length/10 {
			first = a
		}
	}
	close(stop)
	s.narrow(0)
	s.lossy(0)
	if good, runs, last := steady.result(); good < runs*9/10 || good == 0 {
		t.Errorf("the flow between agents that were not restarted: %d of %d runs were good: %v", good, runs, last)
	}
	last := eventually(t, 30*time.Second, func() error {
		a, err := s.agents[0].reading()
		if err == nil && (a.memoryKB > first.memoryKB*6/5+4096 || a.goroutines > first.goroutines+8 || a.descriptors > first.descriptors+4) {
			err = fmt.Errorf("grew from %+v to %+v", first, a)
		}
		return err
	})
	t.Logf("took no more of the machine after %v", last)
	if said := s.agents[0].said(); strings.Contains(said, "DATA RACE") || strings.Contains(said, "panic") {
		t.Errorf("the agent said:\n%s", said[max(len(said)-4000, 0):])
	}
	eventually(t, 15*time.Second, func() error { return s.try(s.a, "ping -c1 -W1 -q 10.78.0.2") })
}

// weather changes what the router does to packets.
func (s *sites) weather(round int) {
	s.narrow([]int{0, 1420, 0, 1280}[round%4])
	s.lossy([]int{0, 10, 1}[round%3])
}

// lossy makes the router lose so many of a thousand packets.
func (s *sites) lossy(perMille int) {
	s.t.Helper()
	rule := ""
	if perMille > 0 {
		rule = fmt.Sprintf("numgen random mod 1000 < %d", perMille)
	}
	s.drop("lossy", rule)
}

// A flow is a command that is run again and again.
type flow struct {
	s     *sites
	line  string
	pause time.Duration

	mu         sync.Mutex
	good, runs int
	last       error
}

func (f *flow) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(f.pause):
		}
		err := f.s.try(f.s.a, "timeout 20 "+f.line)
		f.mu.Lock()
		f.runs++
		if err == nil {
			f.good++
		} else {
			f.last = err
		}
		f.mu.Unlock()
	}
}

// result returns how many runs there were, how many of them good, and what was
// wrong with the last that wasn't.
func (f *flow) result() (good, runs int, last error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.good, f.runs, f.last
}
