//go:build linux

package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxMarked is how many marked sockets a port can have; another one is refused.
const MaxMarked = 32 * MaxLanes

// Sizes of a marked socket's send buffer.
const (
	minMarkedSend = 128 << 10 // an aggregate, and another one while that leaves
	maxMarkedSend = 4 << 20
)

// A Mark is how what a marked socket sends is told from other packets of this host. Parts that
// are zero are as for bulk.
type Mark struct {
	TOS      uint8      // DSCP << 2
	Priority uint32     // SO_PRIORITY: above 6 it takes CAP_NET_ADMIN
	Device   string     // the interface by which all leaves
	Source   netip.Addr // from which, of the port's family; an address of this host
	Queue    int        // bytes that may wait for the device, at most: see Marked.SetQueue
}

// A Marked is a socket that only sends. It is opened and closed while the port's others are in
// use. Nothing comes to it: it joins the port's group behind those that are steered to, so
// that the last of the group, which the kernel moves to where one left, is another one of its
// kind, and it isn't bound to its device or source, which would take it out of the group and
// have it get, unsteered, all that comes there. All methods are safe for concurrent use.
type Marked struct {
	socket *Socket
	port   *Port
	use    sync.RWMutex // held for reading by who sends
}

// Join opens a marked socket for what a lane sends: the other end can't tell it from the
// lane's bulk, but for the mark. The error wraps the system's: EPERM for a mark that takes
// rights, ENODEV for an interface that isn't there.
func (p *Port) Join(lane int, m Mark) (*Marked, error) {
	s, err := p.join(lane, m)
	if err != nil {
		return nil, fmt.Errorf("link: marked socket: %w", err)
	}
	x := &Marked{socket: s, port: p}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.marked) >= MaxMarked {
		return nil, errors.Join(fmt.Errorf("link: more than %d marked sockets: %w", MaxMarked, syscall.ENOSPC), s.Close())
	}
	p.marked = append(p.marked, x)
	return x, nil
}

func (p *Port) join(lane int, m Mark) (*Socket, error) {
	if lane < 0 || lane >= len(p.Bulk) {
		return nil, fmt.Errorf("lane %d: there are %d", lane, len(p.Bulk))
	}
	at := p.Probe.LocalAddr()
	if m.Source.IsValid() && m.Source.Is4() != at.Addr().Is4() {
		return nil, fmt.Errorf("source %v of a port at %v: %w", m.Source, at, syscall.EAFNOSUPPORT)
	}
	r := bulkRole(lane)
	r.tos, r.priority = int(m.TOS), int(m.Priority)
	r.receive, r.send = 1, markedSend(m.Queue)
	if m.Device != "" {
		i, err := net.InterfaceByName(m.Device)
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", m.Device, syscall.ENODEV)
		}
		r.device = i.Index
	}
	s, err := newSocket(at, r, p.Control.inbox)
	if err != nil {
		return nil, err
	}
	s.source = m.Source
	return s, nil
}

// markedSend returns the buffer for so many bytes of packets. The kernel counts what it keeps
// of each with them.
func markedSend(queue int) int {
	return min(max(queue, minMarkedSend), maxMarkedSend)
}

// SetQueue changes how many bytes may wait for the device, within limits: 128 kB at least.
func (m *Marked) SetQueue(bytes int) error {
	m.use.RLock()
	defer m.use.RUnlock()
	if m.socket.fd < 0 {
		return net.ErrClosed
	}
	return setBuffer(m.socket.fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, markedSend(bytes))
}

// Waiting returns how many bytes wait for the device, with what the kernel keeps of each packet.
func (m *Marked) Waiting() int {
	m.use.RLock()
	defer m.use.RUnlock()
	return m.socket.Waiting()
}

// Close frees the socket once nobody is sending.
func (m *Marked) Close() error {
	m.port.mu.Lock()
	m.port.marked = slices.DeleteFunc(m.port.marked, func(o *Marked) bool { return o == m })
	m.port.mu.Unlock()
	m.use.Lock()
	defer m.use.Unlock()
	return m.socket.Close()
}

// Writer returns a writer, for one goroutine.
func (m *Marked) Writer() *MarkedWriter { return &MarkedWriter{m, m.socket.Writer()} }

// A MarkedWriter sends by a marked socket, for one goroutine.
type MarkedWriter struct {
	m *Marked
	w *Writer
}

// Send is Writer.TrySend; it fails with net.ErrClosed once the socket is closed.
func (w *MarkedWriter) Send(to netip.AddrPort, b []byte, segment int) (rest []byte, err error) {
	w.m.use.RLock()
	defer w.m.use.RUnlock()
	if w.m.socket.fd < 0 {
		return b, net.ErrClosed
	}
	return w.w.TrySend(to, b, segment)
}

// Waiting returns how many bytes of packets wait for the device, with what the kernel keeps of
// each, and 0 if that can't be told.
func (s *Socket) Waiting() int {
	n, err := unix.IoctlGetInt(s.fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}

// leaveBy has all that a socket sends leave by an interface. Unlike SO_BINDTODEVICE it doesn't
// change what comes to the socket, and takes no rights.
func leaveBy(fd int, ipv4 bool, device int) error {
	if device == 0 {
		return nil
	}
	level, option := unix.IPPROTO_IPV6, unix.IPV6_UNICAST_IF
	if ipv4 {
		level, option = unix.IPPROTO_IP, unix.IP_UNICAST_IF
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, int(htonl(uint32(device)))))
}
