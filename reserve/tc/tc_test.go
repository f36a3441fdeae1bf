//go:build linux

package tc

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"farlan/overlay"
	"farlan/overlay/nstest"
	"farlan/reserve"
)

// A place is a host of its own whose way out is eth0, to 192.0.2.2 and 2001:db8::2 at the other
// end of a cable.
type place struct {
	*nstest.Namespace
	t    testing.TB
	far  *nstest.Namespace
	name string
}

func newPlace(t testing.TB) *place {
	t.Helper()
	p := &place{Namespace: nstest.New(t), t: t, far: nstest.New(t), name: "eth0"}
	p.cable()
	return p
}

// cable joins the place to the other end.
func (p *place) cable() {
	p.Veth("eth0", p.far, "eth0")
	p.IP("addr add 192.0.2.1/24 dev eth0")
	p.IP("addr add 2001:db8::1/64 dev eth0 nodad")
	p.far.IP("addr add 192.0.2.2/24 dev eth0")
	p.far.IP("addr add 2001:db8::2/64 dev eth0 nodad")
}

// open returns a driver in the place, for ways out of rate.
func (p *place) open(rate reserve.Rate) *host {
	p.t.Helper()
	h := &host{place: p}
	p.Do(func() {
		var err error
		if h.d, err = Open(Config{Rate: rate}); err != nil {
			p.t.Fatal(err)
		}
	})
	p.t.Cleanup(func() { _ = h.d.Close() })
	return h
}

// tc returns what the tc command shows of queueing disciplines, or of classes.
func (p *place) tc(what string) string {
	p.t.Helper()
	return p.Run("tc " + what + " show dev " + p.name)
}

// bare expects that the interface has what the kernel gave it.
func (p *place) bare(when string) {
	p.t.Helper()
	if got := p.tc("qdisc"); strings.Contains(got, "htb") || strings.Contains(got, "7fa1:") {
		p.t.Errorf("%s there is:\n%s", when, got)
	}
}

// classes returns the numbers of the grants' classes that the tc command shows.
func (p *place) classes() (all []string) {
	p.t.Helper()
	for line := range strings.Lines(p.tc("class")) {
		f := strings.Fields(line)
		if len(f) > 2 && f[1] == "htb" && f[2] != "7fa1:1" && f[2] != "7fa1:2" && f[2] != "7fa1:3" {
			all = append(all, f[2])
		}
	}
	return all
}

// A host is a driver in a place.
type host struct {
	*place
	d *Driver
}

// far is where wants lead.
var far = netip.MustParseAddrPort("192.0.2.2:4747")

const soon = overlay.Instant(1e15)

func want(n byte, rate reserve.Rate) reserve.Want {
	w := reserve.Want{Kind: reserve.Guarantee, Rate: rate, Via: far, End: soon}
	w.ID.Reservation[0], w.ID.Reservation[15] = n, n
	return w
}

// hold holds, and expects that to work.
func (h *host) hold(w reserve.Want) (g reserve.Grant) {
	h.t.Helper()
	h.must(func(ctx context.Context) (err error) { g, err = h.d.Hold(ctx, w); return err })
	return g
}

func (h *host) must(do func(context.Context) error) {
	h.t.Helper()
	if err := h.try(do); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) try(do func(context.Context) error) (err error) {
	h.t.Helper()
	h.Do(func() { err = do(h.t.Context()) })
	return err
}

// after calls a verb that changes a grant, and expects that to work.
func (h *host) after(verb func(context.Context, reserve.Grant) (reserve.Grant, error), g reserve.Grant) reserve.Grant {
	h.t.Helper()
	h.must(func(ctx context.Context) (err error) { g, err = verb(ctx, g); return err })
	return g
}

// active returns an active grant.
func (h *host) active(w reserve.Want) reserve.Grant {
	h.t.Helper()
	return h.after(h.d.Activate, h.after(h.d.Commit, h.hold(w)))
}

func (h *host) list() (all []reserve.Grant) {
	h.t.Helper()
	h.must(func(ctx context.Context) (err error) { all, err = h.d.List(ctx); return err })
	return all
}

