package overlay

import (
	"encoding/binary"
	"slices"
)

// A Claim says that a station is at a port of the agent that makes it. Claims travel as
// frames of their own, flooded from that agent as those of its stations are, and end at the
// agents, who neither write them to ports nor take them from there:
//
//	0–5    broadcast
//	6–11   the first claim's station
//	12–13  EtherType 0x88b5 (IEEE 802, local experimental 1)
//	14     1, the version
//	15     flags: 1 says that they answer one with a lower number; 2, 4 and 8 are Keep, of
//	       all that the frame claims
//	16–    ten bytes for each: the station, and the sequence number, big endian
//
// Padding may follow, of zeros.
type Claim struct {
	MAC      MAC
	Sequence uint32 // see Stations
	Keep     Keep
}

// MaxClaims is how many claims go into a frame at most.
const MaxClaims = 64

const (
	etherClaims   = 0x88b5
	claimsVersion = 1
	claimsHeader  = MinFrame + 2
	claimLen      = 10
)

// AppendClaims appends the frame of claims, one at least and MaxClaims at most, all with the
// same Keep, to b; answer says that they answer others.
func AppendClaims(b []byte, claims []Claim, answer bool) []byte {
	b = append(append(b, Broadcast[:]...), claims[0].MAC[:]...)
	b = binary.BigEndian.AppendUint16(b, etherClaims)
	b = append(b, claimsVersion, byte(claims[0].Keep)<<1)
	if answer {
		b[len(b)-1] |= 1
	}
	for _, c := range claims {
		b = binary.BigEndian.AppendUint32(append(b, c.MAC[:]...), c.Sequence)
	}
	return b
}

// IsClaims says whether a frame is one of claims.
func IsClaims(frame []byte) bool {
	return len(frame) >= MinFrame && binary.BigEndian.Uint16(frame[12:]) == etherClaims && MAC(frame[:6]) == Broadcast
}

// CountClaims returns how many claims a frame of them has at most.
func CountClaims(frame []byte) int {
	return min(max(len(frame)-claimsHeader, 0)/claimLen, MaxClaims)
}

// ParseClaims appends the claims of a frame of them to claims, and says whether they are an
// answer. Those of addresses that nobody can have are left out. It is false if the frame is of
// another version, or malformed.
func ParseClaims(frame []byte, claims []Claim) (all []Claim, answer, ok bool) {
	if len(frame) < claimsHeader+claimLen || frame[MinFrame] != claimsVersion {
		return claims, false, false
	}
	b := frame[claimsHeader:]
	for range min(len(b)/claimLen, MaxClaims) {
		c := Claim{MAC(b), binary.BigEndian.Uint32(b[6:]), Keep(frame[MinFrame+1]>>1) & keeps}
		if !c.MAC.Group() && c.MAC != (MAC{}) && c.Sequence != 0 && !slices.Contains(claims, c) {
			claims = append(claims, c)
		}
		b = b[claimLen:]
	}
	return claims, frame[MinFrame+1]&1 != 0, true
}
