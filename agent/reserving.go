package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	mathrand "math/rand/v2"
	"net/netip"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi"
)

// The broker of package reserve decides what is reserved, for whom, and by whom; here it is run:
// what it wants of drivers goes to one worker each (reserveworker.go), what it writes to its
// journal (reservejournal.go), which frames go by what it has to the frame path
// (reserveways.go), and what this agent's stations send to it (reservesamples.go). Messages go
// to the other agents' brokers by the session with them, so each knows who asks.

const (
	// uplinkEgress is what the broker calls this agent's ordinary way out.
	uplinkEgress = "uplink"
	// A peer's messages about reservations: it repeats what isn't answered.
	reserveRate, reserveBurst = 50, 400
	// leaveTime is how long a leaving agent waits for what it holds to be given back.
	leaveTime = 3 * time.Second
)

// reserving is what the loop needs to reserve.
type reserving struct {
	broker   *reserve.Broker // nil: nothing is reserved here
	drivers  map[string]*reserveWorker
	problems []reserveProblem // with drivers that were wanted
	journal  *reserveJournal
	close    []func()
	dirty    bool            // the broker was told something
	next     overlay.Instant // when it wants to be called, 0 never
	probes   map[reserve.ID]*reserveProbe
	ways     []reserve.Way // that there are
	undone   bool          // some of them couldn't be taken
	said     map[overlay.AgentID]*overlay.Bucket
	rate     reserve.Rate // of the uplink, as the broker has it
	circuits map[overlay.AgentID]circuitHop
	ends     *circuitEnds // nil: there is no driver for circuits
	nsi      *nsi.Driver
	longest  time.Duration               // a lease of circuits; 0: as the broker has it
	far      map[reserve.ID]reserve.Mark // of the other ends of circuits that this agent is on, as far as known
	attached overlay.Instant             // when the other ends were told last

	wrap func(reserve.Driver) reserve.Driver // set by tests
}

// A circuitHop is the way to another agent by a circuit that could be had.
type circuitHop struct {
	Device   string       // where it begins
	Capacity reserve.Rate // of that
}

// A reserveProblem is why a driver isn't there that was wanted.
type reserveProblem struct{ driver, text, fix string }

// startReserving opens the drivers, reads the journal, and starts what works beside the loop,
// until ctx ends: that outlives the loop.
func (n *node) startReserving(start func(context.Context, string, func(context.Context) error), ctx context.Context) {
	r := &n.reserving
	if len(n.cfg.Reserve.Drivers) == 0 {
		return
	}
	opened := n.openDrivers(ctx)
	journal, file := n.openJournal()
	r.journal = file
	r.probes, r.said = make(map[reserve.ID]*reserveProbe), make(map[overlay.AgentID]*overlay.Bucket)
	r.drivers = make(map[string]*reserveWorker, len(opened))
	caps := make([]reserve.Caps, 0, len(opened))
	for _, d := range opened {
		if r.wrap != nil {
			d = r.wrap(d)
		}
		c := d.Caps()
		caps = append(caps, c)
		w := newReserveWorker(n, c, d)
		r.drivers[c.Name] = w
		start(ctx, "driver "+c.Name, w.run)
		start(ctx, "events of driver "+c.Name, w.events)
		if s, ok := d.(reserve.Server); ok {
			start(ctx, "server of driver "+c.Name, func(ctx context.Context) error { w.log("server", s.Serve(ctx)); return nil })
		}
	}
	start(ctx, "journal", file.run)
	var seed [16]byte
	_, _ = rand.Read(seed[:]) // doesn't fail
	p := &n.cfg.Reserve
	r.broker = reserve.NewBroker(n.now(), reserve.Config{
		Self: n.self, Drivers: caps, Quotas: p.Quotas, Automatic: p.Automatic, Circuits: p.Circuits, Cap: p.Cap, LongestCircuit: r.longest,
		Hop: n.reserveHop, Most: maxReserved, Serves: n.mayReserve, NoTransit: n.relaysNothing(),
		Rand: mathrand.New(mathrand.NewPCG(binary.NativeEndian.Uint64(seed[:]), binary.NativeEndian.Uint64(seed[8:]))),
	}, journal)
	n.startCircuits(start, ctx)
	r.dirty = true
}

// mayReserve says whether a peer may reserve at this agent.
func (n *node) mayReserve(id overlay.AgentID) bool {
	p := n.peers[id]
	return p != nil && p.rights.Has(discovery.RightReserve)
}

// reserveHop returns how this agent sends to another one: by its own way out, if nobody is
// between them, or by a circuit that there would be.
func (n *node) reserveHop(to overlay.AgentID, k reserve.Kind) (h reserve.Hop, ok bool) {
	if c, there := n.reserving.circuits[to]; there && k == reserve.Circuit {
		via := netip.AddrPortFrom(netip.IPv6LinkLocalAllNodes().WithZone(c.Device), 1)
		return reserve.Hop{Egress: c.Device, Via: via}, true
	}
	p := n.peers[to]
	if p == nil {
		return h, false
	}
	out := p.out.Load()
	if out == nil || !out.byPort() {
		return h, false
	}
	return reserve.Hop{Egress: uplinkEgress, Via: out.way.Addr}, true
}

