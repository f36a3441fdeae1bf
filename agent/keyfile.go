package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"farlan/discovery"
	"farlan/overlay"
)

// oldKeysSuffix is behind the key file's name in that of the file which, while the
// network changes its key, holds the keys that are still good: an agent that is
// started again meanwhile finds those who don't know the new one yet.
const oldKeysSuffix = ".old"

// readKeys reads the network key and those that are good beside it. warning says
// why there are none of those though there is a file of them.
func readKeys(now overlay.Instant, path string) (k discovery.Keyring, warning, err error) {
	network, err := readNetwork(path)
	if err != nil {
		return k, nil, err
	}
	k = discovery.NewKeyring(network)
	old := keyFile(path) + oldKeysSuffix
	info, err := os.Stat(old)
	if errors.Is(err, os.ErrNotExist) {
		return k, nil, nil
	}
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("others can read it (mode %04o)", info.Mode().Perm())
	}
	var b []byte
	if err == nil {
		b, err = readBounded(old)
	}
	if err == nil {
		k, err = k.AddOld(now, b)
	}
	if err != nil {
		return k, fmt.Errorf("old network keys %s: %w", old, err), nil
	}
	return k, nil, nil
}

// writeKeys replaces the network key, after those that are good beside it. A crash
// leaves the one or the other key, and never a part of one.
func writeKeys(path string, k discovery.Keyring) error {
	path = keyFile(path)
	if len(k.Old()) > 0 {
		if err := writeFile(path+oldKeysSuffix, k.OldText()); err != nil {
			return err
		}
	}
	return writeFile(path, k.Current().Text())
}

// forgetOldKeys removes the file of the old keys. It is the newest way to them.
func forgetOldKeys(path string) error {
	err := os.Remove(keyFile(path) + oldKeysSuffix)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// keyFile returns the file that path leads to.
func keyFile(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

// keyFileFault says what to do about a key file that can't be replaced.
func keyFileFault(path string, err error) error {
	hint := hintf("this agent must be able to write in %s: give that to its user; the new key is put there in a file of its own, and renamed", filepath.Dir(keyFile(path)))
	if errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EBUSY) {
		hint = hintf("where another program provides the key file (a secret store, a mount), change the key there: 'farlan key new' makes one, and all agents need it and a restart")
	}
	return hint("network key %s can't be replaced: %w", path, err)
}
