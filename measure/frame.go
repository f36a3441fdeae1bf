package measure

import (
	"time"

	"farlan/overlay"
)

const (
	// frameEvery is how often frames are to tell the round trip where probes don't: as
	// often as those do when it seems to have changed.
	frameEvery = doubtEvery
	// framePatience is for how long one is waited for.
	framePatience = time.Second
)

// A frame is a datagram of frames whose acknowledgement tells a round trip.
type frame struct {
	counter uint64
	sent    overlay.Instant // 0: there is none
}

// Sent says that frames were sent, after which the session has sent so many datagrams.
func (p *Path) Sent(now overlay.Instant, sent uint64) {
	if now.Sub(p.sampled) < frameEvery || sent == 0 || p.frame.sent != 0 && now.Sub(p.frame.sent) < framePatience {
		return
	}
	p.frame = frame{sent - 1, now}
}

// Acked takes an acknowledgement of frames of this session that came at some time by the
// kernel's stamp. It tells a round trip if the newest that it acknowledges is one that was
// noted by Sent.
func (p *Path) Acked(at overlay.Instant, a overlay.Ack) Receipt {
	f, hold := p.frame, time.Duration(a.HoldMicros)*time.Microsecond
	if f.sent == 0 || a.Highest < f.counter {
		return Quiet
	}
	p.frame = frame{} // it won't be acknowledged again, or not by itself
	if a.Highest > f.counter || hold == 0 {
		return Quiet
	}
	rtt := at.Sub(f.sent) - hold
	if rtt < -stampError {
		return Odd
	}
	p.back.sample(at, Micros(at)-a.Sent)
	_, r := p.returned(at, f.sent, a.Sent-a.HoldMicros, rtt, 0)
	return r
}
