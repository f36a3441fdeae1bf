package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// say seals an item for the far end of the mirror's session and lets it arrive there.
func (m *mirror) say(t *testing.T, trains ...overlay.Train) {
	t.Helper()
	in := newInbound(m.n, 0)
	in.now, in.view, in.writer, in.from = m.n.now(), m.n.view.Load(), m.n.sockets[0].Probe.Writer(), m.peer.out.Load().way.Addr
	for _, train := range trains {
		b := overlay.AppendTrain(make([]byte, overlay.HeaderLen, 200), train)
		in.datagram(m.peer.out.Load().session.Seal(overlay.KindProbe, 0, b), 0)
	}
	in.note(0)
	in.flush()
}

// What a member says of trains that aren't there, or asks for what can't be, is
// counted and changes nothing.
func TestHostileTrains(t *testing.T) {
	m := newMirror(t)
	hostile := []overlay.Train{
		{Verb: overlay.TrainAsk, ID: 1},                                         // no car
		{Verb: overlay.TrainAsk, ID: 1, Cars: math.MaxUint16, Size: 1500},       // too many
		{Verb: overlay.TrainAsk, ID: 1, Cars: 10, Size: math.MaxUint16},         // too long
		{Verb: overlay.TrainCar, ID: 1, Sent: math.MinInt64},                    // of no train, beside its socket
		{Verb: overlay.TrainEnd, ID: 1},                                         // of no train
		{Verb: overlay.TrainGrant, ID: 1},                                       // nobody asked
		{Verb: overlay.TrainReport, ID: 1, Rate: math.MaxInt64, Low: -1},        // nobody asked
		{Verb: overlay.TrainReport, ID: 0, Cars: 5, Windows: 5, Rate: 1, In: 1}, // the zero id is none either
	}
	m.say(t, hostile...)
	if got := m.n.drops[dropTrain].Load(); got != uint64(len(hostile)) {
		t.Errorf("%d of %d are counted", got, len(hostile))
	}
	if v := m.peer.pair(m.n.now()); v.CapacitySource != measure.Unknown {
		t.Errorf("they made %+v", v)
	}
}

