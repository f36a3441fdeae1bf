package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Process is a program that runs in the background on a host of the lab. It
// outlives the process that started it.
type Process struct {
	Name      string   `json:"name"`
	Host      string   `json:"host"`
	Namespace string   `json:"namespace"`
	Args      []string `json:"args"`
	Env       []string `json:"env,omitempty"`
	Dir       string   `json:"dir"`     // it works in
	Log       string   `json:"log"`     // standard output and error; appended to
	PID       int      `json:"pid"`     // 0 when it was not started yet
	Started   uint64   `json:"started"` // in the kernel's clock ticks, against reuse of PID
}

// start runs the process.
func (p *Process) start() error {
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer out.Close()
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, p.Dir
	cmd.Env = append(cleanEnviron(), p.Env...)
	// A session of its own: a terminal's Ctrl-C is for whoever builds the
	// lab, who then ends its processes in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = onHost(p.Namespace, cmd.Start)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.PID = cmd.Process.Pid
	p.Started, _ = startTime(p.PID)
	go func() { _ = cmd.Wait() }() // takes in its end, as long as this process lives
	return nil
}

// cleanEnviron returns the environment without farlan's variables, so that what
// is set for a real agent on this machine doesn't reach a lab's.
func cleanEnviron() []string {
	return slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "FARLAN_") })
}

// startTime returns when a process started, in clock ticks since boot, and
// whether there is such a process that has not ended: as long as a thread of it
// runs, its files are open.
func startTime(pid int) (ticks uint64, alive bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The name, in parentheses, may hold anything; state is the field after
	// it, the number of threads the 17th after that, and the start time the 19th (proc(5)).
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 || (fields[0] == "Z" || fields[0] == "X") && len(fields[17]) == 1 && fields[17] <= "1" {
		return 0, false
	}
	ticks, err = strconv.ParseUint(fields[19], 10, 64)
	return ticks, err == nil
}

// alive reports whether the process runs.
func (p *Process) alive() bool {
	if p.PID == 0 {
		return false
	}
	started, ok := startTime(p.PID)
	return ok && started == p.Started
}

// signal sends the process a signal, and never another one that got its id.
// To one that has ended it does nothing.
func (p *Process) signal(s unix.Signal) error {
	if p.PID == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: process %d: %w", p.Name, p.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !p.alive() { // after the open: now the descriptor can't be another's
		return nil
	}
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%s: signal process %d: %w", p.Name, p.PID, err)
	}
	return nil
}

// killWait bounds the wait for a process's end after SIGKILL; only the kernel
// could be slow.
const killWait = 5 * time.Second

// endAll asks the processes to end, kills those that have not within grace, and
// returns when all have ended.
func endAll(ctx context.Context, grace time.Duration, processes ...*Process) error {
	if err := signalAll(ctx, unix.SIGTERM, grace, processes); err == nil {
		return nil
	}
	return signalAll(ctx, unix.SIGKILL, killWait, processes)
}

// signalAll sends a signal to the processes and waits for their end.
func signalAll(ctx context.Context, s unix.Signal, wait time.Duration, processes []*Process) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var errs []error
	for _, p := range processes {
		errs = append(errs, p.signal(s))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return poll(ctx, 10*time.Millisecond, func() error {
		for _, p := range processes {
			if p.alive() {
				return fmt.Errorf("process %d (%s) does not end", p.PID, p.Name)
			}
		}
		return nil
	})
}

// processesIn returns all processes in the named namespaces but this one.
func processesIn(namespaces []string) []*Process {
	type file struct{ dev, inode uint64 }
	names := make(map[file]string)
	var st unix.Stat_t
	for _, ns := range namespaces {
		if unix.Stat(filepath.Join(namespaceDir, ns), &st) == nil {
			names[file{st.Dev, st.Ino}] = ns
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []*Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		started, alive := startTime(pid)
		if !alive || unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) != nil {
			continue
		}
		if ns, ok := names[file{st.Dev, st.Ino}]; ok {
			found = append(found, &Process{Name: programName(pid), Namespace: ns, PID: pid, Started: started})
		}
	}
	return found
}

// programName returns what a process calls itself.
func programName(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(name))
}

// logTail returns the last line that the process wrote.
func (p *Process) logTail() string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return "no log"
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}
