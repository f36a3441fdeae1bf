package p2p

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	msmux "github.com/multiformats/go-multistream"
	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// Where no UDP passes, the data plane's datagrams ride a TCP connection: the pipe
// protocol. Who can't be reached otherwise opens a stream to a member, and both
// sides write datagrams to it, each after its length:
//
//	0–1  length n of the datagram, big endian, 1 to overlay.MaxDatagram
//	2–   datagram, n bytes
//
// A wrong length resets the stream. Datagrams are sealed end to end; the pipe adds
// nothing but the connection's own TLS.
const (
	pipeProtocol = protocol.ID("/farlan/pipe/1")

	pipeLengthLen = 2

	// What waits for a pipe is at most this; then the oldest are dropped, as a
	// router's queue does it, or delay would grow without end while TCP repeats
	// what was lost. It is 100 ms at 20 Mbit/s.
	pipeBytes     = 256 << 10
	pipeDatagrams = 1024
	// unsentBytes is how much of it the kernel takes ahead of what TCP may send
	// (tcp(7), TCP_NOTSENT_LOWAT): what it holds can't be dropped.
	unsentBytes = 64 << 10
	// deafAfter is how long what was sent may go unacknowledged (TCP_USER_TIMEOUT):
	// members that have moved away can't end a connection, as its address isn't theirs
	// any more. Stores compare themselves every five seconds, so there is always
	// something to acknowledge.
	deafAfter = 10 * time.Second
	// pipeWrite is how much is written at a time: libp2p's multiplexer queues 64
	// writes.
	pipeWrite = 4 << 10
	// pipeRead is how much is read at a time, and handed over in one go.
	pipeRead = 32 << 10

	// maxPipes is how many pipes an agent holds. Beyond, new ones are refused:
	// those that want one try another member.
	maxPipes = 256
)

// A Pipe carries datagrams to and from a member over TCP. Its methods are safe for
// concurrent use.
type Pipe struct {
	Peer   overlay.AgentID
	Opened bool           // by this agent
	Remote netip.AddrPort // where the connection leads
	Owner  any            // for who takes PipeUp, which is called before Piped and PipeDown

	node   *Node
	stream network.Stream
	box    *outbox
}

// Send queues the datagrams that lie end to end in b, each segment bytes long but
// the last, which may be shorter. It copies them and never blocks: when they don't
// get away, the oldest are dropped and counted.
func (p *Pipe) Send(b []byte, segment int) error {
	if segment <= 0 {
		segment = len(b)
	}
	if min(segment, len(b)) > overlay.MaxDatagram {
		return syscall.EMSGSIZE
	}
	for len(b) > 0 {
		d := b[:min(segment, len(b))]
		b = b[len(d):]
		msg := make([]byte, 0, pipeLengthLen+len(d))
		msg = append(binary.BigEndian.AppendUint16(msg, uint16(len(d))), d...)
		p.node.unpiped.Add(p.box.push(msg))
	}
	return nil
}

// Close ends the pipe, which PipeDown tells.
func (p *Pipe) Close() { p.node.spawn(func() { _ = p.stream.Reset() }) }

// OpenPipe opens a pipe to a member at any of some addresses; PipeUp tells of it. A
// connection by QUIC is given up: OpenPipe is for when no UDP passes, which libp2p
// would notice only after half a minute.
func (n *Node) OpenPipe(ctx context.Context, id overlay.AgentID, addrs []netip.AddrPort) error {
	if err := n.openPipe(ctx, id, addrs); err != nil {
		return fmt.Errorf("pipe to %s: %w", id.Short(), reason(err))
	}
	return nil
}

