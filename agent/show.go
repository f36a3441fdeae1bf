package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func newStatus() *cobra.Command {
	var check string
	cmd := &cobra.Command{Use: "status", Short: "this agent: identity, ports, peers, links, health", Args: cobra.NoArgs}
	c := newClient(cmd)
	cmd.Flags().StringVar(&check, "check", "", "print nothing; exit 4 unless the agent is `live|ready`")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if check != "" && check != "live" && check != "ready" {
			return usagef("")("--check %q: want live or ready", check)
		}
		var v statusView
		if err := c.call(cmd.Context(), http.MethodGet, "/status", nil, &v); err != nil {
			return err
		}
		switch {
		case check == "ready" && v.State == "starting":
			return failf(exitCheck, "")("status: the agent is starting")
		case check != "":
			return nil
		case c.json != "":
			return c.print(cmd, v)
		}
		showStatus(cmd.OutOrStdout(), v)
		return nil
	}
	return cmd
}

func showStatus(w io.Writer, v statusView) {
	fmt.Fprintf(w, "%s is %s: %d peers up, %d links\n", v.Name, v.State, v.Peers, v.Links)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "  id\t%s\n  network\t%s\n  version\t%s\n  started\t%s\n", v.ID, v.Network, v.Version, v.Started.Local().Format(time.DateTime))
	fmt.Fprintf(t, "  admission\t%s\n", v.Admission)
	if c := v.Credential; c != nil {
		fmt.Fprintf(t, "  credential\t%s, until %s\n", cmp.Or(strings.Join(c.Rights, ", "), "no rights"), c.Expires.Local().Format(time.DateTime))
	}
	if v.Area != nil {
		fmt.Fprintf(t, "  area\t%v\n", v.Area)
	}
	for _, l := range v.Listen {
		fmt.Fprintf(t, "  listen\t%s\n", l)
	}
	if u := v.Uplink; u != nil {
		fmt.Fprintf(t, "  uplink\t%g Mbit/s up, %g down\n", u.UpMbit, u.DownMbit)
	}
	if r := v.Reservations.String(); r != "" {
		fmt.Fprintf(t, "  reservations\t%s\n", r)
	}
	if r := v.Rotation; r != nil {
		fmt.Fprintf(t, "  key\tchanges from %s to %s, which %d of %d agents have; the old one is good until %s\n",
			r.From, r.To, r.Have, r.Agents, r.Until.Local().Format(time.DateTime))
	}
	_ = t.Flush()
	if len(v.Ports) > 0 {
		t = table(w, "PORT", "KIND", "ROLE", "MTU", "OFFLOAD", "STATIONS")
		for _, p := range v.Ports {
			fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%v\t%d\n", p.Name, p.Kind, p.Role, p.MTU, p.Offload, p.Stations)
		}
		_ = t.Flush()
	}
	t = table(w, "HEALTH", "", "")
	for _, h := range v.Health {
		state := "ok"
		if !h.OK {
			state = "FAULT"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", h.Check, state, h.Detail)
		if h.Hint != "" {
			fmt.Fprintf(t, "\t\t%s\n", h.Hint)
		}
	}
	_ = t.Flush()
}

// table begins an aligned table with a head.
func table(w io.Writer, columns ...string) *tabwriter.Writer {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.TrimRight(strings.Join(columns, "\t"), "\t"))
	return t
}

// showing makes a client command that asks for one view and prints it.
func showing[V any](use, short, path string, show func(w io.Writer, v V)) (*cobra.Command, *client, url.Values) {
	form := url.Values{}
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs}
	c := newClient(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var v V
		if err := c.call(cmd.Context(), http.MethodGet, path, form, &v); err != nil {
			return err
		}
		if c.json != "" {
			return c.print(cmd, v)
		}
		show(cmd.OutOrStdout(), v)
		return nil
	}
	return cmd, c, form
}

func newPeers() *cobra.Command {
	cmd, _, _ := showing("peers", "who is here, and how they are reached", "/peers", showPeers)
	return cmd
}

