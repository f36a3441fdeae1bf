//go:build linux

package link

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// inboxDatagrams bounds an inbox. Strays are rare: one at the end of an
// aggregate. When the inbox is full they are dropped, which is what UDP may
// always do.
const inboxDatagrams = 64

// An inbox holds datagrams for Control that the kernel gave to another socket
// inside an aggregate, and wakes Control's reader for them by a read deadline.
// It is safe for concurrent use.
type inbox struct {
	mu       sync.Mutex
	conn     *net.UDPConn // whose reader to wake
	deadline time.Time    // that the reader asked for
	first, n int
	ring     [inboxDatagrams]letter
}

type letter struct {
	from netip.AddrPort
	data []byte
}

func newInbox(c *net.UDPConn) *inbox { return &inbox{conn: c} }

// put copies datagram d into the inbox.
func (x *inbox) put(from netip.AddrPort, d []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.n == len(x.ring) {
		return
	}
	l := &x.ring[(x.first+x.n)%len(x.ring)]
	l.from, l.data = from, append(l.data[:0], d...)
	x.n++
	_ = x.conn.SetReadDeadline(time.Unix(1, 0)) // fails only if closed
}

// take moves the oldest datagram into p, cut to p's length as a socket does.
func (x *inbox) take(p []byte) (n int, from netip.AddrPort, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.n == 0 {
		return 0, from, false
	}
	l := &x.ring[x.first]
	x.first = (x.first + 1) % len(x.ring)
	x.n--
	return copy(p, l.data), l.from, true
}

// setDeadline sets the deadline that the reader wants.
func (x *inbox) setDeadline(t time.Time) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.deadline = t
	if x.n > 0 {
		return nil // the reader is being woken; expired sets it
	}
	return x.conn.SetReadDeadline(t)
}

// expired is asked by a reader whose read has met a deadline: it says whether
// that was the reader's own, and puts the own one back if it was a wake-up.
func (x *inbox) expired() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.deadline.IsZero() && !time.Now().Before(x.deadline) {
		return true
	}
	_ = x.conn.SetReadDeadline(x.deadline)
	return false
}
