package discovery

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"farlan/overlay"
)

// start is when the tests begin, in Unix seconds.
const start = 1_800_000_000

// at returns the instant some seconds after the start.
func at(after int) overlay.Instant {
	return overlay.Instant(start+after) * overlay.Instant(time.Second)
}

func version(after int) uint64 { return uint64(at(after)) }

// hash returns the hash of a store of these records.
func hash(rs ...Record) []byte {
	s := NewStore(overlay.AgentID{}, testKey(7), 0, Limits{})
	for _, r := range rs {
		s.Load(at(0), [][]byte{r.Bytes()})
	}
	h := s.Hash()
	return h[:]
}

// bench is a store that tells as text what it does.
type bench struct{ *Store }

// speak lets no news wait.
func (b bench) speak(now overlay.Instant) {
	b.gather(now)
	b.gather(now.Add(newsAfter))
}

// number returns which test agent id is.
func number(id overlay.AgentID) int {
	return slices.IndexFunc(slices.Concat(keys, moreKeys), func(k ed25519.PrivateKey) bool { return overlay.AgentID(k[32:]) == id })
}

func (k key) name() string { return fmt.Sprintf("%d.%v", number(k.origin), k.kind) }

// describe returns a message as text: its sections in order.
func describe(msg []byte) string {
	var out []string
	for rest := msg[1:]; len(rest) > 0; {
		typ, body, r, err := cutSection(rest)
		if err != nil {
			return err.Error()
		}
		rest = r
		s := ""
		switch typ {
		case sectionHash:
			s = "hash"
		case sectionDigest:
			s = "digest"
			for b := body[2*keyLen:]; len(b) > 0; b = b[stampLen:] {
				s += " " + parseStamp(b).name()
			}
		case sectionOffer:
			s = "offer"
			for b := body; len(b) > 0; b = b[stampLen:] {
				s += " " + parseStamp(b).name()
			}
		case sectionRequest:
			s = "request"
			for b := body; len(b) > 0; b = b[keyLen:] {
				s += " " + parseKey(b).name()
			}
		case sectionRecord:
			r, _ := decodeRecord(body)
			s = "record " + key{r.Origin, r.Kind}.name()
		case sectionNews:
			s = "news"
			for b := body; len(b) > 0; b = b[stampLen:] {
				s += " " + parseStamp(b).name()
			}
		case sectionPrune:
			s = "prune"
		case sectionGraft:
			s = "graft"
			for b := body; len(b) > 0; b = b[keyLen:] {
				s += " " + parseKey(b).name()
			}
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func (b bench) flush() string {
	var out []string
	b.Flush(func(to overlay.AgentID, msg []byte) {
		out = append(out, fmt.Sprintf("→%d %s", number(to), describe(msg)))
	})
	return strings.Join(out, "; ")
}

func (b bench) changed() string {
	var out []string
	for _, c := range b.Changes() {
		s := key{c.Origin, c.Kind}.name()
		if c.Gone {
			s += " gone"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

// message returns a message of one section.
func message(typ byte, body ...[]byte) []byte {
	p := packer{}
	all := slices.Concat(body...)
	p.begin(typ, len(all))
	return append(p.buf, all...)
}

func records(rs ...Record) []byte {
	p := packer{}
	for _, r := range rs {
		p.begin(sectionRecord, len(r.encoded))
		p.buf = append(p.buf, r.encoded...)
	}
	return p.buf
}

func stampOf(r Record) stamp {
	s := NewStore(r.Origin, testKey(7), 0, Limits{})
	s.Publish(at(0), r)
	return s.stamps(s.shelf.keys())[0]
}

// member returns the record that agent n signed some seconds after the start.
func member(n, after int) Record {
	return signed(n, KindMember, version(after), start+3600, memberBody(fmt.Sprint("agent", n)))
}

func TestStoreSteps(t *testing.T) {
	b := bench{NewStore(agentID(2), testKey(7), 1, Limits{})}
	receive := func(from int, msg []byte) func(overlay.Instant) error {
		return func(now overlay.Instant) error { return b.Receive(now, agentID(from), msg) }
	}
	fails := func(want string, do func(overlay.Instant) error) func(overlay.Instant) error {
		return func(now overlay.Instant) error {
			if err := do(now); err == nil || !strings.Contains(err.Error(), want) {
				return fmt.Errorf("error %w, want %q", err, want)
			}
			return nil
		}
	}
	connect := func(n int) func(overlay.Instant) error {
		return func(now overlay.Instant) error { b.Connected(now, agentID(n)); return nil }
	}
	publish := func(r Record) func(overlay.Instant) error {
		return func(now overlay.Instant) error { b.Publish(now, r); return nil }
	}
	forged := bytes.Clone(member(5, 0).Bytes())
	forged[len(forged)-1] ^= 1
	for _, step := range []struct {
		name          string
		after         int
		do            func(now overlay.Instant) error
		sent, changes string
	}{
		{"publish alone", 0, publish(member(2, 0)), "", "2.member"},
		{"publish what isn't newer", 0, publish(member(2, 0)), "", ""},
		{"publish what isn't own", 0, publish(member(3, 0)), "", ""},
		{"a neighbour of smaller id begins", 1, connect(1), "", ""},
		{"with one of greater id we begin", 1, connect(3), "→3 digest 2.member", ""},
		{"connected again", 1, connect(3), "", ""},
		{"ask for what is offered", 2, receive(3, message(sectionOffer, stampOf(member(3, 1)).append(nil))), "→3 request 3.member", ""},
		{"but only one neighbour", 2, receive(1, message(sectionOffer, stampOf(member(3, 1)).append(nil))), "", ""},
		{"answer a request", 2, receive(3, message(sectionRequest, key{agentID(2), 1}.append(nil), key{agentID(9), 2}.append(nil))), "→3 record 2.member", ""},
		{"what was asked for isn't offered to who has it", 2, receive(3, records(member(3, 1))), "", "3.member"},
		{"news is pushed on", 3, receive(3, records(member(3, 3))), "→1 record 3.member", "3.member"},
		{"a duplicate isn't", 3, receive(1, records(member(3, 3))), "→1 prune", ""},
		{"nor is an old record", 3, receive(1, records(member(3, 2))), "", ""},
		{"much news, one message", 3, receive(3, records(member(4, 1), member(4, 2), member(3, 4))), "→1 news 3.member 4.member", "4.member 3.member"},
		{"answer a digest", 4, receive(1, message(sectionDigest, key{}.append(nil), lastKey.append(nil),
			stampOf(member(1, 1)).append(nil), stampOf(member(3, 4)).append(nil), stampOf(member(4, 1)).append(nil))), "→1 offer 2.member 4.member, request 1.member", ""},
		{"answer a part of a digest", 4, receive(1, message(sectionDigest, key{agentID(2), 1}.append(nil), key{agentID(3), 9}.append(nil))), "→1 offer 3.member", ""},
		{"equal hashes", 4, receive(1, message(sectionHash, hash(member(2, 0), member(3, 4), member(4, 2)))), "", ""},
		{"different hashes", 4, receive(1, message(sectionHash, make([]byte, 32))), "→1 digest 2.member 3.member 4.member", ""},
		{"different hashes again at once", 4, receive(1, message(sectionHash, make([]byte, 32))), "", ""},
		{"expired", 5, receive(1, records(signed(5, KindMember, 9, start+5, memberBody("x")))), "", ""},
		{"from the future", 5, receive(1, records(member(5, 606))), "", ""},
		{"for ever", 5, receive(1, records(signed(5, KindMember, 9, start+49*3600, memberBody("x")))), "", ""},
		{"forged", 5, fails("wrong signature", receive(1, message(sectionRecord, forged))), "", ""},
		{"a later message", 5, receive(1, []byte{2, 1, 2, 3}), "", ""},
		{"different hashes while records may be on their way", 5, receive(1, message(sectionHash, make([]byte, 32))), "", ""},
		{"a later section, then one that we know", 7, receive(1, append(message(99, []byte{1}), message(sectionHash, make([]byte, 32))[1:]...)), "→1 digest 2.member 3.member 4.member", ""},
		{"cut off", 7, fails("malformed", receive(1, []byte{1, 5, 0, 9, 1})), "", ""},
		{"a digest that doesn't ascend", 7, fails("malformed", receive(1, message(sectionDigest, key{}.append(nil), lastKey.append(nil),
			stampOf(member(3, 4)).append(nil), stampOf(member(2, 0)).append(nil)))), "→1 offer 2.member", ""},
		{"a stranger", 7, receive(9, records(member(9, 0))), "", ""},
		{"our own record of another life", 7, receive(1, records(member(2, 3600))), "→3 record 2.member", "2.member"},
		{"is what we publish above", 7, func(now overlay.Instant) error {
			if v := b.NextVersion(now); v != version(3600)+1 || b.OwnVersion() != v-1 {
				return fmt.Errorf("next version %d, own %d", v, b.OwnVersion())
			}
			return nil
		}, "", ""},
		{"disconnected", 8, func(overlay.Instant) error { b.Disconnected(agentID(3)); return nil }, "", ""},
		{"expiry", 3600, func(now overlay.Instant) error { b.Disconnected(agentID(1)); b.Tick(now); return nil }, "", "2.member gone 3.member gone 4.member gone"},
	} {
		if err := step.do(at(step.after)); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		b.speak(at(step.after))
		if got := b.flush(); got != step.sent {
			t.Errorf("%s: sent %q, want %q", step.name, got, step.sent)
		}
		if got := b.changed(); got != step.changes {
			t.Errorf("%s: changed %q, want %q", step.name, got, step.changes)
		}
	}
	want := Counters{Duplicate: 1, Stale: 3, Expired: 1, Ahead: 2, Signature: 1, Unknown: 2, Malformed: 2, Stranger: 1}
	if got := b.Counters(); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	if b.Hash() != ([32]byte{}) || b.bytes != 0 || len(b.Origins()) != 0 {
		t.Error("an empty store has a rest")
	}
}

// Of two records of one version all keep the same, whichever comes first.
func TestTwoRecordsOfOneVersion(t *testing.T) {
	a := signed(3, KindMember, version(0), start+100, memberBody("a"))
	b := signed(3, KindMember, version(0), start+100, memberBody("b"))
	x, y := NewStore(agentID(1), testKey(7), 1, Limits{}), NewStore(agentID(2), testKey(7), 2, Limits{})
	x.Load(at(0), [][]byte{a.Bytes(), b.Bytes()})
	y.Load(at(0), [][]byte{b.Bytes(), a.Bytes()})
	if x.Hash() != y.Hash() || len(x.Dump()) != 1 {
		t.Error("the order makes a difference")
	}
	// Stores that have seen one each agree after comparing.
	x, y = NewStore(agentID(1), testKey(7), 1, Limits{}), NewStore(agentID(2), testKey(7), 2, Limits{})
	x.Load(at(0), [][]byte{a.Bytes()})
	y.Load(at(0), [][]byte{b.Bytes()})
	converse(at(0), x, y)
	if x.Hash() != y.Hash() {
		t.Error("no agreement")
	}
}

// converse connects two stores and carries their messages until both are
// silent.
func converse(now overlay.Instant, x, y *Store) (messages, length int) {
	x.Connected(now, y.self)
	y.Connected(now, x.self)
	for busy := true; busy; {
		busy = false
		for _, s := range [][2]*Store{{x, y}, {y, x}} {
			s[0].Flush(func(_ overlay.AgentID, msg []byte) {
				busy = true
				messages++
				length += len(msg)
				_ = s[1].Receive(now, s[0].self, msg)
			})
		}
	}
	return messages, length
}

func TestRateLimit(t *testing.T) {
	s := NewStore(agentID(2), testKey(7), 1, Limits{})
	s.Connected(at(0), agentID(3))
	send := func(now overlay.Instant, n int) {
		for range n {
			v := s.NextVersion(now)
			if r, ok := s.Record(agentID(3), KindMember); ok {
				v = r.Version + 1
			}
			_ = s.Receive(now, agentID(3), records(signed(3, KindMember, v, start+100, memberBody("x"))))
		}
	}
	send(at(0), 30)
	if n := s.Counters().Limited; n != 10 {
		t.Errorf("%d of 30 at once were refused", n)
	}
	send(at(3), 30)
	if n := s.Counters().Limited; n != 10+24 {
		t.Errorf("%d of 30 more after 3 s were refused", n-10)
	}
	send(at(-3600), 1)
	send(at(-3600+11), 20)
	if n := s.Counters().Limited; n > 10+24+2 {
		t.Errorf("%d were refused after the clock jumped back", n-34)
	}
}

func TestLimits(t *testing.T) {
	s := NewStore(agentID(0), testKey(7), 1, Limits{Origins: 3})
	s.Connected(at(0), agentID(1))
	get := func(now overlay.Instant, r Record) { _ = s.Receive(now, agentID(1), records(r)) }
	get(at(0), signed(5, KindMember, version(0), start+10, memberBody("x")))
	for n := 1; n <= 3; n++ {
		get(at(0), member(n, 0))
	}
	if n := s.Counters().Full; n != 1 || len(s.Origins()) != 3 {
		t.Errorf("%d were refused of 4, %d are there", n, len(s.Origins()))
	}
	s.Publish(at(1), member(0, 1)) // there is always room for self
	get(at(2), member(2, 2))       // and for news of who is there
	get(at(10), member(3, 10))     // after the first has expired
	if n := s.Counters().Full; n != 1 || len(s.Origins()) != 4 {
		t.Errorf("%d were refused, %d are there", n, len(s.Origins()))
	}

	s = NewStore(agentID(0), testKey(7), 1, Limits{Bytes: 500})
	if bad := s.Load(at(0), [][]byte{member(1, 0).Bytes(), member(2, 0).Bytes(), member(3, 0).Bytes(), {1, 2}}); bad != 1 {
		t.Errorf("%d are bad", bad)
	}
	if len(s.Origins()) != 3 || s.Counters().Full != 0 {
		t.Errorf("%d are there", len(s.Origins()))
	}
	big := signed(3, KindLinks, version(0), start+10, make([]byte, 300))
	if s.Load(at(0), [][]byte{big.Bytes()}); s.Counters().Full != 1 {
		t.Error("500 bytes took 700")
	}
}

// A newcomer learns a whole network in few messages, none too long, and asks
// for each record once.
func TestNewcomer(t *testing.T) {
	old := NewStore(agentID(1), testKey(7), 1, Limits{})
	links, err := AppendLinks(nil, 0, Facts{}, make([]Link, 1))
	if err != nil {
		t.Fatal(err)
	}
	for n := range keys {
		r := signed(n, KindLinks, version(0), start+100, slices.Concat(links, make([]byte, 40<<10)))
		old.Load(at(0), [][]byte{member(n, 0).Bytes(), r.Bytes()})
	}
	young := NewStore(agentID(2), testKey(7), 2, Limits{})
	messages, length := converse(at(0), young, old)
	if young.Hash() != old.Hash() || !reflect.DeepEqual(young.Dump(), old.Dump()) {
		t.Error("no agreement")
	}
	if messages > len(keys)+6 || length > 64*(41<<10)+64<<10 {
		t.Errorf("%d messages of %d bytes", messages, length)
	}
	if c := young.Counters(); c != (Counters{}) {
		t.Errorf("counted %+v", c)
	}
}

// Digests of many records are split, and each part covers what lies between.
func TestLongDigest(t *testing.T) {
	x, y := NewStore(agentID(1), testKey(7), 1, Limits{}), NewStore(agentID(2), testKey(7), 2, Limits{})
	for i := range 3000 {
		k := ed25519.NewKeyFromSeed(binary.BigEndian.AppendUint32(make([]byte, 28), uint32(i)))
		r, err := SignRecord(k, testKey(7), Record{Kind: KindMember, Version: 1, Expires: start + 10, Body: memberBody("x")})
		if err != nil {
			t.Fatal(err)
		}
		// Verifying 3,000 records takes long under the race detector.
		key := key{r.Origin, r.Kind}
		if i%5 != 0 {
			x.put(at(0), key, newEntry(r))
		}
		if i%7 != 0 {
			y.put(at(0), key, newEntry(r))
		}
	}
	x.Connected(at(0), y.self)
	if got := (bench{x}).flush(); got != "→2 hash" {
		t.Errorf("a store of many records begins with %.20q", got)
	}
	x.Disconnected(y.self)
	y.Connected(at(0), x.self)
	y.neighbours[0].hash = true // as by Tick
	converse(at(0), x, y)
	if x.Hash() != y.Hash() || len(x.Origins()) != 3000-3000/35-1 {
		t.Errorf("%d and %d origins after comparing", len(x.Origins()), len(y.Origins()))
	}
}

func TestTick(t *testing.T) {
	s := NewStore(agentID(1), testKey(7), 1, Limits{})
	if next := s.Tick(at(0)); next != 0 {
		t.Errorf("an empty store wants to be called at %v", next.Time())
	}
	s.Load(at(0), [][]byte{signed(3, KindMember, 1, start+2, memberBody("x")).Bytes()})
	if next := s.Tick(at(0)); next != at(2) {
		t.Errorf("a store with a record wants to be called at %v", next.Time())
	}
	s.Connected(at(0), agentID(0))
	if next := s.Tick(at(3)); next <= at(5) || next > at(3+8) {
		t.Errorf("a store with a neighbour wants to be called at %v", next.Time())
	}
	// Many records go out in portions.
	links := noLinks
	for n := range keys {
		s.Load(at(3), [][]byte{signed(n, KindLinks, 1, start+10, slices.Concat(links, make([]byte, 40<<10))).Bytes()})
		_ = s.Receive(at(3), agentID(0), message(sectionRequest, key{agentID(n), KindLinks}.append(nil)))
	}
	for want := len(keys); want > 0; want -= min(want, flushMessages) {
		if got := len(s.neighbours[0].records); got != want {
			t.Fatalf("%d records are queued, want %d", got, want)
		}
		if next := s.Tick(at(3)); next != at(3).Add(flushAgain) {
			t.Errorf("a store with a queue wants to be called at %v", next.Time())
		}
		s.Flush(func(overlay.AgentID, []byte) {})
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(records(member(3, 0), member(2, 0)))
	f.Add(message(sectionDigest, key{}.append(nil), lastKey.append(nil), stampOf(member(1, 1)).append(nil)))
	f.Add(message(sectionOffer, stampOf(member(1, 1)).append(nil)))
	f.Add(message(sectionRequest, key{agentID(2), 1}.append(nil)))
	f.Add(message(sectionHash, make([]byte, 32)))
	f.Fuzz(func(t *testing.T, msg []byte) {
		s := NewStore(agentID(2), testKey(7), 1, Limits{Origins: 2})
		s.Publish(at(0), member(2, 0))
		s.Connected(at(0), agentID(1))
		s.Connected(at(0), agentID(3))
		_ = s.Receive(at(0), agentID(1), msg)
		s.Flush(func(_ overlay.AgentID, m []byte) {
			if len(m) > MaxMessage || strings.Contains(describe(m), errMalformed.Error()) {
				t.Fatalf("sent a message of %d bytes", len(m))
			}
		})
		if s.asked.len() > 9 || s.shelf.len() != len(s.shelf.names) {
			t.Fatal("grew")
		}
	})
}

// A record that can't be verified doesn't void those behind it in its message.
func TestStoreTakesTheRest(t *testing.T) {
	s := NewStore(agentID(2), testKey(7), 1, Limits{})
	s.Connected(at(0), agentID(1))
	forged := bytes.Clone(member(5, 0).Bytes())
	forged[len(forged)-1] ^= 1
	err := s.Receive(at(1), agentID(1), append(message(sectionRecord, forged), records(member(6, 1))[1:]...))
	if _, ok := s.Member(agentID(6)); !errors.Is(err, ErrSignature) || !ok {
		t.Errorf("%v, and the good record is taken: %v", err, ok)
	}
	if _, ok := s.Member(agentID(5)); ok || s.Counters().Signature != 1 {
		t.Errorf("the other one too, %+v", s.Counters())
	}
}
