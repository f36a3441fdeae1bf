package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// A change is what the kernel says of this host's ways to others: a set of these.
type change uint8

const (
	addressChange change = 1 << iota // an address, or an interface
	defaultChange                    // a default route
	routeChange                      // another route
)

// A watcher hears of changes from the kernel: addresses, interfaces and routes
// (rtnetlink, RFC 3549 § 3.1).
type watcher struct {
	file *os.File
	raw  syscall.RawConn
	fd   int
	news func(change) // must not block
	over atomic.Bool  // stop was called
	buf  [32 << 10]byte
}

// newWatcher listens in the namespace of the calling thread.
func newWatcher(news func(change)) (*watcher, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("address events: %w", os.NewSyscallError("socket", err))
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	if err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, fmt.Errorf("address events: %w", errors.Join(os.NewSyscallError("bind", err), unix.Close(fd)))
	}
	w := &watcher{file: os.NewFile(uintptr(fd), "address events"), fd: fd, news: news}
	if w.raw, err = w.file.SyscallConn(); err != nil {
		return nil, fmt.Errorf("address events: %w", errors.Join(err, w.file.Close()))
	}
	return w, nil
}

// run tells of changes until stop is called. Those that come together are told
// together.
func (w *watcher) run(context.Context) error {
	for {
		var heard change
		err := w.raw.Read(func(uintptr) (ready bool) {
			heard, ready = w.take()
			return ready
		})
		if w.over.Load() {
			return nil
		}
		if err != nil {
			return fmt.Errorf("address events: %w", err)
		}
		if heard != 0 {
			w.news(heard)
		}
	}
}

// stop makes run return; w may be nil.
func (w *watcher) stop() {
	if w != nil {
		w.over.Store(true)
		_ = w.file.Close()
	}
}

// maxTaken is how many messages of the kernel's are read before they are told of.
const maxTaken = 256

// take reads what has come; ready is false if there was nothing.
func (w *watcher) take() (heard change, ready bool) {
	for range maxTaken {
		n, _, err := unix.Recvfrom(w.fd, w.buf[:], 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return heard, ready
		case errors.Is(err, unix.ENOBUFS):
			heard = addressChange // some were lost, who knows which
		case err == nil:
			heard |= classify(w.buf[:n])
		}
		ready = true
	}
	return heard, ready
}

// classify returns the changes that the kernel's messages in b tell of.
func classify(b []byte) (heard change) {
	const head = unix.SizeofNlMsghdr
	for len(b) >= head {
		n := int(binary.NativeEndian.Uint32(b))
		if n < head || n > len(b) {
			break // cut off
		}
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.RTM_NEWLINK, unix.RTM_DELLINK:
			heard |= addressChange
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			heard |= classifyRoute(b[head:n])
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return heard
}

// classifyRoute reads a struct rtmsg. Routes to this host itself come and go with
// addresses, and those that the kernel keeps for single destinations are none.
func classifyRoute(b []byte) change {
	if len(b) < unix.SizeofRtMsg {
		return 0
	}
	length, table, kind, flags := b[1], b[4], b[7], binary.NativeEndian.Uint32(b[8:])
	switch {
	case table == unix.RT_TABLE_LOCAL, kind != unix.RTN_UNICAST, flags&unix.RTM_F_CLONED != 0:
		return 0
	case length == 0:
		return defaultChange
	}
	return routeChange
}
