//go:build linux

package link

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Socket sends and receives our datagrams without waiting for any. Reads and
// writes may go on at the same time; each goroutine needs a Batch and a Writer
// of its own.
type Socket struct {
	fd    int
	addr  netip.AddrPort
	hops  int // hop limit
	role  role
	inbox *inbox // Control's

	source netip.Addr // from which it sends, invalid: as routes and bind say
}

// newSocket returns a socket of r that is bound to addr.
func newSocket(addr netip.AddrPort, r role, in *inbox) (*Socket, error) {
	family := unix.AF_INET6
	if addr.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	hops, err := r.tune(fd, family == unix.AF_INET)
	if err == nil {
		err = bind(fd, addr)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &Socket{fd: fd, addr: addr, hops: hops, role: r, inbox: in}, nil
}

// FD returns the descriptor, to be polled: it is readable when Read finds
// something.
func (s *Socket) FD() int { return s.fd }

// LocalAddr returns the address and port that the socket is bound to.
func (s *Socket) LocalAddr() netip.AddrPort { return s.addr }

// Close frees the socket. Nobody may be using it, or a poller that has its
// descriptor, or do so later: the number may be another file's at once. The
// port's other sockets must be closed too, as the steering is by place in a list
// that the kernel now reorders; but see Marked.
func (s *Socket) Close() error {
	fd := s.fd
	if fd < 0 {
		return net.ErrClosed
	}
	s.fd = -1
	return os.NewSyscallError("close", unix.Close(fd))
}

// maxRefusals is how many errors of datagrams sent before one Read passes over;
// with more, the next one goes on.
const maxRefusals = 16

// Read fills b with what has come, and never waits: b is empty if nothing is
// there. Errors that others cause (ICMP) do not surface.
func (s *Socket) Read(b *Batch) error {
	for range maxRefusals {
		switch e := b.recvmmsg(s.fd); {
		case e == 0:
			s.sift(b)
			return nil
		case e == unix.EAGAIN:
			return nil
		case !transient(e):
			return os.NewSyscallError("recvmmsg", e)
		}
	}
	return nil
}

// sift hands QUIC's datagrams in b to Control.
func (s *Socket) sift(b *Batch) {
	for i := range b.n {
		b.msgs[i].n = uint32(sift(b.Data(i), b.seg[i], true, func(d []byte) { s.inbox.put(b.From(i), d) }))
	}
}

// sift takes the datagrams out of aggregate d for which ours is not want, and
// returns how long the rest is.
func sift(d []byte, segment int, want bool, stray func(d []byte)) int {
	for at := 0; at < len(d); {
		end := min(at+segment, len(d))
		if ours(d[at:end]) == want {
			at = end
			continue
		}
		stray(d[at:end])
		d = append(d[:at], d[end:]...)
	}
	return len(d)
}

// transient says whether a read that failed with e may be repeated: an error
// of some datagram before, which the kernel reports once.
func transient(e syscall.Errno) bool {
	switch e {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENETDOWN,
		unix.ENOPROTOOPT, unix.EPROTO, unix.EMSGSIZE, unix.EACCES, unix.EPERM, unix.EINTR,
		unix.ENOBUFS, unix.ENOMEM:
		return true
	}
	return false
}
