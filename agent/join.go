package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"farlan/discovery"
	"farlan/discovery/p2p"
)

// joinView is what join prints with --json.
type joinView struct {
	Schema     int             `json:"schema_version"`
	ID         string          `json:"id"`
	Network    string          `json:"network"`
	Key        string          `json:"key_file"`
	Bootstrap  []string        `json:"bootstrap"`
	Credential *credentialView `json:"credential"`
}

func newJoin() *cobra.Command {
	f, out := &files{}, &output{}
	cmd := &cobra.Command{
		Use:   "join TOKEN|-",
		Short: "take a token of 'farlan invite', so that 'farlan up' needs no flag",
		Long: `Check a join token and write what is in it: the network key, this agent's
credential, and the addresses of members. The token on standard input (-) isn't
seen by others of this machine, and not kept by the shell. An agent that is a
member of the same network already gets a new credential.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text := []byte(args[0])
			if args[0] == "-" {
				var err error
				if text, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), 2*discovery.MaxTokenText)); err != nil {
					return err
				}
			}
			v, err := f.join(text)
			if err != nil {
				return err
			}
			if out.json != "" {
				return out.print(cmd, v)
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "joined network %s, until %s; start the agent with 'farlan up'\n", v.Network, v.Credential.Expires.Local().Format(time.DateTime))
			if !v.Credential.Complete {
				fmt.Fprintln(w, "The invite is for one agent: it is this one's as soon as a member has seen it.")
			}
			return nil
		},
	}
	f.addFlags(cmd, false)
	cmd.Flags().StringVar(&f.name, "name", "", "`NAME` that people call this agent by (default the host's name)")
	out.addFlag(cmd)
	return cmd
}

// join takes a token's text.
func (f *files) join(text []byte) (v joinView, err error) {
	if err = f.resolve(); err != nil {
		return v, err
	}
	token, err := discovery.ParseToken(text)
	if err != nil {
		return v, hintf("copy the whole line that 'farlan invite' printed")("%w", err)
	}
	if err = token.Check(wallClock()); err != nil {
		return v, hintf("have the admin make a new one with 'farlan invite'; and see that this machine's clock is right")("%w", err)
	}
	for _, a := range token.Addrs {
		if _, err = p2p.ParseSeed(a); err != nil {
			return v, hintf("a later version of farlan may have made it")("join token: %w", err)
		}
	}
	s, err := openState(f.state)
	if err != nil {
		return v, err
	}
	defer func() {
		if err != nil {
			s.undo()
		} else {
			s.close()
		}
	}()
	if err = f.stranger(s, token.Network); err != nil {
		return v, err
	}
	made, err := makeDirs(filepath.Dir(f.key), 0o755)
	if err != nil {
		return v, hintf("name a file that this user may write with --key-file")("network key: %w", err)
	}
	ident, err := s.identity()
	if err != nil {
		removeDirs(made)
		return v, err
	}
	own, err := token.Join(wallClock(), ident.id())
	if err != nil {
		return v, err
	}
	old, _ := readMembership(filepath.Join(s.dir, membershipFile)) // stranger has looked
	err = createFile(f.key, append([]byte("# farlan network "+token.Network.ID()+": a secret of its members.\n"), token.Network.Text()...))
	if err != nil && !errors.Is(err, os.ErrExist) { // then it is this network's
		return v, hintf("see that this user may write there")("network key: %w", err)
	}
	m := membership{Network: token.Network.ID(), Name: cmp.Or(f.name, old.Name), Credential: own.Bytes(), Bootstrap: token.Addrs}
	if err = s.saveMembership(m); err != nil {
		return v, hintf("see that this user may write there")("membership: %w", err)
	}
	return joinView{
		Schema: schemaVersion, ID: ident.id().String(), Network: token.Network.ID(), Key: f.key,
		Bootstrap: append([]string{}, token.Addrs...), Credential: viewOf(own),
	}, nil
}

// leaveView is what leave prints with --json.
type leaveView struct {
	Schema  int      `json:"schema_version"`
	Network *string  `json:"network"` // null: it could not be read
	Removed []string `json:"removed"`
}

func newLeave() *cobra.Command {
	f, out := &files{}, &output{}
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "forget the network: its key, this agent's membership, its peers",
		Long: `Forget the network: remove its key, this agent's credential, and what is
remembered of others. The agent must have been stopped; its identity stays. To
come back it needs a new token.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := f.leave()
			if err != nil {
				return err
			}
			if out.json != "" {
				return out.print(cmd, v)
			}
			for _, path := range v.Removed {
				fmt.Fprintf(cmd.OutOrStdout(), "removed %s\n", path)
			}
			return nil
		},
	}
	f.addFlags(cmd, true)
	out.addFlag(cmd)
	return cmd
}

// leave forgets the network, its key last.
func (f *files) leave() (leaveView, error) {
	v := leaveView{Schema: schemaVersion, Removed: []string{}}
	if err := f.resolve(); err != nil {
		return v, err
	}
	paths := []string{filepath.Join(f.state, rememberedFile), filepath.Join(f.state, membershipFile), f.key}
	network, err := readNetwork(f.key)
	if err == nil {
		v.Network = new(network.ID())
		if admin, err := readAdminKey(f.admin); err == nil && admin.Public() == network.Admin() {
			return v, hintf("move that file to a safe place first: without it nobody can be let in or excluded any more")("this machine holds the network's admin key, %s", f.admin)
		}
	}
	if !exists(paths[0]) && !exists(paths[1]) && !exists(paths[2]) {
		return v, hintf("name its files with --key-file and --state-dir")("this machine is a member of no network: there is no %s", f.key)
	}
	if exists(f.state) {
		s, err := openState(f.state)
		if err != nil {
			return v, err
		}
		defer s.close()
	}
	for _, path := range paths {
		err := os.Remove(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = syncDir(path)
		}
		if err != nil {
			return v, hintf("run this as the file's owner, or as root")("%w", err)
		}
		v.Removed = append(v.Removed, path)
	}
	return v, nil
}
