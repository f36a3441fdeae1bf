package nsi

import (
	"context"
	"errors"
	"time"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi/cs"
)

// Events tells what becomes of circuits unasked: at once what the provider calls back for, and
// each Watch what is found by asking, as callbacks get lost. tell is called in this goroutine.
func (d *Driver) Events(ctx context.Context, tell func(reserve.Event)) error {
	watch := time.NewTicker(d.cfg.Watch)
	defer watch.Stop()
	for {
		for _, e := range d.book.news() {
			tell(e)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.book.wake:
		case <-watch.C:
			d.look(ctx)
		}
	}
}

// look asks for all circuits and makes news of what has changed. One that the provider no longer
// knows is lost; what isn't known for sure, and what a call is about, is left to that.
func (d *Driver) look(ctx context.Context) {
	before := d.book.all()
	if len(before) == 0 {
		return
	}
	all, err := d.list(ctx)
	if err != nil {
		return // the provider may be back next time; until then nothing is known
	}
	there := make(map[reserve.ID]bool)
	for _, e := range all {
		there[e.grant.ID] = true
	}
	for _, e := range before {
		if s := e.grant.State; there[e.grant.ID] || s != reserve.Active && s != reserve.Degraded {
			continue
		}
		e.grant.State, e.grant.Up, e.grant.Reason = reserve.Lost, false, "the provider doesn't know it any more"
		d.book.put(e, true)
	}
}

// Reap forgets circuits whose end is over, and what wasn't committed in time, and says so to the
// provider in case that its clock thinks otherwise. Its answer isn't waited for.
func (d *Driver) Reap(ctx context.Context, now overlay.Instant) error {
	var all []error
	for _, e := range d.book.all() {
		over := e.grant.End != 0 && !now.Before(e.grant.End)
		if !over && e.grant.State != reserve.Rejected {
			continue
		}
		d.book.leave(e.grant.ID)
		if s := e.grant.State; e.grant.Handle == "" || s == reserve.Released || s == reserve.Lost {
			continue
		}
		_, err := d.client.do(ctx, cs.Message{Op: cs.Terminate, Connection: e.grant.Handle})
		if err != nil && code(err) == "" {
			all = append(all, err) // a denial is as good as a confirmation now
		}
	}
	return errors.Join(all...)
}
