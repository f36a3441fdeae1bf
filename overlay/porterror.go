package overlay

import "strings"

// A PortError says why a port cannot be opened or used any more, and what a
// person can do about it.
type PortError struct {
	Port   string // the interface's name
	What   string // is wrong: "is not a TAP"
	Advice string // what to do next, "" if nothing better is known
	Err    error  // the system's error, or nil
}

// Error returns one line.
func (e *PortError) Error() string {
	s := e.Port + ": " + e.What
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return strings.ReplaceAll(s, "\n", " ")
}

// Hint returns the advice.
func (e *PortError) Hint() string { return e.Advice }

// Unwrap returns the system's error.
func (e *PortError) Unwrap() error { return e.Err }
