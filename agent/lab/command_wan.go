package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// wanFlags are what `lab wan` can change.
type wanFlags struct {
	shape                 Shape
	cut, heal, both       bool
	forgetNAT, newAddress string
	blockUDP, passUDP     string
}

func (f *wanFlags) flags(c *cobra.Command) {
	c.Flags().DurationVar(&f.shape.Delay, "delay", 0, "one way")
	c.Flags().DurationVar(&f.shape.Jitter, "jitter", 0, "each packet's delay is within delay ± jitter")
	c.Flags().Var(&f.shape.Rate, "rate", "of IP packets, or unlimited")
	c.Flags().Var(&f.shape.Loss, "loss", "packets lost by chance")
	c.Flags().Var(&f.shape.Queue, "queue", "what may wait for the rate, as 50ms or 256KB")
	c.Flags().IntVar(&f.shape.MTU, "mtu", 0, "longer packets vanish without a word; 0 lets all pass")
	c.Flags().BoolVar(&f.shape.Reorder, "reorder", false, "jitter may change the packets' order")
	c.Flags().BoolVar(&f.cut, "cut", false, "let nothing pass any more")
	c.Flags().BoolVar(&f.heal, "heal", false, "undo a cut")
	c.Flags().BoolVar(&f.both, "both", false, "change the way back too")
	c.Flags().StringVar(&f.forgetNAT, "forget-nat", "", "let a site's NAT forget all mappings")
	c.Flags().StringVar(&f.newAddress, "new-address", "", "give a site's NAT another public address; mappings stay")
	c.Flags().StringVar(&f.blockUDP, "block-udp", "", "let no UDP pass a site's NAT or firewall any more")
	c.Flags().StringVar(&f.passUDP, "pass-udp", "", "let UDP pass a site's NAT or firewall again")
	c.MarkFlagsMutuallyExclusive("cut", "heal")
}

// change returns what the flags that were given ask for.
func (f *wanFlags) change(c *cobra.Command) Change {
	var ch Change
	pick(c, "delay", &ch.Delay, &f.shape.Delay)
	pick(c, "jitter", &ch.Jitter, &f.shape.Jitter)
	pick(c, "rate", &ch.Rate, &f.shape.Rate)
	pick(c, "loss", &ch.Loss, &f.shape.Loss)
	pick(c, "queue", &ch.Queue, &f.shape.Queue)
	pick(c, "mtu", &ch.MTU, &f.shape.MTU)
	pick(c, "reorder", &ch.Reorder, &f.shape.Reorder)
	if f.cut || f.heal {
		ch.Cut = &f.cut
	}
	return ch
}

// request returns what to ask the wide area for, but for the path.
func (f *wanFlags) request(c *cobra.Command) controlRequest {
	return controlRequest{
		Change: f.change(c), ForgetNAT: f.forgetNAT, NewAddress: f.newAddress, BlockUDP: f.blockUDP, PassUDP: f.passUDP,
	}
}

// pick sets to to the flag's value if the flag was given.
func pick[T any](c *cobra.Command, flag string, to **T, value *T) {
	if c.Flags().Changed(flag) {
		*to = value
	}
}

func wanCommand(at *place) *cobra.Command {
	var f wanFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "wan [FROM TO [--delay 100ms] [--loss 1%] [--rate 20Mbit] [--cut|--heal] [--both] …]",
		Short: "Show the wide area, or change the path from one site to another",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != 2 {
				return errors.New("want no site, or two: FROM and TO")
			}
			if len(args) == 0 && f.change(c) != (Change{}) {
				return errors.New("which path? name two sites: FROM and TO")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			l, err := load(at.name, at.folder())
			if err != nil {
				return err
			}
			status, err := l.wan(c.Context(), args, f.request(c), f.both)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), wanJSON(status))
			}
			return printWAN(c.OutOrStdout(), status)
		},
	}
	f.flags(c)
	jsonFlag(c, &asJSON)
	return c
}

// wan asks the wide area for what r says, for the path between two sites if they
// are given, and returns the status, with the paths of these two only if they
// are.
func (l *Lab) wan(ctx context.Context, sites []string, r controlRequest, both bool) (WANStatus, error) {
	if len(sites) == 0 {
		return ask(ctx, l.wanSocket(), r)
	}
	r.From, r.To = sites[0], sites[1]
	status, err := ask(ctx, l.wanSocket(), r)
	if err == nil && both {
		status, err = ask(ctx, l.wanSocket(), controlRequest{From: sites[1], To: sites[0], Change: r.Change})
	}
	status.Paths = slices.DeleteFunc(status.Paths, func(p PathStatus) bool {
		return !slices.Contains(sites, p.From) || !slices.Contains(sites, p.To)
	})
	return status, err
}

