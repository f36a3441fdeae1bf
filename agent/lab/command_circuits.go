package lab

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"farlan/reserve/nsi/cs"
	"farlan/reserve/nsi/provider"
)

const circuitsText = `circuits lists what the provider of a lab built with --circuits has granted, and what
the wide area carries by it; ID is a reservation's name in that list.

  fault NAME on|off     have the provider do what one in the field does wrong:
      plane-down        a provision is confirmed, the data plane stays down
      no-admission      more is granted than a port carries
      held-for-ever     what wasn't committed in time goes on being called held
      poisoned-by-past  an end in the past gets no answer, nor does what follows,
                        until the provider is started again
      no-modify         nothing can be modified
      terminate-once    a second terminate isn't confirmed, and a query by the
                        requester's own name fails
      events-first      what a request causes is told before it is acknowledged
      other-criteria    a VLAN is confirmed that wasn't asked for
      keeps-created     the lifecycle is Created after the end, too
      dead-domain       a domain below doesn't answer: releases stick until the end
      no-sync           queries are answered later (rare, but not wrong)
  break ID, mend ID     let a circuit carry nothing, or again; --quiet: and the
                        provider doesn't say so
  crash                 end the provider at once, by SIGKILL; circuits stay
  restart               start it again with what it has kept, its faults too; the
                        circuits that it doesn't know are removed`

func circuitsCommand(at *place) *cobra.Command {
	var asJSON, quiet bool
	c := &cobra.Command{
		Use:   "circuits [list | fault NAME on|off | break ID | mend ID | crash | restart]",
		Short: "Show the circuits of a lab, disturb them and their provider",
		Long:  circuitsText,
		Args:  cobra.NoArgs,
	}
	c.PersistentFlags().BoolVar(&asJSON, "json", false, "print JSON")
	// add adds a verb that does something, if do isn't nil, and prints what there is then.
	add := func(use, short string, args int, do func(ctx context.Context, l *Lab, args []string) error) *cobra.Command {
		sub := &cobra.Command{
			Use: use, Short: short, Args: cobra.ExactArgs(args),
			RunE: func(c *cobra.Command, args []string) error {
				l, err := load(at.name, at.folder())
				if err == nil {
					err = l.checkHasCircuits()
				}
				if err == nil && do != nil {
					err = do(c.Context(), l, args)
				}
				if err != nil {
					return err
				}
				return l.printCircuits(c.Context(), c.OutOrStdout(), asJSON)
			},
		}
		c.AddCommand(sub)
		return sub
	}
	c.RunE = add("list", "Show reservations and circuits", 0, nil).RunE
	add("fault NAME on|off", "Switch one of the provider's faults", 2, switchFault)
	broken := add("break ID", "Let a circuit carry nothing", 1, func(ctx context.Context, l *Lab, args []string) error {
		_, err := l.askProvider(ctx, providerRequest{Break: args[0], Quiet: quiet})
		return err
	})
	mended := add("mend ID", "Let a circuit carry again what it should", 1, func(ctx context.Context, l *Lab, args []string) error {
		_, err := l.askProvider(ctx, providerRequest{Mend: args[0], Quiet: quiet})
		return err
	})
	for _, sub := range []*cobra.Command{broken, mended} {
		sub.Flags().BoolVar(&quiet, "quiet", false, "the provider doesn't say so")
	}
	add("crash", "End the provider at once", 0, changing(at, (*Lab).crashProvider))
	add("restart", "Start the provider again", 0, changing(at, (*Lab).restartProvider))
	return c
}

func switchFault(ctx context.Context, l *Lab, args []string) error {
	if !slices.Contains(provider.FaultNames, args[0]) {
		return usageError{fmt.Errorf("there is no fault %q, but %s", args[0], strings.Join(provider.FaultNames, ", "))}
	}
	if args[1] != "on" && args[1] != "off" {
		return usageError{fmt.Errorf("%q is not on or off", args[1])}
	}
	_, err := l.askProvider(ctx, providerRequest{Fault: args[0], On: args[1] == "on"})
	return err
}

// changing returns what does something to a lab that changes its state file.
func changing(at *place, do func(*Lab, context.Context) error) func(context.Context, *Lab, []string) error {
	return func(ctx context.Context, l *Lab, _ []string) error {
		fresh, err := open(at.name, at.folder())
		if err != nil {
			return err
		}
		defer fresh.release()
		err = do(fresh, ctx)
		l.Processes = fresh.Processes
		return err
	}
}

// circuitsView is what `lab circuits --json` prints.
type circuitsView struct {
	SchemaVersion int                `json:"schema_version"`
	Provider      providerView       `json:"provider"`
	Ports         []circuitPortView  `json:"ports"`
	Reservations  []*reservationView `json:"reservations"` // null: the provider doesn't run
	Circuits      []CrossStatus      `json:"circuits"`     // what the wide area carries
	Stray         uint64             `json:"stray"`        // frames that were no circuit's
}

type providerView struct {
	Running bool     `json:"running"`
	URL     string   `json:"url"`
	NSA     string   `json:"nsa"`
	Faults  []string `json:"faults"` // those that are on
}

type circuitPortView struct {
	Site     string `json:"site"`
	STP      string `json:"stp"`
	Device   string `json:"device"`
	Capacity int64  `json:"capacity_mbit"`
}

