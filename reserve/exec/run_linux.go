package exec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// path is where programs look for others, whatever the agent's own is.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// letGo is how long pipes are read that a process keeps open which left the group.
const letGo = 500 * time.Millisecond

// run starts the program, gives it in, and waits for its end, or kills its process group when ctx
// ends. No process of the group is left when it returns.
func run(ctx context.Context, c Config, in []byte) (result, error) {
	p := exec.CommandContext(ctx, c.Program, c.Args...)
	p.Dir = "/"
	p.Env = append([]string{path, "LC_ALL=C.UTF-8"}, c.Env...)
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.Stdin = bytes.NewReader(in)
	var over atomic.Bool // from when on the number may soon be another process's
	kill := func() error {
		if over.Load() {
			return os.ErrProcessDone
		}
		return syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
	}
	out := &keeper{most: maxAnswer, full: func() { _ = kill() }}
	errs := &keeper{most: maxReason, full: func() {}}
	p.Stdout, p.Stderr = out, errs
	p.Cancel, p.WaitDelay = kill, letGo
	if err := p.Start(); err != nil {
		return result{}, fmt.Errorf("%w: %w", errNotStarted, err)
	}
	// It is waited for without being reaped, so that its number, which is the group's, is nobody
	// else's when the rest of the group is killed.
	for {
		err := unix.Waitid(unix.P_PID, p.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = kill()
	over.Store(true)
	late := ctx.Err() != nil
	_ = p.Wait() // its code tells; an error of a pipe's says no more
	code := p.ProcessState.ExitCode()
	return result{code: code, stdout: out.b, stderr: errs.b, flooded: out.more, late: late && code < 0}, nil
}
