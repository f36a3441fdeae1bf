package discovery

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unicode"
	"unicode/utf8"
)

// Limits of what bodies hold.
const (
	// MaxName is the longest name of an agent, in bytes: that of a DNS label.
	MaxName = 63
	// MaxAddrs is how many addresses a member tells: a few interfaces in both
	// families and what others see of it.
	MaxAddrs = 16
)

// A Member is the body of a KindMember record: who an agent is and where it can
// be reached.
//
//	0     flags: 1 left, 2 bridges a LAN, 12 the mapping; the other bits are ignored
//	1     length n of the name
//	2–    name, UTF-8, n bytes
//	      session key, 32 bytes
//	      number of addresses
//	      addresses: 4 or 6, then 4 or 16 bytes, then the port, big endian
//	      credential, in signed networks: length, 2 bytes big endian, and as many
//	      bytes; if it isn't all there, there is none
//	      area, 4 bytes, if it isn't 0, after a credential of length 0 in simple networks
//	      anything further is ignored: later versions append fields here
type Member struct {
	Name       string           // 1 to MaxName bytes, printable, no white space
	SessionKey [32]byte         // static X25519 public key of the agent's sessions
	Addrs      []netip.AddrPort // underlay UDP addresses, at most MaxAddrs, best first
	// Left says that the agent left in order. The record still lasts as long as
	// any: were it forgotten earlier, an older one could come back.
	Left bool
	// LAN says that the agent bridges a LAN: it speaks for stations that are not
	// its own. In a signed network that takes RightBridge.
	LAN     bool
	Mapping Mapping // of the NAT in front of the agent
	// Credential is the agent's in a signed network, encoded, at most
	// MaxCredential bytes; nil if there is none. What it says isn't checked here.
	Credential []byte
	// Area is the one in which the agent is, 0 if the network isn't divided.
	Area uint32
}

const (
	memberLeft = 1
	memberLAN  = 2
)

var (
	errShort = errors.New("body ends too early")
	errName  = fmt.Errorf("name must be 1 to %d bytes of printable UTF-8 without white space", MaxName)
)

// ValidName says whether s can be the name of an agent.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > MaxName || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) || unicode.IsSpace(r) {
			return false
		}
	}
	return true
}

// Append appends m's encoding to b. Errors: a name, an address or a number of
// addresses that can't be told.
func (m Member) Append(b []byte) ([]byte, error) {
	if !ValidName(m.Name) {
		return nil, fmt.Errorf("member %q: %w", m.Name, errName)
	}
	if len(m.Addrs) > MaxAddrs {
		return nil, fmt.Errorf("member %q: %d addresses, at most %d can be told", m.Name, len(m.Addrs), MaxAddrs)
	}
	var flags byte
	if m.Left {
		flags |= memberLeft
	}
	if m.LAN {
		flags |= memberLAN
	}
	flags |= m.Mapping.flags()
	b = append(b, flags, byte(len(m.Name)))
	b = append(b, m.Name...)
	b = append(b, m.SessionKey[:]...)
	b = append(b, byte(len(m.Addrs)))
	for _, a := range m.Addrs {
		if !tellable(a) {
			return nil, fmt.Errorf("member %q: %v is no address to reach an agent at", m.Name, a)
		}
		b = appendAddr(b, a)
	}
	if len(m.Credential) > MaxCredential {
		return nil, fmt.Errorf("member %q: credential of %d bytes", m.Name, len(m.Credential))
	}
	if len(m.Credential) > 0 || m.Area != 0 {
		b = binary.BigEndian.AppendUint16(b, uint16(len(m.Credential)))
		b = append(b, m.Credential...)
	}
	if m.Area != 0 {
		b = binary.BigEndian.AppendUint32(b, m.Area)
	}
	return b, nil
}

// appendAddr appends the encoding of an address that can be told: 7 or 19 bytes.
func appendAddr(b []byte, a netip.AddrPort) []byte {
	if a.Addr().Is4() {
		b = append(b, 4)
	} else {
		b = append(b, 6)
	}
	b = append(b, a.Addr().AsSlice()...)
	return binary.BigEndian.AppendUint16(b, a.Port())
}

// ParseMember reads the encoding of a Member.
func ParseMember(b []byte) (Member, error) {
	if len(b) < 2 || len(b) < 2+int(b[1])+32+1 {
		return Member{}, errShort
	}
	n := int(b[1])
	m := Member{Name: string(b[2 : 2+n]), Left: b[0]&memberLeft != 0, LAN: b[0]&memberLAN != 0, Mapping: mappingOf(b[0])}
	if !ValidName(m.Name) {
		return Member{}, errName
	}
	b = b[2+n:]
	copy(m.SessionKey[:], b)
	count := int(b[32])
	b = b[33:]
	if count > MaxAddrs {
		return Member{}, fmt.Errorf("%d addresses, at most %d are taken", count, MaxAddrs)
	}
	for range count {
		a, rest, err := cutAddr(b)
		if err != nil {
			return Member{}, err
		}
		m.Addrs = append(m.Addrs, a)
		b = rest
	}
	m.Credential, b = cutCredential(b)
	if len(b) >= 4 {
		m.Area = binary.BigEndian.Uint32(b)
	}
	return m, nil
}

// cutCredential returns the credential at the start of what follows the
// addresses, nil if there is none, and what follows that.
func cutCredential(b []byte) (c, rest []byte) {
	if len(b) < 2 {
		return nil, nil
	}
	switch n := int(binary.BigEndian.Uint16(b)); {
	case n > MaxCredential || n > len(b)-2:
		return nil, nil
	case n == 0:
		return nil, b[2:]
	default:
		return bytes.Clone(b[2 : 2+n]), b[2+n:]
	}
}

// cutAddr reads the address at the start of b and returns what follows it.
func cutAddr(b []byte) (netip.AddrPort, []byte, error) {
	n := 4
	if len(b) > 0 && b[0] == 6 {
		n = 16
	} else if len(b) > 0 && b[0] != 4 {
		return netip.AddrPort{}, nil, fmt.Errorf("address of family %d", b[0])
	}
	if len(b) < 1+n+2 {
		return netip.AddrPort{}, nil, errShort
	}
	ip, _ := netip.AddrFromSlice(b[1 : 1+n])
	a := netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[1+n:]))
	if !tellable(a) {
		return netip.AddrPort{}, nil, fmt.Errorf("%v is no address to reach an agent at", a)
	}
	return a, b[1+n+2:], nil
}

// tellable says whether a is an address that others can use: it has one
// encoding, names one host and means the same everywhere.
func tellable(a netip.AddrPort) bool {
	ip := a.Addr()
	return ip.IsValid() && !ip.Is4In6() && ip.Zone() == "" && !ip.IsUnspecified() && !ip.IsMulticast() && a.Port() != 0
}
