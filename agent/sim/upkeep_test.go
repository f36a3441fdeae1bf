package sim

import (
	"fmt"
	"testing"
	"time"
)

// mostSpent is what an agent may send on average among so many, bytes a second.
func mostSpent(agents int) float64 {
	if agents <= 100 {
		return 2500
	}
	return 13_000
}

// What agents, who are 3 % off with what they measure, tell each other once links have
// settled: when nothing happens, while a hundredth of them leaves and comes in a minute, and
// with the other faults. Ordinary are the first two.
func TestUpkeep(t *testing.T) {
	agents, calm, trouble := 25, 2*time.Minute, 3*time.Minute
	cases := []Faults{None, Churn}
	if long() {
		agents, calm, trouble = number(t, "FARLAN_SIM_AGENTS", 100), 5*time.Minute, 10*time.Minute
		cases = append(cases, All&^Liar, All)
	}
	for i, f := range cases {
		s := New(Setting{Seed: 1, Agents: agents, Faults: f, Noise: 30, RTT: planetLab(t, agents), Calm: calm, Trouble: trouble})
		s.Run(calm)
		s.Count()
		told := s.told
		s.Run(calm + trouble)
		x := s.Spent()
		t.Logf("%d agents, %v, %d faults in %v: %v; %d records of links", agents, f, len(s.plan), trouble, x, s.told-told)
		if name := fmt.Sprintf("%d agents, faults %v: kB/s an agent", agents, f); i < 2 {
			atMost(t, name, x.Mean()/1000, mostSpent(agents)/1000)
		}
		if s.told == told && f != None {
			t.Errorf("%v: nobody told anything", f)
		}
	}
}

// What FARLAN_SIM_UPKEEP agents send that all start at once, and then are left alone, and
// then leave and come.
func TestUpkeepOfMany(t *testing.T) {
	agents := number(t, "FARLAN_SIM_UPKEEP", 30)
	calm, churn := 4*time.Minute, 2*time.Minute
	s := New(Setting{Seed: 1, Agents: agents, Faults: Churn, Noise: 30, Calm: calm, Trouble: churn})
	const slice = 30 * time.Second
	var mean float64
	for at := slice; at <= calm+churn; at += slice {
		s.Count()
		s.Run(at)
		x := s.Spent()
		t.Logf("%v: %v", at, x)
		if at > calm {
			mean += x.Mean() * slice.Seconds() / churn.Seconds()
		}
	}
	atMost(t, fmt.Sprintf("%d agents, a hundredth leaves and comes in a minute: kB/s an agent", agents), mean/1000, mostSpent(agents)/1000)
}
