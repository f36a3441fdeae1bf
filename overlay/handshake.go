package overlay

import (
	"bytes"
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"github.com/flynn/noise"
	"golang.org/x/crypto/blake2s"
)

// Two agents agree on a session's keys by two datagrams, Noise's IK handshake
// with a pre-shared key in its second message (Noise Protocol Framework, rev.
// 34, §§ 7.5 and 9; Noise_IKpsk2_25519_ChaChaPoly_SHA256), with ML-KEM-768
// (FIPS 203) inside:
//
//	 0–3    first byte, zero, reserved     as in every datagram; see wire.go
//	 4–7    receiver's index               0 in an initiation
//	 8–11   sender's index                 how the receiver is to call the sender
//	12–15   attempt                        initiation: how often it was sent before;
//	                                       response: reserved, zero
//	16–31   MAC                            BLAKE2s-128 under the door key, over
//	                                       all other bytes of the datagram
//	32–     Noise message                  initiation: e, es, s, ss
//	                                       response:   e, ee, se, psk
//
// The payloads, which Noise encrypts (numbers are big endian):
//
//	initiation, 1,217 bytes: the best suite that the initiator can do (1), its
//	        AgentID (32), its ML-KEM encapsulation key for this handshake (1,184)
//	response, 1,093 bytes: the suite (1), the responder's index (4), the ML-KEM
//	        ciphertext (1,088)
//
// Noise's prologue is a label, the responder's AgentID, and the initiation's
// header as it is at the first attempt. The session's two keys are HKDF-SHA256 over both keys that Noise ends
// with and the ML-KEM secret; salted with Noise's handshake hash; for a label,
// both AgentIDs, both indices and the suite. So two agents that disagree about
// anything get different keys.
//
// What others can and can't do:
//
//   - An outsider, without the network key, can't make the MAC, so gets no
//     answer, and costs us one hash for each datagram. What it captured it can
//     send again: the SeenCache ignores that, and beyond it an initiation makes
//     a session that is never Confirmed. It sees sizes and times, and that the
//     same agent gets datagrams with the same index; no identities.
//   - A member that isn't the peer can make the MAC and knows the pre-shared key,
//     so it can make us spend the Diffie-Hellman work of an initiation, which the
//     caller bounds. It can't read or alter a session of others; nor answer for
//     the peer, for that takes the peer's static key (es); nor call in another
//     member's name, for that takes that one's static key (ss), which must be in
//     the signed record of the AgentID in the payload. A member that signs a
//     record with someone else's static key can't pass for anybody, nor anybody
//     for it, as the AgentIDs are in the prologue, the payload and the keys.
//     Garbled answers don't end an initiation.
//   - A relay is such a member, with the choice to delay and drop. It can number
//     an initiation anew, and gets the answer that there is already.
//   - A thief of an agent's static key, if also a member, can call and answer in
//     that agent's name until its record is replaced, and read which agents called
//     it: the initiation's payload hides from all but the holder of that key. It
//     can't read sessions it isn't an end of, past or to come, as both ephemeral
//     keys are gone with the handshake (forward secrecy). It can call that agent
//     in anyone's name, as IK's first message allows, but then can't compute the
//     keys (se): such a session, too, is never Confirmed.
//   - Someone who records everything now and has a quantum computer later, and
//     the network key and static keys besides, learns who called whom, but not
//     what they said: for that ML-KEM would have to be broken as well. Who can do
//     that during the handshake can impersonate: authentication is X25519's.
const (
	// MACLen is the length of the keyed hash in front of a handshake message.
	MACLen = 16

	// InitiationLen is the length of an initiation: 1,345 bytes.
	InitiationLen = noiseStart + 32 + (32 + TagLen) + initiationPayload + TagLen
	// ResponseLen is the length of a response: 1,173 bytes.
	ResponseLen = noiseStart + 32 + responsePayload + TagLen

	attemptAt         = 12 // in an initiation's header
	noiseStart        = HeaderLen + MACLen
	initiationPayload = 1 + 32 + mlkem.EncapsulationKeySize768
	responsePayload   = 1 + 4 + mlkem.CiphertextSize768

	prologueLabel = "farlan session 1"
)

// noiseSuite returns the handshake's own algorithms. The cipher is the one that is fast
// and free of timing leaks on every processor.
func noiseSuite(static *ecdh.PrivateKey) noise.CipherSuite {
	return noise.NewCipherSuite(&dh25519{static: static}, noise.CipherChaChaPoly, noise.HashSHA256)
}

