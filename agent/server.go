package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"farlan/overlay"
)

const (
	dialControl   = 2 * time.Second
	maxPingCount  = 1000
	minPingPeriod = 50 * time.Millisecond // a path remembers 64 probes for a second at least
)

// listenControl opens the control socket, for this user only. One that an
// agent left behind when it was killed is replaced, one that answers is not.
func listenControl(path string) (l net.Listener, undo func(), err error) {
	fail := hintf("give another path with --socket")
	made, err := makeDirs(filepath.Dir(path), 0o755)
	if err != nil {
		return nil, nil, fail("control socket: %w", err)
	}
	if l, err = listenUnix(path); err != nil {
		removeDirs(made)
		return nil, nil, err
	}
	return l, func() { _ = l.Close(); removeDirs(made) }, nil // closing removes the socket file
}

func listenUnix(path string) (net.Listener, error) {
	fail := hintf("give another path with --socket")
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != os.ModeSocket {
			return nil, fail("control socket %s: there is something else", path)
		}
		if c, err := net.DialTimeout("unix", path, dialControl); err == nil {
			_ = c.Close()
			return nil, hintf("stop that one, or give this one a socket of its own with --socket")("control socket %s: in use by another farlan", path)
		} else if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fail("control socket %s: %w", path, err)
		}
		if err := os.Remove(path); err != nil {
			return nil, fail("control socket: %w", err)
		}
	}
	old := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fail("control socket: %w", err)
	}
	return l, nil
}

// A server answers the client commands on the control socket.
type server struct {
	http     http.Server
	listener net.Listener
}

func (n *node) server(l net.Listener) *server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", n.answer(func(now overlay.Instant, _ *http.Request) any { return n.statusView(now) }))
	mux.HandleFunc("GET /peers", n.answer(func(now overlay.Instant, _ *http.Request) any { return n.peersView(now) }))
	mux.HandleFunc("GET /links", n.answer(func(now overlay.Instant, r *http.Request) any {
		return n.linksView(now, r.FormValue("own") != "")
	}))
	mux.HandleFunc("GET /map", n.serveMap)
	mux.HandleFunc("GET /routes", n.serveRoutes)
	mux.HandleFunc("GET /explain", n.serveExplain)
	mux.HandleFunc("GET /advise", n.answer(func(overlay.Instant, *http.Request) any { return n.adviseView() }))
	mux.HandleFunc("GET /traffic", n.answer(func(overlay.Instant, *http.Request) any { return n.trafficView() }))
	mux.HandleFunc("GET /stations", n.answer(func(now overlay.Instant, _ *http.Request) any { return n.stationsView(now) }))
	mux.HandleFunc("POST /ping", n.servePing)
	mux.HandleFunc("POST /bench", n.serveBench)
	mux.HandleFunc("POST /refresh", n.serveRefresh)
	mux.HandleFunc("GET /members", n.answer(func(overlay.Instant, *http.Request) any { return n.membersView() }))
	mux.HandleFunc("POST /statement", n.serveStatement)
	mux.HandleFunc("POST /key/rotate", n.serveRotate)
	mux.HandleFunc("GET /doctor", n.serveDoctor)
	mux.HandleFunc("POST /vm/prepare", n.serveVM(n.prepareVM))
	mux.HandleFunc("POST /vm/commit", n.serveVM(n.commitVM))
	mux.HandleFunc("POST /vm/abort", n.serveVM(n.abortVM))
	n.serveReservations(mux)
	return &server{listener: l, http: http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}}
}

func (s *server) serve(context.Context) error {
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *server) stop() { _ = s.http.Close() }

// answer makes a handler of a question that the node's loop answers.
func (n *node) answer(question func(overlay.Instant, *http.Request) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var view any
		if err := n.do(r.Context(), func(now overlay.Instant) { view = question(now, r) }); err != nil {
			refuse(w, http.StatusServiceUnavailable, &failure{err: err, code: exitNoAgent})
			return
		}
		reply(w, view)
	}
}

func reply(w http.ResponseWriter, view any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(view) // fails when the client is gone
}

func refuse(w http.ResponseWriter, status int, f *failure) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(errorView{Error: f.Error(), Hint: f.hint, Code: f.code})
}

// servePing sends probes to a peer and answers with the round trips.
func (n *node) servePing(w http.ResponseWriter, r *http.Request) {
	count, err := strconv.Atoi(r.FormValue("count"))
	if err != nil || count < 1 || count > maxPingCount {
		refuse(w, http.StatusBadRequest, &failure{err: fmt.Errorf("--count: want 1 to %d", maxPingCount), code: exitUsage})
		return
	}
	interval, err := time.ParseDuration(r.FormValue("interval"))
	if err != nil || interval < minPingPeriod || interval > time.Minute {
		refuse(w, http.StatusBadRequest, &failure{err: fmt.Errorf("--interval: want %v to 1m", minPingPeriod), code: exitUsage})
		return
	}
	name := r.FormValue("peer")
	view := pingView{Schema: schemaVersion, To: name}
	p, refused := n.reachPeer(r.Context(), name)
	if refused != nil {
		refuse(w, http.StatusNotFound, refused)
		return
	}
	if err := n.do(r.Context(), func(overlay.Instant) {
		if names := n.names(); p != nil {
			view.To, view.Path = names[p.id], n.pathTo(p, names)
			if d := p.detour(overlay.ClassDelay); d != nil {
				view.Path = namesOf(d.ids, names)
			}
		}
	}); err != nil {
		refuse(w, http.StatusServiceUnavailable, &failure{err: err, code: exitNoAgent})
		return
	}
	if p == nil {
		refuse(w, http.StatusNotFound, &failure{err: fmt.Errorf("ping %s: no such peer", name), hint: "'farlan peers' lists them", code: exitNoPeer})
		return
	}
	n.ping(r.Context(), p, count, interval, &view)
	reply(w, view)
}
