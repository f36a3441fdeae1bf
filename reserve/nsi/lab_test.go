package nsi

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi/cs"
	"farlan/reserve/nsi/provider"
)

const (
	ourNSA   = "urn:ogf:network:farlan.lab:2026:nsa"
	theirNSA = "urn:ogf:network:wan.lab:2026:nsa"
	portA    = "urn:ogf:network:wan.lab:2026:topology:hosta"
	portB    = "urn:ogf:network:wan.lab:2026:topology:hostb"
	plenty   = 20 * time.Second // for what happens at once on a machine that isn't busy
	soon     = 20 * time.Millisecond
)

var agentA, agentB = overlay.AgentID{1}, overlay.AgentID{2}

// TestMain has eight tests run at once, however few processors there are: they wait for what
// doesn't come.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	m.Run()
}

// A lab is a provider on the loopback interface, with a clock that can be put forward.
type lab struct {
	t         *testing.T
	url       string
	authority *provider.Authority
	folder    string
	ahead     atomic.Int64
	srv       *provider.Server
	plane     *plane
}

// A plane keeps which circuits are up.
type plane struct {
	mu sync.Mutex
	up map[string]provider.Circuit
}

func (p *plane) Up(_ context.Context, c provider.Circuit) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up[c.Connection] = c
	return nil
}

func (p *plane) Down(_ context.Context, c provider.Circuit) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.up[c.Connection]; !ok {
		return errors.New("it isn't up")
	}
	delete(p.up, c.Connection)
	return nil
}

func (p *plane) circuits() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.up)
}

func (l *lab) now() overlay.Instant {
	return overlay.Instant(time.Now().UnixNano()).Add(time.Duration(l.ahead.Load()))
}

// later puts the clock forward.
func (l *lab) later(d time.Duration) { l.ahead.Add(int64(d)) }

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, folder: t.TempDir(), plane: &plane{up: make(map[string]provider.Circuit)}}
	var err error
	if l.authority, err = provider.NewAuthority(time.Now()); err != nil {
		t.Fatal(err)
	}
	l.write("ca.pem", l.authority.PEM())
	l.issue("us", "127.0.0.1")
	vlans := cs.VLANs{{First: 100, Last: 109}}
	port := provider.Port{Capacity: 1000, VLANs: vlans}
	core := provider.New(provider.Config{NSA: theirNSA, Ports: map[string]provider.Port{portA: port, portB: port}})
	identity, err := l.authority.TLS("127.0.0.1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l.srv = provider.NewServer(core, identity, l.plane, l.now)
	listener := listen(t)
	l.url = "https://" + listener.Addr().String() + "/nsi"
	l.run(func(ctx context.Context) error { return l.srv.Serve(ctx, listener) })
	l.run(l.srv.Run)
	return l
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// run runs until the test ends, and the test until it has ended.
func (l *lab) run(f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f(ctx); err != nil {
			l.t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	l.t.Cleanup(stop)
	return stop
}

func (l *lab) write(name string, b []byte) string {
	path := filepath.Join(l.folder, name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// issue writes a certificate and its key.
func (l *lab) issue(name, host string) {
	cert, key, err := l.authority.Issue(host, time.Now())
	if err != nil {
		l.t.Fatal(err)
	}
	l.write(name+".pem", cert)
	l.write(name+".key", key)
}

// config is for agent A, which asks.
func (l *lab) config() Config {
	end := func(port string) End {
		return End{STP: port + "?vlan=100-109", Capacity: reserve.Gbit, Device: "eth1"}
	}
	at := func(name string) string { return filepath.Join(l.folder, name) }
	return Config{
		URL: l.url, Requester: ourNSA, Provider: theirNSA, Certificate: at("us.pem"), Key: at("us.key"), Authorities: at("ca.pem"),
		Self: agentA, Ends: map[overlay.AgentID]End{agentA: end(portA), agentB: end(portB)}, Version: 1, Modify: true,
		Exchange: plenty, Patience: plenty, Poll: soon, Now: l.now,
	}
}

// asks opens a driver that takes no callbacks.
func (l *lab) asks(change ...func(*Config)) *Driver {
	l.t.Helper()
	c := l.config()
	for _, f := range change {
		f(&c)
	}
	d, err := Open(c)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(d.client.http.CloseIdleConnections)
	return d
}

// called opens a driver that lives from callbacks: it hardly ever asks by itself.
func (l *lab) called(change ...func(*Config)) *Driver {
	l.t.Helper()
	d := l.asks(append([]func(*Config){func(c *Config) {
		c.Callback.Listener = listen(l.t)
		c.Callback.URL = "https://" + c.Callback.Listener.Addr().String() + "/nsi"
		c.Poll = plenty
	}}, change...)...)
	l.run(d.Serve)
	return d
}

// briefly is for calls that can't come to an end.
func (l *lab) briefly() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	l.t.Cleanup(cancel)
	return ctx
}

// down activates what the provider confirms and doesn't bring up; if that takes longer than it
// is waited for, once more.
func (l *lab) down(d *Driver, g reserve.Grant) reserve.Grant {
	l.t.Helper()
	for start := time.Now(); ; {
		got, err := d.Activate(l.briefly(), g)
		if err == nil {
			return l.must(reserve.Activating)(got, err)
		}
		if !errors.Is(err, context.DeadlineExceeded) || got.State != reserve.Unknown || time.Since(start) > plenty {
			l.t.Fatalf("%+v, %v", got, err)
		}
	}
}

func (l *lab) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*plenty)
	l.t.Cleanup(cancel)
	return ctx
}

// want is for ten minutes.
func (l *lab) want(n byte, rate reserve.Rate) reserve.Want {
	return reserve.Want{
		ID: reserve.ID{Reservation: [16]byte{0xfa, n}, Segment: 2}, Kind: reserve.Circuit, Rate: rate,
		From: agentA, To: agentB, End: l.now().Add(10 * time.Minute), Owner: "test",
	}
}

// must fails the test unless a call has come to the state.
func (l *lab) must(want reserve.State) func(reserve.Grant, error) reserve.Grant {
	return func(g reserve.Grant, err error) reserve.Grant {
		l.t.Helper()
		if err != nil || g.State != want {
			l.t.Fatalf("%v (%s), %v; want %v", g.State, g.Reason, err, want)
		}
		return g
	}
}

// active brings a circuit up.
func (l *lab) active(d *Driver, w reserve.Want) reserve.Grant {
	l.t.Helper()
	g := l.must(reserve.Held)(d.Hold(l.ctx(), w))
	g = l.must(reserve.Committed)(d.Commit(l.ctx(), g))
	g = l.must(reserve.Active)(d.Activate(l.ctx(), g))
	if !g.Up {
		l.t.Fatal("active and not up")
	}
	return g
}

// nothing fails the test if anything is left, at the provider or as the driver lists it.
func (l *lab) nothing(d *Driver) {
	l.t.Helper()
	if held := l.srv.Held(); len(held) > 0 {
		l.t.Fatalf("the provider holds %v", held)
	}
	for _, r := range l.srv.List() {
		if r.States.Lifecycle == cs.StateCreated && r.States.Reservation != cs.StateFailed && r.Criteria[0].End > l.now() {
			l.t.Fatalf("the provider has %+v", r)
		}
	}
	if list, err := d.List(l.ctx()); err != nil || len(list) > 0 {
		l.t.Fatalf("listed: %v, %v", list, err)
	}
	for start := time.Now(); l.plane.circuits() > 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > plenty {
			l.t.Fatalf("%d circuits are up", l.plane.circuits())
		}
	}
}

