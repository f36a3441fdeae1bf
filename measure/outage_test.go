package measure

import (
	"math/rand/v2"
	"testing"
	"time"

	"farlan/overlay"
)

// A line is a direction of a path on which datagrams are sent, lost, and told of.
type line struct {
	l           losses
	r           *rand.Rand
	now         overlay.Instant
	sent, count uint64
	highest     uint64
	loses       float64 // which part, by chance
}

func newLine(loses float64) *line {
	n := &line{r: rand.New(rand.NewPCG(7, 8)), now: start, sent: 1, count: 1, loses: loses}
	n.l.told(n.now, 0, 1, 1)
	return n
}

// flow sends 50 datagrams a second for a while; those that arrive are told of at once.
func (n *line) flow(d time.Duration) {
	for end := n.now.Add(d); n.now < end; {
		n.now = n.now.Add(20 * time.Millisecond)
		if n.sent++; n.r.Float64() >= n.loses {
			n.highest, n.count = n.sent-1, n.count+1
			n.l.told(n.now, n.highest, n.count, n.sent)
		}
	}
}

// cut cuts the line for a while, which is noticed half a second later.
func (n *line) cut(d time.Duration) {
	for end, noticed := n.now.Add(d), n.now.Add(d/2); n.now < end; {
		n.now = n.now.Add(100 * time.Millisecond)
		if n.sent += 5; n.now > noticed {
			n.l.cut(n.now, n.sent)
		}
	}
}

// What was sent into a path that was cut is no loss once it is healed, however much that was,
// unless the path is cut often.
func TestOutage(t *testing.T) {
	for _, c := range []struct {
		name        string
		outages     int
		every       time.Duration
		most, least float64 // of the loss that is sure
	}{
		{"once", 1, 0, 0.001, 0},
		{"each half minute", 10, 30 * time.Second, 0.001, 0},
		{"each 5 s", 10, 5 * time.Second, 0.3, 0.05},
		{"twice, 5 s apart", 2, 5 * time.Second, 0.3, 0.002},
	} {
		n := newLine(0)
		n.flow(20 * time.Second)
		for range c.outages {
			n.cut(2 * time.Second)
			n.flow(max(c.every-2*time.Second, 100*time.Millisecond))
		}
		n.flow(time.Second)
		if lost, low, _, ok := n.l.rate(n.now); !ok || low > c.most || low < c.least {
			t.Errorf("cut %s: %.3f lost, at least %.3f", c.name, lost, low)
		}
	}
}

// What a path loses beside being cut counts, in the datagrams that weren't sent into the cut.
func TestOutageOfALossyPath(t *testing.T) {
	n := newLine(0.05)
	n.flow(40 * time.Second)
	n.cut(4 * time.Second)
	n.flow(20 * time.Second)
	if lost, low, high, _ := n.l.rate(n.now); low > 0.05 || high < 0.05 || high > 0.1 {
		t.Errorf("%.3f lost, %.3f to %.3f, want 0.05", lost, low, high)
	}
}

// A path that loses so much that it seems to be cut at times isn't better for that.
func TestLossIsNoOutage(t *testing.T) {
	n := newLine(0.6)
	for range 60 {
		n.flow(time.Second)
		n.l.cut(n.now, n.sent)
	}
	if lost, low, high, _ := n.l.rate(n.now); low > 0.6 || high < 0.6 {
		t.Errorf("%.3f lost, %.3f to %.3f, want 0.6", lost, low, high)
	}
}

// A stall that was taken for a cut, and a cut of a session that is over, change nothing.
func TestNoOutage(t *testing.T) {
	n := newLine(0)
	n.flow(10 * time.Second)
	n.sent += 100
	n.l.cut(n.now, n.sent)
	n.highest, n.count = n.sent-1, n.count+100
	n.l.told(n.now, n.highest, n.count, n.sent)
	if lost, _, _, _ := n.l.rate(n.now); lost != 0 {
		t.Errorf("%.3f lost after a stall", lost)
	}
	n.l.cut(n.now, n.sent)
	n.l.cut(n.now, n.sent) // nothing of it is missing
	n.l.restart()
	n.l.told(n.now, 0, 1, 1)
	n.l.told(n.now, 9, 6, 10)
	n.l.told(n.now, 19, 12, 20)
	if lost, _, _, _ := n.l.rate(n.now); lost == 0 {
		t.Error("a new session's losses were taken for the old one's outage")
	}
}
