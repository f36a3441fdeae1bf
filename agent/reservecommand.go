package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"farlan/reserve"
)

const (
	// reserveLook is how often it is looked whether a reservation is there, and reserveWait for
	// how long.
	reserveLook = 100 * time.Millisecond
	reserveWait = 30 * time.Second
)

func newReserve() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reserve",
		Short: "reservations: what is reserved, ask for one, give one back",
		Long: `What needs it gets a reservation by itself: two machines that talk for long, and whose
frames wait for the way out. These commands show what is reserved, and are for what an
owner knows before: that a rate will be needed, between whom and for how long.
'farlan explain DST' says why frames to DST have a reservation, or none.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	list, _, _ := showing("list", "what is reserved here, and what was until a moment ago", "/reserve", showReservations)
	list.Long = `What is reserved: a line for each segment, which is what one agent grants. First those of
the reservations that this agent coordinates, then those that it serves for others. What
is over stays for two minutes. Rates are of Ethernet frames as machines send them.`
	cmd.AddCommand(list, newReserveRequest(), newReserveRelease())
	return cmd
}

// A reserveAsk is what 'farlan reserve request' is asked for.
type reserveAsk struct {
	*client
	rate, back, kind, owner string
	forTime                 time.Duration
	circuit, wait           bool
}

func newReserveRequest() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "request FROM TO --rate RATE",
		Short: "reserve a rate for the frames from FROM to TO",
		Long: `FROM and TO are two agents, by name or id, 'self' being this one; or two stations, by MAC or
IP address, to reserve for that pair alone. FROM is this agent, or a station behind it: a
reservation is asked for where its frames begin. They go as bulk frames to TO go now, and
each agent on the way is asked for its part.

