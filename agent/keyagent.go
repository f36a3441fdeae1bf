package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

func newKeyAgent() *cobra.Command {
	f := &files{}
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "print this agent's id, and make its keys if there are none yet",
		Long: `Print the id by which others know this agent, as 'farlan status' does of one that
runs. If it has no keys yet, they are made as at its first start: so what has to
name agents, as the file of a circuit provider has, can be written before they run.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.resolve(); err != nil {
				return err
			}
			id, err := ownIdentity(f.state)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), id.id())
			return err
		},
	}
	f.addFlags(cmd, false)
	return cmd
}

// ownIdentity returns what the agent of a state folder is; the folder is taken only if keys have
// to be made.
func ownIdentity(dir string) (identity, error) {
	if _, err := os.Stat(filepath.Join(dir, identityFile)); !errors.Is(err, os.ErrNotExist) {
		return (&state{dir: dir}).identity()
	}
	s, err := openState(dir)
	if err != nil {
		return identity{}, err
	}
	id, err := s.identity()
	if err != nil {
		s.undo()
		return identity{}, err
	}
	s.close()
	return id, nil
}