func showPeers(w io.Writer, v peersView) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tSTATE\tPATH\tRTT ms\tJITTER ms\tLOSS\tMTU\tADDRESS\tLAST SEEN\tID")
	for _, p := range v.Peers {
		path := p.Path
		if len(p.Via) > 0 {
			path += " via " + strings.Join(p.Via, ", ")
		}
		mtu := "-"
		if p.MTU != nil {
			mtu = strconv.Itoa(*p.MTU)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, p.State, path,
			known(p.RTTms, "%.1f"), known(p.JitterMs, "%.1f"), percent(p.Loss), mtu, text(p.Address), ago(p.LastSeen), p.ID)
	}
	_ = t.Flush()
	for _, p := range v.Peers {
		if p.Reason != nil {
			fmt.Fprintf(w, "%s is %s\n", p.Name, *p.Reason)
		}
	}
}

func newLinks() *cobra.Command {
	var own bool
	cmd, _, form := showing("links", "the overlay's links, and why each is there", "/links", showLinks)
	cmd.Flags().BoolVar(&own, "own", false, "only this agent's")
	cmd.PreRunE = chain(cmd.PreRunE, func() {
		if own {
			form.Set("own", "1")
		}
	})
	return cmd
}

// chain runs f after a command's check.
func chain(check func(*cobra.Command, []string) error, f func()) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return err
		}
		f()
		return nil
	}
}

func showLinks(w io.Writer, v linksView) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FROM\tTO\tSTATE\tRTT ms\tREASON")
	for _, l := range v.Links {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", l.From, l.To, l.State, known(l.RTTms, "%.1f"), l.Reason)
	}
	_ = t.Flush()
}

func newStations() *cobra.Command {
	cmd, _, _ := showing("stations", "MAC addresses and their IPs: which agent, which port", "/stations", showStations)
	return cmd
}

func showStations(w io.Writer, v stationsView) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "MAC\tIPS\tAGENT\tPORT\tSEQUENCE\tAGE s")
	for _, s := range v.Stations {
		ips := strings.Join(s.IPs, ", ")
		if ips == "" {
			ips = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%.0f\n", s.MAC, ips, s.Agent, text(s.Port), s.Sequence, s.AgeS)
	}
	_ = t.Flush()
}

func newPing() *cobra.Command {
	var count int
	var interval time.Duration
	cmd := &cobra.Command{Use: "ping PEER", Short: "round trips to a peer over the overlay", Args: cobra.ExactArgs(1)}
	c := newClient(cmd)
	cmd.Flags().IntVarP(&count, "count", "c", 5, "how many probes")
	cmd.Flags().DurationVarP(&interval, "interval", "i", 200*time.Millisecond, "time between two probes")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.timeout += time.Duration(count)*interval + pingWait
		form := url.Values{"peer": {args[0]}, "count": {strconv.Itoa(count)}, "interval": {interval.String()}}
		var v pingView
		if err := c.call(cmd.Context(), http.MethodPost, "/ping", form, &v); err != nil {
			return err
		}
		var err error
		if c.json != "" {
			err = c.print(cmd, v)
		} else {
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d sent, %d received; rtt min %s, p50 %s, p99 %s ms; path %s\n", v.To, v.Sent, v.Received,
				known(v.MinMs, "%.3f"), known(v.P50Ms, "%.3f"), known(v.P99Ms, "%.3f"), strings.Join(v.Path, " → "))
		}
		if v.Received == 0 {
			err = errors.Join(err, hintf("'farlan peers' says what is known of it")("ping %s: no reply", v.To))
		}
		return err
	}
	return cmd
}

func known(f *float64, format string) string {
	if f == nil {
		return "-"
	}
	return fmt.Sprintf(format, *f)
}

func percent(f *float64) string {
	if f == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100**f)
}

func text(s *string) string {
	if s == nil {
		return "-"
	}
	return *s
}

func ago(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return time.Since(*t).Round(100*time.Millisecond).String() + " ago"
}
