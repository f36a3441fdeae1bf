//go:build linux

package ovs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"farlan/reserve"
)

// What a database may make us wait, read and answer. A connection that goes beyond is closed.
const (
	patience    = 5 * time.Second // for one transaction; a busy database takes milliseconds
	maxAnswer   = 1 << 20         // bytes in all from one connection: some 2,000 rows of ours
	maxMessages = 64              // before the answer, of which the server may send none but echoes
)

// A request is one JSON-RPC 1.0 request (RFC 7047 section 4).
type request struct {
	Method string `json:"method"`
	Params []any  `json:"params"`
	ID     any    `json:"id"`
}

// A reply is whatever a server may send: an answer, a request (echo) or a notification.
type reply struct {
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	ID     json.RawMessage `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

// A dbError is a transaction that the database refused: nothing of it was done.
type dbError struct{ kind, details string }

func (e dbError) Error() string { return "the database says: " + e.kind + ": " + e.details }

// The kinds of errors that mean something here (RFC 7047 section 4.1.3 and 5.2.6).
const (
	timedOut = "timed out" // a wait operation: the rows aren't any more what they were
	refErr   = "referential integrity violation"
	ioErr    = "I/O error" // the outcome is not known
)

// A conn is a connection to a database server, for one call of the driver.
type conn struct {
	net.Conn
	dec  *json.Decoder
	next int
	stop func() bool
}

// dial connects to the socket; the connection ends with ctx.
func dial(ctx context.Context, socket string) (*conn, error) {
	dialer := net.Dialer{Timeout: patience}
	c, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("ovs: %w: %w (is Open vSwitch up, and may this user use its socket?)", reserve.ErrUnreachable, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	return &conn{Conn: c, dec: json.NewDecoder(io.LimitReader(c, maxAnswer)), stop: stop}, nil
}

// close ends the connection and stops watching its context.
func (c *conn) close() {
	c.stop()
	_ = c.Close()
}

// transact carries out the operations as one transaction, and returns a result for each. A
// dbError says that nothing was done; with any other error that isn't known.
func (c *conn) transact(ctx context.Context, ops []op) ([]json.RawMessage, error) {
	params := make([]any, 0, len(ops)+1)
	params = append(params, "Open_vSwitch")
	for _, o := range ops {
		params = append(params, o)
	}
	raw, err := c.call(ctx, "transact", params)
	if err != nil {
		return nil, err
	}
	return results(raw, len(ops))
}

// call sends a request and waits for its answer.
func (c *conn) call(ctx context.Context, method string, params []any) (json.RawMessage, error) {
	c.next++
	if err := c.send(ctx, request{method, params, c.next}); err != nil {
		return nil, err
	}
	want := fmt.Sprint(c.next)
	for range maxMessages {
		m, err := c.receive()
		switch {
		case err != nil:
			return nil, err
		case m.Method == "" && string(m.ID) == want:
			return m.answer()
		}
	}
	return nil, errors.New("no answer among what the database sent")
}

// send writes a message, and gives it and what follows until the next one their time.
func (c *conn) send(ctx context.Context, message any) error {
	b, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if err = c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err = ctx.Err(); err != nil { // it may have ended just before the deadline was moved
		return err
	}
	_, err = c.Write(append(b, '\n'))
	return err
}

// receive reads a message, and answers it if the server asks whether we're there.
func (c *conn) receive() (reply, error) {
	var m reply
	if err := c.dec.Decode(&m); err != nil {
		return m, fmt.Errorf("the database's answer: %w", err)
	}
	if m.Method != "echo" {
		return m, nil
	}
	if m.Params == nil {
		m.Params = json.RawMessage("[]")
	}
	b, err := json.Marshal(struct {
		ID     json.RawMessage `json:"id"`
		Result json.RawMessage `json:"result"`
		Error  any             `json:"error"`
	}{m.ID, m.Params, nil})
	if err == nil {
		_, err = c.Write(append(b, '\n'))
	}
	return m, err
}

func (m reply) answer() (json.RawMessage, error) {
	if len(m.Error) > 0 && string(m.Error) != "null" {
		return nil, dbError{"error", clip(string(m.Error))}
	}
	return m.Result, nil
}

// results takes the answer to a transaction of n operations apart. There is one more where it
// failed as a whole.
func results(raw json.RawMessage, n int) ([]json.RawMessage, error) {
	var all []json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("the database's answer: %w", err)
	}
	for _, r := range all {
		var e struct{ Error, Details string }
		if json.Unmarshal(r, &e) != nil || e.Error == "" {
			continue
		}
		if e.Error == ioErr {
			return nil, fmt.Errorf("the database says: %s: %s", e.Error, clip(e.Details))
		}
		return nil, dbError{clip(e.Error), clip(e.Details)}
	}
	if len(all) < n {
		return nil, fmt.Errorf("the database answered %d of %d operations", len(all), n)
	}
	return all, nil
}

// clip keeps what a server says to a length that fits a line.
func clip(s string) string { return s[:min(len(s), 300)] }