// A StaticKey is an agent's X25519 key pair for sessions. Its public half is in
// the agent's signed record.
type StaticKey struct{ Private, Public [32]byte }

// NewStaticKey makes a key pair of 32 bytes from rand.
func NewStaticKey(rand io.Reader) (StaticKey, error) {
	var private [32]byte
	if _, err := io.ReadFull(rand, private[:]); err != nil {
		return StaticKey{}, fmt.Errorf("overlay: make static key: %w", err)
	}
	return StaticKeyFrom(private)
}

// StaticKeyFrom returns the key pair of a private key. Any 32 bytes are one
// (RFC 7748 § 5).
func StaticKeyFrom(private [32]byte) (StaticKey, error) {
	key, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		return StaticKey{}, fmt.Errorf("overlay: read static key: %w", err)
	}
	return StaticKey{Private: private, Public: [32]byte(key.PublicKey().Bytes())}, nil
}

// A Handshaker makes and answers handshakes for one agent in one network. It is
// safe for concurrent use.
type Handshaker struct {
	self    AgentID
	static  StaticKey
	private *ecdh.PrivateKey // static's
	secrets atomic.Pointer[[]Secrets]
	best    Suite
}

// Secrets are what all members of the network share: two independent keys that
// are derived from the network key.
type Secrets struct{ Door, PSK [32]byte }

// NewHandshaker returns the Handshaker of agent self with its static key, and the
// network's secrets. hasAES says whether to offer AES-256-GCM; see HasAES.
func NewHandshaker(self AgentID, static StaticKey, door, psk [32]byte, hasAES bool) *Handshaker {
	best := SuiteChaCha
	if hasAES {
		best = SuiteAES
	}
	private, err := ecdh.X25519().NewPrivateKey(static.Private[:])
	if err != nil {
		panic(err) // any 32 bytes are one
	}
	h := &Handshaker{self: self, static: static, private: private, best: best}
	h.SetSecrets(Secrets{door, psk})
	return h
}

// SetSecrets replaces the network's secrets, while the network changes its key: by
// the first, of which there must be one, handshakes begin, by any they are answered.
func (h *Handshaker) SetSecrets(secrets ...Secrets) {
	own := slices.Clone(secrets)
	h.secrets.Store(&own)
}

// good says whether handshakes by s still count.
func (h *Handshaker) good(s Secrets) bool { return slices.Contains(*h.secrets.Load(), s) }

// Genuine says whether d is a handshake datagram whose MAC proves the door key.
// It costs one hash and is the first thing to ask about an initiation or a
// response; a datagram that isn't genuine gets no answer.
func (h *Handshaker) Genuine(d []byte) bool {
	_, ok := h.by(d)
	return ok
}

// by returns the secrets whose door key d proves.
func (h *Handshaker) by(d []byte) (Secrets, bool) {
	switch kind, _ := ParseKind(d); {
	case kind == KindInitiation && len(d) == InitiationLen:
	case kind == KindResponse && len(d) == ResponseLen:
	default:
		return Secrets{}, false
	}
	for _, s := range *h.secrets.Load() {
		if mac := s.mac(d); subtle.ConstantTimeCompare(mac[:], d[HeaderLen:noiseStart]) == 1 {
			return s, true
		}
	}
	return Secrets{}, false
}

// mac returns the MAC that d, of at least noiseStart bytes, ought to have.
func (s Secrets) mac(d []byte) (mac [MACLen]byte) {
	b, err := blake2s.New128(s.Door[:])
	if err != nil {
		panic(err) // the key is 32 bytes
	}
	b.Write(d[:HeaderLen])
	b.Write(d[noiseStart:])
	b.Sum(mac[:0])
	return mac
}

// HandshakeMAC returns the MAC in d, by which a SeenCache knows it, or zeros if
// d is too short to have one.
func HandshakeMAC(d []byte) (mac [MACLen]byte) {
	if len(d) >= noiseStart {
		copy(mac[:], d[HeaderLen:])
	}
	return mac
}

// ResponseIndex returns the index of the initiation that response d answers, or
// 0, which is nobody's, if d is too short to have one.
func ResponseIndex(d []byte) uint32 {
	if len(d) < HeaderLen {
		return 0
	}
	return ReceiverIndex(d)
}

