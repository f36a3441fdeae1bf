package agent

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"farlan/discovery"
)

// defaultValid is how long a credential lasts unless somebody says otherwise.
const defaultValid = 365 * 24 * time.Hour

// madeView is what init prints.
type madeView struct {
	Schema  int       `json:"schema_version"`
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Network string    `json:"network"`
	Key     string    `json:"key_file"`
	Admin   string    `json:"admin_key_file"`
	Backup  *string   `json:"admin_key_backup"` // null: there is none yet
	Expires time.Time `json:"expires"`          // this agent's credential
}

func newInit() *cobra.Command {
	f, out, backup, valid := &files{}, &output{}, "", defaultValid
	cmd := &cobra.Command{
		Use:   "init",
		Short: "make this agent's identity and a new network with an admin",
		Long: `Make this agent's identity and a new network, of which it is the first member:
a network key, which every member gets, and an admin key, which makes members
('farlan invite') and excludes them ('farlan revoke'). No agent needs the admin
key to run. Nothing that is there already is replaced.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := f.makeNetwork(backup, valid)
			if err != nil {
				return err
			}
			if out.json != "" {
				return out.print(cmd, v)
			}
			showMade(cmd.OutOrStdout(), v)
			return nil
		},
	}
	f.addFlags(cmd, true)
	cmd.Flags().StringVar(&f.name, "name", "", "`NAME` that people call this agent by (default the host's name)")
	cmd.Flags().StringVar(&backup, "backup", "", "also write the admin key to `FILE`, on another disk")
	cmd.Flags().DurationVar(&valid, "valid", defaultValid, "how long this agent's own credential lasts")
	out.addFlag(cmd)
	return cmd
}

// A foundation is what a network is made of, and how to undo it.
type foundation struct {
	*files
	state   *state
	network discovery.Network
	admin   discovery.AdminKey
	undo    []func()
}

// makeNetwork makes a network. The key file comes last: with it, all is there. On
// an error nothing is.
func (f *files) makeNetwork(backup string, valid time.Duration) (v madeView, err error) {
	if err = f.resolve(); err != nil {
		return v, err
	}
	if err = checkValid(valid); err != nil {
		return v, err
	}
	for what, path := range map[string]string{"network key": f.key, "admin key": f.admin, "admin key's backup": backup} {
		if path != "" && exists(path) {
			return v, hintf("'farlan leave' forgets a network; or name other files with --key-file, --admin-key and --state-dir")("%s %s: file exists", what, path)
		}
	}
	n := &foundation{files: f}
	if n.state, err = openState(f.state); err != nil {
		return v, err
	}
	n.undo = append(n.undo, n.state.undo)
	if v, err = n.make(backup, valid); err != nil {
		for _, u := range slices.Backward(n.undo) {
			u()
		}
		return madeView{}, err
	}
	n.state.close()
	return v, nil
}

func (n *foundation) make(backup string, valid time.Duration) (v madeView, err error) {
	path := filepath.Join(n.state.dir, membershipFile)
	if exists(path) {
		return v, hintf("'farlan leave' makes this machine forget it; or name other files with --key-file and --state-dir")("%s: this machine is a member of a network already", path)
	}
	key, err := discovery.NewNetworkKey(rand.Reader)
	if err != nil {
		return v, err
	}
	if n.admin, err = discovery.NewAdminKey(rand.Reader); err != nil {
		return v, err
	}
	n.network = discovery.NewNetwork(key, n.admin.Public())
	secret := "# The admin key of farlan network " + n.network.ID() + ": keep it secret, and a copy of it elsewhere."
	if err = n.create(n.files.admin, secret, n.admin.Text()); err != nil {
		return v, err
	}
	if backup != "" {
		if err = n.create(backup, secret, n.admin.Text()); err != nil {
			return v, err
		}
		v.Backup = &backup
	}
	ident, err := n.state.identity()
	if err != nil {
		return v, err
	}
	now := wallClock()
	own, err := discovery.IssueCredential(n.admin, ident.id(), discovery.AllRights, now.Time().Unix(), now.Add(valid).Time().Unix())
	if err != nil {
		return v, err
	}
	n.undo = append(n.undo, func() { _ = os.Remove(path) })
	if err = n.state.saveMembership(membership{Network: n.network.ID(), Name: n.name, Credential: own.Bytes()}); err != nil {
		return v, fmt.Errorf("membership: %w", err)
	}
	v.Schema, v.ID, v.Name, v.Network = schemaVersion, ident.id().String(), cmp.Or(n.name, hostName()), n.network.ID()
	v.Key, v.Admin, v.Expires = n.key, n.files.admin, time.Unix(own.NotAfter, 0).UTC()
	return v, n.create(n.key, "# farlan network "+n.network.ID()+": a secret of its members.", n.network.Text())
}

// create makes a file of a key.
func (n *foundation) create(path, comment string, text []byte) error {
	made, err := makeDirs(filepath.Dir(path), 0o755)
	if err == nil {
		err = createFile(path, append([]byte(comment+"\n"), text...))
	}
	if err != nil {
		return hintf("name a file that this user may write with --key-file and --admin-key")("%w", err)
	}
	n.undo = append(n.undo, func() { _ = os.Remove(path); removeDirs(made) })
	return nil
}

// checkValid refuses times that no credential can last.
func checkValid(d time.Duration) error {
	if d < time.Second || d > 100*365*24*time.Hour {
		return usagef("want 1s to 876000h")("%v is no time that a credential can last", d)
	}
	return nil
}

// hostName returns what an agent without a name is called.
func hostName() string {
	c := &config{}
	if err := c.parseName(); err != nil {
		return ""
	}
	return c.Name
}

func showMade(w io.Writer, v madeView) {
	fmt.Fprintf(w, "made network %s; %s is its first member, until %s\n", v.Network, v.Name, v.Expires.Local().Format(time.DateOnly))
	fmt.Fprintf(w, "  start it          farlan up\n")
	fmt.Fprintf(w, "  let others in     farlan invite (here, while it runs), then on the other machine: farlan join TOKEN\n")
	fmt.Fprintf(w, "  network key       %s\n", v.Key)
	fmt.Fprintf(w, "  admin key         %s\n", v.Admin)
	if v.Backup != nil {
		fmt.Fprintf(w, "  its backup        %s: take it away from this machine\n", *v.Backup)
	} else {
		fmt.Fprintf(w, "  its backup        none yet: copy that file, one line of text, to a stick or on paper, now\n")
	}
	fmt.Fprintln(w, "If the admin key is lost, the network goes on until its members' credentials expire, but nobody can be")
	fmt.Fprintln(w, "let in, renewed or excluded any more: you would make a new network and have all join that. Who steals")
	fmt.Fprintln(w, "it can do all of this. It may be kept off this machine, as long as nobody is to be let in.")
}
