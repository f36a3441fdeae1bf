package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

// A paperDriver is a driver whose underlay is this table.
type paperDriver struct {
	caps reserve.Caps
	held map[reserve.ID]reserve.Grant
	deaf bool // releases aren't confirmed
	down bool // what is activated doesn't work
	most reserve.Rate
}

func newPaperDriver(name string, kind reserve.Kind) *paperDriver {
	return &paperDriver{caps: reserve.Caps{Name: name, Kinds: []reserve.Kind{kind}, Modify: true}, held: make(map[reserve.ID]reserve.Grant)}
}

func (d *paperDriver) Caps() reserve.Caps { return d.caps }

func (d *paperDriver) Offer(context.Context, reserve.Want) (reserve.Offer, error) {
	return reserve.Offer{}, reserve.ErrUnsupported
}

func (d *paperDriver) Hold(_ context.Context, w reserve.Want) (reserve.Grant, error) {
	if d.most > 0 && w.Rate > d.most {
		return reserve.Grant{}, reserve.Refusal{Free: d.most}
	}
	return d.keep(reserve.Grant{ID: w.ID, Kind: d.caps.Kinds[0], State: reserve.Held, Rate: w.Rate, End: w.End, Handle: w.ID.String()}), nil
}

func (d *paperDriver) keep(g reserve.Grant) reserve.Grant {
	d.held[g.ID] = g
	return g
}

// change does something with what is held.
func (d *paperDriver) change(g reserve.Grant, f func(*reserve.Grant)) (reserve.Grant, error) {
	h, ok := d.held[g.ID]
	if !ok {
		return g, reserve.ErrGone
	}
	f(&h)
	return d.keep(h), nil
}

func (d *paperDriver) Commit(_ context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(g, func(g *reserve.Grant) { g.State = reserve.Committed })
}

func (d *paperDriver) Activate(_ context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(g, func(g *reserve.Grant) { g.State, g.Up = reserve.Active, !d.down })
}

func (d *paperDriver) Deactivate(_ context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(g, func(g *reserve.Grant) { g.State, g.Up = reserve.Committed, false })
}

func (d *paperDriver) Modify(_ context.Context, g reserve.Grant, r reserve.Rate) (reserve.Grant, error) {
	return d.change(g, func(g *reserve.Grant) { g.Rate = r })
}

func (d *paperDriver) Renew(_ context.Context, g reserve.Grant, end overlay.Instant) (reserve.Grant, error) {
	return d.change(g, func(g *reserve.Grant) { g.End = end })
}

func (d *paperDriver) Status(_ context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(g, func(*reserve.Grant) {})
}

func (d *paperDriver) Abort(ctx context.Context, g reserve.Grant) error { return d.Release(ctx, g) }

func (d *paperDriver) Release(_ context.Context, g reserve.Grant) error {
	if d.deaf {
		return errors.New("the switch doesn't answer")
	}
	delete(d.held, g.ID)
	return nil
}

func (d *paperDriver) List(context.Context) ([]reserve.Grant, error) {
	return slices.Collect(maps.Values(d.held)), nil
}

func (d *paperDriver) Usage(context.Context, reserve.Grant) (reserve.Usage, error) {
	return reserve.Usage{}, nil
}

func (d *paperDriver) Events(context.Context, func(reserve.Event)) error { return nil }

func (d *paperDriver) Reap(context.Context, overlay.Instant) error { return nil }

// A reserver is an agent's broker with its driver, run as an agent runs them but for the network.
type reserver struct {
	id     overlay.AgentID
	broker *reserve.Broker
	driver *paperDriver
}

// A reserveWorld is a node, the brokers of the others, and the node's control socket.
type reserveWorld struct {
	*mapWorld
	all    []*reserver // the node's first
	socket string
	mute   bool // probes don't come back
}

