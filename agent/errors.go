package agent

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Exit codes of the command line.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitNoAgent = 3
	exitCheck   = 4
	exitNoPeer  = 5
	exitTimeout = 124
)

// A failure is an error shown to a person: what failed and why on one line,
// what to do on a second one, and the exit code that tells a script.
type failure struct {
	err  error
	hint string
	code int
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// Hint returns what to do about it, "" if nothing better is known.
func (f *failure) Hint() string { return f.hint }

// ExitCode returns the exit code for it.
func (f *failure) ExitCode() int { return f.code }

// failf returns a failure's maker: the hint comes first, then what failed.
func failf(code int, hint string, args ...any) func(format string, args ...any) error {
	if len(args) > 0 {
		hint = fmt.Sprintf(hint, args...)
	}
	return func(format string, args ...any) error {
		return &failure{err: fmt.Errorf(format, args...), hint: hint, code: code}
	}
}

// hintf makes an error with exit code 1 and a hint.
func hintf(hint string, args ...any) func(format string, args ...any) error {
	return failf(exitFailed, hint, args...)
}

// usagef makes an error of wrong usage with a hint.
func usagef(hint string, args ...any) func(format string, args ...any) error {
	return failf(exitUsage, hint, args...)
}

func exitCode(err error) int {
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) && coded.ExitCode() != 0 {
		return coded.ExitCode()
	}
	return exitFailed
}

// printError writes err as the contract of the command line says: a line
// "farlan: what failed: why", and a line with what to do for each error in it
// that knows.
func printError(w io.Writer, err error) {
	for _, e := range split(err) {
		if text := e.Error(); text != "" {
			fmt.Fprintf(w, "farlan: %s\n", strings.ReplaceAll(text, "\n", " "))
		}
		var hinted interface{ Hint() string }
		if errors.As(e, &hinted) && hinted.Hint() != "" {
			fmt.Fprintf(w, "  %s\n", hinted.Hint())
		}
	}
}

// split returns the errors that errors.Join put together.
func split(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // the outermost error only
		return joined.Unwrap()
	}
	return []error{err}
}
