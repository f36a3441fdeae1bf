//go:build linux

// Package link owns the UDP port of an agent: two sockets on one address, so
// that a hole punched in a NAT for one serves the other, and a flood of frames
// does not delay control.
//
//	Control  QUIC: datagrams whose first byte has one of its two top bits set
//	Socket   ours: datagrams whose first byte has neither
//
// The kernel tells them apart with a classic BPF program on the first byte of
// the payload (SO_ATTACH_REUSEPORT_CBPF). Both receive aggregates of datagrams
// (UDP_GRO), which is where the speed comes from; two traps come with it:
//
//   - Which socket's UDP_GRO setting counts is decided by a hash of the flow
//     before the program runs, so Control must have it on too, and splits what
//     it reads (with it off there, 3 to 8 of 10 flows were aggregated; with it
//     on all were).
//   - The kernel aggregates datagrams of one flow whatever their first byte,
//     so that a run of ours may swallow a QUIC datagram that follows it. Ours
//     leave with a hop limit that is one less, which keeps the kinds apart
//     where the kernel compares it (Linux 6.10 and later; measured over IPv6:
//     0 of 500 QUIC datagrams swallowed, all 500 with equal hop limits). What
//     is merged all the same is handed to the other socket in memory.
//
// Nothing here starts a goroutine; Close unblocks readers and writers.
package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Buffer sizes that Open asks for; the kernel doubles them for its own
// bookkeeping, and without CAP_NET_ADMIN caps them at net.core.[rw]mem_max.
const (
	receiveBuffer = 4 << 20 // 10 ms at 3 Gbit/s
	sendBuffer    = 1 << 20 // some fifteen aggregates
)

// A Pair is the two sockets of one address and port. Each may be closed on its
// own.
type Pair struct {
	Control *Control
	Data    *Socket
}

// Open binds both sockets to addr, whose family decides that of the sockets
// (IPv6 ones carry no IPv4). Port 0 means any. The returned error wraps the
// system's: syscall.EADDRINUSE if anybody has the port, another agent of this
// user included, EADDRNOTAVAIL if the host has no such address, EACCES if the
// port is privileged.
func Open(addr netip.AddrPort) (*Pair, error) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	p, err := open(addr)
	if err != nil {
		return nil, fmt.Errorf("link: open UDP %v: %w", addr, err)
	}
	return p, nil
}

func open(addr netip.AddrPort) (*Pair, error) {
	// The first socket is bound plainly: sharing the port from the start would
	// let a second agent of the same user join it unnoticed.
	control, err := listen(addr, nil)
	if err != nil {
		return nil, err
	}
	err = with(control, tuneControl)
	if err != nil {
		return nil, errors.Join(err, control.Close())
	}
	addr = netip.AddrPortFrom(addr.Addr(), local(control).Port())
	data, err := listen(addr, func(fd int) error { return tuneData(fd, addr.Addr().Is4()) })
	if err != nil {
		return nil, errors.Join(err, control.Close())
	}
	if err := with(data, steer); err != nil {
		return nil, errors.Join(err, control.Close(), data.Close())
	}
	return newPair(control, data)
}

func newPair(control, data *net.UDPConn) (*Pair, error) {
	raw, err := data.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, control.Close(), data.Close())
	}
	toControl, toData := newInbox(control), newInbox(data)
	return &Pair{
		Control: newControl(control, toControl, toData),
		Data:    &Socket{conn: data, raw: raw, inbox: toData, other: toControl},
	}, nil
}

// Close closes both sockets.
func (p *Pair) Close() error {
	return errors.Join(p.Control.Close(), p.Data.Close())
}

// listen returns a socket bound to addr that was prepared by set before.
func listen(addr netip.AddrPort, set func(fd int) error) (*net.UDPConn, error) {
	network := "udp6"
	if addr.Addr().Is4() {
		network = "udp4"
	}
	var lc net.ListenConfig
	if set != nil {
		lc.Control = func(_, _ string, raw syscall.RawConn) error { return onFD(raw, set) }
	}
	c, err := lc.ListenPacket(context.Background(), network, addr.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// tuneControl lets the data socket join the port and turns on UDP_GRO, without
// which the flows that hash to this socket would not be aggregated.
func tuneControl(fd int) error {
	return errors.Join(
		setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		setInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1),
	)
}

func tuneData(fd int, ipv4 bool) error {
	level, option := unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	if ipv4 {
		level, option = unix.IPPROTO_IP, unix.IP_TTL
	}
	hops, err := unix.GetsockoptInt(fd, level, option)
	return errors.Join(err,
		setInt(fd, level, option, max(hops-1, 1)),
		setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		setInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1),
		setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer),
		setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer),
	)
}

// Places of the sockets in the port's group: in the order of joining it.
const (
	controlIndex = iota
	dataIndex
)

// steer attaches the program that chooses a datagram's socket. It sees the
// payload; a datagram without any goes to place 0, as BPF has it.
func steer(fd int) error {
	prog, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: kindBits, SkipTrue: 1},
		bpf.RetConstant{Val: dataIndex},
		bpf.RetConstant{Val: controlIndex},
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(prog))
	for i, in := range prog {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return wrap("attach port program",
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &fprog))
}

// kindBits are the bits of a datagram's first byte of which QUIC sets one.
const kindBits = 0xc0

// ours says whether datagram d belongs to the data socket.
func ours(d []byte) bool { return len(d) > 0 && d[0]&kindBits == 0 }

func setInt(fd, level, option, value int) error {
	return wrap("setsockopt", unix.SetsockoptInt(fd, level, option, value))
}

// setBuffer sets a buffer's size past the system's limit if the process may,
// else up to it.
func setBuffer(fd, force, option, size int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) == nil {
		return nil
	}
	return setInt(fd, unix.SOL_SOCKET, option, size)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// with calls f with c's file descriptor.
func with(c *net.UDPConn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return onFD(raw, f)
}

func onFD(raw syscall.RawConn, f func(fd int) error) error {
	var err error
	if e := raw.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}

// local returns the address that c is bound to.
func local(c *net.UDPConn) netip.AddrPort {
	a := c.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
