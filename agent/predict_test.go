package agent

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// A plain is agents that lie on one: their round trips are their distances.
type plain struct {
	at   map[overlay.AgentID][2]float64
	all  []overlay.AgentID
	rows map[overlay.AgentID][]discovery.Link
}

func newPlain(count, measured int) *plain {
	p := &plain{at: make(map[overlay.AgentID][2]float64), rows: make(map[overlay.AgentID][]discovery.Link)}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range count {
		var id overlay.AgentID
		binary.BigEndian.PutUint16(id[:], uint16(i+1))
		p.all = append(p.all, id)
		p.at[id] = [2]float64{r.Float64() * 200, r.Float64() * 200}
	}
	for i, a := range p.all {
		for _, j := range r.Perm(count)[:measured] {
			if b := p.all[j]; i != j {
				p.rows[a] = append(p.rows[a], discovery.Link{Peer: b, Pair: measure.Pair{
					RTT: p.rtt(a, b), RTTSource: measure.Measured,
					Capacity: int64(1e6 * (10 + p.at[a][0])), CapacitySource: measure.Train,
				}})
			}
		}
	}
	return p
}

func (p *plain) rtt(a, b overlay.AgentID) time.Duration {
	x, y := p.at[a], p.at[b]
	return time.Duration((5 + math.Hypot(x[0]-y[0], x[1]-y[1])) * float64(time.Millisecond))
}

// What nobody measured is guessed by what the others tell, however many come; of who
// has left nothing is.
func TestGuesser(t *testing.T) {
	const count = 3 * guesserSlots
	p, g := newPlain(count, 16), newGuesser()
	now := overlay.Instant(time.Hour)
	look := func(all []overlay.AgentID, times int) {
		for range times {
			now = now.Add(time.Second)
			g.look(now, all, func(id overlay.AgentID) []discovery.Link { return p.rows[id] })
		}
	}
	look(p.all[:guesserSlots], 10)
	look(p.all, 60)
	good, rates, of := 0, 0, 0
	for i, a := range p.all {
		b := p.all[(i+count/2)%count]
		of++
		if rtt, _, ok := g.RTT(a, b); ok && math.Abs(float64(rtt-p.rtt(a, b))) < 0.25*float64(p.rtt(a, b)) {
			good++
		}
		if rate, _, ok := g.Capacity(a, b); ok && math.Abs(float64(rate)/(1e6*(10+p.at[a][0]))-1) < 0.25 {
			rates++
		}
	}
	t.Logf("within a quarter: %d round trips and %d rates of %d", good, rates, of)
	if good < of*3/4 || rates < of*3/4 {
		t.Error("that is too few")
	}
	gone := p.all[5]
	g.forget(gone)
	if _, _, ok := g.RTT(gone, p.all[6]); ok {
		t.Error("guessed for who has left")
	}
	p.all[5] = overlay.AgentID{0xff}
	p.at[p.all[5]], p.rows[p.all[5]] = p.at[gone], p.rows[gone]
	g.changed(p.all[5])
	look(p.all, 30)
	if rtt, _, ok := g.RTT(p.all[5], p.all[6]); !ok || math.Abs(float64(rtt-p.rtt(p.all[5], p.all[6]))) > 0.5*float64(p.rtt(p.all[5], p.all[6])) {
		t.Errorf("for who came in its place: %v, %v, want %v", rtt, ok, p.rtt(p.all[5], p.all[6]))
	}
}

// Rows are read again before the model forgets them, though nothing is new.
func TestGuesserRemembers(t *testing.T) {
	p, g := newPlain(20, 12), newGuesser()
	now := overlay.Instant(time.Hour)
	for range 2400 {
		now = now.Add(time.Second)
		g.look(now, p.all, func(id overlay.AgentID) []discovery.Link { return p.rows[id] })
	}
	if _, _, ok := g.RTT(p.all[0], p.all[1]); !ok {
		t.Error("forgotten after 40 minutes")
	}
}