func newReserveWorld(t *testing.T, others ...string) *reserveWorld {
	t.Helper()
	w := &reserveWorld{mapWorld: newMapWorld(t, others...), socket: filepath.Join(t.TempDir(), "s")}
	for _, name := range append([]string{"self"}, others...) {
		r := &reserver{id: w.id(name), driver: newPaperDriver("tc", reserve.Guarantee)}
		w.all = append(w.all, r)
		r.broker = reserve.NewBroker(w.n.now(), reserve.Config{
			Self: r.id, Drivers: []reserve.Caps{r.driver.caps}, Automatic: true, Rand: rand.New(rand.NewPCG(1, uint64(len(w.all)))),
			Hop: func(overlay.AgentID, reserve.Kind) (reserve.Hop, bool) { return reserve.Hop{Egress: "e"}, true },
		}, nil)
		r.broker.SetCapacity("e", 100*reserve.Mbit)
		if p := w.n.peers[r.id]; p != nil {
			p.out.Store(&outbound{})
		}
	}
	w.n.reserving.broker = w.all[0].broker
	w.n.reserving.rate = 100 * reserve.Mbit
	w.n.view.Store(&view{byIndex: w.n.byIndex})
	w.turn(w.n.now())
	return w
}

// turn does what agents do, until there is nothing more to do.
func (w *reserveWorld) turn(now overlay.Instant) {
	for busy, rounds := true, 0; busy && rounds < 100; rounds++ {
		busy = false
		for _, r := range w.all {
			busy = w.turnOne(now, r) || busy
		}
	}
}

func (w *reserveWorld) turnOne(now overlay.Instant, r *reserver) (busy bool) {
	r.broker.Tick(now)
	out := r.broker.Flush()
	r.broker.Written(out.Entry)
	for _, c := range out.Calls {
		r.broker.Result(now, reserve.Do(context.Background(), r.driver, c))
	}
	for _, m := range out.Messages {
		i := slices.IndexFunc(w.all, func(r *reserver) bool { return r.id == m.To })
		if err := w.all[i].broker.Receive(now, r.id, m.Bytes); err != nil {
			w.t.Error(err)
		}
	}
	for _, p := range out.Probes {
		r.broker.Probed(now, p.Reservation, !w.mute)
	}
	return len(out.Calls)+len(out.Messages)+len(out.Probes)+len(out.Journal) > 0
}

// run answers on the control socket until the test ends. What is there to be changed meanwhile is
// to be changed by do.
func (w *reserveWorld) run() {
	w.t.Helper()
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	s := w.n.server(l)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { _ = s.serve(ctx); done <- struct{}{} }()
	go func() {
		defer func() { done <- struct{}{} }()
		again := time.NewTicker(20 * time.Millisecond)
		defer again.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-w.n.mail.ready:
				for _, e := range w.n.mail.take() {
					e(w.n.now())
				}
			case <-again.C:
			}
			w.turn(w.n.now())
		}
	}()
	w.t.Cleanup(func() { s.stop(); cancel(); <-done; <-done })
}

func (w *reserveWorld) do(f func()) {
	w.t.Helper()
	if err := w.n.do(w.t.Context(), func(overlay.Instant) { f() }); err != nil {
		w.t.Fatal(err)
	}
}

// farlan runs a command at the node until it ends, or ctx does.
func (w *reserveWorld) farlan(ctx context.Context, args ...string) (out, errs string, code int) {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	root := newRoot()
	root.SetArgs(append(args, "--socket", w.socket))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		printError(&stderr, err)
		code = exitCode(err)
	}
	return stdout.String(), stderr.String(), code
}

// shows runs a command that prints JSON.
func (w *reserveWorld) shows(view any, args ...string) {
	w.t.Helper()
	out, errs, code := w.farlan(w.t.Context(), append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), view); err != nil || code != 0 {
		w.t.Fatalf("%v: %v, exit code %d\n%s%s", args, err, code, out, errs)
	}
}

func (w *reserveWorld) list() []reservationView {
	w.t.Helper()
	var v reserveView
	w.shows(&v, "reserve", "list")
	return v.Reservations
}
