package lab

import (
	"errors"
	"fmt"
	"os"

	"farlan/agent/lab/guest"
)

// hintError is an error that says what to do about it.
type hintError struct {
	error
	hint string
}

// Hint returns what to do, in one line.
func (e hintError) Hint() string { return e.hint }

// Unwrap returns the error without the hint.
func (e hintError) Unwrap() error { return e.error }

// usageError is a wrong use of a command.
type usageError struct{ error }

// ExitCode returns the program's exit code.
func (usageError) ExitCode() int { return 2 }

// Unwrap returns the error itself.
func (e usageError) Unwrap() error { return e.error }

// checkMachine reports whether this process may build a lab here, and whether
// the programs are there that it needs.
func checkMachine(programs ...string) error {
	if os.Geteuid() != 0 {
		return hintError{errors.New("a lab needs root: it makes network namespaces"), "run it with sudo, or in a container with all capabilities"}
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return hintError{fmt.Errorf("a lab needs TUN interfaces: %w", err), "run: modprobe tun"}
	}
	for _, p := range programs {
		if _, err := guest.FindProgram(p); err != nil {
			return err
		}
	}
	return nil
}
