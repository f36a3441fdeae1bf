package overlay

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/flynn/noise"
)

// A shaker is an agent that shakes hands in tests.
type shaker struct {
	*Handshaker
	id     AgentID
	static StaticKey
	rand   io.Reader
}

// newShaker returns the agent called name of the network called network.
func newShaker(t testing.TB, name, network byte, hasAES bool) *shaker {
	t.Helper()
	random := rand.NewChaCha8([32]byte{name, network})
	static, err := NewStaticKey(random)
	if err != nil {
		t.Fatal(err)
	}
	id := AgentID{name}
	h := NewHandshaker(id, static, [32]byte{'d', network}, [32]byte{'p', network}, hasAES)
	return &shaker{Handshaker: h, id: id, static: static, rand: random}
}

// knows returns the member function of someone who knows agents.
func knows(agents ...*shaker) func(AgentID, [32]byte) bool {
	return func(id AgentID, static [32]byte) bool {
		for _, a := range agents {
			if a.id == id && a.static.Public == static {
				return true
			}
		}
		return false
	}
}

// initiate begins a handshake of a, with index 7, with b.
func initiate(t testing.TB, a, b *shaker) (*Initiation, []byte) {
	t.Helper()
	i, d, err := a.Initiate(1000, b.id, b.static.Public, 7, a.rand)
	if err != nil {
		t.Fatal(err)
	}
	return i, d
}

