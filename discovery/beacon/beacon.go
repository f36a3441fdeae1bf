//go:build linux

// Package beacon sends an agent's beacons on every link of this host that others can
// reach it by, and listens to theirs. What beacons say and when they are due is
// decided in package discovery; here are the sockets: one for each interface and
// address family, bound to the group's address, so that a scan of this host finds no
// port of theirs.
//
// It follows interfaces and addresses that come and go. Nothing is ever answered to
// what doesn't open, nothing that a stranger sends is kept, and whoever floods the
// group costs this host a bounded share of one processor.
package beacon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"farlan/discovery"
	"farlan/overlay"
)

const (
	// lookEvery is how often the interfaces are looked at if nobody calls Look.
	lookEvery = 2 * time.Second
	// maxTurn is how many datagrams of one socket are taken in one turn, and rest is how
	// long the Lookout rests after each: so a flood takes it no more than some 3 % of a
	// processor, and finds the socket's buffer full.
	maxTurn = 64
	rest    = 5 * time.Millisecond
	// tellEvery is how often State is brought up to date.
	tellEvery = 200 * time.Millisecond
)

// A Config says how a Lookout works. Its functions are called from Run's goroutine
// and must not block.
type Config struct {
	Self    overlay.AgentID
	Network discovery.NetworkKey
	// Addrs returns where this agent can be dialled now, best first. Beacons go out on
	// the interfaces that have any of these addresses.
	Addrs func() []netip.AddrPort
	// Usable says whether beacons may go out on an interface: not on the overlay's own.
	Usable func(net.Interface) bool
	// Found tells of another agent on a link of this host, and where it says that it
	// can be dialled: a hint. It is told at most every three seconds while the hint
	// stays the same. addrs belongs to the callee.
	Found func(id overlay.AgentID, addrs []netip.AddrPort)
}

// A Lookout sends beacons and listens to those of others. Look, SetKeys and State are safe
// for concurrent use.
type Lookout struct {
	cfg    Config
	herald *discovery.Herald
	epoch  time.Time

	poll   *os.File // an epoll that the runtime's poller watches; closed by Run
	pollFD int
	raw    syscall.RawConn
	nudged atomic.Bool                            // Look was called
	keys   atomic.Pointer[[]discovery.NetworkKey] // SetKeys was called
	state  atomic.Pointer[State]

	// Run's own.
	ears   map[int]*ear // by number
	events [16]unix.EpollEvent
	looked overlay.Instant
	told   overlay.Instant
	faults []string
	buf    [discovery.BeaconLen + 1]byte // one more, to tell what is too long
}

// A State is how a Lookout does.
type State struct {
	Links []string // names of the interfaces that beacons go out on
	Heard int      // other agents that were heard of late
	// Faults says of interfaces that should be used why they can't be, one line each.
	Faults []string
	discovery.HeraldCounters
}

// Open makes a Lookout. Run must follow; it also frees what Open takes.
func Open(c Config) (*Lookout, error) {
	h, err := discovery.NewHerald(c.Self, c.Network, rand.Reader)
	if err != nil {
		return nil, err
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("beacon: %w", os.NewSyscallError("epoll_create1", err))
	}
	if err = unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("beacon: %w", errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd)))
	}
	l := &Lookout{cfg: c, herald: h, epoch: time.Now(), poll: os.NewFile(uintptr(fd), "beacons"), pollFD: fd, ears: make(map[int]*ear)}
	if l.raw, err = l.poll.SyscallConn(); err == nil {
		err = l.poll.SetReadDeadline(time.Time{}) // fails if the runtime can't wait for it
	}
	if err != nil {
		return nil, fmt.Errorf("beacon: %w", errors.Join(err, l.poll.Close()))
	}
	l.state.Store(&State{})
	return l, nil
}

// Look says that interfaces or addresses may have changed.
func (l *Lookout) Look() {
	l.nudged.Store(true)
	l.wake()
}

