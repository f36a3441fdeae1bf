// Package exec reserves by a program of the operator's: a script for a provider's API or a vendor's
// command line (Megaport, ONOS, TAPI, OSCARS). packaging/reserve-example is one to start from.
//
// # How the program is called
//
// Once per verb, without a shell, in a process group of its own, in the folder /, with the
// configured arguments and this environment: PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin,
// LC_ALL=C.UTF-8, and what is configured beside. It reads one JSON object from its standard input, which
// ends after it, and prints one to its standard output:
//
//	{"schema_version": 1, "verb": "hold", "agent": "12D3…", "now": "2026-01-02T03:04:05Z", "want": {…}}
//	{"schema_version": 1, "grant": {…}}
//
// Each request has schema_version (of this description: 1), verb, agent (whose reservations these are:
// several agents may share the program's backend) and now, the agent's time in UTC. What else it
// has, and what the answer must have, goes by the verb:
//
//	verb        request has       answer has   meaning
//	caps                          caps         what the program can do; asked once, at the agent's start
//	offer       want              offer        what hold would grant; nothing may come of it
//	hold        want              grant        keep the room; asked again for an id: what it has
//	commit      grant             grant        make it firm
//	activate    grant             grant        let packets use it
//	deactivate  grant             grant        take them off it, keep the room
//	modify      grant, rate_kbit  grant        another rate, without a gap
//	renew       grant, end        grant        another end
//	abort       grant                          give a held one back
//	release     grant                          give anything back, from any state, as often as asked
//	status      grant             grant        ask the backend itself
//	list                          grants       all that the backend holds for this agent, [] if none
//	usage       grant             usage        what passed through it
//
// A want:
//
//	"id"         names the grant: at most 35 characters of [0-9a-f-]; all that a program must remember
//	"kind"       the weakest that will do: "circuit", "guarantee", "priority", or "" for any
//	"rate_kbit"  of IP packets, in kbit/s (1000 bits)
//	"from", "to" the agents at the ends of the segment
//	"via"        the address and port to which the first sends, "192.0.2.1:4747"; it may be missing
//	"end"        when it must be gone, "2026-01-02T04:04:05Z": a backend that can't should be told
//	             by release, which the agent calls then, also for what list still shows
//	"owner"      who asked, at most 64 bytes
//
// A grant (in requests it is what the program answered before; if only the id is known, the rest is
// missing):
//
//	"id"         the want's; another one is taken for a mistake
//	"kind"       what it is
//	"state"      "held", "committed", "activating", "active", "degraded", "releasing" or "lost"
//	"rate_kbit"  what is promised: if hold promises more than asked, it is given back at once
//	"end"        may be missing: as asked
//	"handle"     the backend's own name of it, at most 256 bytes; may be missing
//	"up"         true only if the backend has said that the data plane works
//	"mark"       how packets get there, may be missing: {"tos": 184, "priority": 6, "device": "eth0.105",
//	             "source": "198.51.100.1", "peer": "198.51.100.2"}; tos is the whole byte (DSCP << 2),
//	             priority is SO_PRIORITY, device the circuit's interface, which the program has made;
//	             source and peer are the agents' addresses on it
//	"reason"     why it is in that state, for people
//
// Caps are {"kinds": ["circuit"], "modify": true, "setup_seconds": 60, "most_kbit": 0}: an offer
// {"kind": "circuit", "rate_kbit": 60000, "free_kbit": 70000}: usage {"bytes": 0, "packets": 0, "dropped": 0,
// "backlog": 0}. Members that aren't known are ignored on both sides; there may be more some day.
//
// # What the exit code says
//
//	0  done; the answer counts
//	3  full: not that much now; an answer {"schema_version": 1, "free_kbit": 20000} may say how much
//	4  refused: asking again the same way is useless
//	5  the program can't do this
//	6  there is no such grant, nor anything left of it
//	7  somebody else's things are in the way
//	8  the backend can't be reached
//
// With 3 to 8 nothing was changed. What the program wrote to its standard error (the first 1000
// bytes are kept) is the reason that people see. Anything else leaves the outcome open, and the
// agent asks for the status: another code (1 is what a script ends with that didn't expect to), a
// signal, an answer that isn't as above, one of more than 1 MiB, or a time-out: 15 s for offer,
// status, list, usage and caps, 60 s or what is configured for the others, after which the
// whole process group is killed. It is killed also when the program has ended: what it started and left there
// doesn't outlive it.
package exec

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

