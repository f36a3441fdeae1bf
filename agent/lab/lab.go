package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A Lab is a grid on this machine, running or half-built. Its state file says
// all that is or may be there.
type Lab struct {
	Options   Options    `json:"options"`
	Hosts     []Host     `json:"hosts"`
	Processes []*Process `json:"processes"`
	Built     time.Time  `json:"built"` // when it was complete; zero before

	lock *os.File
}

const (
	stateFile = "lab.json"
	lockFile  = "lab.lock"
)

var errNotUp = errors.New("is not up")

// create makes a lab's folder and its state file.
func create(o Options) (*Lab, error) {
	if err := o.Validate(); err != nil {
		return nil, usageError{err}
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("lab %s: %w", o.Name, err)
	}
	l := &Lab{Options: o, Hosts: plan(o)}
	if err := l.checkEmpty(); err != nil {
		return nil, err
	}
	if err := l.acquire(); err != nil {
		return nil, err
	}
	err := l.checkEmpty() // it may not be any more
	if err == nil {
		err = l.save()
	}
	if err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

// checkEmpty complains if anything but the lock is in the lab's folder: it will
// be removed with all that is in it.
func (l *Lab) checkEmpty() error {
	if _, err := os.Stat(l.path(stateFile)); err == nil {
		return hintError{
			fmt.Errorf("lab %s is up already, or was left half-built", l.Options.Name),
			"end it with: farlan lab down --name " + l.Options.Name,
		}
	}
	entries, err := os.ReadDir(l.Options.Dir)
	if err != nil {
		return fmt.Errorf("lab %s: %w", l.Options.Name, err)
	}
	for _, e := range entries {
		if e.Name() != lockFile {
			return hintError{
				fmt.Errorf("lab %s: its folder %s is not empty", l.Options.Name, l.Options.Dir),
				"name another with --dir, or remove what is in it",
			}
		}
	}
	return nil
}

// load reads a lab's state, to look at it.
func load(name, dir string) (*Lab, error) {
	b, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hintError{fmt.Errorf("lab %s %w", name, errNotUp), "build it with: farlan lab up --name " + name}
	}
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	l := &Lab{}
	if err := json.Unmarshal(b, l); err != nil {
		return nil, fmt.Errorf("lab %s: state file: %w", name, err)
	}
	return l, nil
}

// open reads a lab's state to change the lab; nobody else may until release.
func open(name, dir string) (*Lab, error) {
	l, err := load(name, dir)
	if err != nil {
		return nil, err
	}
	if err = l.acquire(); err != nil {
		return nil, err
	}
	// It may have changed before the lock was ours.
	fresh, err := load(name, dir)
	if err != nil {
		l.release()
		return nil, err
	}
	fresh.lock = l.lock
	return fresh, nil
}

// lockPatience is how long another command may be about to end.
const lockPatience = time.Second

// acquire takes the right to change the lab. The kernel takes it back when this
// process ends, however it ends.
func (l *Lab) acquire() error {
	f, err := os.OpenFile(l.path(lockFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("lab %s: %w", l.Options.Name, err)
	}
	// A command that was killed holds the lock for a moment more, if it was just
	// starting another process.
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for end := time.Now().Add(lockPatience); err != nil && time.Now().Before(end); {
		time.Sleep(lockPatience / 20)
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		_ = f.Close()
		return hintError{
			fmt.Errorf("lab %s: another command is changing it", l.Options.Name),
			"wait until it is done, or end it",
		}
	}
	l.lock = f
	return nil
}

// release lets others change the lab.
func (l *Lab) release() { _ = l.lock.Close() }

// save writes the state file.
func (l *Lab) save() error {
	b, err := json.MarshalIndent(l, "", "\t")
	if err != nil {
		return fmt.Errorf("lab %s: state: %w", l.Options.Name, err)
	}
	if err := os.WriteFile(l.path(stateFile+".new"), b, 0o600); err != nil {
		return fmt.Errorf("lab %s: state: %w", l.Options.Name, err)
	}
	if err := os.Rename(l.path(stateFile+".new"), l.path(stateFile)); err != nil {
		return fmt.Errorf("lab %s: state: %w", l.Options.Name, err)
	}
	return nil
}

// path returns the name of a file in the lab's folder.
func (l *Lab) path(name string) string { return filepath.Join(l.Options.Dir, name) }

// host finds a host by its name; an agent's name stands for the host it is on.
func (l *Lab) host(name string) (Host, error) {
	i := slices.IndexFunc(l.Hosts, func(h Host) bool { return h.Name == name })
	if i < 0 {
		i = slices.IndexFunc(l.Hosts, func(h Host) bool { return h.hasAgent() && h.Site == name })
	}
	if i < 0 {
		return Host{}, fmt.Errorf("lab %s has no host %q", l.Options.Name, name)
	}
	return l.Hosts[i], nil
}

// hosts returns the hosts for which f holds.
func (l *Lab) hosts(f func(Host) bool) []Host {
	var found []Host
	for _, h := range l.Hosts {
		if f(h) {
			found = append(found, h)
		}
	}
	return found
}

// process finds a process by its name, or nil.
func (l *Lab) process(name string) *Process {
	i := slices.IndexFunc(l.Processes, func(p *Process) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return l.Processes[i]
}

// run starts p on a host in the background and keeps account of it. A process
// of the same name must have ended; p takes its place.
func (l *Lab) run(h Host, p Process) (*Process, error) {
	p.Host, p.Namespace, p.Log = h.Name, h.Namespace, l.path(p.Name+".log")
	if p.Dir == "" {
		p.Dir = l.Options.Dir
	}
	l.Processes = slices.DeleteFunc(l.Processes, func(old *Process) bool { return old.Name == p.Name })
	l.Processes = append(l.Processes, &p)
	return &p, l.restart(&p)
}

// restart starts a process that has ended, as it was started before.
func (l *Lab) restart(p *Process) error {
	p.PID, p.Started = 0, 0
	if err := l.save(); err != nil { // before there is something to account for
		return err
	}
	if err := p.start(); err != nil {
		return err
	}
	return l.save()
}

// socket returns the control socket of a site's agent.
func (l *Lab) socket(site string) string { return l.path(site + ".sock") }

// wanSocket returns the control socket of the wide area.
func (l *Lab) wanSocket() string { return l.path("wan.sock") }
