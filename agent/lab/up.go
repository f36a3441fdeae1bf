package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"farlan/agent/lab/guest"
)

// meetWait bounds how long Up waits for far machines to get their addresses: a
// lab may be as bad as its paths are.
const meetWait = 20 * time.Second

// Up builds a lab that goes on running, and tells say of each step. If it fails
// or ctx is done, nothing of the lab is left unless keep is set.
func Up(ctx context.Context, o Options, keep bool, say func(string)) (*Lab, error) {
	l, err := begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer l.release()
	err = l.build(ctx, say)
	if err != nil && !keep {
		err = errors.Join(err, l.end(ctx))
	}
	return l, err
}

// begin checks what a lab needs and makes its state file.
func begin(ctx context.Context, o Options) (*Lab, error) {
	programs := []string{"dnsmasq", "busybox"}
	if o.QEMU {
		programs = append(programs, "qemu-system-x86_64", "depmod")
	}
	if err := checkMachine(programs...); err != nil {
		return nil, err
	}
	if o.QEMU { // the fetch may fail, or take long
		cache, err := guest.CacheDir()
		if err != nil {
			return nil, err
		}
		if _, err := guest.FetchKernel(ctx, cache); err != nil {
			return nil, err
		}
	}
	return create(o)
}

// build makes all of a lab.
func (l *Lab) build(ctx context.Context, say func(string)) error {
	say("the wide area and the home LAN")
	if err := l.buildNetwork(ctx); err != nil {
		return err
	}
	if err := l.startServices(ctx); err != nil {
		return err
	}
	if l.Options.Circuits {
		say("the provider of circuits")
		if err := l.startProvider(ctx); err != nil {
			return err
		}
	}
	say("the agents")
	if _, err := l.makeKey(ctx); err != nil {
		return err
	}
	bootstrap, err := l.startFirst(ctx)
	if err != nil {
		return err
	}
	if err := l.startOthers(ctx, bootstrap); err != nil {
		return err
	}
	say("the far sites' virtual machines")
	if err := l.startVMs(ctx); err != nil {
		return err
	}
	if err := l.awaitLeases(ctx, meetWait); err != nil {
		if ctx.Err() != nil {
			return err
		}
		say(fmt.Sprintf("note: %v; it goes on trying", err))
	}
	l.Built = time.Now()
	return l.save()
}

// isFarMachine reports whether h is a machine of a far site's LAN.
func isFarMachine(h Host) bool { return h.Kind == KindVM || h.Kind == KindGuest }

// startVMs boots the guests and starts the other machines' DHCP clients.
func (l *Lab) startVMs(ctx context.Context) error {
	for _, h := range l.hosts(isFarMachine) {
		var err error
		if h.Kind == KindGuest {
			_, err = l.startGuest(ctx, h)
		} else {
			_, err = l.startLease(h)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// leaseAt returns the lease that a host has, however it says so.
func (l *Lab) leaseAt(h Host) (Lease, error) {
	if h.Kind == KindGuest {
		return l.guestLease(h)
	}
	return l.leaseOf(h)
}

// awaitLeases waits until all far machines have their addresses.
func (l *Lab) awaitLeases(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return poll(ctx, 20*time.Millisecond, func() error {
		for _, h := range l.hosts(isFarMachine) {
			if _, err := l.leaseAt(h); err != nil {
				return fmt.Errorf("%s has no address from the home LAN yet", h.Name)
			}
		}
		return nil
	})
}

// Removed says what Down found and removed.
type Removed struct {
	Processes  int
	Namespaces int
}

// Down ends a lab and removes all of it, complete or half-built, with or
// without its state file. It is no error if there is nothing.
func Down(ctx context.Context, name, dir string) (Removed, error) {
	if !nameForm.MatchString(name) {
		return Removed{}, usageError{fmt.Errorf("lab name %q is not 1 to 8 of a–z and 0–9", name)}
	}
	if err := checkMachine(); err != nil {
		return Removed{}, err
	}
	l, err := open(name, dir)
	if errors.Is(err, errNotUp) {
		return removeRest(ctx, name, dir)
	}
	if err != nil {
		return Removed{}, err
	}
	defer l.release()
	return l.remove(ctx)
}

// end removes the lab even if ctx is done: what was made must go.
func (l *Lab) end(ctx context.Context) error {
	_, err := l.remove(context.WithoutCancel(ctx))
	return err
}

// remove ends the processes, the wide area and who grants circuits in it last, so
// that agents can leave in order, and removes the namespaces and the files.
func (l *Lab) remove(ctx context.Context) (Removed, error) {
	alive := slices.DeleteFunc(slices.Clone(l.Processes), func(p *Process) bool { return !p.alive() })
	others := slices.DeleteFunc(slices.Clone(alive), func(p *Process) bool {
		return p.Name == "wan" || p.Name == crossProcess || p.Name == providerProcess
	})
	err := endAll(ctx, stopGrace, others...)
	err = errors.Join(err, endAll(ctx, stopGrace, alive...))
	removed, restErr := removeNamespaces(ctx, l.Options.Name)
	removed.Processes += len(alive)
	if err = errors.Join(err, restErr); err != nil {
		return removed, err // the state file stays, for another try
	}
	return removed, os.RemoveAll(l.Options.Dir)
}

// removeNamespaces removes a lab's namespaces and ends who is still in them.
func removeNamespaces(ctx context.Context, name string) (Removed, error) {
	namespaces, err := namespacesOf(name)
	if err != nil {
		return Removed{}, err
	}
	left := processesIn(namespaces)
	err = endAll(ctx, time.Second, left...)
	for _, ns := range namespaces {
		err = errors.Join(err, removeNamespace(ns))
	}
	return Removed{Processes: len(left), Namespaces: len(namespaces)}, err
}

// removeRest removes what is left of a lab that has no state file. Of its
// folder it removes only what a lab makes before that file.
func removeRest(ctx context.Context, name, dir string) (Removed, error) {
	removed, err := removeNamespaces(ctx, name)
	for _, file := range []string{lockFile, stateFile + ".new", ""} {
		rest := os.Remove(filepath.Join(dir, file))
		if rest != nil && !errors.Is(rest, fs.ErrNotExist) && !errors.Is(rest, fs.ErrExist) {
			err = errors.Join(err, rest)
		}
	}
	return removed, err
}
