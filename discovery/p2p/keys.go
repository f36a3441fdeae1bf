package p2p

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"

	"farlan/discovery"
)

// maxKeys is how many network keys a node takes at once.
const maxKeys = discovery.MaxKeys

// maxHeard is of how many addresses a door remembers by which of several keys
// they were heard last. To others it seals by each key, which costs time, but
// arrives.
const maxHeard = 4096

// A Key is a network key, and how long it counts.
type Key struct {
	Network discovery.NetworkKey
	Until   time.Time // by Config.Clock; the zero time is never
}

// SetKeys replaces the network keys; a new node has Config.Network alone. The
// first, which has no end, is the one that this agent goes by. Whoever seals
// with any of them is heard until that one's end, and answered by the same one:
// so members that know an old key only get in meanwhile, and those that know the
// new one only do too. Who wasn't heard yet is called by each.
//
// The DHT is asked and told under the names of all. Live connections go on; those
// by TCP that were proved by a key that isn't there any more are closed, and QUIC
// that is sealed by one isn't heard. An error means that nothing was changed.
func (n *Node) SetKeys(keys ...Key) error {
	if !n.begin() {
		return errors.New("p2p: set keys: the node has ended")
	}
	defer n.tasks.Done()
	n.keying.Lock()
	defer n.keying.Unlock()
	if n.ctx.Err() != nil {
		return errors.New("p2p: set keys: the node has ended")
	}
	if err := n.doors.door.setKeys(keys); err != nil {
		return fmt.Errorf("p2p: set keys: %w", err)
	}
	old := *n.records.Load()
	var names []protocol.ID
	for _, k := range keys {
		names = append(names, recordsOf(k.Network))
	}
	n.records.Store(&names)
	for _, name := range names {
		if !slices.Contains(old, name) {
			n.host.SetStreamHandler(name, n.accept)
		}
	}
	for _, name := range old {
		if !slices.Contains(names, name) {
			n.host.RemoveStreamHandler(name)
		}
	}
	n.setTables(keys)
	return nil
}

// recordsOf returns the name of the records protocol of a key.
func recordsOf(k discovery.NetworkKey) protocol.ID {
	return protocol.ID(k.ProtocolPrefix() + "/records/1")
}

// speaks says whether any of some protocols is the records protocol.
func (n *Node) speaks(protocols []protocol.ID) bool {
	return slices.ContainsFunc(*n.records.Load(), func(p protocol.ID) bool { return slices.Contains(protocols, p) })
}

// A ringKey is one of a door's keys.
type ringKey struct {
	*doorKey
	until time.Time // it opens until then; the zero time is never
}

func (k ringKey) good(now time.Time) bool { return k.until.IsZero() || now.Before(k.until) }

// setKeys replaces the keys. It is for one goroutine at a time.
func (d *door) setKeys(keys []Key) error {
	if len(keys) == 0 || len(keys) > maxKeys {
		return fmt.Errorf("%d network keys, want 1 to %d", len(keys), maxKeys)
	}
	if !keys[0].Until.IsZero() {
		return errors.New("the first network key has an end, but nothing follows it")
	}
	old := *d.keys.Load()
	out := make([]ringKey, 0, len(keys))
	for _, k := range keys {
		if k.Network.IsZero() {
			return errors.New("a network key is zero")
		}
		control := k.Network.ControlKey()
		if i := slices.IndexFunc(old, func(o ringKey) bool { return o.control == control }); i >= 0 {
			out = append(out, ringKey{old[i].doorKey, k.Until}) // the same, for what remembers it
			continue
		}
		one, err := newDoorKey(control)
		if err != nil {
			return err
		}
		out = append(out, ringKey{one, k.Until})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keys.Store(&out)
	clear(d.heard)
	for c, k := range d.proved {
		if !slices.ContainsFunc(out, func(r ringKey) bool { return r.doorKey == k }) {
			delete(d.proved, c)
			reset(c)
		}
	}
	return nil
}

// note remembers by which key somebody was heard last, while there are several.
func (d *door) note(at netip.AddrPort, by *doorKey) {
	if len(*d.keys.Load()) == 1 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.heard == nil {
		d.heard = make(map[netip.AddrPort]*doorKey)
	}
	if _, known := d.heard[at]; known || len(d.heard) < maxHeard {
		d.heard[at] = by
	}
}

// keysTo returns the keys to seal by what goes somewhere: the one by which it was
// heard last, or all.
func (d *door) keysTo(to net.Addr) []ringKey {
	ring := *d.keys.Load()
	a, ok := to.(*net.UDPAddr)
	if !ok || len(ring) == 1 {
		return ring[:1]
	}
	d.mu.Lock()
	by := d.heard[endpoint(a)]
	d.mu.Unlock()
	if i := slices.IndexFunc(ring, func(k ringKey) bool { return k.doorKey == by }); i >= 0 && ring[i].good(d.clock()) {
		return ring[i : i+1]
	}
	return ring
}

func endpoint(a *net.UDPAddr) netip.AddrPort {
	p := a.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// keyOut returns the key to prove by in the next TCP connection: each in turn, as
// whoever is there may know one only, and dials are repeated.
func (d *door) keyOut() *doorKey {
	ring, now := *d.keys.Load(), d.clock()
	for range ring {
		if k := ring[int(d.turn.Add(1)-1)%len(ring)]; k.good(now) {
			return k.doorKey
		}
	}
	return ring[0].doorKey
}

// bind remembers by which key a TCP connection was proved, as long as it is open.
// ok is false if the key isn't good any more.
func (d *door) bind(c net.Conn, by *doorKey) (ok bool) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return true // of a test
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.ContainsFunc(*d.keys.Load(), func(k ringKey) bool { return k.doorKey == by }) {
		return false
	}
	if d.proved == nil {
		d.proved = make(map[*net.TCPConn]*doorKey)
	}
	if len(d.proved) >= 2*d.live { // at least half of them were open when it was looked at last
		for c := range d.proved {
			if closed(c) {
				delete(d.proved, c)
			}
		}
		d.live = max(len(d.proved), 8)
	}
	d.proved[t] = by
	return true
}

// closed says whether this side has closed c.
func closed(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	return err != nil || raw.Control(func(uintptr) {}) != nil
}
