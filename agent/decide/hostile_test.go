package decide

import (
	"testing"
	"time"

	"farlan/overlay"
	"farlan/overlay/mesh"
)

// Who asks without end gets few answers, and no more links than others; however many ask,
// nothing grows.
func TestFloodOfAsks(t *testing.T) {
	v := newVillage(t, 25)
	for range 6 {
		v.epoch()
	}
	l := v.links[0]
	answers := 0
	flush := func() { l.Flush(func(overlay.AgentID, []byte) { answers++ }) }
	for n := range 10_000 {
		l.Receive(v.now, agentID(1), request{what: asks, number: uint16(n), why: mesh.Ring}.encode())
		flush()
		v.now = v.now.Add(time.Millisecond)
	}
	if most := askBurst + 10; answers > most {
		t.Errorf("%d answers to one peer in ten seconds, want %d at most", answers, most)
	}
	for n := range 50_000 {
		l.Receive(v.now, agentID(n), request{what: asks, number: uint16(n), why: mesh.Ring}.encode())
		flush()
	}
	if len(l.askers) > maxAskers || len(l.links) > maxLinks || len(l.Kept()) > 20 {
		t.Errorf("%d askers, %d links, %d kept", len(l.askers), len(l.links), len(l.Kept()))
	}
	if c := l.Counters(); c.Limited == 0 || c.Denied == 0 {
		t.Errorf("%+v", c)
	}
}

// Answers to nothing, others' numbers and lies in records make no link.
func TestLies(t *testing.T) {
	v := newVillage(t, 3)
	l := v.links[0]
	for _, r := range []request{{accepts, 1, mesh.Full, 0}, {refuses, 1, mesh.CapReached, 0}, {drops, 0, mesh.Gain, 0}} {
		if err := l.Receive(v.now, agentID(1), r.encode()); err != nil {
			t.Error(err)
		}
	}
	if len(l.Kept()) > 0 || len(l.links) > 0 {
		t.Errorf("%+v", l.Kept())
	}
	// Before the first epoch nobody is refused for good.
	l.Receive(v.now, agentID(1), request{what: asks, number: 9, why: mesh.Full}.encode())
	l.Flush(func(_ overlay.AgentID, msg []byte) {
		if r, _, _ := parseRequest(msg); r != (request{what: refuses, number: 9, why: 0}) {
			t.Errorf("answered %+v", r)
		}
	})
	v.epoch()
	// An agent that says that it holds links with all is believed by none but those who say
	// so, too, and is as far away as they say.
	told := v.told()
	for i := range told[1].Rows {
		told[1].Rows[i].RTT = time.Microsecond
	}
	with, _ := NewPicture(1, 0, agentID(0), told)
	if n := len(with.Facts.Links); n != 3 {
		t.Fatalf("%d links", n)
	}
	for _, x := range with.Facts.Links {
		if x.Cost != CandidateCost(10*time.Millisecond) {
			t.Errorf("a liar shortened a link to %d µs", x.Cost)
		}
	}
	told[0].Rows, told[2].Rows = nil, nil
	without, _ := NewPicture(1, 0, agentID(0), told)
	if n := len(without.Facts.Links); n != 0 {
		t.Errorf("%d links by a liar's word", n)
	}
}

// Whatever messages come, in whatever epochs, nothing panics and all bounds hold.
func FuzzLinks(f *testing.F) {
	f.Add([]byte{0, 1, 1, 1, 0, 1, 1, 9, 2, 2, 1, 3})
	f.Add([]byte{9, 9, 9, 9, 1, 0, 4, 1, 2, 0, 7})
	v := newVillage(&testing.T{}, 20)
	for range 3 {
		v.epoch()
	}
	told := v.told()
	p, err := NewPicture(1, 1, agentID(0), told)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l := NewLinks(agentID(0))
		now, epoch := start, int64(1000)
		for len(b) >= 3 {
			switch b[0] % 8 {
			case 0:
				epoch += int64(int8(b[1]))
				l.Step(now, epoch, p, []Measured{{agentID(int(b[2])), int32(b[1]) << 10}}, []mesh.Rate{{Peer: agentID(int(b[1])), Kbit: int64(b[2]) << 8}})
			case 1:
				now = now.Add(time.Duration(int8(b[1])) * 100 * time.Millisecond)
				l.Tick(now)
			case 2:
				l.Receive(now, agentID(int(b[1])), b[2:])
			default:
				r := request{what: b[0] % 5, number: uint16(b[2]), why: mesh.Reason(b[2] % 8)}
				l.Receive(now, agentID(int(b[1])), r.encode())
			}
			sent := 0
			l.Flush(func(overlay.AgentID, []byte) { sent++ })
			if sent > 2*maxLinks || len(l.links) > maxLinks || len(l.askers) > maxAskers {
				t.Fatalf("%d messages, %d links, %d askers", sent, len(l.links), len(l.askers))
			}
			for _, k := range l.Kept() {
				if !k.Kept() || k.Peer == agentID(0) {
					t.Fatalf("%+v", k)
				}
			}
			b = b[3:]
		}
	})
}