// respond answers d at b, with index 9, who knows a.
func respond(t testing.TB, a, b *shaker, d []byte) (*Session, []byte) {
	t.Helper()
	s, r, err := b.Respond(2000, d, knows(a), 9, b.rand)
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

// shake returns both ends of a session of a with b.
func shake(t testing.TB, a, b *shaker) (sa, sb *Session) {
	t.Helper()
	i, d := initiate(t, a, b)
	sb, r := respond(t, a, b, d)
	sa, err := i.Finish(3000, r)
	if err != nil {
		t.Fatal(err)
	}
	return sa, sb
}

// talk says whether each end opens what the other seals.
func talk(a, b *Session) bool {
	return opens(b, sealed(a, "forth"), "forth") && opens(a, sealed(b, "back"), "back")
}

// signed returns d as a member can send it: with a MAC that fits.
func signed(h *Handshaker, d []byte) []byte {
	d = slices.Clone(d)
	if len(d) >= noiseStart {
		mac := (*h.secrets.Load())[0].mac(d)
		copy(d[HeaderLen:], mac[:])
	}
	return d
}

func TestHandshakeSuites(t *testing.T) {
	for _, c := range []struct {
		a, b bool
		want Suite
	}{
		{true, true, SuiteAES},
		{true, false, SuiteChaCha},
		{false, true, SuiteChaCha},
		{false, false, SuiteChaCha},
	} {
		a, b := newShaker(t, 'a', 1, c.a), newShaker(t, 'b', 1, c.b)
		sa, sb := shake(t, a, b)
		if sa.Suite() != c.want || sb.Suite() != c.want {
			t.Errorf("AES at %v and %v: chose %v and %v", c.a, c.b, sa.Suite(), sb.Suite())
		}
		if !talk(sa, sb) {
			t.Errorf("AES at %v and %v: they don't understand each other", c.a, c.b)
		}
		if sa.Peer() != b.id || sb.Peer() != a.id || !sa.Initiator() || sb.Initiator() ||
			sa.LocalIndex() != 7 || sa.RemoteIndex() != 9 || sb.LocalIndex() != 9 || sb.RemoteIndex() != 7 ||
			sa.Created() != 1000 || sb.Created() != 2000 {
			t.Errorf("sessions %+v and %+v", sa, sb)
		}
	}
}

// An unknown preference, of a later version, means the suite that all have.
func TestHandshakeUnknownSuite(t *testing.T) {
	a, b := newShaker(t, 'a', 1, true), newShaker(t, 'b', 1, true)
	a.best = 200
	sa, sb := shake(t, a, b)
	if sb.Suite() != SuiteChaCha || !talk(sa, sb) {
		t.Fatal("chose", sb.Suite())
	}
}

func TestHandshakeSizes(t *testing.T) {
	a, b := newShaker(t, 'a', 1, true), newShaker(t, 'b', 1, true)
	_, d := initiate(t, a, b)
	_, r := respond(t, a, b, d)
	// 1,472 bytes fit an Ethernet MTU, 1,232 every IPv6 path. An answer must
	// not be longer than its question, or we amplify.
	if InitiationLen != 1345 || ResponseLen != 1173 || len(d) != InitiationLen || len(r) != ResponseLen || cap(d) != len(d) || cap(r) != len(r) {
		t.Fatalf("initiation %d of %d bytes, response %d of %d", len(d), cap(d), len(r), cap(r))
	}
	for _, m := range [][]byte{d, r} {
		if kind, ok := ParseKind(m); !ok || (kind == KindInitiation) != (&m[0] == &d[0]) || !a.Genuine(m) || !b.Genuine(m) {
			t.Fatalf("kind %v, %v", kind, ok)
		}
	}
	if ReceiverIndex(d) != 0 || senderIndex(d) != 7 || ResponseIndex(r) != 7 || senderIndex(r) != 9 {
		t.Fatal("indices are not where they belong")
	}
}

// The same randomness makes the same initiation, so runs can be repeated.
func TestHandshakeRepeats(t *testing.T) {
	_, d := initiate(t, newShaker(t, 'a', 1, true), newShaker(t, 'b', 1, true))
	_, e := initiate(t, newShaker(t, 'a', 1, true), newShaker(t, 'b', 1, true))
	if !bytes.Equal(d, e) {
		t.Fatal("initiations differ")
	}
	a, b := newShaker(t, 'a', 1, true), newShaker(t, 'b', 1, true)
	_, d = initiate(t, a, b)
	_, e = initiate(t, a, b)
	if bytes.Equal(d[noiseStart:noiseStart+32], e[noiseStart:noiseStart+32]) {
		t.Fatal("two initiations of one agent share an ephemeral key")
	}
}

// changed returns a with a Handshaker that differs.
func changed(a *shaker, change func(*Handshaker)) *shaker {
	h := &Handshaker{self: a.self, static: a.Handshaker.static, private: a.private, best: a.best}
	h.SetSecrets(*a.secrets.Load()...)
	change(h)
	return &shaker{Handshaker: h, id: a.id, static: a.static, rand: a.rand}
}

func TestHandshakeRefuses(t *testing.T) {
	a, b, c := newShaker(t, 'a', 1, true), newShaker(t, 'b', 1, true), newShaker(t, 'c', 1, true)
	named := func(id, static *shaker) *shaker { return &shaker{id: id.id, static: static.static} }
	all := knows(a, b, c)
	for name, x := range map[string]struct {
		from, called, answers *shaker // from calls called, but answers gets it
		who                   func(AgentID, [32]byte) bool
		responds              bool // the initiation is answered, but the response is refused
	}{
		"wrong psk":                   {a, b, changed(b, func(h *Handshaker) { (*h.secrets.Load())[0].PSK[0]++ }), all, true},
		"wrong door key":              {a, b, changed(b, func(h *Handshaker) { (*h.secrets.Load())[0].Door[0]++ }), all, false},
		"wrong static key":            {a, named(b, c), b, all, false},
		"wrong responder":             {a, named(c, b), b, all, false},
		"another's call":              {a, c, b, all, false},
		"old key":                     {a, b, changed(b, func(h *Handshaker) { h.static, h.private = c.Handshaker.static, c.private }), all, false},
		"unknown initiator":           {a, b, b, knows(c), false},
		"initiator in another's name": {changed(a, func(h *Handshaker) { h.self = c.id }), b, b, all, false},
		"key in another's record":     {a, b, b, knows(named(c, a)), false},
	} {
		t.Run(name, func(t *testing.T) {
			i, d := initiate(t, x.from, x.called)
			s, r, err := x.answers.Respond(2000, d, x.who, 9, x.answers.rand)
			if (err == nil) != x.responds {
				t.Fatalf("respond: %v", err)
			}
			if err == nil {
				s, err = i.Finish(3000, r)
			}
			if err == nil || s != nil {
				t.Fatal("accepted")
			}
			if strings.Count(err.Error(), "overlay:") != 1 || !strings.HasPrefix(err.Error(), "overlay: handshake: ") {
				t.Fatalf("error %q", err)
			}
		})
	}
}

func TestHandshakeWithOurselves(t *testing.T) {
	a := newShaker(t, 'a', 1, true)
	if _, _, err := a.Initiate(1000, a.id, a.static.Public, 7, a.rand); err == nil {
		t.Fatal("called ourselves")
	}
	// A thief of our key calls us in our own name.
	i, _ := initiate(t, changed(a, func(h *Handshaker) { h.self = AgentID{} }), a)
	i.h = a.Handshaker
	_, d, err := i.begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Respond(2000, d, knows(a), 9, a.rand); err == nil {
		t.Fatal("answered ourselves")
	}
}

func TestHandshakeBadArguments(t *testing.T) {
	a, b := newShaker(t, 'a', 1, true), newShaker(t, 'b', 1, true)
	_, d := initiate(t, a, b)
	if _, _, err := a.Initiate(1000, b.id, b.static.Public, 0, a.rand); err == nil {
		t.Error("initiated with index 0")
	}
	if _, _, err := b.Respond(2000, d, knows(a), 0, b.rand); err == nil {
		t.Error("responded with index 0")
	}
	if _, _, err := a.Initiate(1000, b.id, [32]byte{}, 7, a.rand); err == nil {
		t.Error("initiated with a static key of low order")
	}
	for n := range int64(96) {
		if _, _, err := a.Initiate(1000, b.id, b.static.Public, 7, io.LimitReader(a.rand, n)); err == nil {
			t.Errorf("initiated with %d random bytes", n)
		}
	}
	failing := iotest.ErrReader(errors.New("no randomness"))
	if _, _, err := b.Respond(2000, d, knows(a), 9, failing); err == nil {
		t.Error("responded without randomness")
	}
	if _, err := NewStaticKey(failing); err == nil {
		t.Error("made a key without randomness")
	}
}

// Alice's keys in RFC 7748 § 6.1.
func TestHandshakeStaticKey(t *testing.T) {
	private, _ := hex.DecodeString("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
	k, err := StaticKeyFrom([32]byte(private))
	if err != nil || hex.EncodeToString(k.Public[:]) != "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a" {
		t.Fatalf("public key %x, %v", k.Public, err)
	}
	if made, err := NewStaticKey(bytes.NewReader(private)); err != nil || made != k {
		t.Fatal("a key isn't made of the random bytes")
	}
}

// What fits in length and MAC but was changed on the way, by a member that
// relays it, is refused; what doesn't fit is not even looked at.
func TestHandshakeGarbled(t *testing.T) {
	a, b := newShaker(t, 'a', 1, true), newShaker(t, 'b', 1, true)
	i, d := initiate(t, a, b)
	_, r := respond(t, a, b, d)
	for name, x := range map[string]struct {
		d    []byte
		take func(d []byte) error
	}{
		"initiation": {d, func(d []byte) error { _, _, err := b.Respond(2000, d, knows(a), 9, b.rand); return err }},
		"response":   {r, func(d []byte) error { _, err := i.Finish(3000, d); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			for n := range x.d {
				if b.Genuine(x.d[:n]) || b.Genuine(signed(b.Handshaker, x.d[:n])) || x.take(signed(b.Handshaker, x.d[:n])) == nil {
					t.Fatalf("accepted when cut to %d bytes", n)
				}
			}
			if long := signed(b.Handshaker, append(slices.Clone(x.d), 0)); b.Genuine(long) || x.take(long) == nil {
				t.Fatal("accepted with a byte appended")
			}
			for at := range x.d {
				e := slices.Clone(x.d)
				e[at] ^= 1 << (at % 8)
				if b.Genuine(e) || x.take(e) == nil {
					t.Fatalf("accepted with byte %d changed", at)
				}
				// Every byte of the header and the keys; the rest is one AEAD.
				inMAC := at >= HeaderLen && at < noiseStart
				if inMAC || at > 160 && at%61 != 0 && at < len(e)-TagLen {
					continue
				}
				if unused := at >= attemptAt && at < HeaderLen || name == "response" && (at == 2 || at == 3); unused {
					continue // the attempt, or reserved: no part of what is agreed on
				}
				if x.take(signed(b.Handshaker, e)) == nil {
					t.Fatalf("accepted with byte %d changed by a member", at)
				}
			}
		})
	}
	if _, err := i.Finish(3000, r); err != nil {
		t.Fatalf("the true response is refused after forged ones: %v", err)
	}
}

// No forged response spoils the handshake for the true one, not even one that
// a member made with a key of low order, nor one by a member that answers for
// the peer; a second true one changes nothing.
func TestHandshakeForgedThenTrue(t *testing.T) {
	a, b, c := newShaker(t, 'a', 1, true), newShaker(t, 'b', 1, true), newShaker(t, 'c', 1, true)
	i, d := initiate(t, a, b)
	_, r := respond(t, a, b, d)
	_, forC := initiate(t, a, c)
	_, byC := respond(t, a, c, forC)
	lowOrder := slices.Clone(r)
	clear(lowOrder[noiseStart : noiseStart+32])
	for name, forged := range map[string][]byte{
		"low order":   signed(a.Handshaker, lowOrder),
		"empty":       nil,
		"zeros":       make([]byte, ResponseLen),
		"initiation":  d,
		"by another":  byC,
		"data":        sealed(&Session{}, "x"),
		"for another": signed(a.Handshaker, append([]byte{r[0], 0, 0, 0, 0, 0, 0, 8}, r[8:]...)),
	} {
		if _, err := i.Finish(3000, forged); err == nil {
			t.Fatal("finished with", name)
		}
	}
	before := slices.Clone(r)
	s, err := i.Finish(3000, r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, r) {
		t.Fatal("the datagram was changed")
	}
	if again, err := i.Finish(3000, r); err == nil || again != nil {
		t.Fatal("finished twice")
	}
	if i.ephemeral != [32]byte{} || s.Peer() != b.id {
		t.Fatal("secrets are kept")
	}
}

// crafted is what a peer that breaks the protocol, inside of the encryption,
// answers to d: a response with that payload.
func crafted(t testing.TB, b *shaker, d, payload []byte) []byte {
	t.Helper()
	state, err := b.noise((*b.secrets.Load())[0].PSK, b.id, d, nil, b.rand)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := state.ReadMessage(nil, d[noiseStart:]); err != nil {
		t.Fatal(err)
	}
	r, _, _, err := state.WriteMessage(handshakeHeader(KindResponse, 7, 9, ResponseLen), payload)
	if err != nil {
		t.Fatal(err)
	}
	return signed(b.Handshaker, r)
}

func TestHandshakeBadPayload(t *testing.T) {
	a, b := newShaker(t, 'a', 1, false), newShaker(t, 'b', 1, true)
	payload := func(suite Suite, index uint32) []byte {
		p := make([]byte, responsePayload)
		p[0] = byte(suite)
		binary.BigEndian.PutUint32(p[1:], index)
		return p
	}
	for name, x := range map[string]struct {
		payload []byte
		ok      bool
	}{
		"fine":              {payload(SuiteChaCha, 9), true}, // ML-KEM takes any ciphertext
		"suite not offered": {payload(SuiteAES, 9), false},
		"no suite":          {payload(0, 9), false},
		"unknown suite":     {payload(3, 9), false},
		"other index":       {payload(SuiteChaCha, 10), false},
		"short":             {payload(SuiteChaCha, 9)[1:], false},
		"long":              {append(payload(SuiteChaCha, 9), 0), false},
		"empty":             {nil, false},
	} {
		i, d := initiate(t, a, b)
		if _, err := i.Finish(3000, crafted(t, b, d, x.payload)); (err == nil) != x.ok {
			t.Errorf("response %s: %v", name, err)
		}
	}

	// An initiation with an encapsulation key that isn't one (FIPS 203 § 7.2).
	d := handshakeHeader(KindInitiation, 0, 7, InitiationLen)
	state, err := a.noise((*a.secrets.Load())[0].PSK, b.id, d, b.static.Public[:], a.rand)
	if err != nil {
		t.Fatal(err)
	}
	p := slices.Concat([]byte{byte(SuiteAES)}, a.id[:], bytes.Repeat([]byte{0xff}, initiationPayload-33))
	if d, _, _, err = state.WriteMessage(d, p); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Respond(2000, signed(a.Handshaker, d), knows(a), 9, b.rand); err == nil || !strings.Contains(err.Error(), "encapsulation key") {
		t.Errorf("initiation with a bad encapsulation key: %v", err)
	}
}

func TestHandshakeTooLate(t *testing.T) {
	a, b := newShaker(t, 'a', 1, true), newShaker(t, 'b', 1, true)
	i, d := initiate(t, a, b)
	_, r := respond(t, a, b, d)
	if _, err := i.Finish(i.started.Add(RejectAfter), r); err == nil {
		t.Fatal("made a session that is dead already")
	}
	s, err := i.Finish(i.started.Add(RejectAfter-time.Nanosecond), r)
	if err != nil || s.Expired(i.started.Add(RejectAfter-time.Nanosecond)) {
		t.Fatal(err)
	}
}

// A captured initiation that is sent again makes a session that nobody can use:
// the one who captured it can't confirm it, and the first session goes on.
func TestHandshakeReplay(t *testing.T) {
	a, b := newShaker(t, 'a', 1, true), newShaker(t, 'b', 1, true)
	i, d := initiate(t, a, b)
	sb, r := respond(t, a, b, d)
	sa, err := i.Finish(3000, r)
	if err != nil {
		t.Fatal(err)
	}
	captured := sealed(sa, "forth")
	again, answer := respond(t, a, b, d)
	if opens(again, captured, "forth") || again.Confirmed() {
		t.Fatal("a replayed session opens a captured datagram")
	}
	if bytes.Equal(answer[noiseStart:], r[noiseStart:]) {
		t.Fatal("the same answer twice")
	}
	if !opens(sb, captured, "forth") || !talk(sa, sb) {
		t.Fatal("the session broke")
	}
	var seen SeenCache
	if seen.Seen(HandshakeMAC(d)) || !seen.Seen(HandshakeMAC(d)) {
		t.Fatal("the cache doesn't know the initiation again")
	}
}

// A stream that was captured can't be read with the keys that anybody else has,
// though they be of the same network, with the same peers, or of the next
// session of the same two.
func TestHandshakeThirdParty(t *testing.T) {
	a, b, c := newShaker(t, 'a', 1, true), newShaker(t, 'b', 1, true), newShaker(t, 'c', 1, true)
	sa, sb := shake(t, a, b)
	next, nextB := shake(t, a, b)
	withC, c1 := shake(t, a, c)
	c2, cb := shake(t, c, b)
	for range 10 {
		d := sealed(sa, "secret")
		for n, s := range []*Session{sa, next, nextB, withC, c1, c2, cb} {
			if opens(s, d, "secret") {
				t.Fatalf("session %d opens another's datagram", n)
			}
		}
		if !opens(sb, d, "secret") {
			t.Fatal("not opened by whom it is for")
		}
	}
}

// Both of Noise's keys and ML-KEM's secret are what the session's keys come from.
func TestHandshakeKeyMaterial(t *testing.T) {
	forth := noise.UnsafeNewCipherState(noiseSuite(nil), [32]byte{1}, 0)
	back := noise.UnsafeNewCipherState(noiseSuite(nil), [32]byte{2}, 0)
	want := append(make([]byte, 64), "ML-KEM"...)
	want[0], want[32] = 1, 2
	if got := keyMaterial(forth, back, []byte("ML-KEM")); !bytes.Equal(got, want) {
		t.Fatalf("%x, want %x", got, want)
	}
}

func TestHandshakeShortDatagrams(t *testing.T) {
	if ResponseIndex(nil) != 0 || ResponseIndex(make([]byte, HeaderLen-1)) != 0 {
		t.Error("an index in a short datagram")
	}
	if HandshakeMAC(nil) != [MACLen]byte{} || HandshakeMAC(bytes.Repeat([]byte{1}, noiseStart-1)) != [MACLen]byte{} {
		t.Error("a MAC in a short datagram")
	}
}

// over returns d with the bytes of e from its beginning, so that a fuzzer's
// datagram has the length that gets it further.
func over(d, e []byte) []byte {
	d = slices.Clone(d)
	copy(d, e)
	return d
}
