package decide

import (
	"encoding/binary"
	"errors"

	"farlan/overlay/mesh"
)

// A request is a message between two agents about a link of theirs:
//
//	0    version, 1
//	1    what: 1 ask for the link, 2 it is accepted, 3 it is refused, 4 the sender gives
//	     it up
//	2–3  number of the ask, big endian, which the answer repeats; in a 4 of none
//	4    why, as mesh.Reason is numbered; 0 in a refusal is: not now, ask again
//	5    layer: 1 between gateways for their backbone; not there for other links
//
// Later versions append fields. What is unknown is dropped.
type request struct {
	what   byte
	number uint16
	why    mesh.Reason
	layer  byte
}

const (
	requestVersion = 1
	requestLen     = 5
	backbone       = 1 // a layer
)

const (
	_ = iota
	asks
	accepts
	refuses
	drops
)

var errRequest = errors.New("a request for a link that makes no sense")

func (r request) encode() []byte {
	b := make([]byte, 0, requestLen)
	b = append(b, requestVersion, r.what)
	b = append(binary.BigEndian.AppendUint16(b, r.number), byte(r.why))
	if r.layer != 0 {
		b = append(b, r.layer)
	}
	return b
}

// OfBackbone says whether a request is about a link of gateways' backbone.
func OfBackbone(msg []byte) bool { return len(msg) > requestLen && msg[requestLen] == backbone }

// parseRequest reads one. known is false if it is of a later version, or of a kind that
// later ones know.
func parseRequest(b []byte) (r request, known bool, err error) {
	if len(b) == 0 {
		return r, false, errRequest
	}
	if b[0] != requestVersion {
		return r, false, nil
	}
	if len(b) < requestLen {
		return r, false, errRequest
	}
	r = request{what: b[1], number: binary.BigEndian.Uint16(b[2:]), why: mesh.Reason(b[4])}
	if len(b) > requestLen {
		r.layer = b[requestLen]
	}
	switch r.what {
	case asks:
		if r.why < mesh.Full || r.why > mesh.Gain {
			return r, false, errRequest
		}
	case accepts, refuses, drops:
	default:
		return r, false, nil
	}
	return r, true, nil
}
