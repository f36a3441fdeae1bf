//go:build linux

package tc

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"farlan/overlay/nstest"
	"farlan/reserve"
)

// watch runs Events until the test's end.
func (h *host) watch() <-chan reserve.Event {
	h.t.Helper()
	all := make(chan reserve.Event, 100)
	ctx, cancel := context.WithCancel(h.t.Context())
	done := make(chan error)
	go h.Do(func() { done <- h.d.Events(ctx, func(e reserve.Event) { all <- e }) })
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	})
	return all
}

// told waits for an event.
func (h *host) told(when string, from <-chan reserve.Event, s reserve.State, rate reserve.Rate, words string) {
	h.t.Helper()
	select {
	case e := <-from:
		if e.ID != e.Grant.ID || e.Grant.State != s || e.Grant.Rate != rate || !strings.Contains(e.Grant.Reason, words) {
			h.t.Errorf("%s: %v, %v, %q; want %v, %v, %q", when, e.Grant.State, e.Grant.Rate, e.Grant.Reason, s, rate, words)
		}
	case <-time.After(20 * time.Second):
		h.t.Fatalf("%s: nothing is told", when)
	}
}

// Rates that fall below what is granted, and rise again.
func TestRateChanges(t *testing.T) {
	t.Parallel()
	h := newPlace(t).open(100 * reserve.Mbit)
	first, second := h.active(want(1, 40*reserve.Mbit)), want(2, 20*reserve.Mbit)
	news := h.watch()
	rate := func(device string, r reserve.Rate) {
		t.Helper()
		h.must(func(context.Context) error { return h.d.SetRate(device, r) })
	}
	held := func() error {
		return h.try(func(ctx context.Context) error { _, err := h.d.Hold(ctx, second); return err })
	}
	rate("eth0", 50*reserve.Mbit) // more is granted than could be now, and can be kept
	if got := h.tc("class"); !strings.Contains(got, "rate 40373Kbit ceil 50466Kbit") || !strings.Contains(got, "rate 7570Kbit ceil 50466Kbit") {
		t.Errorf("there is:\n%s", got)
	}
	h.is(h.after(h.d.Status, first), reserve.Active, 40*reserve.Mbit, true)
	var full reserve.Refusal
	if err := held(); !errors.As(err, &full) || full.Free != 0 {
		t.Errorf("when too much is granted: %v", err)
	}
	rate("eth0", 40*reserve.Mbit)
	h.told("fallen", news, reserve.Degraded, 36*reserve.Mbit, "eth0 carries less than it did: 36Mbit is left of 40Mbit")
	if got := h.tc("class"); !strings.Contains(got, "rate 36336Kbit ceil 40373Kbit") || !strings.Contains(got, "rate 3028Kbit ceil 40373Kbit") {
		t.Errorf("there is:\n%s", got)
	}
	rate("", 10*reserve.Mbit) // others, not this one
	rate("eth0", 0)           // not known any more
	if err := held(); !errors.Is(err, reserve.ErrUnsupported) {
		t.Errorf("when the rate isn't known any more: %v", err)
	}
	h.is(h.after(h.d.Status, first), reserve.Degraded, 36*reserve.Mbit, true)
	rate("eth0", 100*reserve.Mbit)
	h.told("risen", news, reserve.Active, 40*reserve.Mbit, "")

	for i, end := range []func(g reserve.Grant){
		func(g reserve.Grant) { h.must(func(ctx context.Context) error { return h.d.Release(ctx, g) }) },
		func(g reserve.Grant) {
			h.Run("tc class del dev eth0 classid " + strings.TrimPrefix(g.Handle, "eth0 "))
			h.told("the other one removed", news, reserve.Lost, 0, "somebody has removed")
		},
	} {
		second.ID.Segment = uint8(i)
		g := h.active(second)
		rate("eth0", 50*reserve.Mbit) // 45 for 60
		h.told("fallen again", news, reserve.Degraded, 30*reserve.Mbit, "left of 40Mbit")
		h.told("fallen again", news, reserve.Degraded, 15*reserve.Mbit, "left of 20Mbit")
		end(g)
		h.told("the other one is over", news, reserve.Active, 40*reserve.Mbit, "")
		rate("eth0", 100*reserve.Mbit)
	}
}

