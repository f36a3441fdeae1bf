package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// command runs a client command of the agent under test.
func (d *process) command(args ...string) (out, errs string, code int) {
	d.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(program(d.t), append(args, "--socket", filepath.Join(d.dir, "s"))...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			d.t.Fatal(err)
		}
		code = exit.ExitCode()
	}
	return stdout.String(), stderr.String(), code
}

// An agent without rights on this host's queues marks its packets, says that nothing is promised
// by that, goes on when the command is interrupted, and gives back what it is told to.
func TestReserveAsAnyUser(t *testing.T) {
	t.Parallel()
	key := newKeyFile(t)
	b := startAgent(t, key, "b")
	a := startAgent(t, key, "a", "--bootstrap", b.bootstrap(), "--reserve", "dscp", "--reserve-auto", "off", "--uplink", "100Mbit")
	eventually(t, 20*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
	out, errs, code := a.command("reserve", "request", "self", "b", "--rate", "20Mbit", "--for", "30m", "--owner", "ann", "--wait")
	id := strings.TrimSpace(out)
	if code != 0 || len(id) != 32 || !strings.Contains(errs, "priority, 20 Mbit/s, a → b, until ") || !strings.Contains(errs, "no rate is promised by priority alone") {
		t.Fatalf("%d\n%s%s\n%s", code, out, errs, a.said())
	}
	var v reserveView
	if err := a.ask(&v, "reserve", "list"); err != nil || len(v.Reservations) != 1 || v.Reservations[0].State != "active" || *v.Reservations[0].Driver != "dscp" {
		t.Errorf("%+v, %v", v, err)
	}
	if s, err := a.status(); err != nil || s.Reservations.String() != "1 active" {
		t.Errorf("%v, %v", s.Reservations, err)
	}
	if out, errs, code = a.command("explain", "b"); code != 0 || !strings.Contains(out, "reservation a → b: active 20Mbit: ") {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	if d := (doctorView{}); a.ask(&d, "doctor") == nil && d.of("reserve").Level != levelOK {
		t.Errorf("%+v", d.of("reserve"))
	}
	if out, errs, code = a.command("reserve", "request", "b", "self", "--rate", "1Mbit"); code != 2 || !strings.Contains(errs, "ask at b") {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	if out, errs, code = a.command("reserve", "release", id[:8]); code != 0 || !strings.HasPrefix(out, id+": releas") {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	eventually(t, 5*time.Second, func() error {
		var v reserveView
		if err := a.ask(&v, "reserve", "list"); err != nil || v.Reservations[0].State != "released" {
			return errors.Join(err, errors.New("it isn't released"))
		}
		return nil
	})
	a.interrupted(b)
}

// interrupted has a command wait for what doesn't come, as the other agent is frozen, and
// interrupts it.
func (d *process) interrupted(other *process) {
	t := d.t
	t.Helper()
	if err := other.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.cmd.Process.Signal(syscall.SIGCONT) }()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(program(t), "reserve", "request", "self", other.name, "--rate", "3Mbit", "--wait", "--socket", filepath.Join(d.dir, "s"))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var last reservationView
	eventually(t, 10*time.Second, func() error {
		var v reserveView
		err := d.ask(&v, "reserve", "list")
		if err == nil {
			last = v.Reservations[len(v.Reservations)-1]
		}
		if last.State != "activating" || time.Since(*last.Start) < 5*reserveLook { // by then the command has looked, too
			return fmt.Errorf("%+v, %w", last, err)
		}
		return nil
	})
	_ = cmd.Process.Signal(os.Interrupt)
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || stdout.Len() > 0 || !strings.Contains(stderr.String(), last.ID+" is activating: interrupted") || !strings.Contains(stderr.String(), "release "+last.ID) {
		t.Errorf("%v\n%s%s", err, &stdout, &stderr)
	}
}