func (h *host) is(g reserve.Grant, s reserve.State, rate reserve.Rate, up bool) {
	h.t.Helper()
	if g.State != s || g.Rate != rate || g.Up != up {
		h.t.Errorf("%v: %v, up %v, %v (%s); want %v, up %v, %v", g.ID, g.State, g.Up, g.Rate, g.Reason, s, up, rate)
	}
}

// A grant's whole life, with what the tc command shows of it.
func TestLife(t *testing.T) {
	t.Parallel()
	h := newPlace(t).open(100 * reserve.Mbit)
	ctx := t.Context()
	var offer reserve.Offer
	h.must(func(context.Context) (err error) { offer, err = h.d.Offer(ctx, want(1, 60*reserve.Mbit)); return err })
	if (offer != reserve.Offer{Kind: reserve.Guarantee, Rate: 60 * reserve.Mbit, Free: 70 * reserve.Mbit}) || len(h.d.ports) != 0 {
		t.Errorf("offer %+v", offer)
	}
	g := h.hold(want(1, 60*reserve.Mbit))
	h.is(g, reserve.Held, 60*reserve.Mbit, false)
	if g.Handle != "eth0 7fa1:110" || g.Kind != reserve.Guarantee || g.End != soon || g.Mark != (reserve.Mark{}) {
		t.Errorf("held: %+v", g)
	}
	if again := h.hold(want(1, 30*reserve.Mbit)); again != g {
		t.Errorf("held again: %+v, want %+v", again, g)
	}
	h.bare("with a grant that is held")

	g = h.after(h.d.Commit, g)
	h.is(g, reserve.Committed, 60*reserve.Mbit, false)
	if got := h.tc("class"); !strings.Contains(got, "class htb 7fa1:110 parent 7fa1:1 ") || !strings.Contains(got, "rate 60560Kbit ceil 100933Kbit") ||
		!strings.Contains(got, "class htb 7fa1:2 parent 7fa1:1 ") || !strings.Contains(got, "rate 15140Kbit ceil 100933Kbit") ||
		!strings.Contains(got, "rate 5046Kbit ceil 50466Kbit") || g.Mark != (reserve.Mark{}) {
		t.Errorf("committed, mark %+v:\n%s", g.Mark, got)
	}
	h.after(h.d.Commit, g)

	g = h.after(h.d.Activate, g)
	h.is(g, reserve.Active, 60*reserve.Mbit, true)
	if g.Mark != (reserve.Mark{Priority: 0x7fa10110}) {
		t.Errorf("mark %+v", g.Mark)
	}
	h.after(h.d.Activate, g)
	h.must(func(context.Context) (err error) { g, err = h.d.Modify(ctx, g, 70*reserve.Mbit); return err })
	h.is(g, reserve.Active, 70*reserve.Mbit, true)
	var full reserve.Refusal
	err := h.try(func(context.Context) error { _, err := h.d.Modify(ctx, g, 71*reserve.Mbit); return err })
	if !errors.As(err, &full) || full.Free != 70*reserve.Mbit {
		t.Errorf("more than may be: %v", err)
	}
	h.must(func(context.Context) (err error) { g, err = h.d.Renew(ctx, g, 2*soon); return err })
	if g.End != 2*soon {
		t.Errorf("renewed until %d", g.End)
	}
	h.is(h.after(h.d.Status, g), reserve.Active, 70*reserve.Mbit, true)

	g = h.after(h.d.Deactivate, g)
	h.is(g, reserve.Committed, 70*reserve.Mbit, false)
	h.bare("with a grant that was deactivated")
	if err := h.try(func(context.Context) error { _, err := h.d.Hold(ctx, want(2, 1)); return err }); !errors.Is(err, reserve.ErrFull) {
		t.Errorf("its room is given away: %v", err)
	}
	h.is(h.after(h.d.Activate, g), reserve.Active, 70*reserve.Mbit, true)
	if all := h.list(); len(all) != 1 || all[0].ID != g.ID || all[0].State != reserve.Active {
		t.Errorf("list %+v", all)
	}
	h.must(func(context.Context) error { return h.d.Release(ctx, g) })
	h.bare("after the last grant")
	if err := h.try(func(context.Context) error { return h.d.Release(ctx, g) }); !errors.Is(err, reserve.ErrGone) {
		t.Errorf("released again: %v", err)
	}
	if all := h.list(); len(all) != 0 || len(h.d.ports) != 0 {
		t.Errorf("after release: %+v", all)
	}
}

