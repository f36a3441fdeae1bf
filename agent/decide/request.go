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
//
// Later versions append fields. What is unknown is dropped.
type request struct {
	what   byte
	number uint16
	why    mesh.Reason
}

const (
	requestVersion = 1
	requestLen     = 5
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
	return append(binary.BigEndian.AppendUint16(b, r.number), byte(r.why))
}

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
	r = request{b[1], binary.BigEndian.Uint16(b[2:]), mesh.Reason(b[4])}
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