// mindReserving tells the broker what it should know each second.
func (n *node) mindReserving(now overlay.Instant) {
	r := &n.reserving
	if r.broker == nil {
		return
	}
	n.tellUplink(now)
	r.broker.Observe(now, n.samples(now))
	r.dirty = true
	if r.undone {
		n.useWays(now)
	}
	n.endTries(now)
	n.mindCircuits(now)
}

// tellUplink tells what this agent's way out carries. What is measured counts only as far as it
// differs: each change of a rate may end reservations, and what is measured beside them is
// somewhat less.
func (n *node) tellUplink(now overlay.Instant) {
	r := &n.reserving
	a := n.access(now)
	rate := reserve.Rate(a.Up / 1000)
	if a.UpSource == measure.Measured && rate > r.rate*3/4 && rate < r.rate*5/4 || a.UpSource == measure.Unknown {
		return
	}
	if rate == r.rate {
		return
	}
	r.rate = rate
	r.broker.SetCapacity(uplinkEgress, rate)
	for _, w := range r.drivers {
		w.setRate("", rate)
	}
}

// turnReserving has the broker do what is due, and does what it says.
func (n *node) turnReserving(now overlay.Instant) {
	r := &n.reserving
	if r.broker == nil {
		return
	}
	n.takeProbes(now)
	if !r.dirty && (r.next == 0 || now.Before(r.next)) {
		return
	}
	r.dirty = false
	r.next = r.broker.Tick(now)
	n.doReserving(now, r.broker.Flush())
}

// doReserving does what the broker says, in the order of its parts.
func (n *node) doReserving(now overlay.Instant, out reserve.Output) {
	r := &n.reserving
	if out.Changed {
		r.ways = out.Ways
		n.useWays(now)
	}
	if len(out.Journal) > 0 {
		r.journal.write(out.Journal, out.Entry)
	}
	if r.journal.long() {
		r.journal.replace(r.broker.Snapshot())
	}
	for _, c := range out.Calls {
		if w := r.drivers[c.Driver]; w != nil {
			w.call(c)
		}
	}
	for _, m := range out.Messages {
		n.sendReserve(now, m.To, m.Bytes)
	}
	for _, p := range out.Probes {
		n.tryWay(now, p)
	}
}

// sendReserve sends a message about reservations to a peer. It gets lost if there is no session,
// which is opened then: what isn't answered is repeated.
func (n *node) sendReserve(now overlay.Instant, to overlay.AgentID, msg []byte) {
	p := n.peers[to]
	if p == nil {
		return
	}
	out := p.out.Load()
	if out == nil {
		if p.onDemand.Load() && p.state != measure.Gone {
			n.demand(now, p)
		}
		return
	}
	b := overlay.AppendReserve(make([]byte, overlay.HeaderLen, overlay.HeaderLen+len(msg)+64), msg)
	if d := out.session.Seal(overlay.KindProbe, 0, b); d != nil {
		_ = n.post(n.ask, out, d, len(d))
	}
}

// Reserve takes what a peer says of reservations; overlay.Items.
func (in *inbound) Reserve(msg []byte) {
	n, from := in.n, in.at.peer
	msg = append([]byte(nil), msg...)
	if !n.mail.offerLow(func(now overlay.Instant) { n.heardReserve(now, from, msg) }) {
		n.drops.add(dropBusy)
	}
}

func (n *node) heardReserve(now overlay.Instant, from *peer, msg []byte) {
	r := &n.reserving
	if r.broker == nil {
		return
	}
	said := r.said[from.id]
	if said == nil {
		said = new(overlay.NewBucket(reserveRate, reserveBurst))
		r.said[from.id] = said
	}
	if !said.Allow(now) {
		n.drops.add(dropBusy)
		return
	}
	if isAttachment(msg) {
		if r.ends == nil {
			return
		}
		if err := r.ends.attach(now, from.id, msg); err != nil {
			n.drops.add(dropMalformed)
			n.log.Debug("circuit refused", "error", err)
		}
		return
	}
	if err := r.broker.Receive(now, from.id, msg); err != nil {
		n.drops.add(dropMalformed)
		return
	}
	r.dirty = true
}

// requestReservation asks for a reservation on an owner's word.
func (n *node) requestReservation(now overlay.Instant, q reserve.Request) (id [16]byte, err error) {
	if id, err = n.reserving.broker.Request(now, q); err == nil {
		n.reserving.dirty = true
	}
	return id, err
}

// releaseReservation gives one back that this agent coordinates.
func (n *node) releaseReservation(now overlay.Instant, id [16]byte) error {
	n.reserving.dirty = true
	return n.reserving.broker.Release(now, id)
}

// leaveReserving gives back what this agent holds, and what others hold for it, before the agent
// says goodbye: it waits for that a while.
func (n *node) leaveReserving(now overlay.Instant) {
	r := &n.reserving
	if r.broker == nil {
		return
	}
	r.broker.Leave(now)
	until := now.Add(leaveTime)
	for !r.broker.Idle() && now.Before(until) {
		r.dirty = true
		n.turnReserving(now)
		select {
		case <-n.mail.ready:
			for _, e := range n.mail.take() {
				e(n.now())
			}
		case <-time.After(tick / 10):
		}
		now = n.now()
	}
	n.turnReserving(now)
}