// The interface is that of the route, or of a link-local address's zone, which may be a number.
func TestWays(t *testing.T) {
	t.Parallel()
	h := newPlace(t).open(100 * reserve.Mbit)
	h.Veth("eth1", h.far, "eth1")
	h.IP("addr add 203.0.113.1/24 dev eth1")
	index := strings.TrimSpace(h.Run("ip -o link show eth1 | cut -d: -f1"))
	for i, c := range []struct{ via, device string }{
		{"192.0.2.2:1", "eth0"},
		{"203.0.113.9:1", "eth1"},
		{"[2001:db8::9]:1", "eth0"},
		{"[::ffff:203.0.113.9]:1", "eth1"},
		{"[fe80::1%eth1]:1", "eth1"},
		{"[fe80::1%" + index + "]:1", "eth1"},
		{"[fe80::1%eth0]:1", "eth0"},
	} {
		w := want(byte(i+1), reserve.Mbit)
		w.Via = netip.MustParseAddrPort(c.via)
		if g := h.active(w); !strings.HasPrefix(g.Handle, c.device+" ") || !g.Up {
			t.Errorf("to %s: %+v, want %s", c.via, g, c.device)
		}
	}
	for _, via := range []string{"[fe80::1%eth7]:1", "[fe80::1%99]:1"} {
		w := want(99, reserve.Mbit)
		w.Via = netip.MustParseAddrPort(via)
		if err := h.try(func(ctx context.Context) error { _, err := h.d.Hold(ctx, w); return err }); err == nil {
			t.Errorf("to %s: no error", via)
		}
	}
}

// What is over is reaped, and its room is free again; the rest is left alone.
func TestReap(t *testing.T) {
	t.Parallel()
	h := newPlace(t).open(100 * reserve.Mbit)
	early, late := want(1, 30*reserve.Mbit), want(2, 30*reserve.Mbit)
	late.Via, late.End = netip.MustParseAddrPort("[2001:db8::2]:4747"), 2*soon
	h.active(early)
	g := h.active(late)
	held := h.hold(want(3, 10*reserve.Mbit))
	for _, c := range []struct {
		now  overlay.Instant
		left int
	}{{soon - 1, 3}, {soon, 1}, {2*soon - 1, 1}, {2 * soon, 0}} {
		h.must(func(ctx context.Context) error { return h.d.Reap(ctx, c.now) })
		if n := len(h.list()); n != c.left {
			t.Errorf("at %d there are %d, want %d", c.now, n, c.left)
		}
	}
	h.bare("after the end of all")
	for _, old := range []reserve.Grant{g, held} {
		if err := h.try(func(ctx context.Context) error { _, err := h.d.Status(ctx, old); return err }); !errors.Is(err, reserve.ErrGone) {
			t.Errorf("%v: %v", old.ID, err)
		}
	}
	if err := h.try(func(ctx context.Context) error { _, err := h.d.Hold(ctx, want(4, 1)); return err }); !errors.Is(err, reserve.ErrRefused) {
		t.Errorf("hold until what has passed: %v", err)
	}
}

