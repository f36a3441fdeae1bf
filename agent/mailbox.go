package agent

import (
	"sync"

	"farlan/overlay"
)

// maxMail bounds what may wait for the node's loop. Beyond it, events that can
// be lost are dropped and counted: their senders repeat them, or the
// replication heals it.
const maxMail = 4096

// An event is something that happened, to be done in the node's loop.
type event func(now overlay.Instant)

// A mailbox holds events for the node's loop. Putting never blocks. Use
// newMailbox.
type mailbox struct {
	mu     sync.Mutex
	events []event
	closed bool
	ready  chan struct{} // holds a token while there are events
}

func newMailbox() *mailbox { return &mailbox{ready: make(chan struct{}, 1)} }

// put adds an event that must not be lost; there is a bounded number of such
// (connections, requests). It says whether the loop will see it.
func (m *mailbox) put(e event) bool { return m.add(e, 2*maxMail) }

// offer adds an event that may be lost.
func (m *mailbox) offer(e event) bool { return m.add(e, maxMail) }

// offerLow adds an event that may be lost and that anybody can cause by repeating
// what was captured: it leaves room for the others.
func (m *mailbox) offerLow(e event) bool { return m.add(e, maxMail/8) }

func (m *mailbox) add(e event, limit int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || len(m.events) >= limit {
		return false
	}
	m.events = append(m.events, e)
	select {
	case m.ready <- struct{}{}:
	default:
	}
	return true
}

// take returns the events that wait, in order.
func (m *mailbox) take() []event {
	m.mu.Lock()
	defer m.mu.Unlock()
	events := m.events
	m.events = nil
	return events
}

// close refuses further events and returns those that nobody will do.
func (m *mailbox) close() []event {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	return m.take()
}
