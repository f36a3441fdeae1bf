package discovery

import (
	"net/netip"
	"testing"
	"time"

	"farlan/overlay"
)

func findID(n int) overlay.AgentID { return overlay.AgentID{byte(n), byte(n >> 8), byte(n >> 16), 9} }

func hostOf(n int) []netip.AddrPort {
	return []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, byte(n >> 16), byte(n >> 8), byte(n)}), 4747)}
}

// Steps of one who is named, dialled, and named again.
func TestFinds(t *testing.T) {
	f := NewFinds(1)
	next := func(after time.Duration, alone bool, want int) {
		t.Helper()
		id, addrs, ok := f.Next(at(0).Add(after), alone)
		if ok != (want > 0) || ok && (id != findID(want) || len(addrs) == 0) {
			t.Errorf("after %v: %v %v %v, want %d", after, id.Short(), addrs, ok, want)
		}
	}
	next(0, true, 0)
	f.Found(at(0), findID(1), hostOf(1))
	next(0, false, 0) // its record may come
	next(0, true, 1)
	next(findAgain-1, true, 0)
	f.Found(at(0).Add(findAgain-1), findID(1), hostOf(7)) // again, elsewhere: no sooner
	next(findAgain-1, true, 0)
	next(findAgain, false, 1)
	f.Found(at(0).Add(findAgain), findID(2), hostOf(2))
	next(4*findAgain, false, 2) // dialled less often
	next(4*findAgain, false, 1)
	f.Forget(findID(1))
	f.Forget(findID(1))
	next(8*findAgain, false, 2)
	next(time.Hour, false, 2)
	f.Forget(findID(2))
	next(2*time.Hour, true, 0)
	if f.Len() != 0 {
		t.Errorf("%d are left", f.Len())
	}
}

// A host that ten thousand are said to be at is dialled a few times, and everybody else
// all the same.
func TestFindsSpareHosts(t *testing.T) {
	f := NewFinds(1)
	for i := range 10_000 {
		f.Found(at(0), findID(i), hostOf(1))
	}
	f.Found(at(0), findID(20_000), hostOf(2))
	victim, other := 0, 0
	for second := range 60 {
		for range 10 {
			if _, addrs, ok := f.Next(at(second), true); ok && addrs[0] == hostOf(1)[0] {
				victim++
			} else if ok {
				other++
			}
		}
	}
	if most := hostBurst + 60/int(hostEvery.Seconds()); victim == 0 || victim > most || other == 0 {
		t.Errorf("the victim was dialled %d times, at most %d are right; the other one %d times", victim, most, other)
	}
}

// Among ten thousand who don't exist the one who does is dialled at the latest when all
// were; and among more than are remembered nothing grows.
func TestFindsAmongLies(t *testing.T) {
	const lies, perSecond = 10_000, 6
	for seed := range uint64(5) {
		f := NewFinds(seed)
		took := 0
		for second := 0; took == 0; second++ {
			if second%60 == 0 { // a search
				for i := range lies {
					f.Found(at(second), findID(i), hostOf(i))
					if i == lies/2 {
						f.Found(at(second), findID(lies), hostOf(lies))
					}
				}
			}
			for range perSecond {
				if id, _, ok := f.Next(at(second), true); ok && id == findID(lies) {
					took = second + 1
				}
			}
			if len(f.all) > maxFinds || len(f.place) != len(f.all) || len(f.hosts) > maxHosts {
				t.Fatalf("grew: %d agents, %d places, %d hosts", len(f.all), len(f.place), len(f.hosts))
			}
			if second > lies/perSecond+60 {
				t.Fatalf("seed %d: not dialled within %d s", seed, second)
			}
		}
		t.Logf("seed %d: the one who exists was dialled after %d s, at %d dials a second among %d lies", seed, took, perSecond, lies)
	}
	f := NewFinds(1)
	for i := range 3 * maxFinds {
		f.Found(at(0), findID(i), hostOf(i))
		if i%3 == 0 {
			f.Next(at(0), true)
		}
	}
	if f.Len() != maxFinds || len(f.place) != maxFinds || len(f.hosts) > maxHosts {
		t.Errorf("%d agents, %d places, %d hosts", f.Len(), len(f.place), len(f.hosts))
	}
	for id, i := range f.place {
		if f.all[i].id != id || (f.all[i].tries == 0) != (i < f.fresh) {
			t.Fatalf("place %d of %d is another's", i, f.Len())
		}
	}
}
