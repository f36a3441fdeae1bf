//go:build linux

package link

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Control is the control plane's socket: a net.PacketConn. Its methods are
// safe for concurrent use. It hides the UDP socket on purpose: who reads that
// one directly gets aggregates. (It also keeps quic-go from setting options on
// it, "don't fragment" among them.)
type Control struct {
	conn   *net.UDPConn
	inbox  *inbox // QUIC's datagrams that our sockets found
	strays atomic.Uint64

	mu      sync.Mutex // held by the reader
	buf     [maxAggregate]byte
	oob     [oobSpace]byte
	rest    []byte // of buf: what is not yet read
	segment int    // length of rest's datagrams
	from    netip.AddrPort
}

var _ net.PacketConn = (*Control)(nil)

// Strays returns how many datagrams of ours came here, inside an aggregate of
// QUIC's or too short to tell their lane, and were dropped.
func (c *Control) Strays() uint64 { return c.strays.Load() }

// ReadFrom reads one datagram into p; the address is a *net.UDPAddr.
func (c *Control) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromAddrPort(p)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromAddrPort is ReadFrom without an allocation.
func (c *Control) ReadFromAddrPort(p []byte) (int, netip.AddrPort, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if n, from, ok := c.inbox.take(p); ok {
			return n, from, nil
		}
		if d := c.next(); d != nil {
			return copy(p, d), c.from, nil
		}
		err := c.fill()
		if errors.Is(err, os.ErrDeadlineExceeded) && !c.inbox.expired() {
			continue
		}
		if err != nil && !passing(err) {
			return 0, netip.AddrPort{}, err
		}
	}
}

// passing says whether a read that failed with err may be repeated.
func passing(err error) bool {
	var e syscall.Errno
	return errors.As(err, &e) && transient(e)
}

// next takes the next datagram off the last aggregate, or returns nil.
func (c *Control) next() []byte {
	if len(c.rest) == 0 {
		return nil
	}
	d := c.rest[:min(c.segment, len(c.rest))]
	c.rest = c.rest[len(d):]
	return d
}

// fill waits for an aggregate.
func (c *Control) fill() error {
	n, oobn, _, from, err := c.conn.ReadMsgUDPAddrPort(c.buf[:], c.oob[:])
	if err != nil {
		return err
	}
	c.from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	c.segment, _ = controls(c.oob[:oobn], n)
	n = sift(c.buf[:n], c.segment, false, func([]byte) { c.strays.Add(1) })
	c.rest = c.buf[:n]
	return nil
}

// WriteTo sends datagram b.
func (c *Control) WriteTo(b []byte, to net.Addr) (int, error) { return c.conn.WriteTo(b, to) }

// WriteToAddrPort is WriteTo without an allocation.
func (c *Control) WriteToAddrPort(b []byte, to netip.AddrPort) (int, error) {
	return c.conn.WriteToUDPAddrPort(b, to)
}

// Close closes the socket; blocked reads return net.ErrClosed.
func (c *Control) Close() error { return c.conn.Close() }

// LocalAddr returns the bound address, a *net.UDPAddr.
func (c *Control) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// SetDeadline sets both deadlines.
func (c *Control) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline sets when reads give up with os.ErrDeadlineExceeded.
func (c *Control) SetReadDeadline(t time.Time) error { return c.inbox.setDeadline(t) }

// SetWriteDeadline sets when writes give up with os.ErrDeadlineExceeded.
func (c *Control) SetWriteDeadline(t time.Time) error { return c.conn.SetWriteDeadline(t) }

// SetReadBuffer sets the size of the kernel's receive buffer.
func (c *Control) SetReadBuffer(n int) error { return c.conn.SetReadBuffer(n) }

// SetWriteBuffer sets the size of the kernel's send buffer.
func (c *Control) SetWriteBuffer(n int) error { return c.conn.SetWriteBuffer(n) }
