package overlay

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/mr-tron/base58"
)

// An AgentID names an agent: it is the agent's Ed25519 public key, of which
// the libp2p peer id is an encoding. The zero AgentID names nobody.
type AgentID [32]byte

// peerIDPrefix precedes the key in a libp2p peer id: an identity multihash
// (0x00) of 36 bytes (0x24) that hold a protobuf public key of type Ed25519
// (0x08 0x01) and 32 bytes (0x12 0x20). Source: libp2p peer-ids specification.
var peerIDPrefix = []byte{0x00, 0x24, 0x08, 0x01, 0x12, 0x20}

// String returns the agent's libp2p peer id ("12D3Koo…").
func (a AgentID) String() string {
	return base58.Encode(append(append(make([]byte, 0, 38), peerIDPrefix...), a[:]...))
}

// Short returns the last eight characters of the peer id, for logs.
func (a AgentID) Short() string { s := a.String(); return s[len(s)-8:] }

// IsZero says whether a names nobody.
func (a AgentID) IsZero() bool { return a == AgentID{} }

// Compare orders agents by their bytes.
func (a AgentID) Compare(b AgentID) int { return bytes.Compare(a[:], b[:]) }

// ParseAgentID reads a libp2p peer id of an Ed25519 key.
func ParseAgentID(s string) (AgentID, error) {
	b, err := base58.Decode(s)
	if err != nil {
		return AgentID{}, fmt.Errorf("peer id %q: %w", s, err)
	}
	if len(b) != len(peerIDPrefix)+32 || !bytes.HasPrefix(b, peerIDPrefix) {
		return AgentID{}, fmt.Errorf("peer id %q is not that of an Ed25519 key", s)
	}
	return AgentID(b[len(peerIDPrefix):]), nil
}

// A MAC is an Ethernet address. It is comparable; the zero MAC is nobody's.
type MAC [6]byte

// Broadcast is the address of every station.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Group says whether m is a multicast or the broadcast address.
func (m MAC) Group() bool { return m[0]&1 != 0 }

// LinkLocal says whether m is one of the addresses that bridges never forward
// (IEEE 802.1D § 7.12.6: 01-80-C2-00-00-00 to 0F: spanning tree, pause, LLDP).
func (m MAC) LinkLocal() bool {
	return m[0] == 0x01 && (m[1] == 0x80 && m[2] == 0xc2 && m[3] == 0 && m[4] == 0 && m[5]&0xf0 == 0 || m == PVST)
}

// PVST is where Cisco's bridges send spanning tree's frames for each VLAN. Bridges that don't
// know it would forward them.
var PVST = MAC{0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd}

// Compare orders addresses by their bytes.
func (m MAC) Compare(o MAC) int { return bytes.Compare(m[:], o[:]) }

// String returns m as "02:00:5e:10:00:01".
func (m MAC) String() string {
	b := make([]byte, 0, 17)
	for i, x := range m {
		if i > 0 {
			b = append(b, ':')
		}
		b = hex.AppendEncode(b, []byte{x})
	}
	return string(b)
}

// ParseMAC reads an address of six hexadecimal bytes with colons or dashes.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	if len(s) != 17 {
		return m, errMAC
	}
	for i := range m {
		if i > 0 && s[3*i-1] != ':' && s[3*i-1] != '-' {
			return MAC{}, errMAC
		}
		if _, err := hex.Decode(m[i:i+1], []byte(s[3*i:3*i+2])); err != nil {
			return MAC{}, errMAC
		}
	}
	return m, nil
}

var errMAC = errors.New("not a MAC address (want aa:bb:cc:dd:ee:ff)")
