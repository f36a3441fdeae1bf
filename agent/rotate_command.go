package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"farlan/overlay"
)

const (
	defaultOverlap = 24 * time.Hour
	// rotateWait is how long the command watches the change spread.
	rotateWait = 10 * time.Second
	rotateLook = 250 * time.Millisecond
)

func newKeyRotate() *cobra.Command {
	var overlap time.Duration
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "change the network's key on all agents",
		Long: `Change the network's key on all connected agents. The old key stays good beside
the new one for a time: an agent that isn't connected now learns the new one when
it comes before that is over. Later it must be given the new key file by hand.

Each agent replaces its key file, and keeps the old key beside it (FILE.old) until
then. Sessions and frames go on. Any member may order it; in a signed network the
admin, with the admin key. Whoever holds the old key and comes in that time learns
the new one, too: to shut out somebody who has got hold of the key, choose a short
time. Tokens that were printed before are of no use afterwards: they hold the old key.`,
		Args: cobra.NoArgs,
	}
	f := &files{}
	f.addFlags(cmd, true)
	c := newClient(cmd)
	cmd.Flags().DurationVar(&overlap, "overlap", defaultOverlap, "how long both keys are good, 10s to 48h")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v, err := c.rotate(cmd.Context(), f, overlap)
		if err != nil {
			return err
		}
		cmd.PrintErrf("the network's key changes from %s to %s; the old one is good until %s\n", v.From, v.To, v.Until.Local().Format(time.DateTime))
		c.watchRotation(cmd, &v)
		if c.json != "" {
			return c.print(cmd, v)
		}
		if len(v.Waiting) > 0 {
			cmd.PrintErrf("not yet: %s; 'farlan status' says how far it is\n", strings.Join(v.Waiting, ", "))
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), v.To)
		return err
	}
	return cmd
}

// rotate has the agent order the change, in a signed network as the admin.
func (c *client) rotate(ctx context.Context, f *files, overlap time.Duration) (v rotationView, err error) {
	var s statusView
	if err = c.call(ctx, http.MethodGet, "/status", nil, &s); err != nil {
		return v, err
	}
	var orders []byte
	if s.Admission == admissionSigned {
		if orders, err = c.adminOrders(ctx, f, overlap); err != nil {
			return v, err
		}
	}
	err = c.send(ctx, http.MethodPost, "/key/rotate", url.Values{"overlap": {overlap.String()}}, orders, &v)
	return v, err
}

// watchRotation says how many agents have the new key until all have, for a while.
func (c *client) watchRotation(cmd *cobra.Command, v *rotationView) {
	ctx, cancel := context.WithTimeout(cmd.Context(), rotateWait)
	defer cancel()
	look := time.NewTicker(rotateLook)
	defer look.Stop()
	for said := 0; ; {
		if v.Have != said {
			said = v.Have
			cmd.PrintErrf("%d of %d agents go by the new key\n", v.Have, v.Agents)
		}
		if v.Have == v.Agents {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		var s statusView
		if err := c.call(ctx, http.MethodGet, "/status", nil, &s); err != nil || s.Rotation == nil {
			return
		}
		schema := v.Schema
		*v = *s.Rotation
		v.Schema = schema
	}
}

// serveRotate orders the network to change its key.
func (n *node) serveRotate(w http.ResponseWriter, r *http.Request) {
	orders, err := readOrders(w, r)
	if err != nil {
		refuse(w, http.StatusBadRequest, &failure{err: fmt.Errorf("key rotate: %w", err), code: exitFailed})
		return
	}
	overlap, err := time.ParseDuration(r.URL.Query().Get("overlap"))
	if err != nil {
		refuse(w, http.StatusBadRequest, &failure{err: fmt.Errorf("--overlap: %w", err), code: exitUsage})
		return
	}
	var v *rotationView
	var failed error
	if err := n.do(r.Context(), func(now overlay.Instant) {
		if orders == nil {
			v, failed = n.rotate(now, overlap)
		} else {
			v, failed = n.rotateByAdmin(now, *orders)
		}
	}); err != nil {
		refuse(w, http.StatusServiceUnavailable, &failure{err: err, code: exitNoAgent})
		return
	}
	if failed != nil {
		var f *failure
		if !errors.As(failed, &f) {
			f = &failure{err: failed, code: exitFailed}
		}
		refuse(w, http.StatusConflict, f)
		return
	}
	v.Schema = schemaVersion
	reply(w, v)
}
