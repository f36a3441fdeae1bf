package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
)

// A crossRequest asks the cross-connect for one thing at most, and for what there is.
type crossRequest struct {
	Connect    *CrossCircuit `json:"connect,omitempty"`
	Disconnect string        `json:"disconnect,omitempty"`
	Break      string        `json:"break,omitempty"`
	Mend       string        `json:"mend,omitempty"`
}

type crossReply struct {
	Error    string        `json:"error,omitempty"`
	Circuits []CrossStatus `json:"circuits"`
	Stray    uint64        `json:"stray"` // frames that were no circuit's
}

func (x *crossConnect) answer(r crossRequest) (reply crossReply) {
	var err error
	switch {
	case r.Connect != nil:
		err = x.connect(*r.Connect)
	case r.Disconnect != "":
		x.disconnect(r.Disconnect)
	case r.Break != "":
		err = x.sever(r.Break, true)
	case r.Mend != "":
		err = x.sever(r.Mend, false)
	}
	if err != nil {
		reply.Error = err.Error()
	}
	reply.Circuits, reply.Stray = x.status()
	return reply
}

// askCross sends a request to the cross-connect behind a socket.
func askCross(ctx context.Context, socket string, request crossRequest) (crossReply, error) {
	reply, err := exchange[crossReply](ctx, socket, request)
	if err == nil && reply.Error != "" {
		err = errors.New(reply.Error)
	}
	if err != nil {
		return reply, fmt.Errorf("cross-connect: %w", err)
	}
	return reply, nil
}

// runCrossConnect is a cross-connect with the ports that the file config names, until ctx is done.
func runCrossConnect(ctx context.Context, config, socket string) error {
	b, err := os.ReadFile(config)
	if err != nil {
		return fmt.Errorf("cross-connect: %w", err)
	}
	var ports []CrossPort
	if err = json.Unmarshal(b, &ports); err != nil {
		return fmt.Errorf("cross-connect: %s: %w", config, err)
	}
	x, err := newCrossConnect(ports)
	if err != nil {
		return err
	}
	defer x.close()
	l, err := listenControl(ctx, socket)
	if err != nil {
		return fmt.Errorf("cross-connect: %w", err)
	}
	return beside(l, func() error { return serveControl(l, x.answer) }, func() error { return x.run(ctx) })
}

// beside serves a control socket while f runs.
func beside(l net.Listener, serve, f func() error) error {
	served := make(chan error, 1)
	go func() { served <- serve() }()
	err := f()
	return errors.Join(err, l.Close(), <-served)
}
