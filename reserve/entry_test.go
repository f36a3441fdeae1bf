package reserve

import (
	"bytes"
	"testing"
	"time"

	"farlan/overlay"
)

func someSegment() *segment {
	m := someMessage()
	return &segment{
		id: m.id, flow: m.flow, declared: true, next: m.next, promise: Priority, owner: "ann", peer: overlay.AgentID{1}, epoch: 5, number: 6,
		driver: "tc", egress: "eth0", rate: 5 * Mbit, asked: 4 * Mbit, end: 100, until: 90, goal: Active, state: Held, verb: DoCommit,
		grant: Grant{ID: m.id, Kind: Guarantee, Rate: 3 * Mbit, End: 90, Handle: "eth0 1:2"},
	}
}

func someReservation() *reservation {
	return &reservation{
		id: [16]byte{1, 2, 3}, declared: true, firm: true, epoch: 5, state: Active, rate: 5 * Mbit, began: 10, end: 50, until: 110, life: time.Minute,
		req: Request{
			Flow: someMessage().flow, Path: []overlay.AgentID{{3}, {4}}, Back: []overlay.AgentID{{5}}, Rate: 6 * Mbit, BackRate: 2 * Mbit,
			For: 100, Kind: Guarantee, Owner: "ann",
		},
	}
}

func TestJournal(t *testing.T) {
	s, r := someSegment(), someReservation()
	b := appendEntry(nil, ofSegment, s.encode())
	first := len(b)
	b = appendEntry(b, ofRoute, r.encode())
	second := len(b)
	s.state = Committed
	b = appendEntry(b, ofSegment, s.encode())
	j := ReadJournal(b)
	if j.Torn != 0 || len(j.segments) != 1 || len(j.reservations) != 1 || j.segments[0].state != Committed {
		t.Fatalf("%+v", j)
	}
	if got := j.segments[0].encode(); !bytes.Equal(got, s.encode()) || j.segments[0].grant != s.grant {
		t.Errorf("%+v", j.segments[0])
	}
	if got := j.reservations[0].encode(); !bytes.Equal(got, r.encode()) || len(j.reservations[0].req.Path) != 2 {
		t.Errorf("%+v", j.reservations[0])
	}
	for n := range b { // a write that was cut short
		j := ReadJournal(b[:n])
		want := n
		for _, whole := range []int{first, second} {
			if n >= whole {
				want = n - whole
			}
		}
		if j.Torn != want {
			t.Fatalf("of %d bytes %d are torn", n, j.Torn)
		}
	}
	for i := range first { // damage
		x := bytes.Clone(b)
		x[i] ^= 0x10
		if j := ReadJournal(x); j.Torn != len(b) {
			t.Fatalf("byte %d: %d are torn", i, j.Torn)
		}
	}
}

func FuzzJournal(f *testing.F) {
	b := appendEntry(nil, ofSegment, someSegment().encode())
	f.Add(appendEntry(b, ofRoute, someReservation().encode()), false)
	f.Fuzz(func(t *testing.T, b []byte, body bool) {
		if body { // with a checksum that is right
			b = append(appendEntry(nil, ofSegment, b), appendEntry(nil, ofRoute, b)...)
		}
		j := ReadJournal(b)
		if j.Torn < 0 || j.Torn > len(b) {
			t.Fatalf("%d of %d bytes are torn", j.Torn, len(b))
		}
		for _, s := range j.segments {
			if again, ok := parseSegment(s.encode()); !ok || !bytes.Equal(again.encode(), s.encode()) {
				t.Errorf("%+v", s)
			}
		}
		for _, r := range j.reservations {
			if again, ok := parseReservation(r.encode()); !ok || !bytes.Equal(again.encode(), r.encode()) {
				t.Errorf("%+v", r)
			}
		}
		w := brokerFor(overlay.AgentID{1}, j) // whatever it says, it can be taken up
		for i := range 100 {
			w.Tick(simBeginning.Add(time.Duration(i) * 10 * time.Second))
			w.Flush()
		}
	})
}
