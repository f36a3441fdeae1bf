package p2p

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
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
	close context.CancelFunc
	wake  chan struct{} // there may be something

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

// Send queues a message of 1 to discovery.MaxMessage bytes to a connected agent
// and keeps msg. It never blocks: when the peer doesn't take its messages, the
// oldest are dropped, and what can't be sent at all is too; both are counted.
func (n *Node) Send(to overlay.AgentID, msg []byte) {
	n.mu.Lock()
	box := n.peers[to]
	n.mu.Unlock()
	if box == nil || len(msg) == 0 || len(msg) > discovery.MaxMessage {
		n.lost.Add(1)
		return
	}
	n.lost.Add(box.push(msg))
}

// drain sends what is in the peer's outbox until ctx ends.
func (n *Node) drain(ctx context.Context, p peer.ID, box *outbox) {
	var s network.Stream
	var buf []byte
	defer func() {
		if s != nil {
			_ = s.Reset()
		}
	}()
	for {
		msg := box.pop()
		if msg == nil {
			select {
			case <-ctx.Done():
				return
			case <-box.wake:
			}
			continue
		}
		var err error
		if s == nil {
			if s, err = n.stream(ctx, p); err != nil {
				n.lost.Add(1)
				s = nil
				select {
				case <-ctx.Done():
					return
				case <-time.After(openAgain):
				}
				continue
			}
		}
		buf = append(binary.BigEndian.AppendUint32(buf[:0], uint32(len(msg))), msg...)
		_ = s.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err = s.Write(buf); err != nil {
			n.lost.Add(1)
			_ = s.Reset()
			s = nil
		}
	}
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
