package agent

import (
	"testing"
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// When nobody answers nothing is cut, for two seconds at most, and not as soon as the first one
// is heard again; when one alone is silent it is cut at once.
func TestStun(t *testing.T) {
	for name, c := range map[string]struct {
		others  int
		hears   time.Duration // another one is heard each tick, since then; 0: never
		silence time.Duration // the first one's
		cut     bool
	}{
		"one is silent":                    {others: 2, hears: 1, silence: time.Second, cut: true},
		"all are silent":                   {others: 2, silence: time.Second},
		"all are silent for long":          {others: 2, silence: 3 * time.Second, cut: true},
		"there is no other one":            {silence: time.Second, cut: true},
		"another one is heard":             {others: 2, hears: 900 * time.Millisecond, silence: time.Second},
		"another one is heard for a while": {others: 2, hears: 900 * time.Millisecond, silence: 1500 * time.Millisecond, cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t)
			n := m.n
			begin := n.now().Add(time.Hour)
			all := m.direct(begin, 1+c.others)
			p := all[0]
			for d := tick; d <= c.silence; d += tick {
				now := begin.Add(d)
				n.asks = overlay.NewBucket(askRate, askBurst)
				if c.hears != 0 && d >= c.hears {
					all[1].path.Heard(now)
				}
				n.mindSilence(now, p, p.out.Load(), measure.Cut)
				n.mindStun(now)
				if p.cut && !c.cut {
					t.Fatalf("it is cut after %v", d)
				}
			}
			if !p.cut && c.cut {
				t.Error("it isn't cut")
			}
			n.routing.broke, n.own.rows.At = true, 0
			n.reroute(begin.Add(c.silence))
			n.tellLinks(begin.Add(c.silence))
			if told := n.own.rows.At != 0; n.routing.broke == c.cut || told != c.cut {
				t.Errorf("routes are as they were: %v; links are told: %v", n.routing.broke, told)
			}
		})
	}
}
