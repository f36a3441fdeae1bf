package agent

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"farlan/discovery"
	"farlan/discovery/p2p"
)

// inviteView is what invite prints with --json.
type inviteView struct {
	Schema    int       `json:"schema_version"`
	Token     string    `json:"token"` // a secret
	Network   string    `json:"network"`
	Invite    string    `json:"invite"` // its serial, no secret
	Once      bool      `json:"once"`
	Expires   time.Time `json:"expires"`
	ValidS    float64   `json:"valid_s"` // the credentials made by it
	Rights    []string  `json:"rights"`
	Bootstrap []string  `json:"bootstrap"`
}

// An invitation is what an invite is to be.
type invitation struct {
	once       bool
	ttl, valid time.Duration
	rights     string
	bootstrap  []string
}

func newInvite() *cobra.Command {
	f, i := &files{}, &invitation{}
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "print a token by which other machines join the network",
		Long: `Print a join token: the network key, addresses of members, and the admin's
signature under what members made by it may do, and until when it makes any. Who
has the token can join, so hand it over as you would a password.

With --once it makes one member. No controller is asked, so the first agent that
shows it to a member gets that member's receipt; who shows it later is refused.
Two agents that show it to two members at the same moment are both let in until
those members hear of each other, which takes a few round trips, or until a
network that was split is whole again; then all refuse the later one.`,
		Args: cobra.NoArgs,
	}
	f.addFlags(cmd, true)
	c := newClient(cmd)
	cmd.Flags().BoolVar(&i.once, "once", false, "for one agent only")
	cmd.Flags().DurationVar(&i.ttl, "ttl", 24*time.Hour, "how long the token makes members")
	cmd.Flags().DurationVar(&i.valid, "valid", defaultValid, "how long their credentials last")
	cmd.Flags().StringVar(&i.rights, "rights", "all", "what they may do besides: `all|none|bridge,relay,reserve`")
	cmd.Flags().StringArrayVar(&i.bootstrap, "bootstrap", nil, "`MULTIADDR` to join by (repeats; default this agent's, and some others')")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.resolve(); err != nil {
			return err
		}
		v, err := i.token(cmd.Context(), c, f)
		if err != nil {
			return err
		}
		if c.json != "" {
			return c.print(cmd, v)
		}
		fmt.Fprintln(cmd.OutOrStdout(), v.Token)
		who := "whoever has it can join"
		if v.Once {
			who = "the first agent that uses it can join"
		}
		cmd.PrintErrf("invite %s to network %s: %s until %s, with the rights: %s; on the other machine: farlan join TOKEN\n",
			v.Invite, v.Network, who, v.Expires.Local().Format(time.DateTime), strings.Join(v.Rights, ", "))
		return nil
	}
	return cmd
}

// token makes the token.
func (i *invitation) token(ctx context.Context, c *client, f *files) (v inviteView, err error) {
	rights, err := parseRights(i.rights)
	if err != nil {
		return v, err
	}
	if i.ttl < time.Second || i.ttl > 10*365*24*time.Hour {
		return v, usagef("want 1s to 87600h")("--ttl %v: no time for a token", i.ttl)
	}
	if err = checkValid(i.valid); err != nil {
		return v, err
	}
	network, admin, err := f.keys()
	if err != nil {
		return v, err
	}
	if v.Bootstrap, err = i.seeds(ctx, c, network); err != nil {
		return v, err
	}
	terms := discovery.Terms{Rights: rights, NotAfter: time.Now().Add(i.ttl).Unix(), Lifetime: i.valid.Truncate(time.Second), Once: i.once}
	token, err := discovery.NewToken(rand.Reader, admin, network, terms, v.Bootstrap)
	if err != nil {
		return v, err
	}
	v.Schema, v.Token, v.Network = schemaVersion, strings.TrimSpace(string(token.Text())), network.ID()
	v.Invite, v.Once, v.Expires = token.Certificate.Serial().String(), i.once, time.Unix(terms.NotAfter, 0).UTC()
	v.ValidS, v.Rights = terms.Lifetime.Seconds(), rightNames(rights)
	return v, nil
}

// seeds returns the addresses to join by.
func (i *invitation) seeds(ctx context.Context, c *client, network discovery.Network) ([]string, error) {
	for _, s := range i.bootstrap {
		if _, err := p2p.ParseSeed(s); err != nil {
			return nil, usagef("copy it from 'farlan status' of a member, as /ip4/192.0.2.1/udp/4747/quic-v1/p2p/12D3Koo…")("--bootstrap %q: %w", s, err)
		}
	}
	if len(i.bootstrap) > discovery.MaxTokenAddrs {
		return nil, usagef("a few members are enough: they tell of all others")("--bootstrap: more than %d", discovery.MaxTokenAddrs)
	}
	if len(i.bootstrap) > 0 {
		return i.bootstrap, nil
	}
	var view membersView
	if err := c.call(ctx, http.MethodGet, "/members", nil, &view); err != nil {
		if exitCode(err) == exitNoAgent {
			err = failf(exitNoAgent, "a token holds addresses of members: start this agent with 'farlan up', or give some with --bootstrap")("%w", err)
		}
		return nil, err
	}
	if view.Network != network.ID() {
		return nil, hintf("name the other agent's socket with --socket, or its key with --key-file")("the agent is in network %s, the key file is of network %s", view.Network, network.ID())
	}
	return view.Bootstrap, nil
}

// parseRights reads the value of --rights.
func parseRights(s string) (r discovery.Rights, err error) {
	switch s {
	case "all":
		return discovery.AllRights, nil
	case "none":
		return 0, nil
	}
	known := map[string]discovery.Rights{"bridge": discovery.RightBridge, "relay": discovery.RightRelay, "reserve": discovery.RightReserve}
	for name := range strings.SplitSeq(s, ",") {
		if known[name] == 0 {
			return 0, usagef("want all, none, or some of bridge,relay,reserve")("--rights %q: don't know %q", s, name)
		}
		r |= known[name]
	}
	return r, nil
}
