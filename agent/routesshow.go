package agent

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func newRoutes() *cobra.Command {
	cmd, _, form := showing("routes [DST]", "the path that frames to every agent take, per class", "/routes", showRoutes)
	cmd.Long = "routes shows the paths that this agent's frames take: to every agent, or to DST, an agent or a station's MAC or IP address."
	cmd.Args = cobra.MaximumNArgs(1)
	cmd.PreRunE = chainArgs(cmd.PreRunE, func(args []string) {
		if len(args) == 1 {
			form.Set("to", args[0])
		}
	})
	return cmd
}

func newExplain() *cobra.Command {
	var class string
	cmd, _, form := showing("explain DST", "why frames to an agent or station go where they do", "/explain", showExplain)
	cmd.Long = "explain says by which path frames go to DST, an agent or a station's MAC or IP address, which paths were rejected and why, what would change that, and what changed lately."
	cmd.Args = cobra.ExactArgs(1)
	cmd.Flags().StringVar(&class, "class", "delay", "of frames: delay or bulk")
	cmd.PreRunE = chainArgs(cmd.PreRunE, func(args []string) {
		form.Set("to", args[0])
		form.Set("class", class)
	})
	return cmd
}

// chainArgs is chain for a command with arguments.
func chainArgs(check func(*cobra.Command, []string) error, f func(args []string)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		f(args)
		return check(cmd, args)
	}
}

const hops = " – "

func showRoutes(w io.Writer, v routesView) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TO\tCLASS\tPATH\tRTT ms\tBOTTLENECK Mbit/s\tALTERNATE")
	for _, r := range v.Routes {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.To, r.Class, path(r.Path), known(r.RTTms, "%.1f"), known(r.BottleneckMbit, "%.1f"), path(r.Alternate))
	}
	_ = t.Flush()
}

func path(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, hops)
}

func showExplain(w io.Writer, v explainView) {
	if v.Station != nil {
		fmt.Fprintf(w, "%s is behind %s\n", *v.Station, v.To)
	}
	if v.Chosen == nil {
		fmt.Fprintf(w, "no path to %s\n", v.To)
	} else {
		fmt.Fprintf(w, "frames of class %s take %s", v.Class, path(v.Chosen.Path))
		if v.Chosen.Since != nil {
			fmt.Fprintf(w, ", since %s", ago(v.Chosen.Since))
		}
		fmt.Fprintf(w, "\n  round trip %s ms, cost %s ms, bottleneck %s Mbit/s, alternate %s\n", known(v.Chosen.RTTms, "%.1f"),
			known(v.Chosen.CostMs, "%.1f"), known(v.Chosen.BottleneckMbit, "%.1f"), path(v.Chosen.Alternate))
	}
	if len(v.Rejected) > 0 {
		t := table(w, "REJECTED", "COST ms", "BOTTLENECK Mbit/s", "WHY")
		for _, r := range v.Rejected {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", path(r.Path), known(r.Cost, "%.1f"), known(r.BottleneckMbit, "%.1f"), r.Reason)
		}
		_ = t.Flush()
	}
	fmt.Fprintf(w, "\nwhat would change it: %s\n", v.WouldChange)
	showReserved(w, v)
	if len(v.History) > 0 {
		t := table(w, "CHANGED", "WHAT", "WHY")
		for _, h := range v.History {
			fmt.Fprintf(t, "%s\t%s\t%s\n", ago(&h.At), h.What, h.Why)
		}
		_ = t.Flush()
	}
}
