package agent

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"farlan/discovery"
	"farlan/overlay"
)

// adminFile is the admin key's name, beside the network key.
const adminFile = "admin.key"

// files are where the commands that make, enter and govern a network find what
// they need: where 'farlan up' would, by flags, environment and configuration.
type files struct {
	config, key, state, admin string
	name                      string
}

func (f *files) addFlags(cmd *cobra.Command, admin bool) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.config, "config", "", "YAML `FILE` of 'farlan up', for where the files are")
	flags.StringVar(&f.key, "key-file", "", "`FILE` with the network key (default "+defaultKeyFile()+")")
	flags.StringVar(&f.state, "state-dir", "", "`DIR` for the identity and the membership (default "+defaultStateDir()+")")
	if admin {
		flags.StringVar(&f.admin, "admin-key", "", "`FILE` with the admin key (default "+adminFile+" beside the network key)")
	}
}

// resolve fills in what no flag says.
func (f *files) resolve() error {
	o := &options{}
	flags := pflag.NewFlagSet("up", pflag.ContinueOnError)
	o.addFlags(flags)
	for name, value := range map[string]string{"config": f.config, "key-file": f.key, "state-dir": f.state, "name": f.name} {
		if value != "" {
			_ = flags.Set(name, value) // any text will do
		}
	}
	if err := load(flags, os.LookupEnv); err != nil {
		return err
	}
	f.key, f.state, f.name = o.keyFile, o.stateDir, o.name
	if f.admin == "" {
		f.admin = filepath.Join(filepath.Dir(f.key), adminFile)
	}
	if f.state == "" {
		return usagef("name a folder with --state-dir")("state folder: none given, and this user has no home")
	}
	return (&config{Name: f.name}).parseName()
}

// keys reads the network key and the admin key of a signed network.
func (f *files) keys() (discovery.Network, discovery.AdminKey, error) {
	network, err := readNetwork(f.key)
	if err != nil {
		return network, discovery.AdminKey{}, err
	}
	if !network.Signed() {
		return network, discovery.AdminKey{}, hintf("to let somebody in, copy %s to its machine; to keep somebody out, change the key on all others: 'farlan key rotate'; a network made by 'farlan init' can do both by signatures", f.key)(
			"network %s is simple: it has no admin, and who holds its key is a member", network.ID())
	}
	admin, err := readAdminKey(f.admin)
	if err == nil && admin.Public() != network.Admin() {
		err = hintf("name the right one with --admin-key")("admin key %s: it is not that of network %s", f.admin, network.ID())
	}
	return network, admin, err
}

// readAdminKey reads an admin key that nobody else may read.
func readAdminKey(path string) (discovery.AdminKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return discovery.AdminKey{}, hintf("do this where 'farlan init' was run, or name the admin key's backup with --admin-key")("admin key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return discovery.AdminKey{}, hintf("make it private with 'chmod 600 %s'; who has read it can make members", path)(
			"admin key %s: others can read it (mode %04o)", path, info.Mode().Perm())
	}
	b, err := readBounded(path)
	if err != nil {
		return discovery.AdminKey{}, hintf("run this as the file's owner, or as root")("admin key: %w", err)
	}
	key, err := discovery.ParseAdminKey(b)
	if err != nil {
		return key, hintf("restore it from its backup")("admin key %s: %w", path, err)
	}
	return key, nil
}

// createFile makes a file that is complete and on the disk, readable by its owner
// only, or none: it never replaces one.
func createFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Link(f.Name(), path); err != nil {
		if errors.Is(err, os.ErrExist) {
			return &os.PathError{Op: "create", Path: path, Err: os.ErrExist}
		}
		return err
	}
	return syncDir(path)
}

// syncDir writes the folder of a file to the disk.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// exists says whether there is anything at a path.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// stranger says what network this machine belongs to already, as an error; nil if
// it is none, or the one wanted.
func (f *files) stranger(s *state, wanted discovery.Network) error {
	forget := hintf("'farlan leave' makes this machine forget it; or name other files with --key-file and --state-dir")
	if exists(f.key) {
		network, err := readNetwork(f.key)
		if err != nil {
			return forget("%w", err)
		}
		if network != wanted {
			return forget("network key %s: file exists, and is that of network %s", f.key, network.ID())
		}
	}
	path := filepath.Join(s.dir, membershipFile)
	m, err := readMembership(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return hintf("start again: the file doesn't stand in the way any more")("%w", putAside(path, "membership", time.Now(), err))
	case !m.of(wanted):
		return forget("this machine is a member of network %s already", m.Network)
	}
	return nil
}

// wallClock returns the time for what is signed.
func wallClock() overlay.Instant { return overlay.Instant(time.Now().UnixNano()) }
