package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"farlan/measure"
	"farlan/overlay"
)

const (
	// maxBench bounds for how long trains are sent again and again.
	maxBench = time.Minute
	// benchPatience is how long a measurement may take beyond that.
	benchPatience = 30 * time.Second
	// maxMbit is the fastest that --max-mbit takes.
	maxMbit = 1_000_000
)

// benchView is what a measurement of a path has found.
type benchView struct {
	Schema     int      `json:"schema_version"`
	To         string   `json:"to"`
	Mbit       float64  `json:"mbit"` // underlay IP packets
	LowMbit    float64  `json:"low_mbit"`
	HighMbit   *float64 `json:"high_mbit"` // null: mbit is a lower bound
	Meaning    string   `json:"meaning"`   // capacity, achievable, lower bound
	BurstBytes int      `json:"burst_bytes"`
	Trains     int      `json:"measurements"`
	Bytes      int      `json:"bytes"` // sent for it, IP packets
	Seconds    float64  `json:"seconds"`
	LimitedBy  string   `json:"limited_by"` // path, path shared with others, own cpu, uplink, cap
}

// refreshLine is one line of the answer to a refresh: that of one peer.
type refreshLine struct {
	To    string     `json:"to"`
	Done  int        `json:"done"`
	Of    int        `json:"of"`
	Bench *benchView `json:"bench"` // null: it failed
	Error string     `json:"error"`
}

// megabits returns a rate as people read it, nil if it isn't known.
func megabits(rate int64) *float64 {
	if rate <= 0 {
		return nil
	}
	return new(math.Round(float64(rate)/1e4) / 100)
}

// benchViewOf says what a capacity is; most is the cap that was asked for.
func (n *node) benchViewOf(name string, c capacity, most int64) benchView {
	v := benchView{
		Schema: schemaVersion, To: name, Mbit: *megabits(c.Rate), LowMbit: *megabits(max(c.Low, 1)), BurstBytes: c.Burst, Trains: 1,
		Bytes: c.Bytes, Seconds: math.Round(c.took.Seconds()*1e3) / 1e3,
	}
	switch c.Limit {
	case measure.ByPath:
		v.Meaning, v.LimitedBy, v.HighMbit = "capacity", "path", megabits(c.High)
	case measure.ByTraffic:
		v.Meaning, v.LimitedBy, v.HighMbit = "achievable", "path shared with others", megabits(c.High)
	case measure.ByMost:
		v.Meaning, v.LimitedBy = "lower bound", "cap"
		if up := n.uplinkRate(); up > 0 && (most <= 0 || up < most) {
			v.LimitedBy = "uplink"
		}
	default:
		v.Meaning, v.LimitedBy = "lower bound", "own cpu"
	}
	return v
}

// bench measures the path to a peer, once or for some time: then the median counts.
func (n *node) bench(ctx context.Context, p *peer, name string, most int64, during time.Duration) (benchView, error) {
	start := n.now()
	all := []capacity{}
	bytes := 0
	for {
		c, err := n.measureCapacity(ctx, p, most)
		bytes += c.Bytes
		if err == nil {
			all = append(all, c)
		} else if len(all) == 0 || ctx.Err() != nil {
			return benchView{}, err
		}
		if err != nil || n.now().Sub(start) >= during {
			break
		}
	}
	slices.SortFunc(all, func(a, b capacity) int { return int(a.Rate/1e3 - b.Rate/1e3) })
	c := all[len(all)/2]
	c.at = n.now()
	p.mu.Lock()
	p.trains.out = c
	p.mu.Unlock()
	c.Bytes, c.took = bytes, c.at.Sub(start)
	v := n.benchViewOf(name, c, most)
	v.Trains = len(all)
	return v, nil
}

// benchFailed says why a path could not be measured.
func benchFailed(name string, err error) *failure {
	f := &failure{err: fmt.Errorf("bench %s: %w", name, err), code: exitFailed}
	switch {
	case errors.Is(err, errNotDirect):
		f.hint = "'farlan peers' says how it is reached; bench the agents on the way one by one"
	case errors.Is(err, errTrainBusy):
		f.hint = "it lets in one train at a time, and 50 kB/s of one agent that asks for ever: try again in a minute"
	}
	return f
}

