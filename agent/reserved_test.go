package agent

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/link"
	"farlan/reserve"
)

func rid(i int) reserve.ID { return reserve.ID{Reservation: [16]byte{byte(i), byte(i >> 8)}} }

// stationsOf returns the pair of two stations.
func stationsOf(from, to overlay.MAC) (p measure.StationPair) {
	copy(p[:], to[:])
	copy(p[6:], from[:])
	return p
}

func grantOf(n *node, rate reserve.Rate) reserve.Grant {
	return reserve.Grant{Rate: rate, End: n.now().Add(time.Minute), Mark: reserve.Mark{Priority: 5}}
}

// reservedMirror is a mirror whose peer is known to the loop, with a reservation for the frames from
// there to back.
func reservedMirror(t testing.TB, f reservedFlow) *mirror {
	t.Helper()
	m := newMirror(t)
	m.n.peers[m.peer.id] = m.peer
	m.peer.state = measure.Up
	f.To = m.peer.id
	if f.none() {
		f.Pair = stationsOf(there, back)
	}
	if f.Grant.Rate == 0 {
		f.Grant = grantOf(m.n, 100*reserve.Mbit)
	}
	if err := m.n.setReserved(m.n.now(), rid(1), f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.n.clearReserved(rid(1)) })
	return m
}

func (m *mirror) use(t testing.TB, i int) reservedUse {
	t.Helper()
	u, ok := m.n.useOf(rid(i))
	if !ok {
		t.Fatal("there is no such reservation")
	}
	return u
}

func someFrames(to overlay.MAC, n int) []overlay.Frame {
	frames := make([]overlay.Frame, n)
	for i := range frames {
		frames[i].Head = ethernet(to, there, 1000)
	}
	return frames
}

// Frames of a pair leave by their own socket and arrive, others don't, whatever else is
// reserved; and nothing of it allocates.
func TestReservedFramesDoNotAllocate(t *testing.T) {
	m := reservedMirror(t, reservedFlow{})
	for i := 2; i <= maxReserved; i++ {
		f := reservedFlow{To: m.peer.id, Pair: stationsOf(overlay.MAC{2, 9, byte(i)}, back), Grant: grantOf(m.n, reserve.Mbit)}
		if err := m.n.setReserved(m.n.now(), rid(i), f); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.n.clearReserved(rid(i)) })
	}
	frames := someFrames(back, 32)
	m.turn(t, frames)
	before := m.use(t, 1)
	if before.Bytes < 32*1000 || before.Fallen != 0 || before.Dropped != 0 {
		t.Errorf("%+v", before)
	}
	if n := testing.AllocsPerRun(20, func() { m.turn(t, frames) }); n != 0 {
		t.Errorf("%v allocations for %d frames", n, len(frames))
	}
	if got := m.use(t, 1).Bytes; got < 21*before.Bytes {
		t.Errorf("%d bytes left by the socket", got)
	}
	other := overlay.MAC{2, 0, 0, 0, 0, 3}
	before = m.use(t, 1)
	m.turn(t, someFrames(other, 32))
	if after := m.use(t, 1); after != before || m.n.drops[dropReserved].Load() != 0 {
		t.Errorf("others leave by it, too: %+v", after)
	}
	if v := m.n.drops.views(); len(v) != 0 {
		t.Errorf("dropped: %+v", v)
	}
}

// A reservation for an agent takes all frames for it, but those that have one of their own; one
// that is only made ready takes none.
func TestReservedFlows(t *testing.T) {
	m := reservedMirror(t, reservedFlow{})
	ready := reservedFlow{To: m.peer.id, Grant: grantOf(m.n, reserve.Mbit)}
	all := ready
	all.All = true
	if err := m.n.setReserved(m.n.now(), rid(2), ready); err != nil {
		t.Fatal(err)
	}
	other := overlay.MAC{2, 0, 0, 0, 0, 3}
	m.turn(t, someFrames(other, 8))
	if u := m.use(t, 2); u.Bytes != 0 {
		t.Errorf("taken before it was said so: %+v", u)
	}
	if err := m.n.setReserved(m.n.now(), rid(2), all); err != nil {
		t.Fatal(err)
	}
	m.turn(t, append(someFrames(other, 8), someFrames(back, 8)...))
	if a, b := m.use(t, 1), m.use(t, 2); a.Bytes < 8000 || b.Bytes < 8000 || a.Bytes > 12000 || b.Bytes > 12000 {
		t.Errorf("%+v and %+v", a, b)
	}
	for i, f := range []reservedFlow{all, {To: m.peer.id, Pair: stationsOf(there, back), Grant: all.Grant}} {
		if err := m.n.setReserved(m.n.now(), rid(3), f); !errors.Is(err, reserve.ErrRefused) {
			t.Errorf("%d: two for the same frames: %v", i, err)
		}
	}
	m.n.clearReserved(rid(2))
	m.n.clearReserved(rid(2))
	if _, ok := m.n.useOf(rid(2)); ok {
		t.Error("still there")
	}
}

