package overlay

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"farlan/overlay/internal/gcm"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/cpu"
)

// The life of a session. Its times count from the first handshake message on
// the side that sent it, from the second on the other: the initiator stops
// first, so that the responder still opens what is on the way.
const (
	// RekeyAfter is the age at which a session is to be replaced: what one
	// stolen key reads is no more than that.
	RekeyAfter = 2 * time.Minute
	// RekeyAfterDatagrams is how many sent datagrams make the sender replace a
	// session of whatever age.
	RekeyAfterDatagrams = 1 << 32
	// RejectAfter is the age at which a session is dead, be there a new one or
	// not.
	RejectAfter = 4 * time.Minute
	// RejectAfterDatagrams is the number of datagrams that no space of a direction
	// exceeds. Four times 2^33 of them of at most 2^12 AES blocks leave an attacker of
	// AES-GCM a chance of 2^-35 to tell it from noise (σ²/2^129).
	RejectAfterDatagrams = 1 << 33

	// responderPatience is how much later than the initiator the responder
	// replaces a session, so that usually only one of them does.
	responderPatience = 10 * time.Second

	keysLabel = "farlan session keys 1"
)

// A Suite is the AEAD of a session. The values are on the wire.
type Suite uint8

// The suites. Every agent can do ChaCha20-Poly1305; AES-256-GCM is used between
// two that both have instructions for it: it is twice to four times as fast with
// them, and slow or leaky without.
const (
	_           Suite = iota
	SuiteChaCha       // ChaCha20-Poly1305 (RFC 8439)
	SuiteAES          // AES-256-GCM (NIST SP 800-38D)
)

// String returns the suite's name, for people.
func (s Suite) String() string {
	switch s {
	case SuiteChaCha:
		return "ChaCha20-Poly1305"
	case SuiteAES:
		return "AES-256-GCM"
	}
	return fmt.Sprintf("suite %d", uint8(s))
}

// HasAES says whether this processor has instructions for both halves of
// AES-GCM.
func HasAES() bool {
	return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ ||
		cpu.ARM64.HasAES && cpu.ARM64.HasPMULL ||
		cpu.S390X.HasAESGCM
}

// aead returns the suite's AEAD with a key of 32 bytes.
func (s Suite) aead(key []byte) (cipher.AEAD, error) {
	switch s {
	case SuiteChaCha:
		return chacha20poly1305.New(key)
	case SuiteAES:
		return gcm.New(key)
	}
	return nil, fmt.Errorf("unknown %v", s)
}

// A Session is what two agents share to exchange datagrams that only they can
// read and make: a key for each direction, a counter for what goes out, a
// replay window for what comes in. All methods are safe for concurrent use.
// It comes from Initiation.Finish or Handshaker.Respond.
type Session struct {
	peer          AgentID
	local, remote uint32 // the indices by which we and the peer know it
	created       Instant
	initiator     bool
	suite         Suite
	secrets       Secrets // of the handshake

	sealer, opener atomic.Pointer[cipher.AEAD] // nil once erased

	// The sending and the receiving goroutine write to cache lines of their own.
	_        cpu.CacheLinePad
	counters [Spaces]atomic.Uint64 // the next datagram's; go on rising when refused
	_        cpu.CacheLinePad
	received atomic.Uint64
	mu       sync.Mutex // guards windows
	windows  [Spaces]window
}

// A Space is a sequence of datagrams of a session with counters of its own, which are
// lost, late and acknowledged by themselves: there is one for each way that they take at
// the same time (as multipath QUIC has a packet number space for each path).
type Space uint8

// The spaces.
const (
	SpaceWay      Space = iota // what goes the session's way: see Way
	SpaceBulk                  // frames of class bulk that go by members
	SpaceDelay                 // and those of class delay
	SpaceReserved              // frames for which capacity is reserved, by whatever way
	Spaces                     // how many there are

	spaceShift = 40 // where a counter says its space
)

// SpaceOf returns the space of a counter, and what it counts there. The space may be one
// that there isn't.
func SpaceOf(counter uint64) (s Space, count uint64) {
	return Space(min(counter>>spaceShift, uint64(Spaces))), counter & (1<<spaceShift - 1)
}

// Counter returns the counter of a datagram of the space.
func (s Space) Counter(count uint64) uint64 { return uint64(s)<<spaceShift | count }

// setKeys derives the keys of s, at agent self, from a handshake's key material
// and its hash. Everything else that s says must be set: it goes into the keys,
// the initiator's first.
func (s *Session) setKeys(self AgentID, hash, material []byte) error {
	from, to, first, second := self, s.peer, s.local, s.remote
	if !s.initiator {
		from, to, first, second = to, from, second, first
	}
	info := append([]byte(keysLabel), from[:]...)
	info = append(info, to[:]...)
	info = binary.BigEndian.AppendUint32(info, first)
	info = binary.BigEndian.AppendUint32(info, second)
	info = append(info, byte(s.suite))
	keys, err := hkdf.Key(sha256.New, material, hash, string(info), 64)
	if err != nil {
		return err
	}
	forth, err := s.suite.aead(keys[:32])
	if err != nil {
		return err
	}
	back, err := s.suite.aead(keys[32:])
	if err != nil {
		return err
	}
	if !s.initiator {
		forth, back = back, forth
	}
	s.sealer.Store(&forth)
	s.opener.Store(&back)
	return nil
}

