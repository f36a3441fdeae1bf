package lab

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

const (
	maxPacket = 9216 // longest IP packet that the wide area can be set to carry
	// maxHeldBytes bounds the memory for packets on their way: the
	// bandwidth-delay product of 5 Gbit/s at 100 ms, in full packets. More
	// packets are dropped and counted as DropHold.
	maxHeldBytes = 64 << 20
	// readBurst is how many packets one site may send before the others, and
	// what is due, have their turn: about 100 µs.
	readBurst = 64
)

// A WANSite is a place in the wide area.
type WANSite struct {
	Name      string         `json:"name"`
	Namespace string         `json:"namespace"`        // where its interface is made
	Device    string         `json:"device"`           // the interface's name
	Prefixes  []netip.Prefix `json:"prefixes"`         // the addresses that are there
	Behind    string         `json:"behind,omitempty"` // the NAT next to it; "": it is in the open
}

// A WAN says how to make a wide area: every directed pair of sites is joined by
// a path of the same shape, and Seed decides what chance does to packets: to each
// path's by their number, whatever the others carry. NATs stand where the paths
// end: they translate what leaves before its path, and what arrives after it.
type WAN struct {
	Sites []WANSite `json:"sites"`
	NATs  []WANNAT  `json:"nats,omitempty"`
	MTU   int       `json:"mtu"` // of the sites' interfaces; whoever sets them up sees to it
	Shape Shape     `json:"shape"`
	Seed  uint64    `json:"seed"`
}

// Validate reports every value that can't be.
func (w WAN) Validate() error {
	err := w.Shape.Validate()
	if w.MTU < 576 || w.MTU > maxPacket {
		err = errors.Join(err, fmt.Errorf("MTU %d is not within 576 to %d", w.MTU, maxPacket))
	}
	return err
}

// An Emulator is a wide area: it holds one layer-3 interface per site and
// moves packets between them, each directed pair of sites by its own Path. Run
// is its only loop; Change and Status may be called from anywhere.
type Emulator struct {
	sites   []WANSite
	fds     []int // the sites' interfaces; -1 when one is gone
	wake    int   // an eventfd that ends the loop's wait
	start   time.Time
	rnd     *rand.Rand // the NATs'
	scratch []byte     // of MTU bytes

	mu      sync.Mutex
	gates   []gate         // the NATs
	behind  []int          // the gate next to each site, or theOpen
	paths   [][]Path       // from, to
	chance  [][]*rand.Rand // the paths'
	stray   uint64         // packets to nowhere
	flights flights        // what is on its way
	free    []*flight      // for reuse
	made    int            // flights, on their way or free
	sent    uint64         // flights that left
}

// A flight is a packet on its way.
type flight struct {
	at     overlay.Instant // when it arrives
	number uint64          // in order of their leaving, among those that arrive at once
	to     stop
	packet []byte
}

// NewEmulator makes the sites' interfaces. Close gives them back.
func NewEmulator(w WAN) (*Emulator, error) {
	if err := w.Validate(); err != nil {
		return nil, fmt.Errorf("wide area: %w", err)
	}
	e := &Emulator{
		sites:   w.Sites,
		start:   time.Now(),
		rnd:     rand.New(rand.NewPCG(w.Seed, 0)),
		scratch: make([]byte, w.MTU),
	}
	if err := e.makeGates(w.NATs); err != nil {
		return nil, err
	}
	var err error
	if e.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("wide area: eventfd: %w", err)
	}
	for _, s := range w.Sites {
		fd, err := openTUN(s.Namespace, s.Device)
		if err != nil {
			return nil, errors.Join(err, e.Close())
		}
		e.fds = append(e.fds, fd)
		row := make([]Path, len(w.Sites))
		var chance []*rand.Rand
		for i := range row {
			row[i].Shape = w.Shape
			chance = append(chance, chanceOf(len(e.paths), i, w.Seed))
		}
		e.paths, e.chance = append(e.paths, row), append(e.chance, chance)
	}
	return e, nil
}

// chanceOf returns what decides by chance on the path from one site to another.
func chanceOf(from, to int, seed uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, uint64(from)<<32|uint64(to)))
}

