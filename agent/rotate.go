package agent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"farlan/discovery"
	"farlan/discovery/p2p"
	"farlan/measure"
	"farlan/overlay"
)

const (
	// While the network changes its key, sessions by an old one are renewed: after
	// refreshFirst, for those whose other end had not heard of the change yet, then
	// after twice as long each time, up to refreshMost.
	refreshFirst = 2 * time.Second
	refreshMost  = time.Minute
)

// keys is what the loop knows of the network's keys.
type keys struct {
	ring    discovery.Keyring
	due     bool            // there may be an order
	refresh overlay.Instant // when sessions are renewed next, 0 needn't
	every   time.Duration
	fault   error // the key file is not what it should be
}

// turnKeys changes the network's key when there is an order to, and forgets old
// ones when their time is over.
func (n *node) turnKeys(now overlay.Instant) {
	k, wall := &n.keys, n.wall()
	if k.refresh != 0 && !now.Before(k.refresh) {
		n.sessions.Refresh(now)
		k.every = min(2*k.every, refreshMost)
		k.refresh = now.Add(k.every)
		if k.fault != nil {
			n.keepKeys()
		}
	}
	if _, until, changing := k.ring.From(); changing && !wall.Time().Before(until) {
		n.endChange(now, wall)
	}
	if !k.due {
		return
	}
	k.due = false
	if ring, changed := k.ring.Take(wall, n.store.Rotations()); changed {
		n.changeKey(now, ring)
		n.keepKeys()
	}
}

// changeKey makes the agent go by other keys.
func (n *node) changeKey(now overlay.Instant, ring discovery.Keyring) {
	k := &n.keys
	from, until, _ := ring.From()
	k.ring, k.every, k.refresh = ring, refreshFirst, now.Add(refreshFirst)
	n.log.Info("the network changes its key", "from", from.ID(), "to", ring.Current().ID(), "old_good_until", until.UTC())
	n.useKeys()
	n.sessions.Refresh(now)
	// What this agent says of itself is signed for the new key from now on, as soon
	// as the order is on its way to those who shall believe it.
	n.own.member = 0
	n.own.rows.Again()
	n.own.flows.Again()
	n.control.next = now.Add(controlEvery)
	n.stale, n.saved = now, 0
}

// endChange forgets the keys that are over.
func (n *node) endChange(now, wall overlay.Instant) {
	k := &n.keys
	k.ring, _ = k.ring.Expire(wall)
	k.refresh, k.due = 0, true // the next order may wait
	n.log.Info("the old network key is over", "network", k.ring.Current().ID())
	n.useKeys()
	n.sessions.Retire(now)
	if err := forgetOldKeys(n.cfg.KeyFile); err != nil {
		n.log.Error("the old network key is still on the disk", "error", err)
	}
	n.stale = now
}

// useKeys hands the keys to all that is derived from them.
func (n *node) useKeys() {
	all := n.keys.ring.Keys()
	n.network, n.admission.network = all[0], n.keys.ring.Current()
	var secrets []overlay.Secrets
	for _, k := range all {
		secrets = append(secrets, overlay.Secrets{Door: k.DoorKey(), PSK: k.SessionPSK()})
	}
	n.hs.SetSecrets(secrets...)
	n.store.SetKeys(n.wall(), all...)
	n.useControlKeys()
	n.useSegmentKeys(all...)
	if n.lookout != nil {
		n.lookout.SetKeys(all...)
	}
}

// useControlKeys hands the keys to the control plane, if there is one yet.
func (n *node) useControlKeys() {
	if n.p2p == nil {
		return
	}
	all := n.keys.ring.Keys()
	keys := []p2p.Key{{Network: all[0]}}
	for i, o := range n.keys.ring.Old() {
		keys = append(keys, p2p.Key{Network: all[i+1], Until: time.Unix(o.Until, 0)})
	}
	if err := n.p2p.SetKeys(keys...); err != nil {
		n.log.Error("the control plane keeps the old network key", "error", err)
	}
}