type reservationView struct {
	ID          string     `json:"id"`
	Requester   string     `json:"requester"`
	Description string     `json:"description"`
	From        VLANEnd    `json:"from"`
	To          VLANEnd    `json:"to"` // VLAN 0: not one yet
	Capacity    int64      `json:"capacity_mbit"`
	End         *time.Time `json:"end"`
	Reservation string     `json:"reservation"` // the states by NSI's words
	Provision   string     `json:"provision"`
	Lifecycle   string     `json:"lifecycle"`
	Up          bool       `json:"up"`   // the provider says that the data plane is
	Held        bool       `json:"held"` // it occupies its VLANs and capacity
}

// circuits looks at the circuits of a lab.
func (l *Lab) circuits(ctx context.Context) (circuitsView, error) {
	v := circuitsView{
		SchemaVersion: schemaVersion,
		Provider:      providerView{URL: l.Options.providerURL(), NSA: providerNSA, Faults: []string{}},
		Circuits:      []CrossStatus{},
	}
	for _, h := range l.agentHosts() {
		v.Ports = append(v.Ports, circuitPortView{h.Site, circuitNetwork + h.Site + "?vlan=" + circuitVLANs, circuitDevice, circuitCapacity})
	}
	there, err := askCross(ctx, l.crossSocket(), crossRequest{})
	if err != nil {
		return v, err
	}
	v.Circuits, v.Stray = append(v.Circuits, there.Circuits...), there.Stray
	p := l.process(providerProcess)
	if v.Provider.Running = p != nil && p.alive(); !v.Provider.Running {
		return v, nil
	}
	said, err := l.askProvider(ctx, providerRequest{})
	if err != nil {
		return v, err
	}
	v.Provider.Faults = append(v.Provider.Faults, said.Faults...)
	v.Reservations = []*reservationView{}
	for _, r := range said.Reservations {
		v.Reservations = append(v.Reservations, viewReservation(r, slices.Contains(said.Held, r.Connection)))
	}
	return v, nil
}

func viewReservation(r cs.Reservation, held bool) *reservationView {
	v := &reservationView{
		ID: r.Connection, Requester: r.Requester, Description: r.Description, Held: held,
		Reservation: r.States.Reservation, Provision: r.States.Provision, Lifecycle: r.States.Lifecycle, Up: r.States.Plane.Up(),
	}
	for _, c := range r.Criteria {
		v.Capacity = c.Capacity
		v.From.Port, v.From.VLAN = siteOf(c.Source)
		v.To.Port, v.To.VLAN = siteOf(c.Dest)
		if c.End != 0 {
			end := c.End.Time()
			v.End = &end
		}
	}
	return v
}

func (l *Lab) printCircuits(ctx context.Context, w io.Writer, asJSON bool) error {
	v, err := l.circuits(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(w, v)
	}
	return v.print(w)
}

// print prints the circuits for people.
func (v circuitsView) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	state := "running"
	if !v.Provider.Running {
		state = "ended"
	}
	fmt.Fprintf(t, "provider %s: %s; faults: %s\n", v.Provider.URL, state, cmp.Or(strings.Join(v.Provider.Faults, ", "), "none"))
	if len(v.Reservations) > 0 {
		fmt.Fprintln(t, "\nID\tFROM\tTO\tMBIT/S\tEND\tRESERVATION\tPROVISION\tLIFECYCLE\tUP\tHELD")
	}
	for _, r := range v.Reservations {
		end := "-"
		if r.End != nil {
			end = r.End.Format(time.RFC3339)
		}
		fmt.Fprintf(t, "%s\t%v\t%v\t%d\t%s\t%s\t%s\t%s\t%v\t%v\n",
			r.ID, r.From, r.To, r.Capacity, end, r.Reservation, r.Provision, r.Lifecycle, r.Up, r.Held)
	}
	if len(v.Circuits) > 0 {
		fmt.Fprintln(t, "\nCIRCUIT\tFROM\tTO\tMBIT/S\tSTATE\tFRAMES\tBYTES\tPOLICED\tIN BREAK")
	}
	for _, c := range v.Circuits {
		state := "carries"
		if c.Broken {
			state = "broken"
		}
		for i, way := range c.Ways {
			fmt.Fprintf(t, "%s\t%v\t%v\t%d\t%s\t%d\t%d\t%d\t%d\n",
				c.ID, c.Ends[i], c.Ends[1-i], c.Capacity, state, way.Frames, way.Bytes, way.Policed, way.Broken)
		}
	}
	return t.Flush()
}

func crossConnectDaemonCommand() *cobra.Command {
	return daemonCommand("cross-connect-daemon", "Carry a lab's circuits", runCrossConnect)
}

func providerDaemonCommand() *cobra.Command {
	return daemonCommand("provider-daemon", "Be a lab's provider of circuits", runProvider)
}

// daemonCommand returns a hidden command that runs a program of the lab until it is told to end.
func daemonCommand(name, short string, run func(ctx context.Context, config, socket string) error) *cobra.Command {
	return &cobra.Command{
		Use: name + " CONFIG SOCKET", Short: short, Hidden: true, Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM)
			defer stop()
			return run(ctx, args[0], args[1])
		},
	}
}
