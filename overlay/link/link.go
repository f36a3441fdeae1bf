//go:build linux

// Package link owns the UDP port of an agent: several sockets on one address,
// so that a hole punched in a NAT for one serves all, a flood of bulk frames
// delays neither control nor what somebody waits for, and lanes share no queue.
//
//	Control    QUIC: datagrams whose first byte has one of its two top bits set
//	Probe      ours but data: handshakes, probes
//	Delay      data whose byte 2 has bit 7 set
//	Bulk[i]    other data: byte 2 is the sender's lane, modulo the lanes here
//	Handshake  sends only: what may be fragmented
//	Train      cars of trains; not polled, so that a train's arrival wakes nobody
//	Marked     send only: what is reserved, each for one mark; see Join
//
// A classic BPF program on the payload chooses (SO_ATTACH_REUSEPORT_CBPF); ours
// that end before byte 2 go to Control, which drops them.
//
// Our sockets are bare descriptors that never block: the lane that polls one
// reads and writes it. The runtime's poller must not know them, as it would wake
// a thread for every datagram. Control alone is a net.UDPConn, for QUIC.
//
// # Aggregates
//
// All sockets receive aggregates of datagrams (UDP_GRO), which is where the
// speed comes from. The kernel builds them before it chooses a socket, with
// consequences:
//
//   - Whose UDP_GRO setting counts is decided by a hash of the flow, so every
//     socket has it on, and Control splits what it reads (with it off there, 3
//     to 8 of 10 flows were aggregated; with it on all were).
//   - Datagrams of one flow are aggregated whatever their payload, so a run
//     of one kind may swallow what follows it. The kernel (Linux 6.10 and later)
//     keeps apart what differs in hop limit or class, so each of our sockets
//     sends with a hop limit of its own; DSCP differs too, but networks may
//     clear that. Measured where the packets don't tell the sender's socket, as
//     on a wire (see TestAggregation): of 60 single datagrams sent by turns from
//     five sockets, with QUIC's in between, none was merged with another; with
//     one hop limit and no DSCP 23 were.
//   - QUIC datagrams that come in an aggregate of ours all the same are handed
//     to Control in memory; ours that Control finds are dropped and counted.
//     Probe, Delay and Bulk are not sifted: who reads them handles any kind of
//     ours on any of them.
//   - The receive time is the aggregate's. Probe's writer alternates between two
//     hop limits, so that probes sent back to back keep a time each: 60 came as
//     60 aggregates with 60 times, without it as one.
//
// # Path MTU
//
// Probe, Delay and Bulk set "don't fragment" and ignore what the kernel has
// learned about paths (IP_PMTUDISC_PROBE), since anybody can forge that: a
// datagram longer than the interface's MTU is EMSGSIZE, one longer than a later
// MTU is lost, and the agent finds out by probing. Handshakes come before any
// probing and may be longer than the smallest path's MTU, so Handshake lets them
// be fragmented: by any router over IPv4, by this host over IPv6, where the
// first one may be lost to learn the path's MTU.
//
// Nothing here starts a goroutine.
package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxLanes is how many bulk sockets a port can have. Each takes a hop limit of
// its own, and a lane that polls it.
const MaxLanes = 8

// A Config says how Open makes a port.
type Config struct {
	Lanes int // bulk sockets, 1 to MaxLanes
}

// A Port is the sockets of one address and UDP port.
type Port struct {
	Control   *Control
	Probe     *Socket   // handshakes and probes; every kind of ours but data
	Delay     *Socket   // data of overlay.ClassDelay, sent and received
	Bulk      []*Socket // data of overlay.ClassBulk, by lane
	Handshake *Socket   // sends handshakes, fragmented if need be; nothing arrives here
	Train     *Socket   // cars of trains, each with a receive time of its own as Probe's

	mu     sync.Mutex // guards marked
	marked []*Marked
}

// Open binds a port's sockets to addr, whose family decides that of the sockets
// (IPv6 ones carry no IPv4). Port 0 means any. The returned error wraps the
// system's: syscall.EADDRINUSE if anybody has the port, another agent of this
// user included, EADDRNOTAVAIL if the host has no such address, EACCES if the
// port is privileged.
func Open(addr netip.AddrPort, c Config) (*Port, error) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	if c.Lanes < 1 || c.Lanes > MaxLanes {
		return nil, fmt.Errorf("link: open UDP %v: %d lanes, want 1 to %d", addr, c.Lanes, MaxLanes)
	}
	p, err := open(addr, c.Lanes)
	if err != nil {
		return nil, fmt.Errorf("link: open UDP %v: %w", addr, err)
	}
	return p, nil
}

func open(addr netip.AddrPort, lanes int) (*Port, error) {
	// The first socket is bound plainly: sharing the port from the start would
	// let a second agent of the same user join it unnoticed.
	conn, err := listen(addr)
	if err != nil {
		return nil, err
	}
	in := newInbox(conn)
	p := &Port{Control: &Control{conn: conn, inbox: in}}
	if err = with(conn, tuneControl); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	addr = netip.AddrPortFrom(addr.Addr(), conn.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	add := func(r role) *Socket {
		if err != nil {
			return nil
		}
		var s *Socket
		s, err = newSocket(addr, r, in)
		return s
	}
	// In the order of their places: see steer.
	p.Probe, p.Delay = add(probeRole), add(delayRole)
	for i := range lanes {
		p.Bulk = append(p.Bulk, add(bulkRole(i)))
	}
	p.Handshake, p.Train = add(handshakeRole), add(trainRole)
	if err == nil {
		err = steer(p.Probe.fd, lanes)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Close closes all sockets that are still open. Control's readers are unblocked;
// for the others see Socket.Close.
func (p *Port) Close() error {
	err := p.Control.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	p.mu.Lock()
	marked := slices.Clone(p.marked)
	p.mu.Unlock()
	for _, m := range marked {
		if e := m.Close(); !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	for _, s := range append([]*Socket{p.Probe, p.Delay, p.Handshake, p.Train}, p.Bulk...) {
		if s != nil && s.fd >= 0 {
			err = errors.Join(err, s.Close())
		}
	}
	return err
}

// listen returns a socket bound to addr, for Control.
func listen(addr netip.AddrPort) (*net.UDPConn, error) {
	network := "udp6"
	if addr.Addr().Is4() {
		network = "udp4"
	}
	c, err := new(net.ListenConfig).ListenPacket(context.Background(), network, addr.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// tuneControl lets the other sockets join the port and turns on UDP_GRO, without
// which the flows that hash to this socket would not be aggregated.
func tuneControl(fd int) error {
	return errors.Join(
		setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		setInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1),
	)
}

// with calls f with c's file descriptor.
func with(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if e := raw.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}
