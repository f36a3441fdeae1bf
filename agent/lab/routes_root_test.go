package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// A routeTo is what these tests read of 'farlan explain --json'.
type routeTo struct {
	Chosen *struct {
		Path  []string  `json:"path"`
		Since time.Time `json:"since"`
	} `json:"chosen"`
	Rejected []struct {
		Path   []string `json:"path"`
		Reason string   `json:"reason"`
	} `json:"rejected"`
	WouldChange string `json:"would_change"`
	History     []struct {
		What string `json:"what"`
		Why  string `json:"why"`
	} `json:"history"`
}

// explain returns why a site's frames of a class go to another as they do.
func (l *Lab) explain(ctx context.Context, from, to, class string) (r routeTo, err error) {
	b, err := l.farlan(ctx, from, "explain", to, "--class", class, "--json")
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err
}

// takes waits until frames of a class take a path, and returns how long that took.
func (l *Lab) takes(t *testing.T, class string, within time.Duration, path ...string) time.Duration {
	t.Helper()
	began := time.Now()
	eventually(t, within, func() error {
		r, err := l.explain(t.Context(), path[0], path[len(path)-1], class)
		if err == nil && (r.Chosen == nil || !slices.Equal(r.Chosen.Path, path)) {
			err = fmt.Errorf("frames of class %s take %+v, not %v", class, r, path)
		}
		return err
	})
	return time.Since(began)
}

// shape gives the path between two sites a delay and a rate, both ways.
func shape(t *testing.T, o Options, a, b, delay, rate string) {
	t.Helper()
	output(t, o, "wan", a, b, "--delay", delay, "--rate", rate, "--jitter", "0s", "--loss", "0", "--both")
}

// Frames take the better path: those in haste the shorter one, those that are many the wider
// one, soon after there is one and without anybody asking, and stay on it while they fill it
// themselves.
func TestFramesTakeTheBetterPath(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.Shape = Shape{Delay: 15 * time.Millisecond, Rate: 80_000, Queue: Queue{Time: DefaultQueue}}
	l := up(t, o)
	vm := l.mustHost(t, "site1-vm1")

	shape(t, o, "home", "site1", "100ms", "10Mbit")
	took := max(l.takes(t, "delay", 15*time.Second, "site1", "site2", "home"), l.takes(t, "delay", 15*time.Second, "home", "site2", "site1"))
	eventually(t, 10*time.Second, func() error {
		p, err := vm.ping(within(t, 30*time.Second), hostAIP, 5, 100*time.Millisecond)
		if err == nil && (p.Received < 5 || p.Avg > 80*time.Millisecond) {
			err = fmt.Errorf("%v", p)
		}
		return err
	})
	t.Logf("200 ms straight, 60 by a member: frames take the shorter path after %v", took.Round(100*time.Millisecond))
	var ping struct {
		Path []string `json:"path"`
		Min  float64  `json:"rtt_min_ms"`
	}
	b, err := l.farlan(within(t, 20*time.Second), "site1", "ping", "home", "--json")
	if err == nil {
		err = json.Unmarshal(b, &ping)
	}
	if err != nil || len(ping.Path) != 3 || ping.Min < 60 || ping.Min > 70 {
		t.Errorf("farlan ping: %s, %v", b, err)
	}
	r, err := l.explain(t.Context(), "site1", "home", "delay")
	if err != nil || len(r.Rejected) == 0 || r.Rejected[0].Reason != "longer" || r.WouldChange == "" || len(r.History) == 0 {
		t.Errorf("why: %+v, %v", r, err)
	}

	shape(t, o, "home", "site1", "5ms", "10Mbit")
	l.takes(t, "delay", 30*time.Second, "home", "site1")
	l.takes(t, "bulk", 30*time.Second, "home", "site1")
	steady := 10 * time.Second
	if os.Getenv("FARLAN_LONG") != "" {
		steady = 5 * time.Minute
	}
	ctx, stop := context.WithCancel(within(t, steady+2*time.Minute))
	fetched := make(chan float64)
	go func() { fetched <- vm.download(ctx) }()
	began := time.Now()
	took = l.takes(t, "bulk", 30*time.Second, "home", "site2", "site1")
	t.Logf("10 Mbit/s straight, 80 by a member: a download takes the wider path after %v", took.Round(100*time.Millisecond))
	if took > 15*time.Second {
		t.Error("the goal is 15 s")
	}
	time.Sleep(5 * time.Second)
	before := time.Now()
	r, _ = l.explain(t.Context(), "home", "site1", "bulk")
	since := r.Chosen.Since
	for time.Since(before) < steady {
		time.Sleep(time.Second)
		r, err := l.explain(t.Context(), "home", "site1", "bulk")
		if err != nil || r.Chosen == nil || r.Chosen.Since.Sub(since).Abs() > 2*time.Second || len(r.Chosen.Path) != 3 {
			t.Fatalf("it left the path under its own load: %+v, %v", r, err)
		}
	}
	l.takes(t, "delay", time.Second, "home", "site1")
	all := time.Since(began)
	stop()
	bytes := <-fetched
	t.Logf("no change in %v; %.1f Mbit/s over all %v", steady, bytes*8/all.Seconds()/1e6, all.Round(time.Second))
}

// download fetches from host-a until ctx ends, and returns how many bytes came.
func (h Host) download(ctx context.Context) (bytes float64) {
	for ctx.Err() == nil {
		f, _ := h.fetch(ctx, 8<<20)
		bytes += float64(f.Bytes)
	}
	return bytes
}
