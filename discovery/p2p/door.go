package p2p

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"
)

// Every datagram of the control plane is sealed with the network's control key,
// whatever is inside (QUIC's long headers, short ones, stateless resets):
//
//	0      0xC0 | version 1. The two top bits are what tells it from the data
//	       plane's datagrams on the same port
//	1–24   random nonce
//	25–    the QUIC packet, XChaCha20-Poly1305, byte 0 as associated data
//	       tag, 16 bytes
//
// What doesn't open was not sent by a member: it is counted and gets no answer,
// so a stranger can't even learn that somebody listens. Control traffic is
// small, so the cost (about 1 µs a datagram) doesn't matter.
//
// A QUIC packet has at most 1,280 bytes here: quic-go looks for a greater MTU
// only on sockets that it can forbid to fragment, and it can't reach through
// ours. So sealed datagrams have at most 1,321 bytes.
const (
	doorByte     = 0xc0 | 1
	doorHead     = 1 + chacha20poly1305.NonceSizeX
	doorOverhead = doorHead + chacha20poly1305.Overhead

	// doorBuffer is as long as any datagram that quic-go may take, 1,452 bytes,
	// sealed; longer ones are cut, don't open, and are dropped.
	doorBuffer = 2048
)

// A door seals and opens datagrams. It is safe for concurrent use.
type door struct{ aead cipher.AEAD }

func newDoor(key [32]byte) (door, error) {
	aead, err := chacha20poly1305.NewX(key[:])
	return door{aead}, err
}

// seal appends b, sealed with a nonce that was never used before, to dst.
func (d door) seal(dst []byte, nonce [chacha20poly1305.NonceSizeX]byte, b []byte) []byte {
	n := len(dst)
	dst = append(append(dst, doorByte), nonce[:]...)
	return d.aead.Seal(dst, nonce[:], b, dst[n:n+1])
}

// open appends to dst what is sealed in b.
func (d door) open(dst, b []byte) ([]byte, bool) {
	if len(b) < doorOverhead || b[0] != doorByte {
		return nil, false
	}
	out, err := d.aead.Open(dst, b[1:doorHead], b[doorHead:], b[:1])
	return out, err == nil
}

// A doorConn is a UDP socket behind the door. It hides the socket's other
// methods from quic-go on purpose: with them it would read and write past the
// door.
type doorConn struct {
	net.PacketConn
	door    door
	in      [doorBuffer]byte // quic-go reads in one goroutine
	out     sync.Pool        // of *[]byte, for writers
	dropped atomic.Uint64
}

func newDoorConn(c net.PacketConn, d door) *doorConn {
	return &doorConn{
		PacketConn: c,
		door:       d,
		out:        sync.Pool{New: func() any { b := make([]byte, 0, doorBuffer); return &b }},
	}
}

// ReadFrom reads the next datagram of a member into p. It is for one goroutine.
func (c *doorConn) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.PacketConn.ReadFrom(c.in[:])
		if err != nil {
			return 0, from, err
		}
		if n-doorOverhead <= len(p) {
			if b, ok := c.door.open(p[:0], c.in[:n]); ok {
				return len(b), from, nil
			}
		}
		c.dropped.Add(1)
	}
}

// WriteTo seals and sends b.
func (c *doorConn) WriteTo(b []byte, to net.Addr) (int, error) {
	buf := c.out.Get().(*[]byte)
	defer c.out.Put(buf)
	var nonce [chacha20poly1305.NonceSizeX]byte
	_, _ = rand.Read(nonce[:]) // never fails
	*buf = c.door.seal((*buf)[:0], nonce, b)
	if _, err := c.PacketConn.WriteTo(*buf, to); err != nil {
		return 0, err
	}
	return len(b), nil
}

// SetReadBuffer leaves the buffer as the socket's owner made it. quic-go wants
// the method and prints a warning without it.
func (c *doorConn) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does as SetReadBuffer.
func (c *doorConn) SetWriteBuffer(int) error { return nil }

// doors are the sockets behind their doors, at most one of each family.
type doors struct{ udp4, udp6 *doorConn }

// newDoors puts sockets behind the door.
func newDoors(sockets []net.PacketConn, key [32]byte) (doors, error) {
	d, err := newDoor(key)
	if err != nil {
		return doors{}, err
	}
	var ds doors
	for _, s := range sockets {
		addr, ok := s.LocalAddr().(*net.UDPAddr)
		if !ok {
			return doors{}, fmt.Errorf("socket %v is not a UDP socket", s.LocalAddr())
		}
		slot := &ds.udp6
		if addr.IP.To4() != nil {
			slot = &ds.udp4
		}
		if *slot != nil {
			return doors{}, fmt.Errorf("two sockets of one address family: %v and %v", (*slot).LocalAddr(), addr)
		}
		*slot = newDoorConn(s, d)
	}
	if len(ds.all()) == 0 {
		return doors{}, errors.New("no socket")
	}
	return ds, nil
}

func (ds doors) all() []*doorConn {
	var out []*doorConn
	for _, c := range []*doorConn{ds.udp4, ds.udp6} {
		if c != nil {
			out = append(out, c)
		}
	}
	return out
}

// of returns the socket of a family, "udp4" or "udp6".
func (ds doors) of(network string) (*doorConn, error) {
	switch {
	case network == "udp4" && ds.udp4 != nil:
		return ds.udp4, nil
	case network == "udp6" && ds.udp6 != nil:
		return ds.udp6, nil
	}
	return nil, fmt.Errorf("no %s socket", network)
}

func (ds doors) dropped() (n uint64) {
	for _, c := range ds.all() {
		n += c.dropped.Load()
	}
	return n
}

func (ds doors) close() error {
	var errs []error
	for _, c := range ds.all() {
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
