package agent

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"farlan/overlay"
)

// waitEvery is how often wait looks.
const waitEvery = 50 * time.Millisecond

// A condition says whether what is waited for is so.
type condition func(ctx context.Context, c *client) (bool, error)

func newWait() *cobra.Command {
	var what string
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "block until the agent is ready, a peer is up, or a station is known",
		Args:  cobra.NoArgs,
	}
	c := newClient(cmd)
	cmd.Flags().StringVar(&what, "for", "ready", "`ready|peer=NAME|station=MAC`")
	timeout := cmd.Flags().Lookup("timeout")
	timeout.DefValue, timeout.Usage = "30s", "how long to wait"
	c.timeout = 30 * time.Second
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		is, err := parseCondition(what)
		if err != nil {
			return err
		}
		return c.wait(cmd.Context(), what, is)
	}
	return cmd
}

func parseCondition(s string) (condition, error) {
	kind, value, _ := strings.Cut(s, "=")
	switch {
	case s == "ready":
		return isReady, nil
	case kind == "peer" && value != "":
		return isPeerUp(value), nil
	case kind == "station":
		m, err := overlay.ParseMAC(strings.ToLower(value))
		if err != nil {
			return nil, usagef("")("--for %q: %w", s, err)
		}
		return isStation(m), nil
	}
	return nil, usagef("")("--for %q: want ready, peer=NAME or station=MAC", s)
}

func isReady(ctx context.Context, c *client) (bool, error) {
	var v statusView
	err := c.call(ctx, http.MethodGet, "/status", nil, &v)
	return err == nil && v.State != "starting", err
}

func isPeerUp(name string) condition {
	return func(ctx context.Context, c *client) (bool, error) {
		var v peersView
		err := c.call(ctx, http.MethodGet, "/peers", nil, &v)
		return err == nil && slices.ContainsFunc(v.Peers, func(p peerView) bool {
			return (p.Name == name || p.ID == name) && (p.State == "up" || p.State == "idle")
		}), err
	}
}

func isStation(m overlay.MAC) condition {
	return func(ctx context.Context, c *client) (bool, error) {
		var v stationsView
		err := c.call(ctx, http.MethodGet, "/stations", nil, &v)
		return err == nil && slices.ContainsFunc(v.Stations, func(s stationView) bool { return s.MAC == m.String() }), err
	}
}

// wait looks until it is so. That no agent answers yet is no error until the
// time is over.
func (c *client) wait(ctx context.Context, what string, is condition) error {
	limit := c.timeout
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	look := time.NewTicker(waitEvery)
	defer look.Stop()
	var last error
	for {
		ok, err := is(ctx, c)
		if ok {
			return nil
		}
		if err == nil || ctx.Err() == nil {
			last = err
		}
		if err != nil && exitCode(err) != exitNoAgent {
			return err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return ctx.Err()
			}
			if last != nil {
				return failf(exitTimeout, "%s", hintOf(last))("wait for %s: not within %v: %w", what, limit, last)
			}
			return failf(exitTimeout, "'farlan peers', 'farlan stations' and 'farlan status' say what is known")("wait for %s: not within %v", what, limit)
		}
	}
}
