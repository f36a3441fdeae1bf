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

// TestPathsOfUsers asks a user without rights for the default paths, which the test's own
// process tells.
func TestPathsOfUsers(t *testing.T) {
	if os.Getenv("FARLAN_PATHS") != "" {
		os.Stdout.WriteString("paths: " + strings.Join([]string{defaultConfigFile(), defaultKeyFile(), defaultStateDir(), defaultSocket()}, " ") + "\n")
		return
	}
	home, program := t.TempDir(), copyOf(t, "/proc/self/exe")
	for name, c := range map[string]struct {
		environ []string
		want    string // H for home
	}{
		"login":      {[]string{"HOME=" + home, "XDG_RUNTIME_DIR=/run/user/7"}, "H/.config/farlan/farlan.yaml H/.config/farlan/network.key H/.local/state/farlan /run/user/7/farlan.sock"},
		"service":    {[]string{"HOME=" + home}, "H/.config/farlan/farlan.yaml H/.config/farlan/network.key H/.local/state/farlan H/.local/state/farlan/farlan.sock"},
		"XDG":        {[]string{"HOME=" + home, "XDG_CONFIG_HOME=/c", "XDG_STATE_HOME=/s"}, "/c/farlan/farlan.yaml /c/farlan/network.key /s/farlan /s/farlan/farlan.sock"},
		"not a path": {[]string{"HOME=" + home, "XDG_CONFIG_HOME=c"}, "H/.config/farlan/farlan.yaml H/.config/farlan/network.key H/.local/state/farlan H/.local/state/farlan/farlan.sock"},
		"homeless":   {nil, "/etc/farlan/farlan.yaml /etc/farlan/network.key  /run/farlan/farlan.sock"},
	} {
		cmd := exec.Command(program, "-test.run=^TestPathsOfUsers$")
		cmd.Env, cmd.Dir = append(c.environ, "FARLAN_PATHS=1"), "/"
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		out, err := cmd.CombinedOutput()
		got, _, _ := strings.Cut(string(out), "\n")
		if want := "paths: " + strings.ReplaceAll(c.want, "H/", home+"/"); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", name, out, err, want)
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
