package agent

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Where files are if nobody says otherwise: for root where the system has such files, for
// others where the XDG base directory specification has a user's.
const (
	systemConfig = "/etc/farlan"
	systemState  = "/var/lib/farlan"
	systemSocket = "/run/farlan/farlan.sock"
	configName   = "farlan.yaml"
	keyName      = "network.key"
	socketName   = "farlan.sock"
)

func defaultConfigFile() string { return configPath(configName) }

func defaultKeyFile() string { return configPath(keyName) }

// configPath returns where a file of the configuration is: of those that are there and
// may be read, this user's goes before the system's.
func configPath(name string) string {
	system, own := filepath.Join(systemConfig, name), userDir("XDG_CONFIG_HOME", ".config")
	if os.Geteuid() == 0 || own == "" {
		return system
	}
	own = filepath.Join(own, name)
	if _, err := os.Lstat(own); err != nil && unix.Access(system, unix.R_OK) == nil {
		return system
	}
	return own
}

func defaultStateDir() string {
	if os.Geteuid() == 0 {
		return systemState
	}
	return userDir("XDG_STATE_HOME", ".local", "state") // "": parse asks for one
}

// defaultSocket returns where agent and commands of one user meet. Where nobody made a
// folder for a user's sockets (as without a login), that is in the state folder.
func defaultSocket() string {
	if os.Geteuid() == 0 {
		return systemSocket
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, socketName)
	}
	if dir := defaultStateDir(); dir != "" && unix.Access(systemSocket, unix.W_OK) != nil {
		return filepath.Join(dir, socketName)
	}
	return systemSocket
}

// userDir returns this user's folder for farlan's files of a kind, "" if the user has no
// home.
func userDir(variable string, inHome ...string) string {
	dir := os.Getenv(variable)
	if home := os.Getenv("HOME"); !filepath.IsAbs(dir) && home != "" {
		dir = filepath.Join(append([]string{home}, inHome...)...)
	}
	if !filepath.IsAbs(dir) {
		return ""
	}
	return filepath.Join(dir, "farlan")
}
