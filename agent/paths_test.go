package agent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Where users other than root have their files: as root, the test has such a user run it.
func TestPathsOfUsers(t *testing.T) {
	if os.Geteuid() == 0 {
		cmd := exec.Command(copyOf(t, "/proc/self/exe"), "-test.run=^TestPathsOfUsers$")
		cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	for name, c := range map[string]struct{ home, config, state, runtime, want string }{
		"login":      {"/h", "", "", "/run/user/7", "/h/.config/farlan/farlan.yaml /h/.config/farlan/network.key /h/.local/state/farlan /run/user/7/farlan.sock"},
		"service":    {"/h", "", "", "", "/h/.config/farlan/farlan.yaml /h/.config/farlan/network.key /h/.local/state/farlan /h/.local/state/farlan/farlan.sock"},
		"XDG":        {"/h", "/c", "/s", "", "/c/farlan/farlan.yaml /c/farlan/network.key /s/farlan /s/farlan/farlan.sock"},
		"not a path": {"/h", "c", "", "", "/h/.config/farlan/farlan.yaml /h/.config/farlan/network.key /h/.local/state/farlan /h/.local/state/farlan/farlan.sock"},
		"homeless":   {"", "", "", "", "/etc/farlan/farlan.yaml /etc/farlan/network.key  /run/farlan/farlan.sock"},
	} {
		t.Setenv("HOME", c.home)
		t.Setenv("XDG_CONFIG_HOME", c.config)
		t.Setenv("XDG_STATE_HOME", c.state)
		t.Setenv("XDG_RUNTIME_DIR", c.runtime)
		got := strings.Join([]string{defaultConfigFile(), defaultKeyFile(), defaultStateDir(), defaultSocket()}, " ")
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// copyOf copies a program to where every user can run it, until the test ends.
func copyOf(t *testing.T, path string) string {
	t.Helper()
	dir := t.TempDir()
	to := filepath.Join(dir, "tests") // by the name farlan they would be that
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		err = errors.Join(err, os.Chmod(d, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}
