package sim

import (
	"slices"
	"time"

	"farlan/discovery"
	"farlan/overlay"
)

// What agents do with control connections is what agent/steer.go does, in short.
const (
	controlDegree = 8
	// deadAfter is how long a connection is dead before its end knows: see
	// discovery.Pulse. goneAfter is how long nobody answers until he counts as gone.
	deadAfter = 4 * time.Second
	goneAfter = 14 * time.Second
	// resend is how often is tried to get through what nothing passes.
	resend = 500 * time.Millisecond
	// dialTime is when an attempt to connect is given up.
	dialTime     = 5 * time.Second
	dialRetry    = 2 * time.Second
	dialRetryMax = 2 * time.Minute
	// settleTime is how long an agent that is new lets come who knows it.
	settleTime = 4 * time.Second
	// seekEvery is how often on average an agent looks for members of whom it knows nothing.
	seekEvery = 30 * time.Second
	// nearEvery is how often whom one is near to is looked up.
	nearEvery = 10 * time.Second
)

// control is what an agent knows of its control connections.
type control struct {
	conns   []conn   // ascending by peer
	dials   []dial   // whom it tried of late
	members []member // whom records tell of, ascending
	started overlay.Instant
	want    []int32
	looked  overlay.Instant // when want was computed
	changed bool            // since then
}

// A conn is one end of a connection.
type conn struct {
	peer  int32
	id    uint64 // the same at both ends
	since overlay.Instant
	quiet overlay.Instant // since when nothing comes back, 0: it does
	last  overlay.Instant // when the last message arrives that was sent
}

// A dial is an attempt to connect, and how often it failed in a row.
type dial struct {
	peer  int32
	fails int
	until overlay.Instant // when it fails
	again overlay.Instant
}

// A member is another agent.
type member struct {
	n     int32
	quiet overlay.Instant // since when it doesn't answer, 0: it does
	gone  bool
}

func (c *control) member(n int32) (int, bool) {
	return slices.BinarySearchFunc(c.members, n, func(m member, n int32) int { return int(m.n - n) })
}

// know notes that there is a member, or none any more.
func (c *control) know(n int32, gone bool) {
	i, ok := c.member(n)
	switch {
	case gone && ok:
		c.members = slices.Delete(c.members, i, i+1)
	case !gone && !ok:
		c.members = slices.Insert(c.members, i, member{n: n})
	default:
		return
	}
	c.changed = true
}

func (c *control) conn(peer int32) *conn {
	i, ok := slices.BinarySearchFunc(c.conns, peer, func(x conn, n int32) int { return int(x.peer - n) })
	if !ok {
		return nil
	}
	return &c.conns[i]
}

// steer looks after connections and records.
func (a *agent) steer() {
	c := &a.control
	if c.started == 0 {
		c.started = a.now
	}
	a.hangUp()
	a.look()
	a.tell()
	a.tellArea()
	settled := a.now.Sub(c.started) > settleTime
	switch {
	case len(c.conns) == 0:
		a.seek(2, true)
	case settled:
		a.choose()
		for _, n := range c.want {
			a.dial(n)
		}
		if a.seeks() && a.one(uint64(seekEvery/controlEvery)) {
			a.seek(1, false)
		}
		for _, x := range slices.Backward(slices.Clone(c.conns)) {
			if !slices.Contains(c.want, x.peer) && a.now.Sub(x.since) > settleTime {
				a.drop(x)
				a.part(a.agents[x.peer], x.id)
			}
		}
	}
}

// seek dials some that a token, a beacon or the DHT names: strangers, or anybody.
func (a *agent) seek(times int, anybody bool) {
	for range times {
		n := a.someone(anybody)
		if _, known := a.control.member(n); a.agents[n].runs() && (anybody || !known) {
			a.dial(n)
		}
	}
}

// hangUp finds connections that are dead: nothing comes back on them.
func (a *agent) hangUp() {
	for i := len(a.control.conns) - 1; i >= 0; i-- {
		x := &a.control.conns[i]
		peer := a.agents[x.peer]
		other := peer.control.conn(a.n)
		switch {
		case peer.runs() && other != nil && other.id == x.id && a.world.passes(a.now, a.n, x.peer) && a.world.passes(a.now, x.peer, a.n) && a.now >= peer.awake:
			x.quiet = 0
		case x.quiet == 0:
			x.quiet = a.now
		case a.now.Sub(x.quiet) >= deadAfter:
			a.drop(*x)
		}
	}
}

