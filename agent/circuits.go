package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/vlan"
)

const (
	// attachEvery is how often who asked for a circuit tells the other end of it, while it is
	// held, and attachLease for how long it lasts there each time: six may be lost.
	attachEvery = 5 * time.Second
	attachLease = 30 * time.Second
	// maxAttachLease is the longest that others may have an interface here without saying so
	// again.
	maxAttachLease = time.Minute
	// settleEvery is how often what is said of a circuit has its interface looked at, and
	// settlePause is between two looks at all that changed, whatever others say.
	settleEvery = time.Second
	settlePause = 100 * time.Millisecond

	maxCircuits   = 256 // that this agent is on
	maxAttached   = 192 // of these, those that others asked for: it always has room for its own
	maxAttachedBy = 64  // that one other agent asked for
)

// circuitPorts make interfaces. *vlan.Ports do.
type circuitPorts interface {
	Attach(vlan uint16, address netip.Prefix) error
	Detach(vlan uint16) error
	Close() error
}

// circuitEnds are this agent's ends of outside circuits: those that it asked for itself, by the
// marks of its driver, and those that others asked for, who say so by attachments. The loop says
// what there is to be, and run, in a goroutine of its own, makes it so: the kernel takes tens of
// milliseconds to take an interface away, and longer while others' are in work, and the loop, which
// keeps sessions alive, doesn't wait for it. What is said is a state, not a queue of changes, so a
// slow kernel makes it late only. Nobody waits, either: frames take a circuit once probes by it
// come back.
type circuitEnds struct {
	file  *nsiFile
	self  overlay.AgentID
	ports circuitPorts // run's
	log   *slog.Logger
	wake  chan struct{}

	mu     sync.Mutex
	held   map[uint16]circuitEnd // by VLAN; maxCircuits at most
	made   map[uint16]circuitEnd // what run has tried of them, not those that it has taken away
	ready  map[uint16]bool       // of these, those whose interface is there
	nudged overlay.Instant
}

// A circuitEnd is an interface that there is to be.
type circuitEnd struct {
	by      overlay.AgentID // who asked for the circuit; the zero AgentID: this agent
	address netip.Prefix
	until   overlay.Instant
	at      overlay.Instant // when it was said last that its interface is to be looked at
}

// openCircuits returns this agent's ends, and has taken away what a dead agent left. Unless the
// file says where this agent is attached, it has none. Run closes them.
func openCircuits(f *nsiFile, self overlay.AgentID, log *slog.Logger) (*circuitEnds, error) {
	if f.Device == "" {
		return newCircuits(f, self, nil, log), nil
	}
	ports, err := vlan.Open(vlan.Config{Device: f.Device, VLANs: f.VLANs, Agent: self})
	if err != nil {
		return nil, hintf("circuits come in by VLANs of %s, which the agent makes: take the nsi driver out of --reserve if it isn't to", f.Device)("circuits: %w", err)
	}
	return newCircuits(f, self, ports, log), nil
}

func newCircuits(f *nsiFile, self overlay.AgentID, ports circuitPorts, log *slog.Logger) *circuitEnds {
	return &circuitEnds{
		file: f, self: self, ports: ports, log: log, wake: make(chan struct{}, 1),
		held: make(map[uint16]circuitEnd), made: make(map[uint16]circuitEnd), ready: make(map[uint16]bool),
	}
}

