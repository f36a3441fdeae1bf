package nsi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync"
	"time"

	"farlan/reserve/nsi/cs"
)

const (
	maxCallback = 64 << 10 // bytes; summaries that come asynchronously are the largest
	callbackFor = 10 * time.Second
)

// A waiter is a call that waits for what its request comes to.
type waiter struct {
	correlation string
	connection  string // "" until it is known
	got         chan cs.Message
}

// An inbox hands what the provider tells to those who wait for it. What nobody waits for is
// passed over: it is late, told twice, or somebody else's.
type inbox struct {
	mu      sync.Mutex
	waiters map[*waiter]struct{}
}

func newInbox() *inbox { return &inbox{waiters: make(map[*waiter]struct{})} }

// expect must come before the request is sent: answers may overtake its acknowledgment.
func (b *inbox) expect(correlation, connection string) *waiter {
	w := &waiter{correlation, connection, make(chan cs.Message, 16)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiters[w] = struct{}{}
	return w
}

func (b *inbox) named(w *waiter, connection string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w.connection = connection
}

func (b *inbox) forget(w *waiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiters, w)
}

// deliver gives a message to whom it is for. An answer is for whoever sent what it answers, and
// must be about the same connection; a notice for all who wait for something of its connection.
func (b *inbox) deliver(m cs.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for w := range b.waiters {
		same := w.connection != "" && w.connection == m.Connection
		mine := w.correlation == m.Correlation && (same || w.connection == "" || m.Connection == "")
		if len(m.Notices) > 0 {
			mine = same
		}
		if !mine {
			continue
		}
		select {
		case w.got <- m:
		default: // it has enough to think about, and asks, too
		}
	}
}

// Serve takes the provider's callbacks until ctx ends. Without a callback server it only waits.
func (d *Driver) Serve(ctx context.Context) error {
	if d.cfg.Callback.Listener == nil {
		<-ctx.Done()
		return nil
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(d.callback), TLSConfig: d.callbacks.Clone(), ReadTimeout: callbackFor,
		WriteTimeout: callbackFor, IdleTimeout: callbackFor, MaxHeaderBytes: 16 << 10, ErrorLog: log.New(io.Discard, "", 0),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.ServeTLS(d.cfg.Callback.Listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("nsi: callbacks: %w", err)
	}
	return nil
}

// callback takes one; the handshake has seen to it that the provider calls.
func (d *Driver) callback(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCallback))
	if err != nil || r.Method != http.MethodPost {
		http.Error(w, "SOAP by POST is spoken here", http.StatusBadRequest)
		return
	}
	m, err := cs.Parse(b)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	reply := d.hear(m)
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	if reply.Op == cs.Fault {
		w.WriteHeader(http.StatusInternalServerError)
	}
	_, _ = w.Write(reply.Append(nil))
}

// hear takes a message of the provider's and returns what to answer.
func (d *Driver) hear(m cs.Message) cs.Message {
	reply := cs.Message{Header: m.Header, Op: cs.Acknowledgment}
	reply.Protocol, reply.ReplyTo = cs.ToRequester, ""
	if m.Requester != d.cfg.Requester || m.Provider != d.cfg.Provider || replies[m.Op] != "" {
		reply.Op = cs.Fault
		reply.Exception = &cs.Exception{NSA: d.cfg.Requester, ID: cs.Unauthorized, Text: "this is " + d.cfg.Requester + ", of " + d.cfg.Provider}
		return reply
	}
	for _, n := range m.Notices {
		d.book.notice(n)
	}
	d.inbox.deliver(m)
	return reply
}
