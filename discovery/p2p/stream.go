package p2p

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"farlan/discovery"
	"farlan/overlay"
)

// The records protocol, "/farlan/<network>/records/1" for each network key: each side opens one
// stream to the other when it has something to send and keeps it open. A stream
// carries messages one way, each after its length:
//
//	0–3  length n of the message, big endian, 1 to discovery.MaxMessage
//	4–   message, n bytes
//
// A wrong length resets the stream. Messages can be lost with a connection; the
// stores heal that.
const (
	lengthLen = 4

	// An outbox holds what a peer is to be sent: at most 1,024 messages and
	// 4 MB, several times what one Flush of a store gives. Beyond, the oldest
	// are dropped.
	outboxMessages = 1024
	outboxBytes    = 4 << 20

	openTimeout  = 5 * time.Second
	writeTimeout = 30 * time.Second // QUIC itself gives up on a silent peer after 30 s
	openAgain    = time.Second      // after a failure
)

// An outbox is a bounded queue of messages to one peer.
type outbox struct {
	wake chan struct{} // there may be something

	maxMsgs, maxBytes int

	mu    sync.Mutex
	msgs  [][]byte
	bytes int
}

func newOutbox() *outbox { return newBoundedOutbox(outboxMessages, outboxBytes) }

func newBoundedOutbox(messages, bytes int) *outbox {
	return &outbox{wake: make(chan struct{}, 1), maxMsgs: messages, maxBytes: bytes}
}

// push adds a message and returns how many had to go.
func (o *outbox) push(msg []byte) (dropped uint64) {
	o.mu.Lock()
	o.msgs = append(o.msgs, msg)
	o.bytes += len(msg)
	for len(o.msgs) > o.maxMsgs || o.bytes > o.maxBytes {
		o.bytes -= len(o.msgs[0])
		o.msgs[0] = nil
		o.msgs = o.msgs[1:]
		dropped++
	}
	o.mu.Unlock()
	nudge(o.wake)
	return dropped
}

// pop returns the oldest message, nil if there is none.
func (o *outbox) pop() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.msgs) == 0 {
		o.msgs = nil
		return nil
	}
	msg := o.msgs[0]
	o.msgs[0] = nil
	o.msgs = o.msgs[1:]
	o.bytes -= len(msg)
	return msg
}

func (o *outbox) empty() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.msgs) == 0
}

// A sender sends a connected agent what is in its outbox. It costs a goroutine only
// while there is something.
type sender struct {
	*outbox
	peer peer.ID
	ctx  context.Context // ends when the agent isn't connected any more
	end  context.CancelFunc

	draining atomic.Bool
	stream   network.Stream // drain's; nil: not opened yet
	buf      []byte         // drain's
}

func newSender(ctx context.Context, p peer.ID) *sender {
	s := &sender{outbox: newOutbox(), peer: p}
	s.ctx, s.end = context.WithCancel(ctx)
	return s
}

// Send queues a message of 1 to discovery.MaxMessage bytes to a connected agent
// and keeps msg. It never blocks: when the peer doesn't take its messages, the
// oldest are dropped, and what can't be sent at all is too; both are counted.
func (n *Node) Send(to overlay.AgentID, msg []byte) {
	n.mu.Lock()
	s := n.peers[to]
	n.mu.Unlock()
	if s == nil || len(msg) == 0 || len(msg) > discovery.MaxMessage {
		n.lost.Add(1)
		return
	}
	n.lost.Add(s.push(msg))
	if s.draining.CompareAndSwap(false, true) {
		n.spawn(func() { n.drain(s) })
	}
}

// drain sends what is in a peer's outbox, until it is empty or the peer gone.
func (n *Node) drain(s *sender) {
	for {
		msg := s.pop()
		if msg == nil {
			s.buf = nil
			s.draining.Store(false)
			if s.empty() || !s.draining.CompareAndSwap(false, true) {
				return
			}
			continue
		}
		if err := n.write(s, msg); err != nil {
			n.lost.Add(1)
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(openAgain):
			}
		}
	}
}

// write sends a message on the peer's stream, which it opens if need be.
func (n *Node) write(s *sender, msg []byte) (err error) {
	if s.stream == nil {
		if s.stream, err = n.stream(s.ctx, s.peer); err != nil {
			s.stream = nil
			return err
		}
	}
	s.buf = append(binary.BigEndian.AppendUint32(s.buf[:0], uint32(len(msg))), msg...)
	_ = s.stream.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err = s.stream.Write(s.buf); err != nil {
		_ = s.stream.Reset()
		s.stream = nil
	}
	return err
}

// stream opens a stream on a connection that is there.
func (n *Node) stream(ctx context.Context, p peer.ID) (network.Stream, error) {
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "records"), openTimeout)
	defer cancel()
	return n.host.NewStream(ctx, p, *n.records.Load()...)
}

// accept reads a peer's messages until the stream ends.
func (n *Node) accept(s network.Stream) {
	if !n.begin() {
		_ = s.Reset()
		return
	}
	defer n.tasks.Done()
	p := s.Conn().RemotePeer()
	if id, ok := agentID(p); ok && n.up(p) != nil {
		err := read(s, func(msg []byte) { n.cfg.Message(id, msg) })
		n.cfg.Log.Debug("stream of records ended", "peer", id.Short(), "reason", err)
	}
	_ = s.Reset()
}

// read reads messages until an error, which it returns. Each message has a
// slice of its own.
func read(r io.Reader, take func(msg []byte)) error {
	var head [lengthLen]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		length := binary.BigEndian.Uint32(head[:])
		if length == 0 || length > discovery.MaxMessage {
			return fmt.Errorf("message of %d bytes", length)
		}
		msg := make([]byte, length)
		if _, err := io.ReadFull(r, msg); err != nil {
			return err
		}
		take(msg)
	}
}
