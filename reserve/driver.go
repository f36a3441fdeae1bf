package reserve

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"farlan/overlay"
)

// An ID names one grant of one driver for as long as it, or anything that it left behind, may
// exist: the reservation that it is a part of, and which segment of it. The coordinator of a
// reservation draws its number at random; nothing else is called so.
type ID struct {
	Reservation [16]byte
	Segment     uint8 // counted from the sender
}

// String returns the number in hexadecimal digits, a dash and the segment: 35 characters at
// most, of [0-9a-f-], fit for a tag in somebody else's database.
func (i ID) String() string { return fmt.Sprintf("%x-%d", i.Reservation, i.Segment) }

// Compare orders numbers by their bytes.
func (i ID) Compare(o ID) int {
	return cmp.Or(bytes.Compare(i.Reservation[:], o.Reservation[:]), cmp.Compare(i.Segment, o.Segment))
}

// A Kind says what a grant promises.
type Kind uint8

// The kinds of grants, from the strongest to the weakest.
const (
	NoKind    Kind = iota
	Circuit        // a way of its own through the underlay, policed to its rate
	Guarantee      // that rate at least on one hop, and more while others leave it
	Priority       // served before others on hops that honour it; no rate is promised
)

// A Driver reserves in one kind of underlay. Each call blocks until it is done or ctx ends, and
// is made by one goroutine at a time, Events by one of its own; an error's meaning is that of the
// Err values below. Nothing that a call leaves behind outlives its End for longer than until the
// next Reap, and nothing of others is ever touched. The agent, which makes the calls, journals
// before each of them.
type Driver interface {
	Caps() Caps
	// Offer says what Hold would grant now, without a trace.
	Offer(ctx context.Context, w Want) (Offer, error)
	// Hold admits a want and keeps the room for it; no packet is served by it yet. Asked again
	// for the same ID it answers what it holds.
	Hold(ctx context.Context, w Want) (Grant, error)
	// Commit makes what is held firm, Abort gives it back. What is neither committed nor aborted
	// ends by itself where the underlay can do that.
	Commit(ctx context.Context, g Grant) (Grant, error)
	Abort(ctx context.Context, g Grant) error
	// Activate lets packets be served by a committed grant, Deactivate takes them off it again
	// and keeps the room.
	Activate(ctx context.Context, g Grant) (Grant, error)
	Deactivate(ctx context.Context, g Grant) (Grant, error)
	// Modify changes the rate without a gap, Renew the end; ErrUnsupported asks for make before
	// break, by another grant.
	Modify(ctx context.Context, g Grant, rate Rate) (Grant, error)
	Renew(ctx context.Context, g Grant, end overlay.Instant) (Grant, error)
	// Release gives everything back, from any state. It may be called as often as one likes:
	// nil and ErrGone both mean that nothing is left.
	Release(ctx context.Context, g Grant) error
	// Status asks the underlay itself, by the handle, or by the ID if there is none.
	Status(ctx context.Context, g Grant) (Grant, error)
	// List returns all that the underlay holds for this agent; where there is no room for an ID
	// the grants' are zero, and the journal finds them by their handles.
	List(ctx context.Context) ([]Grant, error)
	Usage(ctx context.Context, g Grant) (Usage, error)
	// Events calls tell with what the driver notices by itself, until ctx ends.
	Events(ctx context.Context, tell func(Event)) error
	// Reap takes away what ended before now; the agent calls it at its start and each minute.
	Reap(ctx context.Context, now overlay.Instant) error
}

// A Server is a driver that others call back. Serve blocks until ctx ends, in a goroutine of its
// own beside that of Events; without it the driver works by asking, and more slowly.
type Server interface {
	Serve(ctx context.Context) error
}

