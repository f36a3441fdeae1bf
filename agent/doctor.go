package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"farlan/overlay"
)

// The levels of a finding.
const (
	levelOK   = "ok"
	levelWarn = "warn"
	levelFail = "fail"
)

func fine(check, format string, args ...any) findingView {
	return findingView{Check: check, Level: levelOK, Detail: fmt.Sprintf(format, args...)}
}

// doctorTime is what an agent takes for its checks beside other answers.
const doctorTime = reachWait + stationsLook + time.Second

func newDoctor() *cobra.Command {
	var configFile string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "find what is wrong on this host or LAN, and print the fix",
		Long: `Find what is wrong on this host or LAN, and print the fix. Rights, devices and files
are looked at as 'farlan up' would with the same environment and configuration; with
an agent that runs here it looks itself, and at its ways to others, too. Exit code 1
says that there is something to mend.`,
		Args: cobra.NoArgs,
	}
	c := newClient(cmd)
	cmd.Flags().StringVar(&configFile, "config", "", "YAML `FILE` of 'farlan up' (default "+defaultConfigFile()+" if it exists)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := hostConfig(configFile)
		if err == nil && !cmd.Flags().Changed("socket") {
			c.socket = cfg.Socket
		}
		v := doctorView{Schema: schemaVersion}
		c.timeout += doctorTime
		switch failed := c.call(cmd.Context(), http.MethodGet, "/doctor", nil, &v); {
		case failed == nil:
		case exitCode(failed) != exitNoAgent:
			return failed
		case err != nil:
			v.Findings = []findingView{{"configuration", levelFail, err.Error(), cmp.Or(hintOf(err), "see 'farlan check-config'")}}
		default:
			v.Findings = append(hostFindings(cfg), findingView{
				"agent", levelWarn, fmt.Sprintf("%v: what NAT, paths, clocks and the LAN are like isn't known without", failed), hintOf(failed),
			})
		}
		if c.json != "" {
			err = c.print(cmd, v)
		} else {
			err = showDoctor(cmd.OutOrStdout(), v)
		}
		return errors.Join(err, v.verdict())
	}
	return cmd
}

// hostConfig returns what 'farlan up' would be configured with.
func hostConfig(file string) (*config, error) {
	o := &options{}
	flags := pflag.NewFlagSet("up", pflag.ContinueOnError)
	o.addFlags(flags)
	if file != "" {
		if err := flags.Set("config", file); err != nil {
			return nil, err
		}
	}
	if err := load(flags, os.LookupEnv); err != nil {
		return nil, err
	}
	return o.parse()
}

// verdict is an error if there is something to mend.
func (v doctorView) verdict() error {
	count := 0
	for _, f := range v.Findings {
		if f.Level == levelFail {
			count++
		}
	}
	if count == 0 {
		return nil
	}
	return hintf("see the lines 'fix' above")("doctor: %d of %d checks failed", count, len(v.Findings))
}

func showDoctor(w io.Writer, v doctorView) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range v.Findings {
		level := f.Level
		if level != levelOK {
			level = map[string]string{levelWarn: "WARN", levelFail: "FAIL"}[level]
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", level, f.Check, f.Detail)
		if f.Fix != "" {
			fmt.Fprintf(t, "\t\tfix: %s\n", f.Fix)
		}
	}
	return t.Flush()
}

// serveDoctor answers with all findings.
func (n *node) serveDoctor(w http.ResponseWriter, r *http.Request) {
	v := doctorView{Schema: schemaVersion, Findings: hostFindings(n.cfg)}
	found, err := n.examine(r.Context())
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, &failure{err: err, code: exitNoAgent})
		return
	}
	v.Findings = append(v.Findings, found...)
	reply(w, v)
}

// examine looks at what this agent knows: some of it takes seconds.
func (n *node) examine(ctx context.Context) (all []findingView, err error) {
	moves := newMoves()
	var front natFacts
	var reached findingView
	var ways []way
	err = n.do(ctx, func(now overlay.Instant) {
		for _, h := range n.health(now) {
			f := fine(h.Check, "%s", h.Detail)
			if !h.OK {
				f.Level, f.Fix = levelFail, cmp.Or(h.Hint, "see the agent's log")
			} else if h.Hint != "" {
				f.Level, f.Fix = levelWarn, h.Hint
			}
			all = append(all, f)
		}
		all = append(all, n.offloads()...)
		all = append(all, dhcpFinding(n.dhcpServers()))
		all = append(all, n.guardFindings(now)...)
		all = append(all, n.reserveFindings(now)...)
		front, ways = n.natFacts(), n.ways()
		moves.note(n.sw.Stations.List())
	})
	if err != nil {
		return nil, err
	}
	all = append(all, n.nested(ways))
	all = append(all, blackHoles(ways)...)
	if reached, err = n.examineReach(ctx, &front); err != nil {
		return nil, err
	}
	twice, err := n.examineStations(ctx, moves)
	return append(all, natFinding(front), reached, twice), err
}
