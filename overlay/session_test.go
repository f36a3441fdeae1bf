package overlay

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// sessionPair returns both ends of a session whose keys come from seed.
func sessionPair(t testing.TB, suite Suite, seed byte) (a, b *Session) {
	t.Helper()
	idA, idB := AgentID{'a', seed}, AgentID{'b', seed}
	a = &Session{peer: idB, local: 1, remote: 2, initiator: true, suite: suite}
	b = &Session{peer: idA, local: 2, remote: 1, suite: suite}
	material := bytes.Repeat([]byte{seed}, 96)
	for _, err := range []error{a.setKeys(idA, []byte("hash"), material), b.setKeys(idB, []byte("hash"), material)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

// sealed returns the datagram in which s sends body.
func sealed(s *Session, body string) []byte {
	b := make([]byte, HeaderLen, HeaderLen+len(body)+TagLen)
	return s.Seal(KindData, 0, append(b, body...))
}

// opens says whether s opens d, of which it leaves the original alone, as body.
func opens(s *Session, d []byte, body string) bool {
	got, ok := s.Open(slices.Clone(d))
	return ok && string(got) == body
}

var suites = []Suite{SuiteChaCha, SuiteAES}

func TestSessionBothWays(t *testing.T) {
	for _, suite := range suites {
		t.Run(suite.String(), func(t *testing.T) {
			a, b := sessionPair(t, suite, 1)
			if !a.Confirmed() || b.Confirmed() {
				t.Fatal("confirmed: want the initiator at once, the responder not yet")
			}
			for i, body := range []string{"", "x", "a frame", string(make([]byte, 9000))} {
				d := sealed(a, body)
				if kind, ok := ParseKind(d); !ok || kind != KindData || ReceiverIndex(d) != b.LocalIndex() || Counter(d) != uint64(i) {
					t.Fatalf("header %x", d[:HeaderLen])
				}
				if !opens(b, d, body) || !opens(a, sealed(b, body), body) {
					t.Fatalf("body %d is not opened", i)
				}
			}
			if !b.Confirmed() || a.Sent() != 4 || a.Received() != 4 || b.Sent() != 4 || b.Received() != 4 {
				t.Fatalf("sent %d and %d, received %d and %d", a.Sent(), b.Sent(), a.Received(), b.Received())
			}
		})
	}
}

func TestSessionRefuses(t *testing.T) {
	for _, suite := range suites {
		t.Run(suite.String(), func(t *testing.T) {
			a, b := sessionPair(t, suite, 1)
			_, other := sessionPair(t, suite, 2)
			d := sealed(a, "a frame")
			if opens(a, d, "a frame") {
				t.Error("a datagram is reflected")
			}
			if opens(other, d, "a frame") {
				t.Error("a datagram of another session is opened")
			}
			for n := range d {
				if _, ok := b.Open(slices.Clone(d[:n])); ok {
					t.Errorf("opened when cut to %d bytes", n)
				}
			}
			for bit := range len(d) * 8 {
				e := slices.Clone(d)
				e[bit/8] ^= 1 << (bit % 8)
				if _, ok := b.Open(e); ok {
					t.Errorf("opened with bit %d flipped", bit)
				}
			}
			if _, ok := b.Open(append(slices.Clone(d), 0)); ok {
				t.Error("opened with a byte appended")
			}
			if b.Received() != 0 {
				t.Error("counted what it refused")
			}
			if !opens(b, d, "a frame") {
				t.Error("the true datagram is refused after forged ones")
			}
			if opens(b, d, "a frame") {
				t.Error("a replay is opened")
			}
		})
	}
}

// Everything that two agents must agree on is in the keys: an end that differs
// in one thing opens nothing.
func TestSessionBinds(t *testing.T) {
	for name, change := range map[string]func(s *Session, self *AgentID, hash, material []byte){
		"nothing":           func(*Session, *AgentID, []byte, []byte) {},
		"initiator":         func(s *Session, _ *AgentID, _, _ []byte) { s.peer[0]++ },
		"responder":         func(_ *Session, self *AgentID, _, _ []byte) { self[0]++ },
		"initiator's index": func(s *Session, _ *AgentID, _, _ []byte) { s.remote++ },
		"responder's index": func(s *Session, _ *AgentID, _, _ []byte) { s.local++ },
		"role":              func(s *Session, _ *AgentID, _, _ []byte) { s.initiator = true },
		"suite":             func(s *Session, _ *AgentID, _, _ []byte) { s.suite = SuiteAES },
		"hash":              func(_ *Session, _ *AgentID, hash, _ []byte) { hash[0]++ },
		"first Noise key":   func(_ *Session, _ *AgentID, _, material []byte) { material[0]++ },
		"second Noise key":  func(_ *Session, _ *AgentID, _, material []byte) { material[32]++ },
		"ML-KEM secret":     func(_ *Session, _ *AgentID, _, material []byte) { material[95]++ },
	} {
		a, _ := sessionPair(t, SuiteChaCha, 1)
		b := &Session{peer: AgentID{'a', 1}, local: 2, remote: 1, suite: SuiteChaCha}
		self, hash, material := AgentID{'b', 1}, []byte("hash"), bytes.Repeat([]byte{1}, 96)
		change(b, &self, hash, material)
		if err := b.setKeys(self, hash, material); err != nil {
			t.Fatal(err)
		}
		if got := opens(b, sealed(a, "a frame"), "a frame"); got != (name == "nothing") {
			t.Errorf("%s differs: opened %v", name, got)
		}
	}
	if err := (&Session{suite: 9}).setKeys(AgentID{}, nil, nil); err == nil {
		t.Error("an unknown suite is taken")
	}
}

// The derivation of the keys, the header, the nonce and the suites are on the
// wire: a change of them is another Version. The datagrams were computed with
// another implementation (Python's hmac and cryptography).
func TestSessionVector(t *testing.T) {
	for suite, want := range map[Suite]string{
		SuiteChaCha: "11000000000000020000000000000102a4881d6022aaef08751e503fcc7c3ac1968e6236bb3194",
		SuiteAES:    "11000000000000020000000000000102e34d409cb74a7ce8cc0cd198ae0fccccb81318db413a3d",
	} {
		a, _ := sessionPair(t, suite, 1)
		a.counters[SpaceWay].Store(0x0102)
		if got := hex.EncodeToString(sealed(a, "a frame")); got != want {
			t.Errorf("%v: %s, want %s", suite, got, want)
		}
	}
}

// A captured stream, in any order, is opened once each, as far back as the
// window reaches.
func TestSessionReplay(t *testing.T) {
	a, b := sessionPair(t, SuiteAES, 1)
	var stream [][]byte
	for i := range 300 {
		stream = append(stream, sealed(a, fmt.Sprint(i)))
	}
	for i := range stream {
		j := i * 7 % len(stream)
		if !opens(b, stream[j], fmt.Sprint(j)) || opens(b, stream[j], fmt.Sprint(j)) {
			t.Fatalf("datagram %d is not opened exactly once", j)
		}
	}
	old := sealed(a, "old")
	a.counters[SpaceWay].Add(windowSize)
	if !opens(b, sealed(a, "new"), "new") || opens(b, old, "old") {
		t.Fatal("a datagram from before the window is opened")
	}
}

func TestSessionUniqueNonces(t *testing.T) {
	a, b := sessionPair(t, SuiteAES, 1)
	const senders, each = 4, 500
	seen := make([][]uint64, senders)
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for range each {
				d := sealed(a, "a frame")
				seen[i] = append(seen[i], Counter(d))
				if !opens(b, d, "a frame") {
					t.Error("not opened")
				}
			}
		})
	}
	wg.Wait()
	all := slices.Concat(seen...)
	slices.Sort(all)
	if all = slices.Compact(all); len(all) != senders*each || all[len(all)-1] != senders*each-1 {
		t.Fatalf("%d counters up to %d, want %d", len(all), all[len(all)-1], senders*each)
	}
	if b.Received() != senders*each {
		t.Fatalf("received %d", b.Received())
	}
}

