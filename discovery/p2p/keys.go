package p2p

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"

	"farlan/discovery"
)

// maxKeys is how many network keys a node takes at once: the current one, the
// next, and one or two whose change was given up.
const maxKeys = 4

// A Key is a network key, and how long it counts.
type Key struct {
	Network discovery.NetworkKey
	Until   time.Time // by Config.Clock; the zero time is never
}

// SetKeys replaces the network keys; a new node has Config.Network alone. With
// the first, which has no end, this agent seals from now on. Whoever seals with
// any of them is heard until that one's end. So a network changes its key in
// two steps: first everybody takes the new one as its second, then as its first
// with the old one behind it.
//
// Live connections go on, whatever they were opened with. The DHT keeps the
// names of Config.Network until the agent is started again. An error means that
// nothing was changed.
func (n *Node) SetKeys(keys ...Key) error {
	if !n.begin() {
		return errors.New("p2p: set keys: the node has ended")
	}
	defer n.tasks.Done()
	n.keying.Lock()
	defer n.keying.Unlock()
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

// setKeys replaces the keys. It is for one goroutine at a time.
func (d *door) setKeys(keys []Key) error {
	if len(keys) == 0 || len(keys) > maxKeys {
		return fmt.Errorf("%d network keys, want 1 to %d", len(keys), maxKeys)
	}
	if !keys[0].Until.IsZero() {
		return errors.New("the first network key has an end, but nothing follows it")
	}
	out := make([]doorKey, 0, len(keys))
	for _, k := range keys {
		if k.Network.IsZero() {
			return errors.New("a network key is zero")
		}
		one, err := newDoorKey(k.Network.ControlKey())
		if err != nil {
			return err
		}
		one.until = k.Until
		out = append(out, one)
	}
	d.keys.Store(&out)
	return nil
}
