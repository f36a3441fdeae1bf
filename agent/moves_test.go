package agent

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"farlan/overlay"
)

// announcements are the frames by which a machine with an address says where it is now, and
// one that says nothing of the kind.
func announcements(m overlay.MAC) map[string][]byte {
	broadcast := func(kind uint16, body ...byte) []byte {
		f := slices.Concat(overlay.Broadcast[:], m[:], []byte{byte(kind >> 8), byte(kind)}, body)
		return append(f, make([]byte, 60-len(f))...)
	}
	ip := []byte{192, 168, 77, 9}
	arp := func(op byte, of []byte) []byte {
		return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, op}, m[:], of, m[:], of)
	}
	own := []byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9}
	all := []byte{0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}
	advertisement := slices.Concat( // RFC 4861 § 4.4, with the target's link-layer address
		[]byte{0x33, 0x33, 0, 0, 0, 1}, m[:], []byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255}, own, all,
		[]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, own, []byte{2, 1}, m[:])
	return map[string][]byte{
		"gratuitous ARP":                       broadcast(0x0806, arp(1, ip)...),
		"gratuitous ARP answer":                broadcast(0x0806, arp(2, ip)...),
		"RARP":                                 broadcast(0x8035, arp(3, make([]byte, 4))...), // QEMU's announcement
		"neighbour advertisement, unsolicited": advertisement,
		"a frame to nobody known":              ethernet(overlay.MAC{2, 9}, m, 100),
		"a frame to one":                       ethernet(overlay.MAC{2, 0, 0, 0, 9, 2}, m, 100),
	}
}

// sends has a frame come from the machines at agent i.
func (v *village) sends(i int, frame []byte) {
	h := v.homes[i]
	h.out.carry(h.n.now(), h.n.view.Load(), 0, []overlay.Frame{{Head: frame}})
}

// wrong returns the agents that don't have station m at agent where.
func (v *village) wrong(where int, m overlay.MAC) (all []int) {
	for i := range v.homes {
		if v.at(i, m) != where {
			all = append(all, i)
		}
	}
	return all
}

// Whatever a machine says first where it is now, it is there for all at once.
func TestAnnouncementsMove(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 5, 5, 0)
		v.run(5 * time.Second)
		vm := overlay.MAC{2, 0, 0, 0, 9, 1}
		v.says(0, overlay.MAC{2, 0, 0, 0, 9, 2}, overlay.Broadcast)
		v.says(1, vm, overlay.Broadcast)
		v.run(5 * time.Second)
		at := 1
		for name, frame := range announcements(vm) {
			at = 5 - at
			v.sends(at, frame)
			v.run(v.delay(0, 4) + villageTick)
			if bad := v.wrong(at, vm); len(bad) > 0 {
				t.Errorf("%s: %v don't know that it moved to %d", name, bad, at)
			}
			v.run(time.Minute) // it isn't two machines
		}
	})
}

// A machine that moves, and back at once, as one whose migration fails late or whose switches
// say it twice, is soon in one place for all: where it spoke last, if that was later than the
// claim takes, else there as soon as it speaks once more.
func TestDoubleMove(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 5, 5, 0)
		v.run(5 * time.Second)
		vm := overlay.MAC{2, 0, 0, 0, 9, 1}
		for _, pause := range []time.Duration{0, 2 * time.Millisecond, 15 * time.Millisecond, 300 * time.Millisecond} {
			v.says(1, vm, overlay.Broadcast)
			v.run(time.Minute)
			v.says(4, vm, overlay.Broadcast)
			v.run(pause)
			v.says(1, vm, overlay.Broadcast)
			v.run(time.Second)
			if bad := v.wrong(v.at(0, vm), vm); len(bad) > 0 {
				t.Errorf("there and back within %v: %v have it elsewhere than others", pause, bad)
			}
			if pause < v.delay(1, 4) {
				v.says(1, vm, overlay.Broadcast)
				v.run(v.delay(0, 4) + villageTick)
			}
			if bad := v.wrong(1, vm); len(bad) > 0 {
				t.Errorf("there and back within %v: %v don't know where it is", pause, bad)
			}
			v.run(4 * time.Minute)
		}
	})
}

// Two machines with one address: doctor names it and both agents, here and elsewhere, also
// when nobody follows any more.
func TestDoctorNamesTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 4, 4, 0)
		v.run(5 * time.Second)
		vm := overlay.MAC{2, 0, 0, 0, 9, 1}
		for range 20 {
			v.says(1, vm, overlay.Broadcast)
			v.run(500 * time.Millisecond)
			v.says(3, vm, overlay.Broadcast)
			v.run(500 * time.Millisecond)
		}
		for i, h := range v.homes {
			f := h.n.twiceFinding(h.n.now(), newMoves())
			if f.Level != levelFail || !strings.Contains(f.Detail, vm.String()) || !strings.Contains(f.Detail, "home-1") || !strings.Contains(f.Detail, "home-3") {
				t.Errorf("%d says %+v", i, f)
			}
		}
		v.run(4 * time.Minute)
		for i, h := range v.homes {
			if f := h.n.twiceFinding(h.n.now(), newMoves()); f.Level != levelOK {
				t.Errorf("%d still says %+v", i, f)
			}
		}
	})
}

// Where no datagram passes between areas but among gateways, claims go by these: a station
// that moves from one area to another, or within one, is there for all.
func TestClaimsAcrossAreas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		area := func(i int) uint32 { return uint32(1 + i/7) }
		w := newTown(t, 20, few, area)
		w.cut = func(i, j int) bool {
			return area(i) != area(j) && (w.homes[i].n.area.gate == nil || w.homes[j].n.area.gate == nil)
		}
		w.run(70 * time.Second)
		vm := overlay.MAC{2, 0, 0, 0, 9, 1}
		for _, at := range []int{3, 19, 17, 0} {
			w.says(at, vm, overlay.Broadcast)
			w.run(400 * time.Millisecond)
			var bad []int
			for i, h := range w.homes {
				to, ok := h.n.sw.Stations.Lookup(h.n.now(), vm)
				_, here := to.Port()
				if p := h.n.view.Load().peer(to); !ok || here != (i == at) || !here && (p == nil || p.label != w.homes[at].n.label) {
					bad = append(bad, i)
				}
			}
			if len(bad) > 0 {
				t.Errorf("%v don't know that it is at %d", bad, at)
			}
			w.run(time.Minute)
		}
	})
}