func TestCloseCleans(t *testing.T) {
	t.Parallel()
	h := newPlace(t).open(100 * reserve.Mbit)
	h.active(want(1, 30*reserve.Mbit))
	h.hold(want(2, 30*reserve.Mbit))
	if err := h.d.Close(); err != nil {
		t.Error(err)
	}
	h.bare("after a clean stop")
	h.open(100 * reserve.Mbit).active(want(3, 70*reserve.Mbit)) // and the interface is free
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	h := newPlace(t).open(0)
	ask := func(w reserve.Want) error {
		return errors.Join(
			h.try(func(ctx context.Context) error { _, err := h.d.Offer(ctx, w); return err }),
			h.try(func(ctx context.Context) error { _, err := h.d.Hold(ctx, w); return err }))
	}
	refuse := func(name string, w reserve.Want, err error, words string) {
		t.Helper()
		got := ask(w)
		if !errors.Is(got, err) || got != nil && strings.Count(got.Error(), words) != 2 {
			t.Errorf("%s: %v, want %v twice with %q", name, got, err, words)
		}
		h.bare(name)
	}
	refuse("rate not known", want(1, 1), reserve.ErrUnsupported, "it isn't known what eth0 carries")
	h.must(func(context.Context) error { return h.d.SetRate("", 100*reserve.Mbit) })
	with := func(f func(*reserve.Want)) reserve.Want {
		w := want(1, reserve.Mbit)
		f(&w)
		return w
	}
	refuse("circuit", with(func(w *reserve.Want) { w.Kind = reserve.Circuit }), reserve.ErrUnsupported, "no circuit")
	refuse("no address", with(func(w *reserve.Want) { w.Via = netip.AddrPort{} }), reserve.ErrRefused, "isn't known")
	refuse("no end", with(func(w *reserve.Want) { w.End = 0 }), reserve.ErrRefused, "its end has passed")
	refuse("no ID", with(func(w *reserve.Want) { w.ID = reserve.ID{} }), reserve.ErrRefused, "an ID")
	refuse("itself", with(func(w *reserve.Want) { w.Via = netip.MustParseAddrPort("192.0.2.1:1") }), reserve.ErrUnsupported, "this host itself")
	if err := ask(with(func(w *reserve.Want) { w.Via = netip.MustParseAddrPort("198.51.100.1:1") })); err == nil || !strings.Contains(err.Error(), "route to 198.51.100.1") {
		t.Errorf("no route: %v", err)
	}
	for rate, want := range map[reserve.Rate]error{0: reserve.ErrRefused, -5: reserve.ErrRefused, 71 * reserve.Mbit: reserve.ErrFull} {
		if err := ask(with(func(w *reserve.Want) { w.Rate = rate })); !errors.Is(err, want) {
			t.Errorf("%v: %v, want %v", rate, err, want)
		}
	}
	h.list()
	if len(h.d.ports) != 0 {
		t.Error("the interface isn't given back after refusals")
	}
}

// Whatever somebody has put at an interface stays as it is, and isn't ours by chance.
func TestForeignRoot(t *testing.T) {
	t.Parallel()
	for _, q := range []string{
		"tbf rate 50mbit burst 32k latency 50ms", "pfifo", "handle 1: htb default 1", "handle 7fa1: htb default 2", "handle 7fa1: pfifo",
		"handle 7fa1: htb default 3 r2q 26209",
	} {
		p := newPlace(t)
		p.Run("tc qdisc add dev eth0 root " + q)
		if strings.Contains(q, "htb") {
			p.Run("tc class add dev eth0 classid 7fa1:110 htb rate 1mbit 2>/dev/null || true")
		}
		before := untouched(p)
		h := p.open(100 * reserve.Mbit)
		err := h.try(func(ctx context.Context) error { _, err := h.d.Hold(ctx, want(1, reserve.Mbit)); return err })
		if !errors.Is(err, reserve.ErrForeign) || !strings.Contains(err.Error(), "tc qdisc del dev eth0 root") {
			t.Errorf("%s: %v", q, err)
		}
		err = h.try(func(ctx context.Context) error { return h.d.Release(ctx, reserve.Grant{Handle: "eth0 7fa1:110"}) })
		if !errors.Is(err, reserve.ErrGone) {
			t.Errorf("%s: release by a handle: %v", q, err)
		}
		h.must(func(ctx context.Context) error { return h.d.Reap(ctx, soon) })
		if err := h.d.Close(); err != nil {
			t.Error(err)
		}
		if after := untouched(p); after != before {
			t.Errorf("%s: there was\n%sand is\n%s", q, before, after)
		}
	}
}