It prints the reservation's id when all have granted it. If one has less, but half of what
was wanted at least, that is reserved instead, and a note says so; with less the exit code
is 1. It is renewed until its time is over, and asked for again if it is lost before.
Interrupting the command leaves the reservation as it is.`,
		Args: cobra.ExactArgs(2),
	}
	a := &reserveAsk{client: newClient(cmd)}
	f := cmd.Flags()
	f.StringVar(&a.rate, "rate", "", "`RATE` that is wanted, of Ethernet frames, as 60Mbit")
	f.DurationVar(&a.forTime, "for", reserveFor, "for how long")
	f.StringVar(&a.back, "back", "", "`RATE` that is wanted of the other direction, too")
	f.StringVar(&a.kind, "kind", "", "the weakest that will do, `guarantee|circuit|priority` (default any)")
	f.BoolVar(&a.circuit, "circuit", false, "ask for an outside circuit between the two agents, as --kind circuit")
	f.BoolVar(&a.wait, "wait", false, "wait until frames take it, not only until it is granted")
	f.StringVar(&a.owner, "owner", "", "`WORD` for whom it is, by which quotas count (default the user's name)")
	timeout := f.Lookup("timeout")
	timeout.DefValue, timeout.Usage = reserveWait.String(), "how long to wait until it is granted, or active"
	a.timeout = reserveWait
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.run(cmd, args[0], args[1]) }
	return cmd
}

func (a *reserveAsk) run(cmd *cobra.Command, from, to string) error {
	if a.rate == "" {
		return usagef("say what is wanted, as --rate 60Mbit")("reserve request: --rate is missing")
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	form := url.Values{"from": {from}, "to": {to}, "rate": {a.rate}, "back": {a.back}, "for": {a.forTime.String()}, "kind": {a.kind}, "owner": {cmp.Or(a.owner, userName())}}
	if a.circuit {
		form.Set("circuit", "1")
	}
	var asked requestView
	if err := a.call(ctx, http.MethodPost, "/reserve/request", form, &asked); err != nil {
		if ctx.Err() != nil {
			return hintf("'farlan reserve list' shows whether it was asked for")("reserve request: interrupted")
		}
		return err
	}
	rows, err := a.settle(ctx, asked)
	if err != nil {
		return err
	}
	if a.json != "" {
		return a.print(cmd, reserveView{Schema: schemaVersion, Reservations: rows})
	}
	fmt.Fprintln(cmd.ErrOrStderr(), granted(rows, a.rate))
	_, err = fmt.Fprintln(cmd.OutOrStdout(), rows[0].ID)
	return err
}

// userName is who asks unless somebody is named.
func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Getuid())
}

// settle waits until what was asked for is held, or active if that is waited for, and returns its
// segments. It may be another reservation than the one that was asked for: one with less.
func (a *reserveAsk) settle(ctx context.Context, asked requestView) ([]reservationView, error) {
	limit, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	look := time.NewTicker(reserveLook)
	defer look.Stop()
	last := reservationView{ID: asked.ID, State: reserve.Requested.String()}
	for {
		var v reserveView
		err := a.call(limit, http.MethodGet, "/reserve", url.Values{"of": {asked.ID}}, &v)
		switch rows := newest(v.Reservations); {
		case err != nil && limit.Err() == nil:
			return nil, err
		case len(rows) > 0:
			last = rows[0]
			if done, failed := a.outcome(last, asked.Hint); done || failed != nil {
				return rows, failed
			}
		}
		select {
		case <-look.C:
		case <-limit.Done():
			return nil, a.left(ctx, last)
		}
	}
}

// newest returns the segments of the reservation that was made last.
func newest(all []reservationView) []reservationView {
	for i := range all {
		if all[i].ID == all[len(all)-1].ID {
			return all[i:]
		}
	}
	return nil
}

// outcome says whether a reservation is what is waited for; it fails if it won't be.
func (a *reserveAsk) outcome(r reservationView, hint string) (done bool, err error) {
	switch r.State {
	case reserve.Active.String():
		return true, nil
	case reserve.Held.String(), reserve.Committed.String(), reserve.Activating.String(), reserve.Degraded.String():
		return !a.wait, nil
	case reserve.Rejected.String(), reserve.Lost.String(), reserve.Released.String(), reserve.Orphan.String():
		if r.FreeMbit != nil && *r.FreeMbit >= 1 {
			hint = fmt.Sprintf("%g Mbit/s could be had: --rate %gMbit", *r.FreeMbit, *r.FreeMbit)
		}
		return false, hintf("%s", cmp.Or(hint, "'farlan reserve list' and 'farlan doctor' say more"))("reserve request: %s: %s", r.State, cmp.Or(r.Reason, "no reason is known"))
	}
	return false, nil
}

// left says that a reservation goes on, though nobody waits for it any more.
func (a *reserveAsk) left(ctx context.Context, r reservationView) error {
	why := fmt.Sprintf("not %s within %v", map[bool]string{true: "active", false: "held"}[a.wait], a.timeout)
	if ctx.Err() != nil {
		why = "interrupted"
	}
	if r.Reason != "" {
		why += ": " + r.Reason
	}
	return hintf("it goes on: 'farlan reserve list' shows it, 'farlan reserve release %s' gives it back", r.ID)("reserve request: %s is %s: %s", r.ID, r.State, why)
}

// granted says in a line what was had of a rate that was asked for.
func granted(rows []reservationView, rate string) string {
	r := rows[0]
	kind := weakest(rows)
	s := fmt.Sprintf("%s, %s Mbit/s", kind, known(r.RateMbit, "%g"))
	if wanted, err := reserve.ParseRate(rate); err == nil && r.RateMbit != nil && *r.RateMbit < wanted.Mbit() {
		s += fmt.Sprintf(" of %g: there isn't more", wanted.Mbit())
	}
	if f := r.Flow; f != nil {
		s += ", " + f.String()
	}
	if r.Until != nil {
		s += ", until " + clock(*r.Until)
	}
	if kind == reserve.Priority.String() {
		s += "; no rate is promised by priority alone"
	}
	return s
}

// weakest returns the kind of the weakest segment.
func weakest(rows []reservationView) string {
	order := []string{reserve.Circuit.String(), reserve.Guarantee.String(), reserve.Priority.String()}
	at := 0
	for _, r := range rows {
		if r.Kind != nil {
			at = max(at, slices.Index(order, *r.Kind))
		}
	}
	if !slices.ContainsFunc(rows, func(r reservationView) bool { return r.Kind != nil }) {
		return "reserved"
	}
	return order[at]
}

func newReserveRelease() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "release ID",
		Short: "give a reservation back",
		Long: `Its frames go the ordinary way from now on, and none is reserved for them for the next half