// What others do to an interface and to what is ours there.
func TestChangesByOthers(t *testing.T) {
	t.Parallel()
	h := newPlace(t).open(100 * reserve.Mbit)
	g := h.active(want(1, 40*reserve.Mbit))
	other := h.active(want(2, 10*reserve.Mbit))
	news := h.watch()
	h.Run("tc class change dev eth0 parent 7fa1:1 classid " + strings.TrimPrefix(g.Handle, "eth0 ") + " htb rate 10093kbit ceil 100mbit quantum 12616")
	h.told("class changed", news, reserve.Degraded, 10*reserve.Mbit, "somebody has changed its class")
	h.Run("tc class del dev eth0 classid " + strings.TrimPrefix(g.Handle, "eth0 "))
	h.told("class removed", news, reserve.Lost, 0, "somebody has removed its class")
	g = h.after(h.d.Status, g)
	h.is(g, reserve.Lost, 0, false)
	h.must(func(ctx context.Context) error { return h.d.Release(ctx, g) })

	h.IP("link set eth0 down")
	h.told("down", news, reserve.Degraded, 10*reserve.Mbit, "eth0 is down")
	h.IP("link set eth0 up")
	h.told("up", news, reserve.Active, 10*reserve.Mbit, "")
	h.far.IP("link set eth0 down") // no carrier
	h.told("no carrier", news, reserve.Degraded, 10*reserve.Mbit, "eth0 is down")
	h.far.IP("link set eth0 up")
	h.told("carrier", news, reserve.Active, 10*reserve.Mbit, "")

	h.Veth("eth1", h.far, "eth1")
	h.IP("route add 192.0.2.2/32 dev eth1")
	if got := h.after(h.d.Status, other); got.State != reserve.Degraded || got.Up || !strings.Contains(got.Reason, "don't leave by eth0") {
		t.Errorf("with another route: %+v", got)
	}
	h.IP("route del 192.0.2.2/32 dev eth1")
	h.is(h.after(h.d.Status, other), reserve.Active, 10*reserve.Mbit, true)
	h.Run("tc qdisc del dev eth0 root")
	h.told("root removed", news, reserve.Lost, 0, "somebody has removed its class from eth0")
	h.must(func(ctx context.Context) error { return h.d.Release(ctx, other) })
	h.bare("after the end")
}

// An interface that goes takes its grants along, and one that comes with its name begins anew.
func TestInterfaceGone(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	h := p.open(100 * reserve.Mbit)
	news := h.watch()
	g := h.active(want(1, 70*reserve.Mbit))
	held := h.after(h.d.Deactivate, g)
	g = h.after(h.d.Activate, held)
	p.IP("link del eth0")
	h.told("gone", news, reserve.Lost, 0, "eth0 is gone")
	p.cable()
	if got := h.after(h.d.Status, g); got.State != reserve.Lost {
		t.Errorf("on the new interface: %+v", got)
	}
	again := h.active(want(2, 70*reserve.Mbit))
	h.is(again, reserve.Active, 70*reserve.Mbit, true)
	h.must(func(ctx context.Context) error { return h.d.Release(ctx, g) })
	h.is(h.after(h.d.Status, again), reserve.Active, 70*reserve.Mbit, true)
	if n := len(h.d.ports); n != 1 {
		t.Errorf("the driver has %d interfaces", n)
	}
	p.IP("link del eth0")
	h.told("gone again", news, reserve.Lost, 0, "eth0 is gone")
	h.must(func(ctx context.Context) error { return h.d.Reap(ctx, soon) })
	if all := h.list(); len(all) != 0 || len(h.d.ports) != 0 {
		t.Errorf("there are %+v", all)
	}
}

// Other MTUs change what classes need, at once or with the next look; rates of more than 32 bits
// reach the kernel whole.
func TestMTUAndLongRates(t *testing.T) {
	t.Parallel()
	h := newPlace(t).open(10 * reserve.Mbit)
	h.watch()
	g := h.active(want(1, 5*reserve.Mbit))
	details := func() string { return h.Run("tc -d class show dev eth0") }
	if got := details(); strings.Count(got, "quantum 1514") != 3 {
		t.Errorf("with full packets of 1500 bytes:\n%s", got)
	}
	h.IP("link set eth0 mtu 9000")
	h.is(h.after(h.d.Status, g), reserve.Active, 5*reserve.Mbit, true)
	if got := details(); strings.Count(got, "quantum 9014") != 3 || !strings.Contains(got, "rate 5007Kbit ceil 10015Kbit") {
		t.Errorf("with those of 9000:\n%s", got)
	}
	h.must(func(context.Context) error { return h.d.SetRate("", 100*reserve.Gbit) })
	h.must(func(ctx context.Context) (err error) { g, err = h.d.Modify(ctx, g, 60*reserve.Gbit); return err })
	h.is(g, reserve.Active, 60*reserve.Gbit, true)
	if got := details(); !strings.Contains(got, "rate 60093Mbit ceil 100155Mbit") || strings.Count(got, "quantum 65536") != 3 {
		t.Errorf("at 100 Gbit/s:\n%s", got)
	}
}

// A process that may not change the kernel's queues is told so once.
func TestWithoutRights(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	c := exec.Command("/proc/self/exe")
	c.Env = []string{childStep + "=1"}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := c.Output()
	want := "failed tc: not supported: to reserve on this host's way out the agent needs CAP_NET_ADMIN: run it as root or by its systemd unit\n"
	if err == nil || string(out) != want {
		t.Errorf("%q, %v; want %q", out, err, want)
	}
}
