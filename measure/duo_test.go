package measure

import (
	"math/rand/v2"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	start = overlay.Instant(time.Hour)
	ms    = time.Millisecond
)

// A duo is two agents that measure the path between them, simulated: each looks every
// 100 ms whether a probe is due, and answers at once. Each has a clock of its own.
type duo struct {
	r       *rand.Rand
	now     overlay.Instant // the simulation's
	every   time.Duration
	ends    [2]*end
	delay   [2]func() time.Duration // from each end; negative: it is lost
	air     []flying
	answers bool                            // the second end answers each frame
	seen    func(at int, rtt time.Duration) // a sample
}

// An end is one of the agents.
type end struct {
	path    *Path
	ahead   time.Duration // of its clock
	drift   float64       // of its clock, part of time
	look    overlay.Instant
	sent    uint64 // datagrams, of which frames were some
	probes  int
	recv    Receiver
	frames  overlay.Instant // when some were sent last
	odd     int
	hold    time.Duration // how long it has a probe
	mute    bool          // it sends nothing
	silence Silence       // of the other end
}

type flying struct {
	at    overlay.Instant
	to    int
	count uint64
	kind  byte // frame, probe, reply
	q     overlay.Probe
}

const (
	aFrame = iota
	aProbe
	aReply
)

// steady returns a delay that is always the same.
func steady(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

// jittery returns one within d ± j, of which a part is lost.
func (d *duo) jittery(delay, j time.Duration, loss float64) func() time.Duration {
	return func() time.Duration {
		if d.r.Float64() < loss {
			return -1
		}
		return delay - j + time.Duration(d.r.Int64N(int64(2*j)+1))
	}
}

func newDuo(seed uint64, forth, back time.Duration) *duo {
	d := &duo{r: rand.New(rand.NewPCG(seed*0x9e3779b97f4a7c15, 1)), now: start, every: ProbeInterval, delay: [2]func() time.Duration{steady(forth), steady(back)}}
	for i := range d.ends {
		d.ends[i] = &end{look: start.Add(time.Duration(d.r.Int64N(int64(lookEvery)))), ahead: time.Duration(i) * 17 * time.Hour}
		d.ends[i].path = NewPath(d.clock(i))
	}
	return d
}

// clock reads an end's clock.
func (d *duo) clock(i int) overlay.Instant {
	e := d.ends[i]
	return d.now.Add(e.ahead + time.Duration(float64(d.now.Sub(start))*e.drift))
}

func (d *duo) send(from int, kind byte, q overlay.Probe) {
	e := d.ends[from]
	e.sent++
	if kind != aFrame {
		e.probes++
		highest, count := e.recv.Counts()
		q.Highest, q.Count = uint32(highest), uint32(count)
	}
	if wait := d.delay[from](); wait >= 0 && !e.mute {
		d.air = append(d.air, flying{d.now.Add(wait), 1 - from, e.sent - 1, kind, q})
	}
}

func (d *duo) receive(f flying) {
	e := d.ends[f.to]
	at := d.clock(f.to)
	e.recv.Counted(f.count, 1, 100, at)
	if f.kind == aFrame {
		e.path.Heard(at)
		if d.answers && f.to == 1 {
			e.frames = at
			d.send(1, aFrame, overlay.Probe{})
		}
		return
	}
	if f.q.Count > 0 && !e.path.ToldLow(at, f.q, e.sent) {
		e.odd++
	}
	rtt, receipt := e.path.Receive(at, f.q, f.kind == aReply)
	if receipt == Odd {
		e.odd++
	} else if receipt == Sampled && d.seen != nil {
		d.seen(f.to, rtt)
	}
	if f.kind == aProbe {
		d.now = d.now.Add(e.hold)
		d.send(f.to, aReply, e.path.Answer(d.clock(f.to), f.q.Number, at))
	}
}

// run goes on until a time, and calls what else happens each 10 ms.
func (d *duo) run(until overlay.Instant, also func()) {
	for ; d.now.Before(until); d.now = d.now.Add(10 * ms) {
		for {
			next := -1
			for i, f := range d.air {
				if f.at <= d.now && (next < 0 || f.at < d.air[next].at) {
					next = i
				}
			}
			if next < 0 {
				break
			}
			f := d.air[next]
			d.air = slices.Delete(d.air, next, next+1)
			now := d.now
			d.now = f.at
			d.receive(f)
			d.now = max(now, d.now)
		}
		for i, e := range d.ends {
			if e.look > d.now {
				continue
			}
			e.look = e.look.Add(lookEvery)
			now := d.clock(i)
			e.silence = e.path.Silent(now, e.frames)
			if e.path.Due(now, d.every, i == 0) {
				d.send(i, aProbe, e.path.Probe(now))
			}
		}
		if also != nil {
			also()
		}
	}
}