// The same datagram opened at once by several is accepted by one.
func TestSessionReplayRace(t *testing.T) {
	a, b := sessionPair(t, SuiteAES, 1)
	for range 200 {
		d := sealed(a, "a frame")
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { b.Open(slices.Clone(d)) })
		}
		wg.Wait()
	}
	if b.Received() != 200 {
		t.Fatalf("received %d, want 200", b.Received())
	}
}

func TestSessionErase(t *testing.T) {
	a, b := sessionPair(t, SuiteAES, 1)
	d := sealed(a, "a frame")
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for sealed(a, "a frame") != nil {
			}
		})
		wg.Go(func() {
			for ok := true; ok; {
				_, ok = a.Open(sealed(b, "a frame"))
			}
		})
	}
	a.Erase()
	wg.Wait()
	b.Erase()
	if sealed(a, "a frame") != nil || opens(b, d, "a frame") {
		t.Fatal("used after Erase")
	}
	if !a.Expired(a.Created()) {
		t.Fatal("not expired after Erase")
	}
	a.Erase()
}

func TestSessionAge(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		initiator     bool
		age           time.Duration
		counter       uint64
		rekey, expire bool
	}{
		{initiator: true, age: 0},
		{initiator: true, age: 120*s - 1},
		{initiator: true, age: 120 * s, rekey: true},
		{initiator: false, age: 130*s - 1},
		{initiator: false, age: 130 * s, rekey: true},
		{initiator: true, age: 240*s - 1, rekey: true},
		{initiator: true, age: 240 * s, rekey: true, expire: true},
		{initiator: false, age: 240 * s, rekey: true, expire: true},
		{initiator: true, counter: RekeyAfterDatagrams - 1},
		{initiator: true, counter: RekeyAfterDatagrams, rekey: true},
		{initiator: false, counter: RekeyAfterDatagrams, rekey: true},
		{initiator: true, counter: RejectAfterDatagrams - 1, rekey: true},
		{initiator: true, counter: RejectAfterDatagrams, rekey: true, expire: true},
		{initiator: true, counter: RejectAfterDatagrams + 9, rekey: true, expire: true},
	} {
		a, b := sessionPair(t, SuiteAES, 1)
		if !c.initiator {
			a, b = b, a
		}
		a.created = 1000
		a.counters[SpaceWay].Store(c.counter)
		now := a.created.Add(c.age)
		if got := a.WantsRekey(now); got != c.rekey {
			t.Errorf("%+v: wants rekey %v", c, got)
		}
		if got := a.Expired(now); got != c.expire {
			t.Errorf("%+v: expired %v", c, got)
		}
		d := sealed(a, "a frame")
		if c.counter >= RejectAfterDatagrams {
			if d != nil {
				t.Errorf("%+v: sealed beyond the limit", c)
			}
		} else if !opens(b, d, "a frame") {
			t.Errorf("%+v: not opened", c)
		}
	}
}

