//go:build linux

package tc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

// A child is an agent of its own: this test's program, which this variable in its environment
// tells before which of its steps to wait for its end.
const childStep = "FARLAN_TC_STEP"

func TestMain(m *testing.M) {
	if s := os.Getenv(childStep); s != "" {
		n, _ := strconv.Atoi(s)
		if err := child(n); err != nil {
			fmt.Println("failed", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child makes two grants and takes them away, and stops at a step: a change in the kernel, or
// between two calls.
func child(stop int) error {
	d, err := Open(Config{Rate: 100 * reserve.Mbit})
	if err != nil {
		return err
	}
	n := 0
	step := func(what string) {
		if n++; n == stop {
			fmt.Println("at", what)
			_, _ = io.Copy(io.Discard, os.Stdin) // until the end
		}
	}
	d.kernel.step = step
	ctx := context.Background()
	var grants [2]reserve.Grant
	for i := range grants {
		if grants[i], err = d.Hold(ctx, want(byte(i+1), 20*reserve.Mbit)); err != nil {
			return err
		}
		fmt.Println("holds", grants[i].Handle)
		step("held")
		for _, verb := range []func(context.Context, reserve.Grant) (reserve.Grant, error){
			d.Commit, d.Activate,
			func(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
				return d.Modify(ctx, g, 25*reserve.Mbit)
			},
			d.Deactivate, d.Activate,
		} {
			if grants[i], err = verb(ctx, grants[i]); err != nil {
				return err
			}
			step(grants[i].State.String())
		}
	}
	for _, g := range grants {
		if err := d.Release(ctx, g); err != nil {
			return err
		}
		step("released")
	}
	return nil
}

// killed runs a child in the place until its step, calls look, and kills it. It returns what it
// was about to do and the handles of the grants that it held, or no words if it came to its end.
func (p *place) killed(step int, look func(what string)) (what string, handles []string) {
	p.t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childStep+"="+strconv.Itoa(step))
	in, err := c.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	defer in.Close()
	out, err := c.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	p.Do(func() { err = c.Start() })
	if err != nil {
		p.t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "holds":
			handles = append(handles, rest)
		case "at":
			what = rest
			look(what)
			_ = c.Process.Signal(syscall.SIGKILL)
		default:
			p.t.Error("child: ", lines.Text())
		}
	}
	_ = c.Wait()
	return what, handles
}

// Wherever an agent is killed: what it left in the kernel is refused to others while it lives,
// found by the next one, and taken over for the journal's grants or else gone soon; and the
// interface is then as it was.
func TestKilledAtEachStep(t *testing.T) {
	t.Parallel()
	const shares = 3 // that run beside each other
	for share := range shares {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			for step := 1 + share; ; step += shares {
				what, handles := p.killed(step, func(what string) { p.notOthers(what) })
				if what == "" {
					if step < 30 {
						t.Errorf("there are but %d steps", step)
					}
					return
				}
				p.recovered(step, what, handles)
				if t.Failed() {
					t.Fatalf("killed at step %d, %s", step, what)
				}
			}
		})
	}
}

// notOthers expects that another agent can't have the interface of one that lives.
func (p *place) notOthers(what string) {
	p.t.Helper()
	before := p.classes()
	other := p.open(100 * reserve.Mbit)
	other.must(func(ctx context.Context) error { return other.d.Reap(ctx, soon) })
	later := want(9, reserve.Mbit)
	later.End = 2 * soon
	err := other.try(func(ctx context.Context) error { _, err := other.d.Hold(ctx, later); return err })
	if !errors.Is(err, reserve.ErrForeign) && what != "released" { // after the last one the interface is free
		p.t.Errorf("another agent's hold: %v", err)
	}
	if err := other.d.Close(); err != nil {
		p.t.Error(err)
	}
	if after := p.classes(); !slices.Equal(after, before) {
		p.t.Errorf("another agent has made %v of %v", after, before)
	}
}