// Peer returns the agent at the other end.
func (s *Session) Peer() AgentID { return s.peer }

// LocalIndex returns the index that the peer puts into datagrams for us.
func (s *Session) LocalIndex() uint32 { return s.local }

// RemoteIndex returns the index that we put into datagrams for the peer.
func (s *Session) RemoteIndex() uint32 { return s.remote }

// Created returns when the session's age began to count.
func (s *Session) Created() Instant { return s.created }

// Initiator says whether we sent the first handshake message.
func (s *Session) Initiator() bool { return s.initiator }

// Suite returns the session's AEAD.
func (s *Session) Suite() Suite { return s.suite }

// Sent returns how many datagrams were sealed of SpaceWay.
func (s *Session) Sent() uint64 { return s.SentOf(SpaceWay) }

// SentOf returns how many datagrams were sealed of a space.
func (s *Session) SentOf(space Space) uint64 {
	return min(s.counters[space].Load(), RejectAfterDatagrams)
}

// sentMost returns how many were sealed of the space of which most were.
func (s *Session) sentMost() uint64 {
	most := uint64(0)
	for i := range s.counters {
		most = max(most, s.SentOf(Space(i)))
	}
	return most
}

// Received returns how many datagrams were opened.
func (s *Session) Received() uint64 { return s.received.Load() }

// Confirmed says whether the peer has proved that it holds the keys: to the
// initiator by its response, to the responder by its first datagram. Until
// then the initiation may be a replay, so a responder must not give up an older
// session for this one, nor send through it while it has an older one.
func (s *Session) Confirmed() bool { return s.initiator || s.received.Load() > 0 }

// Seal makes b the next datagram for the peer, of a kind and a lane, in place,
// and returns it, longer by TagLen. The first HeaderLen bytes of b are room for the header, the rest
// is the plaintext; cap(b) must leave TagLen spare bytes. It returns nil, and
// leaves b's plaintext alone, when the session must not be used any more: it
// was erased or has sent RejectAfterDatagrams. It knows nothing of time: who
// owns the session erases it when it is Expired.
func (s *Session) Seal(kind Kind, lane byte, b []byte) []byte {
	return s.seal(SpaceWay, kind, 0, lane, b)
}

// SealNudge returns a datagram of a space in which there is nothing: that it came is
// acknowledged as if it held frames. It is nil when the session is over.
func (s *Session) SealNudge(space Space) []byte {
	b := make([]byte, HeaderLen+1, HeaderLen+1+TagLen) // itemPadding
	return s.SealOf(space, KindData, LaneDelay, b)
}

// SealOf is Seal of a datagram of a space.
func (s *Session) SealOf(space Space, kind Kind, lane byte, b []byte) []byte {
	return s.seal(space, kind, 0, lane, b)
}

// seal is Seal of a datagram of a space, with a path of some labels.
func (s *Session) seal(space Space, kind Kind, labels, lane byte, b []byte) []byte {
	d := b[:len(b)+TagLen] // panics here rather than move the datagram
	aead := s.sealer.Load()
	if aead == nil {
		return nil
	}
	counter := s.counters[space].Add(1) - 1
	if counter >= RejectAfterDatagrams {
		return nil
	}
	putHeader(d, kind, labels, lane, s.remote, space.Counter(counter))
	// The key is this direction's alone and never sees a counter twice, so the
	// header's index and counter are a nonce as they lie there.
	(*aead).Seal(b[HeaderLen:HeaderLen], b[4:HeaderLen], b[HeaderLen:], b[:HeaderLen])
	return d
}

// Open checks and decrypts datagram d in place and returns its plaintext, a
// part of d. If ok is false, d is forged, garbled, replayed, too old, or not of
// this session, or the session was erased, and what lies in d is undefined.
func (s *Session) Open(d []byte) (body []byte, ok bool) {
	if len(d) < HeaderLen+TagLen {
		return nil, false
	}
	aead := s.opener.Load()
	space, counter := SpaceOf(Counter(d))
	if aead == nil || space >= Spaces || counter >= RejectAfterDatagrams {
		return nil, false
	}
	body, err := (*aead).Open(d[HeaderLen:HeaderLen], d[4:HeaderLen], d[HeaderLen:], d[:HeaderLen])
	if err != nil {
		return nil, false
	}
	s.mu.Lock()
	ok = s.windows[space].accept(counter)
	s.mu.Unlock()
	if !ok {
		return nil, false
	}
	s.received.Add(1)
	return body, true
}

// Expired says whether the session must not be used at now any more. Its owner
// then erases it.
func (s *Session) Expired(now Instant) bool {
	return s.sealer.Load() == nil || now.Sub(s.created) >= RejectAfter || s.sentMost() >= RejectAfterDatagrams
}

// WantsRekey says whether it is time at now for a new handshake with the peer.
// The responder is more patient, so that the two don't start at once.
func (s *Session) WantsRekey(now Instant) bool {
	patience := RekeyAfter
	if !s.initiator {
		patience += responderPatience
	}
	return now.Sub(s.created) >= patience || s.sentMost() >= RekeyAfterDatagrams
}

// Erase forgets the keys. Calls of Seal and Open that are under way end as if
// they had come before; later ones are refused. The memory of the keys goes
// back to the garbage collector, which wipes it when it is used again.
func (s *Session) Erase() {
	s.sealer.Store(nil)
	s.opener.Store(nil)
}
