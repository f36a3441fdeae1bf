package p2p

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// Every datagram of the control plane is sealed with the network's control key,
// whatever is inside (QUIC's long headers, short ones, stateless resets):
//
//	0      0xC0 | version 2. The two top bits are what tells it from the data
//	       plane's datagrams on the same port
//	1–16   the head, one block under AES-256:
//	         0–5    sender, random, a new one whenever an agent starts
//	         6–11   number, which counts what the sender sealed
//	         12–15  time, seconds since the Unix epoch modulo 2³²
//	17–    the QUIC packet, ChaCha20-Poly1305. The nonce is sender and number,
//	       the associated data are byte 0 and the head
//	       tag, 16 bytes
//
// All integers are big endian. Both keys are derived from the control key. The
// head looks random to who doesn't hold it, and no two senders are the same by
// chance: with 10,000 agents that is one in five million.
//
// What doesn't open was not sent by a member. What opens is taken once, and only
// if its time is ours (fresh.go). All else is counted and gets no answer, so a
// stranger can't even learn that somebody listens, with whatever it has
// captured. Control traffic is small, so the cost (about 1 µs a datagram)
// doesn't matter.
//
// A QUIC packet has at most 1,280 bytes here: quic-go looks for a greater MTU
// only on sockets that it can forbid to fragment, and it can't reach through
// ours. So sealed datagrams have at most 1,313 bytes.
const (
	doorUDP = 0xc0 | 2

	headLen      = aes.BlockSize
	sealHead     = 1 + headLen
	sealOverhead = sealHead + chacha20poly1305.Overhead
)

// A door seals what this agent sends and opens what other members sent, over
// all sockets. It is safe for concurrent use, and allocates nothing.
type door struct {
	clock  func() time.Time
	keys   atomic.Pointer[[]ringKey] // the first seals, unless keysTo says otherwise
	sender [6]byte
	number atomic.Uint64 // 48 bits are enough for nine years at 10⁶ a second
	fresh  fresh

	strangers atomic.Uint64               // what doesn't open
	turn      atomic.Uint32               // of keyOut
	knock     func(netip.AddrPort, Token) // Config.Knocked

	mu     sync.Mutex
	heard  map[netip.AddrPort]*doorKey // by which of several keys
	proved map[*net.TCPConn]*doorKey   // by which key
	live   int                         // of proved, when that was looked at last
}

// A doorKey is what is derived from a control key.
type doorKey struct {
	control [32]byte
	head    cipher.Block
	body    cipher.AEAD
}

// newDoor makes a door with one key. clock tells the time of day.
func newDoor(key [32]byte, clock func() time.Time) (*door, error) {
	d := &door{clock: clock}
	_, _ = rand.Read(d.sender[:]) // never fails
	d.fresh.self = d.sender
	k, err := newDoorKey(key)
	d.keys.Store(&[]ringKey{{doorKey: k}})
	return d, err
}

func newDoorKey(control [32]byte) (*doorKey, error) {
	k := &doorKey{control: control}
	head, err := hkdf.Expand(sha256.New, control[:], "farlan door head", 32)
	if err != nil {
		return k, err
	}
	body, err := hkdf.Expand(sha256.New, control[:], "farlan door body", chacha20poly1305.KeySize)
	if err != nil {
		return k, err
	}
	if k.head, err = aes.NewCipher(head); err != nil {
		return k, err
	}
	k.body, err = chacha20poly1305.New(body)
	return k, err
}

// A head says who sealed something, and when.
type head struct {
	sender [6]byte
	number uint64 // 48 bits
	time   uint32
}

func (h head) append(b []byte) []byte {
	b = append(b, h.sender[:]...)
	b = append(b, byte(h.number>>40), byte(h.number>>32))
	b = binary.BigEndian.AppendUint32(b, uint32(h.number))
	return binary.BigEndian.AppendUint32(b, h.time)
}

// parseHead reads the head in b, which has at least headLen bytes.
func parseHead(b []byte) head {
	return head{
		sender: [6]byte(b),
		number: uint64(binary.BigEndian.Uint16(b[6:]))<<32 | uint64(binary.BigEndian.Uint32(b[8:])),
		time:   binary.BigEndian.Uint32(b[12:]),
	}
}

// seal appends b, sealed, to dst. kind is the first byte.
func (d *door) seal(dst []byte, kind byte, b []byte) []byte {
	return d.sealBy((*d.keys.Load())[0].doorKey, dst, kind, b)
}

func (d *door) sealBy(k *doorKey, dst []byte, kind byte, b []byte) []byte {
	return k.seal(dst, kind, head{sender: d.sender, number: d.number.Add(1), time: uint32(d.clock().Unix())}, b)
}

func (k *doorKey) seal(dst []byte, kind byte, h head, b []byte) []byte {
	n := len(dst)
	dst = h.append(append(dst, kind))
	nonce := dst[n+1 : n+1+chacha20poly1305.NonceSize]
	dst = k.body.Seal(dst, nonce, b, dst[n:n+sealHead])
	block := dst[n+1 : n+sealHead]
	k.head.Encrypt(block, block)
	return dst
}

// open appends to dst what is sealed in b, if it is fresh. dst must not overlap
// with b. The caller lends plain, which lies on the heap already.
func (d *door) open(dst []byte, kind byte, b []byte, plain *[sealHead]byte) ([]byte, bool) {
	out, by := d.unseal(dst, kind, b, plain)
	return out, by != nil
}

// unseal is open, and says by which key; nil if it isn't fresh or doesn't open.
func (d *door) unseal(dst []byte, kind byte, b []byte, plain *[sealHead]byte) ([]byte, *doorKey) {
	if len(b) >= sealOverhead && b[0] == kind {
		now := d.clock()
		for _, k := range *d.keys.Load() {
			if !k.good(now) {
				continue
			}
			if out, ok := k.open(dst, b, plain); ok {
				if !d.fresh.take(parseHead(plain[1:]), now) {
					return dst, nil
				}
				return out, k.doorKey
			}
		}
	}
	d.strangers.Add(1)
	return dst, nil
}

// open decrypts and proves b, and leaves its first byte and head in plain.
func (k *doorKey) open(dst, b []byte, plain *[sealHead]byte) ([]byte, bool) {
	plain[0] = b[0]
	k.head.Decrypt(plain[1:], b[1:sealHead])
	out, err := k.body.Open(dst, plain[1:1+chacha20poly1305.NonceSize], b[sealHead:], plain[:])
	return out, err == nil
}
