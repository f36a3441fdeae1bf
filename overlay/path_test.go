package overlay

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// chain returns the sessions along a path of n agents: hops[i][0] is agent i's
// with agent i+1, hops[i][1] the other end.
func chain(t testing.TB, n int) (path []Label, hops [][2]*Session) {
	t.Helper()
	for i := range n {
		path = append(path, AgentID{byte(i + 1)}.Label())
		if i > 0 {
			a, b := sessionPair(t, SuiteAES, byte(i))
			hops = append(hops, [2]*Session{a, b})
		}
	}
	return path, hops
}

// transit opens the front of a relayed datagram at its next agent.
func transit(t testing.TB, s *Session, d []byte) (Transit, bool) {
	t.Helper()
	front := TransitFront(d)
	if front == nil {
		t.Fatal("the datagram isn't complete")
	}
	if _, ok := s.Open(front); !ok {
		return Transit{}, false
	}
	return ParseTransit(d)
}

func TestTransit(t *testing.T) {
	for labels := minLabels; labels <= MaxLabels; labels++ {
		path, hops := chain(t, labels)
		inner := bytes.Repeat([]byte{7}, 1000)
		d := AppendReserved(nil, hops[0][0], LaneDelay|3, 200, path, inner)
		if len(d) != RelayOverhead(labels)+len(inner) {
			t.Fatalf("%d labels: %d bytes", labels, len(d))
		}
		for i, hop := range hops {
			if kind, ok := ParseKind(d); !ok || kind != KindRelay || d[laneByte] != LaneDelay|3 {
				t.Fatalf("hop %d: kind %d, lane %d", i, kind, d[laneByte])
			}
			if label := binary.BigEndian.AppendUint32(nil, uint32(path[0])); bytes.Contains(d, label) {
				t.Fatal("the path can be read")
			}
			r, ok := transit(t, hop[1], d)
			if !ok || r.Here() != path[i+1] || r.Sender() != path[0] || !bytes.Equal(r.Inner(), inner) {
				t.Fatalf("hop %d of %d: %v", i, labels, ok)
			}
			if want := byte(200 - i); r.Reservation() != want {
				t.Fatalf("hop %d: reservation %d, want %d", i, r.Reservation(), want)
			}
			next, ok := r.Next()
			if last := i == len(hops)-1; ok == last || !last && next != path[i+2] {
				t.Fatalf("hop %d of %d: next %x, %v", i, labels, next, ok)
			}
			if ok && !r.Pass(hops[i+1][0], byte(199-i)) {
				t.Fatal("a session was over")
			}
		}
	}
}

func TestTransitRefuses(t *testing.T) {
	path, hops := chain(t, 4)
	inner := make([]byte, 100)
	for _, p := range [][]Label{nil, path[:2], make([]Label, MaxLabels+1)} {
		if AppendRelayed(nil, hops[0][0], 0, p, inner) != nil {
			t.Errorf("a path of %d labels", len(p))
		}
	}
	good := AppendRelayed(nil, hops[0][0], 0, path, inner)
	for bit := range 8 * RelayOverhead(len(path)) {
		d := bytes.Clone(good)
		d[bit/8] ^= 1 << (bit % 8)
		if front := TransitFront(d); front != nil {
			if _, ok := hops[0][1].Open(front); ok {
				t.Fatalf("bit %d flipped, opened all the same", bit)
			}
		}
	}
	if _, ok := transit(t, hops[0][1], bytes.Clone(good)); !ok {
		t.Fatal("the good one was refused")
	}
	if _, ok := transit(t, hops[0][1], good); ok {
		t.Error("a replayed front was opened")
	}
	hops[0][0].Erase()
	if AppendRelayed(nil, hops[0][0], 0, path, inner) != nil {
		t.Error("sealed with a session that is over")
	}
}

// FuzzTransit: what a member seals may be anything.
func FuzzTransit(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3}, byte(3))
	f.Add([]byte{200, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3}, byte(3))
	f.Fuzz(func(t *testing.T, path []byte, labels byte) {
		a, b := sessionPair(t, SuiteAES, 1)
		d := make([]byte, HeaderLen+len(path), HeaderLen+len(path)+TagLen+HeaderLen)
		copy(d[HeaderLen:], path)
		d = append(a.seal(SpaceWay, KindRelay, labels, 0, d), make([]byte, HeaderLen)...)
		front := TransitFront(d)
		if front == nil || len(front) != HeaderLen+len(path)+TagLen {
			return
		}
		if _, ok := b.Open(front); !ok {
			t.Fatal("a member's front was refused")
		}
		r, ok := ParseTransit(d)
		if !ok {
			return
		}
		_, _, _, _ = r.Here(), r.Sender(), r.Inner(), r.Reservation()
		if _, more := r.Next(); more && !r.Pass(a, 0) {
			t.Fatal("not passed on")
		}
	})
}
