package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/link"
)

// Trains find out what paths carry: see measure.Search for what is sent when, and
// overlay.Train for what is said about it. They leave by the socket of the probes,
// so that each car has a stamp of its own at the other end, beside the frames and not
// through the shaper; --uplink bounds their rate.

const (
	// capacityFresh is how long a measured capacity is good for.
	capacityFresh = 10 * time.Minute
	// What trains may take that no person asked for: bytes a second, and at once.
	trainRate, trainBurst = 640, 1_200_000
	trainGuess            = 300_000 // bytes of one measurement, most often
	// trainTries is how often something is said to the other agent that isn't
	// answered, trainPatience how long one that is busy is asked again.
	trainTries    = 4
	trainPatience = 10 * time.Second
	// maxWanted bounds the peers whose capacity decisions wait for; for more they
	// have to ask again.
	maxWanted = 16
)

var (
	errNotDirect = errors.New("no datagrams pass directly: trains need a path of their own")
	errTrainBusy = errors.New("the other agent takes no more trains now")
	errNoAnswer  = errors.New("no answer about trains: an older farlan, or the path loses much")
	errUntrue    = errors.New("its report can't be true")
	errNothing   = errors.New("too little came to tell")
)

// trains is what an agent has of its own measurements and others'.
type trains struct {
	running chan struct{} // holds a token while this agent measures
	wanted  chan *peer    // whose capacity decisions wait for
	sent    atomic.Uint64 // bytes of IP packets
	granted chan struct{} // holds a token when a train was let in

	mu       sync.Mutex // guards what follows, and peers' credits
	arrivals *measure.Arrivals
	batch    *link.Batch // of cars; nil until the first train
	id       uint32      // of the train that leaves, if answers isn't nil
	to       *peer
	answers  chan overlay.Train
}

func newTrains() *trains {
	return &trains{running: make(chan struct{}, 1), wanted: make(chan *peer, maxWanted), granted: make(chan struct{}, 1), arrivals: measure.NewArrivals()}
}

// A capacity is the result of a measurement.
type capacity struct {
	measure.Found
	at   overlay.Instant
	took time.Duration
}

// peerTrains is what trains have shown of a peer.
type peerTrains struct {
	credit *measure.Credit // what it may still send here; node.trains.mu guards it

	// peer.mu guards these.
	out    capacity        // at is 0: unknown
	in     measure.Arrival // its newest train that came here
	inAt   overlay.Instant
	wanted bool
}

// runTrains measures what decisions wait for, within a budget, until ctx ends.
func (n *node) runTrains(ctx context.Context) error {
	return n.grantWishes(ctx, func(p *peer) (capacity, error) { return n.measureCapacity(ctx, p, 0) })
}

// grantWishes measures what is wanted, as long as the budget allows it.
func (n *node) grantWishes(ctx context.Context, measure func(*peer) (capacity, error)) error {
	budget := newTrainBudget()
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-n.trains.wanted:
			p.mu.Lock()
			p.trains.wanted = false
			p.mu.Unlock()
			if now := n.now(); !p.wantsTrain(now) || !budget.allows(now) {
				continue
			}
			c, err := measure(p)
			budget.spent(n.now(), c.Bytes)
			n.log.Debug("capacity measured", "peer", p.id, "bytes", c.Bytes, "rate", c.Rate, "error", err)
		}
	}
}

// A trainBudget is what is left for measurements that no person asked for.
type trainBudget overlay.Bucket

func newTrainBudget() *trainBudget {
	b := overlay.NewBucket(trainRate, trainBurst)
	return (*trainBudget)(&b)
}

// allows says whether there is enough for a measurement, if it is as most are.
func (b *trainBudget) allows(now overlay.Instant) bool {
	return (*overlay.Bucket)(b).Wait(now, trainGuess) == 0
}

// spent takes what a measurement sent, though it be more than there was: then the next
// one has to wait for that, too.
func (b *trainBudget) spent(now overlay.Instant, bytes int) {
	(*overlay.Bucket)(b).Take(now, int64(bytes))
}

// wantCapacity says that a decision waits for what the path to a peer carries: it
// will be measured soon, if it isn't known and the budget allows it. It never
// blocks, and may be called from anywhere and often.
func (n *node) wantCapacity(p *peer) {
	if !p.wantsTrain(n.now()) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trains.wanted {
		return
	}
	select {
	case n.trains.wanted <- p:
		p.trains.wanted = true
	default:
	}
}

// wantsTrain says whether the path's capacity is unknown, old, or only a lower bound.
func (p *peer) wantsTrain(now overlay.Instant) bool {
	v := p.pair(now)
	return p.byPort() && (v.CapacitySource == measure.Unknown || v.CapacityBound || now.Sub(v.CapacityAt) > capacityFresh)
}

