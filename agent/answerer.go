package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"farlan/overlay/link"
)

// An answerer takes what comes by a socket for probes: handshakes, probes and
// their replies. Unlike a lane it waits by the runtime's poller: what comes is
// little but comes all the time, and a thread that sleeps in a system call keeps
// the runtime's monitor awake for 10 ms. Of 50 agents that started on one machine
// the monitor took 17 % of the processor time so, and 8 % by the poller.
type answerer struct {
	n      *node
	socket *link.Socket
	in     *inbound
	batch  *link.Batch
	file   *os.File // the socket again, as the runtime wants it; closing it ends run
	raw    syscall.RawConn
}

func newAnswerer(n *node, s *link.Port) (*answerer, error) {
	fd, err := unix.FcntlInt(uintptr(s.Probe.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket for probes: %w", err)
	}
	a := &answerer{
		n: n, socket: s.Probe, in: newInbound(n, n.lanes+slices.Index(n.sockets, s)), batch: link.NewBatch(),
		file: os.NewFile(uintptr(fd), "socket for probes"),
	}
	a.in.writer = s.Probe.Writer()
	if a.raw, err = a.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("socket for probes: %w", err), a.file.Close())
	}
	return a, nil
}

// run takes what comes until the file is closed.
func (a *answerer) run(context.Context) error {
	var failed error
	take := func(uintptr) bool {
		failed = a.socket.Read(a.batch)
		return failed != nil || a.batch.Len() > 0
	}
	for {
		if err := a.raw.Read(take); err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return err
		}
		if failed != nil {
			return failed
		}
		a.in.receive(a.n.now(), a.n.view.Load(), a.in.writer, a.batch)
	}
}