// openFiles returns how many files this program has open.
func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// Reservations are bounded, end by themselves, and leave nothing behind.
func TestReservationsAreBounded(t *testing.T) {
	m := reservedMirror(t, reservedFlow{})
	n, now := m.n, m.n.now()
	r := withRelay(m)
	m.n.clearReserved(rid(1))
	files := openFiles(t)
	flow := func(i int) reservedFlow {
		return reservedFlow{To: m.peer.id, Pair: stationsOf(overlay.MAC{2, 9, byte(i)}, back), Grant: grantOf(n, reserve.Mbit)}
	}
	for i := range maxReserved {
		var err error
		if i%2 == 0 {
			err = n.setReserved(now, rid(i), flow(i))
		} else {
			err = n.grantPassage(now, rid(i), passageFlow{byte(i + 1), m.peer.id, r.id, 0, grantOf(n, reserve.Mbit)})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := n.setReserved(now, rid(100), flow(100)); !errors.Is(err, reserve.ErrFull) {
		t.Errorf("one too many: %v", err)
	}
	if err := n.grantPassage(now, rid(100), passageFlow{100, m.peer.id, r.id, 0, grantOf(n, reserve.Mbit)}); !errors.Is(err, reserve.ErrFull) {
		t.Errorf("one too many: %v", err)
	}
	if err := n.setReserved(now, rid(0), flow(0)); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	n.mindReserved(now.Add(59 * time.Second))
	if len(n.reserved.ways)+len(n.reserved.passages) != maxReserved {
		t.Error("some ended too soon")
	}
	n.mindReserved(now.Add(2 * time.Minute))
	if len(n.reserved.ways)+len(n.reserved.passages) != 0 || n.reserved.any() {
		t.Error("some didn't end")
	}
	if got := openFiles(t); got != files {
		t.Errorf("%d files are open, %d before", got, files)
	}
	for name, f := range map[string]reservedFlow{
		"nobody": {To: overlay.AgentID{77}, Grant: grantOf(n, 1)},
		"ended":  {To: m.peer.id, Grant: reserve.Grant{Rate: 1, End: now - 1}},
		"astray": {To: m.peer.id, Path: []overlay.AgentID{n.self, {55}, m.peer.id}, Grant: grantOf(n, 1)},
		"device": {To: m.peer.id, Grant: reserve.Grant{Rate: 1, Mark: reserve.Mark{Device: "farlan-nowhere"}}},
	} {
		if err := n.setReserved(now, rid(5), f); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for name, g := range map[string]reserve.Grant{"no rate": {}, "ended": {Rate: 1, End: now - 1}, "device": {Rate: 1, Mark: reserve.Mark{Device: "farlan-nowhere"}}} {
		if err := n.grantPassage(now, rid(5), passageFlow{5, m.peer.id, r.id, 0, g}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if got := openFiles(t); got != files || n.reserved.any() {
		t.Errorf("what was refused left %d files open", got-files)
	}
}

// When the socket fails, frames go the ordinary way at once, and are counted.
func TestReservedFallsBack(t *testing.T) {
	m := reservedMirror(t, reservedFlow{})
	frames := someFrames(back, 16)
	m.turn(t, frames)
	m.n.reserved.ways[rid(1)].marked.close()
	before := m.use(t, 1)
	m.turn(t, frames)
	m.turn(t, frames)
	if u := m.use(t, 1); u.Bytes != before.Bytes || u.Fallen == 0 || u.Dropped != 0 {
		t.Errorf("%+v", u)
	}
	// Another grant has sockets of its own: they take the frames.
	f := m.n.reserved.ways[rid(1)].flow
	f.Grant.Mark.Priority = 4
	if err := m.n.setReserved(m.n.now(), rid(1), f); err != nil {
		t.Fatal(err)
	}
	m.turn(t, frames)
	if u := m.use(t, 1); u.Bytes == before.Bytes {
		t.Errorf("%+v", u)
	}
	if v := m.n.drops.views(); len(v) != 0 {
		t.Errorf("dropped: %+v", v)
	}
}

// A way whose frames aren't acknowledged is given up after it was asked, and taken again once it
// answers. What the others get doesn't depend on it.
func TestReservedWayIsGivenUp(t *testing.T) {
	m := reservedMirror(t, reservedFlow{})
	frames := someFrames(back, 4)
	m.turn(t, frames)
	now, w := m.n.now(), m.n.reserved.ways[rid(1)]
	for i := 0; !w.state.down.Load(); i++ {
		if i > 40 {
			t.Fatal("it isn't given up")
		}
		now = now.Add(100 * time.Millisecond)
		w.state.sentAt.Store(int64(now))
		m.n.watchReserved(now)
	}
	before := m.use(t, 1)
	m.turn(t, frames)
	if u := m.use(t, 1); u.Bytes != before.Bytes || u.Fallen != before.Fallen+4 || !u.Down {
		t.Errorf("given up: %+v, then %+v", before, u)
	}
	m.n.watchReserved(now.Add(time.Second))
	for range 10 { // not each time
		m.n.watchReserved(now.Add(time.Second))
	}
	if len(m.peer.waiters) != 1 {
		t.Errorf("%d are waited for", len(m.peer.waiters))
	}
	m.peer.mu.Lock()
	m.peer.answered(w.state.retry, time.Millisecond, measure.Sampled)
	m.peer.mu.Unlock()
	m.n.watchReserved(now.Add(2 * time.Second))
	m.turn(t, frames)
	if u := m.use(t, 1); u.Bytes <= before.Bytes || u.Down {
		t.Errorf("taken again: %+v", u)
	}
}

// A probe goes by the reservation's socket, in its space, and its answer tells who waits.
func TestReservedProbe(t *testing.T) {
	m := reservedMirror(t, reservedFlow{})
	rtt := make(chan time.Duration, 1)
	before := m.use(t, 1).Bytes
	if _, err := m.n.probeReserved(rid(1), rtt); err != nil {
		t.Fatal(err)
	}
	if m.use(t, 1).Bytes == before {
		t.Error("it didn't leave by the socket")
	}
	m.probes(t)
	near := m.peer.out.Load().session
	m.n.view.Store(&view{byIndex: m.n.view.Load().byIndex, sessions: map[uint32]*inboundSession{1: {peer: m.peer, session: near}}})
	m.probes(t)
	select {
	case d := <-rtt:
		if d <= 0 || d > time.Second {
			t.Errorf("round trip %v", d)
		}
	default:
		t.Error("no answer")
	}
	if v := m.peer.pair(m.n.now()); v.RTTSource != measure.Unknown {
		t.Errorf("it counts for the ordinary way: %+v", v)
	}
	// By a socket that fails it takes no other way.
	m.n.reserved.ways[rid(1)].marked.close()
	if _, err := m.n.probeReserved(rid(1), rtt); err == nil || len(m.peer.waiters) != 0 {
		t.Errorf("%v, %d are waited for", err, len(m.peer.waiters))
	}
	if _, err := m.n.probeReserved(rid(9), rtt); !errors.Is(err, reserve.ErrGone) {
		t.Error(err)
	}
}

// What is held back leaves at the rate; when the reservation ends the rest leaves at once, the
// ordinary way, and nothing is lost.
func TestReservedIsPaced(t *testing.T) {
	m := reservedMirror(t, reservedFlow{Paced: true, Grant: reserve.Grant{Rate: 8 * reserve.Mbit}})
	o, v, began := m.lane.out, m.n.view.Load(), m.n.now()
	frames := someFrames(back, 40)
	o.carry(began, v, 0, frames)
	o.shaped(began, v)
	for m.use(t, 1).Waiting == 40*1000 {
		o.shaped(m.n.now(), v)
	}
	if at := o.next(began); at > began.Add(10*time.Millisecond) {
		t.Errorf("the next may leave after %v", at.Sub(began))
	}
	for m.n.now().Sub(began) < 15*time.Millisecond {
		o.shaped(m.n.now(), v)
	}
	waiting, past := m.use(t, 1).Waiting, m.n.now().Sub(began)
	if left, most := 40*1000-waiting, int(past.Milliseconds()*1000)+4000; left == 0 || left > most {
		t.Errorf("%d bytes left in %v, want %d at most", left, past, most)
	}
	m.n.clearReserved(rid(1))
	o.carry(m.n.now(), v, 0, frames[:1]) // one more that doesn't wait
	for m.port.frames < 41 {
		m.receive(t)
	}
	if v := m.n.drops.views(); len(v) != 0 {
		t.Errorf("dropped: %+v", v)
	}
}

// With an uplink that is shaped, the class has its rate there, too, and its frames still leave
// by the socket; what waits when it ends leaves with bulk.
func TestReservedInTheUplink(t *testing.T) {
	m := reservedMirror(t, reservedFlow{Grant: reserve.Grant{Rate: 6 * reserve.Mbit}})
	m.n.cfg.Uplink.Up = 10 * reserve.Mbit
	o, v, now := newOutgoing(m.n, 0), m.n.view.Load(), m.n.now()
	other := overlay.MAC{2, 0, 0, 0, 0, 3}
	m.n.sw.Stations.Learn(now, other, m.peer.place())
	m.n.sw.Stations.Learn(now, back, m.peer.place())
	for range 4 {
		o.carry(now, v, 0, someFrames(other, 30))
		o.carry(now, v, 0, someFrames(back, 30))
	}
	if n := o.shaper.Guaranteed(0); n != 120*1000 {
		t.Errorf("%d bytes wait for the class", n)
	}
	for range 100 {
		now = now.Add(time.Millisecond)
		o.shaped(now, v)
	}
	if got := m.use(t, 1).Bytes * 8 / 100; got < 5500 || got > 6800 { // kbit/s
		t.Errorf("%d kbit/s left by the socket", got)
	}
	m.n.clearReserved(rid(1))
	now = now.Add(time.Millisecond)
	o.shaped(now, v)
	if o.shaper.Guaranteed(0) != 0 || o.shaper.Backlog()[overlay.ClassBulk] < 60*1000 {
		t.Errorf("%d bytes wait for the class, %v for others", o.shaper.Guaranteed(0), o.shaper.Backlog())
	}
	m.n.flows.collect(now.Add(-time.Second), m.n.tops, &m.n.backlogs)
	o.carry(now, v, 0, someFrames(other, 30))
	for range 40 {
		now = now.Add(10 * time.Millisecond)
		o.shaped(now, v)
	}
	m.n.tops[0].mu.Lock()
	flows := m.n.tops[0].top.Take(nil)
	m.n.tops[0].mu.Unlock()
	if len(flows) == 0 || flows[0].Waited < 50*time.Millisecond {
		t.Errorf("how long they waited isn't told: %+v", flows)
	}
}

// passes has datagrams passed on: from the mirror's peer to r, asking for a passage by number.
func (m *mirror) passes(t *testing.T, far *overlay.Session, r *peer, number byte, count int) {
	t.Helper()
	path := []overlay.Label{m.peer.label, m.n.label, r.label}
	inner := make([]byte, 1000)
	in := m.lane.in
	in.now, in.view = m.n.now(), m.n.view.Load()
	for range count {
		d := overlay.AppendReserved(nil, far, 0, number, path, inner)
		in.data = d
		in.datagram(d, 0)
		in.passOn()
	}
}

// A number counts only from who it was given to, towards where the reservation leads, up to its
// rate, and until it ends; otherwise datagrams pass as any others, with none.
func TestPassages(t *testing.T) {
	m := newMirror(t)
	r, n := withRelay(m), m.n
	near := m.peer.out.Load().session
	far := n.view.Load().sessions[2].session
	v := *n.view.Load()
	v.byLabel = map[overlay.Label]*peer{r.label: r, m.peer.label: m.peer}
	v.sessions = map[uint32]*inboundSession{near.LocalIndex(): {peer: m.peer, session: near}}
	n.view.Store(&v)
	sink, err := link.Open(m.n.sockets[0].Delay.LocalAddr(), link.Config{Lanes: 1})
	if err == nil {
		_ = sink.Close()
		t.Fatal("the port isn't the mirror's alone")
	}
	const number = 200
	if err := n.grantPassage(n.now(), rid(1), passageFlow{number, m.peer.id, r.id, 7, grantOf(n, 8*reserve.Mbit)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.revokePassage(rid(1)) })
	use := func() reservedUse { u, _ := n.passedFor(rid(1)); return u }
	for other := range 256 {
		if byte(other) != number {
			m.passes(t, far, r, byte(other), 1)
		}
	}
	if u := use(); u.Bytes != 0 || u.Fallen != 0 {
		t.Errorf("by other numbers: %+v", u)
	}
	m.passes(t, far, r, number, 10)
	u := use()
	if u.Bytes < 10_000 || u.Fallen != 0 {
		t.Errorf("by its number: %+v", u)
	}
	m.passes(t, far, r, number, 400) // 400 kB at once: more than the burst
	if u = use(); u.Bytes > leastBurst+20_000 || u.Fallen < 200 {
		t.Errorf("more than is reserved: %+v", u)
	}
	in := m.lane.in
	if g, _ := in.reservedPassage(r, m.peer, number, 1); g != nil {
		t.Error("from somebody else")
	}
	if g, _ := in.reservedPassage(m.peer, m.peer, number, 1); g != nil {
		t.Error("to somebody else")
	}
	in.now = in.now.Add(time.Second)
	if g, next := in.reservedPassage(m.peer, r, number, 1); g == nil || next != 7 {
		t.Error("a second later it is full still")
	}
	if err := n.grantPassage(n.now(), rid(1), passageFlow{number, m.peer.id, r.id, 9, grantOf(n, 16*reserve.Mbit)}); err != nil {
		t.Errorf("asked again: %v", err)
	}
	for i, number := range []byte{0, number} {
		if err := n.grantPassage(n.now(), rid(2), passageFlow{number, m.peer.id, r.id, 9, grantOf(n, reserve.Mbit)}); !errors.Is(err, reserve.ErrRefused) {
			t.Errorf("%d: none or another's number: %v", i, err)
		}
	}
	if err := n.grantPassage(n.now(), rid(1), passageFlow{number, r.id, m.peer.id, 9, grantOf(n, 16*reserve.Mbit)}); !errors.Is(err, reserve.ErrRefused) {
		t.Errorf("another way under the same name: %v", err)
	}
	n.revokePassage(rid(1))
	n.revokePassage(rid(1))
	if g, _ := in.reservedPassage(m.peer, r, number, 1); g != nil || n.reserved.any() {
		t.Error("it ended")
	}
	if _, ok := n.passedFor(rid(1)); ok {
		t.Error("it is told of")
	}
	n.cfg.Wishes.NoTransit = true
	if err := n.grantPassage(n.now(), rid(3), passageFlow{1, m.peer.id, r.id, 0, grantOf(n, reserve.Mbit)}); !errors.Is(err, reserve.ErrRefused) {
		t.Errorf("by who passes nothing on: %v", err)
	}
}

// A pinned way has its path and the number in front, and those behind it aren't the ordinary ones.
func TestReservedPath(t *testing.T) {
	m := newMirror(t)
	r := withRelay(m)
	tell(m.n, r.id, m.n.self, m.peer.id)
	m.n.sw.Stations.Learn(m.n.now(), back, m.peer.place())
	f := reservedFlow{To: m.peer.id, Pair: stationsOf(there, back), Path: []overlay.AgentID{m.n.self, r.id, m.peer.id}, Number: 201, Grant: grantOf(m.n, reserve.Mbit)}
	if err := m.n.setReserved(m.n.now(), rid(1), f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.n.clearReserved(rid(1)) })
	m.lane.out.carry(m.n.now(), m.n.view.Load(), 0, someFrames(back, 1))
	far := m.n.view.Load().sessions[2].session // it opens what r gets here, too
	b := link.NewBatch()
	for deadline := time.Now().Add(5 * time.Second); b.Len() == 0 && time.Now().Before(deadline); {
		if err := m.n.sockets[0].Bulk[0].Read(b); err != nil {
			t.Fatal(err)
		}
	}
	d := b.Data(0)
	front := overlay.TransitFront(d)
	if _, ok := far.Open(front); !ok {
		t.Fatal("not opened")
	}
	if x, ok := overlay.ParseTransit(d); !ok || x.Reservation() != 201 || x.Here() != r.label {
		t.Errorf("%v: number %d", ok, x.Reservation())
	} else if space, _ := overlay.SpaceOf(binary.BigEndian.Uint64(x.Inner()[8:])); space != overlay.SpaceReserved {
		t.Errorf("space %d", space)
	}
	r.silenced.Store(true)
	before := m.use(t, 1)
	m.lane.out.carry(m.n.now(), m.n.view.Load(), 0, someFrames(back, 3))
	if u := m.use(t, 1); u.Fallen != before.Fallen+3 || u.Bytes != before.Bytes {
		t.Errorf("the way is broken: %+v", u)
	}
}