// recovered opens the next agent, which has a journal of the handles in one of two rounds.
func (p *place) recovered(step int, what string, handles []string) {
	p.t.Helper()
	left := p.classes()
	h := p.open(100 * reserve.Mbit)
	var listed []string
	for _, g := range h.list() {
		listed = append(listed, strings.TrimPrefix(g.Handle, "eth0 "))
		if g.ID != (reserve.ID{}) || g.State != reserve.Committed || g.Rate != 20*reserve.Mbit && g.Rate != 25*reserve.Mbit {
			p.t.Errorf("listed %+v", g)
		}
	}
	if !slices.Equal(listed, left) {
		p.t.Errorf("the kernel has %v, and listed are %v", left, listed)
	}
	if len(left) == 0 {
		p.bare("with no class left")
	}
	now := overlay.Instant(10)
	h.must(func(ctx context.Context) error { return h.d.Reap(ctx, now) })
	if step/3%2 == 0 {
		for i, handle := range handles {
			h.takesOver(i, handle, left)
		}
	}
	h.must(func(ctx context.Context) error { return h.d.Reap(ctx, now.Add(adoptTime)-1) })
	if got := p.classes(); step/3%2 == 1 && !slices.Equal(got, left) {
		p.t.Errorf("too early there are %v of %v", got, left)
	}
	h.must(func(ctx context.Context) error { return h.d.Reap(ctx, now.Add(adoptTime)) })
	p.bare("when all is over, killed at " + what)
	if err := h.d.Close(); err != nil {
		p.t.Error(err)
	}
}

// Whoever takes a class over and doesn't know its end has it for as long as leases are, unless it
// is renewed; and by the handle alone it can only be released.
func TestTakenOverWithoutEnd(t *testing.T) {
	t.Parallel()
	dead := newPlace(t).open(100 * reserve.Mbit)
	var handles []string
	for n := range byte(3) {
		handles = append(handles, dead.active(want(n+1, 10*reserve.Mbit)).Handle)
	}
	for _, p := range dead.d.ports {
		p.lock.free() // as its end does
	}
	clear(dead.d.ports)
	h := dead.open(100 * reserve.Mbit)
	now := overlay.Instant(1000)
	reap := func(d time.Duration, left int) {
		t.Helper()
		h.must(func(ctx context.Context) error { return h.d.Reap(ctx, now.Add(d)) })
		if all := h.list(); len(all) != left {
			t.Errorf("after %v: %d are left, want %d", d, len(all), left)
		}
	}
	reap(0, 3)
	renewed := h.after(h.d.Status, reserve.Grant{ID: want(1, 1).ID, Handle: handles[0]})
	h.after(h.d.Status, reserve.Grant{ID: want(2, 1).ID, Handle: handles[1]})
	h.must(func(ctx context.Context) error {
		_, err := h.d.Renew(ctx, renewed, now.Add(time.Hour))
		return err
	})
	if g := h.after(h.d.Activate, renewed); !g.Up || g.Mark.Priority == 0 || g.End != now.Add(time.Hour) {
		t.Errorf("renewed and activated: %+v", g)
	}
	h.must(func(ctx context.Context) error { return h.d.Release(ctx, reserve.Grant{Handle: handles[2]}) })
	if err := h.try(func(ctx context.Context) error { return h.d.Release(ctx, reserve.Grant{Handle: handles[0]}) }); !errors.Is(err, reserve.ErrGone) {
		t.Errorf("what is somebody's is released by its handle: %v", err)
	}
	reap(adoptTime, 2)
	reap(endlessTime-1, 2)
	reap(endlessTime, 1)
	reap(time.Hour, 0)
	h.bare("at the end")
}

// takesOver asks by the journal's handle, whose class is there or isn't, and releases it.
func (h *host) takesOver(i int, handle string, left []string) {
	h.t.Helper()
	g := reserve.Grant{ID: want(byte(i+1), 1).ID, Handle: handle, State: reserve.Active, End: overlay.Instant(10).Add(time.Hour)}
	there := slices.Contains(left, strings.TrimPrefix(handle, "eth0 "))
	err := h.try(func(ctx context.Context) (err error) { g, err = h.d.Status(ctx, g); return err })
	if there != (err == nil) || !there && !errors.Is(err, reserve.ErrGone) {
		h.t.Errorf("status of %s, left are %v: %v", handle, left, err)
		return
	}
	if !there {
		return
	}
	if g.State != reserve.Active || !g.Up || g.ID.Reservation[0] != byte(i+1) || g.Mark.Priority == 0 {
		h.t.Errorf("taken over: %+v", g)
	}
	if got := h.tc("class"); !strings.Contains(got, "7fa1:2 ") || strings.Count(got, " leaf ") < 3 {
		h.t.Errorf("what was missing isn't there:\n%s", got)
	}
	stranger := g
	stranger.ID.Reservation[3] = 77
	if err := h.try(func(ctx context.Context) error { return h.d.Release(ctx, stranger) }); !errors.Is(err, reserve.ErrGone) {
		h.t.Errorf("released by another's ID: %v", err)
	}
	h.must(func(ctx context.Context) error { return h.d.Release(ctx, g) })
}
