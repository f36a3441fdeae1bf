package agent

import (
	"encoding/binary"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// onesSum adds up 16-bit words as Internet checksums do (RFC 1071).
func onesSum(b []byte) uint16 {
	sum := uint32(0)
	for i, x := range b {
		sum += uint32(x) << (8 * (1 - i%2))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum>>16 + sum&0xffff)
}

// multicast4 makes an IPv4 packet to a group.
func multicast4(src overlay.MAC, group [4]byte, protocol, ttl byte, payload []byte) []byte {
	h := slices.Concat([]byte{0x46, 0xc0, 0, 0, 0, 0, 0, 0, ttl, protocol, 0, 0, 10, 78, 0, 9}, group[:], []byte{0x94, 4, 0, 0})
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	binary.BigEndian.PutUint16(h[10:], onesSum(h))
	return slices.Concat([]byte{1, 0, 0x5e, group[1] & 0x7f, group[2], group[3]}, src[:], []byte{8, 0}, h, payload)
}

var testGroup = [4]byte{239, 7, 7, 7}

func igmp(src overlay.MAC, to [4]byte, b ...byte) []byte {
	binary.BigEndian.PutUint16(b[2:], onesSum(b))
	return multicast4(src, to, 2, 1, b)
}

// groupQuery asks who listens to a group, within a second; to all if that is zero.
func groupQuery(src overlay.MAC, group [4]byte) []byte {
	to := group
	if to == [4]byte{} {
		to = [4]byte{224, 0, 0, 1}
	}
	return igmp(src, to, slices.Concat([]byte{0x11, 10, 0, 0}, group[:], []byte{2, 1, 0, 0})...)
}

// groupReport says that a station listens to the group, or doesn't any more.
func groupReport(src overlay.MAC, listens bool) []byte {
	kind := byte(3)
	if listens {
		kind = 4
	}
	return igmp(src, [4]byte{224, 0, 0, 22}, slices.Concat([]byte{0x22, 0, 0, 0, 0, 0, 0, 1, kind, 0, 0, 0}, testGroup[:])...)
}

// queried has a querier behind an agent ask twice, and those who listen answer.
func (v *village) queried(at int, listeners ...int) {
	for range 2 {
		v.sends(at, groupQuery(overlay.MAC{2, 9}, [4]byte{}))
		v.run(time.Second)
		for _, i := range listeners {
			v.sends(i, groupReport(v.station(i), true))
		}
		v.run(2 * time.Second)
	}
}

// streams has something sent to the group from behind an agent, and returns at which others'
// ports it comes out.
func (v *village) streams(from int) (at []int) {
	v.t.Helper()
	before := make([]int, len(v.homes))
	for i, h := range v.homes {
		before[i] = h.port.frames
	}
	v.sends(from, multicast4(v.station(from), testGroup, 17, 9, make([]byte, 1000)))
	v.run(300 * time.Millisecond)
	for i, h := range v.homes {
		switch got := h.port.frames - before[i]; {
		case i == from: // reports may come out there
		case got == 1:
			at = append(at, i)
		case got > 1:
			v.t.Errorf("agent %d wrote %d frames", i, got)
		}
	}
	return at
}

func (v *village) all(but int) (all []int) {
	for i := range v.homes {
		if i != but {
			all = append(all, i)
		}
	}
	return all
}

// goes checks at which ports what agent 0's port sends to the group comes out.
func (v *village) goes(want ...int) {
	v.t.Helper()
	if got := v.streams(0); !slices.Equal(got, want) {
		v.t.Errorf("it comes out at %v, want %v", got, want)
	}
}

// Multicast goes to the agents where somebody listens: once it is known, at once when somebody
// else does, though the first report is lost, and after a station that moves.
func TestMulticast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 5, 5, 0)
		v.run(5 * time.Second)
		v.goes(v.all(0)...)
		v.sends(1, groupReport(v.station(1), true))
		v.run(time.Second)
		v.goes(v.all(0)...) // nobody asks who listens
		v.queried(0, 1)
		v.goes(1)
		sent := v.homes[0].n.floodsView()
		if sent.Alone != 1 || sent.Spared != 3 || sent.Groups != 1 {
			t.Errorf("%+v", sent)
		}
		v.sends(2, groupReport(v.station(2), true))
		v.run(100 * time.Millisecond)
		v.goes(1, 2)

		v.cut = func(from, to int) bool { return from == 3 && to == 0 }
		v.sends(3, groupReport(v.station(3), true))
		v.run(100 * time.Millisecond)
		v.cut = nil
		v.run(time.Second)
		v.goes(1, 2, 3)

		v.sends(2, groupReport(v.station(2), false))
		v.run(100 * time.Millisecond)
		v.sends(0, groupQuery(overlay.MAC{2, 9}, testGroup))
		v.run(500 * time.Millisecond)
		for _, i := range []int{1, 3} {
			v.sends(i, groupReport(v.station(i), true))
		}
		v.run(3 * time.Second)
		v.goes(1, 3)

		v.says(4, v.station(3), overlay.Broadcast) // it has moved
		v.run(100 * time.Millisecond)
		v.goes(1, 3, 4)
	})
}

