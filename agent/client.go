package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

const maxAnswer = 64 << 20

// output is how a command prints data: as a table, or as JSON.
type output struct{ json string }

func (o *output) addFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.json, "json", "", "print JSON; --json=1 pins the schema")
	cmd.Flags().Lookup("json").NoOptDefVal = "1"
	check := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if o.json != "" && o.json != "1" {
			return usagef("the newest is 1")("--json=%s: no such schema", o.json)
		}
		if check != nil {
			return check(cmd, args)
		}
		return nil
	}
}

func (o *output) print(cmd *cobra.Command, v any) error {
	e := json.NewEncoder(cmd.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// A client asks the agent on this machine.
type client struct {
	output
	socket  string
	timeout time.Duration
}

// newClient gives cmd the flags of every client command.
func newClient(cmd *cobra.Command) *client {
	c := &client{}
	socket := os.Getenv("FARLAN_SOCKET")
	if socket == "" {
		socket = defaultSocket()
	}
	cmd.Flags().StringVar(&c.socket, "socket", socket, "`PATH` of the agent's control socket")
	cmd.Flags().DurationVar(&c.timeout, "timeout", 5*time.Second, "how long the agent may take to answer")
	c.addFlag(cmd)
	return c
}

// call asks the agent and decodes its answer into view.
func (c *client) call(ctx context.Context, method, path string, form url.Values, view any) error {
	return c.send(ctx, method, path, form, nil, view)
}

// send is call with data that goes with it.
func (c *client) send(ctx context.Context, method, path string, form url.Values, data []byte, view any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	body, err := c.request(ctx, method, path, form, data)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, view); err != nil {
		return fmt.Errorf("%s: the agent's answer makes no sense: %w", path[1:], err)
	}
	return nil
}

// request asks the agent; data is what goes with it.
func (c *client) request(ctx context.Context, method, path string, form url.Values, data []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://farlan"+path+"?"+form.Encode(), bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
		},
	}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, c.noAgent(err)
	}
	defer response.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(http.MaxBytesReader(nil, response.Body, maxAnswer)); err != nil {
		return nil, c.noAgent(err)
	}
	if response.StatusCode == http.StatusOK {
		return body.Bytes(), nil
	}
	var refused errorView
	if err := json.Unmarshal(body.Bytes(), &refused); err != nil || refused.Error == "" {
		return nil, fmt.Errorf("%s: the agent answered %s", path[1:], response.Status)
	}
	return nil, failf(refused.Code, "%s", refused.Hint)("%s", refused.Error)
}

// noAgent says why no agent answered.
func (c *client) noAgent(err error) error {
	if urlError, ok := errors.AsType[*url.Error](err); ok {
		err = urlError.Err
	}
	fail := failf(exitNoAgent, "start one with 'farlan up', or name the running one's socket with --socket")
	switch {
	case errors.Is(err, os.ErrPermission):
		return failf(exitNoAgent, "run this as the agent's user, or as root")("no agent: %w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return fail("no agent: nothing answered on %s within %v", c.socket, c.timeout)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fail("no agent: nobody listens on %s", c.socket)
	}
	return fail("no agent: %w", err)
}
