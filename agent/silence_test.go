package agent

import (
	"testing"
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// direct gives the node members that are reached directly and were heard from at now.
func (m *mirror) direct(now overlay.Instant, count int) (all []*peer) {
	out := m.peer.out.Load()
	for i := range count {
		p := m.n.meet(now, overlay.AgentID{3, byte(i)})
		p.path, p.state = measure.NewPath(now), measure.Up
		p.out.Store(&outbound{session: out.session, way: out.way})
		all = append(all, p)
	}
	return all
}

// One member that is silent has ended, perhaps; all that are asked and don't answer are
// the way out. Who is too far away to have answered says nothing yet.
func TestDeaf(t *testing.T) {
	const rtt = 300 * time.Millisecond
	for name, c := range map[string]struct {
		silent, heard bool // the first member is; another one was heard from
		far           bool // the second one
		after         time.Duration
		want          bool
	}{
		"nobody is silent":      {after: time.Second},
		"too soon":              {silent: true, after: deafAfter - 1},
		"all are silent":        {silent: true, after: deafAfter, want: true},
		"another one answers":   {silent: true, heard: true, after: deafAfter},
		"another one is far":    {silent: true, far: true, after: deafAfter},
		"far, but not that far": {silent: true, far: true, after: 2 * rtt, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t)
			begin := m.n.now()
			all := m.direct(begin, 3)
			if c.far {
				q := all[1].path.Probe(begin.Add(-rtt))
				all[1].path.Receive(begin, overlay.Probe{Echo: q.Number}, true)
			}
			asked := begin.Add(time.Millisecond)
			if c.silent {
				all[0].asks, all[0].silent = 1, asked
			}
			if c.heard {
				all[2].path.Heard(asked.Add(deafAfter / 2))
			}
			if got := m.n.deaf(asked.Add(c.after)); got != c.want {
				t.Errorf("deaf: %v", got)
			}
		})
	}
}

// When one falls silent a few others are asked, and not again while it is.
func TestSilenceIsCompared(t *testing.T) {
	m := newMirror(t)
	now := m.n.now()
	all := m.direct(now, 5)
	for range 4 {
		now = now.Add(tick)
		m.n.mindSilence(now, all[0], all[0].out.Load(), measure.Ask)
	}
	asked := 0
	for _, p := range all[1:] {
		if !p.path.Due(now, measure.ProbeInterval, true) {
			asked++
		}
	}
	if asked != compared || all[0].asks != 4 || all[0].cut {
		t.Errorf("%d others were asked; %d times the one that is silent; cut: %v", asked, all[0].asks, all[0].cut)
	}
	m.n.mindSilence(now.Add(tick), all[0], all[0].out.Load(), measure.Cut)
	if !all[0].cut {
		t.Error("one that answers nothing isn't cut")
	}
	m.n.mindSilence(now.Add(2*tick), all[0], all[0].out.Load(), measure.Answering)
	if all[0].cut || all[0].asks != 0 {
		t.Error("one that answers is cut")
	}
}
