package agent

import (
	"context"
	"errors"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

const (
	// maxCalls is how many calls may wait for a driver: more than a broker makes, which has one
	// under way for each segment.
	maxCalls = 4096
	// reapEvery is how often a driver takes away what has ended.
	reapEvery = time.Minute
	// eventsAgain is how soon a driver is asked for its events again after that failed.
	eventsAgain = 5 * time.Second
)

// A reserveWorker makes the calls of one driver, one after the other, so that the loop doesn't
// wait for them.
type reserveWorker struct {
	n      *node
	caps   reserve.Caps
	driver reserve.Driver
	calls  chan reserve.Call
	rates  chan deviceRate
}

// A deviceRate is what an interface carries, "" any.
type deviceRate struct {
	device string
	rate   reserve.Rate
}

func newReserveWorker(n *node, caps reserve.Caps, d reserve.Driver) *reserveWorker {
	return &reserveWorker{n: n, caps: caps, driver: d, calls: make(chan reserve.Call, maxCalls), rates: make(chan deviceRate, 64)}
}

// call has the driver do something; the broker hears what came of it. The loop calls it.
func (w *reserveWorker) call(c reserve.Call) {
	select {
	case w.calls <- c:
	default:
		w.n.reserving.broker.Result(w.n.now(), reserve.Result{Number: c.Number, Grant: c.Grant, Err: reserve.ErrUnreachable})
	}
}

// setRate tells the driver what an interface carries, if it wants to know.
func (w *reserveWorker) setRate(device string, rate reserve.Rate) {
	select {
	case w.rates <- deviceRate{device, rate}:
	default: // it is told again when that changes; until then it refuses what is too much
	}
}

// run makes the calls until ctx ends.
func (w *reserveWorker) run(ctx context.Context) error {
	reap := time.NewTicker(reapEvery)
	defer reap.Stop()
	w.reap(ctx)
	for {
		select { // rates first: what follows counts on them
		case r := <-w.rates:
			w.take(r)
			continue
		default:
		}
		select {
		case <-ctx.Done():
			return nil
		case r := <-w.rates:
			w.take(r)
		case <-reap.C:
			w.reap(ctx)
		case c := <-w.calls:
			within, cancel := context.WithTimeout(ctx, c.Within)
			result := reserve.Do(within, w.driver, c)
			cancel()
			if result.Err != nil {
				w.n.log.Debug("driver", "name", w.caps.Name, "call", c.Verb, "id", c.Grant.ID, "error", result.Err)
			}
			w.tell(func(b *reserve.Broker, now overlay.Instant) { b.Result(now, result) })
		}
	}
}

// take hands a rate to drivers that reserve on interfaces.
func (w *reserveWorker) take(r deviceRate) {
	if d, ok := w.driver.(interface {
		SetRate(device string, rate reserve.Rate) error
	}); ok {
		w.log("rate", d.SetRate(r.device, r.rate))
	}
}

func (w *reserveWorker) reap(ctx context.Context) {
	within, cancel := context.WithTimeout(ctx, reapEvery/2)
	defer cancel()
	w.log("reap", w.driver.Reap(within, w.n.now()))
}

func (w *reserveWorker) log(what string, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		w.n.log.Warn("reservations: a driver has trouble", "driver", w.caps.Name, "what", what, "error", err)
	}
}

// events hands over what the driver notices by itself, until ctx ends.
func (w *reserveWorker) events(ctx context.Context) error {
	for {
		err := w.driver.Events(ctx, func(e reserve.Event) {
			w.tell(func(b *reserve.Broker, now overlay.Instant) { b.Notice(now, w.caps.Name, e) })
		})
		w.log("events", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(eventsAgain):
		}
	}
}

// tell has the loop tell the broker something.
func (w *reserveWorker) tell(f func(*reserve.Broker, overlay.Instant)) {
	w.n.mail.put(func(now overlay.Instant) {
		f(w.n.reserving.broker, now)
		w.n.reserving.dirty = true
	})
}