// keepKeys writes the keys to the disk. An agent that can't goes on, and says so.
func (n *node) keepKeys() {
	k := &n.keys
	err := writeKeys(n.cfg.KeyFile, k.ring)
	if err != nil {
		err = keyFileFault(n.cfg.KeyFile, err)
		if k.fault == nil {
			n.log.Error("this agent has the new network key until it is started again only", "error", err, "hint", hintOf(err))
		}
	}
	k.fault = err
}

// changing is an error while the network changes its key.
func (n *node) changing() error {
	from, until, changing := n.keys.ring.From()
	if !changing {
		return nil
	}
	return hintf("the next change can begin when this one is over; 'farlan status' says how far it is")(
		"key rotate: the network already changes its key, from %s to %s, until %s", from.ID(), n.keys.ring.Current().ID(), until.Local().Format(time.DateTime))
}

// rotate orders a simple network to change its key.
func (n *node) rotate(now overlay.Instant, overlap time.Duration) (*rotationView, error) {
	k, wall := &n.keys, n.wall()
	if err := n.changing(); err != nil {
		return nil, err
	}
	if err := checkOverlap(overlap); err != nil {
		return nil, err
	}
	if k.ring.Current().Signed() {
		return nil, hintf("do it where the admin key is")("key rotate: in a signed network the admin orders it")
	}
	to, err := discovery.NewNetworkKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	order, err := discovery.SignRotation(wall, n.ident.key, k.ring.Current(), n.store.NextVersion(wall), overlap, to)
	if err != nil {
		return nil, err
	}
	ring, err := n.obey(wall, order, to)
	if err != nil {
		return nil, err
	}
	n.store.Publish(wall, order)
	n.changeKey(now, ring)
	return n.rotation(), nil
}

func checkOverlap(overlap time.Duration) error {
	if overlap < discovery.MinOverlap || overlap > discovery.MaxOverlap {
		return usagef("who isn't connected in that time must be given the new key by hand")("--overlap %v: want %v to %v", overlap, discovery.MinOverlap, discovery.MaxOverlap)
	}
	return nil
}

// obey writes the key of an order to the disk, and returns the keys to go by: the
// order comes true where it begins, or not at all.
func (n *node) obey(wall overlay.Instant, order discovery.Record, to discovery.NetworkKey) (ring discovery.Keyring, err error) {
	onDisk, err := readNetwork(n.cfg.KeyFile)
	if err != nil {
		return ring, err
	}
	if onDisk.ID() != n.network.ID() {
		return ring, hintf("start the agent again, or put the key back that it was started with")(
			"key rotate: the key file %s holds another network's key (%s) than this agent goes by (%s)", n.cfg.KeyFile, onDisk.ID(), n.network.ID())
	}
	ring, _ = n.keys.ring.Take(wall, append(n.store.Rotations(), order))
	if ring.Current() != discovery.NewNetwork(to, ring.Current().Admin()) {
		return ring, hintf("'farlan status' says how far that is")("key rotate: another agent has just begun")
	}
	if err := writeKeys(n.cfg.KeyFile, ring); err != nil {
		return ring, errors.Join(keyFileFault(n.cfg.KeyFile, err), forgetOldKeys(n.cfg.KeyFile))
	}
	return ring, nil
}

// rotation says how far a change of the key is, nil if there is none.
func (n *node) rotation() *rotationView {
	from, until, changing := n.keys.ring.From()
	if !changing {
		return nil
	}
	v := &rotationView{From: from.ID(), To: n.keys.ring.Current().ID(), Until: until.UTC(), Agents: 1, Have: 1, Waiting: []string{}}
	names := n.names()
	for id, p := range n.peers {
		if p.state == measure.Gone || p.member.Left {
			continue
		}
		v.Agents++
		if n.store.SignedFor(id, n.network) {
			v.Have++
		} else {
			v.Waiting = append(v.Waiting, names[id])
		}
	}
	slices.Sort(v.Waiting)
	return v
}

// checkKey says how the key file does; ok is false if there is nothing to say.
func (n *node) checkKey() (h healthView, ok bool) {
	if n.keys.fault == nil {
		return healthView{}, false
	}
	return healthView{
		Check: "network key", Hint: hintOf(n.keys.fault),
		Detail: fmt.Sprintf("this agent goes by the new network key, but would start with the old one: %v", n.keys.fault),
	}, true
}
