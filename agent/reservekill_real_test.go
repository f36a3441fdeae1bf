package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

// killVariable says at which step of a reservation an agent is killed: "hold before", "hold after".
const killVariable = "FARLAN_TEST_KILL"

// mortal has an agent be killed at the step that is said.
func mortal(n *node) {
	if verb, when, ok := strings.Cut(os.Getenv(killVariable), " "); ok {
		n.reserving.wrap = func(d reserve.Driver) reserve.Driver { return mortalDriver{d, verb, when} }
	}
}

// A mortalDriver is a driver whose process is killed before or after one of its verbs.
type mortalDriver struct {
	reserve.Driver
	verb, when string
}

func (d mortalDriver) at(verb, when string) {
	if d.verb == verb && d.when == when {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (d mortalDriver) SetRate(device string, rate reserve.Rate) error {
	return d.Driver.(interface {
		SetRate(device string, rate reserve.Rate) error
	}).SetRate(device, rate)
}

func (d mortalDriver) Hold(ctx context.Context, w reserve.Want) (g reserve.Grant, err error) {
	d.at("hold", "before")
	defer d.at("hold", "after")
	return d.Driver.Hold(ctx, w)
}

func (d mortalDriver) Commit(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	d.at("commit", "before")
	defer d.at("commit", "after")
	return d.Driver.Commit(ctx, g)
}

func (d mortalDriver) Activate(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	d.at("activate", "before")
	defer d.at("activate", "after")
	return d.Driver.Activate(ctx, g)
}

func (d mortalDriver) Release(ctx context.Context, g reserve.Grant) error {
	d.at("release", "before")
	defer d.at("release", "after")
	return d.Driver.Release(ctx, g)
}

func (d mortalDriver) Renew(ctx context.Context, g reserve.Grant, end overlay.Instant) (reserve.Grant, error) {
	return d.Driver.Renew(ctx, g, end)
}

// restart starts an agent again that is to die at a step, or isn't.
func (d *process) restart(step string) {
	d.t.Helper()
	d.kill()
	d.prefix = []string{"env", reservedVariable + "=1", killVariable + "=" + step}
	d.start()
	eventually(d.t, 15*time.Second, func() error { _, err := d.try(order{Rows: true}); return err })
}

// A host is an agent and the interface at which its kernel has its queues.
type queueing struct {
	agent      *process
	ns, device string
}

// owned says what is wrong with what a kernel has at an agent: it must be what the agent's
// broker, and so its journal, knows of.
func (y *yard) owned(q queueing) error {
	x, err := q.agent.try(order{Rows: true})
	if err != nil {
		return err
	}
	want := 0
	for _, r := range x.Rows {
		if r.Driver == "tc" && r.State >= reserve.Committed && r.State <= reserve.Degraded {
			want++
		} else if !r.State.Over() && r.Driver == "tc" {
			return fmt.Errorf("%s is %v at %s", r.ID, r.State, q.agent.name)
		}
	}
	// The root's class, those of what is urgent and of the rest, and one of each.
	classes := y.queues(q.ns, q.device)
	if has := max(len(classes)-3, 0); has != want || want == 0 && len(classes) > 0 {
		return fmt.Errorf("%s has %d reservations, and its kernel %v", q.agent.name, want, classes)
	}
	return nil
}

// An agent is killed before or after its driver's holds, commits, activates and releases, at the sender
// and at the relay. Within a minute of its start again the kernels have what the journals own and
// nothing else, and the reservation works again or is over; when it is given back nothing is left.
func TestKilledWhileReserving(t *testing.T) {
	for _, who := range []string{"sender", "relay"} {
		for _, when := range []string{"before", "after"} {
			t.Run(who+" "+when, func(t *testing.T) {
				t.Parallel()
				y := newYard(t, []string{"--uplink", "100Mbit", "--reserve", "tc"}, "--uplink", "100Mbit", "--reserve", "tc", "--reserve-auto", "off")
				victim := y.agents[0]
				if who == "relay" {
					victim = y.middle
				}
				for _, verb := range []string{"hold", "commit", "activate", "release"} {
					y.killAt(victim, verb+" "+when)
				}
			})
		}
	}
}

func (y *yard) killAt(victim *process, step string) {
	y.t.Helper()
	a := y.agents[0]
	all := []queueing{{a, y.a, "u"}, {y.middle, y.r, "ub"}}
	o := order{To: "b", Path: []string{"c"}, Want: 20 * reserve.Mbit, For: 10 * time.Minute}
	victim.restart(step)
	if strings.HasPrefix(step, "release") {
		eventually(y.t, 30*time.Second, func() error {
			_, _ = a.try(o)
			if all, why := a.stands(o); len(all) == 0 || all[len(all)-1] != reserve.Active {
				return fmt.Errorf("%v: %s", all, why)
			}
			return nil
		})
		if rows, err := a.try(order{Rows: true}); err == nil {
			i := slices.IndexFunc(rows.Rows, func(r reserve.Row) bool { return r.Whole == reserve.Active })
			_, _ = a.try(order{Free: fmt.Sprintf("%x", rows.Rows[i].ID.Reservation)})
		}
	}
	eventually(y.t, 30*time.Second, func() error {
		select {
		case <-victim.done:
			return nil
		default:
		}
		if !strings.HasPrefix(step, "release") {
			_, _ = a.try(o)
		}
		return errors.New("it isn't killed at " + step)
	})
	began := time.Now()
	victim.restart("")
	settled := func() error {
		rows, err := a.try(order{Rows: true})
		for _, r := range rows.Rows {
			if !r.Whole.Over() && r.Whole != reserve.Active {
				err = errors.Join(err, fmt.Errorf("%s is %v: %s", r.ID, r.Whole, r.Reason))
			}
		}
		for _, q := range all {
			err = errors.Join(err, y.owned(q))
		}
		return err
	}
	eventually(y.t, time.Minute, settled)
	settling := time.Since(began)
	states, _ := a.stands(o)
	rows := a.has(order{Rows: true}).Rows
	for _, r := range rows {
		if !r.Whole.Over() {
			_, _ = a.try(order{Free: fmt.Sprintf("%x", r.ID.Reservation)})
		}
	}
	eventually(y.t, 30*time.Second, func() error {
		for _, q := range all {
			if left := y.queues(q.ns, q.device); len(left) > 0 {
				return fmt.Errorf("%s still has %v", q.agent.name, left)
			}
		}
		return nil
	})
	y.t.Logf("%s killed at %s: settled %.1f s after its start: %v", victim.name, step, settling.Seconds(), states)
}
