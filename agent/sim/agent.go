package sim

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/overlay"
)

// controlEvery is how often an agent looks after its connections and records.
const controlEvery = time.Second

// An agent is one of the simulation: the cores of a real one, and what in a real one is
// at the edge of them.
type agent struct {
	*Sim
	n     int32
	id    overlay.AgentID
	key   ed25519.PrivateKey
	life  uint64          // 0: it doesn't run
	awake overlay.Instant // it stands still until then
	lying overlay.Instant // it tells lies until then
	clock clock
	port  uint16 // of its address

	said [2][]saying // members and links

	store   *discovery.Store
	due     overlay.Instant // true time of the next call of its cores, 0 none
	control control
	own     own
	meshing meshing
	place   place
	places  [3]places // in trees, by which of these
	heard   map[heardOf]*overlay.Floods

	broadcasts uint64 // number of its last one
}

// A saying is a record that was published.
type saying struct {
	at      overlay.Instant
	version uint64
}

// own is what an agent has told of itself.
type own struct {
	member        uint16 // with which port, 0 not yet
	area          uint32 // and area
	memberVersion uint64
	rows          discovery.Telling
	rowsVersion   uint64
}

// A clock is wrong by some parts of a million, and by what it was set.
type clock struct {
	drift  int64 // 1 of 10^6
	offset time.Duration
}

// steady is an agent's clock that doesn't jump.
func (a *agent) steady() overlay.Instant {
	since := a.now.Sub(beginning)
	return a.now.Add(since / 1_000_000 * time.Duration(a.clock.drift))
}

// wall is its wall clock.
func (a *agent) wall() overlay.Instant { return a.steady().Add(a.clock.offset) }

// runs says whether the agent runs.
func (a *agent) runs() bool { return a.life != 0 }

// start makes an agent run that knows nothing but its key.
func (a *agent) start() {
	a.lives++
	a.life = a.lives
	a.store = discovery.NewStore(a.id, a.network, a.draw(1<<62), discovery.Limits{})
	a.store.Share(&a.archive)
	a.control, a.own, a.due, a.awake, a.places = control{}, own{}, 0, 0, [3]places{}
	a.heard, a.broadcasts = make(map[heardOf]*overlay.Floods), uint64(a.wall())/1000 // as agents number them
	a.meshing = newMeshing(decide.NewLinks(a.id), a.set.mutant)
	a.settle()
	a.port++
	a.push(event{at: a.now.Add(time.Duration(a.draw(uint64(controlEvery)))), what: steers, to: a.n, id: a.life})
	a.push(event{at: a.now.Add(time.Millisecond), what: decides, to: a.n, id: a.life})
}

// stop ends it, without a word.
func (a *agent) stop() { a.life, a.store = 0, nil }

// happen takes an event.
func (a *agent) happen(e event) {
	switch e.what {
	case arrives:
		a.receive(e)
	case ticks:
		if a.now < a.due {
			return // it was called for something else meanwhile
		}
	case steers:
		a.push(event{at: a.now.Add(controlEvery), what: steers, to: a.n, id: a.life})
		a.steer()
	case dials:
		a.answer(e.from, e.id)
	case frames:
		a.take(e)
		return
	case lies:
		a.lie(e)
	case requests:
		a.asked(e)
	case decides:
		a.decide()
	}
	a.turn()
}

// turn lets the cores do what is due after an event, as the agent's loop does.
func (a *agent) turn() {
	now := a.wall()
	next := a.store.Tick(now)
	a.store.Flush(a.send)
	for _, c := range a.store.Changes() {
		a.changed(c)
	}
	wait := a.meshing.links.Tick(a.steady()).Sub(a.steady())
	a.meshing.links.Flush(a.request)
	if g := a.place.gate; g != nil {
		if w := g.links.Tick(a.steady()).Sub(a.steady()); wait < 0 || w >= 0 && w < wait {
			wait = w
		}
		g.links.Flush(a.request)
	}
	if next != 0 && (wait < 0 || next.Sub(now) < wait) {
		wait = next.Sub(now)
	}
	if next == 0 && wait < 0 {
		return
	}
	at := a.now.Add(max(wait, time.Millisecond))
	if a.due <= a.now || at < a.due {
		a.due = at
		a.push(event{at: at, what: ticks, to: a.n, id: a.life})
	}
}

