package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"farlan/discovery"
	"farlan/overlay"
)

// revokeView is what revoke prints with --json.
type revokeView struct {
	Schema  int        `json:"schema_version"`
	ID      string     `json:"id"`
	Name    *string    `json:"name"`    // null: nothing is known of it
	Until   *time.Time `json:"until"`   // null: for ever
	Invite  *string    `json:"invite"`  // that it came by, revoked too; null: none
	Renewed []string   `json:"renewed"` // others of that invite, by name
}

func newRevoke() *cobra.Command {
	f := &files{}
	cmd := &cobra.Command{
		Use:   "revoke PEER",
		Short: "exclude a member, by name or id, everywhere",
		Long: `Exclude a member: every agent ends its connections and sessions with it as soon
as it hears of this, within seconds if it is connected, and else when it is
again. The invite by which the member came is revoked too, as it may have kept
the token; others who came by it get new credentials by themselves.`,
		Args: cobra.ExactArgs(1),
	}
	f.addFlags(cmd, true)
	c := newClient(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.resolve(); err != nil {
			return err
		}
		v, err := revoke(cmd.Context(), c, f, args[0])
		if err != nil {
			return fmt.Errorf("revoke: %w", err)
		}
		if c.json != "" {
			return c.print(cmd, v)
		}
		w := cmd.OutOrStdout()
		fmt.Fprintf(w, "%s is no member any more\n", args[0])
		if v.Name != nil && v.Invite == nil {
			fmt.Fprintln(w, "no invite was revoked with it: the admin made its credential, or too many others came by its invite")
		}
		if len(v.Renewed) > 0 {
			fmt.Fprintf(w, "so is the invite that it came by; the others of that get new credentials: %s\n", strings.Join(v.Renewed, ", "))
		}
		return nil
	}
	return cmd
}

func revoke(ctx context.Context, c *client, f *files, peer string) (*revokeView, error) {
	o, err := openOffice(ctx, c, f)
	if err != nil {
		return nil, err
	}
	id, err := o.find(peer)
	if err != nil {
		return nil, err
	}
	if id.String() == o.view.Self {
		return nil, usagef("to forget the network here, stop the agent and use 'farlan leave'")("%s: that is this agent itself", peer)
	}
	now := wallClock()
	next, err := o.statement.Exclude(now, o.admin, o.members, id)
	if err != nil {
		return nil, err
	}
	if err := o.publish(ctx, now, next); err != nil {
		return nil, err
	}
	v := &revokeView{Schema: schemaVersion, ID: id.String(), Renewed: []string{}}
	for _, m := range o.members {
		if renewal, ok := next.Renewal(m.Agent); ok && !slices.Equal(renewal.Bytes(), m.Bytes()) {
			v.Renewed = append(v.Renewed, o.names[m.Agent])
		}
		if m.Agent != id {
			continue
		}
		v.Name, v.Until = new(o.names[id]), new(time.Unix(m.Ends(), 0).UTC())
		if serial, ok := m.Invite(); ok && next.RevokedInvite(serial) {
			v.Invite = new(serial.String())
		}
	}
	return v, nil
}

// renewView is what renew prints with --json.
type renewView struct {
	Schema  int           `json:"schema_version"`
	Renewed []renewedView `json:"renewed"`
}

type renewedView struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Rights  []string  `json:"rights"`
	Expires time.Time `json:"expires"`
}

// A renewal is what is to be renewed, and how.
type renewal struct {
	valid  time.Duration
	rights string // "": as they are
}

