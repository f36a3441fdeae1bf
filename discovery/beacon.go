package discovery

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"farlan/overlay"
)

// A Beacon is what an agent says on the links that it is on, so that agents there
// find each other with nothing but the network key. It proves that key and no more:
// any member can say it of anybody. So it is a hint where to dial, and the dial
// proves who is there.
//
// On the wire a beacon is BeaconLen bytes that can't be told from noise, whatever it
// says:
//
//	0–23     random nonce
//	24–239   what follows, sealed with XChaCha20-Poly1305 and the network's beacon key
//	240–255  tag
//
// Inside, numbers big endian:
//
//	0      version, 1; a beacon of another version says nothing to us
//	1      flags: 1 asks; the other bits are ignored
//	2–9    time, in seconds since the Unix epoch
//	10–17  session
//	18–49  agent
//	50     number of addresses
//	51–    addresses, as in a Member
//	       zeros up to 216 bytes, ignored: later versions append fields here
type Beacon struct {
	Agent   overlay.AgentID
	Session uint64 // a random number of this run of the agent: by it an agent knows its own
	// Ask says that the sender has just come and wants to hear who is here.
	Ask   bool
	Addrs []netip.AddrPort // where the agent can be dialled, at most MaxBeaconAddrs, best first
}

const (
	// BeaconLen is the length of every beacon, in bytes.
	BeaconLen = 256
	// MaxBeaconAddrs is how many addresses a beacon has room for, of any family.
	MaxBeaconAddrs = 8
	// BeaconSkew is how far the clocks of sender and receiver may be apart, and so
	// how long a beacon that somebody recorded is worth anything. It is what records
	// allow, too.
	BeaconSkew = maxAhead

	beaconNonceLen = chacha20poly1305.NonceSizeX
	beaconBodyLen  = BeaconLen - beaconNonceLen - chacha20poly1305.Overhead
	beaconVersion  = 1
	beaconAsks     = 1
	beaconHeadLen  = 51
	maxAddrLen     = 1 + 16 + 2
)

// The most addresses must fit; a negative length is none of an array.
var _ [beaconBodyLen - beaconHeadLen - MaxBeaconAddrs*maxAddrLen]struct{}

// The ways in which a datagram is no beacon for us.
var (
	errBeaconStranger = errors.New("beacon: not from a member")
	errBeaconTime     = fmt.Errorf("beacon: more than %v old, or the clocks are that far apart", BeaconSkew)
	errBeaconVersion  = errors.New("beacon: of another version")
)

// A BeaconSeal seals and opens the beacons of a network. It is safe for concurrent
// use.
type BeaconSeal struct{ aead cipher.AEAD }

// NewBeaconSeal returns the seal of a network.
func NewBeaconSeal(k NetworkKey) BeaconSeal {
	key := k.beaconKey()
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic("discovery: a key of constant length was refused: " + err.Error())
	}
	return BeaconSeal{aead}
}

// Seal returns the datagram of b at the time now by the wall clock. The nonce is
// random and used once. Errors: an address or a number of addresses that can't be
// told.
func (s BeaconSeal) Seal(now overlay.Instant, nonce [beaconNonceLen]byte, b Beacon) ([]byte, error) {
	body, err := b.append(make([]byte, 0, beaconBodyLen), now)
	if err != nil {
		return nil, err
	}
	return s.aead.Seal(append(make([]byte, 0, BeaconLen), nonce[:]...), nonce[:], body, nil), nil
}

// Open reads a datagram that came at the time now by the wall clock. Errors say why
// it is no beacon for us.
func (s BeaconSeal) Open(now overlay.Instant, d []byte) (Beacon, error) {
	if len(d) != BeaconLen {
		return Beacon{}, errBeaconStranger
	}
	var body [beaconBodyLen]byte
	if _, err := s.aead.Open(body[:0], d[:beaconNonceLen], d[beaconNonceLen:], nil); err != nil {
		return Beacon{}, errBeaconStranger
	}
	b, sent, err := parseBeacon(body[:])
	if err != nil {
		return Beacon{}, err
	}
	if off := now.Time().Unix() - sent; off > int64(BeaconSkew/time.Second) || off < -int64(BeaconSkew/time.Second) {
		return Beacon{}, errBeaconTime
	}
	return b, nil
}

// append appends what a beacon holds inside, beaconBodyLen bytes.
func (b Beacon) append(to []byte, now overlay.Instant) ([]byte, error) {
	if len(b.Addrs) > MaxBeaconAddrs {
		return nil, fmt.Errorf("beacon: %d addresses, at most %d can be told", len(b.Addrs), MaxBeaconAddrs)
	}
	end := len(to) + beaconBodyLen
	var flags byte
	if b.Ask {
		flags |= beaconAsks
	}
	to = append(to, beaconVersion, flags)
	to = binary.BigEndian.AppendUint64(to, uint64(now.Time().Unix()))
	to = binary.BigEndian.AppendUint64(to, b.Session)
	to = append(to, b.Agent[:]...)
	to = append(to, byte(len(b.Addrs)))
	for _, a := range b.Addrs {
		if !tellable(a) {
			return nil, fmt.Errorf("beacon: %v is no address to reach an agent at", a)
		}
		to = appendAddr(to, a)
	}
	return append(to, make([]byte, end-len(to))...), nil
}

// parseBeacon reads what a beacon holds inside, and when it was sent.
func parseBeacon(body []byte) (b Beacon, sent int64, err error) {
	if len(body) < beaconHeadLen {
		return Beacon{}, 0, errShort
	}
	if body[0] != beaconVersion {
		return Beacon{}, 0, errBeaconVersion
	}
	b = Beacon{
		Agent:   overlay.AgentID(body[18:50]),
		Session: binary.BigEndian.Uint64(body[10:]),
		Ask:     body[1]&beaconAsks != 0,
	}
	sent = int64(binary.BigEndian.Uint64(body[2:]))
	count, rest := int(body[50]), body[beaconHeadLen:]
	if count > MaxBeaconAddrs {
		return Beacon{}, 0, fmt.Errorf("beacon: %d addresses, at most %d are taken", count, MaxBeaconAddrs)
	}
	for range count {
		var a netip.AddrPort
		if a, rest, err = cutAddr(rest); err != nil {
			return Beacon{}, 0, fmt.Errorf("beacon: %w", err)
		}
		b.Addrs = append(b.Addrs, a)
	}
	return b, sent, nil
}
