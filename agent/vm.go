package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"farlan/overlay"
)

// vmLease is for how long a move is prepared unless somebody says otherwise: most machines
// are migrated in less.
const vmLease = 10 * time.Minute

func newVM() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vm",
		Short: "prepare the move of a virtual machine to another agent's host",
		Long: `A virtual machine that moves is followed without these commands: as soon as it speaks
elsewhere, all agents know. What was sent to it while its hypervisor stopped it is
lost then; when the move is prepared, it comes after it, and nothing comes twice.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newVMPrepare(), newVMCommand("commit", "say that the machine has stopped here, or that it runs here now",
		`At the agent that the machine leaves: it has stopped here. What comes for it goes to
the other agent from now on, which keeps it until the machine speaks there.
At the agent that it comes to: it runs here now, though it may not have said a word.
Neither is needed: the machine's first frame there does it.`),
		newVMCommand("abort", "the machine doesn't move after all", "What was prepared is forgotten, here and at the other agent."))
	return cmd
}

func newVMPrepare() *cobra.Command {
	var lease time.Duration
	cmd := &cobra.Command{
		Use:   "prepare MAC [AGENT]",
		Short: "prepare a machine's move: to AGENT, or to this one",
		Long: `At the agent where the machine is, AGENT is the one to whose host it will move; at
that one, leave it out. What is written for the machine and not read by its hypervisor
goes to the other agent as soon as it speaks there. That can be told of machines with a
TAP in a bridge; for others, 'farlan vm commit' where they are says when they have
stopped.`,
		Args: cobra.RangeArgs(1, 2),
	}
	cmd.Flags().DurationVar(&lease, "lease", vmLease, "how long the move may take; then it is forgotten")
	return vmCommand(cmd, "prepare", func(form url.Values, args []string) {
		form.Set("lease", lease.String())
		if len(args) > 1 {
			form.Set("to", args[1])
		}
	})
}

func newVMCommand(verb, short, long string) *cobra.Command {
	return vmCommand(&cobra.Command{Use: verb + " MAC", Short: short, Long: long, Args: cobra.ExactArgs(1)}, verb, func(url.Values, []string) {})
}

// vmCommand has a command ask the agent.
func vmCommand(cmd *cobra.Command, verb string, fill func(url.Values, []string)) *cobra.Command {
	c := newClient(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := overlay.ParseMAC(strings.ToLower(args[0]))
		if err != nil {
			return usagef("'farlan stations' lists them")("vm %s: %w", verb, err)
		}
		form := url.Values{"mac": {m.String()}, "timeout": {c.timeout.String()}}
		fill(form, args)
		var v vmView
		if err = c.call(cmd.Context(), http.MethodPost, "/vm/"+verb, form, &v); err != nil {
			return err
		}
		if c.json != "" {
			return c.print(cmd, v)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), v)
		return err
	}
	return cmd
}

// String says how it is, in a line.
func (v vmView) String() string {
	s := fmt.Sprintf("%s: %s, from %s to %s", v.MAC, v.State, v.From, v.To)
	if v.State == vmPrepared && v.From == v.Agent && !v.Counted {
		s += "; what its hypervisor reads can't be told: what comes while it stops is lost unless 'farlan vm commit' says here when that is"
	}
	return s
}

// serveVM makes a handler of what is done about a machine's move.
func (n *node) serveVM(do func(context.Context, overlay.MAC, url.Values) (vmView, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		m, err := overlay.ParseMAC(r.FormValue("mac"))
		timeout, bad := time.ParseDuration(r.FormValue("timeout"))
		if err = errors.Join(err, bad); err != nil {
			refuse(w, http.StatusBadRequest, &failure{err: err, code: exitUsage})
			return
		}
		// A little less than the client waits, so that it hears why.
		ctx, cancel := context.WithTimeout(r.Context(), timeout*9/10)
		defer cancel()
		v, err := do(ctx, m, r.Form)
		if err == nil {
			reply(w, v)
			return
		}
		f := &failure{err: fmt.Errorf("vm %s: %w", m, err), code: exitCode(err), hint: hintOf(err)}
		switch {
		case errors.Is(err, errNoStation):
			f.code, f.hint = exitNoPeer, "'farlan stations' lists them"
		case errors.Is(err, errPrepared):
			f.code, f.hint = exitNoPeer, "use 'farlan vm prepare' first"
		}
		refuse(w, http.StatusConflict, f)
	}
}

// prepareVM prepares a move here and at the other agent.
func (n *node) prepareVM(ctx context.Context, m overlay.MAC, form url.Values) (v vmView, err error) {
	lease, err := time.ParseDuration(form.Get("lease"))
	if err != nil || lease < time.Second || lease > overlay.MaxLease {
		return v, usagef("")("--lease: want 1s to %v", overlay.MaxLease)
	}
	p, err := n.otherOf(ctx, m, form.Get("to"))
	if err != nil {
		return v, err
	}
	var x *handover
	if failed := n.do(ctx, func(now overlay.Instant) { x, err = n.prepare(now, m, p, lease) }); failed != nil || err != nil {
		return v, errors.Join(failed, err)
	}
	if err := n.agree(ctx, p, overlay.Handover{Kind: overlay.HandoverPrepare, MAC: m, Lease: lease}); err != nil {
		n.moving.end(x)
		return v, err
	}
	return n.vmView(ctx, x, vmPrepared)
}

