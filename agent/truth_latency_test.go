package agent

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"farlan/agent/lab"
)

// truthLong says whether the tests of truth take their time: FARLAN_TRUTH is set.
func truthLong() bool { return os.Getenv("FARLAN_TRUTH") != "" }

func millisOf(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// most is by how much a round trip may be wrong at the agents of the pair.
func mostOff(rtt time.Duration) time.Duration { return max(rtt/50, 300*time.Microsecond) }

// wideDelays are one way, there and back.
var wideDelays = [][2]time.Duration{
	{1 * time.Millisecond, 1 * time.Millisecond},
	{5 * time.Millisecond, 5 * time.Millisecond},
	{20 * time.Millisecond, 20 * time.Millisecond},
	{80 * time.Millisecond, 80 * time.Millisecond},
	{150 * time.Millisecond, 150 * time.Millisecond},
	{60 * time.Millisecond, 10 * time.Millisecond},
}

// wideCase is one direction of wideDelays.
type wideCase struct {
	from, to    int
	delay, back time.Duration
	truth       time.Duration // the round trip, with what the emulator itself takes
}

// cases gives the pairs of four sites those delays.
func (w *wide) cases() (all []wideCase) {
	pair := 0
	for a := range 4 {
		for b := range a {
			d := wideDelays[pair]
			w.change(a, b, lab.Change{Delay: &d[0]})
			w.change(b, a, lab.Change{Delay: &d[1]})
			all = append(all, wideCase{from: a, to: b, delay: d[0], back: d[1]}, wideCase{from: b, to: a, delay: d[1], back: d[0]})
			pair++
		}
	}
	return all
}

// measure finds out what the emulator itself takes, by the kernels' pings: some 0.2 ms
// there and back, as it is a program, too.
func (w *wide) measure(all []wideCase) {
	w.t.Helper()
	var pings sync.WaitGroup
	for i := range all {
		pings.Go(func() {
			c := &all[i]
			out, err := exec.Command("ip", "netns", "exec", w.ns[c.from], "ping", "-q", "-c", "20", "-i", "0.1", wideAddress(c.to)).Output()
			_, after, ok := strings.Cut(string(out), "rtt min/avg/max/mdev = ")
			var ms float64
			if _, scan := fmt.Sscanf(after, "%f/", &ms); err != nil || !ok || scan != nil {
				w.t.Errorf("ping: %v, %v: %s", err, scan, out)
			}
			c.truth = time.Duration(ms * float64(time.Millisecond))
		})
	}
	pings.Wait()
	for _, c := range all {
		if c.truth < c.delay+c.back || c.truth > c.delay+c.back+2*time.Millisecond {
			w.t.Errorf("a ping takes %v at least over %v and %v", c.truth, c.delay, c.back)
		}
		w.t.Logf("%v there and %v back: the emulator takes %v more", c.delay, c.back, c.truth-c.delay-c.back)
	}
}

// The round trip that both agents of a pair tell is the emulator's, within 2 % or 0.3 ms,
// at once and then for a while; so are smoothed one and jitter where the delay varies.
func TestTruthRTT(t *testing.T) {
	w := newWide(t, 4, lab.Shape{Delay: time.Millisecond})
	all := w.cases()
	w.measure(all)
	wrong := func(c wideCase) (off, limit time.Duration, err error) {
		v, err := w.view(c.from, c.to)
		if err == nil && v.RTTms == nil {
			err = errors.New("no round trip")
		}
		if err != nil {
			return 0, 0, fmt.Errorf("%s to %s: %w", wideName(c.from), wideName(c.to), err)
		}
		return time.Duration(*v.RTTms*float64(time.Millisecond)) - c.truth, mostOff(c.truth), nil
	}
	took := eventually(t, 30*time.Second, func() error {
		for _, c := range all {
			if off, limit, err := wrong(c); err != nil || off.Abs() > limit {
				return fmt.Errorf("%s to %s, %v and %v back: off by %v, %w", wideName(c.from), wideName(c.to), c.delay, c.back, off, err)
			}
		}
		return nil
	})
	t.Logf("all are right %v after that", took)
	looks, bad, worst := 1, 0, make(map[time.Duration]time.Duration)
	if truthLong() {
		looks = 60
	}
	for i := range looks {
		time.Sleep(time.Second)
		for _, c := range all {
			off, limit, err := wrong(c)
			if err != nil {
				t.Fatal(err)
			}
			if rtt := c.delay + c.back; off.Abs() > worst[rtt].Abs() {
				worst[rtt] = off
			}
			if off.Abs() > limit {
				t.Logf("look %d: %s to %s, %v there and %v back: off by %v", i, wideName(c.from), wideName(c.to), c.delay, c.back, off)
				bad++
			}
		}
	}
	for _, d := range wideDelays {
		t.Logf("%v there and %v back: off by %v at most in %d looks at both ends", d[0], d[1], worst[d[0]+d[1]], looks)
	}
	if total := looks * len(all); bad*10 > total {
		t.Errorf("%d of %d looks show more than 2 %% or 0.3 ms off", bad, total)
	}
	if truthLong() {
		w.jitter(all)
	}
}

// jitter has delays vary by a quarter, and looks what the agents say.
func (w *wide) jitter(all []wideCase) {
	yes := true
	for _, c := range all {
		j := c.delay / 4
		w.change(c.from, c.to, lab.Change{Jitter: &j, Reorder: &yes})
	}
	time.Sleep(45 * time.Second) // jitter's average is over 16 samples
	for _, c := range all {
		v, err := w.view(c.from, c.to)
		if err != nil || v.RTTms == nil || v.JitterMs == nil {
			w.t.Fatalf("%+v, %v", v, err)
		}
		rtt, j := c.delay+c.back, (c.delay+c.back)/4
		// The smallest of 10 is nearer to the shortest than to the mean. Two round trips
		// differ by the sum of four evenly spread delays: its mean is 14/15 of the widest
		// one's reach where all are the same.
		w.t.Logf("%v ± %v: the smallest is %.2f ms, jitter %.2f ms", rtt, j, *v.RTTms, *v.JitterMs)
		if *v.RTTms < millisOf(rtt-j)-0.3 || *v.RTTms > millisOf(rtt+mostOff(rtt)) {
			w.t.Errorf("%v ± %v: the smallest of 10 s is %.2f ms", rtt, j, *v.RTTms)
		}
		if want := millisOf(j) / 2 * 14 / 15; *v.JitterMs < want/2 || *v.JitterMs > want*2+0.3 {
			w.t.Errorf("%v ± %v: a jitter of %.2f ms, want %.2f", rtt, j, *v.JitterMs, want)
		}
	}
}

// within tries f, which says how long something took, some times, as other programs may
// keep the processors, until it is within a limit.
func within(t *testing.T, what string, limit time.Duration, f func() time.Duration) {
	t.Helper()
	const tries = 3
	for i := range tries {
		took := f()
		t.Logf("%s after %v, want %v", what, took.Round(time.Millisecond), limit)
		if took <= limit {
			return
		}
		if i == tries-1 {
			t.Errorf("%s after %v, want %v", what, took, limit)
		}
	}
}

// shows waits until both agents of a pair tell a round trip.
func (w *wide) shows(a, b int, rtt time.Duration) time.Duration {
	w.t.Helper()
	return eventually(w.t, 30*time.Second, func() error {
		for _, ab := range [][2]int{{a, b}, {b, a}} {
			v, err := w.view(ab[0], ab[1])
			if err != nil || v.RTTms == nil {
				return fmt.Errorf("%+v, %w", v, err)
			}
			if math.Abs(*v.RTTms-millisOf(rtt)) > millisOf(mostOff(rtt)) {
				return fmt.Errorf("%s tells %.2f ms", wideName(ab[0]), *v.RTTms)
			}
		}
		return nil
	})
}

// A step of the delay shows at both agents within 3 s, up and down.
func TestTruthStep(t *testing.T) {
	near, far := 25*time.Millisecond, 60*time.Millisecond
	w := newWide(t, 2, lab.Shape{Delay: near})
	w.shows(0, 1, 2*near)
	rounds := 1
	if truthLong() {
		rounds = 6
	}
	for range rounds {
		within(t, "a step from 50 to 120 ms shows", 3*time.Second, func() time.Duration {
			w.both(0, 1, lab.Change{Delay: &near})
			w.shows(0, 1, 2*near)
			time.Sleep(2 * time.Second) // a moment is no level
			w.both(0, 1, lab.Change{Delay: &far})
			return w.shows(0, 1, 2*far)
		})
		if !truthLong() {
			return
		}
		within(t, "a step from 120 to 50 ms shows", 3*time.Second, func() time.Duration {
			w.both(0, 1, lab.Change{Delay: &far})
			w.shows(0, 1, 2*far)
			time.Sleep(2 * time.Second)
			w.both(0, 1, lab.Change{Delay: &near})
			return w.shows(0, 1, 2*near)
		})
	}
}

// A cut shows as suspect at both agents: within 3.5 s if nothing flows, else within a
// second or 7 round trips.
func TestTruthCut(t *testing.T) {
	delays := []time.Duration{20 * time.Millisecond}
	if truthLong() {
		delays = append(delays, 80*time.Millisecond, time.Millisecond)
	}
	w := newWide(t, 2, lab.Shape{Delay: delays[0]})
	cut := func() time.Duration {
		yes, no := true, false
		for i := range w.agents {
			eventually(t, 30*time.Second, func() error { return w.agents[i].sees(2) })
		}
		time.Sleep(time.Second)
		w.both(0, 1, lab.Change{Cut: &yes})
		took := eventually(t, 30*time.Second, func() error {
			for i := range w.agents {
				if v, err := w.view(i, 1-i); err != nil || v.State == "up" {
					return fmt.Errorf("%s: %s, %w", wideName(i), v.State, err)
				}
			}
			return nil
		})
		w.both(0, 1, lab.Change{Cut: &no})
		return took
	}
	for _, traffic := range []bool{false, true} {
		if traffic {
			w.talk(0, 1, 20*time.Millisecond)
		}
		for _, d := range delays {
			w.both(0, 1, lab.Change{Delay: &d})
			w.shows(0, 1, 2*d)
			what, limit := "idle", 3500*time.Millisecond
			if traffic {
				what, limit = "with traffic", max(time.Second, 7*2*d)
			}
			within(t, fmt.Sprintf("a cut at %v, %s, shows", 2*d, what), limit, cut)
		}
	}
}
