package agent

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	crand "crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"farlan/overlay"
)

// A prober makes what a stranger may send.
type prober struct {
	t        *testing.T
	rand     *rand.Rand
	captured [][]byte // datagrams of members and of another network, to the agent
	hello    []byte   // a TLS ClientHello, as QUIC carries it
	wrong    *overlay.Handshaker
}

func newProber(t *testing.T, captured [][]byte) *prober {
	t.Helper()
	static, err := overlay.NewStaticKey(crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &prober{t: t, rand: rand.New(rand.NewPCG(1, 2)), captured: captured}
	p.wrong = overlay.NewHandshaker(overlay.AgentID{1}, static, [32]byte{2}, [32]byte{3}, true)
	p.hello = clientHello(t)
	return p
}

// clientHello returns the message that a QUIC client begins with.
func clientHello(t *testing.T) []byte {
	t.Helper()
	c := tls.QUICClient(&tls.QUICConfig{TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{"libp2p"},
	}})
	defer c.Close()
	c.SetTransportParameters(nil)
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	for {
		switch e := c.NextEvent(); e.Kind {
		case tls.QUICWriteData:
			return bytes.Clone(e.Data)
		case tls.QUICNoEvent:
			t.Fatal("no ClientHello")
		}
	}
}

func (p *prober) random(least, most int) []byte {
	b := make([]byte, least+p.rand.IntN(most-least+1))
	for i := range b {
		b[i] = byte(p.rand.Uint32())
	}
	return b
}

const multistream = "\x13/multistream/1.0.0\n"

// probeKinds are the kinds of datagrams.
const probeKinds = 12

// datagram returns one of the i-th kind.
func (p *prober) datagram(i int) []byte {
	switch i % probeKinds {
	case 0:
		return p.random(1, 1400)
	case 1:
		return p.initial()
	case 2: // a short header of QUIC, long enough for a stateless reset
		b := p.random(22, 1300)
		b[0] = 0x40 | b[0]&0x3f
		return b
	case 3: // a version that QUIC doesn't have
		b := p.random(1200, 1200)
		b[0] |= 0xc0
		binary.BigEndian.PutUint32(b[1:], 0x1a2a3a4a)
		b[5], b[14] = 8, 8
		return b
	case 4:
		return []byte(multistream)
	case 5: // a TLS record
		return append([]byte{22, 3, 1, byte(len(p.hello) >> 8), byte(len(p.hello))}, p.hello...)
	case 6: // our handshake, with other keys
		_, d, err := p.wrong.Initiate(overlay.Instant(1), overlay.AgentID{4}, [32]byte{9}, p.rand.Uint32(), crand.Reader)
		if err != nil {
			p.t.Fatal(err)
		}
		return d
	case 7: // our header, of every kind
		b := p.random(4, 1400)
		b[0] = 0x10 | byte(i/probeKinds)&0x0f
		clear(b[1:4])
		return b
	case 8: // our control plane's first byte
		b := p.random(33, 1300)
		b[0] = 0xc2
		return b
	case 9: // what was captured, one bit changed
		b := bytes.Clone(p.captured[i/probeKinds%len(p.captured)])
		b[p.rand.IntN(len(b))] ^= 1 << p.rand.IntN(8)
		return b
	default: // what was captured, unchanged
		return p.captured[p.rand.IntN(len(p.captured))]
	}
}

// stream returns what to write to a new TCP connection.
func (p *prober) stream(i int) []byte {
	switch i % 6 {
	case 0:
		return []byte(multistream + "\x07/noise\n")
	case 1:
		return append([]byte{22, 3, 1, byte(len(p.hello) >> 8), byte(len(p.hello))}, p.hello...)
	case 2:
		return p.random(32, 200)
	case 3:
		return p.random(1, 31) // less than a proof
	case 4:
		return []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	}
	return nil
}

// initial returns a QUIC Initial packet that every server takes for one (RFC 9001 § 5).
func (p *prober) initial() []byte {
	dcid, scid := p.random(8, 8), p.random(8, 8)
	expand := func(secret []byte, label string, n int) []byte {
		label = "tls13 " + label
		info := append([]byte{byte(n >> 8), byte(n), byte(len(label))}, label...)
		out, err := hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
		if err != nil {
			p.t.Fatal(err)
		}
		return out
	}
	salt := []byte{0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a}
	secret, err := hkdf.Extract(sha256.New, dcid, salt)
	if err != nil {
		p.t.Fatal(err)
	}
	secret = expand(secret, "client in", 32)
	cipherOf := func(label string) cipher.Block {
		b, err := aes.NewCipher(expand(secret, label, 16))
		if err != nil {
			p.t.Fatal(err)
		}
		return b
	}
	aead, err := cipher.NewGCM(cipherOf("quic key"))
	if err != nil {
		p.t.Fatal(err)
	}
	payload := append([]byte{0x06, 0, 0x40 | byte(len(p.hello)>>8), byte(len(p.hello))}, p.hello...)
	if pad := 1160 - len(payload); pad > 0 {
		payload = append(payload, make([]byte, pad)...)
	}
	length := 4 + len(payload) + aead.Overhead()
	b := append([]byte{0xc3, 0, 0, 0, 1, 8}, dcid...)
	b = append(append(b, 8), scid...)
	b = append(b, 0, 0x40|byte(length>>8), byte(length))
	number := len(b)
	b = append(b, 0, 0, 0, 0)
	b = aead.Seal(b, expand(secret, "quic iv", 12), payload, b) // of packet number 0
	mask := make([]byte, 16)
	cipherOf("quic hp").Encrypt(mask, b[number+4:])
	b[0] ^= mask[0] & 0x0f
	for i := range 4 {
		b[number+i] ^= mask[1+i]
	}
	return b
}