// printWAN prints the wide area as a table.
func printWAN(w io.Writer, status WANStatus) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FROM\tTO\tDELAY\tJITTER\tRATE\tLOSS\tQUEUE\tMTU\tSTATE\tPACKETS\tBYTES\tLOST\tFULL\tTOO LONG\tIN CUT\tREFUSED")
	for _, p := range status.Paths {
		state, mtu := "up", "-"
		if p.Shape.Cut {
			state = "cut"
		}
		if p.Shape.MTU > 0 {
			mtu = strconv.Itoa(p.Shape.MTU)
		}
		fmt.Fprintf(t, "%s\t%s\t%v\t%v\t%v\t%v\t%v\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n",
			p.From, p.To, p.Shape.Delay, p.Shape.Jitter, p.Shape.Rate, p.Shape.Loss, p.Shape.Queue, mtu, state,
			p.Packets, p.Bytes, p.Lost, p.Full, p.TooLong, p.InCut, p.Refused)
	}
	if len(status.NATs) > 0 {
		fmt.Fprintln(t, "\nNAT\tKIND\tADDRESS\tMAPPINGS\tOUT\tIN\tDROPPED")
	}
	for _, n := range status.NATs {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%d\t%s\n", n.Name, n.Kind, or(n.address()), n.Mappings, n.Out, n.In, n.reasons())
	}
	fmt.Fprintf(t, "\n%d packets went to addresses that no other site has\n", status.Stray)
	return t.Flush()
}

// wanJSON returns the wide area as `lab wan --json` prints it.
func wanJSON(status WANStatus) any {
	type row struct {
		From     string   `json:"from"`
		To       string   `json:"to"`
		State    string   `json:"state"` // up, cut
		DelayMS  float64  `json:"delay_ms"`
		JitterMS float64  `json:"jitter_ms"`
		RateMbit *float64 `json:"rate_mbit"` // null: unlimited
		Loss     float64  `json:"loss"`
		QueueMS  *float64 `json:"queue_ms"` // null: without a rate nothing waits
		MTU      *int     `json:"mtu"`      // null: no limit
		Reorder  bool     `json:"reorder"`
		Packets  uint64   `json:"packets"`
		Bytes    uint64   `json:"bytes"`
		Lost     uint64   `json:"lost"`
		Full     uint64   `json:"full"`
		TooLong  uint64   `json:"too_long"`
		InCut    uint64   `json:"in_cut"`
		Refused  uint64   `json:"refused"`
	}
	rows := make([]row, 0, len(status.Paths))
	for _, p := range status.Paths {
		r := row{
			From: p.From, To: p.To, State: "up", DelayMS: inMS(p.Shape.Delay), JitterMS: inMS(p.Shape.Jitter),
			Loss: float64(p.Shape.Loss) / 1e6, Reorder: p.Shape.Reorder, Packets: p.Packets, Bytes: p.Bytes,
			Lost: p.Lost, Full: p.Full, TooLong: p.TooLong, InCut: p.InCut, Refused: p.Refused,
		}
		if p.Shape.Cut {
			r.State = "cut"
		}
		if p.Shape.Rate > 0 {
			mbit, wait := float64(p.Shape.Rate)/1e3, inMS(p.Shape.Queue.limit(p.Shape.Rate))
			r.RateMbit, r.QueueMS = &mbit, &wait
		}
		if p.Shape.MTU > 0 {
			r.MTU = &p.Shape.MTU
		}
		rows = append(rows, r)
	}
	return struct {
		SchemaVersion int       `json:"schema_version"`
		Paths         []row     `json:"paths"`
		Stray         uint64    `json:"stray"`
		NATs          []natJSON `json:"nats,omitempty"` // of a lab with NATs
	}{schemaVersion, rows, status.Stray, natsJSON(status.NATs)}
}

func inMS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func wanDaemonCommand() *cobra.Command {
	return daemonCommand("wan-daemon", "Be a lab's wide area", runWAN)
}

// runWAN is a wide area, as the file config says and whoever speaks to the
// socket changes it, until ctx is done.
func runWAN(ctx context.Context, config, socket string) (err error) {
	b, err := os.ReadFile(config)
	if err != nil {
		return fmt.Errorf("wide area: %w", err)
	}
	var w WAN
	if err = json.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("wide area: %s: %w", config, err)
	}
	e, err := NewEmulator(w)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	l, err := listenControl(ctx, socket)
	if err != nil {
		return fmt.Errorf("wide area: %w", err)
	}
	return beside(l, func() error { return e.Serve(l) }, func() error { return e.Run(ctx) })
}
