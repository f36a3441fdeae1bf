package agent

import (
	"sync/atomic"

	"farlan/overlay"
)

// A dropReason says why a datagram or frame went no further.
type dropReason int

// The reasons, beside those of the switch.
const (
	dropStranger   dropReason = iota // not a datagram of ours
	dropNoKeys                       // for a session that isn't there
	dropForged                       // didn't open: forged, or seen before
	dropHandshake                    // a handshake that wasn't answered
	dropBusy                         // the node had too much to do
	dropNoSession                    // a frame for an agent without session
	dropSend                         // the underlay refused a datagram
	dropPort                         // a port refused a frame
	dropControl                      // a control datagram that doesn't prove the network key
	dropMalformed                    // a member's datagram that makes no sense
	dropUnfit                        // a port's frame that is too long, or not what it says
	dropQueue                        // a frame that waited too long for the uplink
	dropMoving                       // a frame for a station that moved: too many waited, or it never came
	dropRead                         // what a port could not make a frame of
	dropStray                        // a datagram of ours that the kernel gave to the control plane
	dropNoRelay                      // what can't be passed on
	dropBeacon                       // a beacon of a stranger: of another network, perhaps
	dropLateBeacon                   // a beacon by a clock that is far off, or recorded
	dropOutsider                     // a handshake of the control plane with who is no member
	dropReplay                       // a control datagram that came before
	dropUntimely                     // one by a clock that is far off, or recorded
	dropPipe                         // it waited too long for a way through TCP
	dropRecord                       // a member's record that makes no sense, or isn't its own
	dropProbe                        // a member's probe, reply or acknowledgement that is out of order, or can't be
	dropTrain                        // what was said about no train, or of one that can't be
	dropForbidden                    // for an agent to which the direct link is forbidden, and no other path leads
	dropTransit                      // what isn't passed on: the limit is reached
	dropNotice                       // what a member said of a path that makes no sense
	dropRequest                      // what a member said of a link that makes no sense
	dropSpread                       // a flooded frame from who isn't to pass it on, or of somebody unknown
	dropFar                          // one that has gone over too many links
	dropHeld                         // a frame that waited for a session too long, or too many did
	dropVLAN                         // a port's frame of a VLAN that the port hasn't
	dropSlow                         // a frame for a QEMU that didn't read those before it
	dropGarbled                      // a connection to a QEMU socket that brought no frames
	dropCrowd                        // a connection too many to a QEMU socket
	dropReserved                     // a datagram that was more than is reserved for its frames
	dropStandby                      // a frame at a port for whose LAN another agent forwards
	dropSwitch                       // the first of the switch's verdicts
	dropReasons    = dropSwitch + 32
)

var dropNames = [dropSwitch]string{
	dropStranger: "datagram of a stranger", dropNoKeys: "no such session", dropForged: "forged or replayed",
	dropHandshake: "handshake refused", dropBusy: "busy", dropNoSession: "no session with the agent",
	dropSend: "underlay refused", dropPort: "port refused", dropMalformed: "malformed", dropControl: "control datagram of a stranger",
	dropUnfit: "unfit frame", dropQueue: "uplink full", dropMoving: "for a moving station",
	dropRead: "port unreadable", dropStray: "stray", dropNoRelay: "not relayed", dropBeacon: "beacon of a stranger", dropLateBeacon: "beacon by another clock",
	dropOutsider: "agent without a good credential",
	dropReplay:   "control datagram again", dropUntimely: "control datagram by another clock",
	dropPipe: "way through TCP full", dropRecord: "record refused", dropProbe: "probe or acknowledgement out of place", dropTrain: "not of a train", dropForbidden: "link forbidden", dropTransit: "transit limit", dropNotice: "notice that makes no sense",
	dropRequest: "link request that makes no sense", dropSpread: "flooded by who isn't to", dropFar: "flooded too far",
	dropHeld:     "no session in time",
	dropReserved: "more than is reserved",
	dropStandby:  "another agent forwards", dropVLAN: "VLAN not of the port", dropSlow: "QEMU too slow", dropGarbled: "QEMU socket: not frames", dropCrowd: "QEMU socket: too many",
}

// drops counts what was dropped. Safe for concurrent use.
type drops [dropReasons]atomic.Uint64

func (d *drops) add(r dropReason) { d[r].Add(1) }

func (d *drops) addN(r dropReason, n uint64) { d[r].Add(n) }

func (d *drops) verdict(v overlay.Verdict) { d[min(dropSwitch+dropReason(v), dropReasons-1)].Add(1) }

func (d *drops) count(v overlay.Verdict) uint64 { return d[dropSwitch+dropReason(v)].Load() }

// views returns the reasons that occurred.
func (d *drops) views() []dropView {
	all := []dropView{}
	for i := range d {
		n := d[i].Load()
		if n == 0 {
			continue
		}
		name := overlay.Verdict(i - int(dropSwitch)).String()
		if i < int(dropSwitch) {
			name = dropNames[i]
		}
		all = append(all, dropView{name, n})
	}
	return all
}
