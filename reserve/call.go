package reserve

import (
	"context"
	"fmt"
	"time"

	"farlan/overlay"
)

// A Verb is what a Call asks of a driver.
type Verb uint8

// The verbs, each a method of Driver.
const (
	NoVerb Verb = iota
	DoHold
	DoCommit
	DoAbort
	DoActivate
	DoModify
	DoRenew
	DoRelease
	DoStatus
	DoList
	DoUsage
)

var verbNames = [...]string{"none", "hold", "commit", "abort", "activate", "modify", "renew", "release", "status", "list", "usage"}

// String returns the verb's word.
func (v Verb) String() string {
	if int(v) < len(verbNames) {
		return verbNames[v]
	}
	return "verb?"
}

// journaled says whether a call changes what the driver holds, so that the journal must know of
// it first.
func (v Verb) journaled() bool { return v >= DoHold && v <= DoRelease }

// A Call is what a driver is to do. Calls of one driver are made one after the other, in the
// order in which they come.
type Call struct {
	Number uint64 // the Result's
	Driver string
	Verb   Verb
	Want   Want            // of DoHold
	Grant  Grant           // of all others but DoList
	Rate   Rate            // of DoModify
	End    overlay.Instant // of DoRenew
	Within time.Duration   // after which it is given up; its outcome isn't known then
}

// A Result is what a Call came to. Each Call has one.
type Result struct {
	Number uint64
	Grant  Grant
	Grants []Grant // of DoList
	Usage  Usage   // of DoUsage
	Err    error
}

// Do makes a call. It blocks as the driver does, until ctx ends at the latest.
func Do(ctx context.Context, d Driver, c Call) Result {
	r := Result{Number: c.Number, Grant: c.Grant}
	switch c.Verb {
	case DoHold:
		r.Grant, r.Err = d.Hold(ctx, c.Want)
	case DoCommit:
		r.Grant, r.Err = d.Commit(ctx, c.Grant)
	case DoAbort:
		r.Err = d.Abort(ctx, c.Grant)
	case DoActivate:
		r.Grant, r.Err = d.Activate(ctx, c.Grant)
	case DoModify:
		r.Grant, r.Err = d.Modify(ctx, c.Grant, c.Rate)
	case DoRenew:
		r.Grant, r.Err = d.Renew(ctx, c.Grant, c.End)
	case DoRelease:
		r.Err = d.Release(ctx, c.Grant)
	case DoStatus:
		r.Grant, r.Err = d.Status(ctx, c.Grant)
	case DoList:
		r.Grants, r.Err = d.List(ctx)
	case DoUsage:
		r.Usage, r.Err = d.Usage(ctx, c.Grant)
	default:
		r.Err = fmt.Errorf("%v: %w", c.Verb, ErrUnsupported)
	}
	return r
}