// own says that this agent's own end of a circuit, as its driver's mark has it, is to be there
// until an instant; one that has passed takes it away. It returns whether it is there now. It is
// for the loop, which may call it as often as it likes. What somebody else asked for yields, as
// the provider itself has granted this one the VLAN.
func (c *circuitEnds) own(now overlay.Instant, mark reserve.Mark, until overlay.Instant) (ready bool, err error) {
	vlan := circuitVLAN(mark.Device)
	address := netip.PrefixFrom(mark.Source, 30)
	switch {
	case mark.Device != c.file.Device+"."+strconv.Itoa(int(vlan)) || !c.file.VLANs.Has(vlan):
		return false, fmt.Errorf("circuit on %q: %w: this agent's come in on %s", mark.Device, reserve.ErrRefused, c.file.Device)
	case !c.file.pair(mark.Source, mark.Peer):
		return false, fmt.Errorf("circuit from %v to %v: %w: not the two ends of a /30 of %v", mark.Source, mark.Peer, reserve.ErrRefused, c.file.Config.Subnet)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old, known := c.held[vlan]
	if until <= now {
		if known && old.by.IsZero() && old.address == address {
			c.drop(vlan)
		}
		return false, nil
	}
	if !known && len(c.held) >= maxCircuits {
		return false, fmt.Errorf("circuit on %s: %w: %d are attached", mark.Device, reserve.ErrFull, maxCircuits)
	}
	c.hold(now, vlan, circuitEnd{address: address, until: until})
	return c.ready[vlan] && c.made[vlan].address == address, nil
}

// has says whether this agent's own end of a circuit is to be there.
func (c *circuitEnds) has(mark reserve.Mark) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, held := c.held[circuitVLAN(mark.Device)]
	return held && e.by.IsZero() && e.address.Addr() == mark.Source
}

// far returns the message for the agent at the other end of a circuit of this agent's own, whose
// mark is far: nil if it can't be told. It lasts no longer than own said of the near end.
func (c *circuitEnds) far(now overlay.Instant, mark, far reserve.Mark) []byte {
	vlan := circuitVLAN(far.Device)
	if vlan == 0 || !c.file.pair(far.Source, mark.Source) {
		return nil
	}
	a := attachment{vlan: vlan, here: far.Source, sender: mark.Source}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, held := c.held[circuitVLAN(mark.Device)]; held && e.by.IsZero() && e.address.Addr() == mark.Source {
		a.lease = max(0, min(attachLease, e.until.Sub(now)))
	}
	return appendAttachment(nil, a)
}