// Close gives the interfaces back; Run must have ended.
func (e *Emulator) Close() error {
	errs := []error{unix.Close(e.wake)}
	for _, fd := range e.fds {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// Run moves packets until ctx is done or the last interface has gone.
func (e *Emulator) Run(ctx context.Context) error {
	runtime.LockOSThread() // the thread's timers and priority are set below
	defer runtime.UnlockOSThread()
	// Both are for precision only: the emulator works without.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -15)

	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(e.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !stop() {
			<-woken // or it would write to what Close closes
		}
	}()
	poll := make([]unix.PollFd, len(e.fds)+1)
	for ctx.Err() == nil {
		next := e.turn(poll[:len(e.fds)])
		if !e.watch(poll) {
			return errors.New("wide area: the last site's interface has gone")
		}
		_, err := unix.Ppoll(poll, next, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wide area: poll: %w", err)
		}
	}
	return nil
}

// watch fills poll with what to wait for and reports whether a site is left.
func (e *Emulator) watch(poll []unix.PollFd) bool {
	left := false
	for i, fd := range e.fds {
		poll[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN} // poll ignores -1
		left = left || fd >= 0
	}
	poll[len(e.fds)] = unix.PollFd{Fd: int32(e.wake), Events: unix.POLLIN}
	return left
}

// turn delivers what is due and takes what has come from the sites that poll
// reports ready. It returns how long there is nothing to deliver; nil is ever.
func (e *Emulator) turn(poll []unix.PollFd) *unix.Timespec {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.deliver()
	for i, p := range poll {
		if p.Revents != 0 && e.fds[i] >= 0 {
			e.receive(i)
			e.deliver()
		}
	}
	if len(e.flights) == 0 {
		return nil
	}
	wait := unix.NsecToTimespec(int64(max(0, e.flights[0].at.Sub(e.now()))))
	return &wait
}

func (e *Emulator) now() overlay.Instant { return overlay.Instant(time.Since(e.start)) }

// receive takes up to readBurst packets from a site.
func (e *Emulator) receive(from int) {
	for range readBurst {
		n, err := unix.Read(e.fds[from], e.scratch)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			return
		case err != nil: // the interface was removed
			_ = unix.Close(e.fds[from])
			e.fds[from] = -1
			return
		}
		e.send(from, e.scratch[:n])
	}
}

// send puts a packet from a site on its way, or drops it.
func (e *Emulator) send(from int, packet []byte) {
	to, ok := e.leave(from, packet)
	if !ok {
		return
	}
	next := e.target(to, packet)
	path := &e.paths[from][next]
	f := e.take()
	if f == nil {
		path.refuse()
		return
	}
	at, drop := path.Decide(e.now(), len(packet), e.chance[from][next])
	if drop != Kept {
		e.free = append(e.free, f)
		return
	}
	e.sent++
	f.at, f.to, f.number = at, to, e.sent
	f.packet = append(f.packet[:0], packet...)
	heap.Push(&e.flights, f)
}

// take returns a free flight, or nil if as many as may be are on their way.
func (e *Emulator) take() *flight {
	if n := len(e.free); n > 0 {
		f := e.free[n-1]
		e.free = e.free[:n-1]
		return f
	}
	if e.made >= maxHeldBytes/len(e.scratch) {
		return nil
	}
	e.made++
	return &flight{packet: make([]byte, 0, len(e.scratch))}
}

// deliver hands over what has arrived. What a site can't take is lost there,
// as in a router whose input overflows.
func (e *Emulator) deliver() {
	for now := e.now(); len(e.flights) > 0 && !now.Before(e.flights[0].at); {
		f := heap.Pop(&e.flights).(*flight)
		if to := e.enter(f.to, f.packet); to >= 0 && e.fds[to] >= 0 {
			_, _ = unix.Write(e.fds[to], f.packet)
		}
		e.free = append(e.free, f)
	}
}

// site returns the site next to a gate, or in the open, with the longest prefix
// that holds a, or -1.
func (e *Emulator) site(gate int, a netip.Addr) int {
	best, bits := -1, -1
	for i, s := range e.sites {
		if e.gateOf(i) != gate {
			continue
		}
		for _, p := range s.Prefixes {
			if p.Contains(a) && p.Bits() > bits {
				best, bits = i, p.Bits()
			}
		}
	}
	return best
}

// flights is a heap whose first is the next to arrive.
type flights []*flight

func (f flights) Len() int { return len(f) }
func (f flights) Less(i, j int) bool {
	return f[i].at < f[j].at || f[i].at == f[j].at && f[i].number < f[j].number
}
func (f flights) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *flights) Push(x any)   { *f = append(*f, x.(*flight)) }
func (f *flights) Pop() any {
	last := len(*f) - 1
	x := (*f)[last]
	*f = (*f)[:last]
	return x
}
