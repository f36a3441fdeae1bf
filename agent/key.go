package agent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"farlan/discovery"
)

func newKey() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "make, name and change network keys",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "new [FILE]",
			Short: "make a new network key, in FILE or on standard output",
			Args:  cobra.MaximumNArgs(1),
			RunE:  runKeyNew,
		},
		&cobra.Command{
			Use:   "id [FILE]",
			Short: "print a network key's fingerprint, which is safe to show",
			Long:  "Print the fingerprint of the network key in FILE (default " + defaultKeyFile() + "; - for standard input).",
			Args:  cobra.MaximumNArgs(1),
			RunE:  runKeyID,
		},
		newKeyAgent(),
		newKeyRotate(),
	)
	return cmd
}

func runKeyNew(cmd *cobra.Command, args []string) error {
	key, err := discovery.NewNetworkKey(rand.Reader)
	if err != nil {
		return err
	}
	text := append(key.Text(), '\n')
	if len(args) == 0 || args[0] == "-" {
		_, err = cmd.OutOrStdout().Write(text)
		return err
	}
	f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return hintf("a network's members are those who hold its key: to start another network, name another file")("network key: %w", err)
	}
	if err != nil {
		return hintf("see that the folder exists and that this user may write there")("network key: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(args[0])
		return fmt.Errorf("network key: %w", err)
	}
	cmd.PrintErrf("network %s: copy %s to every member, and to nobody else\n", key.ID(), args[0])
	return nil
}

func runKeyID(cmd *cobra.Command, args []string) error {
	path := defaultKeyFile()
	if len(args) > 0 {
		path = args[0]
	}
	var network discovery.Network
	var err error
	if path == "-" {
		var b []byte
		if b, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), 64<<10)); err == nil {
			network, err = discovery.ParseNetwork(b)
		}
	} else {
		network, err = readNetwork(path)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), network.ID())
	return err
}
