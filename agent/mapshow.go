package agent

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"farlan/agent/chart"
)

// watchEvery is how often --watch asks.
const watchEvery = 2 * time.Second

// mapOptions are what 'farlan map' is asked for.
type mapOptions struct {
	own, matrix, dot, watch, refresh bool
	from, to, metric, svg            string
}

func newMap() *cobra.Command {
	var o mapOptions
	cmd := &cobra.Command{
		Use: "map", Short: "the peer map: what the path of each pair of agents is like", Args: cobra.NoArgs,
		Long: `The peer map: for each pair of agents the round trip, loss, capacity and MTU of the
path from one to the other, how that is known, and how long ago it was measured. What
isn't known is shown as –, what is a lower bound with ≥, what is predicted with ~.
Where frames go by way of a member, round trip and loss are those of that way, and it
says relayed, or via whom.
What another agent measured is as old as what it told last: it tells again when that
would mislead, and every ten minutes.`,
	}
	c := newClient(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.own, "own", false, "only pairs from this agent")
	f.StringVar(&o.from, "from", "", "only pairs from `AGENT`")
	f.StringVar(&o.to, "to", "", "only pairs to `AGENT`")
	f.BoolVar(&o.matrix, "matrix", false, "a matrix of one metric")
	f.StringVar(&o.metric, "metric", "rtt", "of the matrix: `rtt|loss|capacity|available`")
	f.BoolVar(&o.dot, "dot", false, "a graph in Graphviz's language")
	f.StringVar(&o.svg, "svg", "", "draw a picture to `FILE`, - is standard output")
	f.BoolVar(&o.watch, "watch", false, "again every 2 s")
	f.BoolVar(&o.refresh, "refresh", false, "first measure what the paths from this agent carry, as 'farlan bench' does")
	check := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if err := o.check(cmd, c.json != ""); err != nil {
			return err
		}
		return check(cmd, args)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return o.run(cmd, c) }
	return cmd
}

// check says what is wrong with the flags.
func (o *mapOptions) check(cmd *cobra.Command, json bool) error {
	forms := 0
	for _, f := range []bool{o.matrix, o.dot, o.svg != "", json} {
		if f {
			forms++
		}
	}
	_, known := metrics[o.metric]
	switch {
	case forms > 1:
		return usagef("")("map: --matrix, --dot, --svg and --json exclude each other")
	case !known:
		return usagef("")("--metric %q: want rtt, loss, capacity or available", o.metric)
	case cmd.Flags().Changed("metric") && !o.matrix:
		return usagef("add --matrix")("--metric is of the matrix")
	case o.own && o.from != "":
		return usagef("")("map: --own and --from exclude each other")
	case o.refresh && o.from != "":
		return usagef("run it on the machine of that agent")("map: --refresh measures paths from this agent only, not from %s", o.from)
	}
	return nil
}

// run asks and prints, once or until it is interrupted.
func (o *mapOptions) run(cmd *cobra.Command, c *client) error {
	form := url.Values{}
	for name, value := range map[string]string{"from": o.from, "to": o.to} {
		if value != "" {
			form.Set(name, value)
		}
	}
	if o.own {
		form.Set("own", "1")
	}
	if o.refresh {
		if err := o.measure(cmd, c); err != nil {
			return err
		}
	}
	again := time.NewTicker(watchEvery)
	defer again.Stop()
	for {
		var v mapView
		if err := c.call(cmd.Context(), http.MethodGet, "/map", form, &v); err != nil {
			return err
		}
		if o.watch && isTerminal(cmd.OutOrStdout()) {
			fmt.Fprint(cmd.OutOrStdout(), "\x1b[H\x1b[2J")
		}
		if err := o.print(cmd, c, v); err != nil || !o.watch {
			return err
		}
		select {
		case <-again.C:
		case <-cmd.Context().Done():
			return nil
		}
	}
}

