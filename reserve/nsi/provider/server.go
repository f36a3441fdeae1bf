package provider

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"farlan/overlay"
	"farlan/reserve/nsi/cs"
)

const (
	maxRequest = 64 << 10 // bytes
	maxQueue   = 4096     // outputs that wait; later messages are dropped, circuits never
	callTime   = 2 * time.Second
	avoidFor   = 5 * time.Second // how long a requester isn't called that didn't answer
	readTime   = 10 * time.Second
)

// A Plane has the circuits appear and go, and says nil when frames can pass, or can't any more.
// Calls come one after the other; each may be repeated.
type Plane interface {
	Up(ctx context.Context, c Circuit) error
	Down(ctx context.Context, c Circuit) error
}

// A Server is a provider on the network. Its methods are safe for concurrent use.
type Server struct {
	now   func() overlay.Instant
	plane Plane
	tls   *tls.Config
	calls *http.Client
	wake  chan struct{}

	mu    sync.Mutex
	core  *Core
	queue []Output
	avoid map[string]overlay.Instant
	keep  func(state []byte) error // nil: nothing is kept
	last  []byte                   // what was kept
}

// NewServer puts a core behind HTTPS. The TLS configuration has the provider's certificate,
// which it shows both ways, and in RootCAs those whose certificates it takes, both ways; without
// one that they signed nobody is heard; who has one is believed whose requester it is, which is
// good enough for a lab and not for a network of others. Without a plane circuits are up as soon as they should
// be.
func NewServer(core *Core, identity *tls.Config, plane Plane, now func() overlay.Instant) *Server {
	t := identity.Clone()
	t.ClientCAs, t.ClientAuth, t.MinVersion = t.RootCAs, tls.RequireAndVerifyClientCert, tls.VersionTLS12
	return &Server{
		now: now, plane: plane, tls: t, core: core, wake: make(chan struct{}, 1), avoid: make(map[string]overlay.Instant),
		calls: &http.Client{Timeout: callTime, Transport: &http.Transport{TLSClientConfig: t.Clone(), MaxIdleConns: 16, IdleConnTimeout: readTime}},
	}
}

// Serve takes requests until ctx ends; it closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: s, TLSConfig: s.tls.Clone(), ReadTimeout: readTime, IdleTimeout: readTime,
		MaxHeaderBytes: 16 << 10, ErrorLog: log.New(io.Discard, "", 0),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("nsi provider: %w", err)
	}
	return nil
}

// ServeHTTP takes one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		http.Error(w, "a client certificate is needed", http.StatusForbidden)
		return
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil || r.Method != http.MethodPost {
		http.Error(w, "SOAP by POST is spoken here", http.StatusBadRequest)
		return
	}
	m, err := cs.Parse(b)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	reply, ok := s.receive(r.Context(), m)
	if !ok {
		<-r.Context().Done() // no answer: until the requester gives up
		return
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	if reply.Op == cs.Fault {
		w.WriteHeader(http.StatusInternalServerError) // SOAP 1.1 § 6.2
	}
	_, _ = w.Write(reply.Append(nil))
	s.poke()
}

// Keep has the state of the core written by store, whenever it has changed and before anything of
// that is said or done; what can't be written is said in the log and goes on in memory. Call it
// before Serve and Run.
func (s *Server) Keep(store func(state []byte) error) { s.keep = store }

// save keeps the state; s.mu is held.
func (s *Server) save() {
	if s.keep == nil {
		return
	}
	state, err := s.core.Save()
	if err == nil && !bytes.Equal(state, s.last) {
		err = s.keep(state)
		s.last = state
	}
	if err != nil {
		log.Printf("state: %v", err)
	}
}

// receive has the core take a request and sends what must go before the reply.
func (s *Server) receive(ctx context.Context, m cs.Message) (cs.Message, bool) {
	s.mu.Lock()
	reply, ok := s.core.Receive(s.now(), m)
	s.save()
	var first []Output
	s.core.Flush(func(o Output) {
		if o.First {
			first = append(first, o)
		} else {
			s.enqueue(o)
		}
	})
	s.mu.Unlock()
	for _, o := range first {
		s.call(ctx, o)
	}
	return reply, ok
}

// enqueue keeps an output for Run; s.mu is held.
func (s *Server) enqueue(o Output) {
	if len(s.queue) < maxQueue || o.Circuit != nil {
		s.queue = append(s.queue, o)
	}
}

func (s *Server) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run does what the core wants done, and what falls due, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-timer.C:
		}
		if next := s.due(ctx); next != 0 {
			timer.Reset(max(time.Millisecond, next.Sub(s.now())))
		}
	}
}

// due ticks and does what comes of it, and what comes of that, until nothing does.
func (s *Server) due(ctx context.Context) overlay.Instant {
	for {
		s.mu.Lock()
		next := s.core.Tick(s.now())
		s.save()
		s.core.Flush(s.enqueue)
		todo := s.queue
		s.queue = nil
		s.mu.Unlock()
		if len(todo) == 0 {
			return next
		}
		for _, o := range todo {
			if ctx.Err() == nil {
				s.do(ctx, o)
			}
		}
	}
}

func (s *Server) do(ctx context.Context, o Output) {
	if o.Circuit == nil {
		s.call(ctx, o)
		return
	}
	var err error
	switch {
	case s.plane == nil:
	case o.Up:
		err = s.plane.Up(ctx, *o.Circuit)
	default:
		err = s.plane.Down(ctx, *o.Circuit)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.core.Planed(s.now(), o.Circuit.Connection, o.Up, err)
	s.save()
	s.core.Flush(s.enqueue)
}

// call sends a message to a requester, once: who misses it asks. Those behind NAT give an
// address that nobody can have, and aren't called (RFC 6761 § 6.4).
func (s *Server) call(ctx context.Context, o Output) {
	u, err := url.Parse(o.To)
	if err != nil || u.Scheme != "https" || strings.HasSuffix(u.Hostname(), ".invalid") || s.avoids(o.To) {
		return
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, o.To, bytes.NewReader(o.Message.Append(nil)))
	if err != nil {
		return
	}
	r.Header.Set("Content-Type", "text/xml; charset=utf-8")
	r.Header.Set("SOAPAction", cs.Action(o.Message.Op))
	answer, err := s.calls.Do(r)
	if err != nil {
		s.mu.Lock()
		s.avoid[o.To] = s.now().Add(avoidFor)
		s.mu.Unlock()
		return
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxRequest))
	_ = answer.Body.Close()
}

func (s *Server) avoids(to string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for k, until := range s.avoid {
		if !now.Before(until) {
			delete(s.avoid, k)
		}
	}
	return s.avoid[to] != 0
}

// Fault switches faults.
func (s *Server) Fault(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.core.Fault(f)
	s.save()
}

// Faults returns those that are switched on.
func (s *Server) Faults() Faults {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.faults
}

// Break has the data plane of a circuit fail, or work again, by itself.
func (s *Server) Break(id string, up bool) {
	s.mu.Lock()
	s.core.Break(s.now(), id, up)
	s.save()
	s.core.Flush(s.enqueue)
	s.mu.Unlock()
	s.poke()
}

// List returns all connections as they are now, those that are over included, by name.
func (s *Server) List() []cs.Reservation {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.core.Tick(s.now())
	s.core.Flush(s.enqueue)
	defer s.poke()
	return s.core.List()
}

// Held returns the circuits that occupy VLANs and capacity now.
func (s *Server) Held() []Circuit {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.core.Tick(s.now())
	s.core.Flush(s.enqueue)
	defer s.poke()
	return s.core.Held()
}
