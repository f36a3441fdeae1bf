package agent

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"farlan/overlay"
	"farlan/overlay/link"
	"farlan/overlay/poll"
)

const (
	// maxLanes bounds the lanes of an agent. More would only wait for each other
	// at the sockets.
	maxLanes = 8
	// eagerFor is how long after the last frame a lane sleeps lightly, which is
	// quicker and costs a little when nothing comes: see poll.Poller.
	eagerFor = 20 * time.Millisecond
	// yieldEvery is how often a lane lets others run that wait for its place: just
	// before the runtime would take that from it, which costs a signal.
	yieldEvery = 9 * time.Millisecond
	// lookAgain is how often a lane looks at ports and sockets that don't call it.
	lookAgain = time.Second
)

// A lane carries frames: those that its queue of each port has go to the peers
// and the other ports, what its sockets receive goes to the ports. One goroutine
// does all of that, from the read of a batch to the last write: no hand-off, no
// lock, no allocation. Flows stay in order because each has its lane: the
// system's choice of a TAP's queue, which the datagrams carry to the other end.
type lane struct {
	n       *node
	index   int
	poll    *poll.Poller
	stopped atomic.Bool
	sockets []laneSocket
	queues  []laneQueue
	batch   *link.Batch
	frames  *overlay.Batch
	looked  overlay.Instant // when every port was read
	in      *inbound
	out     *outgoing
}

// A laneSocket is a socket that a lane reads.
type laneSocket struct {
	*link.Socket
	number  int          // the poller's
	replies *link.Writer // for answers to probes, of the same family
}

// A laneQueue is a queue of a port that a lane reads.
type laneQueue struct {
	port, queue int
	number      int // the poller's
}

// newLane returns lane index of n. It reads the sockets and ports that are its
// own; the first lane reads all that there is one of.
func newLane(n *node, index int) (*lane, error) {
	p, err := poll.New()
	if err != nil {
		return nil, err
	}
	l := &lane{n: n, index: index, poll: p, batch: link.NewBatch(), frames: overlay.NewBatch()}
	for _, s := range n.sockets {
		var own []*link.Socket
		if index == 0 {
			own = append(own, s.Delay)
		}
		replies := s.Probe.Writer()
		for _, o := range append(own, s.Bulk[index]) {
			number, err := p.Add(o.FD())
			if err != nil {
				return nil, errors.Join(err, p.Close())
			}
			l.sockets = append(l.sockets, laneSocket{o, number, replies})
		}
	}
	for i, port := range n.ports {
		for q := index; q < port.Queues(); q += n.lanes {
			number, err := p.Add(port.FD(q))
			if err != nil {
				return nil, errors.Join(err, p.Close())
			}
			l.queues = append(l.queues, laneQueue{i, q, number})
		}
	}
	l.in, l.out = newInbound(n, index), newOutgoing(n, index)
	l.in.by, l.in.out, l.out.limit = &l.out.by, l.out, l.in.limit
	return l, nil
}

// run carries frames until stop is called.
func (l *lane) run(context.Context) error {
	now := l.n.now()
	var last, yielded overlay.Instant          // when something was carried, and others were let run
	spare := runtime.GOMAXPROCS(0) > l.n.lanes // a place for others while the lanes keep theirs
	for !l.stopped.Load() {
		busy, err := l.turn(now)
		if err != nil {
			return err
		}
		if busy {
			last = now
		}
		if now.Sub(yielded) >= yieldEvery {
			yielded = now
			runtime.Gosched()
		}
		until := min(l.out.next(now), l.in.next(now), now.Add(lookAgain))
		if err := l.poll.Wait(max(until.Sub(now), 0), spare && now.Sub(last) < eagerFor); err != nil {
			return err
		}
		now = l.n.now()
	}
	return nil
}

// turn takes what waits at the sockets and ports that are ready, once; busy says
// whether there was anything. What it writes to a port is often answered before
// the write returns, by the host's own stack, so ports are asked after that, too.
func (l *lane) turn(now overlay.Instant) (busy bool, err error) {
	view := l.n.view.Load()
	for _, s := range l.sockets {
		if !l.poll.Ready(s.number) {
			continue
		}
		if err := s.Read(l.batch); err != nil {
			return false, err
		}
		if l.batch.Len() > 0 {
			busy = true
			l.in.receive(now, view, s.replies, l.batch)
		}
	}
	late := now.Sub(l.looked) >= lookAgain
	if late {
		l.looked = now
	}
	for _, q := range l.queues {
		port := l.n.ports[q.port]
		asked := busy || late || l.poll.Ready(q.number)
		if !asked || port.failure() != "" {
			continue
		}
		if err := port.Read(q.queue, l.frames); err != nil {
			l.n.portFailed(port, err)
			l.poll.Remove(q.number)
			continue
		}
		if frames := l.frames.Frames(); len(frames) > 0 {
			busy = true
			l.out.carry(now, view, q.port, frames)
		} else {
			l.out.idle()
		}
	}
	l.out.shaped(now, view)
	l.in.acknowledge(now, l.out)
	return busy, nil
}

// stop makes run return.
func (l *lane) stop() {
	l.stopped.Store(true)
	l.poll.Wake()
}

// portFailed notes that a port carries no frames any more. The agent goes on
// with the others, and status says so.
func (n *node) portFailed(p *port, err error) {
	if p.failed.Swap(err.Error()) == nil {
		n.log.Error("port failed", "port", p.name, "error", err)
	}
}

// closeLanes frees lanes that don't run.
func closeLanes(lanes []*lane) error {
	var errs []error
	for _, l := range lanes {
		errs = append(errs, l.poll.Close())
	}
	return errors.Join(errs...)
}