// A measurement ends when nobody answers, when there is no direct path, and when its
// caller has enough; the next one may go on.
func TestTrainWithoutAnswer(t *testing.T) {
	m := newMirror(t)
	start := time.Now()
	c, err := m.n.measureCapacity(t.Context(), m.peer, 0)
	if !errors.Is(err, errNoAnswer) || c.Rate != 0 || c.Bytes > 1000 {
		t.Errorf("nobody answers: %+v, %v", c, err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := m.n.measureCapacity(ctx, m.peer, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("its caller has gone: %v", err)
	}
	m.n.trains.mu.Lock()
	if m.n.trains.answers != nil {
		t.Error("answers are awaited still")
	}
	m.n.trains.mu.Unlock()
	out := *m.peer.out.Load()
	out.relay = m.peer
	m.peer.out.Store(&out)
	if _, err := m.n.measureCapacity(t.Context(), m.peer, 0); !errors.Is(err, errNotDirect) {
		t.Errorf("by way of another agent: %v", err)
	}
}

// A decision's wish is kept once, and only while the capacity isn't known.
func TestWantCapacity(t *testing.T) {
	m := newMirror(t)
	for range 3 {
		m.n.wantCapacity(m.peer)
	}
	if n := len(m.n.trains.wanted); n != 1 {
		t.Errorf("%d wishes", n)
	}
	<-m.n.trains.wanted
	now := m.n.now()
	m.peer.trains = peerTrains{out: capacity{Found: measure.Found{Rate: 1e6, High: 1e6, Limit: measure.ByPath}, at: now}}
	if m.n.wantCapacity(m.peer); len(m.n.trains.wanted) != 0 {
		t.Error("what is known is wanted")
	}
	m.peer.trains.out.Limit = measure.BySender
	if m.n.wantCapacity(m.peer); len(m.n.trains.wanted) != 1 {
		t.Error("a lower bound is enough")
	}
	<-m.n.trains.wanted
	m.peer.trains = peerTrains{out: capacity{Found: measure.Found{Rate: 1e6, Limit: measure.ByPath}, at: now.Add(-capacityFresh - time.Second)}}
	if m.n.wantCapacity(m.peer); len(m.n.trains.wanted) != 1 {
		t.Error("what is old is enough")
	}
}

// Two threads that take cars off a timetable take each one once, at its time; one that
// is a little late is due still, and after a stall all that are left wait.
func TestTimetable(t *testing.T) {
	plan := measure.TrainPlan{Cars: 400, Head: 40, Size: 1500, Pace: 120e6} // 100 µs each behind the head
	start := overlay.Instant(1e18)
	table := newTimetable(start, plan)
	var seen [400]atomic.Int32
	var threads sync.WaitGroup
	for range 2 {
		threads.Go(func() {
			for {
				car, due, ok := table.take(start)
				if !ok {
					return
				}
				seen[car].Add(1)
				if want := start.Add(time.Duration(max(car-39, 0)) * 100 * time.Microsecond); due != want {
					t.Errorf("car %d is due %v after the start", car, due.Sub(start))
				}
			}
		})
	}
	threads.Wait()
	for i := range seen {
		if n := seen[i].Load(); n != 1 {
			t.Errorf("car %d leaves %d times", i, n)
		}
	}
	table = newTimetable(start, measure.TrainPlan{Cars: 4, Size: 1500, Pace: 120e6})
	for car, c := range []struct{ now, due time.Duration }{
		{0, 0},
		{tardy, 100 * time.Microsecond}, // a little late
		{time.Second, 200 * time.Microsecond},
		{time.Second, time.Second + 100*time.Microsecond}, // after the stall
	} {
		if _, due, ok := table.take(start.Add(c.now)); !ok || due.Sub(start) != c.due {
			t.Errorf("car %d, taken after %v: due after %v, want %v", car, c.now, due.Sub(start), c.due)
		}
	}
}

// However many paths decisions wait for, trains that no person asked for keep to their
// budget: what they may send at once, its rate, and what one measurement took more than
// was thought.
func TestTrainBudget(t *testing.T) {
	for _, each := range []int{1000, 206_000, 292_000, 1_165_000} {
		budget, now, sent := newTrainBudget(), overlay.Instant(1e18), 0
		begin := now
		for now.Sub(begin) < 24*time.Hour {
			if budget.allows(now) {
				budget.spent(now, each)
				sent += each
			}
			now = now.Add(200 * time.Millisecond)
			most := trainBurst + int(trainRate*now.Sub(begin).Seconds()) + max(each-trainGuess, 0)
			if sent > most {
				t.Fatalf("by %d bytes each: %d bytes in %v, want %d at most", each, sent, now.Sub(begin), most)
			}
		}
		if least := trainRate * 24 * 3600 * 9 / 10; each > 1000 && sent < least {
			t.Errorf("by %d bytes each: %d bytes in a day, and %d may be sent", each, sent, least)
		}
	}
}

// The wishes of many peers that come all the time are granted within that budget, and
// those that aren't can be made again.
func TestWishesKeepToTheBudget(t *testing.T) {
	m := newMirror(t)
	var peers []*peer
	for i := range 50 {
		p := newPeer(overlay.AgentID{byte(i), 1}, i, m.n.now(), 1)
		p.path = measure.NewPath(m.n.now())
		p.out.Store(m.peer.out.Load())
		peers = append(peers, p)
	}
	const each = 292_000
	ctx, cancel := context.WithCancel(t.Context())
	begin, measured, wishes := time.Now(), make(chan *peer, 100), 0
	done := make(chan error)
	go func() {
		done <- m.n.grantWishes(ctx, func(p *peer) (capacity, error) {
			measured <- p
			return capacity{Found: measure.Found{Bytes: each}}, errNothing // it stays unknown
		})
	}()
	for wishes < 2000 {
		for _, p := range peers {
			m.n.wantCapacity(p)
			wishes++
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	sent, most := each*len(measured), trainBurst+int(trainRate*time.Since(begin).Seconds())
	if sent > most || len(measured) < 3 {
		t.Errorf("%d wishes: %d measurements sent %d bytes in %v, want %d at most", wishes, len(measured), sent, time.Since(begin), most)
	}
}

// flow makes the peer's delivery show a rate, of a flow that queues or not.
func (m *mirror) flow(mbit int64, queues bool) overlay.Instant {
	d := new(measure.Delivery)
	now, stamp, counter := m.n.now(), overlay.Instant(1e9), uint64(0)
	for range 40 {
		for range 100 {
			if !queues {
				d.AppLimited()
			}
			now = now.Add(time.Millisecond)
			counter++
			d.Sent(now, counter)
		}
		stamp = stamp.Add(100 * time.Millisecond)
		d.Acked(now, overlay.Ack{Highest: counter - 1, Count: counter, Bytes: counter * uint64(mbit*125), Stamp: stamp})
	}
	m.peer.delivery = d
	return now
}

// What frames show and what a train found make one figure: the newer one, unless it
// says less.
func TestRatesOfAPair(t *testing.T) {
	const mbit = 1e6
	train := func(rate int64, limit measure.Limit, at overlay.Instant) peerTrains {
		return peerTrains{out: capacity{Found: measure.Found{Rate: rate, Low: rate, High: math.MaxInt64, Limit: limit}, at: at}}
	}
	m := newMirror(t)
	m.peer.trains = train(50*mbit, measure.ByPath, m.n.now())
	check := func(name string, now overlay.Instant, rate int64, bound bool, source measure.Source) {
		t.Helper()
		v := m.peer.pair(now)
		if v.CapacitySource != source || v.CapacityBound != bound || math.Abs(float64(v.Capacity)/float64(rate)-1) > 0.05 || bound && v.CapacityHigh != 0 {
			t.Errorf("%s: %d, lower bound %v, by %v; %+v", name, v.Capacity, v.CapacityBound, v.CapacitySource, v)
		}
	}
	check("a train alone", m.n.now(), 50*mbit, false, measure.Train)
	check("an old train alone", m.n.now().Add(time.Hour), 50*mbit, false, measure.Train)
	now := m.flow(5, false)
	check("a trickle after the train", now, 50*mbit, false, measure.Train)
	now = m.flow(80, false)
	check("more than the train found", now, 80*mbit, true, measure.Passive)
	now = m.flow(20, true)
	check("a queue before a slower bottleneck", now, 20*mbit, false, measure.Passive)
	if v := m.peer.pair(now); v.Available < 19*mbit || v.Available > 21*mbit || v.AvailableBound {
		t.Errorf("available: %d, %v", v.Available, v.AvailableBound)
	}
	m.peer.trains = train(30*mbit, measure.ByTraffic, now.Add(time.Second))
	check("a train among others", now.Add(time.Second), 30*mbit, true, measure.Train)
}

// The access link is what several paths have in common.
func TestAccessOfTheAgent(t *testing.T) {
	m := newMirror(t)
	now := m.n.now()
	for i, rate := range []int64{20e6, 19.5e6, 5e6} {
		p := newPeer(overlay.AgentID{byte(i)}, i, now, 1)
		p.trains.out = capacity{Found: measure.Found{Rate: rate, Limit: measure.ByPath}, at: now}
		p.trains.in = measure.Arrival{Rate: 10 * rate}
		m.n.byIndex = append(m.n.byIndex, p)
	}
	if a := m.n.access(now); a != (measure.Access{Up: 19.5e6, Down: 195e6, UpSource: measure.Measured, DownSource: measure.Measured}) {
		t.Errorf("%+v", a)
	}
	m.n.cfg.Uplink.Up, m.n.cfg.Uplink.Down = 1e6, 8e6
	if a := m.n.access(now); a.UpSource != measure.Configured || a.DownSource != measure.Configured || a.Up <= 0 || a.Down != 8*a.Up {
		t.Errorf("%+v", a)
	}
}

// Two members that measure the path to a third at once both get an answer, and a
// refresh measures all of them, one after the other.
func TestTrainsTakeTurns(t *testing.T) {
	key := newKeyFile(t)
	a := startAgent(t, key, "a")
	b := startAgent(t, key, "b", "--bootstrap", a.bootstrap())
	c := startAgent(t, key, "c", "--bootstrap", a.bootstrap())
	eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(3), b.sees(3), c.sees(3)) })
	const rounds = 5
	failed := make(chan error, 2)
	for _, from := range []*process{a, c} {
		go func() {
			var errs []error
			for range rounds {
				var v benchView
				err := from.ask(&v, "bench", "b")
				if err == nil && (v.Mbit <= 0 || v.Bytes <= 0 || v.To != "b" || v.LimitedBy == "") {
					err = fmt.Errorf("%+v", v)
				}
				errs = append(errs, err)
			}
			failed <- errors.Join(errs...)
		}()
	}
	for range 2 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	out, err := a.client().request(t.Context(), http.MethodPost, "/refresh", url.Values{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var last refreshLine
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || len(lines) != 2 || last.Done != 2 || last.Of != 2 || last.Bench == nil {
		t.Errorf("refresh said %s, %v", out, err)
	}
}
