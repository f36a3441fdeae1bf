package agent

import (
	"fmt"
	"math"
	"os"
	"testing"
	"time"
)

// What one site's host sends to another's is shown by both agents, once, at the rate
// that it has; and no more when it ends (with FARLAN_LONG).
func TestTrafficIsShown(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	s.join(t, "")
	s.background(s.b, "iperf3 -s -p 5300")
	eventually(t, 5*time.Second, func() error { return s.try(s.a, "timeout 3 iperf3 -p 5300 -n 1K -c 10.78.0.2") })
	const payload, headers, mbit = 1200, 14 + 20 + 8, 16.0
	client := s.background(s.a, fmt.Sprintf("iperf3 -p 5300 -u -l %d -b %gM -t 60 -c 10.78.0.2", payload, mbit))
	want := mbit * (payload + headers) / payload
	took := eventually(t, 40*time.Second, func() error {
		for _, a := range s.agents {
			var v trafficView
			if err := a.ask(&v, "traffic"); err != nil {
				return err
			}
			if len(v.Flows) == 0 || v.Pattern != "pair" {
				return fmt.Errorf("%s shows %+v", a.name, v)
			}
			f := v.Flows[0]
			if f.AgentFrom != "a" || f.AgentTo != "b" || math.Abs(f.Mbit-want) > 0.2*want {
				return fmt.Errorf("%s shows %+v, want %.1f Mbit/s", a.name, f, want)
			}
			if len(v.Agents) == 0 || v.Agents[0].From != "a" || math.Abs(v.Agents[0].Mbit-want) > 0.25*want {
				return fmt.Errorf("%s shows %+v in all", a.name, v.Agents)
			}
			for _, g := range v.Flows[1:] {
				if g.From == f.From && g.To == f.To {
					t.Fatalf("%s shows the flow twice: %+v", a.name, v.Flows)
				}
			}
		}
		return nil
	})
	t.Logf("both agents show %.1f Mbit/s within 20 %% after %v", want, took.Round(100*time.Millisecond))
	if os.Getenv("FARLAN_LONG") == "" {
		return
	}
	_ = client.Process.Kill()
	took = eventually(t, time.Minute, func() error {
		for _, a := range s.agents {
			var v trafficView
			if err := a.ask(&v, "traffic"); err != nil {
				return err
			}
			if len(v.Flows) > 0 && v.Flows[0].Mbit > mbit/10 {
				return fmt.Errorf("%s still shows %+v", a.name, v.Flows[0])
			}
		}
		return nil
	})
	t.Logf("and none %v after its end", took.Round(100*time.Millisecond))
}
