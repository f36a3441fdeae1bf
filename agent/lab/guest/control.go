package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// A Control is a connection to QEMU's monitor protocol (QEMU, docs/interop/qmp-spec).
type Control struct {
	c      net.Conn
	in     *json.Decoder
	events []Event
}

// An Event is one of QEMU, such as STOP, RESUME or SHUTDOWN.
type Event struct {
	Name string
	At   time.Time // by QEMU's host's clock
	Data json.RawMessage
}

// maxEvents bounds the events that are kept; the oldest go.
const maxEvents = 1000

// message is all that QEMU sends: a greeting, an event, a command's result or error.
type message struct {
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

func newControl(ctx context.Context, c net.Conn) (*Control, error) {
	q := &Control{c: c, in: json.NewDecoder(c)}
	if _, err := q.next(ctx); err != nil { // the greeting
		return q, fmt.Errorf("QEMU's monitor: %w", err)
	}
	return q, q.Do(ctx, "qmp_capabilities", nil, nil)
}

// Do runs a command with its arguments, nil if it has none, and puts its result into result,
// unless that is nil. After an error that ctx made, nothing works any more.
func (q *Control) Do(ctx context.Context, command string, arguments, result any) error {
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err == nil {
		_, err = q.c.Write(b)
	}
	for err == nil {
		var m message
		m, err = q.next(ctx)
		switch {
		case err != nil:
		case m.Error != nil:
			err = fmt.Errorf("%s: %s", m.Error.Class, m.Error.Desc)
		case m.Return != nil && result != nil:
			return json.Unmarshal(m.Return, result)
		case m.Return != nil:
			return nil
		}
	}
	return fmt.Errorf("QEMU's %s: %w", command, err)
}

// Await returns the first event of a name that is not older than since, and waits for it.
func (q *Control) Await(ctx context.Context, name string, since time.Time) (Event, error) {
	for seen := 0; ; {
		for ; seen < len(q.events); seen++ {
			if e := q.events[seen]; e.Name == name && !e.At.Before(since) {
				return e, nil
			}
		}
		if seen == maxEvents {
			seen--
		}
		if _, err := q.next(ctx); err != nil {
			return Event{}, fmt.Errorf("QEMU's event %s: %w", name, err)
		}
	}
}

// next reads a message and notes it if it is an event.
func (q *Control) next(ctx context.Context) (message, error) {
	defer deadline(ctx, q.c)()
	var m message
	err := q.in.Decode(&m)
	if err == nil && m.Event != "" {
		at := time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000)
		if len(q.events) == maxEvents {
			q.events = q.events[1:]
		}
		q.events = append(q.events, Event{Name: m.Event, At: at, Data: m.Data})
	}
	return m, err
}
