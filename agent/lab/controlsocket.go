package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// controlTimeout bounds one exchange on a control socket; both ends are on this machine.
const controlTimeout = 2 * time.Second

// listenControl listens on a control socket. One of an earlier process, which was killed, is in
// the way no more: the lab runs only one of a name.
func listenControl(ctx context.Context, socket string) (net.Listener, error) {
	_ = os.Remove(socket)
	return (&net.ListenConfig{}).Listen(ctx, "unix", socket)
}

// serveControl answers requests on l, one JSON value each way and one at a time, until l is
// closed. Whoever hangs up or is too slow gets no answer.
func serveControl[Request, Reply any](l net.Listener, answer func(Request) Reply) error {
	one := func(conn net.Conn) {
		defer conn.Close()
		var request Request
		if err := conn.SetDeadline(time.Now().Add(controlTimeout)); err != nil {
			return
		}
		if err := json.NewDecoder(conn).Decode(&request); err != nil {
			return
		}
		_ = json.NewEncoder(conn).Encode(answer(request))
	}
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		one(conn)
	}
}

// exchange sends a request to a control socket and returns the reply.
func exchange[Reply any](ctx context.Context, socket string, request any) (reply Reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return reply, err
	}
	defer conn.Close()
	if err = conn.SetDeadline(time.Now().Add(controlTimeout)); err != nil {
		return reply, err
	}
	if err = json.NewEncoder(conn).Encode(request); err != nil {
		return reply, err
	}
	err = json.NewDecoder(conn).Decode(&reply)
	return reply, err
}