// Who seals beyond the limit by mistake is refused by the other end.
func TestSessionOpensNoneBeyondLimit(t *testing.T) {
	a, b := sessionPair(t, SuiteAES, 1)
	d := make([]byte, HeaderLen+TagLen)
	putHeader(d, KindData, 0, 0, 2, RejectAfterDatagrams)
	(*a.sealer.Load()).Seal(d[HeaderLen:HeaderLen], d[4:HeaderLen], nil, d[:HeaderLen])
	if _, ok := b.Open(d); ok {
		t.Fatal("opened")
	}
}

func TestSessionDoesNotAllocate(t *testing.T) {
	for _, suite := range suites {
		a, b := sessionPair(t, suite, 1)
		buf := make([]byte, HeaderLen+1400, HeaderLen+1400+TagLen)
		if n := testing.AllocsPerRun(100, func() {
			if _, ok := b.Open(a.Seal(KindData, 0, buf)); !ok {
				t.Fatal("not opened")
			}
		}); n != 0 {
			t.Errorf("%v: %v allocations for a datagram", suite, n)
		}
	}
}

func FuzzOpen(f *testing.F) {
	a, _ := sessionPair(f, SuiteChaCha, 1)
	a.counters[SpaceWay].Store(77)
	d := sealed(a, "a frame")
	f.Add(d)
	f.Add(d[:HeaderLen+TagLen])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, suite := range suites {
			a, s := sessionPair(t, suite, 1)
			a.counters[SpaceWay].Store(77)
			// Whatever else is opened is a forgery.
			if body, ok := s.Open(slices.Clone(b)); ok && (!bytes.Equal(b, sealed(a, "a frame")) || string(body) != "a frame") {
				t.Fatalf("%v: opened %x as %q", suite, b, body)
			}
		}
	})
}