// handshakeHeader returns a datagram that is a header so far, and room for the
// MAC.
func handshakeHeader(kind Kind, receiver, sender uint32, size int) []byte {
	d := make([]byte, noiseStart, size)
	putHeader(d, kind, 0, 0, receiver, uint64(sender)<<32)
	return d
}

// senderIndex returns the sender's index in the header of handshake datagram d.
func senderIndex(d []byte) uint32 { return binary.BigEndian.Uint32(d[8:]) }

// noise returns the state of a handshake with responder before its first
// message, whose datagram's header it binds. peerStatic is the responder's key
// on the initiator's side, nil on the other.
func (h *Handshaker) noise(psk [32]byte, responder AgentID, header, peerStatic []byte, rand io.Reader) (*noise.HandshakeState, error) {
	prologue := append([]byte(prologueLabel), responder[:]...)
	prologue = append(append(prologue, header[:attemptAt]...), 0, 0, 0, 0)
	return noise.NewHandshakeState(noise.Config{
		CipherSuite:           noiseSuite(h.private),
		Random:                rand,
		Pattern:               noise.HandshakeIK,
		Initiator:             peerStatic != nil,
		Prologue:              prologue,
		PresharedKey:          psk[:],
		PresharedKeyPlacement: 2,
		StaticKeypair:         noise.DHKey{Private: h.static.Private[:], Public: h.static.Public[:]},
		PeerStatic:            peerStatic,
	})
}

// Respond answers initiation d, which it leaves as it is: it returns a session,
// which the peer has yet to confirm, and the datagram to send back. member says
// whether an agent's signed record has a static key; an initiator whose record
// hasn't the key that it used is refused. index is the local index of the session to be, as
// in Initiate. rand yields 32 bytes; ML-KEM draws its own.
//
// Its caller bounds how often it is called, and asks a SeenCache first.
func (h *Handshaker) Respond(now Instant, d []byte, member func(id AgentID, static [32]byte) bool, index uint32, rand io.Reader) (*Session, []byte, error) {
	by, genuine := h.by(d)
	if kind, _ := ParseKind(d); kind != KindInitiation || !genuine || senderIndex(d) == 0 || index == 0 {
		return nil, nil, errors.New("overlay: handshake: respond: not an initiation, or index 0")
	}
	state, err := h.noise(by.PSK, h.self, d, nil, rand)
	if err != nil {
		return nil, nil, fmt.Errorf("overlay: handshake: respond: %w", err)
	}
	payload, _, _, err := state.ReadMessage(nil, d[noiseStart:])
	if err != nil {
		return nil, nil, fmt.Errorf("overlay: handshake: respond: open initiation: %w", err)
	}
	peer := AgentID(payload[1:33])
	if peer == h.self || !member(peer, [32]byte(state.PeerStatic())) {
		return nil, nil, fmt.Errorf("overlay: handshake: respond: %v is no member with that static key", peer)
	}
	kem, err := mlkem.NewEncapsulationKey768(payload[33:])
	if err != nil {
		return nil, nil, fmt.Errorf("overlay: handshake: respond: encapsulation key: %w", err)
	}
	secret, ciphertext := kem.Encapsulate()
	suite := SuiteChaCha
	if Suite(payload[0]) == SuiteAES && h.best == SuiteAES {
		suite = SuiteAES
	}
	answer := append(make([]byte, 0, responsePayload), byte(suite))
	answer = binary.BigEndian.AppendUint32(answer, index)
	answer = append(answer, ciphertext...)
	r := handshakeHeader(KindResponse, senderIndex(d), index, ResponseLen)
	r, forth, back, err := state.WriteMessage(r, answer)
	if err != nil {
		return nil, nil, fmt.Errorf("overlay: handshake: respond: %w", err)
	}
	mac := by.mac(r)
	copy(r[HeaderLen:], mac[:])
	s := &Session{peer: peer, local: index, remote: senderIndex(d), created: now, suite: suite, secrets: by}
	if err := s.setKeys(h.self, state.ChannelBinding(), keyMaterial(forth, back, secret)); err != nil {
		return nil, nil, fmt.Errorf("overlay: handshake: respond: %w", err)
	}
	return s, r, nil
}

// keyMaterial joins the keys that Noise ends with, the initiator's first, and
// the ML-KEM secret.
func keyMaterial(forth, back *noise.CipherState, secret []byte) []byte {
	f, b := forth.UnsafeKey(), back.UnsafeKey()
	return bytes.Join([][]byte{f[:], b[:], secret}, nil)
}
