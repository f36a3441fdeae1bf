package agent

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

// An attachment is how the agent that asked for an outside circuit tells the one at the other
// end, which the provider told nothing, where the circuit comes in there:
//
//	0      0x81, as messages of brokers begin with their version, 1
//	1      0
//	2–3    VLAN at the receiver
//	4–7    the receiver's address on the circuit, IPv4
//	8–11   the sender's
//	12–15  lease in milliseconds from when it was sent: for so long it lasts; 0: it is over
//
// All is big endian; later versions append. It is sent again each attachEvery. Who sent it the
// agent knows by the session.
type attachment struct {
	vlan         uint16
	here, sender netip.Addr
	lease        time.Duration // whole milliseconds
}

const (
	attachmentKind = 0x81
	attachmentLen  = 16
)

var errAttachment = errors.New("an attachment to a circuit that makes no sense")

// appendAttachment appends a message to b. Addresses must be IPv4.
func appendAttachment(b []byte, a attachment) []byte {
	b = append(b, attachmentKind, 0)
	b = binary.BigEndian.AppendUint16(b, a.vlan)
	here, sender := a.here.As4(), a.sender.As4()
	b = append(append(b, here[:]...), sender[:]...)
	return binary.BigEndian.AppendUint32(b, uint32(a.lease/time.Millisecond))
}

// isAttachment says whether a message about reservations is one, rather than a broker's.
func isAttachment(b []byte) bool { return len(b) > 0 && b[0] == attachmentKind }

// parseAttachment reads a message; whether what it says may be is circuitEnds' to say.
func parseAttachment(b []byte) (attachment, error) {
	if !isAttachment(b) || len(b) < attachmentLen {
		return attachment{}, errAttachment
	}
	return attachment{
		vlan:   binary.BigEndian.Uint16(b[2:]),
		here:   netip.AddrFrom4([4]byte(b[4:])),
		sender: netip.AddrFrom4([4]byte(b[8:])),
		lease:  time.Duration(binary.BigEndian.Uint32(b[12:])) * time.Millisecond,
	}, nil
}
