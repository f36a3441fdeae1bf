package lab

import (
	"context"
	"errors"
	"time"
)

// poll calls f at once and then every interval until it succeeds, or ctx is
// done: then it returns f's last error, and ctx's.
func poll(ctx context.Context, interval time.Duration, f func() error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}