// untouched returns what is at the interface, but for counters, as the host sends by itself.
func untouched(p *place) string {
	return regexp.MustCompile(`direct_packets_stat \d+`).ReplaceAllString(p.tc("qdisc")+p.tc("class"), "")
}

// Somebody's that comes while a grant is held stops its commit, and one that comes instead of
// ours stays; the grant is lost.
func TestForeignRootComes(t *testing.T) {
	t.Parallel()
	h := newPlace(t).open(100 * reserve.Mbit)
	g := h.hold(want(1, 10*reserve.Mbit))
	h.Run("tc qdisc add dev eth0 root handle 9: pfifo")
	err := h.try(func(ctx context.Context) error { _, err := h.d.Commit(ctx, g); return err })
	if !errors.Is(err, reserve.ErrForeign) {
		t.Errorf("commit: %v", err)
	}
	h.Run("tc qdisc del dev eth0 root")
	g = h.after(h.d.Activate, h.after(h.d.Commit, g))
	h.Run("tc qdisc replace dev eth0 root handle 9: pfifo")
	if got := h.after(h.d.Status, g); got.State != reserve.Lost || !strings.Contains(got.Reason, "isn't farlan's (pfifo 9:)") {
		t.Errorf("status %+v", got)
	}
	h.must(func(ctx context.Context) error { return h.d.Release(ctx, g) })
	if got := h.tc("qdisc"); !strings.Contains(got, "pfifo 9:") {
		t.Errorf("there is:\n%s", got)
	}
}

// Two agents on one host and interface: the second waits for the first's end.
func TestOneAgentAnInterface(t *testing.T) {
	t.Parallel()
	first := newPlace(t).open(100 * reserve.Mbit)
	second := first.open(100 * reserve.Mbit)
	g := first.active(want(1, 10*reserve.Mbit))
	for _, ask := range []func(context.Context, reserve.Want) error{
		func(ctx context.Context, w reserve.Want) error { _, err := second.d.Hold(ctx, w); return err },
		func(ctx context.Context, w reserve.Want) error { _, err := second.d.Offer(ctx, w); return err },
	} {
		err := second.try(func(ctx context.Context) error { return ask(ctx, want(2, 1)) })
		if !errors.Is(err, reserve.ErrForeign) || !strings.Contains(err.Error(), "another agent") || !strings.Contains(err.Error(), "eth0") {
			t.Errorf("second: %v", err)
		}
	}
	if all := second.list(); len(all) != 0 {
		t.Errorf("the second lists the first's: %+v", all)
	}
	second.must(func(ctx context.Context) error { return second.d.Reap(ctx, soon) })
	_ = second.try(func(ctx context.Context) error { return second.d.Release(ctx, g) })
	first.is(first.after(first.d.Status, g), reserve.Active, 10*reserve.Mbit, true)
	first.must(func(ctx context.Context) error { return first.d.Release(ctx, g) })
	later := want(2, 20*reserve.Mbit)
	later.End = 2 * soon
	second.active(later)
}

// Many grants: the table has an end, and numbers that clash give way.
func TestFullTable(t *testing.T) {
	t.Parallel()
	h := newPlace(t).open(10_000 * reserve.Gbit)
	h.Do(func() {
		seen := make(map[string]bool)
		for i := range maxClasses + 1 {
			w := want(7, 1)
			w.ID.Reservation[5], w.ID.Reservation[6] = byte(i), byte(i>>8)
			g, err := h.d.Hold(t.Context(), w)
			if (i == maxClasses) != errors.Is(err, reserve.ErrFull) || err == nil && seen[g.Handle] {
				t.Fatalf("number %d: %q, %v", i, g.Handle, err)
			}
			if err == nil {
				seen[g.Handle] = true
			}
			if i == maxClasses && !strings.Contains(err.Error(), fmt.Sprintf("%d grants", maxClasses)) {
				t.Error(err)
			}
		}
	})
}
