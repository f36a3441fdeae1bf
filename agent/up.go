package agent

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
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
			if err := load(cmd.Flags(), os.LookupEnv); err != nil {
				return err
			}
			c, err := o.parse()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return runAgent(ctx, c, newLog(cmd, c))
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
			if _, err := readNetworkKey(c.KeyFile); err != nil {
				return err
			}
			cmd.PrintErrln("the configuration is good")
			return nil
		},
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func newLog(cmd *cobra.Command, c *config) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogJSON {
		return slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), options))
	}
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), options))
}