// look finds members who don't answer any more, as probes do.
func (a *agent) look() {
	c := &a.control
	for i := range c.members {
		m := &c.members[i]
		peer := a.agents[m.n]
		was := m.gone
		switch {
		case m.n == a.n:
			continue
		case peer.runs() && a.world.passes(a.now, a.n, m.n) && a.world.passes(a.now, m.n, a.n):
			m.quiet, m.gone = 0, false
		case m.quiet == 0:
			m.quiet = a.now
		default:
			m.gone = a.now.Sub(m.quiet) >= goneAfter
		}
		c.changed = c.changed || was != m.gone
	}
}

// choose computes whom the agent wants to be connected to.
func (a *agent) choose() {
	c := &a.control
	if !c.changed && a.now.Sub(c.looked) < nearEvery {
		return
	}
	live := make([]overlay.AgentID, 0, len(c.members))
	for _, m := range c.members {
		if !m.gone && m.n != a.n && a.neighbourly(a.agents[m.n].id) {
			live = append(live, a.agents[m.n].id)
		}
	}
	c.want = c.want[:0]
	for _, id := range discovery.Neighbours(a.id, live, discovery.Near(a.id, a.store.Links), controlDegree) {
		c.want = append(c.want, a.index[id])
	}
	a.chooseBackbone()
	c.looked, c.changed = a.now, false
}

// dial tries to connect to somebody.
func (a *agent) dial(n int32) {
	c := &a.control
	if n == a.n || c.conn(n) != nil {
		return
	}
	i := slices.IndexFunc(c.dials, func(d dial) bool { return d.peer == n })
	if i < 0 {
		i = len(c.dials)
		c.dials = append(c.dials, dial{peer: n})
	}
	d := &c.dials[i]
	switch {
	case a.now < d.until:
		return
	case d.until != 0: // it wasn't answered
		d.until, d.again = 0, a.now.Add(min(dialRetry<<min(d.fails, 10), dialRetryMax))
		d.fails++
	}
	if a.now < d.again {
		return
	}
	d.until = a.now.Add(dialTime)
	if a.world.passes(a.now, a.n, n) && a.world.passes(a.now, n, a.n) {
		a.connections++
		a.push(event{at: a.now.Add(3 * a.world.delay(a.n, n)), what: dials, to: n, from: a.n, id: a.connections})
	}
}

// answer takes a connection that another agent opens, if both are there still.
func (a *agent) answer(from int32, id uint64) {
	peer := a.agents[from]
	if !peer.runs() || a.control.conn(from) != nil || peer.control.conn(a.n) != nil || !a.world.passes(a.now, a.n, from) {
		return
	}
	a.connect(from, id)
	peer.connect(a.n, id)
	peer.turn()
}

// connect notes a connection.
func (a *agent) connect(peer int32, id uint64) {
	c := &a.control
	i, _ := slices.BinarySearchFunc(c.conns, peer, func(x conn, n int32) int { return int(x.peer - n) })
	c.conns = slices.Insert(c.conns, i, conn{peer: peer, id: id, since: a.now})
	c.dials = slices.DeleteFunc(c.dials, func(d dial) bool { return d.peer == peer })
	a.store.Connected(a.wall(), a.agents[peer].id)
}

// drop forgets a connection.
func (a *agent) drop(x conn) {
	a.control.conns = slices.DeleteFunc(a.control.conns, func(y conn) bool { return y.peer == x.peer })
	a.store.Disconnected(a.agents[x.peer].id)
}

// part tells the other end that a connection is closed.
func (a *agent) part(peer *agent, id uint64) {
	if !peer.runs() || !a.world.passes(a.now, a.n, peer.n) {
		return
	}
	if y := peer.control.conn(a.n); y != nil && y.id == id {
		peer.drop(*y)
		peer.turn()
	}
}

// send sends a message on a connection.
func (a *agent) send(to overlay.AgentID, msg []byte) {
	n := a.index[to]
	if x := a.control.conn(n); x != nil {
		a.stream(a.n, x, msg)
	}
}

// receive takes a message of a connection that is there still.
func (a *agent) receive(e event) {
	x := a.control.conn(e.from)
	if x == nil || x.id != e.id {
		return
	}
	if !a.world.passes(a.now, e.from, a.n) { // it is sent again, while there is a connection
		e.at = a.now.Add(resend)
		a.push(e)
		return
	}
	if err := a.store.Receive(a.wall(), a.agents[e.from].id, e.msg); err != nil {
		a.refused++
	}
}