// serveBench measures the path to a peer.
func (n *node) serveBench(w http.ResponseWriter, r *http.Request) {
	during, err := time.ParseDuration(r.FormValue("during"))
	if err != nil || during < 0 || during > maxBench {
		refuse(w, http.StatusBadRequest, &failure{err: fmt.Errorf("--seconds: want 0 to %v", maxBench.Seconds()), code: exitUsage})
		return
	}
	most, err := strconv.ParseFloat(r.FormValue("max_mbit"), 64)
	if err != nil || !(most == 0 || most >= 0.1 && most <= maxMbit) {
		refuse(w, http.StatusBadRequest, &failure{err: fmt.Errorf("--max-mbit: want 0.1 to %d, or 0 for no cap", maxMbit), code: exitUsage})
		return
	}
	name := r.FormValue("peer")
	p, refused := n.reachPeer(r.Context(), name)
	if refused != nil {
		refuse(w, http.StatusNotFound, refused)
		return
	}
	if err = n.do(r.Context(), func(overlay.Instant) {
		if p != nil {
			name = n.names()[p.id]
		}
	}); err != nil {
		refuse(w, http.StatusServiceUnavailable, &failure{err: err, code: exitNoAgent})
		return
	}
	if p == nil {
		refuse(w, http.StatusNotFound, &failure{err: fmt.Errorf("bench %s: no such peer", name), hint: "'farlan peers' lists them", code: exitNoPeer})
		return
	}
	view, err := n.bench(r.Context(), p, name, int64(most*1e6), during)
	if err != nil {
		refuse(w, http.StatusInternalServerError, benchFailed(name, err))
		return
	}
	reply(w, view)
}

// serveRefresh measures the paths to a peer, or to all that answer, one after the
// other, and says a line of JSON after each.
func (n *node) serveRefresh(w http.ResponseWriter, r *http.Request) {
	type named struct {
		p    *peer
		name string
	}
	var all []named
	only := r.FormValue("peer")
	if only != "" {
		if _, refused := n.reachPeer(r.Context(), only); refused != nil {
			refuse(w, http.StatusNotFound, refused)
			return
		}
	}
	if err := n.do(r.Context(), func(overlay.Instant) {
		names := n.names()
		if p := n.find(only, names); p != nil {
			all = append(all, named{p, names[p.id]})
		}
		for _, p := range n.byIndex {
			if only == "" && p != nil && p.state == measure.Up {
				all = append(all, named{p, names[p.id]})
			}
		}
	}); err != nil {
		refuse(w, http.StatusServiceUnavailable, &failure{err: err, code: exitNoAgent})
		return
	}
	if only != "" && len(all) == 0 {
		refuse(w, http.StatusNotFound, &failure{err: fmt.Errorf("refresh %s: no such peer", only), hint: "'farlan peers' lists them", code: exitNoPeer})
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	lines, flush := json.NewEncoder(w), http.NewResponseController(w)
	for i, q := range all {
		line := refreshLine{To: q.name, Done: i + 1, Of: len(all)}
		if view, err := n.bench(r.Context(), q.p, q.name, 0, 0); err != nil {
			line.Error = err.Error()
		} else {
			line.Bench = &view
		}
		if lines.Encode(line) != nil || flush.Flush() != nil {
			return // nobody reads it any more
		}
	}
}

func newBench() *cobra.Command {
	var seconds, most float64
	cmd := &cobra.Command{
		Use: "bench PEER", Short: "what the path to a peer carries, by a short train of packets", Args: cobra.ExactArgs(1),
		Long: "Measures what the direct path to a peer carries, in bits of underlay IP packets, by a\n" +
			"train of packets of some milliseconds: 300 kB up to 200 Mbit/s, 1.2 MB above. An idle\n" +
			"path shows its capacity. One that others use shows what a flow beside theirs can\n" +
			"achieve, which is more than what they leave over.",
	}
	c := newClient(cmd)
	cmd.Flags().Float64Var(&seconds, "seconds", 0, "send trains for so long and print the median; 0: one measurement")
	cmd.Flags().Float64Var(&most, "max-mbit", 0, "never send faster; 0: as fast as --uplink of 'farlan up' allows")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !(seconds >= 0 && seconds <= maxBench.Seconds()) {
			return usagef("a measurement takes about a second")("--seconds=%v: want 0 to %v", seconds, maxBench.Seconds())
		}
		during := time.Duration(seconds * float64(time.Second))
		c.timeout += during + benchPatience
		form := url.Values{"peer": {args[0]}, "during": {during.String()}, "max_mbit": {strconv.FormatFloat(most, 'g', -1, 64)}}
		var v benchView
		if err := c.call(cmd.Context(), http.MethodPost, "/bench", form, &v); err != nil {
			return err
		}
		if c.json != "" {
			return c.print(cmd, v)
		}
		showBench(cmd.OutOrStdout(), v)
		return nil
	}
	return cmd
}

func showBench(w io.Writer, v benchView) {
	says := map[string]string{
		"capacity":    "capacity of the path, which was idle",
		"achievable":  "achievable beside the traffic of others, not left over by it",
		"lower bound": "or more: nothing queued on the path",
	}[v.Meaning]
	within := ""
	if v.HighMbit != nil {
		within = fmt.Sprintf(" (%.4g to %.4g)", v.LowMbit, *v.HighMbit)
	}
	fmt.Fprintf(w, "%s: %.4g Mbit/s%s, %s; limited by: %s; %d kB in %.2f s\n",
		v.To, v.Mbit, within, says, v.LimitedBy, (v.Bytes+500)/1000, v.Seconds)
}