const (
	// Schema is the version of the requests and answers.
	Schema = 1

	readTime   = 15 * time.Second
	changeTime = 60 * time.Second
	maxTime    = 10 * time.Minute
	maxAnswer  = 1 << 20 // bytes
	maxReason  = 1000    // bytes of standard error
	maxGrants  = 4096    // in a list
	maxText    = 256     // bytes of a handle
	maxOwner   = 64      // bytes
)

// A Config says which program. Only Program and Agent must be given.
type Config struct {
	Program string   // an absolute path
	Args    []string // its arguments
	Env     []string // NAME=VALUE, beside the few that it gets anyway
	// Timeout is for a call that changes something; 0 means a minute.
	Timeout time.Duration
	Agent   overlay.AgentID
	Now     func() overlay.Instant // nil means the wall clock
}

// A Driver is a reserve.Driver by a program. It holds nothing but what the program said it
// can; the program's backend holds the rest.
type Driver struct {
	cfg  Config
	caps reserve.Caps
}

// New asks the program what it can.
func New(ctx context.Context, c Config) (*Driver, error) {
	if c.Now == nil {
		c.Now = func() overlay.Instant { return overlay.Instant(time.Now().UnixNano()) }
	}
	if c.Timeout == 0 {
		c.Timeout = changeTime
	}
	var wrong []error
	if !filepath.IsAbs(c.Program) {
		wrong = append(wrong, fmt.Errorf("exec: the program %q: want its path from the root", c.Program))
	}
	if c.Timeout < 0 || c.Timeout > maxTime {
		wrong = append(wrong, fmt.Errorf("exec: a time-out of %v: want up to %v", c.Timeout, maxTime))
	}
	if c.Agent == (overlay.AgentID{}) {
		wrong = append(wrong, errors.New("exec: no agent is named"))
	}
	if f, err := os.Stat(c.Program); err == nil && f.Mode().Perm()&0o002 != 0 {
		wrong = append(wrong, fmt.Errorf("exec: anybody may write to %s, which would run with this agent's rights: chmod o-w it", c.Program))
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	d := &Driver{cfg: c}
	a, err := d.ask(ctx, request{Verb: "caps"})
	if err != nil {
		return nil, err
	}
	d.caps, err = a.caps()
	return d, err
}

// Caps are what the program said at the start.
func (d *Driver) Caps() reserve.Caps { return d.caps }

// Offer asks the program what it would grant.
func (d *Driver) Offer(ctx context.Context, w reserve.Want) (reserve.Offer, error) {
	if err := d.check(w); err != nil {
		return reserve.Offer{}, err
	}
	a, err := d.ask(ctx, request{Verb: "offer", Want: wantOf(w)})
	if err != nil {
		return reserve.Offer{}, err
	}
	return a.offer(w)
}

// Hold asks for a grant. What it gets is compared with what it wanted, and given back if it isn't that.
func (d *Driver) Hold(ctx context.Context, w reserve.Want) (reserve.Grant, error) {
	if err := d.check(w); err != nil {
		return reserve.Grant{}, err
	}
	asked := reserve.Grant{ID: w.ID, End: w.End}
	a, err := d.ask(ctx, request{Verb: "hold", Want: wantOf(w)})
	if err != nil {
		return asked, err
	}
	g, err := a.grant(asked)
	if err != nil {
		return asked, err
	}
	if g.Rate <= w.Rate && (w.Kind == reserve.NoKind || (g.Kind != reserve.NoKind && g.Kind <= w.Kind)) {
		return g, nil
	}
	mistake := fmt.Errorf("exec: hold granted %v (%v) where %v (%v) was asked", g.Rate, g.Kind, w.Rate, w.Kind)
	if err := d.Release(ctx, g); err != nil && !errors.Is(err, reserve.ErrGone) {
		return g, fmt.Errorf("%w, and couldn't be given back: %s", mistake, err.Error()) // not wrapped: it doesn't say how the hold came out
	}
	return asked, fmt.Errorf("%w: %w; it was given back", reserve.ErrRefused, mistake)
}

// Commit makes a grant firm.
func (d *Driver) Commit(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(ctx, request{Verb: "commit"}, g)
}

// Abort gives a held grant back.
func (d *Driver) Abort(ctx context.Context, g reserve.Grant) error {
	_, err := d.ask(ctx, request{Verb: "abort", Grant: grantOf(g)})
	return err
}

// Activate lets packets use a grant.
func (d *Driver) Activate(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(ctx, request{Verb: "activate"}, g)
}

// Deactivate takes packets off a grant.
func (d *Driver) Deactivate(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(ctx, request{Verb: "deactivate"}, g)
}

// Modify asks for another rate; less than that may come of it, never more.
func (d *Driver) Modify(ctx context.Context, g reserve.Grant, rate reserve.Rate) (reserve.Grant, error) {
	if !d.caps.Modify {
		return g, fmt.Errorf("exec: modify: %w", reserve.ErrUnsupported)
	}
	if rate <= 0 {
		return g, fmt.Errorf("exec: %w: a rate of %v", reserve.ErrRefused, rate)
	}
	after, err := d.change(ctx, request{Verb: "modify", RateKbit: int64(rate)}, g)
	if err == nil && after.Rate > rate {
		return g, fmt.Errorf("exec: modify granted %v where %v was asked", after.Rate, rate)
	}
	return after, err
}

// Renew asks for another end.
func (d *Driver) Renew(ctx context.Context, g reserve.Grant, end overlay.Instant) (reserve.Grant, error) {
	if err := d.inTime(end); err != nil {
		return g, err
	}
	r := request{Verb: "renew", End: stamp(end), Grant: grantOf(g)}
	a, err := d.ask(ctx, r)
	if err != nil {
		return g, err
	}
	asked := g
	asked.End = end
	after, err := a.grant(asked)
	if err != nil {
		return g, err
	}
	return after, nil
}

// Release gives a grant back.
func (d *Driver) Release(ctx context.Context, g reserve.Grant) error {
	_, err := d.ask(ctx, request{Verb: "release", Grant: grantOf(g)})
	return err
}

// Status asks the program, which asks its backend.
func (d *Driver) Status(ctx context.Context, g reserve.Grant) (reserve.Grant, error) {
	return d.change(ctx, request{Verb: "status"}, g)
}

// List asks for all grants.
func (d *Driver) List(ctx context.Context) ([]reserve.Grant, error) {
	a, err := d.ask(ctx, request{Verb: "list"})
	if err != nil {
		return nil, err
	}
	return a.grants()
}

// Usage asks for what passed through a grant.
func (d *Driver) Usage(ctx context.Context, g reserve.Grant) (reserve.Usage, error) {
	a, err := d.ask(ctx, request{Verb: "usage", Grant: grantOf(g)})
	if err != nil {
		return reserve.Usage{}, err
	}
	return a.usage()
}

// Events tells nothing: the program runs only when it is asked.
func (d *Driver) Events(ctx context.Context, _ func(reserve.Event)) error {
	<-ctx.Done()
	return nil
}

// Reap releases what the program still lists after its end. Grants without an ID or an end are
// the journal's to judge.
func (d *Driver) Reap(ctx context.Context, now overlay.Instant) error {
	all, err := d.List(ctx)
	if err != nil {
		return err
	}
	var wrong []error
	for _, g := range all {
		if g.End == 0 || now.Before(g.End) || g.ID == (reserve.ID{}) {
			continue
		}
		if err := d.Release(ctx, g); err != nil && !errors.Is(err, reserve.ErrGone) {
			wrong = append(wrong, err)
		}
	}
	return errors.Join(wrong...)
}

// change is a verb that takes a grant and answers it.
func (d *Driver) change(ctx context.Context, r request, g reserve.Grant) (reserve.Grant, error) {
	r.Grant = grantOf(g)
	a, err := d.ask(ctx, r)
	if err != nil {
		return g, err
	}
	after, err := a.grant(g)
	if err != nil {
		return g, err
	}
	return after, nil
}

// check refuses what needs no asking.
func (d *Driver) check(w reserve.Want) error {
	switch {
	case w.ID == reserve.ID{}:
		return fmt.Errorf("exec: %w: no ID", reserve.ErrRefused)
	case w.Rate <= 0:
		return fmt.Errorf("exec: %w: a rate of %v", reserve.ErrRefused, w.Rate)
	case len(w.Owner) > maxOwner:
		return fmt.Errorf("exec: %w: an owner's name of %d bytes", reserve.ErrRefused, len(w.Owner))
	}
	return d.inTime(w.End)
}

func (d *Driver) inTime(end overlay.Instant) error {
	if end <= d.cfg.Now() {
		return fmt.Errorf("exec: %w: its end, %v, has passed", reserve.ErrRefused, end.Time())
	}
	return nil
}
