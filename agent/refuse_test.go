package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// refuses starts an agent that must not start: one line that says what and why,
// one that says what to do, exit code 1, and nothing left behind. command is the
// program, perhaps behind one that runs it in a namespace or as somebody else.
func refuses(t *testing.T, key, want string, command []string, args ...string) {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) { // for other users
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	all := append(slices.Clone(command), "up", "--key-file", key, "--config", os.DevNull,
		"--state-dir", filepath.Join(dir, "state"), "--socket", filepath.Join(dir, "run", "s"), "--listen", "127.0.0.1:0")
	all = append(all, args...)
	cmd := exec.Command(all[0], all[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.HasPrefix(string(out), "farlan: ") ||
		!strings.Contains(string(out), want) || strings.Count(string(out), "\n") != 2 {
		t.Errorf("want %q: %v\n%s", want, err, out)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestInUse(t *testing.T) {
	key := newKeyFile(t)
	a := startAgent(t, key, "a")
	addr := hostPort(a.bootstrap())
	farlan := []string{program(t)}
	refuses(t, key, "is in use", farlan, "--listen", addr)
	refuses(t, key, "in use by another farlan (process ", farlan, "--state-dir", filepath.Join(a.dir, "state"))
	refuses(t, key, "in use by another farlan", farlan, "--socket", filepath.Join(a.dir, "s"))
	other, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	refuses(t, key, "UDP port", farlan, "--listen", other.LocalAddr().String())
	stream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	refuses(t, key, fmt.Sprintf("TCP port %d is in use", stream.Addr().(*net.TCPAddr).Port), farlan, "--listen", stream.Addr().String())
	if err := a.sees(1); err != nil {
		t.Errorf("the running agent was disturbed: %v", err)
	}
}

// needRoot skips a test without root, loudly, or fails it where none may be
// skipped.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("FARLAN_NO_SKIP") != "" {
		t.Fatal("NEEDS ROOT")
	}
	t.Skip("NEEDS ROOT: SKIPPED")
}

func TestPortsRefused(t *testing.T) {
	needRoot(t)
	key := newKeyFile(t)
	alone := []string{"unshare", "--net", program(t)} // a namespace with nothing but lo
	refuses(t, key, "nosuch0", alone, "--lan", "nosuch0")
	refuses(t, key, "not Ethernet", alone, "--lan", "lo")
	refuses(t, key, "nosuchbr", alone, "--tap", "fltest0,bridge=nosuchbr")
	script := func(script string) []string {
		return []string{"unshare", "--net", "--mount", "sh", "-c", script, program(t)}
	}
	refuses(t, key, "/dev/net/tun", script(`mount -t tmpfs none /dev/net && exec "$0" "$@"`), "--tap", "fltest0")

	dir := t.TempDir()
	first := fmt.Sprintf(`"$0" up --config /dev/null --key-file %s --state-dir %s/state --socket %s/s --listen 127.0.0.1:0 --tap fltest0 2>/dev/null & first=$!
		"$0" wait --socket %s/s && "$0" "$@"
		code=$?
		kill $first; wait $first; exit $code`, key, dir, dir, dir)
	refuses(t, key, "another process holds it", script(first), "--tap", "fltest0")

	plain := []string{program(t)}
	refuses(t, key, "there is something else", plain, "--qemu", key)
	refuses(t, key, "no such file", plain, "--qemu", filepath.Join(dir, "none", "s"))
}

func TestNoRights(t *testing.T) {
	needRoot(t)
	key := newKeyFile(t)
	const nobody = 65534
	// The program where anybody can read it.
	bin := filepath.Join(filepath.Dir(key), "farlan")
	if out, err := exec.Command("cp", program(t), bin).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	as := []string{"setpriv", fmt.Sprint("--reuid=", nobody), fmt.Sprint("--regid=", nobody), "--clear-groups", "--inh-caps=-all", bin}
	for d := filepath.Dir(key); d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	refuses(t, key, "permission denied", as)
	if err := os.Chown(key, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	refuses(t, key, "permission denied", as, "--tap", "fltest0")
	refuses(t, key, "not allowed to use port 80", as, "--listen", "127.0.0.1:80")
	refuses(t, key, "permission denied", as, "--qemu", "/etc/q")
}
