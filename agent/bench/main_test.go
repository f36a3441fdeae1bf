package bench

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// role is the environment variable that makes this program a helper of the
// benchmark instead: the ends of a flood, and the janitor.
const role = "FARLAN_BENCH_ROLE"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "send":
		err = sendMain(os.Args[1:], os.Stdout)
	case "receive":
		err = receiveMain(os.Stdin, os.Stdout)
	case "janitor":
		err = janitorMain(os.Args[1:], os.Stdin)
	default:
		err = fmt.Errorf("unknown role %q", os.Getenv(role))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// prefix begins the names of all namespaces of one run, so that copies of the
// benchmark can run beside each other.
func prefix(pid int) string { return fmt.Sprintf("fb%d-", pid) }

// wireguardName is the interface of a side. wireguard-go puts a socket of this
// name into a folder of the whole machine, namespaces or not.
func wireguardName(pid, side int) string { return fmt.Sprintf("fb%dw%d", pid, side) }

// janitor makes a folder for this run and starts the process that tidies up
// behind it. That one waits for its standard input to end, which happens also
// when this process is killed, interrupted (it is in a process group of its
// own) or runs out of time: the daemons die with us by Pdeathsig, and
// namespaces, sockets and files are the janitor's. The function returned has it
// tidy up now, and waits.
func janitor() (dir string, dismiss func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	if dir, err = os.MkdirTemp("", "farlan-bench-"); err != nil {
		return "", nil, err
	}
	c := exec.Command(self, fmt.Sprint(os.Getpid()), dir)
	c.Env = append(os.Environ(), role+"=janitor")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := c.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	if err := c.Start(); err != nil {
		return "", nil, fmt.Errorf("janitor: %w", err)
	}
	return dir, func() {
		_ = in.Close()
		_ = c.Wait()
	}, nil
}

func janitorMain(args []string, in io.Reader) error {
	var pid int
	if len(args) != 2 {
		return fmt.Errorf("janitor: want PID and FOLDER, got %q", args)
	}
	if _, err := fmt.Sscan(args[0], &pid); err != nil {
		return fmt.Errorf("janitor: %w", err)
	}
	_, _ = io.Copy(io.Discard, in)
	spaces, _ := filepath.Glob("/run/netns/" + prefix(pid) + "*")
	for _, path := range spaces {
		_ = exec.Command("ip", "netns", "del", filepath.Base(path)).Run()
	}
	for side := range 2 {
		os.Remove("/var/run/wireguard/" + wireguardName(pid, side) + ".sock")
	}
	return os.RemoveAll(args[1])
}