// A recorder keeps what passes through HTTP bodies.
type recorder struct {
	mu    sync.Mutex
	all   [][]byte
	inner http.RoundTripper
}

func (r *recorder) keep(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, bytes.Clone(b))
}

func (r *recorder) RoundTrip(q *http.Request) (*http.Response, error) {
	b, _ := io.ReadAll(q.Body)
	r.keep(b)
	q.Body = io.NopCloser(bytes.NewReader(b))
	answer, err := r.inner.RoundTrip(q)
	if err == nil {
		b, _ = io.ReadAll(answer.Body)
		r.keep(b)
		answer.Body = io.NopCloser(bytes.NewReader(b))
	}
	return answer, err
}

// serve is Driver.Serve with what passes kept.
func (r *recorder) serve(d *Driver) func(context.Context) error {
	return func(ctx context.Context) error {
		srv := &http.Server{TLSConfig: d.callbacks.Clone(), Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			b, _ := io.ReadAll(q.Body)
			r.keep(b)
			q.Body = io.NopCloser(bytes.NewReader(b))
			d.callback(&tee{w, r}, q)
		})}
		defer context.AfterFunc(ctx, func() { srv.Close() })()
		if err := srv.ServeTLS(d.cfg.Callback.Listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

type tee struct {
	http.ResponseWriter
	r *recorder
}

func (t *tee) Write(b []byte) (int, error) {
	t.r.keep(b)
	return t.ResponseWriter.Write(b)
}

// as returns a TLS configuration for a caller with a certificate of the lab's.
func (l *lab) as(name string) *tls.Config {
	pair, err := tls.LoadX509KeyPair(filepath.Join(l.folder, name+".pem"), filepath.Join(l.folder, name+".key"))
	if err != nil {
		l.t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true}
}