func newRenew() *cobra.Command {
	f, r := &files{}, &renewal{}
	cmd := &cobra.Command{
		Use:   "renew [PEER…]",
		Short: "give members new credentials, while they run",
		Long: `Give members new credentials: those that are named, or all whose credentials
are past half of their time. They take them without a restart as soon as they
hear of it. With --rights what they may do changes, too. Where no agent runs,
this machine's own credential is renewed.`,
	}
	f.addFlags(cmd, true)
	c := newClient(cmd)
	cmd.Flags().DurationVar(&r.valid, "valid", defaultValid, "how long the credentials last")
	cmd.Flags().StringVar(&r.rights, "rights", "", "what they may do from now on: `all|none|bridge,relay,reserve` (default what they may now)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := f.resolve()
		if err == nil {
			err = checkValid(r.valid)
		}
		if err == nil && r.rights != "" {
			_, err = parseRights(r.rights)
		}
		if err != nil {
			return err
		}
		v, err := r.renew(cmd.Context(), c, f, args)
		if err != nil {
			return fmt.Errorf("renew: %w", err)
		}
		if c.json != "" {
			return c.print(cmd, v)
		}
		for _, m := range v.Renewed {
			fmt.Fprintf(cmd.OutOrStdout(), "%s: until %s, rights: %s\n", m.Name, m.Expires.Local().Format(time.DateTime), strings.Join(m.Rights, ", "))
		}
		if len(v.Renewed) == 0 {
			cmd.PrintErrln("no credential is past half of its time")
		}
		return nil
	}
	return cmd
}

// terms returns what a credential becomes.
func (r *renewal) terms(now overlay.Instant, c discovery.Credential) (discovery.Rights, int64) {
	rights := c.Rights
	if r.rights != "" {
		rights, _ = parseRights(r.rights) // it was good
	}
	return rights, now.Add(r.valid).Time().Unix()
}

func (r *renewal) renew(ctx context.Context, c *client, f *files, peers []string) (renewView, error) {
	v := renewView{Schema: schemaVersion, Renewed: []renewedView{}}
	o, err := openOffice(ctx, c, f)
	if err != nil {
		if exitCode(err) == exitNoAgent && len(peers) == 0 {
			return r.renewHere(f)
		}
		return v, err
	}
	now := wallClock()
	var chosen []discovery.Credential
	for _, p := range peers {
		id, unknown := o.find(p)
		if unknown != nil {
			return v, unknown
		}
		i := slices.IndexFunc(o.members, func(c discovery.Credential) bool { return c.Agent == id })
		if i < 0 {
			return v, failf(exitNoPeer, "make it a token with 'farlan invite'")("%s: it is no member", p)
		}
		chosen = append(chosen, o.members[i])
	}
	if len(peers) == 0 {
		chosen = slices.DeleteFunc(slices.Clone(o.members), func(c discovery.Credential) bool {
			return now.Time().Unix() < c.NotBefore+(c.NotAfter-c.NotBefore)/2
		})
	}
	if len(chosen) == 0 {
		return v, nil
	}
	next := o.statement.Next(now, o.members)
	for _, m := range chosen {
		rights, until := r.terms(now, m)
		if next, err = next.Grant(now, o.admin, m.Agent, rights, until); err != nil {
			return v, err
		}
		v.Renewed = append(v.Renewed, renewedView{m.Agent.String(), o.names[m.Agent], rightNames(rights), time.Unix(until, 0).UTC()})
	}
	return v, o.publish(ctx, now, next)
}

// renewHere renews this machine's own credential, of an agent that doesn't run: one
// whose credential is over can't.
func (r *renewal) renewHere(f *files) (v renewView, err error) {
	network, admin, err := f.keys()
	if err != nil {
		return v, err
	}
	if _, err = os.Stat(filepath.Join(f.state, membershipFile)); err != nil {
		return v, hintf("start the agent with 'farlan up', or name its folder with --state-dir")("no agent answers, and none is a member here: %w", err)
	}
	s, err := openState(f.state)
	if err != nil {
		return v, err
	}
	defer s.close()
	m, err := s.membership(network, time.Now())
	if err != nil {
		return v, err
	}
	own, err := discovery.ParseCredential(m.Credential)
	if err != nil {
		return v, err
	}
	now := wallClock()
	rights, until := r.terms(now, own)
	c, err := discovery.IssueCredential(admin, own.Agent, rights, now.Time().Unix(), until)
	if err != nil {
		return v, err
	}
	if err := s.keepCredential(network, c); err != nil {
		return v, err
	}
	name := m.Name
	if name == "" {
		name = hostName()
	}
	return renewView{Schema: schemaVersion, Renewed: []renewedView{{own.Agent.String(), name, rightNames(rights), time.Unix(until, 0).UTC()}}}, nil
}
