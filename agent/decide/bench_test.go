package decide

import (
	"fmt"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// What an agent spends each time that it decides anew.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{16, 50, 100, 500} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			told, own := ringWorld(n, 32)
			r := NewRoutes(told[0].ID)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r.Update(Input{
					Now: overlay.Instant(i) * overlay.Instant(time.Second), Told: told[1:], Own: own,
					Used: func(id overlay.AgentID) bool { return id[0]%10 == 0 },
				})
			}
		})
	}
}

// What hashing routes takes once in an epoch.
func BenchmarkRoutesHash(b *testing.B) {
	for _, n := range []int{16, 200, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			told, _ := ringWorld(n, 32)
			for b.Loop() {
				RoutesHash(1, told)
			}
		})
	}
}

// ringWorld is n agents, each with links to those that are nearest in a ring, of lengths that
// differ; the first one's are own.
func ringWorld(n, degree int) (told []Told, own []discovery.Link) {
	id := func(i int) overlay.AgentID {
		i = (i + n) % n
		return overlay.AgentID{byte(i >> 8), byte(i), 7, byte(i), byte(i), byte(i), byte(i), byte(i)}
	}
	rtt := func(i, j int) time.Duration {
		i, j = (i+n)%n, (j+n)%n
		d := min((i-j+n)%n, (j-i+n)%n)
		return time.Duration(d)*3*time.Millisecond + time.Duration((i+j)%7)*time.Millisecond + time.Millisecond
	}
	for i := range n {
		t := Told{ID: id(i), At: 1}
		for k := -degree / 2; k <= degree/2; k++ {
			if j := i + k; k != 0 && degree < n || k != 0 && j >= 0 && j < n {
				pair := measure.Pair{RTT: rtt(i, j), RTTSource: measure.Measured, MTU: 1500}
				t.Rows = append(t.Rows, discovery.Row{Peer: discovery.BriefOf(id(j)), Pair: pair})
				if i == 0 {
					own = append(own, discovery.Link{Peer: id(j), Pair: pair})
				}
			}
		}
		told = append(told, t)
	}
	return told, own
}