// changed takes over what changed in the records.
func (a *agent) changed(c discovery.Change) {
	if c.Kind == discovery.KindMember {
		if n, ok := a.index[c.Origin]; ok {
			a.control.know(n, c.Gone || !a.near(c.Origin))
		}
	}
	if c.Origin != a.id {
		return
	}
	r, _ := a.store.Record(a.id, c.Kind) // of an earlier life, or by a clock that was wrong: speak again
	switch {
	case c.Kind == discovery.KindMember && a.own.memberVersion != r.Version:
		a.own.member = 0
	case c.Kind == discovery.KindLinks && a.own.rowsVersion != r.Version:
		a.own.rows.Again()
	case c.Kind == discovery.KindTraffic && a.talk != nil && a.talk.version[a.n] != r.Version:
		a.talk.told[a.n].Again()
	case c.Kind == discovery.KindArea:
		a.toldAgain(r)
	case c.Kind == discovery.KindBackbone && a.place.gate != nil && a.place.gate.version != r.Version:
		a.place.gate.rows.Again()
	}
}

// tell publishes what the agent says of itself, if that is news.
func (a *agent) tell() {
	area, _ := a.store.Area()
	if a.own.member != a.port || a.own.area != area {
		m := a.member(area)
		body, err := m.Append(nil)
		if err != nil {
			panic(err)
		}
		a.own.member, a.own.area, a.own.memberVersion = a.port, area, a.publish(discovery.KindMember, body)
	}
	a.hear()
	now, rows, facts, agents := a.steady(), a.rows(), a.facts(), len(a.control.members)
	if a.meshing.links.Alone(now, a.own.rows.At) {
		a.own.rows.Again()
	}
	if !a.own.rows.Due(now, rows, facts, agents) {
		return
	}
	body, err := discovery.AppendLinks(nil, now, facts, rows)
	if err != nil {
		panic(err)
	}
	a.own.rowsVersion = a.publish(discovery.KindLinks, body)
	a.own.rows.Told(now, rows, facts, agents)
	a.told++
}

func (a *agent) name() string { return fmt.Sprint("agent", a.n) }

func (a *agent) addrs() []netip.AddrPort {
	return []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(a.n >> 16), byte(a.n >> 8), byte(a.n)}), a.port)}
}

// publish signs a record and hands it to the store.
func (a *agent) publish(kind discovery.Kind, body []byte) (version uint64) {
	r := a.sign(discovery.Record{Kind: kind, Version: a.store.NextVersion(a.wall()), Body: body})
	a.store.Publish(a.wall(), r)
	if k := kind - discovery.KindMember; int(k) < len(a.said) {
		a.said[k] = append(a.said[k], saying{a.now, r.Version})
	}
	return r.Version
}

// sign signs a record in the agent's name.
func (a *agent) sign(r discovery.Record) discovery.Record {
	r.Expires = int64(a.wall().Add(discovery.RecordLifetime) / overlay.Instant(time.Second))
	r, err := discovery.SignRecord(a.key, a.network, r)
	if err != nil {
		panic(err)
	}
	return r
}

// newAgent makes an agent that doesn't run yet.
func newAgent(s *Sim, n int32) *agent {
	seed := make([]byte, ed25519.SeedSize)
	for i := 0; i < len(seed); i += 8 {
		binary.BigEndian.PutUint64(seed[i:], mix(s.set.Seed, uint64(n)<<3|uint64(i/8)))
	}
	key := ed25519.NewKeyFromSeed(seed)
	return &agent{Sim: s, n: n, key: key, id: overlay.AgentID(key.Public().(ed25519.PublicKey))}
}
