package measure

import (
	"testing"
	"time"

	"farlan/overlay"
)

// TestSilent: what is answered is not silent, whatever is sent and however late
// the answers come; a cut shows within a second, with traffic and without.
func TestSilent(t *testing.T) {
	const step = 100 * time.Millisecond
	for name, x := range map[string]struct {
		rtt, cut time.Duration // cut 0: never
		traffic  bool
	}{
		"idle":            {rtt: 20 * time.Millisecond},
		"traffic":         {rtt: 20 * time.Millisecond, traffic: true},
		"far":             {rtt: 600 * time.Millisecond, traffic: true},
		"cut":             {rtt: 20 * time.Millisecond, traffic: true, cut: 20 * time.Second},
		"cut while idle":  {rtt: 20 * time.Millisecond, cut: 20 * time.Second},
		"far, and is cut": {rtt: 300 * time.Millisecond, traffic: true, cut: 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			start := overlay.Instant(time.Hour)
			p := NewPath(start)
			type reply struct {
				at     overlay.Instant
				number uint32
			}
			var air []reply
			var sent overlay.Instant
			for now := start; now < start.Add(30*time.Second); now = now.Add(step) {
				for len(air) > 0 && air[0].at <= now {
					p.Receive(air[0].at, overlay.Probe{Echo: air[0].number}, true)
					air = air[1:]
				}
				alive := x.cut == 0 || now.Sub(start) < x.cut
				if now.Sub(start)%ProbeInterval == 0 {
					if n := p.Probe(now).Number; alive {
						air = append(air, reply{now.Add(x.rtt), n})
					}
				}
				if x.traffic {
					if sent = now; alive && now.Sub(start) > x.rtt {
						p.Heard(now)
					}
				}
				s := p.Silent(now, sent)
				if alive && s == Cut || alive && s == Ask && x.rtt < askPatience {
					t.Fatalf("%v: silence %d of a peer that answers", now.Sub(start), s)
				}
				if late := now.Sub(start) - x.cut; !alive && s != Cut && late >= 4*x.rtt+time.Second+ProbeInterval {
					t.Fatalf("%v after the cut: silence %d", late, s)
				} else if !alive && s == Cut {
					t.Logf("noticed after %v", late)
					return
				}
			}
			if x.cut != 0 {
				t.Fatal("a cut was not noticed")
			}
		})
	}
}

// A probe of the peer's says that it is there, not that what is sent to it arrives: it may
// have come by another way, and so may the reply have gone that it echoes. A reply to a
// probe says that.
func TestHeardByReply(t *testing.T) {
	p := NewPath(start)
	now := start.Add(time.Second)
	p.Receive(now, overlay.Probe{Number: 1, Sent: 7}, false)
	a := p.Answer(now, 1, now)
	p.Receive(now.Add(ms), overlay.Probe{Number: 2, Sent: 9, Echo: a.Number}, false)
	if at := p.LastHeard(); at != start {
		t.Errorf("heard %v after the start by probes", at.Sub(start))
	}
	q := p.Probe(now.Add(2 * ms))
	p.Receive(now.Add(3*ms), overlay.Probe{Number: 3, Sent: 11, Echo: q.Number}, true)
	if at := p.LastHeard(); at != now.Add(3*ms) {
		t.Errorf("heard %v after the start by a reply", at.Sub(start))
	}
}
