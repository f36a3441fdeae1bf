// Package agent is farlan's daemon and command line: it reads the
// configuration, opens ports and sockets, joins the deciding cores of the other
// packages into one node, and tells over a control socket what the node knows.
//
// The life of the daemon is in up.go and run.go; the node's loop, where all
// parts meet, in node.go; the way of a frame in inbound.go and outbound.go; the
// schema of what the commands print in schema.go.
package agent

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"farlan/agent/lab"
)

// Main runs the command line with the arguments after the program's name and
// returns the exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	if err == nil {
		return 0
	}
	printError(stderr, err)
	return exitCode(err)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "farlan",
		Short:         "puts machines that are far away on your LAN",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("see '%s --help'", cmd.CommandPath())("%s: %w", cmd.Name(), err)
	})
	root.AddCommand(newInit(), newInvite(), newJoin(), newLeave(), newRevoke(), newRenew())
	root.AddCommand(newUp(), newKey(), newVersion(), newCheckConfig(),
		newStatus(), newPeers(), newLinks(), newRoutes(), newExplain(), newAdvise(), newStations(), newMap(), newTraffic(), newPing(), newBench(), newWait(), newVM(), newReserve(), newDoctor(), lab.Command())
	wrapUsage(root)
	return root
}

// unknownCommand refuses arguments of a command that has subcommands only.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := fmt.Sprintf("see '%s --help'", cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean '%s %s'?", cmd.CommandPath(), near[0])
	}
	return usagef(hint)("unknown command %q", args[0])
}

// wrapUsage makes what a command says of its arguments an error of usage.
func wrapUsage(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if err == nil || exitCode(err) == exitUsage {
				return err
			}
			return usagef("see '%s --help'", cmd.CommandPath())("%s: %w", cmd.Name(), err)
		}
	}
	for _, sub := range cmd.Commands() {
		wrapUsage(sub)
	}
}