// A Want is what a driver is asked for.
type Want struct {
	ID   ID
	Kind Kind // the weakest that will do; NoKind: whatever the driver has
	// Rate is what the underlay carries: IP packets with all that agents put around frames.
	Rate Rate
	// From is the agent whose way out is meant, To the agent at the segment's other end, and Via
	// the underlay address by which From sends to it: its port counts only to drivers that
	// match on packets. With a zone it is by that interface, as of what a circuit is stacked on.
	// Circuits name the ends by the agents.
	From, To overlay.AgentID
	Via      netip.AddrPort
	// End is when the grant must be gone, by this agent's clock, whoever still wants it: what
	// has no clock itself (a queue in the kernel) is taken away by its driver's next Reap.
	End overlay.Instant
	// Owner is who asked: a person's word, or the station that it is for. Bounded by 64 bytes.
	Owner string
}

// A Grant is what a driver holds for somebody, as it is known now.
type Grant struct {
	ID    ID
	Kind  Kind
	State State
	Rate  Rate // what is promised; it may be less or more than what was wanted
	End   overlay.Instant
	// Handle is the driver's own name of it ("eth0 1:2", a connectionId, a row's UUID); it is
	// known from Held on and journalled, since it alone finds what a crash left behind where
	// the backend has no room for an ID.
	Handle string
	// Up says that the driver itself has seen that the data plane works; only with it and a
	// probe of the overlay is a reservation Active.
	Up bool
	// Mark is what packets must carry to be served by it.
	Mark Mark
	// Reason is why it is in its state, in words for a person; empty if there is nothing to say.
	Reason string
}

// A Mark is how the underlay tells the packets of a grant from others: each part that isn't
// zero is set at the socket that is the grant's alone (TOS first and Priority last, since the
// kernel derives the priority from the TOS when that is set).
type Mark struct {
	TOS      uint8      // the whole byte: DSCP << 2; ECN stays the frame path's
	Priority uint32     // SO_PRIORITY: a class of the queueing discipline, 6 at most without rights
	Device   string     // SO_BINDTODEVICE: the interface on which a circuit comes in; "" for any
	Source   netip.Addr // this agent's address on the circuit; the zero Addr for its ordinary ones
	Peer     netip.Addr // the other agent's; the zero Addr for what is known of it
}

// Caps are what a driver can do here, as found out when it was opened.
type Caps struct {
	Name     string // "tc", "dscp", "nsi", "ovs", "exec"
	Kinds    []Kind
	External bool // it costs somebody else something: off unless the config turns it on
	Modify   bool // rates can be changed in place; otherwise make before break
	Setup    int  // seconds from Hold to Active as a rule: long ones aren't asked for short needs
	Most     Rate // what one grant may be at most; 0 if that isn't known before it is asked
}

// An Offer is what a driver would grant now; nothing is held by it.
type Offer struct {
	Kind Kind
	Rate Rate // at most what was wanted
	Free Rate // what is left for reservations, this one included
}

// Usage is what passed through a grant since it was made.
type Usage struct {
	Bytes   uint64 // of IP packets, as the driver counts them
	Packets uint64
	Dropped uint64
	Backlog uint64 // bytes that wait now
}

// An Event is what a driver tells unasked.
type Event struct {
	ID    ID
	Grant Grant // as it is now
}

// What a driver answers if it doesn't grant. Anything else that it answers to Hold, Commit,
// Activate, Modify and Renew means that the outcome isn't known: ask its Status, never guess.
var (
	// ErrFull: not that much now. A Refusal that wraps it says how much there is.
	ErrFull = errors.New("no capacity left")
	// ErrRefused: not for this asker, or not like this; asking again the same way is useless.
	ErrRefused = errors.New("refused")
	// ErrUnsupported: this driver can't; nothing was changed.
	ErrUnsupported = errors.New("not supported")
	// ErrGone: there is no such grant, nor anything left of it.
	ErrGone = errors.New("no such reservation")
	// ErrForeign: somebody else's things are in the way; the text says whose and what to do.
	ErrForeign = errors.New("somebody else's")
	// ErrUnreachable: nobody was there to ask, and nothing was changed by this call; it may be
	// made again later.
	ErrUnreachable = errors.New("can't be reached")
)

// A Refusal is an ErrFull that says what could be had.
type Refusal struct {
	Free Rate
}

// Error says how much is free.
func (r Refusal) Error() string { return fmt.Sprintf("%v: %v is free", ErrFull, r.Free) }

// Unwrap returns ErrFull.
func (r Refusal) Unwrap() error { return ErrFull }
