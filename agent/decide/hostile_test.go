package decide

import (
	"testing"
	"time"

	"farlan/discovery"
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

// One gateway can't make its area larger, whatever it says, nor one of three or more smaller; and
// who makes up areas adds himself alone to each.
func TestLieOfSize(t *testing.T) {
	leaves := func(n int) (all []int) {
		for i := range n {
			all = append(all, 100+i)
		}
		return all
	}
	says := func(n, size int) Gate {
		g := gate(n, 5, nil, leaves(size-1)...)
		g.Size = size
		return g
	}
	for _, c := range []struct {
		name string
		told []int
		want int
	}{
		{"alone", []int{500}, 1},
		{"one of two says more", []int{20, 500}, 20},
		{"one of three says more", []int{20, 500, 21}, 21},
		{"one of three says less", []int{20, 1, 21}, 20},
		{"one of four says more", []int{20, 500, 21, 22}, 21},
		{"one of four says less", []int{20, 1, 21, 22}, 20},
	} {
		var gates []Gate
		for i, size := range c.told {
			gates = append(gates, says(i, size))
		}
		if sizes, total := sizesOf(gates); sizes[5] != c.want || total != c.want {
			t.Errorf("%s: %d members, want %d", c.name, sizes[5], c.want)
		}
	}
	g := says(1, 3)
	g.Size = 500 // more than it names
	if _, total := sizesOf([]Gate{g, g}); total != 3 {
		t.Errorf("%d members", total)
	}
}

// One who tells of a large area that he made up moves nobody: neither a network that isn't divided,
// nor one that is to be one again.
func TestLieMovesNobody(t *testing.T) {
	z := Sizes{Whole: 20, Most: 12, Least: 4, Join: 14}
	var crowd []int
	for i := range discovery.MaxLeaves {
		crowd = append(crowd, 1000+i)
	}
	liar := gate(900, 66, nil, crowd...)
	liar.Rows = []discovery.Row{row(1, ms, holding)}
	for _, c := range []struct {
		name  string
		area  uint32
		agent int
		gates []Gate
		want  uint32
	}{
		{"a few", 0, 3, []Gate{liar}, 0},
		{"a network that needn't be divided", 0, 18, []Gate{liar}, 0},
		{"an area that is the whole network", 5, 8, []Gate{gate(1, 5, []int{2}, 0, 2, 3, 4, 5, 6, 7), gate(2, 5, []int{1}, 0, 1, 3, 4, 5, 6, 7), liar}, 0},
		{"a small area joins no lie", 5, 3, []Gate{
			gate(1, 5, []int{2}, 0, 2), gate(2, 5, []int{1}, 0, 1), gate(20, 6, []int{21}, 21, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39), gate(21, 6, []int{20}, 20, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39), liar,
		}, 5},
	} {
		var a Abode
		area := c.area
		for range 5 {
			area = a.Step(z, Situation{
				Self: agentID(0), Area: area, Picture: draw(t, towns(c.agent)), Beyond: NewBeyond(c.gates),
				Gone:    func(uint32) bool { return false },
				Predict: func(id overlay.AgentID) int32 { return 1 },
			})
		}
		if area != c.want {
			t.Errorf("%s: to %d, want %d", c.name, area, c.want)
		}
	}
}