// attach does what another agent says of a circuit that it asked for. It is for the loop; errors
// wrap reserve.ErrRefused or reserve.ErrFull, but for messages that make no sense.
func (c *circuitEnds) attach(now overlay.Instant, from overlay.AgentID, msg []byte) error {
	m, err := parseAttachment(msg)
	if err == nil {
		err = c.sensible(from, m)
	}
	if err != nil {
		return fmt.Errorf("circuit of agent %v: %w", from.Short(), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old, known := c.held[m.vlan]
	switch all, by := c.attached(from); {
	case known && old.by != from:
		return fmt.Errorf("circuit of agent %v: %w: VLAN %d is another circuit's", from.Short(), reserve.ErrRefused, m.vlan)
	case m.lease == 0:
		c.drop(m.vlan)
		return nil
	case !known && (all >= maxAttached || by >= maxAttachedBy || len(c.held) >= maxCircuits):
		return fmt.Errorf("circuit of agent %v: %w: it has %d, all others together %d", from.Short(), reserve.ErrFull, by, all)
	}
	c.hold(now, m.vlan, circuitEnd{by: from, address: netip.PrefixFrom(m.here, 30), until: now.Add(m.lease)})
	return nil
}

// sensible says whether what an agent says may be.
func (c *circuitEnds) sensible(from overlay.AgentID, m attachment) error {
	_, end := c.file.Config.Ends[from]
	switch {
	case !end || from == c.self:
		return fmt.Errorf("%w: it isn't one of the ends in %s", reserve.ErrRefused, c.file.Path)
	case !c.file.VLANs.Has(m.vlan):
		return fmt.Errorf("%w: VLAN %d isn't one of this agent's, %v", reserve.ErrRefused, m.vlan, c.file.VLANs)
	case !c.file.pair(m.here, m.sender):
		return fmt.Errorf("%w: %v and %v aren't the two ends of a /30 of %v", reserve.ErrRefused, m.here, m.sender, c.file.Config.Subnet)
	case m.lease > maxAttachLease:
		return fmt.Errorf("%w: for %v, and %v is the longest", reserve.ErrRefused, m.lease, maxAttachLease)
	}
	return nil
}

// attached returns how many circuits others asked for, and how many of these one did.
func (c *circuitEnds) attached(from overlay.AgentID) (all, by int) {
	for _, e := range c.held {
		if !e.by.IsZero() {
			all++
		}
		if e.by == from {
			by++
		}
	}
	return all, by
}

// hold has an end be there, and its interface looked at if that wasn't done just now.
func (c *circuitEnds) hold(now overlay.Instant, vlan uint16, e circuitEnd) {
	old := c.held[vlan]
	if e.at = old.at; old.address != e.address || now.Sub(old.at) >= settleEvery {
		e.at = now
		c.nudge()
	}
	c.held[vlan] = e
}

func (c *circuitEnds) drop(vlan uint16) {
	delete(c.held, vlan)
	c.nudge()
}

// nudge has run look at what there is to be.
func (c *circuitEnds) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// tick takes away what has ended. The loop calls it each second.
func (c *circuitEnds) tick(now overlay.Instant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for vlan, e := range c.held {
		if e.until <= now {
			c.drop(vlan)
		}
	}
	if len(c.made) > len(c.ready) && now.Sub(c.nudged) >= attachEvery { // what failed is tried again
		c.nudged = now
		for vlan := range c.made {
			if e, held := c.held[vlan]; held && !c.ready[vlan] {
				e.at = now
				c.held[vlan] = e
			}
		}
		c.nudge()
	}
}

// circuitVLAN returns the VLAN of an interface called "wan1.101", or 0.
func circuitVLAN(device string) uint16 {
	n, err := strconv.ParseUint(device[strings.LastIndexByte(device, '.')+1:], 10, 16)
	if err != nil || n > overlay.MaxVLAN || !strings.Contains(device, ".") {
		return 0
	}
	return uint16(n)
}

// run makes what there is to be until ctx ends, and takes it all away then.
func (c *circuitEnds) run(ctx context.Context) error {
	if c.ports == nil {
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return c.ports.Close()
		case <-c.wake:
			c.settle()
			select {
			case <-ctx.Done():
			case <-time.After(settlePause):
			}
		}
	}
}

// settle makes once what there is to be.
func (c *circuitEnds) settle() {
	c.mu.Lock()
	held, made := maps.Clone(c.held), maps.Clone(c.made)
	c.mu.Unlock()
	for _, vlan := range slices.Sorted(maps.Keys(made)) {
		if _, there := held[vlan]; !there {
			c.settled(vlan, circuitEnd{}, c.ports.Detach(vlan))
		}
	}
	for _, vlan := range slices.Sorted(maps.Keys(held)) {
		if e, before := held[vlan], made[vlan]; e.at != before.at || e.address != before.address {
			c.settled(vlan, e, c.ports.Attach(vlan, e.address))
		}
	}
}

// settled notes what became of an end; the zero one was to be taken away.
func (c *circuitEnds) settled(vlan uint16, e circuitEnd, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, gone := c.ready[vlan], !e.address.IsValid()
	_, tried := c.made[vlan]
	delete(c.ready, vlan)
	name := c.file.Device + "." + strconv.Itoa(int(vlan))
	switch {
	case err != nil:
		c.made[vlan] = e
		if was || !tried { // and not each time
			c.log.Warn("circuit's interface", "interface", name, "err", err)
		}
	case gone:
		delete(c.made, vlan)
		c.log.Debug("circuit's interface is gone", "interface", name)
	default:
		c.made[vlan], c.ready[vlan] = e, true
		if !was {
			c.log.Info("on a circuit", "interface", name, "address", e.address)
		}
	}
}
