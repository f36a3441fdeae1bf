package exec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"farlan/reserve"
)

// outcomes are what exit codes mean; any other leaves it open.
var outcomes = map[int]error{
	3: reserve.ErrFull, 4: reserve.ErrRefused, 5: reserve.ErrUnsupported,
	6: reserve.ErrGone, 7: reserve.ErrForeign, 8: reserve.ErrUnreachable,
}

// reads are the verbs that change nothing.
var reads = map[string]bool{"caps": true, "offer": true, "status": true, "list": true, "usage": true}

// A result is how a program ended.
type result struct {
	code           int // -1: by a signal
	stdout, stderr []byte
	flooded        bool // it printed more than an answer may have
	late           bool // its time ran out
}

var errNotStarted = errors.New("could not be started")

// ask calls the program once.
func (d *Driver) ask(ctx context.Context, r request) (answer, error) {
	r.Schema, r.Agent, r.Now = Schema, d.cfg.Agent.String(), stamp(d.cfg.Now())
	in, err := json.Marshal(r)
	if err != nil {
		return answer{}, err
	}
	patience := d.cfg.Timeout
	if reads[r.Verb] {
		patience = min(patience, readTime)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	res, err := run(ctx, d.cfg, append(in, '\n'))
	switch {
	case errors.Is(err, errNotStarted):
		return answer{}, fmt.Errorf("exec: %s: %w: %w", r.Verb, reserve.ErrUnreachable, err)
	case err != nil:
		return answer{}, fmt.Errorf("exec: %s: %w", r.Verb, err)
	}
	return res.read(r.Verb)
}

// read makes of a program's end what it means.
func (res result) read(verb string) (answer, error) {
	reason := clean(string(res.stderr))
	switch {
	case res.late:
		return answer{}, fmt.Errorf("exec: %s: the program's time ran out: %s", verb, reason)
	case res.flooded:
		return answer{}, fmt.Errorf("exec: %s: the program printed more than %d bytes", verb, maxAnswer)
	case res.code < 0:
		return answer{}, fmt.Errorf("exec: %s: the program died by a signal: %s", verb, reason)
	case res.code == 0 && len(bytes.TrimSpace(res.stdout)) == 0 && (verb == "release" || verb == "abort"):
		return answer{}, nil
	case res.code == 0:
		return parse(res.stdout)
	}
	means, known := outcomes[res.code]
	if !known {
		return answer{}, fmt.Errorf("exec: %s: the program ended with code %d: %s", verb, res.code, reason)
	}
	if a, err := parse(res.stdout); err == nil && res.code == 3 && a.FreeKbit > 0 && a.FreeKbit <= maxRate {
		means = reserve.Refusal{Free: reserve.Rate(a.FreeKbit)}
	}
	return answer{}, fmt.Errorf("exec: %s: %w: %s", verb, means, reason)
}

// A keeper keeps the first bytes that are written to it, and calls full when there are more.
type keeper struct {
	b    []byte
	most int
	full func()
	more bool
}

// Write never fails: the program may go on.
func (k *keeper) Write(b []byte) (int, error) {
	n := min(len(b), k.most-len(k.b))
	k.b = append(k.b, b[:n]...)
	if n < len(b) && !k.more {
		k.more = true
		k.full()
	}
	return len(b), nil
}