// Reports reach all agents, but no listener, who would keep quiet then.
func TestReportsGoToRouters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 4, 4, 0)
		v.run(5 * time.Second)
		v.queried(0)
		before := []int{v.homes[0].port.frames, v.homes[2].port.frames, v.homes[3].port.frames}
		v.sends(1, igmp(v.station(1), testGroup, 0x16, 0, 0, 0, 239, 7, 7, 7))
		v.run(50 * time.Millisecond)
		for i, at := range []int{0, 2, 3} {
			if got := v.homes[at].port.frames - before[i]; got != map[bool]int{true: 1}[at == 0] {
				t.Errorf("agent %d wrote %d reports", at, got)
			}
			if c := v.homes[at].n.sw.Groups.Count(v.homes[at].n.now()); c != (overlay.GroupCount{Groups: 1, Listeners: 1, Restricts: 1}) {
				t.Errorf("agent %d knows %+v", at, c)
			}
		}
	})
}

// Who was away, or comes later, isn't forgotten: it gets all until it was asked.
func TestMulticastToNewcomers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 4, 4, 0)
		v.run(5 * time.Second)
		v.queried(0, 1, 2)
		v.goes(1, 2)
		now := v.homes[0].n.now()
		v.homes[0].n.gone(now, v.peer(0, 2), "silent")
		v.run(10 * time.Second)
		if v.peer(0, 2).out.Load() == nil {
			t.Fatal("they didn't meet again")
		}
		v.goes(1, 2) // though nothing says that somebody listens there
		v.sends(0, groupQuery(overlay.MAC{2, 9}, [4]byte{}))
		v.run(2500 * time.Millisecond)
		v.queried(0, 1)
		v.goes(1)
	})
}

// What an agent said while it wasn't heard for some seconds isn't missed.
func TestMulticastAfterACut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 4, 4, 0)
		v.run(5 * time.Second)
		v.queried(0, 1)
		v.goes(1)
		v.cut = func(from, to int) bool { return from == 2 || to == 2 }
		v.run(6 * time.Second)
		v.sends(2, groupReport(v.station(2), true))
		v.run(2 * time.Second)
		v.cut = nil
		v.run(5 * time.Second)
		if p := v.peer(0, 2); p.state != measure.Up || p.known != v.peer(0, 1).known {
			t.Fatalf("it is %v", p.state)
		}
		v.goes(1, 2)
	})
}

// Where floods go down a tree, multicasts to few agents go to these, and to many down the tree,
// but not to ports where nobody listens.
func TestMulticastByTree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 24, 4, 0)
		v.run(30 * time.Second)
		is := v.homes[0].n.spread.now.Load()
		if is == nil || !is.chosen {
			t.Fatal("floods don't go down a tree")
		}
		v.goes(v.all(0)...)
		few := []int{5, 11, 20}
		v.queried(0, few...)
		before := v.homes[0].n.spread.copies.Load()
		v.goes(few...)
		if got := v.homes[0].n.spread.copies.Load() - before; got != 0 {
			t.Errorf("%d copies went down the tree", got)
		}
		many := v.all(0)[3:]
		v.queried(0, many...)
		before = v.homes[0].n.spread.copies.Load()
		v.goes(many...)
		if got := v.homes[0].n.spread.copies.Load() - before; got == 0 {
			t.Error("nothing went down the tree")
		}
	})
}

// In a divided network listeners of other areas hear what is sent, too.
func TestMulticastAcrossAreas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, 20, few, func(i int) uint32 { return uint32(1 + i/7) })
		w.run(70 * time.Second)
		listeners := []int{2, 9, 19}
		for range 2 {
			w.sends(0, groupQuery(overlay.MAC{2, 9}, [4]byte{}))
			w.run(time.Second)
			for _, i := range listeners {
				w.sends(i, groupReport(w.station(i), true))
			}
			w.run(2 * time.Second)
		}
		before := w.heard()
		w.sends(0, multicast4(w.station(0), testGroup, 17, 9, make([]byte, 1000)))
		w.run(500 * time.Millisecond)
		for i, n := range w.heard() {
			if want := map[bool]int{true: 1}[slices.Contains(listeners, i)]; n-before[i] != want {
				t.Errorf("%d heard it %d times, want %d", i, n-before[i], want)
			}
		}
	})
}

// What is said of groups without end is bounded, and doesn't keep others' data from anybody.
func TestHostileReports(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 3, 3, 0)
		v.run(5 * time.Second)
		v.queried(0, 1)
		n := v.homes[2].n
		for i := range 20000 {
			b := groupReport(overlay.MAC{2, 7, 0, 0, byte(i >> 8), byte(i)}, true)
			v.homes[2].out.carry(n.now(), n.view.Load(), 0, []overlay.Frame{{Head: b}})
			if i%100 == 0 {
				v.run(20 * time.Millisecond)
			}
		}
		v.run(time.Second)
		if len(n.grouping.due) > maxReports {
			t.Errorf("%d reports are to be flooded again", len(n.grouping.due))
		}
		got := v.streams(0)
		if !slices.Contains(got, 1) || !slices.Contains(got, 2) {
			t.Errorf("it comes out at %v", got)
		}
	})
}