hour unless somebody asks. Of ID the first digits will do if no other reservation begins
with them. What isn't confirmed at once is repeated until it is; 'farlan reserve list'
shows that as releasing, then orphan, and it ends by itself at its end.`,
		Args: cobra.ExactArgs(1),
	}
	c := newClient(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var v reserveView
		if err := c.call(cmd.Context(), http.MethodPost, "/reserve/release", url.Values{"id": {args[0]}}, &v); err != nil {
			return err
		}
		if c.json != "" {
			return c.print(cmd, v)
		}
		if len(v.Reservations) == 0 {
			return errors.New("reserve release: the agent knows of it no longer")
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", v.Reservations[0].ID, v.Reservations[0].State)
		return err
	}
	return cmd
}

func showReservations(w io.Writer, v reserveView) {
	if len(v.Reservations) == 0 {
		fmt.Fprintln(w, "nothing is reserved")
		return
	}
	digits := v.digits()
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tSTATE\tKIND\tDRIVER\tSEGMENT\tFOR\tRATE Mbit/s\tUSED\tEND\tOWNER\tREASON")
	for _, r := range v.Reservations {
		state, end, flow := r.State, "-", "-"
		if r.Segment.State != state {
			state += " (" + r.Segment.State + ")"
		}
		if until := cmp.Or(r.Until, r.End); until != nil {
			end = clock(*until)
		}
		if r.Flow != nil {
			flow = r.Flow.String()
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s → %s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.ID[:digits], state, text(r.Kind), text(r.Driver), text(r.Segment.From), text(r.Segment.To),
			flow, known(r.RateMbit, "%g"), known(r.UsedMbit, "%g"), end, cmp.Or(r.Owner, "-"), cmp.Or(r.Reason, "-"))
	}
	_ = t.Flush()
}

// shownDigits is how many digits of an id are shown at least.
const shownDigits = 8

// digits returns how many digits tell all ids apart.
func (v *reserveView) digits() int {
	for n := shownDigits; n < 32; n++ {
		seen := make(map[string]string)
		apart := true
		for _, r := range v.Reservations {
			other, ok := seen[r.ID[:n]]
			apart = apart && (!ok || other == r.ID)
			seen[r.ID[:n]] = r.ID
		}
		if apart {
			return n
		}
	}
	return 32
}

// String names the stations, or the agents if it is all frames between them.
func (f *reservedFlowView) String() string {
	if f.Source == nil && f.Dest == nil {
		return f.From + " → " + f.To
	}
	return text(f.Source) + " → " + text(f.Dest)
}

// clock shows an instant near now.
func clock(t time.Time) string {
	layout := time.TimeOnly
	if time.Until(t).Abs() > 12*time.Hour {
		layout = time.DateTime
	}
	return t.Local().Format(layout)
}

// String says how many there are, "" if there are none.
func (v *reservedCountView) String() string {
	if v == nil {
		return ""
	}
	var all []string
	for s := reserve.Requested; s <= reserve.Orphan; s++ {
		if n := v.States[s.String()]; n > 0 {
			all = append(all, fmt.Sprintf("%d %v", n, s))
		}
	}
	if v.Served > 0 {
		all = append(all, fmt.Sprintf("%d for other agents", v.Served))
	}
	return strings.Join(all, ", ")
}

// maxWhy is how many flows explain tells of in words.
const maxWhy = 8

func showReserved(w io.Writer, v explainView) {
	switch {
	case v.Reserved == nil || v.Station == nil && v.Chosen != nil && len(v.Chosen.Path) == 1:
	case len(v.Reserved) == 0:
		fmt.Fprintln(w, "reservation: none, and no flow was seen that could need one")
	}
	for i, r := range v.Reserved {
		if i == maxWhy {
			fmt.Fprintf(w, "and of %d flows more ('--json' has all)\n", len(v.Reserved)-i)
			break
		}
		fmt.Fprintf(w, "reservation %v: %s\n", &r.Flow, r.Why)
	}
}