// measure has the paths to all peers measured, or to one, and says how far it is.
func (o *mapOptions) measure(cmd *cobra.Command, c *client) error {
	var v peersView
	if err := c.call(cmd.Context(), http.MethodGet, "/peers", nil, &v); err != nil {
		return err
	}
	v.Peers = slices.DeleteFunc(v.Peers, func(p peerView) bool {
		return p.Path == "self" || p.State == "gone" || o.to != "" && p.Name != o.to && p.ID != o.to
	})
	patient := *c
	patient.timeout += benchPatience
	for i, p := range v.Peers {
		var line refreshLine
		if err := patient.call(cmd.Context(), http.MethodPost, "/refresh", url.Values{"peer": {p.ID}}, &line); err != nil {
			return err
		}
		said := line.Error
		if b := line.Bench; b != nil {
			said = fmt.Sprintf("%.4g Mbit/s, %s", b.Mbit, b.Meaning)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d: %s: %s\n", i+1, len(v.Peers), p.Name, said)
	}
	return nil
}

func (o *mapOptions) print(cmd *cobra.Command, c *client, v mapView) error {
	w := cmd.OutOrStdout()
	switch {
	case c.json != "":
		return c.print(cmd, v)
	case o.matrix:
		showMatrix(w, v, o.metric)
	case o.dot:
		showDot(w, v)
	case o.svg != "":
		return writeSVG(w, o.svg, v)
	default:
		showMap(w, v)
	}
	return nil
}

// isTerminal says whether w is one.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

const unknown = "–"

func showMap(w io.Writer, v mapView) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "AGENT\tUP Mbit/s\tKNOWN\tDOWN Mbit/s\tKNOWN")
	for _, a := range v.Agents {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", a.Name, rateText(a.UpMbit), sourceText(a.UpSource), rateText(a.DownMbit), sourceText(a.DownSource))
	}
	_ = t.Flush()
	if len(v.Pairs) == 0 {
		return
	}
	t = table(w, "FROM", "TO", "RTT ms", "KNOWN", "JITTER ms", "LOSS", "CAPACITY Mbit/s", "KNOWN", "AVAILABLE", "MTU")
	for _, p := range v.Pairs {
		mtu := unknown
		if p.MTU != nil {
			mtu = strconv.Itoa(*p.MTU)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.From, p.To, p.rttText(), p.rttKnown(), orUnknown(p.JitterMs, "%.1f"),
			p.lossText(), p.capacityText(), p.capacityKnown(), rateText(p.AvailableMbit), mtu)
	}
	_ = t.Flush()
}

func orUnknown(f *float64, format string) string {
	if f == nil {
		return unknown
	}
	return fmt.Sprintf(format, *f)
}

// rateText prints a rate with three digits.
func rateText(mbit *float64) string {
	if mbit == nil {
		return unknown
	}
	return digits(*mbit)
}

// digits prints a number with three digits, more if it is large.
func digits(f float64) string {
	switch {
	case f >= 100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.2f", f)
}

func sourceText(s string) string {
	if s == "none" {
		return unknown
	}
	return s
}

func (p mapPairView) predicted() bool { return p.RTTSource != nil && *p.RTTSource == "predicted" }

func (p mapPairView) rttText() string {
	switch {
	case p.RTTms == nil:
		return unknown
	case p.predicted():
		return "~" + digits(*p.RTTms)
	}
	return digits(*p.RTTms)
}

// rttKnown says how the round trip is known, and since when or how well.
func (p mapPairView) rttKnown() string {
	switch {
	case p.RTTSource == nil:
		return unknown
	case p.predicted():
		return fmt.Sprintf("predicted ±%.0f%%", 100**cmp.Or(p.RTTError, new(0.0)))
	}
	known := *p.RTTSource + " " + ageText(p.RTTAgeS)
	switch {
	case p.Via != nil:
		known += " via " + *p.Via
	case p.Relayed:
		known += " relayed"
	}
	return known
}

// lossText prints the loss with its interval, if that says more.
func (p mapPairView) lossText() string {
	switch {
	case p.Loss == nil:
		return unknown
	case p.LossHigh != nil && *p.LossHigh > *p.Loss:
		return fmt.Sprintf("%.1f%% (%.1f–%.1f)", 100**p.Loss, 100**p.LossLow, 100**p.LossHigh)
	}
	return fmt.Sprintf("%.1f%%", 100**p.Loss)
}

func (p mapPairView) capacityText() string {
	switch {
	case p.CapacityMbit == nil:
		return unknown
	case p.CapacityIsLowerBound:
		return "≥" + digits(*p.CapacityMbit)
	case p.CapacitySource == "predicted":
		return "~" + digits(*p.CapacityMbit)
	}
	return digits(*p.CapacityMbit)
}

func (p mapPairView) capacityKnown() string {
	if p.CapacityAgeS == nil {
		return sourceText(p.CapacitySource)
	}
	return p.CapacitySource + " " + ageText(p.CapacityAgeS)
}

// ageText prints an age with its unit: 3s, 12m, 5h.
func ageText(s *float64) string {
	switch {
	case s == nil:
		return ""
	case *s < 120:
		return fmt.Sprintf("%.0fs", *s)
	case *s < 2*3600:
		return fmt.Sprintf("%.0fm", *s/60)
	}
	return fmt.Sprintf("%.0fh", *s/3600)
}

// writeSVG draws the map to a file.
func writeSVG(w io.Writer, path string, v mapView) error {
	picture := chart.SVG(v.graph())
	if path == "-" {
		_, err := w.Write(picture)
		return err
	}
	if err := os.WriteFile(path, picture, 0o644); err != nil {
		return hintf("name another file, or - for standard output")("map: %w", err)
	}
	return nil
}
