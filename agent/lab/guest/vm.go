package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// startWait bounds the wait for QEMU's sockets, and stopWait that for its end once it is
// killed.
const startWait, stopWait = 20 * time.Second, 5 * time.Second

// A VM is a guest that runs.
type VM struct {
	Control *Control

	dir      string
	cmd      *exec.Cmd
	commands net.Conn
	said     *bufio.Reader // from commands
}

// Start runs a machine's QEMU, whose files are made in the folder dir: its sockets, qemu.log,
// and console.log, which is what the guest says on its console. It is started from the calling
// thread, so in that one's network namespace, by the program prefix if there is one: for
// example setpriv, which makes it another user's, who must be able to write to dir. The path
// of dir must be short, as those of sockets are. Close ends it.
func Start(ctx context.Context, m Machine, dir string, prefix ...string) (*VM, error) {
	m.Console = "file:" + filepath.Join(dir, "console.log")
	m.Commands, m.Control = filepath.Join(dir, "commands"), filepath.Join(dir, "control")
	args, err := m.Args()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(dir, "qemu.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start guest: %w", err)
	}
	defer log.Close()
	args = append(prefix, args...)
	v := &VM{dir: dir, cmd: exec.Command(args[0], args[1:]...)}
	v.cmd.Stdout, v.cmd.Stderr = log, log
	if err := v.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start guest: %w", err)
	}
	if err := v.connect(ctx, m); err != nil {
		return nil, errors.Join(fmt.Errorf("start guest: %w: %s", err, v.Log("qemu.log")), v.Close())
	}
	return v, nil
}

// connect takes up QEMU's sockets.
func (v *VM) connect(ctx context.Context, m Machine) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	if v.commands, err = dial(ctx, m.Commands); err != nil {
		return err
	}
	v.said = bufio.NewReader(v.commands)
	control, err := dial(ctx, m.Control)
	if err != nil {
		return err
	}
	v.Control, err = newControl(ctx, control)
	return err
}

// dial connects to a socket as soon as somebody listens there.
func dial(ctx context.Context, path string) (net.Conn, error) {
	for {
		c, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// PID returns QEMU's process id, or that of the prefix that didn't make itself QEMU.
func (v *VM) PID() int { return v.cmd.Process.Pid }

// Log returns what is in a log of the guest's folder: qemu.log or console.log.
func (v *VM) Log(name string) string {
	b, _ := os.ReadFile(filepath.Join(v.dir, name))
	return string(b)
}

// Ready waits until a guest that boots takes commands. One that comes from elsewhere, by
// migration, was ready there.
func (v *VM) Ready(ctx context.Context) error {
	if _, err := v.until(ctx, "ready"); err != nil {
		return fmt.Errorf("the guest isn't ready: %w: %s", err, v.Log("console.log"))
	}
	return nil
}

// numbers tell the ends of commands apart, whatever machine they were begun on.
var numbers atomic.Int64

// Run runs a line of busybox's shell in the guest, waits for its end, and returns what it
// printed. It is an error if its exit code isn't 0. What it leaves in the background must
// print to files. Only one runs at a time; after an error that ctx made, no more.
func (v *VM) Run(ctx context.Context, line string) (string, error) {
	end := "end " + strconv.FormatInt(numbers.Add(1), 10)
	if _, err := fmt.Fprintf(v.commands, "%s %s\n", end[len("end "):], line); err != nil {
		return "", fmt.Errorf("guest: %s: %w", line, err)
	}
	out, err := v.until(ctx, end)
	if err != nil {
		return out, fmt.Errorf("guest: %s: %w", line, err)
	}
	i := strings.LastIndex(out, says+end+" ")
	if code := strings.TrimSpace(out[i+len(says+end):]); code != "0" {
		return out[:i], fmt.Errorf("guest: %s: exit code %s: %s", line, code, out[:i])
	}
	return out[:i], nil
}

// says is in front of what the guest's own scripts print.
const says = "farlan-guest: "

// maxOutput bounds what a command prints.
const maxOutput = 1 << 20

// until reads what the guest says up to the line of its own that begins with word.
func (v *VM) until(ctx context.Context, word string) (string, error) {
	defer deadline(ctx, v.commands)()
	var out strings.Builder
	for out.Len() < maxOutput {
		line, err := v.said.ReadString('\n')
		out.WriteString(line)
		if errors.Is(err, io.EOF) {
			return out.String(), errors.New("QEMU has ended")
		}
		if err != nil {
			return out.String(), err
		}
		if _, after, ok := strings.Cut(line, says+word); ok && (after[0] == ' ' || after[0] == '\n') {
			return out.String(), nil
		}
	}
	return out.String(), errors.New("it says too much")
}

// deadline ends waits on a connection when ctx does, until the function that it returns is
// called.
func deadline(ctx context.Context, c net.Conn) func() {
	_ = c.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// Close ends the guest, as if its machine's power failed, and returns when QEMU has ended.
func (v *VM) Close() error {
	if v.commands != nil {
		_ = v.commands.Close()
	}
	if v.Control != nil {
		_ = v.Control.c.Close()
	}
	kill := v.cmd.Process.Kill()
	v.cmd.WaitDelay = stopWait
	var exit *exec.ExitError
	if err := v.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return errors.Join(kill, err)
	}
	return nil
}