func benchmarkSession(b *testing.B, run func(b *testing.B, from, to *Session, buf []byte)) {
	for _, suite := range suites {
		b.Run(suite.String(), func(b *testing.B) {
			from, to := sessionPair(b, suite, 1)
			buf := make([]byte, HeaderLen+1400, HeaderLen+1400+TagLen)
			b.SetBytes(1400)
			b.ReportAllocs()
			run(b, from, to, buf)
		})
	}
}

func BenchmarkSeal1400(b *testing.B) {
	benchmarkSession(b, func(b *testing.B, from, _ *Session, buf []byte) {
		for b.Loop() {
			from.Seal(KindData, 0, buf)
		}
	})
}

func BenchmarkOpen1400(b *testing.B) {
	benchmarkSession(b, func(b *testing.B, from, to *Session, buf []byte) {
		d, work := slices.Clone(from.Seal(KindData, 0, buf)), make([]byte, HeaderLen+1400+TagLen)
		for b.Loop() {
			copy(work, d) // some 20 ns
			to.windows[SpaceWay].few[0] = 0
			if _, ok := to.Open(work); !ok {
				b.Fatal("not opened")
			}
		}
	})
}

// Spaces have counters and replay windows of their own under the same keys, and there are
// no others.
func TestSessionSpaces(t *testing.T) {
	a, b := sessionPair(t, SuiteAES, 1)
	seal := func(space Space, text string) []byte {
		d := make([]byte, HeaderLen, HeaderLen+len(text)+TagLen)
		return a.seal(space, KindData, 0, 0, append(d, text...))
	}
	nonces := make(map[string]bool)
	for i := range 100 {
		for space := range Spaces {
			if i > 0 && space == SpaceWay {
				continue // it falls behind by more than a window, which the others must not mind
			}
			d := seal(space, fmt.Sprint(space, i))
			nonces[string(d[4:HeaderLen])] = true
			if s, count := SpaceOf(Counter(d)); s != space || count != uint64(i) || a.SentOf(space) != uint64(i)+1 {
				t.Fatalf("datagram %d of space %d is %d of %d", i, space, count, s)
			}
			if !opens(b, bytes.Clone(d), fmt.Sprint(space, i)) || opens(b, d, fmt.Sprint(space, i)) {
				t.Fatalf("datagram %d of space %d isn't opened exactly once", i, space)
			}
		}
	}
	if len(nonces) != 1+100*int(Spaces-1) || a.Sent() != 1 {
		t.Errorf("%d nonces, %d sent on the way", len(nonces), a.Sent())
	}
	a.counters[SpaceDelay].Add(windowSize)
	if !opens(b, seal(SpaceDelay, "far ahead"), "far ahead") || !opens(b, seal(SpaceBulk, "not late"), "not late") {
		t.Error("one space shuts out another")
	}
	d := seal(SpaceWay, "x")
	putHeader(d, KindData, 0, 0, b.LocalIndex(), Spaces.Counter(1))
	if _, ok := b.Open(d); ok {
		t.Error("a space that there isn't")
	}
	a.counters[SpaceBulk].Store(RejectAfterDatagrams)
	if !a.WantsRekey(a.Created()) || !a.Expired(a.Created()) || seal(SpaceBulk, "x") != nil {
		t.Error("a space that is used up keeps the session")
	}
}
