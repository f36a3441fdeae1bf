package agent

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"farlan/discovery/p2p"
	"farlan/overlay"
)

func newUp() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "run the agent in the foreground",
		Long: `Run the agent in the foreground: join the network whose key it has, carry
frames between its ports and the other agents, until SIGTERM or SIGINT.

Every flag can also be given as an environment variable (FARLAN_ and the name in
capitals with _, several values separated by spaces) and as a key in the
configuration file; a flag goes over the environment, which goes over the file.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			given := givenFlags(cmd.Flags())
			if err := load(cmd.Flags(), os.LookupEnv); err != nil {
				return err
			}
			c, err := o.parse()
			if err != nil {
				return err
			}
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(collectAt)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			context.AfterFunc(ctx, stop) // a second signal ends the process at once
			level := new(slog.LevelVar)
			log := newLog(cmd, c, level)
			p2p.LogTo(log)
			reload := make(chan os.Signal, 1)
			signal.Notify(reload, syscall.SIGHUP)
			defer signal.Stop(reload)
			go func() {
				for range reload { // until the process ends
					reloadConfig(given, log, level)
				}
			}()
			return runAgent(ctx, c, log)
		},
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func newCheckConfig() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "check-config",
		Short: "check a configuration without running it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := load(cmd.Flags(), os.LookupEnv); err != nil {
				return err
			}
			c, err := o.parse()
			if err != nil {
				return err
			}
			if _, err := readNetwork(c.KeyFile); err != nil {
				return err
			}
			for _, d := range c.Reserve.Drivers {
				if d.File == "" {
					continue
				}
				if _, err := readNSIFile(d.File, overlay.AgentID{}); err != nil {
					return err
				}
			}
			cmd.PrintErrln("the configuration is good")
			return nil
		},
	}
	o.addFlags(cmd.Flags())
	return cmd
}

// givenFlags returns the values of the flags on the command line, which go over
// whatever a file says later.
func givenFlags(flags *pflag.FlagSet) map[string][]string {
	given := make(map[string][]string)
	flags.Visit(func(f *pflag.Flag) {
		if list, ok := f.Value.(pflag.SliceValue); ok {
			given[f.Name] = list.GetSlice()
		} else {
			given[f.Name] = []string{f.Value.String()}
		}
	})
	return given
}

// reloadConfig reads the configuration again and takes over what can change
// while the agent runs. One that isn't good changes nothing.
func reloadConfig(given map[string][]string, log *slog.Logger, level *slog.LevelVar) {
	o := &options{}
	flags := pflag.NewFlagSet("up", pflag.ContinueOnError)
	o.addFlags(flags)
	for name, values := range given {
		_ = set(flags, flags.Lookup(name), values) // they were good at the start
	}
	c, err := (*config)(nil), load(flags, os.LookupEnv)
	if err == nil {
		c, err = o.parse()
	}
	if err != nil {
		log.Error("configuration not read again", "error", err)
		return
	}
	level.Set(c.LogLevel)
	log.Info("configuration read again", "log-level", c.LogLevel)
}

func newLog(cmd *cobra.Command, c *config, level *slog.LevelVar) *slog.Logger {
	level.Set(c.LogLevel)
	options := &slog.HandlerOptions{Level: level}
	if c.LogJSON {
		return slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), options))
	}
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), options))
}
