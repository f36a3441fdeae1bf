package overlay

import (
	"bytes"
	"crypto/mlkem"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/flynn/noise"
)

// An Initiation is a handshake that waits for its response. Once that has come
// it is used up. It is not safe for concurrent use.
//
// It holds the Noise state after the first message, for the first response that comes,
// and what that message was made from: after a forged response each one is tried on a
// state of its own, so that none can spoil it for the true one. (The library's state
// survives a response that doesn't decrypt, but not one with an ephemeral key of low
// order.)
type Initiation struct {
	h          *Handshaker
	secrets    Secrets
	started    Instant
	peer       AgentID
	peerStatic [32]byte
	index      uint32
	ephemeral  [32]byte                   // private, X25519
	kem        *mlkem.DecapsulationKey768 // nil once used up
	state      *noise.HandshakeState      // nil: to be made again
	d          []byte                     // as it was sent last
}

// Initiate begins a handshake with peer, whose record has the key peerStatic,
// and returns it with the datagram to send. index is the local index of the
// session to be: not 0, not in use, and not to be guessed by counting. A lost
// datagram isn't sent again as it is, for the peer's SeenCache would ignore it: see Again.
// rand yields 96 bytes.
func (h *Handshaker) Initiate(now Instant, peer AgentID, peerStatic [32]byte, index uint32, rand io.Reader) (*Initiation, []byte, error) {
	return h.try(now, h.turn(0), peer, peerStatic, index, rand)
}

// turn returns the secrets to begin with at some turn, the first ones at the first: the
// peer may know the others only.
func (h *Handshaker) turn(i int) Secrets {
	all := *h.secrets.Load()
	return all[i%len(all)]
}

// try is Initiate by some of the secrets.
func (h *Handshaker) try(now Instant, by Secrets, peer AgentID, peerStatic [32]byte, index uint32, rand io.Reader) (*Initiation, []byte, error) {
	if index == 0 || peer == h.self {
		return nil, nil, errors.New("overlay: handshake: initiate: index 0 or to ourselves")
	}
	i := &Initiation{h: h, secrets: by, started: now, peer: peer, peerStatic: peerStatic, index: index}
	var seed [mlkem.SeedSize]byte
	if _, err := io.ReadFull(rand, i.ephemeral[:]); err != nil {
		return nil, nil, fmt.Errorf("overlay: handshake: initiate: %w", err)
	}
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return nil, nil, fmt.Errorf("overlay: handshake: initiate: %w", err)
	}
	var err error
	if i.kem, err = mlkem.NewDecapsulationKey768(seed[:]); err != nil {
		return nil, nil, fmt.Errorf("overlay: handshake: initiate: %w", err)
	}
	if i.state, i.d, err = i.begin(); err != nil {
		return nil, nil, fmt.Errorf("overlay: handshake: initiate: %w", err)
	}
	return i, i.d, nil
}

// Again returns the initiation's datagram for another attempt, after the last one, which
// may have been lost, or its answer. It costs a hash, and a peer that has answered costs
// it no more to do so again: the message is the same, its number and its MAC are others.
func (i *Initiation) Again() []byte {
	d := bytes.Clone(i.d)
	binary.BigEndian.PutUint32(d[attemptAt:], binary.BigEndian.Uint32(d[attemptAt:])+1)
	mac := i.secrets.mac(d)
	copy(d[HeaderLen:], mac[:])
	i.d = d
	return d
}

// question returns what all attempts of initiation d, which has an initiation's length,
// have in common and no other has: its ephemeral key.
func question(d []byte) [32]byte { return [32]byte(d[noiseStart:]) }

// begin returns the Noise state after the first message, and its datagram: the
// same each time.
func (i *Initiation) begin() (*noise.HandshakeState, []byte, error) {
	d := handshakeHeader(KindInitiation, 0, i.index, InitiationLen)
	state, err := i.h.noise(i.secrets.PSK, i.peer, d, i.peerStatic[:], bytes.NewReader(i.ephemeral[:]))
	if err != nil {
		return nil, nil, err
	}
	payload := append(make([]byte, 0, initiationPayload), byte(i.h.best))
	payload = append(payload, i.h.self[:]...)
	payload = append(payload, i.kem.EncapsulationKey().Bytes()...)
	d, _, _, err = state.WriteMessage(d, payload)
	if err != nil {
		return nil, nil, err
	}
	mac := i.secrets.mac(d)
	copy(d[HeaderLen:], mac[:])
	return state, d, nil
}

// Index returns the local index that the response will bear.
func (i *Initiation) Index() uint32 { return i.index }

// Finish makes a session from response d, which it leaves as it is. The
// session's age counts from Initiate. After an error the true response can
// still come; after success the Initiation is used up and its secrets are gone.
func (i *Initiation) Finish(now Instant, d []byte) (*Session, error) {
	if i.kem == nil {
		return nil, errors.New("overlay: handshake: finish: done already")
	}
	if now.Sub(i.started) >= RejectAfter {
		return nil, errors.New("overlay: handshake: finish: too late")
	}
	by, genuine := i.h.by(d)
	if kind, _ := ParseKind(d); kind != KindResponse || !genuine || by != i.secrets || ResponseIndex(d) != i.index {
		return nil, errors.New("overlay: handshake: finish: not a response to this initiation")
	}
	state := i.state
	if i.state = nil; state == nil {
		var err error
		if state, _, err = i.begin(); err != nil {
			return nil, fmt.Errorf("overlay: handshake: finish: %w", err)
		}
	}
	payload, forth, back, err := state.ReadMessage(nil, d[noiseStart:])
	if err != nil {
		return nil, fmt.Errorf("overlay: handshake: finish: open response: %w", err)
	}
	suite, remote := Suite(payload[0]), binary.BigEndian.Uint32(payload[1:])
	if suite != SuiteChaCha && suite != i.h.best || remote != senderIndex(d) {
		return nil, errors.New("overlay: handshake: finish: response with a wrong index or a suite not offered")
	}
	secret, err := i.kem.Decapsulate(payload[5:])
	if err != nil {
		return nil, fmt.Errorf("overlay: handshake: finish: decapsulate: %w", err)
	}
	s := &Session{peer: i.peer, local: i.index, remote: remote, created: i.started, initiator: true, suite: suite, secrets: i.secrets}
	if err := s.setKeys(i.h.self, state.ChannelBinding(), keyMaterial(forth, back, secret)); err != nil {
		return nil, fmt.Errorf("overlay: handshake: finish: %w", err)
	}
	i.kem, i.ephemeral = nil, [32]byte{}
	return s, nil
}