// measureCapacity measures what the path to a peer carries, at no more than most
// bits of IP packets a second (0: as --uplink says), and notes it. One measurement
// runs at a time; the others wait. It takes some round trips. Bytes is right also if
// it fails.
func (n *node) measureCapacity(ctx context.Context, p *peer, most int64) (capacity, error) {
	select {
	case n.trains.running <- struct{}{}:
		defer func() { <-n.trains.running }()
	case <-ctx.Done():
		return capacity{}, ctx.Err()
	}
	out := p.out.Load()
	if out == nil || !out.byPort() {
		return capacity{}, errNotDirect
	}
	if up := n.uplinkRate(); up > 0 && (most <= 0 || up < most) {
		most = up
	}
	d := &departure{
		n: n, p: p, out: out, answers: make(chan overlay.Train, trainTries),
		send: n.sender(func(p *link.Port) *link.Writer { return p.Probe.Writer() }),
	}
	for i := range d.cars {
		d.cars[i] = n.sender(func(p *link.Port) *link.Writer { return p.Train.Writer() })
	}
	start := n.now()
	search := measure.NewSearch(out.size+out.around, most)
	err := d.run(ctx, search)
	found, ok := search.Result()
	found.Bytes = d.bytes
	n.trains.sent.Add(uint64(d.bytes))
	c := capacity{Found: found, at: n.now(), took: n.now().Sub(start)}
	if err != nil || !ok {
		if err == nil {
			err = errNothing
		}
		return c, err
	}
	p.mu.Lock()
	p.trains.out = c
	p.mu.Unlock()
	return c, nil
}

// uplinkRate is what --uplink lets trains take, 0 if nothing was said.
func (n *node) uplinkRate() int64 { return n.cfg.Uplink.Up.BitsPerSecond() * shapedPercent / 100 }

// A departure is a measurement under way.
type departure struct {
	n       *node
	p       *peer
	out     *outbound
	send    sendFunc    // what is said
	cars    [2]sendFunc // by each thread
	answers chan overlay.Train
	bytes   int // of IP packets sent
}

// run sends the trains of a search.
func (d *departure) run(ctx context.Context, search *measure.Search) error {
	defer d.await(nil, 0)
	for {
		plan, ok := search.Next()
		if !ok {
			return nil
		}
		id := rand.Uint32() //nolint:gosec // it only tells trains of one peer apart
		d.await(d.answers, id)
		if err := d.ask(ctx, id, plan); err != nil {
			return err
		}
		found, err := d.train(ctx, id, plan)
		if err != nil {
			return err
		}
		search.Took(found)
		d.n.log.Debug("train", "peer", d.p.id, "cars", plan.Cars, "came", found.Cars, "pace", plan.Pace, "sent", found.In,
			"rate", found.Rate, "queued", found.Queued, "windows", found.Windows, "burst", found.Burst, "low", found.Low, "high", found.High, "shared", found.Shared)
	}
}

// train sends a train and returns what it found. What is lost of it proves nothing of the
// path: it queues on purpose.
func (d *departure) train(ctx context.Context, id uint32, plan measure.TrainPlan) (found measure.Arrival, err error) {
	d.p.excuse(d.n.now(), plan.Cars)
	came := plan.Cars // if nobody tells, what is lost is lost as anything else
	defer func() { d.p.arrived(d.n.now(), came) }()
	d.leave(id, plan)
	report, err := d.said(ctx, overlay.Train{Verb: overlay.TrainEnd, ID: id}, overlay.TrainReport)
	if err != nil {
		return found, err
	}
	found, ok := measure.Reported(plan, report)
	if !ok {
		d.n.drops.add(dropTrain)
		return found, errUntrue
	}
	came = found.Cars
	return found, nil
}

// await lets answers about a train come.
func (d *departure) await(answers chan overlay.Train, id uint32) {
	t := d.n.trains
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answers, t.id, t.to = answers, id, d.p
}

// ask asks until the train may go.
func (d *departure) ask(ctx context.Context, id uint32, plan measure.TrainPlan) error {
	ask := overlay.Train{Verb: overlay.TrainAsk, ID: id, Cars: uint16(plan.Cars), Size: uint16(plan.Size)}
	for patience := d.n.now().Add(trainPatience); ; {
		grant, err := d.said(ctx, ask, overlay.TrainGrant)
		if err != nil || grant.Wait == 0 {
			return err
		}
		wait := time.Duration(grant.Wait) * time.Millisecond
		if patience.Before(d.n.now().Add(wait)) {
			return errTrainBusy
		}
		if err := sleep(ctx, wait+time.Duration(rand.Int64N(int64(wait/2)+1))); err != nil {
			return err
		}
	}
}

// said says something until it is answered.
func (d *departure) said(ctx context.Context, t overlay.Train, answer overlay.TrainVerb) (overlay.Train, error) {
	d.p.mu.Lock()
	srtt, _, _ := d.p.path.Smoothed()
	d.p.mu.Unlock()
	for try := range trainTries {
		d.item(t)
		late := time.NewTimer(2*srtt + 150*time.Millisecond<<try)
		for waiting := true; waiting; {
			select {
			case a := <-d.answers:
				if a.Verb == answer && a.ID == t.ID {
					late.Stop()
					return a, nil
				}
			case <-late.C:
				waiting = false
			case <-ctx.Done():
				late.Stop()
				return overlay.Train{}, ctx.Err()
			}
		}
	}
	return overlay.Train{}, errNoAnswer
}

// item sends an item of a train in a datagram of its own.
func (d *departure) item(t overlay.Train) {
	b := overlay.AppendTrain(make([]byte, overlay.HeaderLen, 128), t)
	if b = d.out.session.Seal(overlay.KindProbe, 0, b); b != nil {
		d.bytes += len(b) + d.out.around
		_ = d.send(d.out.way.Addr, b, len(b))
	}
}

// sleep waits.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
