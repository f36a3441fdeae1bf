package measure

import (
	"math"
	"time"

	"farlan/overlay"
)

const (
	// Outages of a path are half forgotten after outageHalf. One that comes when more than
	// outagesFew are remembered counts as loss: so one each 25 s never does, and the second
	// within 15 s does.
	outageHalf = 15 * time.Second
	outagesFew = 0.5
	// byChance is how likely it may be at most that as many datagrams as an outage took
	// were lost by chance: on a path that loses half of all, ten must be.
	byChance = 1e-3
)

// An outage is a time in which nothing that was sent arrived: the path was cut, and is as good
// as before when it is healed. So what it took isn't loss, unless outages come often.
type outage struct {
	to     uint64          // counter that follows the newest datagram of this session that is in it
	began  overlay.Instant // when it was noticed
	often  float64         // how many are remembered
	counts bool            // as loss
}

// cut says that nothing arrives now; sent have been of the session. It wants to be called
// again as long as that is so.
func (l *losses) cut(now overlay.Instant, sent uint64) {
	o := &l.outage
	if sent <= l.due {
		return // all of it is told of
	}
	if o.to <= l.due { // nothing of this one is told yet
		o.often *= math.Exp2(-now.Sub(o.began).Seconds() / outageHalf.Seconds())
		o.counts = o.often > outagesFew
		o.often, o.began = o.often+1, now
	}
	o.to = max(o.to, sent)
}

// excusesOutage says whether so many that were lost in an outage aren't losses.
func (l *losses) excusesOutage(now overlay.Instant, lost int) bool {
	before, _, _, _ := l.rate(now)
	return lost > 0 && !l.outage.counts && math.Pow(before, float64(lost)) < byChance
}

// Cut says that what is sent doesn't arrive now: the other end is silent, whatever it is
// asked. What was sent since it fell silent, and is sent until it is heard again, isn't taken
// for lost by chance when it turns out to be lost, unless the path is cut often: so a path
// that is healed is known to be as good as before. sent have been of the session. It wants to
// be called again as long as the path is cut, ten times a second.
func (p *Path) Cut(now overlay.Instant, sent uint64) { p.losses.cut(now, sent) }