// SetKeys replaces the network's keys, of which there must be one: beacons by any are
// heard, and each is sent by all.
func (l *Lookout) SetKeys(keys ...discovery.NetworkKey) {
	l.keys.Store(&keys)
	l.Look()
}

// wake makes Run look at what it has to do. It may be called after Run.
func (l *Lookout) wake() { _ = l.poll.SetReadDeadline(time.Unix(1, 0)) }

// State returns how the Lookout does, as of a moment ago.
func (l *Lookout) State() State { return *l.state.Load() }

func (l *Lookout) now() overlay.Instant { return 1 + overlay.Instant(time.Since(l.epoch)) }

// Run sends and listens until ctx ends; then it closes all.
func (l *Lookout) Run(ctx context.Context) error {
	defer l.close()
	defer context.AfterFunc(ctx, l.wake)()
	for {
		now := l.now()
		if keys := l.keys.Swap(nil); keys != nil {
			l.herald.SetKeys(*keys...)
		}
		if l.nudged.Swap(false) || l.looked == 0 || now.Sub(l.looked) >= lookEvery {
			l.looked = now
			l.look(now)
		}
		l.herald.Tick(now, l.send)
		if l.told == 0 || now.Sub(l.told) >= tellEvery {
			l.told = now
			l.tell(now)
		}
		next := l.looked.Add(lookEvery)
		if due := l.herald.Next(); due != 0 {
			next = min(next, due)
		}
		if err := l.poll.SetReadDeadline(time.Now().Add(next.Sub(l.now()))); err != nil {
			return fmt.Errorf("beacon: %w", err)
		}
		// A wake before this deadline was set is seen here, one after it ends the wait.
		if ctx.Err() != nil {
			return nil
		}
		if l.nudged.Load() {
			continue
		}
		if err := l.listen(); err != nil {
			return fmt.Errorf("beacon: %w", err)
		}
	}
}

// listen waits until something comes or the deadline is over, and takes what came.
func (l *Lookout) listen() error {
	var n int
	var failed error
	err := l.raw.Read(func(uintptr) bool {
		n, failed = unix.EpollWait(l.pollFD, l.events[:], 0)
		return n > 0 || failed != nil
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(failed, unix.EINTR):
		return nil
	case err != nil || failed != nil:
		return errors.Join(err, os.NewSyscallError("epoll_wait", failed))
	}
	for _, e := range l.events[:n] {
		if ear := l.ears[int(e.Fd)]; ear != nil {
			l.hear(ear)
		}
	}
	time.Sleep(rest)
	return nil
}

// hear takes what has come at an ear.
func (l *Lookout) hear(e *ear) {
	for range maxTurn {
		n, err := unix.Read(e.fd, l.buf[:])
		if err != nil {
			return // nothing more, or an interface that goes away
		}
		b, ok := l.herald.Receive(l.now(), overlay.Instant(time.Now().UnixNano()), e.number, l.buf[:n])
		if ok && len(b.Addrs) > 0 {
			l.cfg.Found(b.Agent, b.Addrs)
		}
	}
}

// send sends a beacon by an ear.
func (l *Lookout) send(number int, ask bool) {
	e := l.ears[number]
	all, err := l.herald.Beacon(overlay.Instant(time.Now().UnixNano()), ask, e.addrs)
	for _, d := range all {
		err = errors.Join(err, e.send(d))
	}
	e.fault = fault(e.name, err)
}

// fault says in a line what is wrong with an interface, "" if nothing is: that it goes
// away is no fault.
func fault(name string, err error) string {
	switch {
	case err == nil, errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENETDOWN),
		errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS):
		return ""
	}
	return fmt.Sprintf("%s: %v", name, err)
}

// close frees all.
func (l *Lookout) close() {
	for n := range l.ears {
		l.drop(n)
	}
	_ = l.poll.Close()
}
