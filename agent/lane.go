package agent

import (
	"context"
	"errors"
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
	// restless is how long a lane goes on looking for more after it had to be
	// woken from sleep: a reply to what it carried is often on its way, and being
	// woken again costs some 30 µs. Under load lanes don't sleep.
	restless = 60 * time.Microsecond
	// sound is how long a lane must have slept for that: shorter pauses are those
	// of a busy machine, where others need the processor.
	sound = 300 * time.Microsecond
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
	sockets []*link.Socket
	queues  []queue
	batch   *link.Batch
	frames  *overlay.Batch
	in      *inbound
	out     *outgoing
}

// A queue is one queue of a port.
type queue struct{ port, queue int }

// newLane returns lane index of n. It reads the sockets and ports that are its
// own; the first lane reads all that there is one of.
func newLane(n *node, index int) (*lane, error) {
	p, err := poll.New()
	if err != nil {
		return nil, err
	}
	l := &lane{n: n, index: index, poll: p, batch: link.NewBatch(), frames: overlay.NewBatch()}
	for _, s := range n.sockets {
		if index == 0 {
			l.sockets = append(l.sockets, s.Delay, s.Probe)
		}
		l.sockets = append(l.sockets, s.Bulk[index])
	}
	for _, s := range l.sockets {
		p.Add(s.FD())
	}
	for i, port := range n.ports {
		for q := index; q < port.Queues(); q += n.lanes {
			l.queues = append(l.queues, queue{i, q})
			p.Add(port.FD(q))
		}
	}
	l.in, l.out = newInbound(n, index), newOutgoing(n, index)
	return l, nil
}

// run carries frames until stop is called.
func (l *lane) run(context.Context) error {
	now := l.n.now()
	awake := now // until when not to sleep
	for !l.stopped.Load() {
		busy, err := l.turn(now)
		if err != nil {
			return err
		}
		switch {
		case busy:
			now = l.n.now()
			continue
		case now.Before(awake):
			now = l.n.now()
			continue
		}
		l.out.idle()
		until := min(l.out.next(now), l.in.next(now), now.Add(lookAgain))
		if err := l.poll.Wait(until.Sub(now)); err != nil {
			return err
		}
		slept := now
		if now = l.n.now(); now.Sub(slept) >= sound {
			awake = now.Add(restless)
		}
	}
	return nil
}

// turn takes what waits at every socket and port, once; busy says whether there
// was anything.
func (l *lane) turn(now overlay.Instant) (busy bool, err error) {
	view := l.n.view.Load()
	for _, s := range l.sockets {
		if err := s.Read(l.batch); err != nil {
			return false, err
		}
		if l.batch.Len() > 0 {
			busy = true
			l.in.receive(now, view, s, l.batch)
		}
	}
	for i := 0; i < len(l.queues); i++ {
		q := l.queues[i]
		port := l.n.ports[q.port]
		if err := port.Read(q.queue, l.frames); err != nil {
			l.n.portFailed(port, err)
			l.poll.Remove(port.FD(q.queue))
			l.queues = append(l.queues[:i], l.queues[i+1:]...)
			i--
			continue
		}
		if frames := l.frames.Frames(); len(frames) > 0 {
			busy = true
			l.out.carry(now, view, q.port, frames)
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