// otherOf returns the agent to which a station moves, if it is here, or else that where it is;
// there is a session with it if one can be had soon.
func (n *node) otherOf(ctx context.Context, m overlay.MAC, to string) (p *peer, err error) {
	var here, self bool
	failed := n.do(ctx, func(now overlay.Instant) {
		at, known := n.sw.Stations.Lookup(now, m)
		if _, here = at.Port(); !here && known {
			p = n.view.Load().peer(at)
		}
		self = to == n.self.String() || to == n.names()[n.self]
		if p == nil && !here {
			err = errNoStation
		}
	})
	switch {
	case failed != nil || err != nil:
		return nil, errors.Join(failed, err)
	case here && (to == "" || self):
		return nil, usagef("")("the machine is here: name the agent to whose host it moves")
	case !here && to != "" && !self:
		return nil, usagef("")("the machine isn't here: ask at %s, or at the agent where it is", to)
	case !here:
		n.summon(ctx, p)
		return p, nil
	}
	p, refused := n.reachPeer(ctx, to)
	switch {
	case refused != nil:
		return nil, refused
	case p == nil:
		return nil, failf(exitNoPeer, "'farlan peers' lists them")("%s: no such peer", to)
	}
	return p, nil
}

// commitVM notes that a machine has stopped here, or runs here.
func (n *node) commitVM(ctx context.Context, m overlay.MAC, _ url.Values) (v vmView, err error) {
	x := n.moving.of(m)
	if x == nil {
		return v, errPrepared
	}
	state := vmStopped
	failed := n.do(ctx, func(now overlay.Instant) {
		if !x.comes {
			n.stop(now, x)
			return
		}
		state, err = vmMoved, n.arrive(now, m)
	})
	if failed != nil || err != nil {
		return v, errors.Join(failed, err)
	}
	return n.vmView(ctx, x, state)
}

// arrive claims a station that hasn't spoken here yet: it is at the port where machines are.
func (n *node) arrive(now overlay.Instant, m overlay.MAC) error {
	port := -1
	for i, p := range n.ports {
		if p.kind == "lan" {
			continue
		}
		if port >= 0 {
			return hintf("have the machine speak")("which of this agent's ports it is at isn't known")
		}
		port = i
	}
	if port < 0 {
		return hintf("")("this agent has no port for virtual machines")
	}
	if learned := n.sw.Stations.Learn(now, m, overlay.PortPlace(port)); learned == overlay.LearnedTwice {
		return hintf("see 'farlan doctor'")("it moves so often that two machines must have its address")
	}
	n.claimNow(now, m)
	return nil
}

// abortVM forgets what was prepared.
func (n *node) abortVM(ctx context.Context, m overlay.MAC, _ url.Values) (v vmView, err error) {
	x := n.moving.of(m)
	if x == nil {
		return v, errPrepared
	}
	if err = n.do(ctx, func(now overlay.Instant) {
		n.giveUp(x)
		n.tellHandover(now, x.peer, overlay.Handover{Kind: overlay.HandoverAbort, MAC: m})
	}); err != nil {
		return v, err
	}
	return n.vmView(ctx, x, vmAborted)
}

// The states of a machine's move.
const (
	vmPrepared = "prepared"
	vmStopped  = "stopped"
	vmMoved    = "moved"
	vmAborted  = "aborted"
)

type vmView struct {
	Schema  int     `json:"schema_version"`
	MAC     string  `json:"mac"`
	State   string  `json:"state"`   // prepared, stopped, moved, aborted
	Agent   string  `json:"agent"`   // that was asked
	From    string  `json:"from"`    // the agent
	To      string  `json:"to"`      // the agent
	LeaseS  float64 `json:"lease_s"` // that is left
	Counted bool    `json:"counted"` // it is known what the machine's hypervisor reads; false at the agent that it comes to
}

func (n *node) vmView(ctx context.Context, x *handover, state string) (v vmView, err error) {
	err = n.do(ctx, func(now overlay.Instant) {
		names := n.names()
		own, other := names[n.self], namesOf([]overlay.AgentID{x.peer.id}, names)[0]
		v = vmView{Schema: schemaVersion, MAC: x.mac.String(), State: state, Agent: own, From: own, To: other, Counted: x.reads.Load() != nil}
		if x.comes {
			v.From, v.To = other, own
		}
		v.LeaseS = max(0, overlay.Instant(x.until.Load()).Sub(now).Round(time.Millisecond).Seconds())
	})
	return v, err
}