func (n *Node) openPipe(ctx context.Context, id overlay.AgentID, addrs []netip.AddrPort) error {
	p, err := peerID(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if n.byTCP(p) == nil {
		n.piping.Add(1)
		defer n.piping.Add(-1)
		for _, c := range n.host.Network().ConnsToPeer(p) {
			_ = c.Close()
		}
		var all []ma.Multiaddr
		for _, a := range addrs {
			if m, bad := multiaddr(a, TCP); bad == nil {
				all = append(all, m)
			}
		}
		if err = n.host.Connect(ctx, peer.AddrInfo{ID: p, Addrs: all}); err != nil {
			return err
		}
	}
	c := n.byTCP(p)
	if c == nil {
		return errors.New("there is no connection by TCP")
	}
	s, err := c.NewStream(ctx)
	if err != nil {
		return err
	}
	_ = s.SetDeadline(time.Now().Add(dialTimeout))
	if err = s.SetProtocol(pipeProtocol); err == nil {
		err = msmux.SelectProtoOrFail(pipeProtocol, s)
	}
	if err == nil {
		err = s.SetDeadline(time.Time{})
	}
	if err == nil && !n.spawn(func() { n.pipe(id, s, true) }) {
		err = context.Canceled
	}
	if err != nil {
		_ = s.Reset()
	}
	return err
}

// byTCP returns a connection by TCP to a peer, nil if there is none.
func (n *Node) byTCP(p peer.ID) network.Conn {
	for _, c := range n.host.Network().ConnsToPeer(p) {
		if _, by, ok := addrPort(c.RemoteMultiaddr()); ok && by == TCP && !c.IsClosed() {
			return c
		}
	}
	return nil
}

// acceptPipe takes a pipe that a member has opened.
func (n *Node) acceptPipe(s network.Stream) {
	if !n.begin() {
		_ = s.Reset()
		return
	}
	defer n.tasks.Done()
	id, ok := agentID(s.Conn().RemotePeer())
	_, by, _ := addrPort(s.Conn().RemoteMultiaddr())
	if !ok || by != TCP || n.up(s.Conn().RemotePeer()) == nil {
		_ = s.Reset()
		return
	}
	n.pipe(id, s, false)
}

// pipe carries datagrams until stream s ends.
func (n *Node) pipe(id overlay.AgentID, s network.Stream, opened bool) {
	defer func() { _ = s.Reset() }()
	remote, _, _ := addrPort(s.Conn().RemoteMultiaddr())
	p := &Pipe{Peer: id, Opened: opened, Remote: remote, node: n, stream: s, box: newBoundedOutbox(pipeDatagrams, pipeBytes)}
	old, ok := n.addPipe(p)
	if !ok {
		return
	}
	if old != nil {
		_ = old.stream.Reset()
	}
	ctx, cancel := context.WithCancel(n.ctx)
	defer cancel()
	if !n.spawn(func() { p.drain(ctx) }) {
		return
	}
	n.cfg.PipeUp(p)
	err := readPipe(s, func(ds [][]byte) { n.cfg.Piped(p, ds) })
	n.cfg.Log.Debug("pipe ended", "peer", id.Short(), "reason", err)
	n.mu.Lock()
	if n.pipes[id] == p {
		delete(n.pipes, id)
	}
	n.mu.Unlock()
	n.cfg.PipeDown(p)
}

// addPipe makes p the member's pipe, and returns the one that it replaces; not ok
// if there are too many.
func (n *Node) addPipe(p *Pipe) (old *Pipe, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	old = n.pipes[p.Peer]
	if n.closed || n.cfg.PipeUp == nil || old == nil && len(n.pipes) >= maxPipes {
		return nil, false
	}
	n.pipes[p.Peer] = p
	return old, true
}

// hasPipe says whether there is a pipe to a member.
func (n *Node) hasPipe(id overlay.AgentID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pipes[id] != nil
}

// drain writes what is queued until ctx ends.
func (p *Pipe) drain(ctx context.Context) {
	buf := make([]byte, 0, pipeWrite+pipeLengthLen+overlay.MaxDatagram)
	for {
		buf = buf[:0]
		for len(buf) < pipeWrite {
			msg := p.box.pop()
			if msg == nil {
				break
			}
			buf = append(buf, msg...)
		}
		if len(buf) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-p.box.wake:
			}
			continue
		}
		_ = p.stream.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := p.stream.Write(buf); err != nil {
			_ = p.stream.Reset() // which ends the reader
			return
		}
	}
}

// readPipe reads datagrams until an error, which it returns, and hands over those
// that came in one go. They are take's for the call.
func readPipe(s io.Reader, take func(ds [][]byte)) error {
	r := bufio.NewReaderSize(s, pipeRead)
	buf := make([]byte, 0, pipeRead)
	var ds [][]byte
	for {
		head, err := r.Peek(pipeLengthLen)
		if err != nil {
			return err
		}
		length := int(binary.BigEndian.Uint16(head))
		if length == 0 || length > overlay.MaxDatagram {
			return fmt.Errorf("datagram of %d bytes", length)
		}
		_, _ = r.Discard(pipeLengthLen)
		at := len(buf)
		buf = buf[:at+length]
		if _, err := io.ReadFull(r, buf[at:]); err != nil {
			return err
		}
		ds = append(ds, buf[at:at+length:at+length])
		if !whole(r) || cap(buf)-len(buf) < overlay.MaxDatagram {
			take(ds)
			ds, buf = ds[:0], buf[:0]
		}
	}
}

// whole says whether a whole datagram waits in r.
func whole(r *bufio.Reader) bool {
	if r.Buffered() < pipeLengthLen {
		return false
	}
	head, _ := r.Peek(pipeLengthLen)
	return r.Buffered() >= pipeLengthLen+int(binary.BigEndian.Uint16(head))
}

// hurry keeps the kernel from taking more than TCP may soon send, and from sending for
// longer than deafAfter to somebody who has moved away.
func hurry(c net.Conn) {
	if t, ok := c.(syscall.Conn); ok {
		if raw, err := t.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentBytes)
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deafAfter.Milliseconds()))
			})
		}
	}
}
